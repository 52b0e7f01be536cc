package firewall_test

import (
	"errors"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"fsban/firewall"
	"fsban/firewall/nft"
	"fsban/internal/kerneltest"
	"fsban/internal/netns"
)

// onNFTables runs f on the real kernel in namespaces of its own.
func onNFTables(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	kerneltest.Parallel(t)
	netns.Run(t, f, "nft")
}

func openNFTables(t testing.TB, opts firewall.Options) *nft.Backend {
	t.Helper()
	return openKind(t, "nftables", opts).(*nft.Backend)
}

// elapsing matches remaining times in the output of nft.
var elapsing = regexp.MustCompile(`timeout [0-9dhms]+`)

// ruleset prints the ruleset of nftables without counters and remaining times.
func ruleset(t testing.TB) string {
	t.Helper()
	return elapsing.ReplaceAllString(kerneltest.Command(t, "nft -s list ruleset"), "timeout T")
}

func TestTableIsWhatNftWouldMake(t *testing.T) {
	onNFTables(t, func(t *testing.T) {
		opts := firewall.Options{Hooks: []firewall.Hook{{Table: "raw", Chain: "PREROUTING"}, {Table: "filter", Chain: "FORWARD"}}, Ports: ports(t, "udp/5060", "tcp/5060-5061")}
		b := openNFTables(t, opts)
		made, err := setUp(b)
		want := []string{
			"table inet fsban", "set fsban4", "set fsban6", "chain FSBAN", "rules of chain FSBAN",
			"chain raw_prerouting", "rules of chain raw_prerouting", "chain filter_forward", "rules of chain filter_forward",
		}
		if err != nil || !slices.Equal(made, want) {
			t.Fatalf("made %q, %v", made, err)
		}
		_, err = b.Apply([]firewall.Order{{Prefix: kerneltest.Prefix("192.0.2.0/24"), Add: true, Until: time.Now().Add(time.Hour)}, {Prefix: kerneltest.Prefix("2001:db8::/64"), Add: true}})
		if err != nil {
			t.Fatal(err)
		}
		before := ruleset(t)
		for _, line := range []string{
			"set fsban4 {\n\t\ttype ipv4_addr\n\t\tflags timeout\n\t\tcounter\n\t}",
			"set fsban4_24 {\n\t\ttype ipv4_addr\n\t\tflags timeout\n\t\tcounter\n\t\telements = { 192.0.2.0 counter timeout T }",
			"set fsban6_64 {\n\t\ttype ipv6_addr\n\t\tflags timeout\n\t\tcounter\n\t\telements = { 2001:db8:: counter }",
			"\t\tip saddr @fsban4 counter drop",
			"\t\tip saddr & 255.255.255.0 == @fsban4_24 counter drop",
			"\t\tip6 saddr & ffff:ffff:ffff:ffff:: == @fsban6_64 counter drop",
			"\t\tip6 saddr @fsban6 counter drop",
			"\tchain raw_prerouting {\n\t\ttype filter hook prerouting priority raw; policy accept;",
			"\tchain filter_forward {\n\t\ttype filter hook forward priority filter; policy accept;",
			"udp dport 5060 jump FSBAN",
			"tcp dport 5060-5061 jump FSBAN",
		} {
			if !strings.Contains(before, line) {
				t.Errorf("no %q in\n%s", line, before)
			}
		}
		for _, again := range []*nft.Backend{b, openNFTables(t, opts)} {
			if made, err := setUp(again); err != nil || len(made) > 0 {
				t.Errorf("the second time it made %q, %v", made, err)
			}
		}
		if after := ruleset(t); after != before {
			t.Errorf("the second time changed\n%sto\n%s", before, after)
		}
	})
}

