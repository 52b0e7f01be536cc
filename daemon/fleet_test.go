package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fsban/config"
	"fsban/control"
	"fsban/decide"
	"fsban/fleet"
	"fsban/fleet/merge"
	"fsban/internal/fakeswitch"
	"fsban/internal/netns"
	"fsban/internal/redisserver"
	"fsban/ledger"
	"fsban/policy"
)

// brisk makes a fleet detect failures and reconnect within milliseconds.
var brisk = fleet.Pace{Beat: 200 * time.Millisecond, RetryMin: 10 * time.Millisecond, RetryMax: 100 * time.Millisecond, Recheck: 300 * time.Millisecond}

// node starts a daemon with a FreeSWITCH of its own, in a fleet.
func node(t testing.TB, redis, name string, change ...func(*config.Config)) *rig {
	t.Helper()
	fs := newSwitch(t, fakeswitch.Options{})
	cfg := configFor(t, fs)
	cfg.Fleet.Redis, cfg.Fleet.Node = "redis://"+redis, name
	for _, f := range change {
		f(&cfg)
	}
	r := start(t, fs, cfg)
	r.ready()
	return r
}

// until waits for a condition that concerns several nodes.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	wait(t, what, ok, nil)
}

func inStep(t testing.TB, nodes ...*rig) {
	t.Helper()
	wait(t, "all are in step", func() bool {
		return !slices.ContainsFunc(nodes, func(r *rig) bool { return !r.fleet.Status().InStep })
	}, func() string {
		var b strings.Builder
		for _, r := range nodes {
			fmt.Fprintf(&b, "%s: %+v\n", r.loop.Node(), r.fleet.Status())
		}
		return b.String()
	})
}

// agree waits until all nodes hold exactly these bans, with the same ends.
func agree(t testing.TB, nodes []*rig, want ...string) {
	t.Helper()
	slices.Sort(want)
	var why string
	wait(t, fmt.Sprintf("all hold %v", want), func() bool {
		ends := make(map[netip.Prefix]time.Time)
		for i, r := range nodes {
			var got []string
			for _, b := range r.ledger.List() {
				got = append(got, b.Prefix.String())
				if old, known := ends[b.Prefix]; known && old.Sub(b.Until).Abs() > time.Second {
					why = fmt.Sprintf("node %d: %v ends at %v, elsewhere at %v", i, b.Prefix, b.Until, old)
					return false
				}
				ends[b.Prefix] = b.Until
			}
			if slices.Sort(got); !slices.Equal(got, want) {
				why = fmt.Sprintf("node %d holds %v; %+v", i, got, r.fleet.Status())
				return false
			}
			if !r.fleet.Status().InStep {
				why = fmt.Sprintf("node %d is not in step: %+v", i, r.fleet.Status())
				return false
			}
		}
		return true
	}, func() string { return why })
}

func (r *rig) ban(prefix string, o ...func(*control.BanRequest)) {
	r.t.Helper()
	req := control.BanRequest{Prefix: netip.MustParsePrefix(prefix), Reason: "a test"}
	for _, f := range o {
		f(&req)
	}
	if _, err := r.client.Ban(r.t.Context(), req); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) unban(prefix string) {
	r.t.Helper()
	if _, err := r.client.Unban(r.t.Context(), netip.MustParsePrefix(prefix)); err != nil {
		r.t.Fatal(err)
	}
}

