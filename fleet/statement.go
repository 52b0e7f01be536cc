package fleet

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"fsban/policy"
)

// What is what a node says. The set is closed and small: safe as a metric label.
type What uint8

// What can be said.
const (
	Ban      What = iota // Prefix is banned from Since until Until
	Unban                // it is not; Until is how long that has to be remembered
	Allow                // Prefix is never banned
	Disallow             // it may be banned again; Until as with Unban
	Known                // Prefix is known-good: Since, and last logged in from at Last
	Attempt              // an attempt that counts, Times times
	NumWhat
)

var whatNames = [NumWhat]string{"ban", "unban", "allow", "disallow", "known", "attempt"}

func (w What) String() string { return whatNames[w] }

// A Statement is one thing that a node says. Times are by our own clock; on the wire they are by Redis'.
type Statement struct {
	What   What
	Prefix netip.Prefix
	Stamp  int64  // when it was said, in unix microseconds of Redis' clock: of two about one prefix the newer holds
	Node   string // who said it

	Since, Until, Last time.Time // Until is zero for what has no end
	Rule               string
	Source             string
	By, Reason         string
	Count              int // attempts that led to the ban
	Offence            int

	Attempt policy.Attempt
	Times   int
}

// The bounds of what is taken from others.
const (
	maxText  = 200                        // bytes of a text
	maxLine  = 16 << 10                   // bytes of a statement
	maxTimes = 64                         // attempts that one statement stands for
	maxCount = 1_000_000                  // attempts, offences
	maxEnd   = 10 * 366 * 24 * time.Hour  // from now to an end
	maxAhead = 24 * time.Hour             // from Redis' clock, which may have been set back, to a stamp
	oldest   = int64(1_500_000_000) * 1e6 // stamp
)

// The kinds of statements on the wire. Those about bans, allowances and known-good addresses are kept, one for each prefix.
const (
	kindBan     = "b"
	kindAllow   = "a"
	kindKnown   = "g"
	kindAttempt = "f"
)

var kinds = [NumWhat]string{kindBan, kindBan, kindAllow, kindAllow, kindKnown, kindAttempt}

// wireVersion is that of a statement's text. Others are passed over, and counted.
const wireVersion = "1"

// A body is the part of a statement that Redis does not look at. Times are unix milliseconds of Redis' clock.
type body struct {
	Off     bool          `json:"x,omitempty"` // unban, disallow
	Since   int64         `json:"s,omitempty"`
	Until   int64         `json:"u,omitempty"`
	Last    int64         `json:"l,omitempty"`
	Rule    string        `json:"r,omitempty"`
	Source  string        `json:"o,omitempty"`
	By      string        `json:"b,omitempty"`
	Reason  string        `json:"y,omitempty"`
	Count   int           `json:"c,omitempty"`
	Offence int           `json:"f,omitempty"`
	Times   int           `json:"t,omitempty"`
	Kind    *policy.Kind  `json:"k,omitempty"`
	Method  policy.Method `json:"m,omitempty"`
	User    string        `json:"n,omitempty"`
	Domain  string        `json:"d,omitempty"`
	Profile string        `json:"p,omitempty"`
	Agent   string        `json:"a,omitempty"`
}

// encode returns the statement's text: stamp, node, version and body. offset is what Redis' clock is ahead of ours.
func (s *Statement) encode(offset time.Duration) (string, error) {
	ms := func(t time.Time) int64 {
		if t.IsZero() {
			return 0
		}
		return t.Add(offset).UnixMilli()
	}
	b := body{
		Off: s.What == Unban || s.What == Disallow, Since: ms(s.Since), Until: ms(s.Until), Last: ms(s.Last),
		Rule: clean(s.Rule), Source: clean(s.Source), By: clean(s.By), Reason: clean(s.Reason), Count: s.Count, Offence: s.Offence,
	}
	if s.What == Attempt {
		a := &s.Attempt
		b.Since, b.Times, b.Kind, b.Method = ms(a.At), s.Times, &a.Kind, a.Method
		b.User, b.Domain, b.Profile, b.Agent = clean(a.User), clean(a.Domain), clean(a.Profile), clean(a.UserAgent)
	}
	data, err := json.Marshal(&b)
	if err != nil {
		return "", fmt.Errorf("say %v of %v: %w", s.What, s.Prefix, err)
	}
	return fmt.Sprintf("%016x %s %s %s", s.Stamp, s.Node, wireVersion, data), nil
}