func TestNFTablesKnowsNoChainsOfIptables(t *testing.T) {
	_, err := nft.New(firewall.Options{Hooks: []firewall.Hook{{Table: "filter", Chain: "DOCKER-USER"}}})
	want := "firewall.chains: filter/DOCKER-USER is a chain of iptables: with nftables write filter/FORWARD, or another built-in one"
	if err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

func TestNFTablesEndsAreWhatWasAsked(t *testing.T) {
	onNFTables(t, func(t *testing.T) {
		b := openNFTables(t, firewall.Options{})
		r := enforce(t, b, newBook(), firewall.EnforcerOptions{})
		ends := []time.Duration{time.Hour, time.Minute, firewall.Forever, 10 * 365 * 24 * time.Hour, firewall.Forever, 2 * time.Hour}
		for _, d := range ends {
			for _, p := range []string{"192.0.2.1", "192.0.2.0/24", "2001:db8::/64", "2001:db8::1"} {
				r.ban(p, d)
			}
			r.settle()
			entries, err := r.Entries()
			if err != nil || len(entries) != 4 {
				t.Fatal(entries, err)
			}
			for _, e := range entries {
				if e.Left != d && (d == firewall.Forever || e.Left == firewall.Forever || d-e.Left > 30*time.Second || e.Left > d) {
					t.Errorf("%v: %v left of %v", e.Prefix, e.Left, d)
				}
			}
		}
	})
}

func TestNFTablesAdoptsAnEarlierRun(t *testing.T) {
	onNFTables(t, func(t *testing.T) {
		first := startKind(t, "nftables", firewall.Options{})
		first.ban("192.0.2.1", time.Hour)
		first.ban("192.0.2.0/24", time.Hour)
		first.ban("2001:db8::/64", firewall.Forever)
		first.settle()
		first.stop()
		kerneltest.Command(t, "nft add element inet fsban fsban4 { 198.51.100.7 timeout 100s }")
		second := startKind(t, "nftables", firewall.Options{})
		got := make(map[netip.Prefix]bool)
		for _, e := range second.adopted {
			got[e.Prefix] = e.Left == firewall.Forever
		}
		want := map[netip.Prefix]bool{kerneltest.Prefix("192.0.2.1"): false, kerneltest.Prefix("192.0.2.0/24"): false, kerneltest.Prefix("198.51.100.7"): false, kerneltest.Prefix("2001:db8::/64"): true}
		if !maps.Equal(got, want) {
			t.Errorf("adopted %v, want %v", second.adopted, want)
		}
		second.unban("192.0.2.0/24")
		second.settle()
		if got := kerneltest.Banned(t, second.backend); !slices.Equal(got, []string{"192.0.2.1/32", "198.51.100.7/32", "2001:db8::/64"}) {
			t.Errorf("the kernel holds %q", got)
		}
	})
}

func TestWhatOthersRemoveOfNFTablesIsMadeAgain(t *testing.T) {
	onNFTables(t, func(t *testing.T) {
		r := startKind(t, "nftables", firewall.Options{})
		r.ban("192.0.2.1", time.Hour)
		r.ban("192.0.2.2", firewall.Forever)
		r.ban("2001:db8::/64", time.Hour)
		r.settle()
		r.checked() // and listens by now
		whole := ruleset(t)
		for _, test := range []struct {
			name              string
			commands          []string
			repairs, restored uint64
		}{
			{"everything flushed", []string{"nft flush ruleset"}, 8, 3},
			{"the table deleted", []string{"nft delete table inet fsban"}, 8, 3},
			{"all rules flushed", []string{"nft flush table inet fsban"}, 2, 0},
			{"a chain flushed", []string{"nft flush chain inet fsban FSBAN"}, 1, 0},
			{"a chain deleted", []string{"nft flush chain inet fsban raw_prerouting", "nft delete chain inet fsban raw_prerouting"}, 2, 0},
			{"an accept before ours", []string{"nft insert rule inet fsban FSBAN accept"}, 1, 0},
			{"another policy", []string{"nft chain inet fsban raw_prerouting { policy drop; }"}, 1, 0},
			{"a chain of others", []string{"nft add chain inet fsban other"}, 1, 0},
			{"put to sleep", []string{"nft add table inet fsban { flags dormant; }"}, 1, 0},
			{"an entry deleted", []string{"nft delete element inet fsban fsban4 { 192.0.2.2 }"}, 0, 1},
			{"a set flushed", []string{"nft flush set inet fsban fsban4"}, 0, 2},
			{"a set destroyed", []string{"nft flush chain inet fsban FSBAN", "nft delete set inet fsban fsban6_64"}, 2, 1},
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
			if now := ruleset(t); len(now) != len(whole) { // sets come in any order
				t.Errorf("%s: made\n%sfrom\n%s", test.name, now, whole)
			}
		}
	})
}

func TestNFTablesReportsChangesAtOnce(t *testing.T) {
	onNFTables(t, func(t *testing.T) {
		r := enforce(t, openNFTables(t, firewall.Options{}), newBook(), firewall.EnforcerOptions{Check: time.Hour, Amend: func([]firewall.Entry) {}})
		r.until("enforcing", func() bool { return r.Status().Enforcing })
		r.ban("192.0.2.1", time.Hour)
		r.settle()
		r.until("restored", func() bool {
			kerneltest.Command(t, "nft flush set inet fsban fsban4") // more than once: the listening begins a moment after the start
			time.Sleep(50 * time.Millisecond)
			return r.Status().Restored > 0
		})
		kerneltest.Command(t, "nft flush ruleset")
		r.until("made again", func() bool {
			s := r.Status()
			return s.Repairs > 0 && s.Enforcing && s.Pending == 0 && slices.Equal(kerneltest.Banned(t, r.backend), []string{"192.0.2.1/32"})
		})
		kerneltest.Command(t, "nft add element inet fsban fsban4 { 192.0.2.9 }")
		r.until("adopted", func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			return len(r.adopted) == 1 && r.adopted[0].Prefix == kerneltest.Prefix("192.0.2.9") && r.adopted[0].Left == firewall.Forever
		})
	})
}

