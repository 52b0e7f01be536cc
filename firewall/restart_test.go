package firewall_test

import (
	"fmt"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"fsban/firewall"
	"fsban/firewall/backend"
	"fsban/internal/kerneltest"
)

// flood has a banned address send packets until the returned function ends it. The server reads the first packet that arrives.
func flood(conn *net.UDPConn) (end func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-quit:
				return
			default:
				_, _ = conn.Write([]byte("INVITE"))
				time.Sleep(100 * time.Microsecond) // the queue of the loopback is shared by all namespaces
			}
		}
	}()
	return func() {
		close(quit)
		<-done
	}
}

func TestNoPacketPassesOverAChange(t *testing.T) {
	everything := firewall.Options{Hooks: []firewall.Hook{{Table: "filter", Chain: "INPUT"}}}
	for name, change := range map[string]struct {
		from, to func(t *testing.T) firewall.Options
	}{
		"nothing":    {},
		"some ports": {nil, func(t *testing.T) firewall.Options { return firewall.Options{Ports: ports(t, "udp/5060", "tcp/5060")} }},
		"other ports": {func(t *testing.T) firewall.Options { return firewall.Options{Ports: ports(t, "udp/5060-5070")} }, func(t *testing.T) firewall.Options {
			return firewall.Options{Ports: ports(t, "udp/5000-5060", "udp/16384-32768")}
		}},
		"all ports": {func(t *testing.T) firewall.Options { return firewall.Options{Ports: ports(t, "udp/5060")} }, nil},
		"more hooks": {nil, func(*testing.T) firewall.Options {
			return firewall.Options{Hooks: []firewall.Hook{{Table: "raw", Chain: "PREROUTING"}, {Table: "filter", Chain: "INPUT"}}}
		}},
		"other hooks": {func(*testing.T) firewall.Options { return everything }, nil},
		"later hooks": {nil, func(*testing.T) firewall.Options { return everything }},
		"target":      {func(*testing.T) firewall.Options { return everything }, func(*testing.T) firewall.Options { o := everything; o.Target = firewall.Reject; return o }},
		"larger sets": {func(*testing.T) firewall.Options { return firewall.Options{MaxBans: 5000} }, func(*testing.T) firewall.Options { return firewall.Options{MaxBans: 50_000} }},
	} {
		t.Run(name, func(t *testing.T) {
			onBackends(t, func(t *testing.T, kind string) {
				options := func(f func(*testing.T) firewall.Options) firewall.Options {
					if f == nil {
						return firewall.Options{}
					}
					return f(t)
				}
				if kind == "rules nft" || kind == "rules legacy" {
					if hooks := options(change.to).Hooks; len(hooks) != len(options(change.from).Hooks) {
						return // bans are in one table, and a change of that is a new start
					}
				}
				server := listenOn(t, "203.0.113.1", 5060)
				banned, allowed := server.dial("198.51.100.7"), server.dial("198.51.100.8")
				b := newBook()
				begin := func(opts firewall.Options) *rig {
					r := enforce(t, openKind(t, kind, opts), b, firewall.EnforcerOptions{Check: 20 * time.Millisecond})
					r.until("enforcing", func() bool { return r.Status().Enforcing && r.Status().Pending == 0 })
					return r
				}
				first := begin(options(change.from))
				first.ban("198.51.100.7", time.Hour)
				for i := range 100 {
					first.ban(fmt.Sprintf("198.18.%d.%d", i/256, i%256), time.Hour)
				}
				first.settle()
				end := flood(banned)
				first.stop()
				for range 2 {
					begin(options(change.to)).stop()
				}
				begin(options(change.from)).stop()
				end()
				send(t, allowed)
				if from := server.next(); from != "198.51.100.8" {
					t.Errorf("a packet of %s arrived", from)
				}
			})
		})
	}
}

