package daemon

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"fsban/config"
	"fsban/control"
	"fsban/internal/fakeswitch"
	"fsban/internal/netns"
	"fsban/internal/redisserver"
)

// fleetChildEnv makes this test program a node with its own FreeSWITCH and kernel, in namespaces of its own; it reaches the
// other nodes only through Redis' unix socket. Each line of its input is an address that fails once.
const fleetChildEnv = "FSBAN_TEST_FLEET_NODE"

func fleetChildMain(path string) int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	done, err := netns.Prepare()
	if err != nil {
		return fail(err)
	}
	defer done()
	data, err := os.ReadFile(path)
	if err != nil {
		return fail(err)
	}
	cfg := config.Default()
	if err := json.Unmarshal(data, &cfg); err != nil {
		return fail(err)
	}
	cfg.FreeSWITCH.Password, cfg.Fleet.Password = config.Default().FreeSWITCH.Password, ""
	fs := fakeswitch.New(fakeswitch.Options{})
	if err := fs.Listen("127.0.0.1:0"); err != nil {
		return fail(err)
	}
	cfg.FreeSWITCH.Address = fs.Addr()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go func() { _ = fs.Serve(ctx) }()
	go func() {
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			fs.Emit(fakeswitch.WrongPassword, fakeswitch.Caller{Addr: netip.MustParseAddr(lines.Text()), User: "1000"}, time.Now())
		}
	}()
	if err := Run(ctx, cfg, Options{Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), Version: "test", tune: impatient, pace: brisk}); err != nil {
		return fail(err)
	}
	return 0
}

// A guarded is a node in namespaces of its own.
type guarded struct {
	t      testing.TB
	client *control.Client
	input  io.Writer
}

// guard starts a node that enforces in the kernel. It does not wait until the node is ready.
func guard(t testing.TB, redis *redisserver.Server, name string, change ...func(*config.Config)) *guarded {
	t.Helper()
	dir, err := os.MkdirTemp("", "fsban")
	if err != nil {
		t.Fatal(err)
	}
	cfg := config.Default()
	cfg.Firewall.Backend, cfg.HTTP.Listen, cfg.SIP.Tap = config.BackendIPTables, "", config.TapOff
	cfg.State.Directory, cfg.Control.Socket = dir, filepath.Join(dir, "s")
	cfg.Fleet.Redis, cfg.Fleet.Node = "unix://"+redis.Socket, name
	for _, f := range change {
		f(&cfg)
	}
	data, err := json.Marshal(&cfg)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "config.json")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread() // the node dies with the thread that has started it
	cmd := netns.Command(context.Background(), os.Args[0])
	cmd.Env = append(cmd.Env, fleetChildEnv+"="+path)
	log := new(syncBuffer)
	cmd.Stdout, cmd.Stderr = log, log
	input, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	g := &guarded{t: t, client: control.NewClient(cfg.Control.Socket), input: input}
	t.Cleanup(func() {
		g.client.Close()
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Errorf("node %s ended with %v; its log:\n%s", name, err, log)
		}
		_ = os.RemoveAll(dir)
		runtime.UnlockOSThread()
	})
	return g
}

// inFleet waits until the nodes protect and are in sync.
func inFleet(t testing.TB, nodes ...*guarded) {
	t.Helper()
	until(t, "all nodes protect and are in step", func() bool {
		for _, g := range nodes {
			if s, err := g.client.Status(context.Background()); err != nil || !s.Ready || s.Fleet == nil || !s.Fleet.InStep {
				return false
			}
		}
		return true
	})
}

// holds reports whether the node's kernel has the ban.
func (g *guarded) holds(prefix string) bool {
	bans, err := g.client.Bans(context.Background(), control.Pick{})
	return err == nil && slices.ContainsFunc(bans, func(b control.Ban) bool { return b.Prefix.String() == prefix && b.InKernel })
}

func fiveNodes(t testing.TB, change ...func(*config.Config)) (nodes []*guarded) {
	t.Helper()
	redis := redisserver.Start(t)
	for i := range 5 {
		nodes = append(nodes, guard(t, redis, fmt.Sprint("n", i), change...))
	}
	inFleet(t, nodes...)
	return nodes
}

// spread bans addresses on the first node and returns the times until the kernels of all others had each.
func spread(t testing.TB, nodes []*guarded, times int) []time.Duration {
	t.Helper()
	var took []time.Duration
	for i := range times {
		prefix := fmt.Sprintf("203.0.113.%d/32", i+1)
		began := time.Now()
		if _, err := nodes[0].client.Ban(t.Context(), control.BanRequest{Prefix: netip.MustParsePrefix(prefix)}); err != nil {
			t.Fatal(err)
		}
		for missing := slices.Clone(nodes[1:]); len(missing) > 0; {
			missing = slices.DeleteFunc(missing, func(g *guarded) bool {
				there := g.holds(prefix)
				if there {
					took = append(took, time.Since(began))
				}
				return there
			})
			if time.Since(began) > time.Minute {
				t.Fatalf("%s is not in the kernel of %d nodes", prefix, len(missing))
			}
		}
	}
	slices.Sort(took)
	return took
}

