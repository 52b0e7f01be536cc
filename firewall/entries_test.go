package firewall_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fsban/firewall"
	"fsban/internal/kerneltest"
)

// A ban of the same length again lasts from now on, on every backend.
func TestBanAgainForAsLongIsRenewed(t *testing.T) {
	onBackends(t, func(t *testing.T, kind string) {
		r := startKind(t, kind, firewall.Options{})
		prefixes := []string{"192.0.2.1", "192.0.2.0/24", "2001:db8::1", "2001:db8::/64"}
		const length = 20 * time.Second
		for range 3 {
			began := time.Now()
			for _, p := range prefixes {
				r.ban(p, length)
			}
			r.settle()
			entries, err := r.Entries()
			took := time.Since(began)
			if err != nil || len(entries) != len(prefixes) {
				t.Fatal(entries, err)
			}
			for _, e := range entries {
				if e.Left < length-took-time.Second || e.Left > length+time.Second {
					t.Errorf("%v: %v left of %v", e.Prefix, e.Left, length)
				}
			}
			time.Sleep(2500 * time.Millisecond)
		}
	})
}

// Exceptions from bans are no bans: they are not adopted, survive a resize, and end where the same prefix is banned.
func TestExceptionsAreNotAdopted(t *testing.T) {
	for _, timeout := range []string{"0", "600"} {
		t.Run(timeout, func(t *testing.T) {
			kerneltest.OnKernel(t, func(t *testing.T) {
				server := listen(t, "203.0.113.1")
				customer, stranger := server.dial("198.51.100.7"), server.dial("198.51.100.8")
				r := start(t, firewall.Options{MaxBans: 100})
				r.ban("198.51.100.0/25", time.Hour)
				r.settle()
				r.betweenChecks("ipset add fsban4 198.51.100.7 nomatch timeout "+timeout, "ipset add fsban6 2001:db8::/64 nomatch timeout "+timeout)
				note := func() bool {
					return strings.HasPrefix(strings.Join(r.Status().Notes, " "), "the kernel's sets hold exceptions from bans (nomatch) that fsban did not make, 2 of them")
				}
				untouched := func() {
					t.Helper()
					r.checked()
					if n := len(r.adoptions()); n > 0 || r.removals() > 0 {
						t.Fatalf("%d exceptions adopted, %d removed", n, r.removals())
					}
				}
				untouched()
				r.until("noted", note)
				passes := func(when string) {
					t.Helper()
					send(t, stranger)
					send(t, customer)
					if from := server.next(); from != "198.51.100.7" {
						t.Errorf("%s: a packet of %s arrived", when, from)
					}
				}
				passes("beside the ban")
				if err := r.Set(t.Context(), time.Hour, 5000); err != nil {
					t.Fatal(err)
				}
				if got := kerneltest.Command(t, "ipset save"); !strings.Contains(got, "maxelem 5000") || strings.Count(got, "nomatch") != 2 {
					t.Errorf("after the resize\n%s", got)
				}
				passes("after the resize")
				r.stop()
				again := startWith(t, r.book, firewall.Options{MaxBans: 7000})
				r = again
				untouched()
				r.until("noted at the next start", note)
				passes("at the next start")
				if s := r.Status(); s.Restored > 0 {
					t.Errorf("%+v", s)
				}
				r.ban("198.51.100.7", time.Hour)
				r.settle()
				if got := kerneltest.Command(t, "ipset save fsban4"); strings.Contains(got, "nomatch") {
					t.Errorf("after a ban of it\n%s", got)
				}
			})
		})
	}
}

