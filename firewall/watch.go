package firewall

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

// groupNFTables is the netlink group in which the kernel tells of every change of nftables, and so of iptables-nft too. Of
// iptables-legacy and of ipset it tells nothing.
const groupNFTables = 7

// A watcher listens to what others change in some tables of nftables.
type watcher struct {
	families []byte // of nftables: unix.NFPROTO_*
	tables   []string

	mu    sync.Mutex
	own   []uint32      // the netlink ports of those who work for fsban, which are process numbers as a rule
	muted uint32        // the one whose changes the kernel need not tell of
	conn  *netlink.Conn // while it listens
}

// mine says that what comes from a netlink port is fsban's own doing.
func (w *watcher) mine(port uint32) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.own = slices.DeleteFunc(w.own, func(p uint32) bool { return p == port })
	if len(w.own) >= 64 { // by then the news of the oldest has come
		w.own = slices.Delete(w.own, 0, 1)
	}
	w.own = append(w.own, port)
}

// mute keeps the kernel from telling of the changes that come from a netlink port: of every ban, say.
func (w *watcher) mute(port uint32) {
	w.mine(port)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.muted = port
	if w.conn != nil {
		_ = w.filter(w.conn)
	}
}

// filter has the kernel leave out what comes from the muted port. Without that too much would be told at once, and what
// others do would be lost among it.
func (w *watcher) filter(conn *netlink.Conn) error {
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

// listen opens the connection on which the kernel tells.
func (w *watcher) listen() (*netlink.Conn, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, fmt.Errorf("open netlink to netfilter: %w", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := errors.Join(w.filter(conn), conn.JoinGroup(groupNFTables)); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("listen to changes of nftables: %w", err)
	}
	w.conn = conn
	return conn, nil
}

// watch calls notice for each change that somebody else makes, until ctx ends. It calls begun once it listens: what others
// changed before that nobody has told of.
func (w *watcher) watch(ctx context.Context, begun, notice func()) error {
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
		case errors.Is(err, unix.ENOBUFS): // more than fits: whatever it was
			notice()
		case err != nil:
			return fmt.Errorf("listen to changes of nftables: %w", err)
		case slices.ContainsFunc(messages, w.foreign):
			notice()
		}
	}
}

// foreign tells whether m is a change of one of the tables that somebody else has made.
func (w *watcher) foreign(m netlink.Message) bool {
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
		if ad.Type() == unix.NFTA_TABLE_NAME { // the name of the table is attribute 1 of everything that is in one
			return slices.Contains(w.tables, ad.String())
		}
	}
	return false
}
