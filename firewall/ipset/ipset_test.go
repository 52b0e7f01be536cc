package ipset

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fsban/firewall"
	"fsban/internal/kerneltest"
)

// connect returns a connection to the kernel's sets with fsban4 and fsban6 in it.
func connect(t testing.TB) *Conn {
	t.Helper()
	s, err := Dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	if err := errors.Join(s.Create(firewall.SetIPv4, unix.AF_INET, 65536), s.Create(firewall.SetIPv6, unix.AF_INET6, 65536)); err != nil {
		t.Fatal(err)
	}
	return s
}

// saved parses the output of ipset save.
func saved(t *testing.T, set string) map[netip.Prefix]firewall.Entry {
	t.Helper()
	entries := make(map[netip.Prefix]firewall.Entry)
	for line := range strings.Lines(kerneltest.Command(t, "ipset save "+set)) {
		if !strings.HasPrefix(line, "add ") {
			continue
		}
		var name, address string
		var seconds int
		e := firewall.Entry{Left: firewall.Forever}
		if _, err := fmt.Sscanf(line, "add %s %s timeout %d packets %d bytes %d", &name, &address, &seconds, &e.Packets, &e.Bytes); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		e.Prefix = kerneltest.Prefix(address)
		if seconds > 0 {
			e.Left = time.Duration(seconds) * time.Second
		}
		entries[e.Prefix] = e
	}
	return entries
}

// alike tells whether two entries are the same, some seconds apart.
func alike(before, after firewall.Entry) bool {
	gone := before.Left - after.Left
	before.Left = after.Left
	return before == after && gone >= 0 && gone < 30*time.Second
}

func TestIpsetProgramListsWhatWeWrote(t *testing.T) {
	kerneltest.OnKernel(t, func(t *testing.T) {
		s := connect(t)
		for set, prefixes := range map[string][]string{
			firewall.SetIPv4: {"1.0.0.0/8", "192.0.2.1", "192.0.2.128/25", "198.51.100.0/24", "255.255.255.255", "128.0.0.0/1"},
			firewall.SetIPv6: {"2001:db8::/32", "2001:db8:1::/64", "2001:db8::1", "8000::/1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db8::/127"},
		} {
			want := make(map[netip.Prefix]firewall.Entry)
			var entries []firewall.Entry
			for i, p := range prefixes {
				e := firewall.Entry{Prefix: kerneltest.Prefix(p), Left: time.Duration(i) * 1000 * time.Second, Packets: uint64(i), Bytes: uint64(i) << 33}
				if i == 0 {
					e.Left = firewall.Forever
				}
				entries = append(entries, e)
				want[e.Prefix] = e
			}
			if err := s.Add(set, entries); err != nil {
				t.Fatal(err)
			}
			if got := saved(t, set); !maps.EqualFunc(want, got, alike) {
				t.Errorf("ipset lists\n%v, want\n%v", got, want)
			}
			if err := s.Delete(set, entries[1:3]); err != nil {
				t.Fatal(err)
			}
			delete(want, entries[1].Prefix)
			delete(want, entries[2].Prefix)
			if got := saved(t, set); !maps.EqualFunc(want, got, alike) {
				t.Errorf("after two were deleted ipset lists\n%v, want\n%v", got, want)
			}
		}
	})
}

func TestWeListWhatTheIpsetProgramWrote(t *testing.T) {
	kerneltest.OnKernel(t, func(t *testing.T) {
		s := connect(t)
		for _, line := range []string{
			"fsban4 192.0.2.1", "fsban4 198.51.100.0/24 timeout 0 packets 7 bytes 340", "fsban4 203.0.113.9 timeout 2147483",
			"fsban6 2001:db8::1 timeout 60", "fsban6 2001:db8:1::/64 timeout 0 packets 1152921504606846976 bytes 18446744073709551614",
		} {
			kerneltest.Command(t, "ipset add "+line)
		}
		got := make(map[netip.Prefix]firewall.Entry)
		for _, set := range []string{firewall.SetIPv4, firewall.SetIPv6} {
			entries, err := s.Entries(set)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				got[e.Prefix] = e
			}
		}
		want := make(map[netip.Prefix]firewall.Entry)
		for _, e := range []firewall.Entry{
			{Prefix: kerneltest.Prefix("192.0.2.1"), Left: firewall.Forever, Packets: 0, Bytes: 0}, {Prefix: kerneltest.Prefix("198.51.100.0/24"), Left: firewall.Forever, Packets: 7, Bytes: 340}, {Prefix: kerneltest.Prefix("203.0.113.9"), Left: firewall.MaxTimeout, Packets: 0, Bytes: 0},
			{Prefix: kerneltest.Prefix("2001:db8::1"), Left: time.Minute, Packets: 0, Bytes: 0}, {Prefix: kerneltest.Prefix("2001:db8:1::/64"), Left: firewall.Forever, Packets: 1 << 60, Bytes: 1<<64 - 2},
		} {
			want[e.Prefix] = e
		}
		if !maps.EqualFunc(want, got, alike) {
			t.Errorf("listed\n%v, want\n%v", got, want)
		}
	})
}

