package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// A Watcher reports changes of some tables of nftables by other programs.
type Watcher struct {
	families []byte // of nftables: unix.NFPROTO_*
	tables   []string

	mu    sync.Mutex
	own   []uint32      // netlink ports of fsban's connections and programs: process numbers as a rule
	muted uint32        // port whose changes the kernel does not report
	conn  *netlink.Conn // while it listens
}

// NewWatcher returns a Watcher for tables in families (unix.NFPROTO_*). It starts nothing.
func NewWatcher(families []byte, tables []string) *Watcher {
	return &Watcher{families: families, tables: tables}
}

// Mine marks changes from a netlink port as fsban's own.
func (w *Watcher) Mine(port uint32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.own = slices.DeleteFunc(w.own, func(p uint32) bool { return p == port })
	if len(w.own) >= 64 { // the changes of the oldest port were reported long ago
		w.own = slices.Delete(w.own, 0, 1)
	}
	w.own = append(w.own, port)
}

// mute keeps the kernel from reporting the changes from a netlink port, such as every ban.
func (w *Watcher) mute(port uint32) {
	w.Mine(port)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.muted = port
	if w.conn != nil {
		_ = w.filter(w.conn)
	}
}

// filter has the kernel omit the changes from the muted port. Otherwise a batch of bans overflows the socket, and changes by other
// programs are lost.
func (w *Watcher) filter(conn *netlink.Conn) error {
	if w.muted == 0 {
		return nil
	}
	port := binary.BigEndian.Uint32(binary.NativeEndian.AppendUint32(nil, w.muted)) // a filter reads in network order
	program, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 12, Size: 4}, // nlmsg_pid
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: port, SkipFalse: 1},
		bpf.RetConstant{Val: 0},
		bpf.RetConstant{Val: 1<<32 - 1},
	})
	if err != nil {
		return err
	}
	return conn.SetBPF(program)
}

// listen opens the connection on which the kernel reports changes.
func (w *Watcher) listen() (*netlink.Conn, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open netlink to netfilter: %w", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := errors.Join(w.filter(conn), conn.JoinGroup(unix.NFNLGRP_NFTABLES)); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("listen to changes of nftables: %w", err)
	}
	w.conn = conn
	return conn, nil
}

// Watch calls notice for each change by another program, until ctx ends. It calls begun once it listens: earlier changes are not
// reported.
func (w *Watcher) Watch(ctx context.Context, begun, notice func()) error {
	conn, err := w.listen()
	if err != nil {
		return err
	}
	begun()
	defer func() {
		w.mu.Lock()
		w.conn = nil
		w.mu.Unlock()
		_ = conn.Close()
	}()
	defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })()
	for {
		messages, err := conn.Receive()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, unix.ENOBUFS): // reports were lost, perhaps of other programs' changes
			notice()
		case err != nil:
			return fmt.Errorf("listen to changes of nftables: %w", err)
		case slices.ContainsFunc(messages, w.Foreign):
			notice()
		}
	}
}

// Foreign reports whether m is a change by another program to one of the tables.
func (w *Watcher) Foreign(m netlink.Message) bool {
	subsystem, kind := m.Header.Type>>8, m.Header.Type&0xff
	if subsystem != unix.NFNL_SUBSYS_NFTABLES || kind == unix.NFT_MSG_NEWGEN || len(m.Data) < 4 || !slices.Contains(w.families, m.Data[0]) {
		return false
	}
	w.mu.Lock()
	own := slices.Contains(w.own, m.Header.PID)
	w.mu.Unlock()
	if own {
		return false
	}
	ad, err := netlink.NewAttributeDecoder(m.Data[4:])
	if err != nil {
		return false
	}
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		if ad.Type() == unix.NFTA_TABLE_NAME { // in all messages about objects in a table
			return slices.Contains(w.tables, ad.String())
		}
	}
	return false
}