func TestBansAndUnbansOfARuleAndOfOperatorsGoToTheWholeFleet(t *testing.T) {
	t.Parallel()
	redis := redisserver.Start(t)
	a, b, c := node(t, redis.Addr(), "a"), node(t, redis.Addr(), "b"), node(t, redis.Addr(), "c")
	all := []*rig{a, b, c}
	inStep(t, all...)
	a.fail("203.0.113.66", 5)
	b.ban("198.51.100.0/24")
	c.ban("2001:db8::/64", func(r *control.BanRequest) { r.Time = policy.Forever })
	agree(t, all, "203.0.113.66/32", "198.51.100.0/24", "2001:db8::/64")
	w := c.why("203.0.113.66")
	if w.Ban == nil || w.Ban.Rule != "auth" || w.Ban.Attempts != 5 || w.Ban.Source != "event" || w.Ban.Node != a.loop.Node() || !strings.HasPrefix(w.Ban.Node, "a-") {
		t.Errorf("c knows of a's ban %+v", w.Ban)
	}
	if w := a.why("198.51.100.7"); w.Ban == nil || !strings.Contains(w.Ban.By, "uid ") || w.Ban.Reason != "a test" || !strings.HasPrefix(w.Ban.Node, "b-") {
		t.Errorf("a knows of b's ban %+v", w.Ban)
	}
	c.unban("203.0.113.66/32")
	a.unban("198.51.100.0/24")
	b.unban("2001:db8::/64")
	agree(t, all)
	for _, r := range all {
		r.logged("cause=unbanned")
		until(t, "metrics and status tell of all", func() bool {
			f := r.status().Fleet
			return r.has("fsban_fleet_connected", "1") && r.has("fsban_fleet_nodes", "3") && f != nil && f.InStep && len(f.Nodes) == 3 &&
				!slices.ContainsFunc(f.Nodes, func(n control.FleetNode) bool {
					return n.Version != "test" || !n.Ready || !slices.Contains(n.ActiveSources, "event")
				})
		})
	}
}

// A ban of another node is a new ban in top, status and metrics. Bans that a joining node takes over are not.
func TestABanOfAnotherNodeIsANewBan(t *testing.T) {
	t.Parallel()
	redis := redisserver.Start(t)
	a, b := node(t, redis.Addr(), "a"), node(t, redis.Addr(), "b")
	inStep(t, a, b)
	a.fail("203.0.113.1", 5)
	agree(t, []*rig{a, b}, "203.0.113.1/32")
	top, err := b.client.Top(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if len(top.NewBans) != 1 || top.NewBans[0].Node != a.loop.Node() || top.NewBans[0].Rule != "auth" || top.Bans.Made != 1 {
		t.Errorf("top: new bans %+v, %d made", top.NewBans, top.Bans.Made)
	}
	if s := b.status(); s.Bans.Made != 1 || s.Bans.IPv4 != 1 {
		t.Errorf("status: %+v", s.Bans)
	}
	if got := b.bansMade(); got != "rule=fleet 1\n" {
		t.Errorf("fsban_bans_total: %s", got)
	}
	c := node(t, redis.Addr(), "c")
	agree(t, []*rig{a, b, c}, "203.0.113.1/32")
	if s := c.status(); s.Bans.Made != 0 {
		t.Errorf("joined: %+v", s.Bans)
	}
}

// A peer bans more addresses than the backend rules can hold, here 20 at 100 rules a ban: the ledger never holds more than the
// kernel, and this node keeps enforcing.
func TestBansOfANodeBeyondTheCapacityOfRulesAreRefused(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		redis := redisserver.Start(t)
		a := node(t, redis.Addr(), "a")
		b := node(t, redis.Addr(), "b", func(c *config.Config) {
			c.Firewall.Backend = config.BackendRules
			c.Firewall.Ports = nil
			for port := range 1500 {
				c.Firewall.Ports = append(c.Firewall.Ports, fmt.Sprintf("udp/%d", 5060+2*port))
			}
		})
		inStep(t, a, b)
		for i := range 30 {
			a.ban(fmt.Sprintf("203.0.113.%d/32", i+1))
		}
		until(t, "b has refused what it has no room for", func() bool { return b.fleet.Refused(merge.Full) >= 10 })
		v4, v6 := b.ledger.Count()
		if v4+v6 != 20 {
			t.Errorf("%d bans", v4+v6)
		}
		b.eventually("the kernel holds them", func() bool { return b.inForce(20) && b.enforcer.Status().Enforcing })
	}, "iptables", "ip6tables", "redis-server")
}

