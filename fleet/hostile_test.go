package fleet

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"fsban/fleet/merge"
	"fsban/internal/redisserver"
)

// imitate serves a program that replies to commands like Redis. reply returns the reply to a command; an empty one ends the
// connection.
func imitate(tb testing.TB, reply func(command []string) string) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				r := bufio.NewReader(c)
				for {
					command, err := readCommand(r)
					if err != nil {
						return
					}
					text := reply(command)
					if _, err := io.WriteString(c, text); err != nil || text == "" {
						return
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

func readCommand(r *bufio.Reader) ([]string, error) {
	length := func() (int, error) {
		line, err := r.ReadString('\n')
		if err != nil || len(line) < 3 {
			return 0, fmt.Errorf("line %q: %w", line, err)
		}
		return strconv.Atoi(line[1 : len(line)-2])
	}
	n, err := length()
	if err != nil {
		return nil, err
	}
	list := make([]string, n)
	for i := range list {
		size, err := length()
		if err != nil {
			return nil, err
		}
		b := make([]byte, size+2)
		if _, err := io.ReadFull(r, b); err != nil {
			return nil, err
		}
		list[i] = string(b[:size])
	}
	return list, nil
}

const (
	unknown = "-ERR unknown command\r\n"
	fast    = 10 * time.Millisecond
)

// member runs a fleet with short intervals, until the end of the test.
func member(tb testing.TB, o Options) *Fleet {
	tb.Helper()
	if o.Take == nil {
		o.Take = func(context.Context, merge.Batch) error { return nil }
	}
	if o.Current == nil {
		o.Current = func(context.Context, func(merge.Statement)) error { return nil }
	}
	if o.Self == nil {
		o.Self = func() Node { return Node{} }
	}
	o.Name, o.Node = "fleet", "node"
	o.Pace = Pace{Beat: 5 * fast, RetryMin: fast, RetryMax: 2 * fast, Recheck: fast}
	f := New(o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-done; err == nil {
			tb.Error("the fleet has ended by itself")
		}
	})
	return f
}

func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			tb.Fatalf("never: %s", what)
		}
	}
}

// lies are replies that are no reply to any command.
var lies = map[string]string{
	"9e18 elements":         "*9000000000000000000\r\n",
	"9e18 bytes":            "$9000000000000000000\r\n",
	"1e9 elements":          "*1000000000\r\n",
	"4e9 bytes":             "$4000000000\r\nx",
	"negative length":       "*-5\r\n",
	"deep":                  strings.Repeat("*1\r\n", 1_000_000),
	"wide and deep":         strings.Repeat("*1000\r\n", 1_000),
	"endless error":         "-ERR " + strings.Repeat("x", 10_000_000),
	"endless status":        "+" + strings.Repeat("x", 10_000_000),
	"endless number":        ":" + strings.Repeat("1", 10_000_000),
	"attributes of nothing": strings.Repeat("|0\r\n", 1_000_000),
	"RESP3 map":             "%1000000000\r\n",
	"RESP3 push":            ">1000000000\r\n",
	"RESP3 verbatim":        "=4000000000\r\ntxt:",
	"RESP3 big number":      "(" + strings.Repeat("1", 10_000_000),
	"not Redis":             "HTTP/1.1 400 Bad Request\r\n\r\n",
	"empty array":           "*0\r\n",
	"nil":                   "*-1\r\n",
	"integer":               ":5\r\n",
	"four nils":             "*4\r\n$-1\r\n$-1\r\n$-1\r\n$-1\r\n",
	"four numbers":          "*4\r\n:1\r\n:2\r\n:3\r\n:4\r\n",
	"a clock of year 3000":  "*4\r\n$1\r\ne\r\n$1\r\n0\r\n:32503680000000000\r\n:0\r\n",
	"the end of time":       "*4\r\n$1\r\ne\r\n$1\r\n0\r\n:9223372036854775807\r\n:-1\r\n",
	"moved":                 "-MOVED 1 127.0.0.1:1\r\n",
	"moved nowhere":         "-MOVED\r\n",
	"ask":                   "-ASK 1 127.0.0.1:1\r\n",
	"read only":             "-READONLY no\r\n",
}

