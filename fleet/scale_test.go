package fleet

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"fsban/fleet/merge"
	"fsban/internal/redisserver"
	"fsban/policy"
)

// A crowd is many nodes that only count received statements.
type crowd struct {
	nodes []*Fleet
	taken atomic.Int64 // statements that are no attempts, by all together
	tries atomic.Int64 // attempts
}

func newCrowd(tb testing.TB, redis *redisserver.Server, n int, pace Pace) *crowd {
	tb.Helper()
	c := &crowd{nodes: make([]*Fleet, n)}
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	for i := range c.nodes {
		c.nodes[i] = New(Options{
			Addrs: []string{redis.Socket}, Name: "crowd", Node: fmt.Sprint("node", i),
			Take: func(_ context.Context, b merge.Batch) error {
				for j := range b.Statements {
					if b.Statements[j].Kind == merge.Attempt {
						c.tries.Add(int64(1 + len(b.Statements[j].Earlier)))
					} else if !b.Sync {
						c.taken.Add(1)
					}
				}
				return nil
			},
			Current: func(context.Context, func(merge.Statement)) error { return nil },
			Self: func() Node {
				return Node{Version: "v0.1.0", ActiveSources: []string{"event", "esl_log"}, Share: "failures"}
			},
			Pace: pace,
		})
		group.Go(func() { _ = c.nodes[i].Run(ctx) })
	}
	tb.Cleanup(func() {
		cancel()
		group.Wait()
	})
	for deadline := time.Now().Add(2 * time.Minute); slices.ContainsFunc(c.nodes, func(f *Fleet) bool { return !f.Status().InStep }); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("%d nodes are never in step: %+v", n, c.nodes[0].Status())
		}
	}
	return c
}

func waitFor(tb testing.TB, what string, got *atomic.Int64, want int64) {
	tb.Helper()
	for deadline := time.Now().Add(2 * time.Minute); got.Load() < want; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("%s: %d of %d", what, got.Load(), want)
		}
	}
	if got.Load() != want {
		tb.Errorf("%s: %d, want %d", what, got.Load(), want)
	}
}

// usage is Redis' own account of its load.
type usage struct{ in, out, commands, memory, cpu float64 }

func usageOf(tb testing.TB, f *Fleet) (u usage) {
	tb.Helper()
	text, err := f.clients.Load().out.Info(context.Background()).Result()
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		n, _ := strconv.ParseFloat(value, 64)
		switch name {
		case "total_net_input_bytes":
			u.in = n
		case "total_net_output_bytes":
			u.out = n
		case "total_commands_processed":
			u.commands = n
		case "used_memory":
			u.memory = n
		case "used_cpu_user", "used_cpu_sys":
			u.cpu += n
		}
	}
	return u
}

func address(i int) netip.Addr { return netip.AddrFrom4([4]byte{100, 64, byte(i >> 8), byte(i)}) }

func banOf(f *Fleet, addr netip.Addr) merge.Statement {
	now := time.Now()
	return merge.Statement{
		Kind: merge.Ban, Prefix: netip.PrefixFrom(addr, 32), Stamp: f.Stamp(), Node: f.opts.Node, Since: now, Until: now.Add(24 * time.Hour), Rule: "auth", Source: "event", Count: 5, Offence: 1,
	}
}

func attemptOf(f *Fleet, addr netip.Addr) merge.Statement {
	return merge.Statement{Kind: merge.Attempt, Prefix: netip.PrefixFrom(addr, 32), Stamp: f.Stamp(), Node: f.opts.Node, Attempt: policy.Attempt{
		Addr: addr, At: time.Now(), Kind: policy.AuthFailure, Method: policy.Register, User: "1000", Domain: "sip.example.org", Profile: "internal", UserAgent: "friendly-scanner",
	}}
}

