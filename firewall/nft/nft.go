// Package nft bans through a table of fsban's own in nftables.
package nft

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"fsban/firewall"
)

// TableName is the name of the table of nftables that is fsban's alone.
const TableName = "fsban"

// A Backend bans through a table of its own in nftables: for hosts without iptables, or without ipset.
//
//	table inet fsban {
//		set fsban4    { type ipv4_addr; flags timeout; counter }    # addresses
//		set fsban4_24 { type ipv4_addr; flags timeout; counter }    # networks of 24 bits, made when the first is banned
//		set fsban6    { type ipv6_addr; flags timeout; counter }
//		chain FSBAN   { ip saddr @fsban4 counter drop; ip saddr & 255.255.255.0 @fsban4_24 counter drop; ... }
//		chain raw_prerouting { type filter hook prerouting priority raw; jump FSBAN }
//	}
//
// There is a set for each length of prefix, as in an ipset of type hash:net: a set of intervals could not hold an address
// and its network at once. Sets grow as needed; firewall.Options.MaxBans does not bound them. A packet that another table accepts is
// dropped here all the same, so the order of rules does not matter.
type Backend struct {
	opts     firewall.Options
	families []*family
	watcher  *Watcher
	touched  atomic.Bool // another program may have changed entries
	conn     *nftables.Conn
	socket   *netlink.Conn                // of conn
	looked   bool                         // at the table of an earlier run
	kept     map[string]bool              // chains of other programs in that table
	tap      atomic.Pointer[firewall.Tap] // nil: none
	tapped   bool                         // its rules are in force, as of the last set-up
	untapped bool                         // it has no rules, and needs none

	mu      sync.Mutex // protects the following, which any goroutine may read
	dropped map[string]firewall.Dropped
	notes   []string
	tapErr  error
}

// A family is IPv4 or IPv6.
type family struct {
	name    string // ipv4, ipv6: the label of metrics
	set     string // of single addresses
	bits    int
	key     nftables.SetDatatype
	lengths map[int]bool      // of prefixes that have a set, or need one
	unfit   error             // reason to leave the sets alone
	seen    *firewall.Dropped // the rules' counters as last read; nil: never
	total   firewall.Dropped  // of all rules that this process has read
}

var fsbanTable = &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}

// New returns a backend for the kernel's nftables. It changes nothing.
func New(opts firewall.Options) (*Backend, error) {
	opts, err := opts.Complete()
	if err != nil {
		return nil, err
	}
	for _, h := range opts.Hooks {
		if _, err := baseChain(h); err != nil {
			return nil, err
		}
	}
	b := &Backend{opts: opts, dropped: make(map[string]firewall.Dropped)}
	b.watcher = NewWatcher([]byte{unix.NFPROTO_INET}, []string{TableName})
	b.families = []*family{
		{name: "ipv4", set: firewall.SetIPv4, bits: 32, key: nftables.TypeIPAddr, lengths: map[int]bool{32: true}},
		{name: "ipv6", set: firewall.SetIPv6, bits: 128, key: nftables.TypeIP6Addr, lengths: map[int]bool{128: true}},
	}
	b.touched.Store(true)
	b.conn, b.socket, err = b.dial(b.watcher.mute)
	return b, err
}

// dial opens a connection. Its changes are not reported as changes by other programs.
func (b *Backend) dial(mark func(port uint32)) (conn *nftables.Conn, socket *netlink.Conn, err error) {
	conn, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		mark(c.PID())
		socket = c
		return nil
	}))
	if err != nil {
		return nil, nil, nftError("open", "netlink", err)
	}
	return conn, socket, nil
}

// Name returns "nftables".
func (*Backend) Name() string { return firewall.NFTables }

// Close closes the connection to the kernel. Everything stays in force.
func (b *Backend) Close() error { return b.conn.CloseLasting() }

// Dropped implements firewall.Backend.
func (b *Backend) Dropped() map[string]firewall.Dropped {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.dropped)
}

// Capacity returns 0: sets grow as needed.
func (*Backend) Capacity() (bans int, shared bool) { return 0, false }

// Sizes returns nil: older kernels do not count the elements of a set.
func (*Backend) Sizes() map[string]firewall.SetSize { return nil }

