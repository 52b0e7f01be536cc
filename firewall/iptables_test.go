package firewall_test

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"fsban/firewall"
	"fsban/firewall/xtables"
	"fsban/internal/kerneltest"
)

func TestSetUpMakesWhatIsMissingAndNothingTwice(t *testing.T) {
	kerneltest.OnKernels(t, func(t *testing.T) {
		b := open(t, firewall.Options{})
		made, err := setUp(b)
		if err != nil {
			t.Fatal(err)
		}
		want := []string{
			"set fsban4", "set fsban6",
			"ipv4 chain raw/FSBAN", "rule of ipv4 chain raw/FSBAN", "jump from ipv4 raw/PREROUTING",
			"ipv6 chain raw/FSBAN", "rule of ipv6 chain raw/FSBAN", "jump from ipv6 raw/PREROUTING",
		}
		if !slices.Equal(made, want) {
			t.Errorf("made %q", made)
		}
		before := rules(t)
		for _, fresh := range []*xtables.IPTables{b, open(t, firewall.Options{})} {
			if made, err = setUp(fresh); err != nil || len(made) > 0 {
				t.Errorf("the second time it made %q, %v", made, err)
			}
		}
		if after := rules(t); after != before {
			t.Errorf("the second time changed\n%sto\n%s", before, after)
		}
		for _, line := range []string{"-A PREROUTING -j FSBAN", "-A FSBAN -m set --match-set fsban4 src -j DROP", "-A FSBAN -m set --match-set fsban6 src -j DROP"} {
			if !strings.Contains(before, line+"\n") {
				t.Errorf("no %q in\n%s", line, before)
			}
		}
	})
}

func TestHooks(t *testing.T) {
	kerneltest.OnKernels(t, func(t *testing.T) {
		b := open(t, firewall.Options{Hooks: []firewall.Hook{{Table: "raw", Chain: "PREROUTING"}, {Table: "filter", Chain: "INPUT"}, {Table: "filter", Chain: "FORWARD"}, {Table: "mangle", Chain: "INPUT"}}})
		for range 2 {
			if _, err := setUp(b); err != nil {
				t.Fatal(err)
			}
		}
		for _, program := range []string{"iptables", "ip6tables"} {
			for _, hook := range []string{"raw -S PREROUTING", "filter -S INPUT", "filter -S FORWARD", "mangle -S INPUT"} {
				if out := kerneltest.Command(t, program+" -t "+hook); strings.Count(out, "-j FSBAN") != 1 {
					t.Errorf("%s -t %s prints %q", program, hook, out)
				}
			}
		}
	})
}

func TestChainThatIsFoundEmptyIsFilled(t *testing.T) {
	kerneltest.OnKernels(t, func(t *testing.T) {
		if _, err := setUp(open(t, firewall.Options{})); err != nil {
			t.Fatal(err)
		}
		whole := rules(t)
		kerneltest.Command(t, "iptables -t raw -F FSBAN")
		if made, err := setUp(open(t, firewall.Options{})); err != nil || !slices.Equal(made, []string{"rule of ipv4 chain raw/FSBAN"}) || rules(t) != whole {
			t.Errorf("made %q, %v:\n%s", made, err, rules(t))
		}
	})
}

func TestHookThatDoesNotExistIsAnError(t *testing.T) {
	kerneltest.OnKernels(t, func(t *testing.T) {
		_, err := setUp(open(t, firewall.Options{Hooks: []firewall.Hook{{Table: "filter", Chain: "NOWHERE"}}}))
		if err == nil || !strings.Contains(err.Error(), "filter/NOWHERE") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v", err)
		}
	})
}

func TestWithoutIptablesTheErrorSaysWhatToInstall(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := xtables.NewIPTables(firewall.Options{}); err == nil || !strings.Contains(err.Error(), "install the package iptables") {
		t.Errorf("%v", err)
	}
}

