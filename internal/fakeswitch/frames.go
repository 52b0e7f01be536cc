package fakeswitch

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// A Caller is who was at the other end. Whatever is left zero stays as it was recorded.
type Caller struct {
	Addr      netip.Addr
	Port      uint16
	User      string // the caller's own name
	Number    string // the number that was dialled, in calls; it stays as recorded where an INVITE is challenged
	UserAgent string
	Profile   string
}

// Frames returns the frames of all events and log lines of s as FreeSWITCH would send them, had c caused them, all of them
// at at. The zero Time stands for the recorded times. It panics for a situation that was not recorded.
func Frames(s Situation, c Caller, at time.Time) []byte {
	var b []byte
	t := recordingOf(s).told(c, at)
	for _, e := range t.events {
		b = t.appendEvent(b, e)
	}
	for _, l := range t.logs {
		b = t.appendLog(b, l)
	}
	return b
}

// A telling is a recording told of another caller, at another time.
type telling struct {
	*recording
	who      Caller
	at       time.Time // zero: when it was recorded
	sequence uint64    // 0: as recorded
	change   *strings.Replacer
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

// header returns the decoded value of e's first header of that name, in any case.
func (t *telling) header(e event, name string) (value string, ok bool) {
	for _, h := range e.headers {
		if equalFold(h.name, name) {
			return decode(t.value(h)), true
		}
	}
	return "", false
}

// value returns what h says, encoded.
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
	if t.caller == (Caller{}) {
		return h.value // nobody's doing, or made up
	}
	return t.personal(h)
}

// personal returns what h says of the caller, encoded.
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
		return encode(fmt.Sprintf(`"" <sip:%s@%s>`, t.who.User, strings.TrimSuffix(host, ":5060"))) // which is the default port
	}
	// The user stands in many headers: from-user, to-user, username, sip_auth_username, accountcode and more.
	if h.value == t.caller.User && !strings.HasPrefix(h.name, "Event-") {
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

// decode undoes encode.
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
