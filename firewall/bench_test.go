package firewall

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
)

// The benchmarks run in namespaces of their own, on this machine's kernel:
//
//	go test -run '^$' -bench . ./firewall

// quiet starts an enforcer that nothing disturbs, and returns the channel on which it reports what it applied.
func quiet(b *testing.B, kind string) (*Enforcer, <-chan time.Duration) {
	b.Helper()
	if kind != "nftables" {
		useIPTables(b, kind)
	}
	applied := make(chan time.Duration, 200_000)
	book := newBook()
	backend := openKind(b, kind, Options{})
	e := NewEnforcer(backend, EnforcerOptions{
		Bans:    book.all,
		Applied: func(_ bool, took time.Duration, _ Cause) { applied <- took },
		Check:   time.Hour,
	})
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = e.Run(ctx)
	}()
	b.Cleanup(func() {
		cancel()
		<-done
		_, _ = backend.Teardown()
	})
	for !e.Status().Enforcing {
		time.Sleep(time.Millisecond)
	}
	return e, applied
}

// nth returns the prefix number i of a large network.
func nth(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
}

// BenchmarkBan is one ban from the order to the kernel's word that it is in force.
func BenchmarkBan(b *testing.B) {
	for _, kind := range []string{"nft", "nftables"} {
		b.Run(kind, func(b *testing.B) {
			e, applied := quiet(b, kind)
			var all []time.Duration
			for i := 0; b.Loop(); i++ {
				now := time.Now()
				e.Ban(nth(i%1_000_000), now.Add(time.Hour), Cause{Read: now})
				all = append(all, <-applied)
			}
			slices.Sort(all)
			for _, p := range []int{50, 99} {
				b.ReportMetric(float64(all[len(all)*p/100].Nanoseconds()), fmt.Sprintf("p%d-ns", p))
			}
		})
	}
}

// BenchmarkBans are many bans at once, into empty sets.
func BenchmarkBans(b *testing.B) {
	for kind, flush := range map[string]string{"nft": "ipset flush fsban4", "nftables": "nft flush set inet fsban fsban4"} {
		for _, n := range []int{5000, 100_000, 1_000_000} {
			b.Run(fmt.Sprintf("%s/%d", kind, n), func(b *testing.B) {
				e, applied := quiet(b, kind)
				for b.Loop() {
					b.StopTimer()
					command(b, flush)
					b.StartTimer()
					now := time.Now()
					for i := range n {
						e.Ban(nth(i), now.Add(time.Hour), Cause{Read: now})
					}
					for range n {
						<-applied
					}
				}
			})
		}
	}
}

// BenchmarkElements is what the kernel itself takes for the elements of a set of nftables, with a counter for each, as
// fsban's have one, and without.
func BenchmarkElements(b *testing.B) {
	for _, counters := range []string{"with", "without"} {
		for _, n := range []int{100_000, 1_000_000} {
			b.Run(fmt.Sprintf("%s/%d", counters, n), func(b *testing.B) {
				k := filled(b, "nftables", 0).(*NFTables)
				set := &nftables.Set{Table: fsbanTable, Name: "measured", KeyType: nftables.TypeIPAddr, HasTimeout: true, Counter: counters == "with"}
				if err := cmp.Or(k.conn.AddSet(set, nil), k.conn.Flush()); err != nil {
					b.Fatal(err)
				}
				elements := make([]nftables.SetElement, n)
				for i := range elements {
					elements[i] = nftables.SetElement{Key: nth(i).Addr().AsSlice(), Timeout: time.Hour}
				}
				for b.Loop() {
					b.StopTimer()
					command(b, "nft flush set inet fsban measured")
					b.StartTimer()
					for part := range slices.Chunk(elements, batch) {
						b.StopTimer()
						err := k.conn.SetAddElements(set, part)
						b.StartTimer()
						if err = cmp.Or(err, k.conn.Flush()); err != nil {
							b.Fatal(err)
						}
					}
				}
			})
		}
	}
}

// BenchmarkBanWhileListing is BenchmarkBan while 100,000 bans are being listed all the time.
func BenchmarkBanWhileListing(b *testing.B) {
	for _, kind := range []string{"nft", "nftables"} {
		b.Run(kind, func(b *testing.B) {
			k := filled(b, kind, 100_000)
			e, applied := quiet(b, kind)
			ctx, cancel := context.WithCancel(b.Context())
			var listing sync.WaitGroup
			listing.Go(func() {
				for ctx.Err() == nil {
					if _, err := k.entries(); err != nil {
						b.Error(err)
						return
					}
				}
			})
			defer listing.Wait()
			defer cancel()
			var all []time.Duration
			for i := 0; b.Loop(); i++ {
				now := time.Now()
				e.Ban(nth(2_000_000+i%100_000), now.Add(time.Hour), Cause{Read: now})
				all = append(all, <-applied)
			}
			slices.Sort(all)
			for _, p := range []int{50, 99} {
				b.ReportMetric(float64(all[len(all)*p/100].Nanoseconds()), fmt.Sprintf("p%d-ns", p))
			}
		})
	}
}

// BenchmarkCheck is a check that finds everything in its place.
func BenchmarkCheck(b *testing.B) {
	for _, kind := range []string{"nft", "legacy", "nftables"} {
		b.Run(kind, func(b *testing.B) {
			k := filled(b, kind, 1000)
			for b.Loop() {
				if made, err := setUp(k); err != nil || len(made) > 0 {
					b.Fatal(made, err)
				}
			}
		})
	}
}

// BenchmarkList is a listing of all entries.
func BenchmarkList(b *testing.B) {
	for _, kind := range []string{"nft", "nftables"} {
		for _, n := range []int{1000, 100_000} {
			b.Run(fmt.Sprintf("%s/%d", kind, n), func(b *testing.B) {
				k := filled(b, kind, n)
				for b.Loop() {
					if list, err := k.entries(); err != nil || len(list) != n {
						b.Fatal(len(list), err)
					}
				}
			})
		}
	}
}

// BenchmarkFull is a batch of bans that all find their set full.
func BenchmarkFull(b *testing.B) {
	useIPTables(b, "nft")
	k := open(b, Options{MaxBans: 16})
	if _, err := k.Teardown(); err != nil {
		b.Fatal(err)
	}
	if _, err := setUp(k); err != nil {
		b.Fatal(err)
	}
	ops := make([]op, 0, 10_016)
	for i := range cap(ops) {
		ops = append(ops, op{prefix: nth(i), add: true})
	}
	for b.Loop() {
		if failed, err := k.apply(ops); len(failed) != 10_000 {
			b.Fatal(len(failed), err)
		}
	}
}

// filled returns a backend that is set up, with n bans in force.
func filled(b *testing.B, kind string, n int) Backend {
	b.Helper()
	if kind != "nftables" {
		useIPTables(b, kind)
	}
	k := openKind(b, kind, Options{})
	if _, err := k.Teardown(); err != nil {
		b.Fatal(err)
	}
	if _, err := setUp(k); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _, _ = k.Teardown() })
	ops := make([]op, 0, n)
	for i := range n {
		ops = append(ops, op{prefix: nth(i), add: true, until: time.Now().Add(time.Hour)})
	}
	if _, err := k.apply(ops); err != nil {
		b.Fatal(err)
	}
	return k
}