func TestEarlierRunIsAdoptedAndStays(t *testing.T) {
	kerneltest.OnKernel(t, func(t *testing.T) {
		first := start(t, firewall.Options{})
		first.ban("192.0.2.1", time.Hour)
		first.ban("2001:db8::/64", firewall.Forever)
		first.settle()
		first.stop()
		kerneltest.Command(t, "ipset add fsban4 198.51.100.0/24 timeout 100")
		before := rules(t)

		second := start(t, firewall.Options{})
		var got []string
		for _, e := range second.adopted {
			switch e.Left {
			case firewall.Forever:
				got = append(got, e.Prefix.String()+" forever")
			default:
				got = append(got, fmt.Sprint(e.Prefix, " ", math.Ceil(e.Left.Minutes()), "m"))
			}
		}
		slices.Sort(got)
		if want := []string{"192.0.2.1/32 60m", "198.51.100.0/24 2m", "2001:db8::/64 forever"}; !slices.Equal(got, want) {
			t.Errorf("adopted %q, want %q", got, want)
		}
		second.stop()
		if after := rules(t); after != before {
			t.Errorf("the second start changed\n%sto\n%s", before, after)
		}
	})
}

func TestTimeoutsAreWhatWasAsked(t *testing.T) {
	kerneltest.OnKernel(t, func(t *testing.T) {
		r := start(t, firewall.Options{})
		for address, d := range map[string]time.Duration{
			"192.0.2.1": firewall.Forever, "192.0.2.2": 90 * time.Second, "192.0.2.3": 10 * 365 * 24 * time.Hour,
			"2001:db8::1": firewall.Forever, "2001:db8:1::/64": 24 * time.Hour,
		} {
			r.ban(address, d)
		}
		r.settle()
		entries, err := r.Entries()
		if err != nil {
			t.Fatal(err)
		}
		got := make(map[netip.Prefix]firewall.Entry)
		for _, e := range entries {
			got[e.Prefix] = e
		}
		want := make(map[netip.Prefix]firewall.Entry)
		for address, left := range map[string]time.Duration{
			"192.0.2.1": firewall.Forever, "192.0.2.2": 90 * time.Second, "192.0.2.3": firewall.MaxTimeout,
			"2001:db8::1": firewall.Forever, "2001:db8:1::/64": 24 * time.Hour,
		} {
			want[kerneltest.Prefix(address)] = firewall.Entry{Prefix: kerneltest.Prefix(address), Left: left}
		}
		if !maps.EqualFunc(want, got, func(want, got firewall.Entry) bool {
			gone := want.Left - got.Left
			want.Left = got.Left
			return want == got && gone >= 0 && gone < 30*time.Second
		}) {
			t.Errorf("ipset lists\n%v, want\n%v", got, want)
		}
	})
}

func TestFullSetIsReportedAndFilledLater(t *testing.T) {
	kerneltest.OnKernel(t, func(t *testing.T) {
		r := start(t, firewall.Options{MaxBans: 16})
		for i := range 16 {
			r.ban(fmt.Sprintf("192.0.2.%d", i), time.Hour)
		}
		r.settle()
		for i := range 4 {
			r.ban(fmt.Sprintf("192.0.2.%d", 100+i), time.Hour)
		}
		r.ban("2001:db8::/64", time.Hour)
		r.ban("192.0.2.15", 2*time.Hour) // is in it, and only gets a new end
		r.until("full", func() bool {
			bans, _ := r.applied()
			return r.Status().Pending == 4 && !r.Status().Enforcing && bans == 18
		})
		s := r.Status()
		if !errors.Is(s.Err, firewall.ErrSetFull) || !strings.Contains(s.Err.Error(), "fsban4 192.0.2.10") || !strings.Contains(s.Err.Error(), "firewall.max_bans") {
			t.Errorf("%v", s.Err)
		}
		for i := range 4 {
			r.unban(fmt.Sprintf("192.0.2.%d", i))
		}
		r.until("enforcing", func() bool { return r.Status().Enforcing })
		if got := kerneltest.Banned(t, r.backend); len(got) != 17 || !slices.Contains(got, "192.0.2.103/32") || slices.Contains(got, "192.0.2.0/32") {
			t.Errorf("the kernel holds %q", got)
		}
	})
}

func TestSizesOfSetsAreReportedAfterACheck(t *testing.T) {
	kerneltest.OnKernel(t, func(t *testing.T) {
		r := start(t, firewall.Options{MaxBans: 300})
		r.ban("198.51.100.7", time.Hour)
		r.ban("198.51.100.0/24", time.Hour)
		r.ban("2001:db8::/64", time.Hour)
		r.settle()
		r.until("said", func() bool { return fmt.Sprint(r.Status().Sets) == "map[ipv4:{2 300} ipv6:{1 300}]" })
		r.betweenChecks("ipset add fsban4 198.51.100.9 timeout 60")
		r.until("said again", func() bool { return fmt.Sprint(r.Status().Sets) == "map[ipv4:{3 300} ipv6:{1 300}]" })
	})
}

