package policy

import (
	"encoding"
	"net/netip"
	"testing"
	"time"
)

func TestWhyTellsEverythingAboutAnAddress(t *testing.T) {
	w := newWorld(t, never("ignoreip", "127.0.0.0/8"), Options{})
	w.attempt(AuthSuccess, office, "1000")
	for range 6 {
		w.attempt(AuthFailure, office, "1000")
		w.pass(time.Second)
	}
	w.attempt(ACLReject, office, "")
	s := w.e.Why(office)
	counts := make(map[string]int)
	for _, r := range s.Rules {
		counts[r.Rule.Name] = r.Count
	}
	for name, want := range map[string]int{"auth": 1, "enumeration": 1, "slow": 1, "office": 6, "acl": 1, "toll": 0, "scanner": 0} {
		if counts[name] != want {
			t.Errorf("%s: %d, want %d", name, counts[name], want)
		}
	}
	if s.Prefix != netip.PrefixFrom(office, 32) || s.KnownGood == nil || !s.KnownGood.Since.Equal(start) || len(s.Stuck) != 1 || len(s.Evidence) != 7 || s.Offence != nil || s.Never != nil {
		t.Errorf("%+v", s)
	}
	w.pass(10 * time.Minute)
	if s := w.e.Why(office); len(s.Rules) != 1 || s.Rules[0].Rule.Name != "slow" {
		t.Errorf("ten minutes later %+v", s.Rules)
	}
	if s := w.e.Why(netip.MustParseAddr("127.0.0.1")); s.Never == nil || s.Never.Origin != "ignoreip" {
		t.Errorf("%+v", s)
	}
	if s := w.e.Why(netip.Addr{}); s.Prefix.IsValid() {
		t.Errorf("%+v", s)
	}
	offend(w, stranger)
	w.now = w.now.Add(-time.Hour)
	if s := w.e.Why(stranger); s.Offence == nil || s.Offence.Count != 1 || len(s.Rules) != 0 || len(s.Evidence) != 0 {
		t.Errorf("%+v", s)
	}
}

func TestSparedCountsOutliveANewList(t *testing.T) {
	w := newWorld(t, never("ignoreip", "127.0.0.0/8", "192.0.2.7/32"), Options{})
	w.attempt(AuthFailure, guesser, "1000")
	w.e.SetNeverBan(never("own address", "192.0.2.7/32", "10.0.0.0/8"))
	w.attempt(AuthFailure, guesser, "1000")
	if got := w.e.SparedCounts(); len(got) != 1 || got[0].Attempts != 2 || got[0].Origin != "own address" {
		t.Errorf("%+v", got)
	}
	if got := w.e.NeverBan().Entries(); len(got) != 2 {
		t.Errorf("%v", got)
	}
}

func TestNamesAreWrittenAndRead(t *testing.T) {
	check := func(v encoding.TextMarshaler, into encoding.TextUnmarshaler, same func() bool) {
		t.Helper()
		text, err := v.MarshalText()
		if err != nil || into.UnmarshalText(text) != nil || !same() {
			t.Errorf("%v was read as %v", v, into)
		}
		if into.UnmarshalText([]byte("nonsense")) == nil {
			t.Error("nonsense was read")
		}
	}
	for v := range NumVerdicts {
		var got Verdict
		check(v, &got, func() bool { return got == v })
	}
	for g := range NumGuards {
		var got Guard
		check(g, &got, func() bool { return got == g })
	}
	for _, k := range Kinds() {
		var got Kind
		check(k, &got, func() bool { return got == k })
	}
	for s := range NumSources {
		var got Source
		check(s, &got, func() bool { return got == s })
	}
	for m := range NumMethods {
		var got Method
		check(m, &got, func() bool { return got == m })
	}
	for p := range NumProofs {
		var got Proof
		check(p, &got, func() bool { return got == p })
	}
}
