package firewall

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// TableName is the name of the table of nftables that is fsban's alone.
const TableName = "fsban"

// NFTables bans through a table of its own in nftables: for hosts without iptables, or without ipset.
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
// and its network at once. Sets grow as they must; Options.MaxBans does not bound them. What another table accepts is
// dropped here all the same, so no place in a chain has to be fought for.
type NFTables struct {
	opts     Options
	families []*nftFamily
	watcher  watcher
	touched  atomic.Bool // somebody else may have changed entries
	conn     *nftables.Conn
	renews   bool // the kernel gives an entry that is there a new end

	mu      sync.Mutex // guards dropped, which any goroutine may read
	dropped map[string]Dropped
}

// An nftFamily is IPv4 or IPv6.
type nftFamily struct {
	name    string // ipv4, ipv6: the label of metrics
	set     string // of single addresses
	bits    int
	key     nftables.SetDatatype
	lengths map[int]bool // of prefixes that there is a set for, or must be
	unfit   error        // why the sets must be left alone
	seen    *Dropped     // the rules' counters as last read; nil: never
	total   Dropped      // of all rules that this process has read
}

var fsbanTable = &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}

// NewNFTables returns a backend for the kernel's nftables. It changes nothing.
func NewNFTables(opts Options) (*NFTables, error) {
	opts, err := opts.complete()
	if err != nil {
		return nil, err
	}
	for _, h := range opts.Hooks {
		if _, err := baseChain(h); err != nil {
			return nil, err
		}
	}
	b := &NFTables{opts: opts, renews: kernelRenews(), dropped: make(map[string]Dropped)}
	b.watcher = watcher{families: []byte{unix.NFPROTO_INET}, tables: []string{TableName}}
	b.families = []*nftFamily{
		{name: "ipv4", set: SetIPv4, bits: 32, key: nftables.TypeIPAddr, lengths: map[int]bool{32: true}},
		{name: "ipv6", set: SetIPv6, bits: 128, key: nftables.TypeIP6Addr, lengths: map[int]bool{128: true}},
	}
	b.touched.Store(true)
	b.conn, err = b.dial(b.watcher.mute)
	return b, err
}

// dial opens a connection whose changes are our own.
func (b *NFTables) dial(mark func(port uint32)) (*nftables.Conn, error) {
	conn, err := nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		mark(c.PID())
		return nil
	}))
	if err != nil {
		return nil, nftError("open", "netlink", err)
	}
	return conn, nil
}

// kernelRenews tells whether adding an entry that is there changes its end, as Linux does since 6.12.
func kernelRenews() bool {
	var name unix.Utsname
	var major, minor int
	_ = unix.Uname(&name)
	_, _ = fmt.Sscanf(unix.ByteSliceToString(name.Release[:]), "%d.%d", &major, &minor)
	return major > 6 || major == 6 && minor >= 12
}

// Name returns "nftables".
func (*NFTables) Name() string { return "nftables" }

// Close ends the connection to the kernel. Everything stays in force.
func (b *NFTables) Close() error { return b.conn.CloseLasting() }

// Dropped implements Backend.
func (b *NFTables) Dropped() map[string]Dropped {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.dropped)
}

// sizes is nil: the kernel does not say how many elements a set has without listing them.
func (*NFTables) sizes() map[string]SetSize { return nil }

// setup makes whatever is missing of table, sets, chains and rules, all of it in one moment.
func (b *NFTables) setup() (made []string, err error) {
	made, failed := b.arrange()
	if failed != nil {
		failed = nftError("set up", "table inet "+TableName, failed)
	}
	for _, f := range b.families {
		f.unfit = cmp.Or(f.unfit, failed) // until the next check
		err = cmp.Or(err, f.unfit)
	}
	return made, err
}

// guard has nothing to do: the rules are made together with the sets, and no other program can hold that up.
func (*NFTables) guard(context.Context) guarded { return guarded{} }

// limit does nothing: sets grow as they must.
func (*NFTables) limit(int) {}