func TestResizeKeepsEveryEntryWithItsEndAndCounters(t *testing.T) {
	kerneltest.OnKernel(t, func(t *testing.T) {
		server := listen(t, "203.0.113.1")
		banned, allowed := server.dial("198.51.100.7"), server.dial("198.51.100.8")
		first := start(t, firewall.Options{MaxBans: 5000})
		for i := range 3000 {
			first.ban(fmt.Sprintf("198.18.%d.%d", i/256, i%256), time.Hour)
		}
		first.ban("198.51.100.7", firewall.Forever)
		first.settle()
		for range 3 {
			send(t, banned)
		}
		first.until("counted", func() bool { return first.packets("198.51.100.7") == 3 })
		first.stop()
		old, err := first.Entries()
		if err != nil {
			t.Fatal(err)
		}

		// While the sets are exchanged the banned address does not stop sending, and nothing of it arrives. It leaves room
		// in the queue of the loopback, which all namespaces share.
		quit, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			for {
				select {
				case <-quit:
					return
				default:
					_, _ = banned.Write([]byte("INVITE"))
					time.Sleep(20 * time.Microsecond)
				}
			}
		}()
		b := open(t, firewall.Options{MaxBans: 9000})
		if made, err := setUp(b); err != nil || len(made) > 0 {
			t.Errorf("made %q, %v", made, err)
		}
		close(quit)
		<-done
		send(t, allowed)
		if from := server.next(); from != "198.51.100.8" {
			t.Errorf("a packet of %s arrived", from)
		}

		header := kerneltest.Command(t, "ipset list -t fsban4")
		for _, part := range []string{"maxelem 9000 timeout 0 counters", "Number of entries: 3001\n"} {
			if !strings.Contains(header, part) {
				t.Errorf("no %q in\n%s", part, header)
			}
		}
		fresh, err := b.Entries()
		if err != nil || len(fresh) != len(old) {
			t.Fatalf("%d entries, want %d, %v", len(fresh), len(old), err)
		}
		order := func(a, b firewall.Entry) int { return a.Prefix.Compare(b.Prefix) }
		slices.SortFunc(old, order)
		slices.SortFunc(fresh, order)
		for i, e := range fresh {
			was := old[i]
			sameEnd := e.Left == was.Left || was.Left != firewall.Forever && (was.Left-e.Left).Abs() <= time.Minute
			if e.Prefix != was.Prefix || !sameEnd || e.Packets < was.Packets || e.Bytes < was.Bytes {
				t.Fatalf("%+v was %+v", e, was)
			}
		}
		if left := kerneltest.Command(t, "ipset list -n"); left != "fsban4\nfsban6\n" {
			t.Errorf("sets %q", left)
		}
	})
}

func TestARunningSetGrows(t *testing.T) {
	kerneltest.OnKernel(t, func(t *testing.T) {
		r := start(t, firewall.Options{MaxBans: 100})
		r.ban("192.0.2.7", time.Hour)
		r.settle()
		if err := r.Set(t.Context(), time.Hour, 5000); err != nil {
			t.Fatal(err)
		}
		if s := kerneltest.Command(t, "ipset list fsban4"); !strings.Contains(s, " maxelem 5000 ") || !strings.Contains(s, "192.0.2.7 ") {
			t.Errorf("the set:\n%s", s)
		}
	})
}

func TestSetSmallerThanItsEntriesKeepsItsSize(t *testing.T) {
	kerneltest.OnKernel(t, func(t *testing.T) {
		r := start(t, firewall.Options{MaxBans: 100})
		for i := range 50 {
			r.ban(fmt.Sprintf("192.0.2.%d", i), time.Hour)
		}
		r.settle()
		r.stop()
		b := open(t, firewall.Options{MaxBans: 20})
		if _, err := setUp(b); err != nil {
			t.Error(err)
		}
		if got := kerneltest.Banned(t, b); len(got) != 50 {
			t.Errorf("%d entries are left of 50", len(got))
		}
	})
}