func TestForeignSetInTheTableIsLeftAlone(t *testing.T) {
	onNFTables(t, func(t *testing.T) {
		kerneltest.Command(t, "nft add table inet fsban")
		kerneltest.Command(t, "nft add set inet fsban fsban4 { type ipv4_addr; flags interval; }")
		kerneltest.Command(t, "nft add element inet fsban fsban4 { 10.0.0.0/8 }")
		r := enforce(t, openNFTables(t, firewall.Options{}), newBook(), firewall.EnforcerOptions{RetryMin: 10 * time.Millisecond})
		r.ban("192.0.2.1", time.Hour)
		r.ban("2001:db8::1", time.Hour)
		r.until("refused", func() bool {
			s := r.Status()
			return !s.Enforcing && errors.Is(s.Err, firewall.ErrForeign) && s.Pending == 1 && strings.Contains(s.Err.Error(), "set fsban4")
		})
		if got := ruleset(t); !strings.Contains(got, "elements = { 10.0.0.0/8 }") || strings.Contains(got, "@fsban4 ") {
			t.Errorf("changed to %s", got)
		}
		if got := kerneltest.Banned(t, r.backend); !slices.Equal(got, []string{"2001:db8::1/128"}) {
			t.Errorf("the kernel holds %q", got)
		}
		kerneltest.Command(t, "nft delete set inet fsban fsban4")
		r.until("enforcing", func() bool { return r.Status().Enforcing })
		if got := kerneltest.Banned(t, r.backend); !slices.Equal(got, []string{"192.0.2.1/32", "2001:db8::1/128"}) {
			t.Errorf("the kernel holds %q", got)
		}
	})
}

func TestTeardownRemovesFsbansTableAlone(t *testing.T) {
	onNFTables(t, func(t *testing.T) {
		kerneltest.Command(t, "nft add table inet fsban-other")
		kerneltest.Command(t, "nft add table ip fsban")
		kerneltest.Command(t, "nft add chain inet fsban-other input { type filter hook input priority 0; }")
		before := ruleset(t)
		b := openNFTables(t, firewall.Options{Hooks: []firewall.Hook{{Table: "raw", Chain: "PREROUTING"}, {Table: "filter", Chain: "INPUT"}}})
		if removed, err := b.Teardown(); err != nil || len(removed) > 0 {
			t.Errorf("with nothing there it removed %q, %v", removed, err)
		}
		if _, err := setUp(b); err != nil {
			t.Fatal(err)
		}
		removed, err := b.Teardown()
		if after := ruleset(t); err != nil || !slices.Equal(removed, []string{"table inet fsban"}) || after != before {
			t.Errorf("removed %q, %v, and left\n%sof\n%s", removed, err, after, before)
		}
	})
}

