package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fsban/config"
	"fsban/control"
	"fsban/internal/fakeswitch"
	"fsban/internal/netns"
	"fsban/ledger"
)

// watchingConfig is a configuration that watches, and bans in the kernel once it enforces.
func watchingConfig(t *testing.T, fs *fakeswitch.Switch) config.Config {
	cfg := kernelConfig(t, fs)
	cfg.Firewall.Enforce = false
	return cfg
}

// watchedIs waits until the metrics that say whether fsban protects are want: watching, ready, enforcing, backend.
func (r *rig) watchedIs(want string) {
	r.t.Helper()
	var got string
	wait(r.t, fmt.Sprintf("metrics are %q", want), func() bool {
		got = strings.TrimSpace(strings.Join([]string{r.metric("fsban_watching"), r.metric("fsban_ready"), r.metric("fsban_firewall_enforcing"),
			r.metric("fsban_firewall_info")}, ""))
		return got == want
	}, func() string { return fmt.Sprintf("%q", got) })
}

func TestWatchingBlocksNobody(t *testing.T) { watchThenEnforce(t, false) }

func TestWatchedBansAreEnforcedWithKeep(t *testing.T) { watchThenEnforce(t, true) }

// watchThenEnforce watches, and then enforces at run time, in a kernel of its own.
func watchThenEnforce(t *testing.T, keep bool) {
	t.Helper()
	netns.Run(t, func(t *testing.T) {
		fs := newSwitch(t, fakeswitch.Options{})
		r := start(t, fs, watchingConfig(t, fs))
		r.eventually("connected", func() bool { return r.sources.client.State().Up })
		r.fail("203.0.113.66", 5)
		r.eventually("decided", func() bool { return slices.Equal(r.banned(), []string{"203.0.113.66/32"}) })
		if entries, err := r.existing(); err != nil || len(entries) > 0 {
			t.Errorf("the kernel holds %v, %v", entries, err)
		}
		r.watchedIs("1\n0\n0\nbackend=none 1")
		r.statusIs("watching without a problem", func(s control.Status) bool {
			return !s.Ready && s.Watching && !s.Firewall.Enforcing && len(s.Problems) == 0
		})
		if line := r.statusLine(); line != "STATUS=watching: nobody is blocked" {
			t.Errorf("systemd is notified of %q", line)
		}

		result, err := r.client.Enforce(t.Context(), control.EnforceRequest{Keep: keep})
		want := control.Enforcement{Ended: 1}
		if keep {
			want = control.Enforcement{Kept: 1}
		}
		if err != nil || result != want {
			t.Fatalf("%+v, %v", result, err)
		}
		r.ready()
		r.eventually("in the kernel", func() bool { return r.inForce(result.Kept) })
		r.watchedIs("0\n1\n1\nbackend=iptables 1")
		r.fail("203.0.113.67", 5)
		r.eventually("banned in the kernel", func() bool { return r.inForce(result.Kept + 1) })
	}, "iptables", "ip6tables")
}

func TestBansFromBeforeWatchingAreReported(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		fs := newSwitch(t, fakeswitch.Options{})
		cfg := watchingConfig(t, fs)
		cfg.Firewall.Enforce = true
		r := start(t, fs, cfg)
		r.ready()
		r.fail("203.0.113.66", 5)
		r.fail("203.0.113.67", 5)
		r.eventually("in the kernel", func() bool { return r.inForce(2) })
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}

		cfg.Firewall.Enforce = false
		r = start(t, fs, cfg)
		r.eventually("an open problem", func() bool {
			return slices.ContainsFunc(r.status().Problems, func(p string) bool { return strings.Contains(p, "2 bans from before fsban watched are still") })
		})
		first := netip.MustParseAddr("203.0.113.66")
		if w, err := r.client.Why(t.Context(), first); err != nil || !w.Watching || len(w.Blocked) != 1 || w.Ban == nil || !w.Ban.InKernel || !w.Ban.Watched {
			t.Errorf("%+v, %v", w, err)
		}
		// The ledger changes, the kernel does not, and the request must fail.
		for what, order := range map[string]func() error{
			"unban": func() error {
				_, err := r.client.Unban(t.Context(), netip.PrefixFrom(first, 32))
				return err
			},
			"allow": func() error {
				_, err := r.client.Allow(t.Context(), control.AllowRequest{Prefix: netip.PrefixFrom(first, 32)})
				return err
			},
		} {
			if err := order(); err == nil || !strings.Contains(err.Error(), "STILL BLOCKS 203.0.113.66/32") {
				t.Errorf("%s: %v", what, err)
			}
		}
		r.eventually("unbanned", func() bool { return slices.Equal(r.banned(), []string{"203.0.113.67/32"}) })
		r.fail("203.0.113.68", 5)
		r.eventually("watched", func() bool { return len(r.banned()) == 2 })

		// Enforcement begins without the watched ban, and with the one that was enforced before.
		result, err := r.client.Enforce(t.Context(), control.EnforceRequest{})
		if want := (control.Enforcement{Kept: 1, Ended: 1}); err != nil || result != want {
			t.Fatalf("%+v, %v", result, err)
		}
		r.ready()
		r.eventually("the kernel holds that one alone", func() bool {
			entries, err := r.existing()
			return err == nil && len(entries) == 1 && entries[0].Prefix.String() == "203.0.113.67/32" && r.inForce(1)
		})
	}, "iptables", "ip6tables")
}