func TestLocalOrdersStayHere(t *testing.T) {
	t.Parallel()
	redis := redisserver.Start(t)
	a, b := node(t, redis.Addr(), "a"), node(t, redis.Addr(), "b")
	inStep(t, a, b)
	a.ban("203.0.113.1/32", func(r *control.BanRequest) { r.Local = true })
	a.ban("203.0.113.2/32")
	agree(t, []*rig{b}, "203.0.113.2/32")
	if _, err := b.client.UnbanWith(t.Context(), netip.MustParsePrefix("203.0.113.2/32"), control.Withdrawal{Local: true}); err != nil {
		t.Fatal(err)
	}
	allow := func(r *rig, prefix string, local bool) {
		t.Helper()
		if _, err := r.client.Allow(t.Context(), control.AllowRequest{Prefix: netip.MustParsePrefix(prefix), Local: local}); err != nil {
			t.Fatal(err)
		}
	}
	allow(a, "203.0.113.3/32", true)
	allow(a, "203.0.113.4/32", false)
	allow(a, "203.0.113.5/32", false)
	until(t, "b has what was allowed", func() bool { return strings.Contains(fmt.Sprint(b.status().Policy.NeverBan), "203.0.113.5/32") })
	if _, err := b.client.DisallowWith(t.Context(), netip.MustParsePrefix("203.0.113.4/32"), control.Withdrawal{Local: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.client.Disallow(t.Context(), netip.MustParsePrefix("203.0.113.5/32")); err != nil {
		t.Fatal(err)
	}
	until(t, "a has what was disallowed", func() bool { return !strings.Contains(fmt.Sprint(a.status().Policy.NeverBan), "203.0.113.5/32") })
	never := fmt.Sprint(a.status().Policy.NeverBan)
	if !strings.Contains(never, "203.0.113.3/32") || !strings.Contains(never, "203.0.113.4/32") {
		t.Errorf("a never bans %s", never)
	}
	if never := fmt.Sprint(b.status().Policy.NeverBan); strings.Contains(never, "203.0.113.3/32") || strings.Contains(never, "203.0.113.4/32") {
		t.Errorf("b never bans %s", never)
	}
	for _, r := range []*rig{a, b} { // a full resync must change nothing
		before := r.fleet.Status().Resyncs
		r.fleet.Resync()
		until(t, "all is read anew", func() bool { s := r.fleet.Status(); return s.Resyncs > before && s.InStep })
	}
	agree(t, []*rig{a}, "203.0.113.1/32", "203.0.113.2/32")
	agree(t, []*rig{b})
}

func TestEachNodesOwnNeverBanListHolds(t *testing.T) {
	t.Parallel()
	redis := redisserver.Start(t)
	a := node(t, redis.Addr(), "a")
	b := node(t, redis.Addr(), "b", func(c *config.Config) { c.Policy.IgnoreIP = append(c.Policy.IgnoreIP, "203.0.113.66") })
	inStep(t, a, b)
	a.fail("203.0.113.66", 5)
	a.ban("203.0.113.0/24")
	a.ban("198.51.100.7/32")
	agree(t, []*rig{a}, "203.0.113.66/32", "203.0.113.0/24", "198.51.100.7/32")
	// More if b has requested a resync meanwhile.
	until(t, "b has refused both", func() bool { return b.fleet.Refused(merge.NeverBan) >= 2 })
	agree(t, []*rig{b}, "198.51.100.7/32")
}

// after waits until a's stamps are newer than b's: their clocks agree only within a round trip to Redis.
func after(a, b *rig) {
	a.t.Helper()
	stamp := b.fleet.Stamp()
	until(a.t, "its clock has gone on", func() bool { return a.fleet.StampOf(time.Now()) > stamp })
}

func TestAPartitionOfAMinuteEndsInAgreement(t *testing.T) {
	t.Parallel()
	redis := redisserver.Start(t)
	left, right := redisserver.NewProxy(t, redis.Addr()), redisserver.NewProxy(t, redis.Addr())
	a, b := node(t, left.Addr(), "a"), node(t, left.Addr(), "b")
	c, d := node(t, right.Addr(), "c"), node(t, right.Addr(), "d")
	all := []*rig{a, b, c, d}
	inStep(t, all...)
	a.ban("203.0.113.1/32")
	a.ban("203.0.113.2/32")
	a.ban("203.0.113.3/32")
	agree(t, all, "203.0.113.1/32", "203.0.113.2/32", "203.0.113.3/32")
	cut := time.Now()
	right.Cut()
	until(t, "c and d are alone", func() bool { return !c.fleet.Status().Up && !d.fleet.Status().Up })
	c.problem("fleet: this node is alone: the fleet's Redis")
	c.metricHas("fsban_fleet_connected", "0")
	a.unban("203.0.113.1/32") // no other node made a statement about it
	c.unban("203.0.113.2/32")
	b.unban("203.0.113.3/32") // banned again later by c
	a.ban("198.51.100.1/32")
	d.ban("198.51.100.2/32")
	a.ban("198.51.100.3/32") // unbanned later by a; c bans it before that
	c.ban("198.51.100.3/32")
	after(c, b)
	c.unban("203.0.113.3/32")
	c.ban("203.0.113.3/32", func(r *control.BanRequest) { r.Time = 7 * time.Hour })
	after(a, c)
	a.unban("198.51.100.3/32")
	c.fail("203.0.113.66", 5)
	agreedAlone := func(r *rig, prefix string) func() bool {
		return func() bool { _, ok := r.ledger.Get(netip.MustParsePrefix(prefix)); return ok }
	}
	until(t, "c bans alone", agreedAlone(c, "203.0.113.66/32"))
	agree(t, []*rig{a, b}, "198.51.100.1/32", "203.0.113.2/32")
	time.Sleep(time.Until(cut.Add(time.Minute)))
	right.Heal()
	agree(t, all, "198.51.100.1/32", "198.51.100.2/32", "203.0.113.3/32", "203.0.113.66/32")
}

// A node's own restart during an outage of Redis must not change the result.
func TestWhatWasUnbannedWhileRedisWasAwayStaysSoOverARestart(t *testing.T) {
	t.Parallel()
	redis := redisserver.Start(t)
	way := redisserver.NewProxy(t, redis.Addr())
	a := node(t, way.Addr(), "a")
	b := node(t, redis.Addr(), "b")
	inStep(t, a, b)
	b.ban("203.0.113.1/32")
	agree(t, []*rig{a, b}, "203.0.113.1/32")
	way.Cut()
	until(t, "a is alone", func() bool { return !a.fleet.Status().Up })
	a.unban("203.0.113.1/32")
	a.ban("203.0.113.2/32")
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	way.Heal()
	again := start(t, a.fs, *a.cfg())
	agree(t, []*rig{again, b}, "203.0.113.2/32")
	if again.loop.Node() != a.loop.Node() {
		t.Errorf("it is %s, and was %s", again.loop.Node(), a.loop.Node())
	}
}

// A redisFault is a fault of Redis or of the connection to it, as operators know it.
type redisFault struct {
	fail    func(*testing.T, *redisserver.Server, *redisserver.Proxy)
	back    func(*testing.T, *redisserver.Server, *redisserver.Proxy)
	problem string // in status meanwhile; empty: the fault may go unnoticed
}

var redisFaults = map[string]redisFault{
	"away": {
		fail:    func(_ *testing.T, s *redisserver.Server, p *redisserver.Proxy) { p.Cut() },
		back:    func(_ *testing.T, s *redisserver.Server, p *redisserver.Proxy) { p.Heal() },
		problem: "this node is alone",
	},
	"flushed": {
		fail: func(t *testing.T, s *redisserver.Server, _ *redisserver.Proxy) { cli(t, s, "flushall") },
	},
	"restarted empty": {
		fail:    func(_ *testing.T, s *redisserver.Server, _ *redisserver.Proxy) { s.Kill() },
		back:    func(_ *testing.T, s *redisserver.Server, _ *redisserver.Proxy) { s.Restart() },
		problem: "this node is alone",
	},
	"slow": {
		fail: func(t *testing.T, s *redisserver.Server, _ *redisserver.Proxy) {
			cli(t, s, "client", "pause", "1000", "all")
		},
	},
	"standing still": {
		fail:    func(_ *testing.T, s *redisserver.Server, _ *redisserver.Proxy) { s.Pause() },
		back:    func(_ *testing.T, s *redisserver.Server, _ *redisserver.Proxy) { s.Resume() },
		problem: "Redis does not answer in time",
	},
	"out of memory": {
		fail: func(t *testing.T, s *redisserver.Server, _ *redisserver.Proxy) {
			cli(t, s, "config", "set", "maxmemory", "1")
		},
		back: func(t *testing.T, s *redisserver.Server, _ *redisserver.Proxy) {
			cli(t, s, "config", "set", "maxmemory", "0")
		},
		problem: "Redis is out of memory (maxmemory)",
	},
	"the password has changed": {
		fail: func(t *testing.T, s *redisserver.Server, p *redisserver.Proxy) {
			cli(t, s, "config", "set", "requirepass", "other")
			p.Cut()
			p.Heal()
		},
		back: func(t *testing.T, s *redisserver.Server, _ *redisserver.Proxy) {
			cli(t, s, "-a", "other", "config", "set", "requirepass", "")
		},
		problem: "the login to Redis is refused (fleet.username, fleet.password_file)",
	},
	"the log was deleted": {
		fail: func(t *testing.T, s *redisserver.Server, _ *redisserver.Proxy) { cli(t, s, "del", "{fsban:fsban}:log") },
	},
	"somebody else writes to it": {
		fail: func(t *testing.T, s *redisserver.Server, _ *redisserver.Proxy) {
			cli(t, s, "xadd", "{fsban:fsban}:log", "*", "d", "hello")
			cli(t, s, "hset", "{fsban:fsban}:bans", "0.0.0.0/0", "hello", "203.0.113.1/32", "hello")
		},
	},
}

func TestRedisGoesAndComesBackAsOperatorsKnowIt(t *testing.T) {
	t.Parallel()
	const one, two, three, four = "203.0.113.1/32", "203.0.113.2/32", "203.0.113.3/32", "203.0.113.4/32"
	for name, tc := range redisFaults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redis := redisserver.Start(t)
			way := redisserver.NewProxy(t, redis.Addr())
			a, b := node(t, way.Addr(), "a"), node(t, way.Addr(), "b")
			all := []*rig{a, b}
			inStep(t, all...)
			a.ban(one)
			b.ban(two)
			a.ban(three)
			a.unban(three)
			agree(t, all, one, two)
			tc.fail(t, redis, way)
			if tc.problem != "" {
				until(t, "it is noticed", func() bool {
					return strings.Contains(strings.Join(a.status().Problems, "\n"), tc.problem) && a.has("fsban_fleet_connected", "0")
				})
			}
			a.unban(one)
			b.ban(four)
			if tc.problem != "" && name != "out of memory" {
				if _, banned := a.ledger.Get(netip.MustParsePrefix(four)); banned {
					t.Error("Redis is there still")
				}
			}
			if tc.back != nil {
				tc.back(t, redis, way)
			}
			agree(t, all, two, four)
			// A node that joins now receives the same bans.
			late := node(t, way.Addr(), "late")
			agree(t, append(all, late), two, four)
		})
	}
}

