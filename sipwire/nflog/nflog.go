// Package nflog receives copies of packets from the kernel's NFLOG (linux/netfilter/nfnetlink_log.h) over netlink. Rules of the packet
// filter, which are firewall's, send the copies to a group; one socket of the host can receive them.
package nflog

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"fsban/sipwire"
)

const (
	msgPacket = 0
	msgConfig = 1

	cfgCommand   = 1
	cfgMode      = 2
	cfgBuffer    = 3
	cfgTimeout   = 4
	cfgThreshold = 5
	cfgFlags     = 6

	commandBind   = 1
	commandUnbind = 2
	copyPacket    = 2
	flagSequence  = 1

	attrPayload  = 9
	attrSequence = 12
)

const (
	// Range is the number of bytes of a packet that are copied at most, the largest that the kernel accepts: a SIP message of 65,535
	// bytes lacks its end. A copy costs only the bytes that its packet has.
	Range = 1<<16 - 1 - unix.SizeofNlAttr

	// Threshold is the number of packets that the kernel hands over at once. It hands over fewer at its next tick, 1 to 10 ms later
	// (timeout 0), or if the next packet does not fit into its buffer.
	Threshold = 32

	// kernelBuffer is the size of a batch. With its administration it fits into eight pages, which the kernel always finds.
	kernelBuffer = 31 << 10

	// readBuffer holds the largest batch: one packet of Range bytes, or what the kernel rounds kernelBuffer up to.
	readBuffer = 256 << 10
)

// Options of a Reader.
type Options struct {
	Group  uint16
	Buffer int // bytes that wait for the Reader at most; default 4 MiB
}

// Stats are the counts of a Reader.
type Stats struct {
	Packets   uint64    // received from the kernel
	Lost      uint64    // packets that the kernel could not hand over, by their sequence numbers
	Overflows uint64    // reports of the kernel that the socket's buffer was full (ENOBUFS)
	Malformed uint64    // netlink messages that could not be parsed
	Dropped   uint64    // IP packets and TCP streams of which a part was missing, or beyond the bounds
	Last      time.Time // of the last packet; zero: none
}

// Add adds the counts of another Reader.
func (s *Stats) Add(o *Stats) {
	s.Packets += o.Packets
	s.Lost += o.Lost
	s.Overflows += o.Overflows
	s.Malformed += o.Malformed
	s.Dropped += o.Dropped
	if s.Last.IsZero() {
		s.Last = o.Last
	}
}

// A Reader receives the packets of one group. Its methods but Stats are not safe for concurrent use.
type Reader struct {
	conn      *netlink.Conn
	raw       syscall.RawConn
	receive   func(fd uintptr) bool // reads one batch; made once, so that a batch allocates nothing
	buffer    []byte
	size      int // of the batch in buffer
	err       error
	parser    parser
	assembler *sipwire.Assembler

	packets, lost, overflows, malformed, dropped atomic.Uint64
	last                                         atomic.Int64 // unix nanoseconds
}

// Open binds a group in the network namespace of the calling thread, and has the kernel copy its packets from then on. The error wraps
// ErrUnsupported, ErrInUse or ErrNotPermitted.
func Open(opts Options) (*Reader, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, openError(opts.Group, err)
	}
	r := &Reader{conn: conn, buffer: make([]byte, readBuffer), assembler: sipwire.NewAssembler()}
	if opts.Buffer == 0 {
		opts.Buffer = 4 << 20
	}
	err = errors.Join(conn.SetReadBuffer(opts.Buffer), bind(conn, opts.Group))
	if err == nil {
		r.raw, err = conn.SyscallConn()
	}
	if err != nil {
		_ = conn.Close()
		return nil, openError(opts.Group, err)
	}
	r.receive = func(fd uintptr) bool {
		for {
			// Only a process with CAP_NET_ADMIN can send to a netlink socket of netfilter, so the batch is the kernel's.
			r.size, r.err = unix.Read(int(fd), r.buffer)
			if r.err != unix.EINTR { //nolint:errorlint // unix.Read returns a plain number
				return r.err != unix.EAGAIN //nolint:errorlint // likewise
			}
		}
	}
	return r, nil
}

// bind takes the group, and sets how its packets are handed over.
func bind(conn *netlink.Conn, group uint16) error {
	mode := binary.BigEndian.AppendUint32(nil, Range)
	err := configure(conn, group, func(ae *netlink.AttributeEncoder) {
		ae.Bytes(cfgCommand, []byte{commandBind})
		ae.Bytes(cfgMode, append(mode, copyPacket, 0))
		ae.Uint32(cfgBuffer, kernelBuffer)
		ae.Uint32(cfgTimeout, 0)
		ae.Uint32(cfgThreshold, Threshold)
		ae.Uint16(cfgFlags, flagSequence)
	})
	if !errors.Is(err, unix.EPERM) {
		return err
	}
	// The kernel refuses a group of another socket with the same error. A group that nobody has cannot be given up either, and the
	// error of that tells the two apart.
	err = configure(conn, ^group, func(ae *netlink.AttributeEncoder) { ae.Bytes(cfgCommand, []byte{commandUnbind}) })
	if errors.Is(err, unix.EPERM) {
		return err
	}
	return unix.EBUSY
}

func configure(conn *netlink.Conn, group uint16, attrs func(*netlink.AttributeEncoder)) error {
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	attrs(ae)
	data, err := ae.Encode()
	if err != nil {
		return err
	}
	_, err = conn.Execute(netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_ULOG)<<8 | msgConfig,
			Flags: netlink.Request | netlink.Acknowledge,
		},
		Data: append([]byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, byte(group >> 8), byte(group)}, data...),
	})
	return err
}

// Close gives the group up.
func (r *Reader) Close() error { return r.conn.Close() }

// Stats returns the counts so far. It may be called from any goroutine.
func (r *Reader) Stats() Stats {
	s := Stats{
		Packets: r.packets.Load(), Lost: r.lost.Load(), Overflows: r.overflows.Load(), Malformed: r.malformed.Load(), Dropped: r.dropped.Load(),
	}
	if ns := r.last.Load(); ns != 0 {
		s.Last = time.Unix(0, ns)
	}
	return s
}

// Run calls take for each SIP message until ctx ends, one after the other. A packet is valid during its call. Loss is counted and is no
// error: Run returns an error only if nothing more can be received.
func (r *Reader) Run(ctx context.Context, take func(*sipwire.Packet)) error {
	defer context.AfterFunc(ctx, func() { _ = r.conn.SetReadDeadline(time.Unix(1, 0)) })()
	var at time.Time
	frame := func(b []byte) {
		packets := r.assembler.Frame(sipwire.LinkRaw, b, at)
		for i := range packets {
			take(&packets[i])
		}
	}
	for {
		err := r.raw.Read(r.receive)
		if err == nil {
			err = r.err
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, unix.ENOBUFS):
			r.overflows.Add(1)
			continue
		case err != nil:
			return fmt.Errorf("receive from NFLOG: %w", err)
		}
		at = time.Now()
		r.parser.batch(r.buffer[:r.size], frame)
		r.last.Store(at.UnixNano())
		r.packets.Store(r.parser.packets)
		r.lost.Store(r.parser.lost)
		r.malformed.Store(r.parser.malformed)
		r.dropped.Store(r.assembler.Stats().Dropped)
	}
}
