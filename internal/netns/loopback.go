package netns

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// loopback is the index of lo, the same in every network namespace.
const loopback = 1

// Assign gives loopback addresses. Of an IPv4 prefix all addresses are this host's from then on: 203.0.113.1/24 makes 254
// peers to bind sockets to. Of an IPv6 prefix it is only the one that is written.
func Assign(addrs ...netip.Prefix) error {
	if !Inside() {
		return fmt.Errorf("assign %v: not in namespaces of its own", addrs)
	}
	for _, a := range addrs {
		ae := netlink.NewAttributeEncoder()
		ae.Bytes(unix.IFA_LOCAL, a.Addr().AsSlice())
		ae.Bytes(unix.IFA_ADDRESS, a.Addr().AsSlice())
		attrs, err := ae.Encode()
		if err != nil {
			return fmt.Errorf("assign %v: %w", a, err)
		}
		family := byte(unix.AF_INET6)
		if a.Addr().Is4() {
			family = unix.AF_INET
		}
		// struct ifaddrmsg: family, prefix length, flags, scope, index.
		data := []byte{family, byte(a.Bits()), unix.IFA_F_NODAD, unix.RT_SCOPE_UNIVERSE}
		data = binary.NativeEndian.AppendUint32(data, loopback)
		if err := route(unix.RTM_NEWADDR, netlink.Create|netlink.Replace, append(data, attrs...)); err != nil {
			return fmt.Errorf("assign %v: %w", a, err)
		}
		if err := usable(a.Addr()); err != nil {
			return fmt.Errorf("assign %v: %w", a, err)
		}
	}
	return nil
}

// usable waits until a datagram reaches addr: the kernel answers for a new IPv6 address a moment before it listens to it.
func usable(addr netip.Addr) error {
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	self := conn.LocalAddr().(*net.UDPAddr)
	for range 3000 {
		_, _ = conn.WriteToUDP([]byte{0}, self)
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		if _, err = conn.Read(make([]byte, 1)); err == nil {
			return nil
		}
	}
	return fmt.Errorf("it cannot be reached: %w", err)
}

func loopbackUp() error {
	// struct ifinfomsg: family and padding, device type, index, flags, which flags to change.
	data := make([]byte, 4, unix.SizeofIfInfomsg)
	data = binary.NativeEndian.AppendUint32(data, loopback)
	data = binary.NativeEndian.AppendUint32(data, unix.IFF_UP)
	data = binary.NativeEndian.AppendUint32(data, unix.IFF_UP)
	if err := route(unix.RTM_NEWLINK, 0, data); err != nil {
		return fmt.Errorf("bring loopback up: %w", err)
	}
	return nil
}

// route sends one message to rtnetlink and waits for the kernel's answer.
func route(typ netlink.HeaderType, flags netlink.HeaderFlags, data []byte) error {
	conn, err := netlink.Dial(unix.NETLINK_ROUTE, nil)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_, err = conn.Execute(netlink.Message{
		Header: netlink.Header{Type: typ, Flags: netlink.Request | netlink.Acknowledge | flags},
		Data:   data,
	})
	return err
}
