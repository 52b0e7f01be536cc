// Package xtables bans through iptables: IPTables with one ipset and one rule a family, Rules with one rule a ban.
package xtables

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-iptables/iptables"
	"golang.org/x/sys/unix"

	"fsban/firewall"
	"fsban/firewall/ipset"
	"fsban/firewall/nft"
)

// IPTables bans through one ipset and one iptables rule a family.
type IPTables struct {
	opts     firewall.Options
	families []*family
	sets     *ipset.Conn
	watcher  *nft.Watcher
	tap      atomic.Pointer[firewall.Tap] // nil: none

	mu      sync.Mutex // protects the following, which any goroutine may read
	dropped map[string]firewall.Dropped
	filled  map[string]firewall.SetSize
}

// A family is IPv4 or IPv6 with its own iptables, chain and set.
type family struct {
	name   string // ipv4, ipv6: the label of metrics
	set    string
	id     uint8
	perBan bool     // the chain holds a rule for each ban, and none with a set
	ipt    *xtables // nil where the host does not speak IPv6: a set is kept all the same, and needs no rule

	unfit error       // why set or chain cannot be used: it could not be made, or is not fsban's
	fit   atomic.Bool // the set is there, and a rule may name it

	// The following is for Verify alone.
	cleaned bool                        // chains and jumps of an earlier configuration have been removed
	owned   map[string]bool             // tables with a chain that this process made or found to be fsban's
	printed map[string][]string         // how iptables prints the rules that it was given, by table
	moved   map[firewall.Hook]time.Time // when the jump was last put first
	seen    map[string]firewall.Dropped // the rules' counters as last read, by table
	total   firewall.Dropped            // of all rules that this process has read
	tap     tapped

	counting bool // of Rules: its rules have been read before
}

// NewIPTables finds the host's iptables. It changes nothing.
func NewIPTables(opts firewall.Options) (*IPTables, error) {
	opts, err := opts.Complete()
	if err != nil {
		return nil, err
	}
	b := &IPTables{opts: opts, dropped: make(map[string]firewall.Dropped), filled: make(map[string]firewall.SetSize), watcher: newWatcher()}
	if b.families, err = newFamilies(b.watcher); err != nil {
		return nil, err
	}
	b.sets, err = ipset.Dial()
	return b, err
}

// newWatcher returns a watcher for the tables of iptables-nft.
func newWatcher() *nft.Watcher {
	return nft.NewWatcher([]byte{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6}, firewall.Tables)
}

// newFamilies finds the programs of both families. w ignores their changes.
func newFamilies(w *nft.Watcher) ([]*family, error) {
	families := bothFamilies()
	for _, f := range families {
		f.owned, f.printed, f.moved, f.seen = make(map[string]bool), make(map[string][]string), make(map[firewall.Hook]time.Time),
			make(map[string]firewall.Dropped)
		if !f.is4() && !hostHasIPv6() {
			continue
		}
		var err error
		if f.ipt, err = findXtables(f.proto(), "", func(pid int) { w.Mine(uint32(pid)) }); err != nil {
			return nil, err
		}
	}
	return families, nil
}

func bothFamilies() []*family {
	return []*family{
		{name: "ipv4", set: firewall.SetIPv4, id: unix.AF_INET},
		{name: "ipv6", set: firewall.SetIPv6, id: unix.AF_INET6},
	}
}

// proto returns the family in the terms of go-iptables.
func (f *family) proto() iptables.Protocol {
	if f.is4() {
		return iptables.ProtocolIPv4
	}
	return iptables.ProtocolIPv6
}

// is4 reports whether a family is IPv4.
func (f *family) is4() bool { return f.id == unix.AF_INET }

// hostHasIPv6 reports whether the kernel has IPv6 at all: one started with ipv6.disable=1 has no ip6tables either.
func hostHasIPv6() bool {
	_, err := os.Stat(procNet + "if_inet6")
	return err == nil
}

// Name returns "iptables".
func (b *IPTables) Name() string { return firewall.IPTables }

// Close closes the connection to the kernel. Everything stays in force.
func (b *IPTables) Close() error { return b.sets.Close() }

// Dropped implements firewall.Backend.
func (b *IPTables) Dropped() map[string]firewall.Dropped {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.dropped)
}

// Capacity returns 0: a set has the size that is configured.
func (*IPTables) Capacity() (bans int, shared bool) { return 0, false }

// Sizes returns the entries and the limit of each set.
func (b *IPTables) Sizes() map[string]firewall.SetSize {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.filled)
}

// Setup creates missing sets, and resizes sets to the configured size.
func (b *IPTables) Setup() (made []string, err error) {
	for _, f := range b.families {
		m, e := b.setupSet(f)
		made, err = append(made, m...), cmp.Or(err, e)
		f.fit.Store(f.unfit == nil)
	}
	return made, err
}

// Verify makes missing chains, rules and jumps.
func (b *IPTables) Verify(ctx context.Context) (v firewall.Verification) {
	fit := slices.DeleteFunc(slices.Clone(b.families), func(f *family) bool { return !f.fit.Load() || f.ipt == nil })
	v = verifyRules(ctx, fit, &b.opts)
	t := verifyTaps(ctx, b.families, currentTap(&b.tap), b.opts.Hooks)
	v.Made, v.Notes, v.Tap = append(v.Made, t.Made...), append(v.Notes, t.Notes...), t.Tap
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range fit {
		b.dropped[f.name] = f.total
	}
	return v
}

// SetTap implements firewall.Backend.
func (b *IPTables) SetTap(tap firewall.Tap) { b.tap.Store(&tap) }

// Resize sets the size that the next Setup gives the sets.
func (b *IPTables) Resize(bans int) { b.opts.MaxBans = bans }

