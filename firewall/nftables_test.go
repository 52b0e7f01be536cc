package firewall

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"

	"fsban/internal/netns"
)

// onNFTables runs f on the real kernel in namespaces of its own.
func onNFTables(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	parallel(t)
	netns.Run(t, f, "nft")
}

func openNFTables(t testing.TB, opts Options) *NFTables {
	t.Helper()
	return openKind(t, "nftables", opts).(*NFTables)
}

// elapsing is what nft prints of ends.
var elapsing = regexp.MustCompile(`timeout [0-9dhms]+`)

// ruleset prints what there is of nftables, without what changes by itself.
func ruleset(t testing.TB) string {
	t.Helper()
	return elapsing.ReplaceAllString(command(t, "nft -s list ruleset"), "timeout T")
}

func TestTableIsWhatNftWouldMake(t *testing.T) {
	onNFTables(t, func(t *testing.T) {
		b := openNFTables(t, Options{Hooks: []Hook{{"raw", "PREROUTING"}, {"filter", "FORWARD"}}, Ports: ports(t, "udp/5060", "tcp/5060-5061")})
		made, err := setUp(b)
		want := []string{
			"table inet fsban", "set fsban4", "set fsban6", "chain FSBAN", "rules of chain FSBAN",
			"chain raw_prerouting", "rules of chain raw_prerouting", "chain filter_forward", "rules of chain filter_forward",
		}
		if err != nil || !slices.Equal(made, want) {
			t.Fatalf("made %q, %v", made, err)
		}
		_, err = b.apply([]op{{prefix: prefix("192.0.2.0/24"), add: true, until: time.Now().Add(time.Hour)}, {prefix: prefix("2001:db8::/64"), add: true}})
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
		for _, again := range []*NFTables{b, openNFTables(t, b.opts)} {
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
	_, err := NewNFTables(Options{Hooks: []Hook{{"filter", "DOCKER-USER"}}})
	want := "firewall.chains: filter/DOCKER-USER is a chain of iptables: with nftables write filter/FORWARD, or another built-in one"
	if err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

func TestNFTablesEndsAreWhatWasAsked(t *testing.T) {
	for _, renews := range []bool{true, false} {
		t.Run(fmt.Sprint(renews), func(t *testing.T) {
			onNFTables(t, func(t *testing.T) {
				b := openNFTables(t, Options{})
				b.renews = renews && b.renews
				r := enforce(t, b, newBook(), EnforcerOptions{})
				ends := []time.Duration{time.Hour, time.Minute, Forever, 10 * 365 * 24 * time.Hour, Forever, 2 * time.Hour}
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
						if e.Left != d && (d == Forever || e.Left == Forever || d-e.Left > 30*time.Second || e.Left > d) {
							t.Errorf("%v: %v left of %v", e.Prefix, e.Left, d)
						}
					}
				}
			})
		})
	}
}

func TestNFTablesAdoptsAnEarlierRun(t *testing.T) {
	onNFTables(t, func(t *testing.T) {
		first := startKind(t, "nftables", Options{})
		first.ban("192.0.2.1", time.Hour)
		first.ban("192.0.2.0/24", time.Hour)
		first.ban("2001:db8::/64", Forever)
		first.settle()
		first.stop()
		command(t, "nft add element inet fsban fsban4 { 198.51.100.7 timeout 100s }")
		second := startKind(t, "nftables", Options{})
		got := make(map[netip.Prefix]bool)
		for _, e := range second.adopted {
			got[e.Prefix] = e.Left == Forever
		}
		want := map[netip.Prefix]bool{prefix("192.0.2.1"): false, prefix("192.0.2.0/24"): false, prefix("198.51.100.7"): false, prefix("2001:db8::/64"): true}
		if !maps.Equal(got, want) {
			t.Errorf("adopted %v, want %v", second.adopted, want)
		}
		second.unban("192.0.2.0/24")
		second.settle()
		if got := inKernel(t, second.backend); !slices.Equal(got, []string{"192.0.2.1/32", "198.51.100.7/32", "2001:db8::/64"}) {
			t.Errorf("the kernel holds %q", got)
		}
	})
}

func TestWhatOthersRemoveOfNFTablesIsMadeAgain(t *testing.T) {
	onNFTables(t, func(t *testing.T) {
		r := startKind(t, "nftables", Options{})
		r.ban("192.0.2.1", time.Hour)
		r.ban("192.0.2.2", Forever)
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

func TestNFTablesHearsAtOnce(t *testing.T) {
	onNFTables(t, func(t *testing.T) {
		r := enforce(t, openNFTables(t, Options{}), newBook(), EnforcerOptions{Check: time.Hour, Amend: func([]Entry) {}})
		r.until("enforcing", func() bool { return r.Status().Enforcing })
		r.ban("192.0.2.1", time.Hour)
		r.settle()
		r.until("restored", func() bool {
			command(t, "nft flush set inet fsban fsban4") // more than once: the listening begins a moment after the start
			time.Sleep(50 * time.Millisecond)
			return r.Status().Restored > 0
		})
		command(t, "nft flush ruleset")
		r.until("made again", func() bool {
			s := r.Status()
			return s.Repairs > 0 && s.Enforcing && s.Pending == 0 && slices.Equal(inKernel(t, r.backend), []string{"192.0.2.1/32"})
		})
		command(t, "nft add element inet fsban fsban4 { 192.0.2.9 }")
		r.until("adopted", func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			return len(r.adopted) == 1 && r.adopted[0].Prefix == prefix("192.0.2.9") && r.adopted[0].Left == Forever
		})
	})
}

func TestOwnBansNeedNoListing(t *testing.T) {
	onNFTables(t, func(t *testing.T) {
		b := openNFTables(t, Options{})
		if _, err := setUp(b); err != nil {
			t.Fatal(err)
		}
		var ops []op
		for i := range 20_000 {
			ops = append(ops, op{prefix: nth(i), add: true})
		}
		for _, again := range []string{"on the first connection", "on another one"} {
			conn, err := b.watcher.listen()
			if err != nil {
				t.Fatal(err)
			}
			if again != "on the first connection" {
				if err := b.change("add", &nftables.Set{Table: fsbanTable, Name: "nowhere"}, []Entry{{Prefix: prefix("192.0.2.1")}}, b.add); err == nil {
					t.Error("a set that is not there is filled")
				}
			}
			if _, err := b.apply(ops); err != nil {
				t.Fatal(err)
			}
			command(t, "nft add element inet fsban fsban4 { 192.0.2.9 }")
			_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
			// The first that the kernel tells of is what somebody else has done.
			messages, err := conn.Receive()
			if err != nil || !slices.ContainsFunc(messages, b.watcher.foreign) {
				t.Errorf("%s: %d messages, %v", again, len(messages), err)
			}
			_ = conn.Close()
			command(t, "nft delete element inet fsban fsban4 { 192.0.2.9 }")
		}
	})
}

func TestForeignSetInTheTableIsLeftAlone(t *testing.T) {
	onNFTables(t, func(t *testing.T) {
		command(t, "nft add table inet fsban")
		command(t, "nft add set inet fsban fsban4 { type ipv4_addr; flags interval; }")
		command(t, "nft add element inet fsban fsban4 { 10.0.0.0/8 }")
		r := enforce(t, openNFTables(t, Options{}), newBook(), EnforcerOptions{RetryMin: 10 * time.Millisecond})
		r.ban("192.0.2.1", time.Hour)
		r.ban("2001:db8::1", time.Hour)
		r.until("refused", func() bool {
			s := r.Status()
			return !s.Enforcing && errors.Is(s.Err, ErrSetClash) && s.Pending == 1 && strings.Contains(s.Err.Error(), "set fsban4")
		})
		if got := ruleset(t); !strings.Contains(got, "elements = { 10.0.0.0/8 }") || strings.Contains(got, "@fsban4 ") {
			t.Errorf("changed to %s", got)
		}
		if got := inKernel(t, r.backend); !slices.Equal(got, []string{"2001:db8::1/128"}) {
			t.Errorf("the kernel holds %q", got)
		}
		command(t, "nft delete set inet fsban fsban4")
		r.until("enforcing", func() bool { return r.Status().Enforcing })
		if got := inKernel(t, r.backend); !slices.Equal(got, []string{"192.0.2.1/32", "2001:db8::1/128"}) {
			t.Errorf("the kernel holds %q", got)
		}
	})
}

func TestTeardownRemovesFsbansTableAlone(t *testing.T) {
	onNFTables(t, func(t *testing.T) {
		command(t, "nft add table inet fsban-other")
		command(t, "nft add table ip fsban")
		command(t, "nft add chain inet fsban-other input { type filter hook input priority 0; }")
		before := ruleset(t)
		b := openNFTables(t, Options{Hooks: []Hook{{"raw", "PREROUTING"}, {"filter", "INPUT"}}})
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
		configurations := []Options{
			{},
			{Hooks: []Hook{{"filter", "INPUT"}, {"filter", "FORWARD"}}, Target: Reject},
			{Hooks: []Hook{{"mangle", "INPUT"}, {"raw", "PREROUTING"}}, Ports: ports(t, "udp/5060", "tcp/5060")},
			{Ports: ports(t, "udp/5060-5070")},
		}
		clean := func(opts Options) string {
			t.Helper()
			if _, err := setUp(openNFTables(t, opts)); err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(ruleset(t), "\n")
			slices.Sort(lines) // chains come in any order
			return strings.Join(lines, "\n")
		}
		for i, to := range configurations {
			_, _ = openNFTables(t, Options{}).Teardown()
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
		b := openNFTables(t, Options{})
		if _, err := setUp(b); err != nil {
			t.Fatal(err)
		}
		const steady = 20_000
		ops := make([]op, steady)
		for i := range ops {
			ops[i] = op{prefix: nth(i), add: true}
		}
		if _, err := b.apply(ops); err != nil {
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
				if _, err := b.apply([]op{{prefix: nth(steady + i%100), add: i/100%2 == 0}}); err != nil {
					stopped <- err
					return
				}
			}
		}()
		for range 10 {
			entries, err := b.entries()
			if err != nil {
				t.Fatal(err)
			}
			seen := make(map[netip.Prefix]int)
			for _, e := range entries {
				seen[e.Prefix]++
			}
			for _, o := range ops {
				if seen[o.prefix] != 1 {
					t.Fatalf("%v is listed %d times", o.prefix, seen[o.prefix])
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
			b := openNFTables(t, Options{})
			if _, err := setUp(b); err != nil {
				t.Fatal(err)
			}
			ops := make([]op, 60_000)
			for i := range ops {
				ops[i] = op{prefix: nth(i), add: true}
			}
			if _, err := b.apply(ops); err != nil {
				t.Fatal(err)
			}
			if got := inKernel(t, b); len(got) != len(ops) {
				t.Errorf("%d of %d entries are listed", len(got), len(ops))
			}
			if _, err := b.Teardown(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