func TestARedisThatLiesNeitherEndsTheFleetNorMakesItAllocate(t *testing.T) {
	for name, lie := range lies {
		for where, honest := range map[string]string{"every reply": "", "replies to a login": unknown} {
			t.Run(name+", "+where, func(t *testing.T) {
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				addr := imitate(t, func(command []string) string {
					if honest != "" && strings.EqualFold(command[0], "hello") {
						return honest
					}
					return lie
				})
				f := member(t, Options{Addrs: []string{addr}})
				f.Announce(banOf(f, address(1)))
				eventually(t, "errors", func() bool { return f.Status().Errors >= 4 })
				if s := f.Status(); s.Up || s.Err == nil || len(s.Err.Error()) > 400 {
					t.Errorf("%+v", s)
				}
				_, _ = f.Nodes(t.Context())
				runtime.ReadMemStats(&after)
				if n := (after.TotalAlloc - before.TotalAlloc) >> 20; n > 200 { // of this test's own, too
					t.Errorf("%d MiB allocated in %d exchanges", n, f.Status().Errors)
				}
			})
		}
	}
}

// A program in Redis' place knows the scripts' replies, and goes on from there.
func TestStatesAndLogsWithoutEndAreBounded(t *testing.T) {
	now := func() int64 { return time.Now().UnixMicro() }
	end := func(n int) string { return fmt.Sprintf("*4\r\n$1\r\ne\r\n$1\r\n9\r\n:%d\r\n:%d\r\n", now(), n) }
	for name, c := range map[string]struct {
		scan, log string
		ok        func(f *Fleet, commands int64) bool
	}{
		"a scan that does not end": {"*3\r\n$1\r\n1\r\n:0\r\n*0\r\n", "", func(f *Fleet, n int64) bool {
			err := f.Status().Err
			return n > maxScans && err != nil && strings.Contains(err.Error(), "does not end")
		}},
		"a scan of numbers":       {"*3\r\n:1\r\n:-1\r\n*2\r\n:1\r\n:2\r\n", "", func(f *Fleet, n int64) bool { return n > maxScans && f.Refused(merge.Malformed) > 0 }},
		"a read that never waits": {"*3\r\n$1\r\n0\r\n:0\r\n*0\r\n", "*-1\r\n", func(f *Fleet, n int64) bool { return f.Status().Up && n > 20 }},
		"entries of nobody":       {"*3\r\n$1\r\n0\r\n:0\r\n*0\r\n", "*1\r\n*2\r\n$1\r\nk\r\n*1\r\n*2\r\n$3\r\n5-7\r\n*-1\r\n", func(f *Fleet, n int64) bool { return f.Refused(merge.Malformed) > 3 }},
		"entries of the future":   {"*3\r\n$1\r\n0\r\n:0\r\n*0\r\n", "*1\r\n*2\r\n$1\r\nk\r\n*1\r\n*2\r\n$22\r\n18446744073709551615-0\r\n*-1\r\n", func(f *Fleet, n int64) bool { return f.Refused(merge.Malformed) > 3 }},
	} {
		t.Run(name, func(t *testing.T) {
			var commands, reads atomic.Int64
			addr := imitate(t, func(command []string) string {
				commands.Add(1)
				switch keys := len(command) > 2 && command[0] == "evalsha" && command[2] == "1"; {
				case command[0] == "hello":
					return unknown
				case keys:
					return c.scan
				case command[0] == "xread":
					reads.Add(1)
					return c.log
				}
				return end(0)
			})
			began := time.Now()
			f := member(t, Options{Addrs: []string{addr}})
			eventually(t, "the expected state", func() bool { return c.ok(f, commands.Load()) })
			if n, most := reads.Load(), 10+int64(time.Since(began)/fast)*2; n > most {
				t.Errorf("%d reads in %v", n, time.Since(began))
			}
		})
	}
}