// clean returns a text as it is told: valid, of one line and bounded. What peers chose may be anything.
func clean(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
	}
	if utf8.ValidString(s) && !strings.ContainsFunc(s, isControl) {
		return s
	}
	return strings.Map(func(r rune) rune {
		if isControl(r) || r == utf8.RuneError {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

func isControl(r rune) bool {
	return r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == 0x2028 || r == 0x2029
}

var (
	nodeName     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$`)
	errVersion   = errors.New("another version")
	errMalformed = errors.New("malformed")
)

// decode reads what encode has written: kind and field say what it is about. Every byte of it may be hostile.
func decode(kind, field, text string, offset time.Duration, now time.Time) (Statement, error) {
	var s Statement
	if len(text) > maxLine || len(field) > 64 {
		return s, errMalformed
	}
	stamp, rest, _ := strings.Cut(text, " ")
	node, rest, _ := strings.Cut(rest, " ")
	version, data, _ := strings.Cut(rest, " ")
	us, err := strconv.ParseInt(stamp, 16, 64)
	if err != nil || len(stamp) != 16 || !nodeName.MatchString(node) {
		return s, errMalformed
	}
	if version != wireVersion {
		return s, errVersion
	}
	var b body
	if json.Unmarshal([]byte(data), &b) != nil {
		return s, errMalformed
	}
	redisNow := now.Add(offset)
	if us < oldest || us > redisNow.Add(maxAhead).UnixMicro() {
		return s, errMalformed
	}
	s.Prefix, err = netip.ParsePrefix(field)
	if err != nil || s.Prefix != s.Prefix.Masked() || s.Prefix.Bits() == 0 || s.Prefix.Addr().Is4In6() || s.Prefix.String() != field {
		return s, errMalformed
	}
	s.Stamp, s.Node = us, node
	s.Rule, s.Source, s.By, s.Reason = clean(b.Rule), clean(b.Source), clean(b.By), clean(b.Reason)
	s.Count, s.Offence = min(max(b.Count, 0), maxCount), min(max(b.Offence, 0), maxCount)
	ok := true
	at := func(ms int64) time.Time {
		if ms == 0 {
			return time.Time{}
		}
		if ms < oldest/1000 || ms > redisNow.Add(maxEnd).UnixMilli() {
			ok = false
			return time.Time{}
		}
		return time.UnixMilli(ms).Add(-offset)
	}
	s.Since, s.Until, s.Last = at(b.Since), at(b.Until), at(b.Last)
	s.Since, s.Last = notAfter(s.Since, now), notAfter(s.Last, now) // nothing has happened yet that will
	switch kind {
	case kindBan:
		if s.What = Ban; b.Off {
			s.What = Unban
		}
		ok = ok && (b.Off || ruleName.MatchString(s.Rule))
	case kindAllow:
		if s.What = Allow; b.Off {
			s.What = Disallow
		}
	case kindKnown:
		s.What = Known
		ok = ok && !s.Since.IsZero() && !s.Last.IsZero()
	case kindAttempt:
		s.What = Attempt
		if b.Kind == nil || *b.Kind != policy.AuthFailure && *b.Kind != policy.Violation || !s.Prefix.IsSingleIP() || s.Since.IsZero() {
			return s, errMalformed
		}
		s.Times = min(max(b.Times, 1), maxTimes)
		s.Attempt = policy.Attempt{
			Addr: s.Prefix.Addr(), At: s.Since, Kind: *b.Kind, Source: policy.Fleet, Method: b.Method,
			User: clean(b.User), Domain: clean(b.Domain), Profile: clean(b.Profile), UserAgent: clean(b.Agent),
		}
		s.Since = time.Time{}
	default:
		ok = false
	}
	if !ok {
		return s, errMalformed
	}
	return s, nil
}

// ruleName is the form of a rule's name, which config checks, too.
var ruleName = regexp.MustCompile(`^[a-z0-9_]{1,32}$`)

func notAfter(t, now time.Time) time.Time {
	if t.After(now) {
		return now
	}
	return t
}
