package daemon

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"fsban/control"
	"fsban/internal/fakeswitch"
	"fsban/policy"
)

// counted waits until n attempts of a kind have counted, and makes sure that no more do.
func (r *rig) counted(k policy.Kind, n uint64) {
	r.t.Helper()
	r.eventually(k.String(), func() bool { return r.counts[k].Load() >= n })
	r.settled()
	if got := r.counts[k].Load(); got != n {
		r.t.Errorf("%d attempts of kind %v counted, want %d", got, k, n)
	}
}

func TestWhatTheEventSocketTellsBesideFailures(t *testing.T) {
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
	// The same failure three times over: by event, by mod_cti's event, by its line.
	fs.Emit(fakeswitch.WrongPassword, who, now)
	fs.EmitCustom("cti::fail2ban", now, [2]string{"ip", "203.0.113.5"}, [2]string{"user", "1000"}, [2]string{"reason", "Registration failed"})
	fs.Emit(fakeswitch.CTILine, who, now)
	r.counted(policy.AuthFailure, 1)

	speaks := make(map[string]string)
	for _, s := range r.status().Speakers {
		speaks[s.Kind] = s.Source
	}
	for kind, want := range map[string]string{"auth_failure": "event", "violation": "cti_event", "acl_reject": "esl_log", "call_reject": "event"} {
		if speaks[kind] != want {
			t.Errorf("%q speaks for %s, want %s", speaks[kind], kind, want)
		}
	}
	r.eventually("the metric says who speaks", func() bool {
		return strings.Contains(r.metric("fsban_source_speaking"), "kind=violation source=cti_event 1\n")
	})
	fs.CloseListener()
	fs.End(fakeswitch.Kill)
	r.eventually("nobody tells of access lists", func() bool {
		return slices.Contains(r.status().Speakers, control.Speaker{Kind: "acl_reject", Why: "esl_log is down"})
	})
}

func TestCallsAreNotAskedForWhereNoContextIsNamed(t *testing.T) {
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
	if n := r.counts[policy.CallReject].Load() + r.counts[policy.ACLReject].Load(); n != 0 {
		t.Errorf("%d calls and refusals counted", n)
	}
}

func TestAnAttackerCountsOnOverARestart(t *testing.T) {
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

	// And one who was banned, and unbanned, starts from zero, over a restart too.
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