func TestForeignSetOfTheSameNameIsLeftAlone(t *testing.T) {
	for name, create := range map[string]string{
		"another type":   "ipset create fsban4 hash:ip timeout 0",
		"another family": "ipset create fsban4 hash:net family inet6 timeout 0",
		"no timeouts":    "ipset create fsban4 hash:net",
	} {
		t.Run(name, func(t *testing.T) {
			kerneltest.OnKernel(t, func(t *testing.T) {
				kerneltest.Command(t, create)
				before := kerneltest.Command(t, "ipset save fsban4")
				r := enforce(t, open(t, firewall.Options{}), newBook(), firewall.EnforcerOptions{RetryMin: 10 * time.Millisecond})
				r.ban("192.0.2.1", time.Hour)
				r.ban("2001:db8::1", time.Hour)
				r.until("refused", func() bool {
					s := r.Status()
					return !s.Enforcing && errors.Is(s.Err, firewall.ErrForeign) && s.Pending == 1
				})
				if after := kerneltest.Command(t, "ipset save fsban4"); after != before {
					t.Errorf("changed to %s", after)
				}
				if got := kerneltest.Banned(t, r.backend); !slices.Equal(got, []string{"2001:db8::1/128"}) {
					t.Errorf("the kernel holds %q", got)
				}
				kerneltest.Command(t, "ipset destroy fsban4")
				r.until("enforcing", func() bool { return r.Status().Enforcing })
				if got := kerneltest.Banned(t, r.backend); !slices.Equal(got, []string{"192.0.2.1/32", "2001:db8::1/128"}) {
					t.Errorf("the kernel holds %q", got)
				}
			})
		})
	}
}

func TestWhatOthersRemoveIsMadeAgain(t *testing.T) {
	kerneltest.OnKernels(t, func(t *testing.T) {
		r := start(t, firewall.Options{Hooks: []firewall.Hook{{Table: "raw", Chain: "PREROUTING"}, {Table: "filter", Chain: "INPUT"}}})
		r.ban("192.0.2.1", time.Hour)
		r.ban("192.0.2.2", firewall.Forever)
		r.ban("2001:db8::/64", time.Hour)
		r.settle()
		whole := rules(t)
		for _, test := range []struct {
			name              string
			commands          []string
			repairs, restored uint64
		}{
			{"a table flushed", []string{"iptables -t raw -F"}, 2, 0},
			{"another table flushed", []string{"ip6tables -F"}, 2, 0},
			{"a jump deleted", []string{"ip6tables -t raw -D PREROUTING -j FSBAN"}, 1, 0},
			{"a rule deleted", []string{"iptables -D FSBAN 1"}, 1, 0},
			{"a chain removed", []string{"iptables -t raw -F", "iptables -t raw -X FSBAN"}, 3, 0},
			{"an entry deleted", []string{"ipset del fsban4 192.0.2.2"}, 0, 1},
			{"a set flushed", []string{"ipset flush fsban4"}, 0, 2},
			{"a set destroyed", []string{"ip6tables -t raw -F FSBAN", "ip6tables -F FSBAN", "ipset destroy fsban6"}, 3, 1},
		} {
			before := r.Status()
			r.betweenChecks(test.commands...)
			r.until("repaired after "+test.name, func() bool {
				s := r.Status()
				return s.Repairs >= before.Repairs+test.repairs && s.Restored >= before.Restored+test.restored && s.Enforcing && s.Pending == 0
			})
			s := r.Status()
			if repairs, restored := s.Repairs-before.Repairs, s.Restored-before.Restored; repairs != test.repairs || restored != test.restored {
				t.Errorf("%s: %d repaired and %d restored, want %d and %d", test.name, repairs, restored, test.repairs, test.restored)
			}
			if now := rules(t); now != whole {
				t.Errorf("%s: made\n%sfrom\n%s", test.name, now, whole)
			}
		}
	})
}

func TestEntryAddedByHandIsAdopted(t *testing.T) {
	kerneltest.OnKernel(t, func(t *testing.T) {
		r := start(t, firewall.Options{})
		kerneltest.Command(t, "ipset add fsban4 192.0.2.9 timeout 0")
		r.until("adopted", func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			return len(r.adopted) == 1 && r.adopted[0].Prefix == kerneltest.Prefix("192.0.2.9") && r.adopted[0].Left == firewall.Forever
		})
	})
}