func TestEveryNodeReceivesEachStatementOnce(t *testing.T) {
	redis := redisserver.Start(t)
	const nodes, each = 8, 50
	c := newCrowd(t, redis, nodes, Pace{Recheck: time.Hour}) // a comparison would deliver bans once more
	for i := range each {
		for n, f := range c.nodes {
			f.Announce(banOf(f, address(i*nodes+n)))
			f.Announce(attemptOf(f, address(i*nodes+n)))
		}
	}
	waitFor(t, "bans, one's own included", &c.taken, nodes*nodes*each)
	waitFor(t, "attempts of others", &c.tries, nodes*(nodes-1)*each)
}

// No node writes meanwhile, so only readers meet the foreign entry.
func TestALogWithForeignEntriesIsReplaced(t *testing.T) {
	for _, id := range []string{"*", "1-1", "2-0", "2-1"} {
		t.Run(id, func(t *testing.T) {
			t.Parallel()
			redis := redisserver.Start(t, "--port", "0")
			c := newCrowd(t, redis, 2, Pace{Beat: 200 * time.Millisecond, RetryMin: 10 * time.Millisecond, RetryMax: 100 * time.Millisecond})
			a, b := c.nodes[0], c.nodes[1]
			a.Announce(banOf(a, address(1)))
			waitFor(t, "bans", &c.taken, 2)
			if err := a.clients.Load().out.Do(t.Context(), "xadd", a.keys.log, id, "d", "hello").Err(); err != nil {
				t.Fatal(err)
			}
			settled := func() bool {
				meta, err := a.clients.Load().out.HMGet(t.Context(), a.keys.meta, "epoch", "seq").Result()
				if err != nil {
					t.Fatal(err)
				}
				for _, f := range c.nodes {
					at := f.at()
					if s := f.Status(); !s.InStep || at.Epoch != meta[0] || strconv.FormatUint(at.Seq, 10) != meta[1] {
						return false
					}
				}
				last, err := a.clients.Load().out.XRevRangeN(t.Context(), a.keys.log, "+", "-", 1).Result()
				return err == nil && (len(last) == 0 || id == "1-1") // which is passed over
			}
			for deadline := time.Now().Add(time.Minute); !settled(); time.Sleep(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("never: %+v at %+v, %+v at %+v", a.Status(), a.at(), b.Status(), b.at())
				}
			}
			if n := a.Status().Resyncs + b.Status().Resyncs; n > 20 {
				t.Errorf("all was read %d times", n)
			}
			b.Announce(banOf(b, address(2)))
			a.Announce(attemptOf(a, address(3)))
			// A resync may deliver bans once more, as late as here.
			eventually(t, "two bans, and an attempt", func() bool { return c.taken.Load() >= 4 && c.tries.Load() == 1 })
		})
	}
}

// The last beat can be older than the state: the first one comes before the firewall is ready.
func TestANodeShowsItsOwnStateAsItIsNow(t *testing.T) {
	redis := redisserver.Start(t, "--port", "0")
	ready := false
	join := func(name string) *Fleet {
		f := New(Options{
			Addrs: []string{redis.Socket}, Name: "mirror", Node: name,
			Take:    func(context.Context, merge.Batch) error { return nil },
			Current: func(context.Context, func(merge.Statement)) error { return nil },
			Self:    func() Node { return Node{Ready: ready} },
		})
		t.Cleanup(f.clients.Load().close)
		if err := f.beat(t.Context()); err != nil {
			t.Fatal(err)
		}
		return f
	}
	shows := func(f *Fleet, want map[string]bool) {
		t.Helper()
		nodes, err := f.Nodes(t.Context())
		got := make(map[string]bool)
		for i := range nodes {
			got[nodes[i].Name] = nodes[i].Ready
			if nodes[i].Seen.IsZero() {
				t.Errorf("%s was never seen", nodes[i].Name)
			}
		}
		if err != nil || !maps.Equal(got, want) {
			t.Errorf("%s shows %v, want %v; %v", f.opts.Node, got, want, err)
		}
	}
	one, two := join("one"), join("two")
	shows(one, map[string]bool{"one": false, "two": false})
	ready = true
	shows(one, map[string]bool{"one": true, "two": false})
	shows(two, map[string]bool{"one": false, "two": true})
	ready = false
	join("one") // another node of that name: its beat is no state of the first
	ready = true
	shows(one, map[string]bool{"one": false, "two": false})
}

