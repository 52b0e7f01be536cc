package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"fsban/internal/netns"
)

// All packets go to target, from attackers in 100.64.0.0/10.
var (
	target    = netip.MustParseAddr("192.0.2.10")
	strangers = netip.MustParsePrefix("100.64.0.1/10")
)

// attacker is the nth address that attacks, from 0 on.
func attacker(n int) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], 100<<24|64<<16|1<<8+uint32(n))
	return netip.AddrFrom4(b)
}

// assign gives this network namespace the addresses.
func assign() error { return netns.Assign(netip.PrefixFrom(target, 32), strangers) }

// A wire sends UDP packets of any attacker to a local socket and sees which arrive: an address is banned when its packets are
// dropped. A packet costs 5 µs, the same with either guard, and no work of the guard. A wire is for one goroutine.
type wire struct {
	in, out int
	to      *unix.SockaddrInet4
	buf     []byte
}

func newWire(port int) (w *wire, err error) {
	w = &wire{in: -1, out: -1, to: &unix.SockaddrInet4{Port: port, Addr: target.As4()}, buf: make([]byte, 64)}
	if w.in, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err == nil {
		err = unix.Bind(w.in, w.to)
	}
	if err == nil {
		w.out, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	}
	if err != nil {
		w.close()
		return nil, fmt.Errorf("open a socket at %v:%d: %w", target, port, err)
	}
	return w, nil
}

func (w *wire) close() {
	for _, fd := range []int{w.in, w.out} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// send sends a packet of attacker n. The socket is bound to no address: each packet carries its source address.
func (w *wire) send(n int) error {
	from := unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: attacker(n).As4()})
	if err := unix.Sendmsg(w.out, binary.BigEndian.AppendUint32(nil, uint32(n)), from, w.to, 0); err != nil {
		return fmt.Errorf("send a packet from %v: %w", attacker(n), err)
	}
	return nil
}

// arrived calls f with the attacker of each packet that arrived since the last call.
func (w *wire) arrived(f func(n int)) error {
	for {
		size, err := unix.Read(w.in, w.buf)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("read packets: %w", err)
		case size == 4:
			f(int(binary.BigEndian.Uint32(w.buf)))
		}
	}
}

// passes sends a packet of attacker n and reports whether a packet of n has arrived. On loopback it usually has when the send
// returns; on a busy machine it can be late.
func (w *wire) passes(n int) (passed bool, err error) {
	if err := w.send(n); err != nil {
		return false, err
	}
	err = w.arrived(func(m int) { passed = passed || m == n })
	return passed, err
}

// held waits until attacker n is banned and returns the time of the first dropped packet. The error is the interval of the
// packets: 100 µs at first, later a 200th of the elapsed time.
func (w *wire) held(ctx context.Context, n int) (at time.Time, err error) {
	for began := time.Now(); ; {
		at = time.Now()
		passed, err := w.passes(n)
		for i := 0; i < 3 && !passed && err == nil; i++ { // or was it only late?
			time.Sleep(time.Millisecond)
			passed, err = w.passes(n)
		}
		if err != nil || !passed {
			return at, err
		}
		if err := pause(ctx, began); err != nil {
			return at, fmt.Errorf("wait for the ban of %v: %w", attacker(n), err)
		}
	}
}

// pause waits a 200th of the time since began, or returns the cause for which ctx ended.
func pause(ctx context.Context, began time.Time) error {
	time.Sleep(min(max(time.Since(began)/200, 100*time.Microsecond), 5*time.Millisecond))
	return ctx.Err()
}

// allAtOnce is the number of addresses up to which allHeld polls each.
const allAtOnce = 5000

// allHeld waits until the first n attackers are banned and returns the time of the poll that found the last one banned. It
// polls one attacker after another, so that it sends little while it waits. Of more than allAtOnce it polls a sample first, and
// all of them afterwards.
func (w *wire) allHeld(ctx context.Context, n int) (at time.Time, err error) {
	for step, began := max(1, n/allAtOnce), time.Now(); ; step = 1 {
		for i := 0; i < n; {
			at = time.Now()
			passed, err := w.passes(i)
			if err != nil {
				return at, err
			}
			if !passed {
				if i += step; i-step < n-1 { // the last one, in any case
					i = min(i, n-1)
				}
				continue
			}
			if err := pause(ctx, began); err != nil {
				return at, fmt.Errorf("wait for %d bans, of which %d are there: %w", n, i, err)
			}
		}
		open, err := w.open(n)
		if err != nil || open == 0 {
			return at, err
		}
	}
}

// open returns the number of the first n attackers that are not banned.
func (w *wire) open(n int) (open int, err error) {
	passed := make([]bool, n)
	look := func(m int) {
		if m < n && !passed[m] {
			passed[m] = true
			open++
		}
	}
	if err := w.late(); err != nil {
		return 0, err
	}
	for i := range n {
		if err := w.send(i); err != nil {
			return 0, err
		}
		if err := w.arrived(look); err != nil {
			return 0, err
		}
	}
	time.Sleep(lateTime)
	return open, w.arrived(look)
}

// lateTime is how late a packet can be.
const lateTime = 20 * time.Millisecond

// late discards packets that were sent earlier.
func (w *wire) late() error {
	time.Sleep(lateTime)
	return w.arrived(func(int) {})
}

// A stream sends packets of banned addresses in turns, without a pause, during a test of a guard.
type stream struct {
	cancel context.CancelFunc
	ended  sync.WaitGroup
	err    error

	sent, passed int
	first, last  time.Time // that passed
}

// streamRate is packets a second.
const streamRate = 2000

// startStream begins to send packets of the first n attackers.
func startStream(ctx context.Context, port, n int) (*stream, error) {
	w, err := newWire(port)
	if err != nil {
		return nil, err
	}
	s := new(stream)
	ctx, s.cancel = context.WithCancel(ctx)
	s.ended.Go(func() {
		defer w.close()
		s.err = s.run(ctx, w, n)
	})
	return s, nil
}

func (s *stream) run(ctx context.Context, w *wire, n int) error {
	look := func(int) {
		s.passed++
		s.last = time.Now()
		if s.passed == 1 {
			s.first = s.last
		}
	}
	for began := time.Now(); ctx.Err() == nil; time.Sleep(time.Second / streamRate) {
		for due := int(time.Since(began).Seconds() * streamRate); s.sent < due; s.sent++ {
			if err := w.send(s.sent % n); err != nil {
				return err
			}
			if err := w.arrived(look); err != nil {
				return err
			}
		}
	}
	time.Sleep(lateTime)
	return w.arrived(look)
}

// end stops the stream. Its counts can be read afterwards.
func (s *stream) end() error {
	s.cancel()
	s.ended.Wait()
	return s.err
}