func TestAFaultInTheFleetRestartsIt(t *testing.T) {
	redis := redisserver.Start(t, "--port", "0")
	for name, o := range map[string]func(fault func()) Options{
		"while statements are applied": func(fault func()) Options {
			return Options{Take: func(context.Context, merge.Batch) error { fault(); return nil }}
		},
		"while the state is compared": func(fault func()) Options {
			return Options{Current: func(context.Context, func(merge.Statement)) error { fault(); return nil }}
		},
		"in a beat": func(fault func()) Options { return Options{Self: func() Node { fault(); return Node{} }} },
	} {
		t.Run(name, func(t *testing.T) {
			var faults atomic.Int64
			var said atomic.Pointer[string]
			options := o(func() {
				if faults.Add(1) <= 3 {
					var list []int
					_ = list[faults.Load()]
				}
			})
			options.Addrs = []string{redis.Socket}
			options.Changed = func(s Status) {
				if s.Err != nil && strings.Contains(s.Err.Error(), errPanic.Error()) {
					text := s.Err.Error()
					said.Store(&text)
				}
			}
			f := member(t, options)
			f.Announce(banOf(f, address(1)))
			eventually(t, "in step after three faults", func() bool { return faults.Load() > 3 && f.Status().InStep })
			if s := f.Status(); s.Errors < 3 {
				t.Errorf("%+v", s)
			}
			if text := said.Load(); text == nil || !strings.Contains(*text, "hostile_test.go:") || !strings.Contains(*text, "index out of range") {
				t.Errorf("reported: %v", text)
			}
		})
	}
}

// spoilers write values that no node writes.
func spoilers(t *testing.T, f *Fleet, c *redis.Client) map[string]func() {
	t.Helper()
	do := func(args ...any) {
		t.Helper()
		if err := c.Do(t.Context(), args...).Err(); err != nil {
			t.Fatal(err)
		}
	}
	write := func(fields ...any) {
		t.Helper()
		seq, err := c.HIncrBy(t.Context(), f.keys.meta, "seq", 1).Result()
		if err != nil {
			t.Fatal(err)
		}
		do(append([]any{"xadd", f.keys.log, strconv.FormatInt(seq, 10) + "-0"}, fields...)...)
	}
	big := strings.Repeat("x", maxBatch+1)
	many := make([]any, 0, 2*limits.Elements)
	for i := range limits.Elements {
		many = append(many, strconv.Itoa(i), "x")
	}
	return map[string]func(){
		"an entry of the log": func() { write("n", "evil", "i", "i", "c", "1", "d", big) },
		"many entries": func() {
			for range 70 {
				write("n", "evil", "d", big[:1<<20])
			}
		},
		"many fields":            func() { write(many...) },
		"a large foreign field":  func() { write("n", "evil", "i", "i", "c", "2", "d", "", "x", big) },
		"the name of a field":    func() { write(big, "x") },
		"a statement":            func() { do("hset", f.keys.bans, "203.0.113.200/32", big) },
		"a prefix":               func() { do("hset", f.keys.allows, big, "x") },
		"many statements":        func() { do(append([]any{"hset", f.keys.known}, many...)...) },
		"the epoch":              func() { do("hset", f.keys.meta, "epoch", big) },
		"the number":             func() { do("hset", f.keys.meta, "seq", big) },
		"the latest stamp":       func() { do("hset", f.keys.meta, "top", big[:100]) },
		"our own description":    func() { do("hset", f.keys.nodes, "node", big) },
		"another's description":  func() { do("hset", f.keys.nodes, "other", big); do("zadd", f.keys.seen, time.Now().Unix(), "other") },
		"the name of a node":     func() { do("zadd", f.keys.seen, time.Now().Unix(), big) },
		"the place in the log":   func() { write("n", "evil", "d", big); f.Resync() },
		"the number of a batch":  func() { do("hset", f.keys.said, "node", big) },
		"many nodes of no sense": func() { do(append([]any{"hset", f.keys.nodes}, many...)...) },
	}
}

