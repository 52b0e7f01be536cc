package daemon

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"fsban/config"
	"fsban/control"
	"fsban/internal/fakeswitch"
	"fsban/policy"
)

func (r *rig) says(s fakeswitch.Situation, addr, user string, times int) {
	for range times {
		r.fs.Emit(s, fakeswitch.Caller{Addr: netip.MustParseAddr(addr), User: user, UserAgent: "Yealink T54W"}, time.Now())
	}
	r.settled()
}

func (r *rig) why(addr string) control.AddressState {
	r.t.Helper()
	s, err := r.client.Why(r.t.Context(), netip.MustParseAddr(addr))
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

func (r *rig) restart(cfg config.Config) *rig {
	r.t.Helper()
	if err := r.stop(); err != nil {
		r.t.Fatal(err)
	}
	again := start(r.t, r.fs, cfg)
	again.ready()
	return again
}

func TestAnOfficeWithAStuckPhoneIsNotBannedAfterARestartEither(t *testing.T) {
	t.Parallel()
	fs := newSwitch(t, fakeswitch.Options{})
	cfg := configFor(t, fs)
	r := start(t, fs, cfg)
	r.ready()
	const office, stranger = "203.0.113.50", "203.0.113.66"
	r.says(fakeswitch.Success, office, "2001", 1)
	r.says(fakeswitch.WrongPassword, office, "2002", 20)
	r.says(fakeswitch.WrongPassword, stranger, "2002", 5)
	if got := fmt.Sprint(r.banned()); got != "[203.0.113.66/32]" {
		t.Fatalf("banned %s", got)
	}
	s := r.status()
	if p := strings.Join(s.Problems, "\n"); len(s.Policy.StuckPhones) != 1 || !strings.Contains(p, `stuck phone: user "2002" at 203.0.113.50`) || !strings.Contains(p, "Yealink") {
		t.Fatalf("stuck phones %+v, problems %s", s.Policy.StuckPhones, p)
	}
	if p := s.Policy.StuckPhones[0]; p.Domain != "10.77.0.1" {
		t.Errorf("whose phone is %+v", p)
	}
	if !strings.Contains(r.log.String(), "user=2002 domain=10.77.0.1 ") {
		t.Errorf("the log does not tell whose phone it is:\n%s", r.log)
	}
	w := r.why(office)
	if w.KnownGood.IsZero() || w.Ban != nil || len(w.Stuck) != 1 || len(w.Counts) == 0 || len(w.Attempts) == 0 {
		t.Errorf("why: %+v", w)
	}
	if w := r.why(stranger); w.Ban == nil || w.Ban.Rule != "auth" || len(w.Ban.Evidence) != 5 || w.Offences != 1 {
		t.Errorf("why: %+v", w)
	}

	r = r.restart(cfg)
	r.says(fakeswitch.WrongPassword, office, "2002", 20)
	if got := fmt.Sprint(r.banned()); got != "[203.0.113.66/32]" {
		t.Errorf("banned %s after the restart", got)
	}
	if w := r.why(office); w.KnownGood.IsZero() {
		t.Errorf("not known-good after the restart: %+v", w)
	}
}

func TestWhyForetellsTheNextFailure(t *testing.T) {
	t.Parallel()
	fs := newSwitch(t, fakeswitch.Options{})
	r := start(t, fs, configFor(t, fs))
	r.ready()
	const home, stranger = "203.0.113.50", "203.0.113.66"
	r.says(fakeswitch.Success, home, "2001", 1)
	for _, user := range []string{"2002", "2003", "2004"} {
		r.says(fakeswitch.WrongPassword, home, user, 1)
	}
	r.says(fakeswitch.WrongPassword, stranger, "1000", 4)
	const day = 24 * time.Hour
	for addr, want := range map[string][]control.Next{
		home: {
			{User: "same", Verdict: "counted", Rule: "enumeration", Count: 3, MaxRetry: 4},
			{User: "another", Verdict: "ban", Rule: "enumeration", Count: 4, MaxRetry: 4, BanTime: 3 * day, Offence: 1},
		},
		stranger:      {{User: "same", Verdict: "ban", Rule: "auth", Count: 5, MaxRetry: 5, BanTime: day, Offence: 1}},
		"203.0.113.1": {{User: "another", Verdict: "counted", Rule: "enumeration", Count: 1, MaxRetry: 4}},
		"127.0.0.1":   {{User: "another", Verdict: "spared", Rule: "enumeration", Count: 1, MaxRetry: 4}},
	} {
		if got := r.why(addr).Next; !slices.Equal(got, want) {
			t.Errorf("%s: %+v, want %+v", addr, got, want)
		}
	}
	r.says(fakeswitch.WrongPassword, home, "2004", 1)
	if got := r.banned(); got != nil {
		t.Errorf("banned %v", got)
	}
	r.says(fakeswitch.WrongPassword, home, "2005", 1)
	r.says(fakeswitch.WrongPassword, stranger, "1000", 1)
	for addr, rule := range map[string]string{home: "enumeration", stranger: "auth"} {
		if w := r.why(addr); w.Ban == nil || w.Ban.Rule != rule || w.Next != nil {
			t.Errorf("%+v", w)
		}
	}
}

func TestASecondOffenceIsPunishedLonger(t *testing.T) {
	t.Parallel()
	fs := newSwitch(t, fakeswitch.Options{})
	cfg := configFor(t, fs)
	for i := range cfg.Policy.Ruleset {
		if rule := &cfg.Policy.Ruleset[i]; rule.Name == "auth" {
			short := config.Duration(time.Second)
			rule.BanTime = &short
		}
	}
	cfg.Policy.Escalation.Factor = 100
	r := start(t, fs, cfg)
	r.ready()
	r.says(fakeswitch.WrongPassword, "203.0.113.66", "1000", 5)
	r.eventually("the first ban is over", func() bool { return r.banned() == nil && r.loop.Observed().Made == 1 })
	r = r.restart(cfg)
	r.says(fakeswitch.WrongPassword, "203.0.113.66", "1000", 5)
	bans, err := r.client.Bans(t.Context(), control.Pick{})
	if err != nil || len(bans) != 1 || bans[0].Offence != 2 || bans[0].Until.Sub(bans[0].Since) < 100*time.Second {
		t.Errorf("bans %+v, %v", bans, err)
	}
}

func TestWhoIsAllowedIsNotBannedUntilDisallowed(t *testing.T) {
	t.Parallel()
	fs := newSwitch(t, fakeswitch.Options{})
	cfg := configFor(t, fs)
	cfg.Policy.UnbanGrace = 0
	r := start(t, fs, cfg)
	r.ready()
	office := netip.MustParsePrefix("203.0.113.0/28")
	r.says(fakeswitch.WrongPassword, "203.0.113.7", "1000", 5)
	if len(r.banned()) != 1 {
		t.Fatal("not banned")
	}
	if n, err := r.client.Allow(t.Context(), control.AllowRequest{Prefix: office, Reason: "a test"}); err != nil || n.Prefix != office {
		t.Fatalf("%+v, %v", n, err)
	}
	if got := r.banned(); got != nil {
		t.Errorf("banned %v: it was allowed since", got)
	}
	r = r.restart(cfg)
	r.says(fakeswitch.WrongPassword, "203.0.113.7", "1000", 10)
	if got := r.banned(); got != nil {
		t.Errorf("banned %v after the restart", got)
	}
	s := r.status()
	i := slices.IndexFunc(s.Policy.NeverBan, func(n control.NeverBan) bool { return n.Prefix == office })
	if i < 0 || s.Policy.NeverBan[i].Spared < 10 || s.Policy.NeverBan[i].Bans < 2 || !strings.HasPrefix(s.Policy.NeverBan[i].Origin, "allowed by ") {
		t.Errorf("never banned: %+v", s.Policy.NeverBan)
	}
	if p := strings.Join(s.Problems, "\n"); !strings.Contains(p, "203.0.113.0/28 (allowed by ") || !strings.Contains(p, "attacks and is never banned: ") {
		t.Errorf("problems %s", p)
	}
	for _, tc := range []struct{ prefix, want string }{
		{"203.0.113.1/32", "203.0.113.1/32 was not allowed by fsban allow: it is on the never-ban list because of 203.0.113.0/28"},
		{"198.51.100.1/32", "198.51.100.1/32 is not allowed"},
	} {
		if _, err := r.client.Disallow(t.Context(), netip.MustParsePrefix(tc.prefix)); err == nil || !strings.HasPrefix(err.Error(), tc.want) {
			t.Errorf("%v, want %s", err, tc.want)
		}
	}
	if _, err := r.client.Disallow(t.Context(), office); err != nil {
		t.Fatal(err)
	}
	r.says(fakeswitch.WrongPassword, "203.0.113.7", "1000", 5)
	if len(r.banned()) != 1 {
		t.Error("not banned after it was disallowed")
	}
	// A short allowance.
	if _, err := r.client.Allow(t.Context(), control.AllowRequest{Prefix: office, Time: 50 * time.Millisecond}); err != nil {
		t.Fatal(err)
	}
	r.eventually("its time is over", func() bool {
		return !slices.ContainsFunc(r.status().Policy.NeverBan, func(n control.NeverBan) bool { return n.Prefix == office })
	})
	for _, bad := range []control.AllowRequest{{Prefix: netip.MustParsePrefix("0.0.0.0/0")}, {Prefix: office, Time: -time.Second}} {
		if _, err := r.client.Allow(t.Context(), bad); err == nil {
			t.Errorf("%+v is allowed", bad)
		}
	}
}

func TestBansBeyondTheRateAreHeldUntilSomebodyDecides(t *testing.T) {
	t.Parallel()
	fs := newSwitch(t, fakeswitch.Options{})
	cfg := configFor(t, fs)
	cfg.Policy.BanRate = 2
	r := start(t, fs, cfg)
	r.ready()
	for i := range 6 {
		r.says(fakeswitch.WrongPassword, fmt.Sprint("203.0.113.", 60+i), "1000", 5)
	}
	if got := len(r.banned()); got != 2 {
		t.Errorf("%d banned, want 2", got)
	}
	held, err := r.client.Held(t.Context())
	if err != nil || len(held) != 4 || held[0].Guard != "ban_rate" || held[0].Rule != "auth" {
		t.Fatalf("held %+v, %v", held, err)
	}
	s := r.status()
	if p := strings.Join(s.Problems, "\n"); !strings.Contains(p, "more than 2 bans a minute: the rest is held (4)") {
		t.Errorf("problems %s", p)
	}
	r.eventually("metrics tell", func() bool {
		return r.metric("fsban_bans_held") == "4\n" && strings.Contains(r.metric("fsban_guard_active"), "guard=ban_rate 1\n")
	})
	if w := r.why("203.0.113.70"); len(w.Next) != 1 || w.Next[0].Verdict != "counted" {
		t.Errorf("why: %+v", w)
	}
	r.says(fakeswitch.WrongPassword, "203.0.113.70", "1000", 4)
	if w := r.why("203.0.113.70"); len(w.Next) != 1 || w.Next[0].Verdict != "held" || w.Next[0].Guard != "ban_rate" || w.Next[0].BanTime != 24*time.Hour {
		t.Errorf("why: %+v", w)
	}
	if w := r.why(held[0].Prefix.Addr().String()); w.Held == nil {
		t.Errorf("why: %+v", w)
	}
	if n, err := r.client.Release(t.Context(), held[0].Prefix); err != nil || n != 1 || len(r.banned()) != 3 {
		t.Errorf("released %d, %v; %d banned", n, err, len(r.banned()))
	}
	if n, err := r.client.Discard(t.Context(), held[1].Prefix); err != nil || n != 1 {
		t.Errorf("discarded %d, %v", n, err)
	}
	if _, err := r.client.Release(t.Context(), held[1].Prefix); err == nil {
		t.Error("what was discarded is released")
	}
	if len(held[0].Evidence) != 5 {
		t.Errorf("evidence %+v", held[0].Evidence)
	}
	// A discarded ban stays discarded, a held one stays held.
	r = r.restart(cfg)
	if again, err := r.client.Held(t.Context()); err != nil || len(again) != 2 || again[0].Prefix != held[2].Prefix || again[1].Prefix != held[3].Prefix {
		t.Errorf("held after the restart: %+v, %v", again, err)
	}
	if n, err := r.client.Release(t.Context(), netip.Prefix{}); err != nil || n != 2 || len(r.banned()) != 5 {
		t.Errorf("released %d, %v; %d banned", n, err, len(r.banned()))
	}
}

func TestAGuessedPasswordIsReported(t *testing.T) {
	t.Parallel()
	fs := newSwitch(t, fakeswitch.Options{})
	r := start(t, fs, configFor(t, fs))
	r.ready()
	r.says(fakeswitch.WrongPassword, "203.0.113.66", "1000", 4)
	r.says(fakeswitch.Success, "203.0.113.66", "1000", 1)
	s := r.status()
	if p := strings.Join(s.Problems, "\n"); len(s.Policy.Suspicious) != 1 || !strings.Contains(p, `suspicious login of user "1000" from 203.0.113.66`) {
		t.Fatalf("%+v, problems %s", s.Policy.Suspicious, p)
	}
	if p := s.Policy.Suspicious[0]; p.Domain != "10.77.0.1" {
		t.Errorf("whose login is %+v", p)
	}
	r.metricHas("fsban_suspicious_logins_total", "grade=possible 1")
	if w := r.why("203.0.113.66"); !w.KnownGood.IsZero() || w.Suspected.IsZero() {
		t.Errorf("why: %+v", w)
	}
}

func TestGatewaysAndNamedListsAreNeverBanned(t *testing.T) {
	t.Parallel()
	fs := newSwitch(t, fakeswitch.Options{})
	fs.SetReply("sofia xmlstatus gateway", `<?xml version="1.0" encoding="ISO-8859-1"?>
<gateways>
  <gateway>
    <name>carrier1</name>
    <profile>external</profile>
    <realm>203.0.113.80</realm>
    <proxy>sip:203.0.113.80</proxy>
  </gateway>
</gateways>
`)
	r := start(t, fs, configFor(t, fs))
	r.ready()
	r.statusIs("the gateway is known", func(s control.Status) bool {
		return slices.ContainsFunc(s.Policy.NeverBan, func(n control.NeverBan) bool {
			return n.Prefix == netip.MustParsePrefix("203.0.113.80/32") && strings.Contains(n.Origin, "carrier1")
		})
	})
	r.says(fakeswitch.RefusedCall, "203.0.113.80", "1000", 10)
	r.counted(policy.CallReject, 10)
	if got := r.banned(); got != nil {
		t.Errorf("banned %v: it is our carrier", got)
	}
	r.logged("attacked from an address that is never banned")
}
