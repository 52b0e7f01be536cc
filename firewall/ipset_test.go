package firewall

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// connect returns a connection to the kernel's sets with fsban4 and fsban6 in it.
func connect(t testing.TB) *ipsets {
	t.Helper()
	s, err := dialIPSet()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.close() })
	if err := errors.Join(s.create(SetIPv4, unix.AF_INET, 65536), s.create(SetIPv6, unix.AF_INET6, 65536)); err != nil {
		t.Fatal(err)
	}
	return s
}

// saved reads what the ipset program prints of a set.
func saved(t *testing.T, set string) map[netip.Prefix]Entry {
	t.Helper()
	entries := make(map[netip.Prefix]Entry)
	for line := range strings.Lines(command(t, "ipset save "+set)) {
		if !strings.HasPrefix(line, "add ") {
			continue
		}
		var name, address string
		var seconds int
		e := Entry{Left: Forever}
		if _, err := fmt.Sscanf(line, "add %s %s timeout %d packets %d bytes %d", &name, &address, &seconds, &e.Packets, &e.Bytes); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		e.Prefix = prefix(address)
		if seconds > 0 {
			e.Left = time.Duration(seconds) * time.Second
		}
		entries[e.Prefix] = e
	}
	return entries
}

// alike tells whether two entries are the same, some seconds apart.
func alike(before, after Entry) bool {
	gone := before.Left - after.Left
	before.Left = after.Left
	return before == after && gone >= 0 && gone < 30*time.Second
}

func TestIpsetProgramListsWhatWeWrote(t *testing.T) {
	onKernel(t, func(t *testing.T) {
		s := connect(t)
		for set, prefixes := range map[string][]string{
			SetIPv4: {"1.0.0.0/8", "192.0.2.1", "192.0.2.128/25", "198.51.100.0/24", "255.255.255.255", "128.0.0.0/1"},
			SetIPv6: {"2001:db8::/32", "2001:db8:1::/64", "2001:db8::1", "8000::/1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db8::/127"},
		} {
			want := make(map[netip.Prefix]Entry)
			var entries []Entry
			for i, p := range prefixes {
				e := Entry{Prefix: prefix(p), Left: time.Duration(i) * 1000 * time.Second, Packets: uint64(i), Bytes: uint64(i) << 33}
				if i == 0 {
					e.Left = Forever
				}
				entries = append(entries, e)
				want[e.Prefix] = e
			}
			if err := s.add(set, entries); err != nil {
				t.Fatal(err)
			}
			if got := saved(t, set); !maps.EqualFunc(want, got, alike) {
				t.Errorf("ipset lists\n%v, want\n%v", got, want)
			}
			if err := s.del(set, entries[1:3]); err != nil {
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
	onKernel(t, func(t *testing.T) {
		s := connect(t)
		for _, line := range []string{
			"fsban4 192.0.2.1", "fsban4 198.51.100.0/24 timeout 0 packets 7 bytes 340", "fsban4 203.0.113.9 timeout 2147483",
			"fsban6 2001:db8::1 timeout 60", "fsban6 2001:db8:1::/64 timeout 0 packets 1152921504606846976 bytes 18446744073709551614",
		} {
			command(t, "ipset add "+line)
		}
		got := make(map[netip.Prefix]Entry)
		for _, set := range []string{SetIPv4, SetIPv6} {
			entries, err := s.entries(set)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				got[e.Prefix] = e
			}
		}
		want := make(map[netip.Prefix]Entry)
		for _, e := range []Entry{
			{prefix("192.0.2.1"), Forever, 0, 0}, {prefix("198.51.100.0/24"), Forever, 7, 340}, {prefix("203.0.113.9"), maxTimeout, 0, 0},
			{prefix("2001:db8::1"), time.Minute, 0, 0}, {prefix("2001:db8:1::/64"), Forever, 1 << 60, 1<<64 - 2},
		} {
			want[e.Prefix] = e
		}
		if !maps.EqualFunc(want, got, alike) {
			t.Errorf("listed\n%v, want\n%v", got, want)
		}
	})
}

func TestHeaderSaysWhatTheIpsetProgramSays(t *testing.T) {
	onKernel(t, func(t *testing.T) {
		s := connect(t)
		if err := s.add(SetIPv6, []Entry{{Prefix: prefix("2001:db8::/64"), Left: time.Hour}}); err != nil {
			t.Fatal(err)
		}
		info, err := s.info(SetIPv6)
		want := setInfo{typeName: "hash:net", family: unix.AF_INET6, timeouts: true, counters: true, maxElem: 65536, elements: 1}
		if err != nil || info != want {
			t.Errorf("%+v, %v, want %+v", info, err, want)
		}
		listed := command(t, "ipset list -t fsban6")
		for _, line := range []string{"Type: hash:net\n", "family inet6 ", "maxelem 65536 timeout 0 counters", "Number of entries: 1\n"} {
			if !strings.Contains(listed, line) {
				t.Errorf("no %q in\n%s", line, listed)
			}
		}
	})
}

func TestListOfManyMessagesIsWhole(t *testing.T) {
	onKernel(t, func(t *testing.T) {
		s := connect(t)
		const n = 20_000
		want := make(map[netip.Prefix]bool)
		var entries []Entry
		for i := range n {
			p := prefix("198." + strconv.Itoa(i>>16) + "." + strconv.Itoa(i>>8&255) + "." + strconv.Itoa(i&255))
			entries = append(entries, Entry{Prefix: p, Left: time.Hour})
			want[p] = true
		}
		for part := range slices.Chunk(entries, batch) {
			if err := s.add(SetIPv4, part); err != nil {
				t.Fatal(err)
			}
		}
		got, err := s.entries(SetIPv4)
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
	e := Entry{Prefix: prefix("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), Left: maxTimeout, Packets: 1, Bytes: 1}
	if size := batch * len(appendEntry(nil, &e, true)); size > 65_535-4 {
		t.Errorf("%d entries are %d bytes", batch, size)
	}
}

func TestErrorsOfSetsSayWhatToDo(t *testing.T) {
	onKernel(t, func(t *testing.T) {
		s := connect(t)
		command(t, "iptables -A INPUT -m set --match-set fsban4 src -j DROP")
		one := []Entry{{Prefix: prefix("192.0.2.1"), Left: time.Hour}}
		six := []Entry{{Prefix: prefix("2001:db8::1"), Left: time.Hour}}
		for want, err := range map[string]error{
			"ipset list nowhere: no such set":                                       second(s.info("nowhere")),
			"ipset add nowhere 192.0.2.1/32: no such set":                           s.add("nowhere", one),
			"ipset delete nowhere: no such set":                                     s.del("nowhere", slices.Repeat(one, 2)),
			"ipset destroy nowhere: no such set":                                    s.destroy("nowhere"),
			"ipset destroy fsban4: the set is in use by a rule":                     s.destroy(SetIPv4),
			"ipset create fsban4: file exists":                                      s.create(SetIPv4, unix.AF_INET, 16),
			"ipset add fsban4 2001:db8::1/128: the kernel says error 4097 of ipset": s.add(SetIPv4, six),
		} {
			if err == nil || err.Error() != want {
				t.Errorf("%v, want %s", err, want)
			}
		}
	})
}

func second[T any](_ T, err error) error { return err }