// A backend that cannot be opened leaves fsban watching, and the operator's order has no effect.
func TestEnforcingThatFailsLeavesFsbanWatching(t *testing.T) {
	fs := newSwitch(t, fakeswitch.Options{})
	cfg := configFor(t, fs)
	cfg.Firewall.Enforce, cfg.Firewall.Backend, cfg.Firewall.Chains = false, config.BackendRules, []string{"raw/PREROUTING", "filter/INPUT"}
	r := start(t, fs, cfg)
	_, err := r.client.Enforce(t.Context(), control.EnforceRequest{Keep: true})
	if err == nil || !strings.Contains(err.Error(), "cannot enforce, still watching: firewall.chains: ") {
		t.Errorf("%v", err)
	}
	if s := r.status(); !s.Watching || s.Ready {
		t.Errorf("%+v", s)
	}
	if _, err := r.client.Enforce(t.Context(), control.EnforceRequest{Revoke: true}); err == nil {
		t.Error("an order that failed was revoked")
	}
}

// The order does not reach the enforcer, or the decision loop: nothing has changed, and the next order is carried out.
func TestAnOrderToEnforceThatFailsChangesNothing(t *testing.T) {
	fs := newSwitch(t, fakeswitch.Options{})
	for name, enforcerRuns := range map[string]bool{"no enforcer": false, "no loop": true} {
		t.Run(name, func(t *testing.T) {
			cfg := configFor(t, fs)
			cfg.Firewall.Enforce = false
			d := opened(t, cfg)
			before := d.watch.backend.Load()
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() {
				defer close(done)
				if enforcerRuns {
					_ = d.enforcer.Run(ctx)
				}
			}()
			short, stop := context.WithTimeout(ctx, 100*time.Millisecond)
			_, err := d.enforce(short, control.EnforceRequest{Keep: true}, "anna")
			stop()
			cancel()
			<-done
			if err == nil || !strings.Contains(err.Error(), "still watching") {
				t.Errorf("%v", err)
			}
			if !d.watch.on.Load() || d.watch.order.Load() != nil || d.watch.backend.Load() != before || d.enforcer.Backend() != *before || d.cfg().Firewall.Enforce {
				t.Errorf("watching %v, order %+v, backend %v", d.watch.on.Load(), d.watch.order.Load(), d.enforcer.Backend())
			}
		})
	}
}

// The state that says that fsban watched is damaged, and the file says now that it enforces: bans that were watched do not come into
// force, and those that were enforced before stay.
func TestWatchedBansAreNotEnforcedIfTheStateIsLost(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		fs := newSwitch(t, fakeswitch.Options{})
		cfg := watchingConfig(t, fs)
		for i, enforce := range []bool{true, false} {
			cfg.Firewall.Enforce = enforce
			r := start(t, fs, cfg)
			r.eventually("connected", r.connected)
			r.fail(fmt.Sprintf("203.0.113.%d", i), 5)
			r.eventually("decided", func() bool { return len(r.banned()) == i+1 })
			if enforce {
				r.eventually("in the kernel", func() bool { return r.inForce(1) })
			}
			if err := r.stop(); err != nil {
				t.Fatal(err)
			}
		}
		l, err := ledger.Open(filepath.Join(cfg.State.Directory, "fsban.db"), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		l.Seal([]byte("damaged"), time.Time{})
		if err := errors.Join(l.Flush(), l.Close()); err != nil {
			t.Fatal(err)
		}
		cfg.Firewall.Enforce = true
		r := start(t, fs, cfg)
		r.ready()
		r.eventually("the enforced ban alone is in force", func() bool { return r.inForce(1) && slices.Equal(r.banned(), []string{"203.0.113.0/32"}) })
		ended, err := r.client.History(t.Context(), control.HistoryPick{})
		if err != nil || len(ended) != 1 || ended[0].Cause != "watched" {
			t.Errorf("%+v, %v", ended, err)
		}
	}, "iptables", "ip6tables")
}

func TestReadyIsRefusedWhileWatching(t *testing.T) {
	fs := newSwitch(t, fakeswitch.Options{})
	cfg := configFor(t, fs)
	cfg.Firewall.Enforce, cfg.HTTP.Listen = false, "127.0.0.1:0"
	d := opened(t, cfg)
	ctx, cancel := context.WithCancel(t.Context())
	l, err := d.listenHTTP()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- d.serveHTTP(ctx, l) }()
	resp, err := http.Get("http://" + l.Addr().String() + "/-/ready")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil || resp.StatusCode != http.StatusServiceUnavailable || !strings.HasPrefix(string(body), "watching: nobody is blocked") {
		t.Errorf("%d %q %v", resp.StatusCode, body, err)
	}
	http.DefaultClient.CloseIdleConnections()
	cancel()
	if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
