package main

import (
	"bytes"
	"flag"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"fsban/control"
	"fsban/internal/term"
	"fsban/policy"
	"fsban/replay"
)

var update = flag.Bool("update", false, "write the expected output in testdata again")

// hostile are names that peers give themselves.
var hostile = []string{
	"1001", "\x1b[2J\x1b[Hroot", "张三李四王五赵六", "\u202e1003\u2066", "שלום", "a\u0301\u0301\u0301b", "x\r\n\ty\x00", "\u009b31m\x9b", "👨‍👩‍👧 \ufe0f",
	strings.Repeat("w", 300), `"quoted" \ `,
}

// Names that peers choose are printed by every command that shows attempts.
func TestTextOfPeersReachesATerminalEscapedOnly(t *testing.T) {
	addr, at := netip.MustParseAddr("203.0.113.7"), time.Date(2026, 11, 22, 18, 0, 0, 0, time.UTC)
	prefix := netip.PrefixFrom(addr, 32)
	for _, who := range hostile {
		evidence := []control.Attempt{{Addr: addr, At: at, Kind: "auth_failure", Method: "INVITE", User: who, Number: who, UserAgent: who, Source: "event"}}
		ban := control.Ban{Prefix: prefix, Since: at, Rule: "auth", Attempts: 5, InKernel: true, Evidence: evidence}
		byHand := control.Ban{Prefix: prefix, Since: at, Rule: "operator", By: who, Reason: who}
		next := []control.Next{{Verdict: "counted", Rule: who}, {Verdict: "held", Rule: who, Guard: who}, {Verdict: who}}
		stuck := []control.StuckPhone{{Addr: addr, User: who, Domain: who, UserAgent: who}}
		for _, s := range []*term.Screen{{}, {Width: 80}, {Width: 80, ASCII: true}} {
			for name, print := range map[string]func(){
				"list": func() { printBans(s, []control.Ban{ban, byHand}, 2, true, at) },
				"held": func() { printHeld(s, []control.HeldBan{{Prefix: prefix, Evidence: evidence}}) },
				"status": func() {
					printStatus(s, hostileStatus(who), &control.Top{At: at, NewBans: []control.Ban{ban}}, true, at)
				},
				"why": func() {
					for _, b := range []*control.Ban{&ban, &byHand} {
						s.PrintLines(explain(s, &control.AddressState{Addr: addr, Prefix: prefix, Ban: b, Attempts: evidence, Stuck: stuck, Next: next}, at))
					}
				},
				"replay": func() {
					printReplay(s, &replay.Result{
						NotUnderstood: 1, Examples: []string{who}, Noticed: []string{who},
						Bans: []replay.Ban{{Prefix: prefix, Rule: "auth", Evidence: []policy.Attempt{{User: who}}}},
					})
				},
				"discover": func() {
					(&discovery{Subclasses: []*subclass{{Name: who, Headers: []header{{Name: who, Example: who}}}}}).print(s)
				},
			} {
				var out bytes.Buffer
				s.Out = &out
				print()
				for line := range strings.Lines(out.String()) {
					if line = strings.TrimSuffix(line, "\n"); s.Clean(line) != line {
						t.Errorf("%s of %q: %q", name, who, line)
					}
					if s.Width > 0 && term.Width(line) > s.Width && (name == "list" || name == "held") {
						t.Errorf("%s of %q is wider than the terminal: %q", name, who, line)
					}
				}
			}
		}
	}
}

func hostileStatus(who string) *control.Status {
	return &control.Status{
		Version: who, Problems: []string{who}, Sources: []control.Source{{Name: who, Address: who, Up: true, ActiveFor: []string{who}}}, ActiveSources: []control.ActiveSource{{Kind: who, Why: who}},
		Firewall: control.Firewall{Backend: who}, Policy: control.Policy{Rules: []control.Rule{{Name: who, Kinds: []string{who}}}, NeverBan: []control.NeverBan{{Origin: who}}},
	}
}

func TestEffectOfTheNextFailure(t *testing.T) {
	const day = 24 * time.Hour
	never := &control.NeverBan{Origin: "ignoreip"}
	ban := control.Next{User: "same", Verdict: "ban", Rule: "auth", Count: 5, MaxRetry: 5, BanTime: day, Offence: 1}
	again, forever, held := ban, ban, ban
	again.BanTime, again.Offence = 2*day+73*time.Minute, 2
	forever.BanTime = policy.Forever
	held.Verdict, held.Guard = "held", "ban_rate"
	for _, test := range []struct {
		standing control.AddressState
		want     []string
	}{
		{control.AddressState{Ban: &control.Ban{}}, []string{"does not count: it is banned"}},
		{control.AddressState{Next: []control.Next{ban}}, []string{"bans it by auth for 1d"}},
		{control.AddressState{Next: []control.Next{again}}, []string{"bans it by auth for 2d1h (its ban number 2)"}},
		{control.AddressState{Next: []control.Next{forever}}, []string{"bans it by auth for good"}},
		{control.AddressState{Next: []control.Next{held}}, []string{"would ban it by auth for 1d: the ban_rate guard holds that"}},
		{control.AddressState{Next: []control.Next{{User: "another", Verdict: "counted", Rule: "auth", Count: 1, MaxRetry: 5}}}, []string{"counts as 1 of 5 for auth"}},
		{
			control.AddressState{
				Attempts: make([]control.Attempt, 1),
				Next:     []control.Next{{User: "same", Verdict: "counted", Rule: "auth", Count: 4, MaxRetry: 6}, {User: "another", Verdict: "ban", Rule: "enumeration", BanTime: 3 * day}},
			},
			[]string{"counts as 4 of 6 for auth", "of another user bans it by enumeration for 3d"},
		},
		{
			control.AddressState{
				Attempts: make([]control.Attempt, 1), Never: never,
				Next: []control.Next{{User: "same", Verdict: "spared", Rule: "auth", Count: 4}, {User: "another", Verdict: "spared", Rule: "enumeration", Count: 3}},
			},
			[]string{"is spared: never banned (ignoreip)"},
		},
		{
			control.AddressState{Never: never, Next: []control.Next{{User: "same", Verdict: "spared_ban", Rule: "auth", BanTime: day}}},
			[]string{"would ban it by auth for 1d, and is spared: never banned (ignoreip)"},
		},
		{control.AddressState{Next: []control.Next{{User: "another", Verdict: "excused"}}}, []string{"does not count: unbanned a moment ago"}},
		{control.AddressState{Next: []control.Next{{User: "another", Verdict: "pass"}}}, []string{"does not count: no rule asks for it"}},
	} {
		if got := nextFailure(&term.Screen{}, &test.standing); !slices.Equal(got, test.want) {
			t.Errorf("%+v: %q, want %q", test.standing.Next, got, test.want)
		}
	}
}