// Entries that cannot be bans are never reported to Adopt, and are removed.
func TestEntriesThatCannotBeBansAreRemoved(t *testing.T) {
	adds := map[string][]string{
		"nft":          {"ipset add fsban6 ::ffff:0:0/96", "ipset add fsban6 ::ffff:192.0.2.1", "ipset add fsban6 ::/1 timeout 60", "ipset add fsban6 ::/64"},
		"legacy":       {"ipset add fsban6 ::ffff:0:0/97", "ipset add fsban6 ::ffff:192.0.2.1 timeout 2", "ipset add fsban6 ::/2"},
		"nftables":     {"nft add element inet fsban fsban6 { ::ffff:192.0.2.1 }", "nft add set inet fsban fsban6_96 { type ipv6_addr; flags timeout; counter; }", "nft add element inet fsban fsban6_96 { ::ffff:0:0 timeout 1h }", "nft add set inet fsban fsban4_24 { type ipv4_addr; flags timeout; counter; }", "nft add element inet fsban fsban4_24 { 192.0.2.7 }"},
		"rules nft":    {"ip6tables -t raw -A FSBAN -s ::ffff:0:0/96 -j DROP", "ip6tables -t raw -A FSBAN -s ::ffff:192.0.2.1 -j DROP", "ip6tables -t raw -A FSBAN -s ::/1 -j DROP"},
		"rules legacy": {"ip6tables -t raw -A FSBAN -s ::ffff:192.0.2.1 -j DROP", "ip6tables -t raw -A FSBAN -s ::/3 -m time --datestop 2037-01-01T00:00:00 -j DROP"},
	}
	onBackends(t, func(t *testing.T, kind string) {
		r := startKind(t, kind, firewall.Options{})
		r.ban("192.0.2.1", time.Hour)
		r.ban("2001:db8::/64", time.Hour)
		r.settle()
		for range 2 {
			before := r.removals()
			r.betweenChecks(adds[kind]...)
			r.until("removed", func() bool {
				return r.removals() > before && slices.Equal(kerneltest.Banned(t, r.backend), []string{"192.0.2.1/32", "2001:db8::/64"})
			})
		}
		r.checked()
		if s := r.Status(); len(r.adopted) > 0 || !s.Enforcing {
			t.Errorf("%+v, adopted %v", s, r.adopted)
		}
	})
}

// A ban that no backend can hold, from a state file of old, keeps no other from being in force.
func TestBansThatCannotBeAreNotRestored(t *testing.T) {
	onBackends(t, func(t *testing.T, kind string) {
		b := newBook()
		for _, p := range []string{"0.0.0.0/0", "::/0", "::ffff:0:0/96", "192.0.2.1/32"} {
			b.write(netip.MustParsePrefix(p), time.Time{})
		}
		r := enforce(t, openKind(t, kind, firewall.Options{}), b, firewall.EnforcerOptions{Check: 20 * time.Millisecond})
		r.until("in force", func() bool { return slices.Equal(kerneltest.Banned(t, r.backend), []string{"192.0.2.1/32"}) })
		r.until("enforcing", func() bool { s := r.Status(); return s.Enforcing && s.Pending == 0 })
	})
}

// An entry that vanishes before its ban's end is restored by the next check, in quiet times and while other bans come and end.
func TestVanishedEntriesAreNoticedSoon(t *testing.T) {
	for name, churn := range map[string]int{"quiet": 0, "bans that end": 20} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newKernel()
				r := enforce(t, k, newBook(), firewall.EnforcerOptions{})
				for i := range 50 {
					r.ban(fmt.Sprintf("192.0.2.%d", i), time.Hour)
				}
				synctest.Wait()
				time.Sleep(time.Second / 2) // no check falls between a ban in the book and its order
				within := 11 * time.Second
				if churn > 0 {
					within = firewall.CompareEvery + 11*time.Second
				}
				for n := range 5 {
					gone := fmt.Sprintf("192.0.2.%d", n)
					k.change(func() { delete(k.holds, kerneltest.Prefix(gone)) })
					for i := range int(within / time.Second) {
						for c := range churn {
							r.ban(fmt.Sprintf("198.18.%d.%d", i, c), time.Duration(1+c)*time.Second)
						}
						time.Sleep(time.Second)
					}
					if until := k.until(gone); until.IsZero() {
						t.Errorf("%s is missing after %v", gone, within)
					}
				}
				if s := r.Status(); s.Restored != 5 {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

// Bans that end while the kernel takes no orders neither stay queued nor reach the kernel later.
func TestExpiredOrdersAreNotAppliedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		r := enforce(t, k, newBook(), firewall.EnforcerOptions{})
		r.ban("192.0.2.200", 24*time.Hour)
		synctest.Wait()
		k.change(func() { k.noSetup, k.noApply = errBroken, errBroken })
		for i := range 100 {
			r.ban(fmt.Sprintf("192.0.2.%d", i), 30*time.Second)
		}
		r.ban("192.0.2.200", 30*time.Second) // shorter than the kernel knows
		r.ban("192.0.2.150", time.Hour)
		time.Sleep(time.Minute)
		for p, until := range r.book.all() {
			if until.Before(time.Now()) {
				r.book.strike(p)
			}
		}
		if s := r.Status(); s.Expired != 101 {
			t.Errorf("while it fails: %+v", s)
		}
		k.change(func() { k.noSetup, k.noApply, k.batches = nil, nil, nil })
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := k.held(); got != "192.0.2.150" {
			t.Errorf("the kernel holds %q", got)
		}
		for _, batch := range k.batches {
			for _, o := range batch {
				if o.Add && o.Prefix != kerneltest.Prefix("192.0.2.150") {
					t.Errorf("%v was banned", o.Prefix)
				}
			}
		}
		if s := r.Status(); s.Pending != 0 || s.Expired != 101 || !s.Enforcing || len(r.adopted) > 0 {
			t.Errorf("%+v, adopted %v", s, r.adopted)
		}
	})
}