func TestChangedConfigurationLeavesNothingOldInNFTables(t *testing.T) {
	onNFTables(t, func(t *testing.T) {
		configurations := []firewall.Options{
			{},
			{Hooks: []firewall.Hook{{Table: "filter", Chain: "INPUT"}, {Table: "filter", Chain: "FORWARD"}}, Target: firewall.Reject},
			{Hooks: []firewall.Hook{{Table: "mangle", Chain: "INPUT"}, {Table: "raw", Chain: "PREROUTING"}}, Ports: ports(t, "udp/5060", "tcp/5060")},
			{Ports: ports(t, "udp/5060-5070")},
		}
		clean := func(opts firewall.Options) string {
			t.Helper()
			if _, err := setUp(openNFTables(t, opts)); err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(ruleset(t), "\n")
			slices.Sort(lines) // chains come in any order
			return strings.Join(lines, "\n")
		}
		for i, to := range configurations {
			_, _ = openNFTables(t, firewall.Options{}).Teardown()
			fresh := clean(to)
			for j, from := range configurations {
				clean(from)
				if got := clean(to); got != fresh {
					t.Errorf("from %d to %d there is\n%s, want\n%s", j, i, got, fresh)
				}
			}
		}
	})
}

// Bans that come and go while a large set is listed neither hide others nor show them twice.
func TestListingOfAChangingSetIsWhole(t *testing.T) {
	onNFTables(t, func(t *testing.T) {
		b := openNFTables(t, firewall.Options{})
		if _, err := setUp(b); err != nil {
			t.Fatal(err)
		}
		const steady = 20_000
		ops := make([]firewall.Order, steady)
		for i := range ops {
			ops[i] = firewall.Order{Prefix: nth(i), Add: true}
		}
		if _, err := b.Apply(ops); err != nil {
			t.Fatal(err)
		}
		done, stopped := make(chan struct{}), make(chan error, 1)
		go func() { // a few bans come and go, as they do in an attack
			for i := 0; ; i++ {
				select {
				case <-done:
					stopped <- nil
					return
				case <-time.After(5 * time.Millisecond):
				}
				if _, err := b.Apply([]firewall.Order{{Prefix: nth(steady + i%100), Add: i/100%2 == 0}}); err != nil {
					stopped <- err
					return
				}
			}
		}()
		for range 10 {
			entries, err := b.Entries()
			if err != nil {
				t.Fatal(err)
			}
			seen := make(map[netip.Prefix]int)
			for _, e := range entries {
				seen[e.Prefix]++
			}
			for _, o := range ops {
				if seen[o.Prefix] != 1 {
					t.Fatalf("%v is listed %d times", o.Prefix, seen[o.Prefix])
				}
			}
		}
		close(done)
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
}

// A set that has just been filled is being sorted anew.
func TestListingOfAGrownSetIsWhole(t *testing.T) {
	onNFTables(t, func(t *testing.T) {
		for range 3 {
			b := openNFTables(t, firewall.Options{})
			if _, err := setUp(b); err != nil {
				t.Fatal(err)
			}
			ops := make([]firewall.Order, 60_000)
			for i := range ops {
				ops[i] = firewall.Order{Prefix: nth(i), Add: true}
			}
			if _, err := b.Apply(ops); err != nil {
				t.Fatal(err)
			}
			if got := kerneltest.Banned(t, b); len(got) != len(ops) {
				t.Errorf("%d of %d entries are listed", len(got), len(ops))
			}
			if _, err := b.Teardown(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
