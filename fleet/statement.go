package fleet

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"fsban/fleet/merge"
	"fsban/policy"
)

// Bounds of received statements.
const (
	maxText  = 200                        // bytes of a text
	maxLine  = 16 << 10                   // bytes of a statement
	maxTimes = 64                         // attempts that one statement stands for
	maxCount = 1_000_000                  // attempts, offences
	maxEnd   = 10 * 366 * 24 * time.Hour  // from now to an end
	maxAhead = 24 * time.Hour             // of a stamp; Redis' clock may have been set back
	oldest   = int64(1_500_000_000) * 1e6 // stamp
)

// Kinds on the wire. Redis keeps one statement for each prefix of each kind but attempts.
const (
	kindBan     = "b"
	kindAllow   = "a"
	kindKnown   = "g"
	kindAttempt = "f"
)

var kinds = [merge.NumKinds]string{kindBan, kindBan, kindAllow, kindAllow, kindKnown, kindAttempt}

// wireVersion is the version of a statement's text. Statements of other versions are skipped and counted.
const wireVersion = "1"

// A body is the part of a statement that the scripts do not read. Times are unix milliseconds of Redis' clock.
type body struct {
	Off      bool          `json:"x,omitempty"` // unban, disallow
	Proposed string        `json:"z,omitempty"` // the node's stamp, added by the script when it chooses an earlier one
	Since    int64         `json:"s,omitempty"`
	Until    int64         `json:"u,omitempty"`
	Last     int64         `json:"l,omitempty"`
	Rule     string        `json:"r,omitempty"`
	Source   string        `json:"o,omitempty"`
	By       string        `json:"b,omitempty"`
	Reason   string        `json:"y,omitempty"`
	Count    int           `json:"c,omitempty"`
	Offence  int           `json:"f,omitempty"`
	Earlier  []int64       `json:"e,omitempty"` // further equal attempts: milliseconds before Since, descending
	Kind     *policy.Kind  `json:"k,omitempty"`
	Method   policy.Method `json:"m,omitempty"`
	User     string        `json:"n,omitempty"`
	Domain   string        `json:"d,omitempty"`
	Profile  string        `json:"p,omitempty"`
	Agent    string        `json:"a,omitempty"`
}

// ordered reports whether the times of earlier attempts are some, bounded and in order.
func (b *body) ordered() bool {
	if n := len(b.Earlier); n > 0 && (n >= maxTimes || b.Earlier[0] >= b.Since || b.Earlier[n-1] < 0) {
		return false
	}
	return slices.IsSortedFunc(b.Earlier, func(x, y int64) int { return cmp.Compare(y, x) })
}

// encode returns the statement's text: stamp, node, version and body. offset is Redis' clock minus ours.
func encode(s *merge.Statement, offset time.Duration) (string, error) {
	ms := func(t time.Time) int64 {
		if t.IsZero() {
			return 0
		}
		return t.Add(offset).UnixMilli()
	}
	b := body{
		Off: s.Kind == merge.Unban || s.Kind == merge.Disallow, Since: ms(s.Since), Until: ms(s.Until), Last: ms(s.Last),
		Rule: clean(s.Rule), Source: clean(s.Source), By: clean(s.By), Reason: clean(s.Reason), Count: s.Count, Offence: s.Offence,
	}
	if s.Kind == merge.Attempt {
		a := &s.Attempt
		b.Since, b.Kind, b.Method = ms(a.At), &a.Kind, a.Method
		for _, at := range s.Earlier {
			b.Earlier = append(b.Earlier, a.At.Sub(at).Milliseconds())
		}
		b.User, b.Domain, b.Profile, b.Agent = clean(a.User), clean(a.Domain), clean(a.Profile), clean(a.UserAgent)
	}
	data, err := json.Marshal(&b)
	if err != nil {
		return "", fmt.Errorf("say %v of %v: %w", s.Kind, s.Prefix, err)
	}
	return fmt.Sprintf("%016x %s %s %s", s.Stamp, s.Node, wireVersion, data), nil
}

// clean returns valid, bounded text of one line. Peers may choose any bytes.
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

// decode reads a text of encode; kind and field name its subject. Every byte may be hostile.
func decode(kind, field, text string, offset time.Duration, now time.Time) (merge.Statement, error) {
	var s merge.Statement
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
	s.Proposed, _ = strconv.ParseInt(b.Proposed, 16, 64)
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
	s.Since, s.Last = notAfter(s.Since, now), notAfter(s.Last, now) // no event is in the future
	switch kind {
	case kindBan:
		if s.Kind = merge.Ban; b.Off {
			s.Kind = merge.Unban
		}
		ok = ok && (b.Off || ruleName.MatchString(s.Rule))
	case kindAllow:
		if s.Kind = merge.Allow; b.Off {
			s.Kind = merge.Disallow
		}
	case kindKnown:
		s.Kind = merge.Known
		ok = ok && !s.Since.IsZero() && !s.Last.IsZero()
	case kindAttempt:
		s.Kind = merge.Attempt
		if b.Kind == nil || *b.Kind != policy.AuthFailure && *b.Kind != policy.Violation || !s.Prefix.IsSingleIP() || s.Since.IsZero() {
			return s, errMalformed
		}
		s.Attempt = policy.Attempt{
			Addr: s.Prefix.Addr(), At: s.Since, Kind: *b.Kind, Source: policy.Fleet, Method: b.Method,
			User: clean(b.User), Domain: clean(b.Domain), Profile: clean(b.Profile), UserAgent: clean(b.Agent),
		}
		s.Since = time.Time{}
		ok = ok && b.ordered()
		for _, before := range b.Earlier {
			s.Earlier = append(s.Earlier, notAfter(at(b.Since-before), s.Attempt.At))
		}
	default:
		ok = false
	}
	if !ok {
		return s, errMalformed
	}
	return s, nil
}

// ruleName is the form of a rule's name, as in package config.
var ruleName = regexp.MustCompile(`^[a-z0-9_]{1,32}$`)

func notAfter(t, now time.Time) time.Time {
	if t.After(now) {
		return now
	}
	return t
}
