package nft

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"

	"fsban/firewall"
	"fsban/internal/kerneltest"
)

func TestNFTablesDialsAgainAfterAFault(t *testing.T) {
	kerneltest.OnKernel(t, func(t *testing.T) {
		b := open(t)
		if _, err := b.Setup(); err != nil {
			t.Fatal(err)
		}
		var ops []firewall.Order
		for i := range 3000 {
			ops = append(ops, firewall.Order{Prefix: nth(i), Add: true, Until: time.Now().Add(time.Hour)})
		}
		for range 3 {
			_ = b.conn.CloseLasting()
			b.conn, _ = nftables.New(nftables.WithTestDial(kerneltest.Refusing(syscall.ENOBUFS)))
			if failed, err := b.Apply(ops); len(failed) > 0 || err != nil {
				t.Errorf("%d failed, %v", len(failed), err)
			}
		}
		if got, err := b.Entries(); err != nil || len(got) != len(ops) {
			t.Errorf("%d entries, want %d, %v", len(got), len(ops), err)
		}
	})
}

func TestNFTablesSaysWhatIsMissing(t *testing.T) {
	for errno, want := range map[syscall.Errno]string{
		syscall.EOPNOTSUPP: "nft add fsban4: does this kernel have nftables with sets that have timeouts and counters (module nf_tables, Linux 5.7)? (operation not supported)",
		syscall.ENOENT:     "nft add fsban4: no such set",
		syscall.ENOBUFS:    "nft add fsban4: no buffer space available",
	} {
		if err := nftError("add", "fsban4", errors.Join(errno)); err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestOwnBansNeedNoListing(t *testing.T) {
	kerneltest.OnKernel(t, func(t *testing.T) {
		b := open(t)
		if _, err := b.Setup(); err != nil {
			t.Fatal(err)
		}
		var ops []firewall.Order
		for i := range 20_000 {
			ops = append(ops, firewall.Order{Prefix: nth(i), Add: true})
		}
		for _, again := range []string{"on the first connection", "on another one"} {
			conn, err := b.watcher.listen()
			if err != nil {
				t.Fatal(err)
			}
			if again != "on the first connection" {
				if err := b.change("add", &nftables.Set{Table: fsbanTable, Name: "nowhere"}, []firewall.Entry{{Prefix: kerneltest.Prefix("192.0.2.1")}}, b.add); err == nil {
					t.Error("a set that is not there is filled")
				}
			}
			if _, err := b.Apply(ops); err != nil {
				t.Fatal(err)
			}
			kerneltest.Command(t, "nft add element inet fsban fsban4 { 192.0.2.9 }")
			_ = conn.SetReadDeadline(time.Now().Add(2 * time.Minute))
			// The first report of the kernel is the change by another program.
			messages, err := conn.Receive()
			if err != nil || !slices.ContainsFunc(messages, b.watcher.Foreign) {
				t.Errorf("%s: %d messages, %v", again, len(messages), err)
			}
			_ = conn.Close()
			kerneltest.Command(t, "nft delete element inet fsban fsban4 { 192.0.2.9 }")
		}
	})
}

// BenchmarkElements measures the kernel's time for the elements of a set of nftables, with a counter for each, as
// fsban's have one, and without.
func BenchmarkElements(b *testing.B) {
	for _, counters := range []string{"with", "without"} {
		for _, n := range []int{100_000, 1_000_000} {
			b.Run(fmt.Sprintf("%s/%d", counters, n), func(b *testing.B) {
				k := open(b)
				if _, err := k.Setup(); err != nil {
					b.Fatal(err)
				}
				b.Cleanup(func() { _, _ = k.Teardown() })
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
					kerneltest.Command(b, "nft flush set inet fsban measured")
					b.StartTimer()
					for part := range slices.Chunk(elements, firewall.BatchSize) {
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

// The kernel's own count of entries agrees with a listing.
func TestKernelCountsEntries(t *testing.T) {
	kerneltest.OnKernel(t, func(t *testing.T) {
		b := open(t)
		if _, err := b.Setup(); err != nil {
			t.Fatal(err)
		}
		for _, n := range []int{0, 1, 5000} {
			var orders []firewall.Order
			for i := range n {
				orders = append(orders, firewall.Order{Prefix: nth(i), Add: true, Until: time.Now().Add(time.Hour)})
			}
			if failed, err := b.Apply(orders); len(failed) > 0 || err != nil {
				t.Fatal(len(failed), err)
			}
			size, counted, err := b.size()
			if err != nil || counted && size != n {
				t.Errorf("%d entries counted, %v, %v, want %d", size, counted, err, n)
			}
			t.Logf("%d entries, counted: %v", n, counted)
		}
	})
}
