package fleet

import (
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"fsban/fleet/merge"
	"fsban/policy"
)

var (
	noon   = time.Date(2026, 11, 22, 12, 0, 0, 0, time.Local)
	prefix = netip.MustParsePrefix
)

func said(w merge.Kind, p string) merge.Statement {
	return merge.Statement{Kind: w, Prefix: prefix(p), Stamp: noon.UnixMicro(), Node: "a-1", Since: noon.Add(-time.Second), Until: noon.Add(time.Hour)}
}

func TestStatementsAreReadAsTheyWereWritten(t *testing.T) {
	ban := said(merge.Ban, "203.0.113.66/32")
	ban.Rule, ban.Source, ban.By, ban.Reason, ban.Count, ban.Offence = "auth", "event", "uid 0, pid 1", `a "reason"`, 5, 2
	forever := said(merge.Ban, "2001:db8::/64")
	forever.Rule, forever.Until = "operator", time.Time{}
	known := said(merge.Known, "203.0.113.50/32")
	known.Last, known.Until = noon.Add(-time.Second), time.Time{}
	attempt := merge.Statement{Kind: merge.Attempt, Prefix: prefix("203.0.113.7/32"), Stamp: noon.UnixMicro(), Node: "a-1", Earlier: []time.Time{noon.Add(-time.Hour), noon.Add(-time.Minute)}, Attempt: policy.Attempt{
		Addr: netip.MustParseAddr("203.0.113.7"), At: noon.Add(-time.Second), Kind: policy.Violation, Source: policy.Fleet, Method: policy.Invite,
		User: "1000", Domain: "example.org", Profile: "internal", UserAgent: "friendly-scanner",
	}}
	for name, s := range map[string]merge.Statement{
		"ban": ban, "ban without end": forever, "unban": said(merge.Unban, "203.0.113.66/32"), "allow": said(merge.Allow, "198.51.100.0/24"),
		"disallow": said(merge.Disallow, "198.51.100.0/24"), "known": known, "attempt": attempt,
	} {
		t.Run(name, func(t *testing.T) {
			// Redis' clock is five minutes ahead of the writer's, and two of the reader's.
			text, err := encode(&s, 5*time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			got, err := decode(kinds[s.Kind], s.Prefix.String(), text, 2*time.Minute, noon.Add(3*time.Minute))
			if err != nil {
				t.Fatal(err)
			}
			want := s
			times := []*time.Time{&want.Since, &want.Until, &want.Last, &want.Attempt.At}
			want.Earlier = slices.Clone(want.Earlier)
			for i := range want.Earlier {
				times = append(times, &want.Earlier[i])
			}
			for _, at := range times {
				if !at.IsZero() {
					*at = at.Add(3 * time.Minute)
				}
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("read\n%+v, want\n%+v", got, want)
			}
		})
	}
}

func TestImpossibleStatementsAreRefused(t *testing.T) {
	const head = "000643c1a2b3c4d5 a-1 1 "
	now := time.UnixMicro(0x000643c1a2b3c4d5)
	for name, tc := range map[string]struct {
		kind, field, text string
		err               error
	}{
		"fine":                    {"b", "203.0.113.1/32", head + `{"r":"auth"}`, nil},
		"another version":         {"b", "203.0.113.1/32", "000643c1a2b3c4d5 a-1 2 {}", errVersion},
		"everybody":               {"b", "0.0.0.0/0", head + `{"r":"operator"}`, errMalformed},
		"every IPv6 address":      {"b", "::/0", head + `{"r":"operator"}`, errMalformed},
		"allow everybody":         {"a", "0.0.0.0/0", head + `{}`, errMalformed},
		"an address":              {"b", "203.0.113.1", head + `{"r":"auth"}`, errMalformed},
		"bits below the prefix":   {"b", "203.0.113.1/24", head + `{"r":"auth"}`, errMalformed},
		"mapped":                  {"b", "::ffff:203.0.113.1/128", head + `{"r":"auth"}`, errMalformed},
		"another spelling":        {"b", "2001:DB8::/64", head + `{"r":"auth"}`, errMalformed},
		"a zone":                  {"b", "fe80::1%eth0/128", head + `{"r":"auth"}`, errMalformed},
		"no rule":                 {"b", "203.0.113.1/32", head + `{}`, errMalformed},
		"a rule that is none":     {"b", "203.0.113.1/32", head + `{"r":"a b"}`, errMalformed},
		"no node":                 {"b", "203.0.113.1/32", "000643c1a2b3c4d5  1 {\"r\":\"auth\"}", errMalformed},
		"a node that is none":     {"b", "203.0.113.1/32", "000643c1a2b3c4d5 \x1b[2J 1 {\"r\":\"auth\"}", errMalformed},
		"no stamp":                {"b", "203.0.113.1/32", "0000000000000000 a-1 1 {\"r\":\"auth\"}", errMalformed},
		"a stamp of next week":    {"b", "203.0.113.1/32", "000644c1a2b3c4d5 a-1 1 {\"r\":\"auth\"}", errMalformed},
		"a negative stamp":        {"b", "203.0.113.1/32", "-00643c1a2b3c4d5 a-1 1 {\"r\":\"auth\"}", errMalformed},
		"an end in 3000":          {"b", "203.0.113.1/32", head + `{"r":"auth","u":32503680000000}`, errMalformed},
		"an end before the epoch": {"b", "203.0.113.1/32", head + `{"r":"auth","u":-1}`, errMalformed},
		"no JSON":                 {"b", "203.0.113.1/32", head, errMalformed},
		"two of them":             {"b", "203.0.113.1/32", head + `{"r":"auth"}{"r":"auth"}`, errMalformed},
		"too long":                {"b", "203.0.113.1/32", head + `{"r":"auth","y":"` + strings.Repeat("x", maxLine) + `"}`, errMalformed},
		"another kind":            {"x", "203.0.113.1/32", head + `{}`, errMalformed},
		"attempts of a network":   {"f", "203.0.113.0/24", head + `{"k":"auth_failure","s":1760000000000}`, errMalformed},
		"a success as an attempt": {"f", "203.0.113.1/32", head + `{"k":"auth_success","s":1760000000000}`, errMalformed},
		"an attempt of no time":   {"f", "203.0.113.1/32", head + `{"k":"auth_failure"}`, errMalformed},
		"attempts of 65 times":    {"f", "203.0.113.1/32", head + `{"k":"auth_failure","s":1760000000000,"e":[` + strings.Repeat("0,", maxTimes-1) + `0]}`, errMalformed},
		"earlier, and is later":   {"f", "203.0.113.1/32", head + `{"k":"auth_failure","s":1760000000000,"e":[-1]}`, errMalformed},
		"earlier out of order":    {"f", "203.0.113.1/32", head + `{"k":"auth_failure","s":1760000000000,"e":[1,2]}`, errMalformed},
		"earlier than all times":  {"f", "203.0.113.1/32", head + `{"k":"auth_failure","s":1760000000000,"e":[1760000000000]}`, errMalformed},
		"known-good since never":  {"g", "203.0.113.1/32", head + `{}`, errMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			if s, err := decode(tc.kind, tc.field, tc.text, 0, now); err != tc.err { //nolint:errorlint // these two are returned as they are
				t.Errorf("%v, want %v: %+v", err, tc.err, s)
			}
		})
	}
}