func cli(t *testing.T, s *redisserver.Server, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "redis-cli", append([]string{"-s", s.Socket}, args...)...).CombinedOutput()
	if err != nil || strings.Contains(string(out), "ERR") {
		t.Fatalf("redis-cli %v: %v %s", args, err, out)
	}
	return string(out)
}

func TestAFailoverToAnOldReplicaLosesNothing(t *testing.T) {
	t.Parallel()
	master := redisserver.Start(t, "--repl-diskless-sync-delay", "0")
	replica := redisserver.Start(t)
	way := redisserver.NewProxy(t, master.Addr())
	a, b := node(t, way.Addr(), "a"), node(t, way.Addr(), "b")
	all := []*rig{a, b}
	inStep(t, all...)
	a.ban("203.0.113.1/32")
	b.ban("203.0.113.2/32")
	agree(t, all, "203.0.113.1/32", "203.0.113.2/32")
	cli(t, replica, "replicaof", "127.0.0.1", fmt.Sprint(master.Port))
	until(t, "the replica has it", func() bool {
		return strings.Contains(cli(t, replica, "hkeys", "{fsban:fsban}:bans"), "203.0.113.2/32") && strings.Contains(cli(t, replica, "info", "replication"), "master_link_status:up")
	})
	cli(t, replica, "replicaof", "no", "one") // from here on the replica is behind
	a.unban("203.0.113.1/32")
	b.ban("203.0.113.3/32")
	agree(t, all, "203.0.113.2/32", "203.0.113.3/32")
	master.Kill()
	way.Redirect(replica.Addr())
	agree(t, all, "203.0.113.2/32", "203.0.113.3/32")
	late := node(t, replica.Addr(), "late")
	agree(t, append(all, late), "203.0.113.2/32", "203.0.113.3/32")
}