// Setup makes missing tables, sets, chains and rules in one transaction.
func (b *Backend) Setup() (made []string, err error) {
	made, failed := b.arrange()
	if failed != nil {
		failed = nftError("set up", "table inet "+TableName, failed)
	}
	for _, f := range b.families {
		f.unfit = cmp.Or(f.unfit, failed) // until the next check
		err = cmp.Or(err, f.unfit)
	}
	if failed == nil {
		var repaired []string
		repaired, failed = b.arrangeTap()
		made = append(made, repaired...)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tapErr = failed
	return made, err
}

// Verify has nothing to repair: Setup makes the rules together with the sets, and waits for no other program.
func (b *Backend) Verify(context.Context) firewall.Verification {
	b.mu.Lock()
	defer b.mu.Unlock()
	return firewall.Verification{Notes: b.notes, Tap: b.tapErr}
}

// Resize does nothing: sets grow as needed.
func (*Backend) Resize(int) {}

// Apply implements firewall.Backend.
func (b *Backend) Apply(orders []firewall.Order) (failed []firewall.Order, err error) {
	type place struct {
		family *family
		length int
	}
	adds, dels := make(map[place][]firewall.Order), make(map[place][]firewall.Order)
	missing := false
	for _, o := range orders {
		p := place{b.families[0], o.Prefix.Bits()}
		if !o.Prefix.Addr().Is4() {
			p.family = b.families[1]
		}
		switch there := p.family.lengths[p.length]; {
		case !o.Add && errors.Is(p.family.unfit, firewall.ErrForeign):
			// the set holds no bans
		case p.family.unfit != nil && o.Add:
			failed, err = append(failed, o), cmp.Or(err, p.family.unfit)
		case o.Add && p.length == 0:
			failed, err = append(failed, o), cmp.Or(err, nftError("add", p.family.set+" "+o.Prefix.String(), firewall.ErrEverybody))
		case o.Add:
			p.family.lengths[p.length] = true
			missing = missing || !there
			adds[p] = append(adds[p], o)
		case there:
			dels[p] = append(dels[p], o)
		}
	}
	if missing {
		if _, e := b.arrange(); e != nil {
			err = cmp.Or(err, nftError("set up", "table inet "+TableName, e)) // bans that need the new set fail below
		}
	}
	for _, part := range []struct {
		ops    map[place][]firewall.Order
		change func(*nftables.Set, []nftables.SetElement) error
		verb   string
	}{{dels, b.del, "delete"}, {adds, b.add, "add"}} {
		for p, ops := range part.ops {
			set := p.family.setOf(p.length)
			bad, e := firewall.InBatches(ops, func(entries []firewall.Entry) error {
				return b.change(part.verb, set, entries, part.change)
			})
			failed, err = append(failed, bad...), cmp.Or(err, e)
		}
	}
	return failed, err
}

// change applies up to firewall.BatchSize entries in one transaction.
func (b *Backend) change(verb string, set *nftables.Set, entries []firewall.Entry,
	do func(*nftables.Set, []nftables.SetElement) error) error {
	elements := make([]nftables.SetElement, len(entries))
	for i := range entries {
		prefix := entries[i].Prefix
		if verb == "add" {
			prefix = prefix.Masked() // an entry of another program is deleted as it is
		}
		elements[i].Key = prefix.Addr().AsSlice()
		if left := entries[i].Left; left != firewall.Forever {
			elements[i].Timeout = max(left, time.Second)
		}
	}
	err := do(set, elements)
	if err == nil {
		return nil
	}
	// A late answer to this transaction must not be taken for the answer to the next one.
	_ = b.conn.CloseLasting()
	conn, socket, dialErr := b.dial(b.watcher.mute)
	if dialErr == nil {
		b.conn, b.socket = conn, socket
	}
	what := set.Name
	if len(entries) == 1 {
		what += " " + entries[0].Prefix.String()
	}
	if verb == "delete" && dialErr == nil && errors.Is(err, unix.ENOENT) {
		return nil // there is no set
	}
	return nftError(verb, what, errors.Join(err, dialErr))
}

// del deletes elements of a set. A missing element is no error, because the same transaction adds it first.
func (b *Backend) del(set *nftables.Set, elements []nftables.SetElement) error {
	return cmp.Or(b.conn.SetAddElements(set, elements), b.conn.SetDeleteElements(set, elements), b.conn.Flush())
}

// Watch implements firewall.Backend for fsban's table.
func (b *Backend) Watch(ctx context.Context, notice func()) error {
	return b.watcher.Watch(ctx, func() { b.touched.Store(true) }, func() {
		b.touched.Store(true)
		notice()
	})
}

// Intact reports whether no other program has changed entries, which the kernel would have reported, and their number is
// plausible, if the kernel counts them.
func (b *Backend) Intact(plausible func(int) bool) (bool, error) {
	if b.touched.Swap(false) {
		return false, nil
	}
	size, counted, err := b.size()
	if err != nil {
		return false, nftError("count", "table inet "+TableName, err)
	}
	return !counted || plausible(size), nil
}

// Entries implements firewall.Backend.
func (b *Backend) Entries() ([]firewall.Entry, error) {
	all, err := b.listEntries()
	if err != nil {
		b.touched.Store(true)
		err = nftError("list", "table inet "+TableName, err)
	}
	return all, err
}

// Teardown removes fsban's table. If it holds objects of others too, only fsban's objects are removed.
func (b *Backend) Teardown() (removed []string, err error) {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.CloseLasting() }()
	table, err := findTable(conn)
	if err != nil {
		return nil, nftError("list", "tables", err)
	} else if table == nil {
		return nil, nil
	}
	own, foreign, err := b.inventory(conn)
	if err != nil {
		return nil, nftError("list", "table inet "+TableName, err)
	}
	if len(foreign) == 0 {
		conn.DelTable(fsbanTable)
		removed = []string{"table inet " + TableName}
	} else {
		err = foreignError(foreign)
		removed = own.remove(conn)
	}
	if e := conn.Flush(); e != nil {
		return nil, errors.Join(err, nftError("delete", "table inet "+TableName, e))
	}
	return removed, err
}

// Try creates the table with its sets, chains and rules, and removes it, unless it exists already.
func (b *Backend) Try() error {
	conn, _, err := b.dial(b.watcher.Mine)
	if err != nil {
		return err
	}
	defer func() { _ = conn.CloseLasting() }()
	if table, err := findTable(conn); err != nil {
		return nftError("list", "tables", err)
	} else if table != nil {
		return nil
	}
	if _, err := b.Setup(); err != nil {
		return err
	}
	_, err = b.Teardown()
	return err
}