// FuzzDecode checks that accepted statements are within their bounds, and decode to the same after encoding.
func FuzzDecode(f *testing.F) {
	for _, s := range []merge.Statement{said(merge.Ban, "203.0.113.66/32"), said(merge.Unban, "2001:db8::/64"), said(merge.Allow, "10.0.0.0/8"), said(merge.Known, "203.0.113.50/32")} {
		s.Rule, s.Last = "auth", s.Since
		text, err := encode(&s, 0)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(kinds[s.Kind], s.Prefix.String(), text)
	}
	f.Add("f", "203.0.113.1/32", `000643c1a2b3c4d5 a-1 1 {"k":"auth_failure","s":1760000000000,"e":[3600000,60000,0],"n":"\u0000\u2028\ud800"}`)
	f.Fuzz(func(t *testing.T, kind, field, text string) {
		s, err := decode(kind, field, text, 0, noon)
		if err != nil {
			return
		}
		if s.Prefix.Bits() == 0 || s.Prefix != s.Prefix.Masked() || s.Prefix.Addr().Is4In6() || s.Kind >= merge.NumKinds || len(s.Earlier) >= maxTimes {
			t.Errorf("%+v", s)
		}
		if s.Since.After(noon) || s.Last.After(noon) || s.Attempt.At.After(noon) || s.Until.After(noon.Add(maxEnd)) {
			t.Errorf("%+v is in the future", s)
		}
		for _, text := range []string{s.Rule, s.Source, s.By, s.Reason, s.Node, s.Attempt.User, s.Attempt.Domain, s.Attempt.Profile, s.Attempt.UserAgent} {
			if len(text) > maxText || !utf8.ValidString(text) || strings.ContainsFunc(text, isControl) {
				t.Errorf("%+v: %q", s, text)
			}
		}
		again, err := encode(&s, 0)
		if err != nil || len(again) > maxLine || strings.Contains(again, "\n") {
			t.Fatalf("%q: %v", again, err)
		}
		if same, err := decode(kind, field, again, 0, noon); err != nil || !reflect.DeepEqual(same, s) {
			t.Errorf("said again it is\n%+v, %v, it was\n%+v", same, err, s)
		}
	})
}