func shareFailures(c *config.Config) { c.Fleet.Share = config.ShareFailures }

func TestFailuresOfAllNodesCountTogetherExactlyOnce(t *testing.T) {
	t.Parallel()
	redis := redisserver.Start(t)
	var all []*rig
	for i := range 5 {
		all = append(all, node(t, redis.Addr(), fmt.Sprint("n", i), shareFailures))
	}
	inStep(t, all...)
	counted := func(r *rig, addr string, n int) func() bool {
		return func() bool {
			for _, c := range r.why(addr).Counts {
				if c.Rule == "auth" {
					return c.Count == n
				}
			}
			return n == 0
		}
	}
	for i, r := range all[:4] {
		r.fail("203.0.113.66", 1)
		for _, other := range all {
			until(t, "it counts everywhere", counted(other, "203.0.113.66", i+1))
		}
	}
	agree(t, all)
	// A restart loses no count and counts no attempt twice.
	all[1] = all[1].restart(*all[1].cfg())
	all[2].fail("203.0.113.67", 1)
	for _, r := range all {
		until(t, "the other one", counted(r, "203.0.113.67", 1))
		if !counted(r, "203.0.113.66", 4)() {
			t.Errorf("%s counts %+v", r.loop.Node(), r.why("203.0.113.66").Counts)
		}
	}
	all[4].fail("203.0.113.66", 1)
	agree(t, all, "203.0.113.66/32")
	b, _ := all[0].ledger.Get(netip.MustParsePrefix("203.0.113.66/32"))
	if !strings.HasPrefix(b.Node, "n4-") || b.Attempts != 5 {
		t.Errorf("it was banned by %s after %d attempts", b.Node, b.Attempts)
	}
	// All nodes learn a known-good address.
	all[3].says(fakeswitch.Success, "198.51.100.50", "2001", 1)
	for _, r := range all {
		until(t, "known-good everywhere", func() bool { return !r.why("198.51.100.50").KnownGood.IsZero() })
	}
}

