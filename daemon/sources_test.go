package daemon

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"fsban/control"
	"fsban/internal/fakeswitch"
	"fsban/policy"
)

// counted waits until n attempts of a kind are counted, and asserts that no more follow.
func (r *rig) counted(k policy.Kind, n uint64) {
	r.t.Helper()
	r.eventually(k.String(), func() bool { return r.loop.Counted(k) >= n })
	r.settled()
	if got := r.loop.Counted(k); got != n {
		r.t.Errorf("%d attempts of kind %v counted, want %d", got, k, n)
	}
}

func TestWhatTheEventSocketTellsBesideFailures(t *testing.T) {
	t.Parallel()
	fs := newSwitch(t, fakeswitch.Options{})
	cfg := configFor(t, fs)
	cfg.CTIEvent.Subclasses = []string{"cti::fail2ban"}
	r := start(t, fs, cfg)
	r.ready()
	who := fakeswitch.Caller{Addr: netip.MustParseAddr("203.0.113.5"), User: "1000", Number: "0044123"}
	now := time.Now()

	fs.Emit(fakeswitch.RefusedCall, who, now)
	fs.Emit(fakeswitch.AnsweredCall, who, now)
	r.counted(policy.CallReject, 1)
	fs.Emit(fakeswitch.RejectedRegister, who, now)
	fs.Emit(fakeswitch.RejectedInvite, who, now)
	r.counted(policy.ACLReject, 2)
	fs.EmitCustom("cti::fail2ban", now, [2]string{"ip", "203.0.113.5"}, [2]string{"user", "1000"}, [2]string{"reason", "number not allowed"})
	r.counted(policy.Violation, 1)
	// The same failure three times: by event, by mod_cti's event, by its log line.
	fs.Emit(fakeswitch.WrongPassword, who, now)
	fs.EmitCustom("cti::fail2ban", now, [2]string{"ip", "203.0.113.5"}, [2]string{"user", "1000"}, [2]string{"reason", "Registration failed"})
	fs.Emit(fakeswitch.CTILine, who, now)
	r.counted(policy.AuthFailure, 1)

	for kind, want := range map[string]string{"auth_failure": "event", "violation": "cti_event", "acl_reject": "esl_log", "call_reject": "event"} {
		r.statusIs(want+" is the active source of "+kind, func(s control.Status) bool {
			return slices.ContainsFunc(s.ActiveSources, func(s control.ActiveSource) bool { return s.Kind == kind && s.Source == want })
		})
	}
	r.metricHas("fsban_source_active", "kind=violation source=cti_event 1")
	fs.CloseListener()
	fs.End(fakeswitch.Kill)
	r.statusIs("refusals by access lists have no source", func(s control.Status) bool {
		return slices.Contains(s.ActiveSources, control.ActiveSource{Kind: "acl_reject", Why: "esl_log is down"})
	})
}

func TestCallsAreNotAskedForWhereNoContextIsNamed(t *testing.T) {
	t.Parallel()
	fs := newSwitch(t, fakeswitch.Options{})
	cfg := configFor(t, fs)
	cfg.Calls.Contexts = nil
	cfg.FreeSWITCH.Log = false
	r := start(t, fs, cfg)
	r.ready()
	who := fakeswitch.Caller{Addr: netip.MustParseAddr("203.0.113.5")}
	fs.Emit(fakeswitch.RefusedCall, who, time.Now())
	fs.Emit(fakeswitch.RejectedRegister, who, time.Now())
	r.fail("203.0.113.5", 1)
	r.counted(policy.AuthFailure, 1)
	if n := r.loop.Counted(policy.CallReject) + r.loop.Counted(policy.ACLReject); n != 0 {
		t.Errorf("%d calls and refusals counted", n)
	}
}

func TestAnAttackerCountsOnOverARestart(t *testing.T) {
	t.Parallel()
	fs := newSwitch(t, fakeswitch.Options{})
	cfg := configFor(t, fs)
	r := start(t, fs, cfg)
	r.ready()
	r.fail("203.0.113.5", 4)
	r.settled()
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r = start(t, fs, cfg)
	r.ready()
	if r.banned() != nil {
		t.Fatalf("banned %v after the start", r.banned())
	}
	r.fail("203.0.113.5", 1)
	r.eventually("the fifth failure bans", func() bool { return len(r.banned()) == 1 })

	// After an unban the count starts from zero, also over a restart.
	if _, err := r.client.Unban(t.Context(), netip.MustParsePrefix("203.0.113.5/32")); err != nil {
		t.Fatal(err)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	r = start(t, fs, cfg)
	r.ready()
	r.fail("203.0.113.5", 4)
	r.settled()
	if got := r.banned(); got != nil {
		t.Errorf("banned %v: it had been forgiven", got)
	}
}
