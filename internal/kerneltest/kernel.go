// Package kerneltest runs tests of the packet filter on the real kernel, in namespaces of their own, and real programs there.
package kerneltest

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/mdlayher/netlink"
	"github.com/mdlayher/netlink/nltest"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"fsban/firewall"
	"fsban/internal/netns"
)

// OnKernels runs f in namespaces of its own, once with each variant of iptables.
func OnKernels(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	for _, variant := range []string{"nft", "legacy"} {
		t.Run(variant, func(t *testing.T) {
			Parallel(t)
			netns.Run(t, func(t *testing.T) {
				UseIPTables(t, variant)
				f(t)
			}, "iptables-"+variant, "ip6tables-"+variant, "ipset")
		})
	}
}

// OnKernel is OnKernels for a test in which the variant of iptables makes no difference.
func OnKernel(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	Parallel(t)
	netns.Run(t, func(t *testing.T) {
		UseIPTables(t, "nft")
		f(t)
	}, "nft", "iptables-nft", "ip6tables-nft", "ipset")
}

// Parallel runs the processes of several tests side by side. In its process a test is alone, and may change PATH.
func Parallel(t *testing.T) {
	if !netns.Inside() {
		t.Parallel()
	}
}

// UseIPTables makes iptables and ip6tables those of a variant, for this test.
func UseIPTables(t testing.TB, variant string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"iptables", "ip6tables"} {
		for _, part := range []string{"", "-save", "-restore"} {
			path, err := exec.LookPath(name + "-" + variant + part)
			if err == nil {
				err = os.Symlink(path, filepath.Join(dir, name+part))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// Command runs a program and returns its output. Words are separated by spaces.
func Command(t testing.TB, line string) string {
	t.Helper()
	words := strings.Fields(line)
	out, err := exec.CommandContext(t.Context(), words[0], words[1:]...).Output()
	if failed := (*exec.ExitError)(nil); errors.As(err, &failed) {
		err = fmt.Errorf("%w: %s", err, failed.Stderr)
	}
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return string(out)
}

// Main runs the tests of a package and looks for leaked goroutines, or runs its benchmarks in namespaces of their own.
func Main(m *testing.M) {
	flag.Parse()
	if flag.Lookup("test.bench").Value.String() != "" {
		os.Exit(netns.Main(m))
	}
	goleak.VerifyTestMain(m)
}

// Refusing is a kernel that answers every message with one error.
func Refusing(errno syscall.Errno) nltest.Func {
	return func(messages []netlink.Message) ([]netlink.Message, error) {
		if len(messages) == 0 {
			return nil, errno
		}
		return nltest.Error(int(errno), messages[:1])
	}
}

// Banned lists the prefixes in the kernel, in order.
func Banned(t testing.TB, b firewall.Backend) []string {
	t.Helper()
	entries, err := b.Entries()
	if err != nil {
		t.Fatal(err)
	}
	list := []string{}
	for _, e := range entries {
		list = append(list, e.Prefix.String())
	}
	slices.Sort(list)
	return list
}

// Prefix parses an address or a prefix.
func Prefix(s string) netip.Prefix {
	if addr, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(addr, addr.BitLen())
	}
	return netip.MustParsePrefix(s)
}

// HoldLock takes the lock of iptables-legacy, as another program does.
func HoldLock(t testing.TB) (release func()) {
	t.Helper()
	lock, err := os.Open(os.Getenv("XTABLES_LOCKFILE"))
	if err == nil {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		t.Fatal(err)
	}
	return func() { _ = lock.Close() }
}