func TestNothingCountsTwiceWhenRedisGoesBack(t *testing.T) {
	t.Parallel()
	for name, lose := range map[string]func(*testing.T, *redisserver.Server, *redisserver.Proxy){
		"its log is gone":     func(t *testing.T, s *redisserver.Server, _ *redisserver.Proxy) { cli(t, s, "flushall") },
		"connections are cut": func(_ *testing.T, _ *redisserver.Server, p *redisserver.Proxy) { p.Cut(); p.Heal() },
		"its log is another": func(t *testing.T, s *redisserver.Server, _ *redisserver.Proxy) {
			cli(t, s, "hset", "{fsban:fsban}:meta", "epoch", "other")
		},
		"answers are lost": func(_ *testing.T, s *redisserver.Server, p *redisserver.Proxy) {
			s.Pause()
			time.Sleep(50 * time.Millisecond) // statements sent meanwhile wait in the socket
			p.Cut()
			s.Resume()
			p.Heal()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redis := redisserver.Start(t)
			way := redisserver.NewProxy(t, redis.Addr())
			a, b := node(t, way.Addr(), "a", shareFailures), node(t, way.Addr(), "b", shareFailures)
			inStep(t, a, b)
			want := 0
			for range 3 {
				a.fail("203.0.113.66", 1)
				want++
				lose(t, redis, way)
			}
			// Later statements arrive after it.
			until(t, "it is noticed", func() bool {
				a.fail("203.0.113.67", 1)
				_, banned := b.ledger.Get(netip.MustParsePrefix("203.0.113.67/32"))
				return banned
			})
			inStep(t, a, b)
			n := 0
			for _, c := range b.why("203.0.113.66").Counts {
				if c.Rule == "auth" {
					n = c.Count
				}
			}
			// A flush may lose statements that were not read yet.
			if n > want || n < want && name != "its log is gone" {
				t.Errorf("b counts %d, want %d", n, want)
			}
		})
	}
}

