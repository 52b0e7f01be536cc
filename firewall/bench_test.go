package firewall_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"fsban/firewall"
	"fsban/internal/kerneltest"
)

// The benchmarks run in namespaces of their own, on this machine's kernel:
//
//	go test -run '^$' -bench . ./firewall

// quiet starts an enforcer without disturbances, and returns the channel on which it reports applied orders.
func quiet(b *testing.B, kind string) (*firewall.Enforcer, <-chan time.Duration) {
	b.Helper()
	if kind != "nftables" {
		kerneltest.UseIPTables(b, kind)
	}
	applied := make(chan time.Duration, 200_000)
	book := newBook()
	k := openKind(b, kind, firewall.Options{})
	e := firewall.NewEnforcer(k, firewall.EnforcerOptions{
		Bans:    book.all,
		Applied: func(_ bool, took time.Duration, _ firewall.Cause) { applied <- took },
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
		_, _ = k.Teardown()
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
				e.Ban(nth(i%1_000_000), now.Add(time.Hour), firewall.Cause{Read: now})
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
	const waiting = 100_000 // at most: the queue of an Enforcer is bounded
	for kind, flush := range map[string]string{"nft": "ipset flush fsban4", "nftables": "nft flush set inet fsban fsban4"} {
		for _, n := range []int{5000, 100_000, 1_000_000} {
			b.Run(fmt.Sprintf("%s/%d", kind, n), func(b *testing.B) {
				e, applied := quiet(b, kind)
				for b.Loop() {
					b.StopTimer()
					kerneltest.Command(b, flush)
					b.StartTimer()
					now := time.Now()
					for i := range n {
						if i >= waiting {
							<-applied
						}
						e.Ban(nth(i), now.Add(time.Hour), firewall.Cause{Read: now})
					}
					for range min(n, waiting) {
						<-applied
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
					if _, err := k.Entries(); err != nil {
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
				e.Ban(nth(2_000_000+i%100_000), now.Add(time.Hour), firewall.Cause{Read: now})
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
					if list, err := k.Entries(); err != nil || len(list) != n {
						b.Fatal(len(list), err)
					}
				}
			})
		}
	}
}

// BenchmarkFull is a batch of bans that all find their set full.
func BenchmarkFull(b *testing.B) {
	kerneltest.UseIPTables(b, "nft")
	k := open(b, firewall.Options{MaxBans: 16})
	if _, err := k.Teardown(); err != nil {
		b.Fatal(err)
	}
	if _, err := setUp(k); err != nil {
		b.Fatal(err)
	}
	ops := make([]firewall.Order, 0, 10_016)
	for i := range cap(ops) {
		ops = append(ops, firewall.Order{Prefix: nth(i), Add: true})
	}
	for b.Loop() {
		if failed, err := k.Apply(ops); len(failed) != 10_000 {
			b.Fatal(len(failed), err)
		}
	}
}

// filled returns a backend that is set up, with n bans in force.
func filled(b *testing.B, kind string, n int) firewall.Backend {
	b.Helper()
	if kind != "nftables" {
		kerneltest.UseIPTables(b, kind)
	}
	k := openKind(b, kind, firewall.Options{})
	if _, err := k.Teardown(); err != nil {
		b.Fatal(err)
	}
	if _, err := setUp(k); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _, _ = k.Teardown() })
	ops := make([]firewall.Order, 0, n)
	for i := range n {
		ops = append(ops, firewall.Order{Prefix: nth(i), Add: true, Until: time.Now().Add(time.Hour)})
	}
	if _, err := k.Apply(ops); err != nil {
		b.Fatal(err)
	}
	return k
}
