package firewall_test

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"fsban/firewall"
	"fsban/firewall/backend"
	"fsban/firewall/xtables"
	"fsban/internal/kerneltest"
)

// withoutNetfilterSockets denies this process and its children the sockets that a kernel without nfnetlink lacks:
// ipset and nf_tables are gone, iptables-legacy works.
func withoutNetfilterSockets(t *testing.T) {
	t.Helper()
	program, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 0, Size: 4}, // the number of the call
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.SYS_SOCKET, SkipTrue: 5},
		bpf.LoadAbsolute{Off: 16, Size: 4}, // its first argument
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.AF_NETLINK, SkipTrue: 3},
		bpf.LoadAbsolute{Off: 32, Size: 4}, // its third
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.NETLINK_NETFILTER, SkipTrue: 1},
		bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(unix.EPROTONOSUPPORT)},
		bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW},
	})
	if err != nil {
		t.Fatal(err)
	}
	filters := make([]unix.SockFilter, len(program))
	for i, p := range program {
		filters[i] = unix.SockFilter{Code: p.Op, Jt: p.Jt, Jf: p.Jf, K: p.K}
	}
	fprog := unix.SockFprog{Len: uint16(len(filters)), Filter: &filters[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&fprog))); errno != 0 {
		t.Fatal(errno)
	}
}

func TestAutoTakesRulesWhereThereIsNothingElse(t *testing.T) {
	onBackendOf(t, "rules legacy", func(t *testing.T) {
		withoutNetfilterSockets(t)
		if out, err := exec.CommandContext(t.Context(), "ipset", "list").CombinedOutput(); err == nil {
			t.Fatalf("there is ipset: %s", out)
		}
		if out, err := exec.CommandContext(t.Context(), "nft", "list", "ruleset").CombinedOutput(); err == nil {
			t.Fatalf("there is nftables: %s", out)
		}
		b, why, err := backend.Open(t.Context(), firewall.Auto, firewall.Options{})
		want := "one iptables rule a ban works here, for 2000 of them; " +
			"iptables with ipset does not: ipset open netlink: does this kernel have ipset (module ip_set)? (protocol not supported); " +
			"nftables does not: nft open netlink: does this kernel have nftables with sets that have timeouts and counters (module nf_tables, Linux 5.7)? (protocol not supported)"
		if err != nil || b.Name() != "rules" || why != want {
			t.Fatalf("%v, %q, %v", b, why, err)
		}
		if got := kerneltest.Command(t, "iptables -t raw -S"); strings.Contains(got, "FSBAN") {
			t.Errorf("the trial left\n%s", got)
		}
		server := listen(t, "203.0.113.1")
		banned, allowed := server.dial("198.51.100.7"), server.dial("198.51.100.8")
		r := enforce(t, &gate{Backend: b}, newBook(), firewall.EnforcerOptions{Check: 50 * time.Millisecond, RetryMin: 20 * time.Millisecond, RetryMax: 50 * time.Millisecond})
		r.until("enforcing", func() bool { return r.Status().Enforcing })
		if removed, err := backend.Abandoned(b); err != nil || len(removed) > 0 {
			t.Errorf("of other backends %q was removed, %v", removed, err)
		}
		r.ban("198.51.100.7", time.Hour)
		for i := range xtables.MaxRules - 1 {
			r.ban(nth(i).String(), time.Hour)
		}
		r.settle()
		send(t, banned)
		send(t, allowed)
		if from := server.next(); from != "198.51.100.8" {
			t.Errorf("a packet of %s arrived", from)
		}
		if s := r.Status(); !s.Enforcing || s.Err != nil || s.Backend != "rules" {
			t.Errorf("with as many as may be: %+v", s)
		}

		r.ban("192.0.2.1", time.Hour) // one too many
		r.until("refused", func() bool {
			s := r.Status()
			return !s.Enforcing && errors.Is(s.Err, xtables.ErrTooManyRules) && s.Pending == 1 && s.Failures > 0
		})
		if n := len(kerneltest.Banned(t, b)); n != xtables.MaxRules {
			t.Errorf("%d bans are in force", n)
		}
		r.unban(nth(0).String()) // makes room for it
		r.until("in force", func() bool {
			s := r.Status()
			return s.Enforcing && s.Pending == 0 && slices.Contains(kerneltest.Banned(t, b), "192.0.2.1/32")
		})
		r.stop()
		removed, _, err := backend.Teardown()
		if want := []string{"jump from ipv4 raw/PREROUTING", "ipv4 chain raw/FSBAN", "jump from ipv6 raw/PREROUTING", "ipv6 chain raw/FSBAN"}; err != nil || !slices.Equal(removed, want) {
			t.Errorf("removed %q, %v", removed, err)
		}
	})
}

