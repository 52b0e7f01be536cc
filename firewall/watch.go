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
	"golang.org/x/sys/unix"
)

// groupNFTables is the netlink group in which the kernel tells of every change of nftables, and so of iptables-nft too. Of
// iptables-legacy and of ipset it tells nothing.
const groupNFTables = 7

// A watcher listens to what others change in some tables of nftables.
type watcher struct {
	families []byte // of nftables: unix.NFPROTO_*
	tables   []string

	mu  sync.Mutex
	own []uint32 // the netlink ports of those who work for fsban, which are process numbers as a rule
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

// watch calls notice for each change that somebody else makes, until ctx ends.
func (w *watcher) watch(ctx context.Context, notice func()) error {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return fmt.Errorf("open netlink to netfilter: %w", err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.JoinGroup(groupNFTables); err != nil {
		return fmt.Errorf("listen to changes of nftables: %w", err)
	}
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
