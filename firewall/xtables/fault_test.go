package xtables

import (
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/mdlayher/netlink/nltest"

	"fsban/firewall"
	"fsban/firewall/ipset"
	"fsban/internal/kerneltest"
)

func TestFaultsOfTheKernelLoseNothing(t *testing.T) {
	for errno, want := range map[syscall.Errno]string{
		syscall.ENOBUFS:         "no buffer space available",
		syscall.EBUSY:           "device or resource busy",
		syscall.EPERM:           "not permitted: fsban needs CAP_NET_ADMIN",
		syscall.EPROTONOSUPPORT: "does this kernel have ipset (module ip_set)? (protocol not supported)",
		syscall.EINVAL:          "does this kernel have ipset (module ip_set)? (invalid argument)",
		syscall.Errno(4098):     "the kernel has no set type hash:net (module ip_set_hash_net)",
	} {
		t.Run(errno.Error(), func(t *testing.T) {
			kerneltest.OnKernel(t, func(t *testing.T) {
				b := open(t, firewall.Options{})
				whole := b.sets
				faulty := ipset.NewConn(nltest.Dial(kerneltest.Refusing(errno)))
				defer func() { _ = faulty.Close() }()

				b.sets = faulty
				if made, err := b.Setup(); len(made) > 0 || err == nil || !strings.HasSuffix(err.Error(), want) {
					t.Errorf("set-up made %q, %v, want %s", made, err, want)
				}
				if g := b.Verify(t.Context()); len(g.Made) > 0 || g.Err != nil {
					t.Errorf("rules were made for sets that are not there: %+v", g)
				}
				ops := []firewall.Order{{Prefix: kerneltest.Prefix("192.0.2.1"), Add: true}, {Prefix: kerneltest.Prefix("2001:db8::/64"), Add: true}, {Prefix: kerneltest.Prefix("192.0.2.2")}}
				if failed, err := b.Apply(ops); len(failed) != 3 || err == nil {
					t.Errorf("without sets %d failed, %v", len(failed), err)
				}

				b.sets = whole
				if err := setUp(b); err != nil {
					t.Fatal(err)
				}
				b.sets = faulty
				failed, err := b.Apply(ops)
				if len(failed) != 3 || err == nil || !strings.HasSuffix(err.Error(), want) {
					t.Errorf("%d failed, %v, want %s", len(failed), err, want)
				}
				b.sets = whole
				if failed, err = b.Apply(failed); len(failed) > 0 || err != nil {
					t.Errorf("%v failed, %v", failed, err)
				}
				if got := kerneltest.Banned(t, b); !slices.Equal(got, []string{"192.0.2.1/32", "2001:db8::/64"}) {
					t.Errorf("the kernel holds %q", got)
				}
			})
		})
	}
}