// Orders that make room and orders that need it come at once, in any order.
func TestUnbansMakeRoomForBans(t *testing.T) {
	kerneltest.OnKernels(t, func(t *testing.T) {
		b := openKind(t, "rules", firewall.Options{})
		if _, err := setUp(b); err != nil {
			t.Fatal(err)
		}
		var ops []firewall.Order
		for i := range xtables.MaxRules - 1 {
			ops = append(ops, firewall.Order{Prefix: nth(i), Add: true})
		}
		ops = append(ops, firewall.Order{Prefix: kerneltest.Prefix("2001:db8::/64"), Add: true})
		if failed, err := b.Apply(ops); len(failed) > 0 || err != nil {
			t.Fatal(len(failed), err)
		}
		failed, err := b.Apply([]firewall.Order{{Prefix: kerneltest.Prefix("192.0.2.1"), Add: true}, {Prefix: kerneltest.Prefix("192.0.2.2"), Add: true}, {Prefix: kerneltest.Prefix("2001:db8::/64")}, {Prefix: nth(0)}})
		if len(failed) > 0 || err != nil {
			t.Errorf("%v failed, %v", failed, err)
		}
		if got := kerneltest.Banned(t, b); len(got) != xtables.MaxRules || !slices.Contains(got, "192.0.2.1/32") || !slices.Contains(got, "192.0.2.2/32") {
			t.Errorf("%d bans are in force", len(got))
		}
	})
}

// Ended bans make room before the next check.
func TestExpiredRulesMakeRoom(t *testing.T) {
	kerneltest.OnKernels(t, func(t *testing.T) {
		b := openKind(t, "rules", firewall.Options{})
		if _, err := setUp(b); err != nil {
			t.Fatal(err)
		}
		var ops []firewall.Order
		until := time.Now().Add(time.Second) // of all: rules end with a second
		for i := range xtables.MaxRules {
			ops = append(ops, firewall.Order{Prefix: nth(i), Add: true, Until: until})
		}
		if failed, err := b.Apply(ops); len(failed) > 0 || err != nil {
			t.Fatal(len(failed), err)
		}
		more := []firewall.Order{{Prefix: kerneltest.Prefix("192.0.2.1"), Add: true}}
		failed, _ := b.Apply(more)
		for ; time.Now().Before(until.Add(time.Second)); time.Sleep(10 * time.Millisecond) {
			if len(failed) == 0 && time.Now().Before(until) {
				t.Fatal("no ban has ended, and there is room")
			}
		}
		if failed, err := b.Apply(more); len(failed) > 0 || err != nil {
			t.Fatal(fmt.Errorf("%d failed: %w", len(failed), err))
		}
		if got := kerneltest.Banned(t, b); !slices.Equal(got, []string{"192.0.2.1/32"}) {
			t.Errorf("%d bans are in force", len(got))
		}
		if got := strings.Count(kerneltest.Command(t, "iptables -t raw -S FSBAN"), "-A "); got != 1 {
			t.Errorf("%d rules are left", got)
		}
	})
}