func TestNoPacketPassesOverAChangeOfBackend(t *testing.T) {
	kerneltest.OnKernel(t, func(t *testing.T) {
		server := listenOn(t, "203.0.113.1", 5060)
		banned, allowed := server.dial("198.51.100.7"), server.dial("198.51.100.8")
		book := newBook()
		var end func()
		for _, kind := range []string{"nft", "nftables", "rules nft", "nftables", "nft", "rules nft"} {
			b := openKind(t, kind, firewall.Options{})
			r := enforce(t, b, book, firewall.EnforcerOptions{})
			r.until("enforcing", func() bool { return r.Status().Enforcing && r.Status().Pending == 0 })
			if end == nil {
				r.ban("198.51.100.7", time.Hour)
				r.settle()
				end = flood(banned)
			}
			if _, err := backend.Abandoned(b); err != nil {
				t.Errorf("%s: %v", kind, err)
			}
			r.stop()
		}
		end()
		send(t, allowed)
		if from := server.next(); from != "198.51.100.8" {
			t.Errorf("a packet of %s arrived", from)
		}
	})
}

func TestRebootRestoresWithTheTimeThatIsLeft(t *testing.T) {
	const n = 10_000
	for _, kind := range []string{"nft", "nftables"} {
		t.Run(kind, func(t *testing.T) {
			onBackendOf(t, kind, func(t *testing.T) {
				b := newBook()
				for i := range n {
					until := time.Now().Add(time.Hour + time.Duration(i)*time.Second)
					if i%10 == 0 {
						until = time.Time{}
					}
					b.write(nth(i), until)
				}
				r := enforce(t, openKind(t, kind, firewall.Options{}), b, firewall.EnforcerOptions{})
				r.until("restored", func() bool { return r.Status().Enforcing && r.Status().Pending == 0 })
				entries, err := r.Entries()
				if err != nil || len(entries) != n {
					t.Fatalf("%d entries, %v", len(entries), err)
				}
				for _, e := range entries {
					want := firewall.Left(b.bans[e.Prefix], time.Now())
					if (e.Left == firewall.Forever) != (want == firewall.Forever) || (e.Left-want).Abs() > 30*time.Second {
						t.Fatalf("%v: %v left, want %v", e.Prefix, e.Left, want)
					}
				}
				if s := r.Status(); s.Restored != 0 || len(r.adopted) != 0 {
					t.Errorf("%+v, adopted %d", s, len(r.adopted))
				}
			})
		})
	}
}

// A workCounter counts the listings and orders of a backend.
type workCounter struct {
	firewall.Backend
	listings, orders atomic.Int64
}

func (w *workCounter) Entries() ([]firewall.Entry, error) {
	w.listings.Add(1)
	return w.Backend.Entries()
}

func (w *workCounter) Apply(orders []firewall.Order) ([]firewall.Order, error) {
	w.orders.Add(int64(len(orders)))
	return w.Backend.Apply(orders)
}

// A start with the entries of an earlier run makes no more than the listings, and no orders.
func TestStartOnManyBansIsQuick(t *testing.T) {
	const n = 20_000
	for _, kind := range []string{"nft", "nftables"} {
		t.Run(kind, func(t *testing.T) {
			onBackendOf(t, kind, func(t *testing.T) {
				b := openKind(t, kind, firewall.Options{})
				if _, err := setUp(b); err != nil {
					t.Fatal(err)
				}
				until := time.Now().Add(time.Hour)
				known := newBook()
				ops := make([]firewall.Order, n)
				for i := range ops {
					ops[i] = firewall.Order{Prefix: nth(i), Add: true, Until: until}
					known.write(nth(i), until)
				}
				for part := range slices.Chunk(ops, 10_000) {
					if _, err := b.Apply(part); err != nil {
						t.Fatal(err)
					}
				}
				if got := len(kerneltest.Banned(t, b)); got != n {
					t.Fatalf("%d entries, want %d", got, n)
				}
				began := time.Now()
				work := &workCounter{Backend: openKind(t, kind, firewall.Options{})}
				r := enforce(t, work, known, firewall.EnforcerOptions{})
				r.until("enforcing", func() bool { return r.Status().Enforcing })
				t.Logf("ready after %v with %d bans", time.Since(began), n)
				if listings, orders := work.listings.Load(), work.orders.Load(); listings > 2 || orders > 0 {
					t.Errorf("%d listings and %d orders", listings, orders)
				}
				if s := r.Status(); s.Restored != 0 || s.Pending != 0 || len(r.adopted) != 0 {
					t.Errorf("%+v, adopted %d", s, len(r.adopted))
				}
				r.stop()
				if _, err := b.Teardown(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