func TestANodeStaysPresentWhileItsQueueIsLong(t *testing.T) {
	redis := redisserver.Start(t, "--port", "0")
	way := redisserver.NewProxy(t, redis.Socket)
	var beats atomic.Int64
	f := New(Options{
		Addrs: []string{way.Addr()}, Name: "talker", Node: "node",
		Take:    func(context.Context, merge.Batch) error { return nil },
		Current: func(context.Context, func(merge.Statement)) error { return nil },
		Self:    func() Node { beats.Add(1); return Node{} },
		Pace:    Pace{Beat: 50 * time.Millisecond},
	})
	way.Slow(20 * time.Millisecond)
	for i := range 25 * batchSize {
		f.Announce(banOf(f, address(i)))
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = f.Run(ctx) }()
	defer func() { cancel(); <-done }()
	meanwhile := int64(0)
	for deadline := time.Now().Add(2 * time.Minute); f.Status().Queue > 0; time.Sleep(time.Millisecond) {
		if meanwhile = beats.Load(); time.Now().After(deadline) {
			t.Fatalf("never all said: %+v", f.Status())
		}
	}
	if meanwhile < 5 {
		t.Errorf("it was heard %d times while it spoke", meanwhile)
	}
}

// BenchmarkNodes measures the cost of a fleet for Redis: at rest, and for bans and failures one by one, the most expensive way.
func BenchmarkNodes(b *testing.B) {
	for _, n := range []int{10, 100, 1000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			redis := redisserver.Start(b, "--maxclients", "20000")
			c := newCrowd(b, redis, n, Pace{})
			f := c.nodes[0]
			const rest, each = 20 * time.Second, 50
			at := usageOf(b, f)
			time.Sleep(rest)
			u := usageOf(b, f)
			b.ReportMetric((u.in-at.in)/rest.Seconds()/1000, "rest-in-kB/s")
			b.ReportMetric((u.out-at.out)/rest.Seconds()/1000, "rest-out-kB/s")
			b.ReportMetric((u.commands-at.commands)/rest.Seconds(), "rest-commands/s")
			b.ReportMetric((u.cpu-at.cpu)/rest.Seconds()*100, "rest-cpu-%")
			b.ReportMetric(u.memory/1e6, "MB-memory")
			at = u
			for i := range each {
				c.nodes[i%n].Announce(banOf(c.nodes[i%n], address(i)))
				waitFor(b, "bans", &c.taken, int64(n*(i+1)))
			}
			u = usageOf(b, f)
			b.ReportMetric((u.in-at.in)/each/1000, "ban-in-kB")
			b.ReportMetric((u.out-at.out)/each/1000, "ban-out-kB")
			b.ReportMetric((u.cpu-at.cpu)/each*1000, "ban-cpu-ms")
			at = u
			for i := range each {
				c.nodes[i%n].Announce(attemptOf(c.nodes[i%n], address(i)))
				waitFor(b, "failures", &c.tries, int64((n-1)*(i+1)))
			}
			u = usageOf(b, f)
			b.ReportMetric((u.out-at.out)/each/1000, "failure-out-kB")
			b.ReportMetric((u.cpu-at.cpu)/each*1000, "failure-cpu-ms")
		})
	}
}

// BenchmarkMemory measures the memory of 10,000 bans in Redis, announced in full batches.
func BenchmarkMemory(b *testing.B) {
	redis := redisserver.Start(b)
	c := newCrowd(b, redis, 1, Pace{})
	f := c.nodes[0]
	const many = 10_000
	at := usageOf(b, f)
	for i := range many {
		f.Announce(banOf(f, address(i)))
	}
	waitFor(b, "bans", &c.taken, many)
	b.ReportMetric((usageOf(b, f).memory-at.memory)/many, "B/ban")
	log, err := f.clients.Load().out.MemoryUsage(context.Background(), f.keys.log, 0).Result()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(log)/many, "B/ban-log")
}