// A member, and everybody else with the rights of one, can write values of any size.
func TestOversizedValuesInRedisDoNotKeepNodesFromTheOthers(t *testing.T) {
	redis := redisserver.Start(t, "--port", "0")
	taken := make(chan merge.Statement, 100)
	f := member(t, Options{Addrs: []string{redis.Socket}, Take: func(_ context.Context, b merge.Batch) error {
		for _, s := range b.Statements {
			taken <- s
		}
		return nil
	}})
	next := func(n int) {
		t.Helper()
		f.Announce(banOf(f, address(n)))
		for {
			select {
			case s := <-taken:
				if s.Prefix.Addr() == address(n) {
					return
				}
			case <-time.After(time.Minute):
				t.Fatalf("ban %d does not arrive: %+v", n, f.Status())
			}
		}
	}
	next(1)
	other := f.dialer.clients()
	defer other.close()
	for name, spoil := range spoilers(t, f, other.out) {
		t.Run(name, func(t *testing.T) {
			spoil()
			next(2)
			f.Resync()
			before := f.Status().Resyncs
			eventually(t, "a resync, and in step", func() bool { s := f.Status(); return s.Resyncs > before && s.InStep })
			next(3)
			late := member(t, Options{Addrs: []string{redis.Socket}})
			eventually(t, "another node in step", func() bool { return late.Status().InStep })
			if _, err := f.Nodes(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	if f.Refused(merge.Malformed) < 70 {
		t.Errorf("%d refused", f.Refused(merge.Malformed))
	}
}

func array(texts ...string) string {
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, "*%d\r\n", len(texts))
	for _, text := range texts {
		_, _ = fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(text), text)
	}
	return b.String()
}

func TestASentinelNamesTheMaster(t *testing.T) {
	first, second := redisserver.Start(t), redisserver.Start(t)
	var master atomic.Pointer[redisserver.Server]
	master.Store(first)
	sentinel := imitate(t, func(command []string) string {
		switch command[0] {
		case "SENTINEL":
			if command[1] != "get-master-addr-by-name" || command[2] != "phones" {
				return "*-1\r\n"
			}
			return array("127.0.0.1", strconv.Itoa(master.Load().Port))
		case "hello":
			return unknown
		}
		return "-ERR a sentinel\r\n"
	})
	f := member(t, Options{Addrs: []string{"127.0.0.1:1", sentinel}, Sentinel: "phones"})
	eventually(t, "in step", func() bool { return f.Status().InStep })
	old := f.dialer.clients()
	defer old.close()
	if err := old.out.Do(t.Context(), "replicaof", "127.0.0.1", strconv.Itoa(second.Port)).Err(); err != nil {
		t.Fatal(err)
	}
	master.Store(second)
	f.Announce(banOf(f, address(1)))
	eventually(t, "in step with the new master", func() bool {
		n, err := f.clients.Load().out.HLen(t.Context(), f.keys.bans).Result()
		return f.Status().InStep && err == nil && n == 1
	})
}

func TestASentinelMayLie(t *testing.T) {
	lies := map[string]string{
		"one value": array("127.0.0.1"), "three values": array("127.0.0.1", "1", "2"), "no value": "*0\r\n",
		"unknown": "*-1\r\n", "numbers": "*2\r\n:1\r\n:2\r\n", "no port": array("127.0.0.1", "x"), "a path": array("/tmp/x", "1"),
		"long": array(strings.Repeat("x", 100_000), "1"), "arrays": "*2\r\n*1\r\n:1\r\n*0\r\n",
	}
	for name, lie := range lies {
		t.Run(name, func(t *testing.T) {
			sentinel := imitate(t, func(command []string) string {
				if command[0] == "SENTINEL" {
					return lie
				}
				return unknown
			})
			f := member(t, Options{Addrs: []string{sentinel}, Sentinel: "phones"})
			eventually(t, "errors", func() bool { return f.Status().Errors >= 4 })
			if s := f.Status(); s.Up || s.Err == nil || len(s.Err.Error()) > 400 {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestAClusterRedirectsToTheOwner(t *testing.T) {
	redis := redisserver.Start(t, "--cluster-enabled", "yes")
	admin := New(Options{Addrs: []string{redis.Addr()}})
	defer admin.clients.Load().close()
	if err := admin.clients.Load().out.Do(t.Context(), "cluster", "addslotsrange", 0, 16383).Err(); err != nil {
		t.Fatal(err)
	}
	other := imitate(t, func(command []string) string {
		if command[0] == "hello" {
			return unknown
		}
		return fmt.Sprintf("-MOVED 1 %s\r\n", redis.Addr())
	})
	f := member(t, Options{Addrs: []string{other}, Cluster: true})
	eventually(t, "in step", func() bool { return f.Status().InStep })
	f.Announce(banOf(f, address(1)))
	eventually(t, "a ban announced", func() bool { return f.Sent(merge.Ban) == 1 && f.Status().InStep })
}

func TestAClusterMayRedirectInCircles(t *testing.T) {
	for name, target := range map[string]func(self string) string{
		"to itself":        func(self string) string { return self },
		"to itself, brief": func(self string) string { _, port, _ := net.SplitHostPort(self); return ":" + port },
		"to nothing":       func(string) string { return "" },
		"without a port":   func(string) string { return "127.0.0.1" },
	} {
		t.Run(name, func(t *testing.T) {
			var self atomic.Pointer[string]
			var asked atomic.Int64
			addr := imitate(t, func(command []string) string {
				if command[0] == "hello" {
					return unknown
				}
				asked.Add(1)
				return fmt.Sprintf("-MOVED 1 %s\r\n", target(*self.Load()))
			})
			self.Store(&addr)
			f := member(t, Options{Addrs: []string{addr}, Cluster: true})
			eventually(t, "errors", func() bool { return f.Status().Errors >= 4 })
			if s := f.Status(); s.Up || s.Err == nil || asked.Load() > 10*int64(s.Errors) {
				t.Errorf("%+v after %d commands", s, asked.Load())
			}
		})
	}
}

// A fault outside of the exchanges with Redis, as in the report of a change, ends neither the goroutine nor the daemon.
func TestAFaultOutsideOfAnExchangeRestartsTheFleet(t *testing.T) {
	redis := redisserver.Start(t, "--port", "0")
	var faults atomic.Int64
	f := member(t, Options{Addrs: []string{redis.Socket}, Changed: func(Status) {
		if faults.Add(1) <= 2 {
			var list []int
			_ = list[0]
		}
	}})
	f.Announce(banOf(f, address(1)))
	eventually(t, "in step after two faults", func() bool { return faults.Load() >= 2 && f.Status().InStep && f.Sent(merge.Ban) == 1 })
	if s := f.Status(); s.Errors < 2 {
		t.Errorf("%+v", s)
	}
}

// A program in Redis' place replies to each command with another of the replies that the scripts expect, in any combination.
func TestRepliesOfOtherCommandsAreHarmless(t *testing.T) {
	now := func() string { return strconv.FormatInt(time.Now().UnixMicro(), 10) }
	replies := []func() string{
		func() string { return "*4\r\n$1\r\ne\r\n$1\r\n9\r\n:" + now() + "\r\n:3\r\n" },
		func() string {
			return "*5\r\n$1\r\ne\r\n$20\r\n18446744073709551615\r\n:" + now() + "\r\n:-9\r\n*5\r\n$3\r\n1-0\r\n$-1\r\n*0\r\n:1\r\n+x\r\n"
		},
		func() string { return "*5\r\n$1\r\ne\r\n$1\r\n9\r\n:" + now() + "\r\n:3\r\n$-1\r\n" },
		func() string {
			return "*3\r\n$1\r\n0\r\n:9223372036854775807\r\n*3\r\n$12\r\n203.0.113.0/1\r\n:1\r\n*0\r\n"
		},
		func() string { return "*3\r\n$-1\r\n$-1\r\n$-1\r\n" },
		func() string {
			return "*1\r\n*2\r\n$1\r\nk\r\n*2\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$1\r\nd\r\n*-1\r\n*2\r\n$-1\r\n*-1\r\n"
		},
		func() string { return "*2\r\n*2\r\n:1\r\n:2\r\n*1\r\n*0\r\n" },
		func() string { return "+OK\r\n" }, func() string { return "$-1\r\n" }, func() string { return "-NOSCRIPT x\r\n" },
		func() string { return "+QUEUED\r\n" }, func() string { return "-LOADING\r\n" }, func() string { return "-\r\n" },
	}
	var turn atomic.Int64
	addr := imitate(t, func(command []string) string {
		n := turn.Add(1)
		if n%7 == 0 && strings.EqualFold(command[0], "hello") {
			return unknown
		}
		return replies[int(n*n+n/5)%len(replies)]()
	})
	f := member(t, Options{Addrs: []string{addr}})
	for i := range 20 {
		f.Announce(banOf(f, address(i)))
	}
	eventually(t, "two thousand commands", func() bool { _, _ = f.Nodes(t.Context()); return turn.Load() > 2000 })
	if err := f.Status().Err; err != nil && strings.Contains(err.Error(), errPanic.Error()) {
		t.Errorf("a fault: %v", err)
	}
}
