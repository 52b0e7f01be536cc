package neverban

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"fsban/internal/netns"
)

func TestOwnAddressesAreFollowedAtOnce(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		told := make(chan []string, 100)
		w := New(Options{SSHPorts: []uint16{}, Changed: func(entries []Entry, _ []string) { told <- lines(entries) }})
		(&rig{Watcher: w}).run(t)
		expect := func(want ...string) {
			t.Helper()
			late := time.After(addressEvery * 2 / 3) // the timer cannot have been it
			for {
				select {
				case got := <-told:
					if slices.Equal(got, want) {
						return
					}
					t.Logf("meanwhile %q", got)
				case <-late:
					t.Fatalf("not told of %q", want)
				}
			}
		}
		expect("127.0.0.1/32 own address lo", "::1/128 own address lo")
		v4, v6 := netip.MustParsePrefix("203.0.113.1/24"), netip.MustParsePrefix("2001:db8::1/64")
		if err := netns.Assign(v4, v6); err != nil {
			t.Fatal(err)
		}
		expect("127.0.0.1/32 own address lo", "203.0.113.1/32 own address lo", "::1/128 own address lo", "2001:db8::1/128 own address lo")
		remove(t, v4)
		expect("127.0.0.1/32 own address lo", "::1/128 own address lo", "2001:db8::1/128 own address lo")
		remove(t, v6)
		expect("127.0.0.1/32 own address lo", "::1/128 own address lo")
	})
}

// remove takes an address from loopback.
func remove(t *testing.T, p netip.Prefix) {
	t.Helper()
	family := byte(unix.AF_INET6)
	if p.Addr().Is4() {
		family = unix.AF_INET
	}
	ae := netlink.NewAttributeEncoder()
	ae.Bytes(unix.IFA_LOCAL, p.Addr().AsSlice())
	attrs, err := ae.Encode()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	data := binary.NativeEndian.AppendUint32([]byte{family, byte(p.Bits()), 0, 0}, 1)
	_, err = conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.RTM_DELADDR, Flags: netlink.Request | netlink.Acknowledge},
		Data:   append(data, attrs...),
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestOwnAddressesWithoutTheKernelsWord(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := start(t, Options{})
			synctest.Wait()
			before, _, _ := r.last()
			if err := netns.Assign(netip.MustParsePrefix("203.0.113.1/24")); err != nil {
				t.Fatal(err)
			}
			time.Sleep(addressEvery)
			synctest.Wait()
			if after, _, _ := r.last(); len(after) != len(before)+1 {
				t.Errorf("%q, want the new address once the timer has come", after)
			}
		})
	})
}

func TestSubscriptionIsMadeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := New(Options{SSHPorts: []uint16{}})
		var subs []quiet
		w.subscribe = func() (subscription, error) {
			subs = append(subs, quiet{make(chan error)})
			return subs[len(subs)-1], nil
		}
		(&rig{Watcher: w}).run(t)
		synctest.Wait()
		subs[0].c <- unix.ENOBUFS // messages were lost: no reason to give up
		subs[0].c <- nil
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(subs) != 1 {
			t.Fatalf("%d subscriptions, want 1", len(subs))
		}
		subs[0].c <- unix.EBADF
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(subs) != 2 {
			t.Errorf("%d subscriptions, want another one", len(subs))
		}
	})
}