func (b *IPTables) setupSet(f *family) (made []string, err error) {
	info, err := f.inspect(b.sets)
	size := firewall.SetSize{Limit: b.opts.MaxBans}
	if err == nil {
		size = firewall.SetSize{Entries: int(info.Elements), Limit: int(info.MaxElem)}
	}
	b.mu.Lock()
	b.filled[f.name] = size
	b.mu.Unlock()
	if errors.Is(err, ipset.ErrNoSet) {
		if err = b.sets.Create(f.set, f.id, uint32(b.opts.MaxBans)); err == nil {
			made = []string{"set " + f.set}
		}
		f.unfit = err
		return made, err
	}
	f.unfit = err
	if err != nil || info.MaxElem == uint32(b.opts.MaxBans) || int(info.Elements) > b.opts.MaxBans {
		return nil, err
	}
	return nil, b.resize(f)
}

// inspect reads the header of the family's set. The error wraps ipset.ErrNoSet if there is none, and firewall.ErrForeign if it is
// not fsban's.
func (f *family) inspect(sets *ipset.Conn) (ipset.Info, error) {
	info, err := sets.Info(f.set)
	if err == nil {
		err = info.Check(f.set, f.id)
	}
	return info, err
}

// newSuffix ends the name of the set that replaces another one.
const newSuffix = "-new"

// resize puts the entries of a set into a new one of the configured size and swaps the two: no packet sees a gap.
func (b *IPTables) resize(f *family) error {
	fresh := f.set + newSuffix
	if _, err := b.sets.Remove(fresh, f.id); err != nil {
		return err
	}
	entries, err := b.sets.Entries(f.set)
	if err != nil {
		return err
	}
	if err := b.sets.Create(fresh, f.id, uint32(b.opts.MaxBans)); err != nil {
		return err
	}
	for part := range slices.Chunk(entries, firewall.BatchSize) {
		if err := b.sets.Add(fresh, part); err != nil {
			return err
		}
	}
	if err := b.sets.Swap(f.set, fresh); err != nil {
		return err
	}
	return b.sets.Destroy(fresh)
}

// Apply implements firewall.Backend. While a set is missing or not fsban's, it holds no bans, so unbans have no effect.
func (b *IPTables) Apply(orders []firewall.Order) (failed []firewall.Order, err error) {
	for _, f := range b.families {
		var adds, dels []firewall.Order
		foreign := errors.Is(f.unfit, firewall.ErrForeign)
		for _, o := range orders {
			switch {
			case o.Prefix.Addr().Is4() != f.is4() || foreign && !o.Add:
			case f.unfit != nil && o.Add:
				failed, err = append(failed, o), cmp.Or(err, f.unfit)
			case o.Add:
				adds = append(adds, o)
			default:
				dels = append(dels, o)
			}
		}
		for _, part := range []struct {
			orders []firewall.Order
			change func(string, []firewall.Entry) error
		}{{dels, b.sets.Delete}, {adds, b.sets.Add}} {
			bad, e := firewall.InBatches(part.orders, func(entries []firewall.Entry) error { return part.change(f.set, entries) })
			failed, err = append(failed, bad...), cmp.Or(err, e)
		}
	}
	return failed, err
}

// Entries lists the kernel's entries, which takes about 2 µs an entry.
func (b *IPTables) Entries() ([]firewall.Entry, error) {
	// A connection of its own: a long dump must not hold up the bans.
	sets, err := ipset.Dial()
	if err != nil {
		return nil, err
	}
	defer func() { _ = sets.Close() }()
	var all []firewall.Entry
	err = b.eachSet(sets, func(f *family, _ ipset.Info) error {
		entries, err := sets.Entries(f.set)
		all = append(all, entries...)
		return err
	})
	return all, err
}

// Intact compares the number of entries, which takes no listing.
func (b *IPTables) Intact(plausible func(int) bool) (bool, error) {
	total := 0
	err := b.eachSet(b.sets, func(_ *family, info ipset.Info) error {
		total += int(info.Elements)
		return nil
	})
	return err == nil && plausible(total), err
}

// eachSet calls do for each of fsban's sets that exists.
func (b *IPTables) eachSet(sets *ipset.Conn, do func(*family, ipset.Info) error) error {
	for _, f := range b.families {
		info, err := f.inspect(sets)
		if errors.Is(err, ipset.ErrNoSet) || errors.Is(err, firewall.ErrForeign) {
			continue
		}
		if err == nil {
			err = do(f, info)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Teardown removes fsban's rules, chains and sets from all tables, also the sets of an interrupted resize or trial.
func (b *IPTables) Teardown() (removed []string, err error) {
	for _, f := range b.families {
		if f.ipt != nil {
			r, e := f.teardownRules(firewall.Tables)
			removed, err = append(removed, r...), errors.Join(err, e)
		}
		r, e := removeSets(b.sets, f.id, f.set, f.set+newSuffix)
		removed, err = append(removed, r...), errors.Join(err, e)
	}
	r, e := removeSets(b.sets, 0, triedSet)
	return append(removed, r...), errors.Join(err, e)
}

// removeSets removes fsban's sets of some names, if there are any.
func removeSets(sets *ipset.Conn, family uint8, names ...string) (removed []string, err error) {
	for _, name := range names {
		there, e := sets.Remove(name, family)
		if there {
			removed = append(removed, "set "+name)
		}
		if !errors.Is(e, ipset.ErrUnsupported) {
			err = errors.Join(err, e)
		}
	}
	return removed, err
}

// Watch implements firewall.Backend. The kernel reports changes by iptables-nft only.
func (b *IPTables) Watch(ctx context.Context, notice func()) error {
	return b.watcher.Watch(ctx, func() {}, notice)
}
