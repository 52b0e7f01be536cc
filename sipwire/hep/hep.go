// Package hep receives SIP messages as HEP datagrams, from FreeSWITCH's own capture, heplify or sipnab, over UDP.
//
// Nothing authenticates the sender of a datagram but its address: a Listener accepts loopback addresses and those that it is given.
package hep

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"fsban/sipwire"
)

// bufferSize bounds the datagrams that wait in the kernel, in bytes with their administration.
const bufferSize = 4 << 20

// A Reason says why a datagram was refused: a closed set, safe as a metric label.
type Reason uint8

// The reasons.
const (
	Sender Reason = iota // neither of this host nor one of Options.From
	NotHEP               // no HEP of version 1, 2 or 3
	NotSIP               // HEP with something else: RTCP, logs, reports, compressed payloads
	NumReasons
)

func (r Reason) String() string { return [...]string{"sender", "not_hep", "not_sip"}[r] }

// Options of a Listener.
type Options struct {
	From    []netip.Prefix // senders, besides loopback addresses
	Forward netip.AddrPort // gets a copy of each datagram of an accepted sender; zero: nobody
}

// Stats are the counts of a Listener.
type Stats struct {
	Datagrams     uint64 // SIP messages received
	Refused       [NumReasons]uint64
	Lost          uint64 // datagrams that the kernel dropped because the buffer was full
	Forwarded     uint64
	ForwardFailed uint64    // datagrams that could not be forwarded at once
	Last          time.Time // of the last SIP message
}

// Add adds the counts of an earlier Listener.
func (s *Stats) Add(o *Stats) {
	s.Datagrams += o.Datagrams
	s.Lost += o.Lost
	s.Forwarded += o.Forwarded
	s.ForwardFailed += o.ForwardFailed
	for r := range s.Refused {
		s.Refused[r] += o.Refused[r]
	}
	if s.Last.IsZero() {
		s.Last = o.Last
	}
}

// A Listener receives HEP datagrams at one address. Stats and Set may be called from any goroutine.
type Listener struct {
	conn   *net.UDPConn
	opts   atomic.Pointer[Options]
	to     netip.AddrPort // of out
	out    *net.UDPConn   // nil: nothing is forwarded
	buffer []byte
	oob    []byte
	size   int    // of the datagram in buffer
	drops  uint32 // of the socket, as of the last datagram

	datagrams, lost, forwarded, failed atomic.Uint64
	refused                            [NumReasons]atomic.Uint64
	last                               atomic.Int64 // unix microseconds
}

// Listen binds an address. It starts no goroutine.
func Listen(addr netip.AddrPort, o Options) (*Listener, error) {
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr))
	if err != nil {
		return nil, fmt.Errorf("listen for HEP: %w", err)
	}
	l := &Listener{conn: conn, buffer: make([]byte, sipwire.MaxMessage), oob: make([]byte, 64)}
	l.Set(o)
	if err := l.prepare(); err != nil {
		return nil, errors.Join(fmt.Errorf("listen for HEP: %w", err), conn.Close())
	}
	return l, nil
}

// prepare sets the size of the buffer, as far as this process may, and has the kernel report how many datagrams it dropped.
func (l *Listener) prepare() error {
	raw, err := l.conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		if unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, bufferSize) != nil { // CAP_NET_ADMIN
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, bufferSize) // at most net.core.rmem_max
		}
		failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 1)
	})
	return errors.Join(err, failed)
}

// Set replaces the options from the next datagram on.
func (l *Listener) Set(o Options) { l.opts.Store(&o) }

// Addr returns the address that l listens at.
func (l *Listener) Addr() netip.AddrPort { return l.conn.LocalAddr().(*net.UDPAddr).AddrPort() }

// Close ends l if Run was never called.
func (l *Listener) Close() error { return l.conn.Close() }

// Stats returns the counts so far.
func (l *Listener) Stats() Stats {
	s := Stats{
		Datagrams: l.datagrams.Load(), Lost: l.lost.Load(), Forwarded: l.forwarded.Load(), ForwardFailed: l.failed.Load(),
	}
	for r := range s.Refused {
		s.Refused[r] = l.refused[r].Load()
	}
	if us := l.last.Load(); us > 0 {
		s.Last = time.UnixMicro(us)
	}
	return s
}

// Run calls take for each SIP message until ctx ends, one after the other, and closes l. A packet is valid during its call.
func (l *Listener) Run(ctx context.Context, take func(*sipwire.Packet)) error {
	defer context.AfterFunc(ctx, func() { _ = l.conn.SetReadDeadline(time.Unix(1, 0)) })()
	defer func() {
		_ = l.conn.Close()
		if l.out != nil {
			_ = l.out.Close()
		}
	}()
	var p sipwire.Packet
	for {
		n, oob, _, from, err := l.conn.ReadMsgUDPAddrPort(l.buffer, l.oob)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("receive HEP: %w", err)
		}
		l.size = n
		l.countLost(l.oob[:oob])
		opts := l.opts.Load()
		if !accepts(opts.From, from.Addr().Unmap()) {
			l.refused[Sender].Add(1)
			continue
		}
		l.forward(opts.Forward)
		switch err := sipwire.ParseHEP(l.buffer[:n], &p); {
		case errors.Is(err, sipwire.ErrHEPOther):
			l.refused[NotSIP].Add(1)
		case err != nil:
			l.refused[NotHEP].Add(1)
		default:
			l.datagrams.Add(1)
			l.last.Store(time.Now().UnixMicro())
			take(&p)
		}
	}
}

func accepts(from []netip.Prefix, addr netip.Addr) bool {
	return addr.IsLoopback() || slices.ContainsFunc(from, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// countLost adds up the datagrams that the kernel dropped before the one that oob came with. The kernel counts in 32 bits.
func (l *Listener) countLost(oob []byte) {
	const header = unix.SizeofCmsghdr
	for len(oob) >= header+4 {
		h, value, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return
		}
		if h.Level == unix.SOL_SOCKET && h.Type == unix.SO_RXQ_OVFL && len(value) >= 4 {
			drops := binary.NativeEndian.Uint32(value)
			l.lost.Add(uint64(drops - l.drops))
			l.drops = drops
		}
		oob = rest
	}
}

// forward sends the datagram in hand to a collector, if the kernel takes it at once.
func (l *Listener) forward(to netip.AddrPort) {
	if to != l.to || l.out == nil && to.IsValid() {
		if l.out != nil {
			_ = l.out.Close()
		}
		l.to, l.out = to, nil
		if to.IsValid() {
			l.out, _ = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to)) // without a route it fails, and is tried again
		}
	}
	switch {
	case !to.IsValid():
	case l.out != nil && l.send() == nil:
		l.forwarded.Add(1)
	default:
		l.failed.Add(1)
	}
}

func (l *Listener) send() error {
	raw, err := l.out.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = sendNow(int(fd), l.buffer[:l.size]) })
	return errors.Join(err, failed)
}

// sendNow sends a datagram without waiting.
func sendNow(fd int, datagram []byte) error {
	_, err := unix.SendmsgN(fd, datagram, nil, nil, unix.MSG_DONTWAIT)
	if errors.Is(err, syscall.ECONNREFUSED) { // about an earlier datagram; this one was not sent
		_, err = unix.SendmsgN(fd, datagram, nil, nil, unix.MSG_DONTWAIT)
	}
	return err
}