func TestTeardownRemovesWhatFsbanMadeAndNothingElse(t *testing.T) {
	kerneltest.OnKernels(t, func(t *testing.T) {
		for _, line := range []string{
			"ipset create foreign hash:net", "ipset add foreign 192.0.2.0/24", "ipset create fsban hash:ip timeout 60",
			"iptables -t raw -N FSBAN-OTHER", "ip6tables -t raw -N FSBAN-OTHER", "iptables -t raw -A PREROUTING -j FSBAN-OTHER",
			"iptables -t raw -A FSBAN-OTHER -m set --match-set foreign src -j DROP",
			"iptables -A INPUT -p udp --dport 5060 -j ACCEPT", "iptables -P FORWARD DROP",
			"iptables -t mangle -A PREROUTING -j MARK --set-mark 1",
			"ip6tables -A INPUT -p tcp --dport 22 -j ACCEPT", "ip6tables -t raw -A PREROUTING -p icmpv6 -j ACCEPT",
		} {
			kerneltest.Command(t, line)
		}
		before := rules(t)
		b := open(t, firewall.Options{})
		if removed, err := b.Teardown(); err != nil || len(removed) > 0 {
			t.Errorf("with nothing there it removed %q, %v", removed, err)
		}
		r := start(t, firewall.Options{Hooks: []firewall.Hook{{Table: "raw", Chain: "PREROUTING"}, {Table: "filter", Chain: "INPUT"}, {Table: "mangle", Chain: "FORWARD"}, {Table: "raw", Chain: "FSBAN-OTHER"}}})
		r.ban("192.0.2.1", time.Hour)
		r.ban("2001:db8::/64", firewall.Forever)
		r.settle()
		r.stop()
		kerneltest.Command(t, "iptables -A OUTPUT -j FSBAN") // of a configuration that is no more
		kerneltest.Command(t, "ipset create fsban4-new hash:net timeout 0 counters")
		removed, err := b.Teardown()
		if err != nil {
			t.Error(err)
		}
		for _, want := range []string{"jump from ipv4 raw/PREROUTING", "jump from ipv4 raw/FSBAN-OTHER", "jump from ipv4 filter/OUTPUT", "ipv6 chain mangle/FSBAN", "set fsban4", "set fsban4-new", "set fsban6"} {
			if !slices.Contains(removed, want) {
				t.Errorf("%q is not among what it removed: %q", want, removed)
			}
		}
		if after := rules(t); after != before {
			t.Errorf("it left\n%sof\n%s", after, before)
		}
	})
}

func TestTeardownGoesOnAfterAFailure(t *testing.T) {
	kerneltest.OnKernels(t, func(t *testing.T) {
		b := open(t, firewall.Options{})
		if _, err := setUp(b); err != nil {
			t.Fatal(err)
		}
		kerneltest.Command(t, "iptables -A INPUT -m set --match-set fsban4 src -j LOG")
		_, err := b.Teardown()
		if err == nil || err.Error() != "ipset destroy fsban4: the set is in use by a rule" {
			t.Errorf("%v", err)
		}
		if got := rules(t); strings.Contains(got, "FSBAN") || strings.Contains(got, "fsban6") {
			t.Errorf("it left\n%s", got)
		}
	})
}

func TestRecorderTouchesNothing(t *testing.T) {
	kerneltest.OnKernel(t, func(t *testing.T) {
		before := rules(t)
		r := enforce(t, firewall.NewRecorder(), newBook(), firewall.EnforcerOptions{Check: 10 * time.Millisecond})
		r.until("enforcing", func() bool { return r.Status().Enforcing })
		r.ban("192.0.2.1", time.Hour)
		r.ban("192.0.2.2", firewall.Forever)
		r.ban("2001:db8::/64", time.Hour)
		r.unban("192.0.2.1")
		r.until("applied", func() bool {
			bans, unbans := r.applied()
			return r.Status().Pending == 0 && bans > 0 && bans+unbans >= 3
		})
		if got := kerneltest.Banned(t, r.backend); !slices.Equal(got, []string{"192.0.2.2/32", "2001:db8::/64"}) {
			t.Errorf("it would have banned %q", got)
		}
		if s := r.Status(); !s.Enforcing || s.Backend != firewall.None || len(s.Dropped) > 0 {
			t.Errorf("%+v", s)
		}
		if after := rules(t); after != before {
			t.Errorf("it made\n%s", after)
		}
	})
}