func TestHeaderSaysWhatTheIpsetProgramSays(t *testing.T) {
	kerneltest.OnKernel(t, func(t *testing.T) {
		s := connect(t)
		if err := s.Add(firewall.SetIPv6, []firewall.Entry{{Prefix: kerneltest.Prefix("2001:db8::/64"), Left: time.Hour}}); err != nil {
			t.Fatal(err)
		}
		info, err := s.Info(firewall.SetIPv6)
		want := Info{Type: "hash:net", Family: unix.AF_INET6, Timeouts: true, Flags: 1 << 3, MaxElem: 65536, Elements: 1}
		if err != nil || info != want {
			t.Errorf("%+v, %v, want %+v", info, err, want)
		}
		listed := kerneltest.Command(t, "ipset list -t fsban6")
		for _, line := range []string{"Type: hash:net\n", "family inet6 ", "maxelem 65536 timeout 0 counters", "Number of entries: 1\n"} {
			if !strings.Contains(listed, line) {
				t.Errorf("no %q in\n%s", line, listed)
			}
		}
	})
}

func TestListOfManyMessagesIsWhole(t *testing.T) {
	kerneltest.OnKernel(t, func(t *testing.T) {
		s := connect(t)
		const n = 20_000
		want := make(map[netip.Prefix]bool)
		var entries []firewall.Entry
		for i := range n {
			p := kerneltest.Prefix("198." + strconv.Itoa(i>>16) + "." + strconv.Itoa(i>>8&255) + "." + strconv.Itoa(i&255))
			entries = append(entries, firewall.Entry{Prefix: p, Left: time.Hour})
			want[p] = true
		}
		for part := range slices.Chunk(entries, firewall.BatchSize) {
			if err := s.Add(firewall.SetIPv4, part); err != nil {
				t.Fatal(err)
			}
		}
		got, err := s.Entries(firewall.SetIPv4)
		if err != nil || len(got) != n {
			t.Fatalf("%d entries, %v", len(got), err)
		}
		for _, e := range got {
			delete(want, e.Prefix)
		}
		if len(want) > 0 {
			t.Errorf("%d entries are not listed", len(want))
		}
	})
}

func TestBatchIsNotTooLongForItsMessage(t *testing.T) {
	e := firewall.Entry{Prefix: kerneltest.Prefix("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), Left: firewall.MaxTimeout, Packets: 1, Bytes: 1}
	if size := firewall.BatchSize * len(appendEntry(nil, &e, true)); size > 65_535-4 {
		t.Errorf("%d entries are %d bytes", firewall.BatchSize, size)
	}
}

func TestErrorsOfSetsSayWhatToDo(t *testing.T) {
	kerneltest.OnKernel(t, func(t *testing.T) {
		s := connect(t)
		kerneltest.Command(t, "iptables -A INPUT -m set --match-set fsban4 src -j DROP")
		one := []firewall.Entry{{Prefix: kerneltest.Prefix("192.0.2.1"), Left: time.Hour}}
		six := []firewall.Entry{{Prefix: kerneltest.Prefix("2001:db8::1"), Left: time.Hour}}
		for want, err := range map[string]error{
			"ipset list nowhere: no such set":                                  second(s.Info("nowhere")),
			"ipset add nowhere 192.0.2.1/32: no such set":                      s.Add("nowhere", one),
			"ipset destroy nowhere: no such set":                               s.Destroy("nowhere"),
			"ipset destroy fsban4: the set is in use by a rule":                s.Destroy(firewall.SetIPv4),
			"ipset create fsban4: file exists":                                 s.Create(firewall.SetIPv4, unix.AF_INET, 16),
			"ipset add fsban4 2001:db8::1/128: ipset error 4097 of the kernel": s.Add(firewall.SetIPv4, six),
		} {
			if err == nil || err.Error() != want {
				t.Errorf("%v, want %s", err, want)
			}
		}
	})
}

func second[T any](_ T, err error) error { return err }

func TestTimeoutsAreRoundedUpAndClamped(t *testing.T) {
	for ask, want := range map[time.Duration]uint32{
		firewall.Forever:                      0,
		0:                                     1,
		time.Nanosecond:                       1,
		time.Second:                           1,
		time.Second + 1:                       2,
		24 * time.Hour:                        86400,
		firewall.MaxTimeout - 1:               2147483,
		firewall.MaxTimeout + time.Nanosecond: 2147483,
		10 * 365 * 24 * time.Hour:             2147483,
		math.MaxInt64:                         2147483,
		-time.Hour:                            1,
	} {
		if got := kernelSeconds(ask); got != want {
			t.Errorf("%v is %d s in the kernel, want %d", ask, got, want)
		}
	}
}
