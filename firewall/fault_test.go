package firewall

import (
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"github.com/mdlayher/netlink/nltest"
)

// refusing is a kernel that answers every message with one error.
func refusing(errno syscall.Errno) nltest.Func {
	return func(messages []netlink.Message) ([]netlink.Message, error) {
		if len(messages) == 0 {
			return nil, errno
		}
		return nltest.Error(int(errno), messages[:1])
	}
}

func TestFaultsOfTheKernelLoseNothing(t *testing.T) {
	for errno, want := range map[syscall.Errno]string{
		syscall.ENOBUFS:         "no buffer space available",
		syscall.EBUSY:           "device or resource busy",
		syscall.EPERM:           "not permitted: fsban needs CAP_NET_ADMIN",
		syscall.EPROTONOSUPPORT: "does this kernel have ipset (module ip_set)? (protocol not supported)",
		syscall.EINVAL:          "does this kernel have ipset (module ip_set)? (invalid argument)",
		errnoFindType:           "the kernel has no set type hash:net (module ip_set_hash_net)",
	} {
		t.Run(errno.Error(), func(t *testing.T) {
			onKernel(t, func(t *testing.T) {
				b := open(t, Options{})
				whole := b.sets
				faulty := &ipsets{nltest.Dial(refusing(errno))}
				defer func() { _ = faulty.close() }()

				b.sets = faulty
				if made, err := b.setup(); len(made) > 0 || err == nil || !strings.HasSuffix(err.Error(), want) {
					t.Errorf("set-up made %q, %v, want %s", made, err, want)
				}
				if g := b.guard(t.Context()); len(g.made) > 0 || g.err != nil {
					t.Errorf("rules were made for sets that are not there: %+v", g)
				}
				ops := []op{{prefix: prefix("192.0.2.1"), add: true}, {prefix: prefix("2001:db8::/64"), add: true}, {prefix: prefix("192.0.2.2")}}
				if failed, err := b.apply(ops); len(failed) != 3 || err == nil {
					t.Errorf("without sets %d failed, %v", len(failed), err)
				}

				b.sets = whole
				if _, err := setUp(b); err != nil {
					t.Fatal(err)
				}
				b.sets = faulty
				failed, err := b.apply(ops)
				if len(failed) != 3 || err == nil || !strings.HasSuffix(err.Error(), want) {
					t.Errorf("%d failed, %v, want %s", len(failed), err, want)
				}
				b.sets = whole
				if failed, err = b.apply(failed); len(failed) > 0 || err != nil {
					t.Errorf("%v failed, %v", failed, err)
				}
				if got := inKernel(t, b); !slices.Equal(got, []string{"192.0.2.1/32", "2001:db8::/64"}) {
					t.Errorf("the kernel holds %q", got)
				}
			})
		})
	}
}

func TestNFTablesDialsAgainAfterAFault(t *testing.T) {
	onNFTables(t, func(t *testing.T) {
		b := openNFTables(t, Options{})
		if _, err := setUp(b); err != nil {
			t.Fatal(err)
		}
		var ops []op
		for i := range 3000 {
			ops = append(ops, op{prefix: nth(i), add: true, until: time.Now().Add(time.Hour)})
		}
		for range 3 {
			_ = b.conn.CloseLasting()
			b.conn, _ = nftables.New(nftables.WithTestDial(refusing(syscall.ENOBUFS)))
			if failed, err := b.apply(ops); len(failed) > 0 || err != nil {
				t.Errorf("%d failed, %v", len(failed), err)
			}
		}
		if got := inKernel(t, b); len(got) != len(ops) {
			t.Errorf("%d entries, want %d", len(got), len(ops))
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
