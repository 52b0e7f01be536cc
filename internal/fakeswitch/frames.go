package fakeswitch

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// A Caller is the remote side of a situation. Zero fields keep the recorded values.
type Caller struct {
	Addr      netip.Addr
	Port      uint16
	User      string // the caller's own name
	Number    string // the dialled number, in calls; kept as recorded for a challenged INVITE
	UserAgent string
	Profile   string
}

// Frames returns the frames of all events and log lines of s as FreeSWITCH would send them for caller c at time at. The zero
// Time keeps the recorded times. Frames panics for a situation without a recording.
func Frames(s Situation, c Caller, at time.Time) []byte {
	var b []byte
	t := recordingOf(s).told(c, at)
	for _, e := range t.recording.events {
		b = t.appendEvent(b, e)
	}
	for _, l := range t.recording.logs {
		b = t.appendLog(b, l)
	}
	return b
}

// A telling is a recording rendered for another caller and time.
type telling struct {
	recording *recording
	who       Caller
	at        time.Time // zero: the recorded time
	sequence  uint64    // 0: as recorded
	change    *strings.Replacer
}

func (r *recording) told(c Caller, at time.Time) telling {
	c = r.complete(c)
	t := telling{recording: r, who: c, at: at}
	if r.changes != nil {
		t.change = strings.NewReplacer(r.changes(r.caller, c, at)...)
	}
	return t
}

// appendEvent appends e as a frame.
func (t *telling) appendEvent(b []byte, e event) []byte {
	var body []byte
	for _, h := range e.headers {
		body = append(body, h.name...)
		body = append(body, ": "...)
		body = append(body, t.value(h)...)
		body = append(body, '\n')
	}
	b = fmt.Appendf(b, "Content-Length: %d\nContent-Type: text/event-plain\n\n", len(body)+1)
	b = append(b, body...)
	return append(b, '\n')
}

// header returns the decoded value of e's first header with that name, in any case.
func (t *telling) header(e event, name string) (value string, ok bool) {
	for _, h := range e.headers {
		if equalFold(h.name, name) {
			return decode(t.value(h)), true
		}
	}
	return "", false
}

// value returns the encoded value of h.
func (t *telling) value(h header) string {
	switch h.name {
	case "Event-Sequence":
		if t.sequence > 0 {
			return strconv.FormatUint(t.sequence, 10)
		}
	case "Event-Date-Local":
		return t.timeValue(h, t.at, "2006-01-02 15:04:05")
	case "Event-Date-GMT":
		return t.timeValue(h, t.at.UTC(), "Mon, 02 Jan 2006 15:04:05 GMT")
	case "Event-Date-Timestamp":
		if !t.at.IsZero() {
			return strconv.FormatInt(t.at.UnixMicro(), 10)
		}
	}
	if t.recording.caller == (Caller{}) {
		return h.value // independent of the caller, or computed by FreeSWITCH
	}
	return t.personal(h)
}

// personal returns the encoded value of h for the caller, if h depends on the caller.
func (t *telling) personal(h header) string {
	switch h.name {
	case "network-ip":
		return encode(t.who.Addr.String())
	case "network-port":
		return strconv.Itoa(int(t.who.Port))
	case "user-agent", "variable_sip_user_agent":
		return encode(t.who.UserAgent)
	case "profile-name", "variable_sofia_profile_name", "variable_recovery_profile_name":
		return encode(t.who.Profile)
	case "contact":
		host := netip.AddrPortFrom(t.who.Addr, t.who.Port).String()
		return encode(fmt.Sprintf(`"" <sip:%s@%s>`, t.who.User, strings.TrimSuffix(host, ":5060"))) // 5060 is the default port
	}
	// Many headers contain the user: from-user, to-user, username, sip_auth_username, accountcode and more.
	if h.value == t.recording.caller.User && !strings.HasPrefix(h.name, "Event-") {
		return encode(t.who.User)
	}
	if t.change != nil {
		return t.change.Replace(h.value)
	}
	return h.value
}

func (t *telling) timeValue(h header, at time.Time, layout string) string {
	if t.at.IsZero() {
		return h.value
	}
	return encode(at.Format(layout))
}

// encode encodes a value as switch_url_encode does. Escapes with upper-case digits sent by a peer pass unchanged.
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

// decode reverses encode.
func decode(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				b.WriteByte(byte(n))
				i += 2
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