func TestNothingCountsTwiceWhenTheStateFileIsDamaged(t *testing.T) {
	t.Parallel()
	redis := redisserver.Start(t)
	fs := newSwitch(t, fakeswitch.Options{})
	cfg := configFor(t, fs)
	cfg.Fleet.Redis, cfg.Fleet.Node, cfg.Fleet.Share = "redis://"+redis.Addr(), "a", config.ShareFailures
	cfg.CTILog.Path = filepath.Join(cfg.State.Directory, "cti_fail2ban.log")
	var lines strings.Builder
	for range 4 {
		fmt.Fprintf(&lines, "ip[203.0.113.66] user[1000] at[%s] Registration failed\n", time.Now().Format("2006-01-02T15:04:05.000000-0700"))
	}
	if err := os.WriteFile(cfg.CTILog.Path, []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	counted := func(r *rig) (n int) {
		for _, c := range r.why("203.0.113.66").Counts {
			if c.Rule == "auth" {
				n = c.Count
			}
		}
		return n
	}
	r := start(t, fs, cfg)
	until(t, "the log is counted, and told of", func() bool { return counted(r) == 4 && r.fleet.Sent(merge.Attempt) > 0 })
	inStep(t, r)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(cfg.State.Directory, "fsban.db"), []byte("no database"), 0o600); err != nil {
		t.Fatal(err)
	}
	there := cfg.Fleet.Redis
	cfg.Fleet.Redis = "redis://127.0.0.1:1" // no server
	r = start(t, fs, cfg)
	until(t, "the log is counted again", func() bool { return counted(r) == 4 })
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	cfg.Fleet.Redis = there
	r = start(t, fs, cfg)
	inStep(t, r)
	if n := counted(r); n != 4 || len(r.banned()) > 0 {
		t.Errorf("%d counted, %v banned", n, r.banned())
	}
}

// An unban by another node holds over a restart: journal attempts from before it do not count.
func TestAFleetsUnbanHoldsThoughTheCountIsOlder(t *testing.T) {
	t.Parallel()
	fs := newSwitch(t, fakeswitch.Options{})
	cfg := configFor(t, fs)
	cfg.Fleet.Redis = "redis://127.0.0.1:1" // no server
	now := time.Now()
	l, err := ledger.Open(filepath.Join(cfg.State.Directory, "fsban.db"), now)
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range []string{"203.0.113.66", "203.0.113.67"} {
		for range 4 {
			l.Note(ledger.Entry{Attempt: policy.Attempt{Addr: netip.MustParseAddr(addr), At: now.Add(-time.Second), Kind: policy.AuthFailure, User: "1000"}}, now)
		}
	}
	unbanned := netip.MustParsePrefix("203.0.113.66/32")
	err = l.Keep(ledger.Unbanned, unbanned, merge.Tombstone{Prefix: unbanned, Stamp: now.UnixMicro(), Node: "b", Until: now.Add(time.Hour)})
	l.Seal([]byte(`{}`), now.Add(-time.Hour))
	if err := errors.Join(err, l.Flush(), l.Close()); err != nil {
		t.Fatal(err)
	}
	r := start(t, fs, cfg)
	r.ready()
	r.fail("203.0.113.67", 1)
	r.fail("203.0.113.66", 4)
	r.settled()
	if got := fmt.Sprint(r.banned()); !strings.Contains(got, "203.0.113.67") || strings.Contains(got, "203.0.113.66") {
		t.Errorf("banned are %s", got)
	}
	if w := r.why("203.0.113.66"); w.Ban != nil {
		t.Errorf("four failures after the unban: %+v", w.Ban)
	}
}