// apply carries out ops: bans and unbans.
func (b *NFTables) apply(ops []op) (failed []op, err error) {
	type place struct {
		family *nftFamily
		length int
	}
	adds, dels := make(map[place][]op), make(map[place][]op)
	missing := false
	for _, o := range ops {
		p := place{b.families[0], o.prefix.Bits()}
		if !o.prefix.Addr().Is4() {
			p.family = b.families[1]
		}
		switch there := p.family.lengths[p.length]; {
		case p.family.unfit != nil:
			failed, err = append(failed, o), cmp.Or(err, p.family.unfit)
		case o.add && p.length == 0:
			failed, err = append(failed, o), cmp.Or(err, nftError("add", p.family.set+" "+o.prefix.String(), errAll))
		case o.add:
			p.family.lengths[p.length] = true
			missing = missing || !there
			adds[p] = append(adds[p], o)
		case there:
			dels[p] = append(dels[p], o)
		}
	}
	if missing {
		if _, e := b.arrange(); e != nil {
			err = cmp.Or(err, nftError("set up", "table inet "+TableName, e)) // what needs the new set fails below
		}
	}
	for _, part := range []struct {
		ops    map[place][]op
		change func(*nftables.Set, []nftables.SetElement) error
		verb   string
	}{{dels, b.del, "delete"}, {adds, b.add, "add"}} {
		for p, ops := range part.ops {
			set := p.family.setOf(p.length)
			bad, e := inBatches(set.Name, ops, func(_ string, entries []Entry) error {
				return b.change(part.verb, set, entries, part.change)
			})
			failed, err = append(failed, bad...), cmp.Or(err, e)
		}
	}
	return failed, err
}

// change applies up to batch entries in one transaction.
func (b *NFTables) change(verb string, set *nftables.Set, entries []Entry, do func(*nftables.Set, []nftables.SetElement) error) error {
	elements := make([]nftables.SetElement, len(entries))
	for i := range entries {
		elements[i].Key = entries[i].Prefix.Masked().Addr().AsSlice()
		if left := entries[i].Left; left != Forever {
			elements[i].Timeout = max(left, time.Second)
		}
	}
	err := do(set, elements)
	if err == nil {
		return nil
	}
	// What the kernel has answered to this must not be taken for the answer to what is next.
	_ = b.conn.CloseLasting()
	conn, dialErr := b.dial(b.watcher.mute)
	if dialErr == nil {
		b.conn = conn
	}
	what := set.Name
	if len(entries) == 1 {
		what += " " + entries[0].Prefix.String()
	}
	return nftError(verb, what, errors.Join(err, dialErr))
}

// add puts elements into a set. One that is there already gets the new end.
func (b *NFTables) add(set *nftables.Set, elements []nftables.SetElement) error {
	if !b.renews {
		// All in one moment: what is not there is put there, so that all can be taken out.
		if err := cmp.Or(b.conn.SetAddElements(set, elements), b.conn.SetDeleteElements(set, elements)); err != nil {
			return err
		}
	}
	return cmp.Or(b.conn.SetAddElements(set, elements), b.conn.Flush())
}

// del takes elements out of a set. One that is not there is no error: it is put there in the same moment.
func (b *NFTables) del(set *nftables.Set, elements []nftables.SetElement) error {
	return cmp.Or(b.conn.SetAddElements(set, elements), b.conn.SetDeleteElements(set, elements), b.conn.Flush())
}

// watch hears of all changes of fsban's table.
func (b *NFTables) watch(ctx context.Context, notice func()) error {
	return b.watcher.watch(ctx, func() { b.touched.Store(true) }, func() {
		b.touched.Store(true)
		notice()
	})
}

// intact knows, because the kernel has told of every change that was not our own.
func (b *NFTables) intact(func(int) bool) (bool, error) { return !b.touched.Swap(false), nil }

// entries lists what the kernel holds.
func (b *NFTables) entries() ([]Entry, error) {
	all, err := b.listEntries()
	if err != nil {
		b.touched.Store(true)
		err = nftError("list", "table inet "+TableName, err)
	}
	return all, err
}

// Teardown removes fsban's table.
func (b *NFTables) Teardown() (removed []string, err error) {
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
	conn.DelTable(fsbanTable)
	if err := conn.Flush(); err != nil {
		return nil, nftError("delete", "table inet "+TableName, err)
	}
	return []string{"table inet " + TableName}, nil
}