// While a set cannot be made, unbans and expired bans leave the queue.
func TestQueueEmptiesWhileTheSetCannotBeMade(t *testing.T) {
	blocks := map[string]string{
		"nft": "ipset create fsban4 hash:ip", "legacy": "ipset create fsban4 hash:ip",
		"nftables":  "add table inet fsban; add set inet fsban fsban4 { type mark; flags timeout; }",
		"rules nft": "iptables -t raw -N FSBAN; iptables -t raw -A FSBAN -j ACCEPT", "rules legacy": "iptables -t raw -N FSBAN; iptables -t raw -A FSBAN -j ACCEPT",
	}
	onBackends(t, func(t *testing.T, kind string) {
		if kind == "nftables" {
			if out, err := exec.CommandContext(t.Context(), "nft", blocks[kind]).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		} else {
			for line := range strings.SplitSeq(blocks[kind], ";") {
				kerneltest.Command(t, line)
			}
		}
		r := enforce(t, openKind(t, kind, firewall.Options{}), newBook(), firewall.EnforcerOptions{RetryMin: 10 * time.Millisecond, RetryMax: 20 * time.Millisecond})
		r.until("refused", func() bool { return errors.Is(r.Status().Err, firewall.ErrForeign) })
		for i := range 200 {
			r.ban(fmt.Sprintf("192.0.2.%d", i), time.Second)
			r.unban(fmt.Sprintf("198.51.100.%d", i))
		}
		r.until("empty", func() bool { s := r.Status(); return s.Pending == 0 && s.Expired == 200 })
	})
}

// After more unbans than can wait, entries that nobody claims are removed instead of adopted: the unban of one may be lost.
func TestAfterLostUnbansUnknownEntriesAreRemoved(t *testing.T) {
	const most = 1000
	firewall.SetMaxOrders(t, most)
	synctest.Test(t, func(t *testing.T) {
		k := newKernel()
		r := enforce(t, k, newBook(), firewall.EnforcerOptions{})
		synctest.Wait()
		k.change(func() {
			k.noApply = errBroken
			for i := range most + 5 {
				k.holds[nth(i)] = time.Time{}
			}
		})
		r.book.write(nth(most+1), time.Time{})
		for i := range most + 5 {
			if i != most+1 {
				r.Unban(nth(i), time.Now())
			}
		}
		time.Sleep(time.Minute)
		if s := r.Status(); s.Overflows < 4 || s.Pending != most {
			t.Errorf("while it fails: %+v", s)
		}
		k.change(func() { k.noApply = nil })
		time.Sleep(time.Minute)
		synctest.Wait()
		if got, want := k.held(), nth(most+1).Addr().String(); got != want || len(r.adopted) > 0 {
			t.Errorf("the kernel holds %q, want %q; adopted %v", got, want, r.adopted)
		}
		k.change(func() { k.holds[kerneltest.Prefix("192.0.2.1")] = time.Time{} })
		time.Sleep(2 * firewall.CompareEvery)
		synctest.Wait()
		if len(r.adopted) != 1 {
			t.Errorf("later %d entries were adopted, want one", len(r.adopted))
		}
	})
}
