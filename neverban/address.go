package neverban

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	maxAddresses = 10_000                 // of this host
	addressPause = 100 * time.Millisecond // at most ten reads a second during a burst of changes
)

// An addressWatch watches the addresses of this host. The kernel reports changes; the timer covers changes that it could not
// report, and hosts without permission to subscribe.
type addressWatch struct {
	watcher *Watcher
	known   []Entry
}

// look reads the addresses.
func (a *addressWatch) look() {
	entries, err := addresses()
	if err != nil {
		a.watcher.put(own, report{a.known, []string{fmt.Sprintf("own addresses: %v", err)}})
		return
	}
	a.known = entries
	a.watcher.put(own, report{entries: entries})
}

// A subscription reports changes until it is closed.
type subscription interface {
	Receive() ([]netlink.Message, error)
	Close() error
}

func subscribe() (subscription, error) {
	groups := uint32(1<<(unix.RTNLGRP_IPV4_IFADDR-1) | 1<<(unix.RTNLGRP_IPV6_IFADDR-1))
	return netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Groups: groups})
}

func (a *addressWatch) run(ctx context.Context) {
	changes := make(chan struct{}, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	var ended chan struct{} // of the subscription; nil if there is none
	for {
		if ended == nil {
			if sub, err := a.watcher.subscribe(); err == nil {
				ended = make(chan struct{})
				wg.Go(func() { listen(ctx, sub, changes, ended) })
			}
		}
		a.look()
		if !sleep(ctx, addressPause, nil) || !sleep(ctx, addressEvery-addressPause, changes) {
			return
		}
		select {
		case <-ended:
			ended = nil
		default:
		}
	}
}

// listen puts a token in changes for each message, until ctx or the subscription ends.
func listen(ctx context.Context, sub subscription, changes, ended chan struct{}) {
	defer close(ended)
	stop := context.AfterFunc(ctx, func() { _ = sub.Close() })
	defer func() {
		if stop() {
			_ = sub.Close()
		}
	}()
	for {
		// Messages beyond the socket's buffer are lost, but show a change.
		if _, err := sub.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
		token(changes)
	}
}

// addresses returns the addresses of this host, including loopback.
func addresses() ([]Entry, error) {
	data, err := syscall.NetlinkRIB(unix.RTM_GETADDR, unix.AF_UNSPEC)
	if err != nil {
		return nil, err
	}
	messages, err := syscall.ParseNetlinkMessage(data)
	if err != nil {
		return nil, err
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	name := make(map[uint32]string, len(interfaces))
	for _, i := range interfaces {
		name[uint32(i.Index)] = " " + i.Name
	}
	var entries []Entry
	for _, m := range messages {
		if m.Header.Type != unix.RTM_NEWADDR || len(m.Data) < unix.SizeofIfAddrmsg {
			continue
		}
		addr, err := localAddr(&m)
		if err != nil {
			return nil, err
		}
		if addr.IsValid() {
			entries = append(entries, single(addr, ownOrigin+name[binary.NativeEndian.Uint32(m.Data[4:])]))
		}
		if len(entries) > maxAddresses {
			return nil, fmt.Errorf("more than %d", maxAddresses)
		}
	}
	return entries, nil
}

// localAddr returns the local address in a message: on a point-to-point interface IFA_ADDRESS is the peer's.
func localAddr(m *syscall.NetlinkMessage) (netip.Addr, error) {
	attrs, err := syscall.ParseNetlinkRouteAttr(m)
	if err != nil {
		return netip.Addr{}, err
	}
	var local, address netip.Addr
	for _, attr := range attrs {
		switch attr.Attr.Type {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(attr.Value)
		case unix.IFA_ADDRESS:
			address, _ = netip.AddrFromSlice(attr.Value)
		}
	}
	if local.IsValid() {
		return local, nil
	}
	return address, nil
}