func TestABanOnOneNodeIsInTheKernelOfTheOtherFour(t *testing.T) {
	t.Parallel()
	nodes := fiveNodes(t)
	took := spread(t, nodes, 20)
	t.Logf("from the order until another node's kernel has the ban: median %v, longest %v", took[len(took)/2], took[len(took)-1])
	if _, err := nodes[3].client.Unban(t.Context(), netip.MustParsePrefix("203.0.113.1/32")); err != nil {
		t.Fatal(err)
	}
	for _, g := range nodes {
		until(t, "the unban", func() bool { return !g.holds("203.0.113.1/32") && g.holds("203.0.113.2/32") })
	}
}

func TestAnAttackerOfFiveNodesIsBannedAtTheFifth(t *testing.T) {
	t.Parallel()
	nodes := fiveNodes(t, shareFailures)
	const attacker = "203.0.113.66"
	for i, g := range nodes {
		for _, other := range nodes {
			until(t, "what was before counts", func() bool {
				s, err := other.client.Why(context.Background(), netip.MustParseAddr(attacker))
				if i == 0 || err != nil {
					return err == nil
				}
				return slices.ContainsFunc(s.Counts, func(c control.RuleCount) bool { return c.Rule == "auth" && c.Count == i })
			})
		}
		for _, other := range nodes {
			if other.holds(attacker + "/32") {
				t.Fatalf("it is banned after %d failures", i)
			}
		}
		if _, err := fmt.Fprintln(g.input, attacker); err != nil {
			t.Fatal(err)
		}
	}
	for _, g := range nodes {
		until(t, "the ban", func() bool { return g.holds(attacker + "/32") })
	}
}

// joined returns the time from the start of a node until its kernel has all n bans of the fleet.
func joined(t testing.TB, redis *redisserver.Server, name string, n int) time.Duration {
	t.Helper()
	began := time.Now()
	g := guard(t, redis, name)
	until(t, "all bans are in its kernel", func() bool {
		s, err := g.client.Status(context.Background())
		return err == nil && s.Bans.IPv4 == n && s.Firewall.Pending == 0 && s.Firewall.Enforcing
	})
	took := time.Since(began)
	if bans, err := g.client.Bans(context.Background(), control.Pick{}); err != nil || len(bans) != n || slices.ContainsFunc(bans, func(b control.Ban) bool { return !b.InKernel }) {
		t.Errorf("not all of %d are in the kernel: %v", len(bans), err)
	}
	return took
}

func TestANodeThatJoinsEnforcesAllBans(t *testing.T) {
	t.Parallel()
	const many = 3_000
	redis := redisserver.Start(t)
	a := node(t, redis.Addr(), "a")
	inStep(t, a)
	fill(t, a, many)
	inStep(t, a)
	t.Logf("%d bans are in the kernel %v after the start", many, joined(t, redis, "b", many).Round(time.Millisecond))
}

func BenchmarkFleetSpread(b *testing.B) {
	nodes := fiveNodes(b)
	b.ResetTimer()
	took := spread(b, nodes, min(max(b.N, 20), 200))
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms/p50")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "ms/p99")
}

func BenchmarkFleetJoin(b *testing.B) {
	const many = 100_000
	redis := redisserver.Start(b)
	a := node(b, redis.Addr(), "a")
	inStep(b, a)
	fill(b, a, many)
	inStep(b, a)
	b.ResetTimer()
	for i := range b.N {
		b.ReportMetric(joined(b, redis, fmt.Sprint("b", i), many).Seconds(), "s/join")
	}
}

func BenchmarkFleetRate(b *testing.B) {
	const rate, seconds = 1000, 10
	nodes := fiveNodes(b)
	b.ResetTimer()
	began := time.Now()
	var group sync.WaitGroup
	for i, g := range nodes {
		group.Go(func() {
			each := rate / len(nodes)
			for n := range each * seconds {
				if ahead := time.Duration(n)*time.Second/time.Duration(each) - time.Since(began); ahead > 0 {
					time.Sleep(ahead)
				}
				addr := netip.AddrFrom4([4]byte{100, byte(64 + i), byte(n >> 8), byte(n)})
				if _, err := g.client.Ban(context.Background(), control.BanRequest{Prefix: netip.PrefixFrom(addr, 32)}); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	said := time.Since(began)
	until(b, "all nodes have all bans", func() bool {
		return !slices.ContainsFunc(nodes, func(g *guarded) bool {
			s, err := g.client.Status(context.Background())
			return err != nil || s.Bans.IPv4 != rate*seconds || s.Firewall.Pending > 0
		})
	})
	b.ReportMetric(rate*seconds/said.Seconds(), "bans/s")
	b.ReportMetric(float64((time.Since(began) - said).Milliseconds()), "ms/behind")
}
