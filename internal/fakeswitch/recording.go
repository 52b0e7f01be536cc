package fakeswitch

import (
	"cmp"
	"embed"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Situation is an incident at a real FreeSWITCH, recorded as all events or all log lines that it caused.
type Situation string

// The recorded situations; recorded/README.md describes each.
const (
	WrongPassword       Situation = "register-wrong-password"     // pre_register, register_attempt, register_failure
	UnknownUser         Situation = "register-unknown-user"       // the same three
	InviteWrongPassword Situation = "invite-wrong-password"       // the same three; register_failure names the dialled number, not the user
	OnePacket           Situation = "register-one-packet"         // register_attempt, register_failure
	Success             Situation = "register-success"            // pre_register, register_attempt, register
	Refresh             Situation = "register-refresh-same-nonce" // register_attempt, register
	NoAuth              Situation = "register-no-auth"            // pre_register
	StaleNonce          Situation = "register-invented-nonce"     // register_attempt (STALE), pre_register
	RefusedCall         Situation = "external-invite-no-match"    // CHANNEL_CREATE to CHANNEL_HANGUP_COMPLETE and CHANNEL_DESTROY
	RejectedRegister    Situation = "acl-register-rejected"       // a log line: the register ACL
	RejectedInvite      Situation = "acl-invite-rejected"         // log lines of all levels, one of them a warning: the inbound ACL
	Heartbeat           Situation = "heartbeat"                   // HEARTBEAT, the same for every Caller
	shutdown            Situation = "shutdown"
)

// The situations that were not recorded.
const (
	// AnsweredCall is the CHANNEL_HANGUP_COMPLETE of an answered call: that of RefusedCall with the headers in which
	// FreeSWITCH's events of an answered call differ.
	AnsweredCall Situation = "external-invite-answered"

	// CTILine is mod_cti's log line of a failed login, in the form that its users document. It is composed, not recorded,
	// because the module is not available. Log-Func is undocumented and empty.
	CTILine Situation = "cti-fail2ban"
)

// A recording is the stream that FreeSWITCH sent in one situation.
type recording struct {
	events []event
	logs   []logLine
	caller Caller // the recorded caller

	// changes returns pairs of old and new text to substitute in the values of events (encoded) or in the texts of log lines.
	// It may be nil.
	changes func(was, is Caller, at time.Time) []string
}

// An event is one recorded event. Its values are encoded, as sent.
type event struct {
	name     string // Event-Name
	subclass string // of a CUSTOM event
	headers  []header
}

type header struct{ name, value string }

//go:embed recorded
var recorded embed.FS

var recordings = mustLoad()

func mustLoad() map[Situation]*recording {
	all := map[Situation]*recording{CTILine: ctiLine()}
	files, err := recorded.ReadDir("recorded")
	if err != nil {
		panic(err)
	}
	for _, f := range files {
		if name, ok := strings.CutSuffix(f.Name(), ".plain.esl"); ok {
			all[Situation(name)] = newRecording(string(mustRead(f.Name())))
		}
		if name, ok := strings.CutSuffix(f.Name(), ".log.esl"); ok {
			all[Situation(name)] = newLogRecording(string(mustRead(f.Name())))
		}
	}
	all[AnsweredCall] = answered(all[RefusedCall])
	return all
}

func recordingOf(s Situation) *recording {
	r := recordings[s]
	if r == nil {
		panic(fmt.Sprintf("fakeswitch: no recording of %q", s))
	}
	return r
}

func mustRead(name string) []byte {
	data, err := recorded.ReadFile(path.Join("recorded", name))
	if err != nil {
		panic(err)
	}
	return data
}

// newRecording reads the events of stream. None of them has a body, so that a blank line ends each.
func newRecording(stream string) *recording {
	r := new(recording)
	for block := range strings.SplitSeq(stream, "\n\n") {
		if !strings.HasPrefix(block, "Event-") {
			continue
		}
		var e event
		for line := range strings.SplitSeq(block, "\n") {
			name, value, _ := strings.Cut(line, ": ")
			e.headers = append(e.headers, header{name, value})
		}
		e.name, e.subclass = e.get("Event-Name"), decode(e.get("Event-Subclass"))
		r.events = append(r.events, e)
	}
	if i := slices.IndexFunc(r.events, func(e event) bool { return e.get("variable_sip_network_ip") != "" }); i >= 0 {
		r.caller, r.changes = callerOf(r.events[i]), callChanges
		return r
	}
	// In the first event of each recording, to-user is the caller.
	first := r.events[0]
	r.caller = Caller{User: first.get("to-user"), UserAgent: first.get("user-agent"), Profile: first.get("profile-name")}
	r.caller.Addr, _ = netip.ParseAddr(first.get("network-ip"))
	r.caller.Port = port(first.get("network-port"))
	return r
}

func port(s string) uint16 {
	n, _ := strconv.ParseUint(s, 10, 16)
	return uint16(n)
}

func (e *event) get(name string) string {
	for _, h := range e.headers {
		if h.name == name {
			return h.value
		}
	}
	return ""
}

// complete fills zero fields of c with the recorded values.
func (r *recording) complete(c Caller) Caller {
	return Caller{
		Addr:      cmp.Or(c.Addr, r.caller.Addr),
		Port:      cmp.Or(c.Port, r.caller.Port),
		User:      cmp.Or(c.User, r.caller.User),
		Number:    cmp.Or(c.Number, r.caller.Number),
		UserAgent: cmp.Or(c.UserAgent, r.caller.UserAgent),
		Profile:   cmp.Or(c.Profile, r.caller.Profile),
	}
}

// customEvent returns a CUSTOM event with the headers common to all events, except those of the source line that sent it.
func customEvent(subclass string, headers [][2]string) *recording {
	e := event{name: "CUSTOM", subclass: subclass}
	for _, h := range recordingOf(NoAuth).events[0].headers {
		switch {
		case h.name == "Event-Subclass":
			h.value = encode(subclass)
		case strings.HasPrefix(h.name, "Event-Calling-"):
			continue
		}
		e.headers = append(e.headers, h)
		if h.name == "Event-Sequence" {
			break
		}
	}
	for _, h := range headers {
		e.headers = append(e.headers, header{h[0], cmp.Or(encode(h[1]), "_undef_")})
	}
	return &recording{events: []event{e}}
}
