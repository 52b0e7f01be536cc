package fakeswitch

import (
	"cmp"
	"embed"
	"fmt"
	"net/netip"
	"path"
	"strconv"
	"strings"
	"time"
)

// A Situation is something that happened at a real FreeSWITCH, with every event that it caused.
type Situation string

// The recorded situations; recorded/README.md says more of each.
const (
	WrongPassword       Situation = "register-wrong-password"     // pre_register, register_attempt, register_failure
	UnknownUser         Situation = "register-unknown-user"       // the same three
	InviteWrongPassword Situation = "invite-wrong-password"       // the same three; register_failure names the dialled number, not the user
	OnePacket           Situation = "register-one-packet"         // register_attempt, register_failure
	Success             Situation = "register-success"            // pre_register, register_attempt, register
	Refresh             Situation = "register-refresh-same-nonce" // register_attempt, register
	NoAuth              Situation = "register-no-auth"            // pre_register
	StaleNonce          Situation = "register-invented-nonce"     // register_attempt (STALE), pre_register
	Heartbeat           Situation = "heartbeat"                   // HEARTBEAT, the same for every Caller
	shutdown            Situation = "shutdown"
)

// A Caller is who was at the other end. Whatever is left zero stays as it was recorded.
type Caller struct {
	Addr      netip.Addr
	Port      uint16
	User      string // for an INVITE the caller's own name: the dialled number stays as recorded
	UserAgent string
	Profile   string
}

// Frames returns the frames of all events of s as FreeSWITCH would send them, had c caused them, all of them at at. The
// zero Time stands for the recorded times. It panics for a situation that was not recorded.
func Frames(s Situation, c Caller, at time.Time) []byte {
	var b []byte
	r := recordingOf(s)
	for _, e := range r.events {
		b = r.appendFrame(b, e, c, at, 0)
	}
	return b
}

// A recording is what FreeSWITCH sent in one situation. Its values are encoded, as sent.
type recording struct {
	events []event
	caller Caller // who it was
}

// An event is one recorded event.
type event struct {
	name    string // what a client subscribes to: the Event-Name, or the subclass of a CUSTOM event
	headers []header
}

type header struct{ name, value string }

//go:embed recorded
var recorded embed.FS

var recordings = mustLoad()

func mustLoad() map[Situation]*recording {
	all := make(map[Situation]*recording)
	files, err := recorded.ReadDir("recorded")
	if err != nil {
		panic(err)
	}
	for _, f := range files {
		if name, ok := strings.CutSuffix(f.Name(), ".plain.esl"); ok {
			all[Situation(name)] = newRecording(string(mustRead(f.Name())))
		}
	}
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
	for _, block := range strings.Split(stream, "\n\n") {
		if !strings.HasPrefix(block, "Event-") {
			continue
		}
		var e event
		for _, line := range strings.Split(block, "\n") {
			name, value, _ := strings.Cut(line, ": ")
			e.headers = append(e.headers, header{name, value})
		}
		e.name = e.get("Event-Name")
		if e.name == "CUSTOM" {
			e.name = strings.ReplaceAll(e.get("Event-Subclass"), "%3A", ":")
		}
		r.events = append(r.events, e)
	}
	// In the first event of each recording, to-user is the one who calls.
	first := r.events[0]
	r.caller = Caller{User: first.get("to-user"), UserAgent: first.get("user-agent"), Profile: first.get("profile-name")}
	r.caller.Addr, _ = netip.ParseAddr(first.get("network-ip"))
	port, _ := strconv.ParseUint(first.get("network-port"), 10, 16)
	r.caller.Port = uint16(port)
	return r
}

func (e *event) get(name string) string {
	for _, h := range e.headers {
		if h.name == name {
			return h.value
		}
	}
	return ""
}

// appendFrame appends e as a frame. A sequence of 0 and the zero Time leave what was recorded.
func (r *recording) appendFrame(b []byte, e event, c Caller, at time.Time, sequence uint64) []byte {
	c = r.complete(c)
	var body []byte
	for _, h := range e.headers {
		body = append(body, h.name...)
		body = append(body, ": "...)
		body = append(body, r.value(h, c, at, sequence)...)
		body = append(body, '\n')
	}
	b = fmt.Appendf(b, "Content-Length: %d\nContent-Type: text/event-plain\n\n", len(body)+1)
	b = append(b, body...)
	return append(b, '\n')
}

// complete fills what c leaves zero with what was recorded.
func (r *recording) complete(c Caller) Caller {
	return Caller{
		Addr:      cmp.Or(c.Addr, r.caller.Addr),
		Port:      cmp.Or(c.Port, r.caller.Port),
		User:      cmp.Or(c.User, r.caller.User),
		UserAgent: cmp.Or(c.UserAgent, r.caller.UserAgent),
		Profile:   cmp.Or(c.Profile, r.caller.Profile),
	}
}

// value returns what h says when it was c at at.
func (r *recording) value(h header, c Caller, at time.Time, sequence uint64) string {
	switch h.name {
	case "Event-Sequence":
		if sequence > 0 {
			return strconv.FormatUint(sequence, 10)
		}
	case "Event-Date-Local":
		return timeValue(h, at, "2006-01-02 15:04:05")
	case "Event-Date-GMT":
		return timeValue(h, at.UTC(), "Mon, 02 Jan 2006 15:04:05 GMT")
	case "Event-Date-Timestamp":
		if !at.IsZero() {
			return strconv.FormatInt(at.UnixMicro(), 10)
		}
	case "network-ip":
		return encode(c.Addr.String())
	case "network-port":
		return strconv.Itoa(int(c.Port))
	case "user-agent":
		return encode(c.UserAgent)
	case "profile-name":
		return encode(c.Profile)
	case "contact":
		host := netip.AddrPortFrom(c.Addr, c.Port).String()
		return encode(fmt.Sprintf(`"" <sip:%s@%s>`, c.User, strings.TrimSuffix(host, ":5060"))) // which is the default port
	default:
		// The user stands in many headers: from-user, to-user, username, sip_auth_username, accountcode and more.
		if h.value == r.caller.User && r.caller.User != "" && !strings.HasPrefix(h.name, "Event-") {
			return encode(c.User)
		}
	}
	return h.value
}

func timeValue(h header, at time.Time, layout string) string {
	if at.IsZero() {
		return h.value
	}
	return encode(at.Format(layout))
}

// encode writes a value as switch_url_encode does. An escape with upper-case digits that a peer sent passes as it is.
func encode(s string) string {
	const unsafe = "\r\n #%&+:;<=>?@[\\]^`{|}\""
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		escape := c == '%' && i+2 < len(s) && strings.IndexByte(hex, s[i+1]) >= 0 && strings.IndexByte(hex, s[i+2]) >= 0
		if !escape && (c < ' ' || c > '~' || strings.IndexByte(unsafe, c) >= 0) {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}