// A node killed right after its first start restarts under the same name. A new name would make its earlier statements those of
// another node.
func TestANodeKeepsItsNameFromTheFirstMoment(t *testing.T) {
	t.Parallel()
	cfg := configFor(t, newSwitch(t, fakeswitch.Options{}))
	cfg.Fleet.Redis, cfg.Fleet.Node = "redis://127.0.0.1:1", "a.example.org_1"
	var names []string
	for range 2 {
		d, err := open(cfg, Options{Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, d.loop.Node())
		if err := errors.Join(d.ledger.Close(), d.enforcer.Backend().Close()); err != nil {
			t.Fatal(err)
		}
	}
	if names[0] != names[1] || !strings.HasPrefix(names[0], cfg.Fleet.Node+"-") {
		t.Errorf("it was %s, and is %s", names[0], names[1])
	}
}

func TestBansOfOneNodeBeyondItsRateWait(t *testing.T) {
	t.Parallel()
	redis := redisserver.Start(t)
	a := node(t, redis.Addr(), "a", func(c *config.Config) { c.Policy.BanRate = 0 })
	b := node(t, redis.Addr(), "b", func(c *config.Config) { c.Policy.BanRate = 3 })
	inStep(t, a, b)
	began := time.Now()
	for i := range 10 {
		a.fail(fmt.Sprintf("203.0.113.%d", i+1), 5)
	}
	until(t, "a has banned all", func() bool { return len(a.ledger.List()) == 10 })
	a.ban("198.51.100.1/32") // an operator's ban is not limited by the rate
	until(t, "b has heard of all", func() bool {
		waiting := 0
		if err := b.loop.Do(t.Context(), func() { b.loop.Tick(time.Now()); waiting = b.loop.Observed().Waiting }); err != nil {
			t.Fatal(err)
		}
		_, ok := b.ledger.Get(netip.MustParsePrefix("198.51.100.1/32"))
		return ok && len(b.ledger.List())+waiting == 11
	})
	// A new minute, which may have begun meanwhile, admits the waiting bans.
	if n := b.fleet.Refused(merge.Rate); n != 4 && began.Truncate(time.Minute).Equal(time.Now().Truncate(time.Minute)) {
		t.Errorf("%d had to wait, want 4", n)
	}
	err := b.loop.Do(t.Context(), func() { // the next minute
		b.loop.Tick(time.Now().Add(time.Minute))
		b.loop.Tick(time.Now().Add(2 * time.Minute))
	})
	if err != nil {
		t.Fatal(err)
	}
	agree(t, []*rig{a, b}, slices.Collect(maps.Keys(func() map[string]bool {
		want := map[string]bool{"198.51.100.1/32": true}
		for i := range 10 {
			want[fmt.Sprintf("203.0.113.%d/32", i+1)] = true
		}
		return want
	}()))...)
}

func TestWhatWaitsIsBoundedThoughItIsTakenBackAgainAndAgain(t *testing.T) {
	t.Parallel()
	r := node(t, "127.0.0.1:1", "a", func(c *config.Config) { c.Policy.BanRate = 1 }) // no server
	addr := netip.MustParsePrefix("203.0.113.66/32")
	now, batch := time.Unix(1_800_000_000, 0), merge.Batch{}
	ban := merge.Statement{Kind: merge.Ban, Prefix: addr, Node: "b-1", Rule: "auth", Since: now, Until: now.Add(1000 * time.Hour)}
	for i := range 10_010 {
		unban := ban
		ban.Stamp, unban.Kind, unban.Stamp = int64(2*i+1), merge.Unban, int64(2*i+2)
		batch.Statements = append(batch.Statements, ban, unban)
	}
	if err := r.loop.TakeBatch(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	if err := r.loop.Do(t.Context(), func() { r.loop.Tick(time.Now()) }); err != nil {
		t.Fatal(err)
	}
	if n := r.loop.Observed().Waiting; n > 1 {
		t.Errorf("%d wait, of one prefix", n)
	}
}

func TestWhoJoinsGetsAllBans(t *testing.T) {
	t.Parallel()
	const many = 5_000
	redis := redisserver.Start(t)
	a := node(t, redis.Addr(), "a")
	inStep(t, a)
	fill(t, a, many)
	until(t, "all is told", func() bool { return a.fleet.Status().InStep })
	began := time.Now()
	b := node(t, redis.Addr(), "b")
	until(t, "b has them all", func() bool { v4, _ := b.ledger.Count(); return v4 == many && b.enforcer.Status().Pending == 0 })
	t.Logf("%d bans are in force %v after the start", many, time.Since(began).Round(time.Millisecond))
}

// fill makes a node ban n addresses.
func fill(t testing.TB, r *rig, n int) {
	t.Helper()
	for i := range n {
		if _, err := r.loop.Ban(context.Background(), operatorsBan(i)); err != nil {
			t.Fatal(err)
		}
	}
}

func operatorsBan(i int) decide.BanOrder {
	addr := netip.AddrFrom4([4]byte{100, byte(64 + i>>16), byte(i >> 8), byte(i)})
	return decide.BanOrder{Prefix: netip.PrefixFrom(addr, 32), BanTime: 24 * time.Hour, By: "a test", Force: true}
}
