package firewall

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-iptables/iptables"
	"golang.org/x/sys/unix"
)

// The names of what fsban makes in the kernel, and of nothing else.
const (
	ChainName = "FSBAN"
	SetIPv4   = "fsban4"
	SetIPv6   = "fsban6"
)

// IPTables bans through one ipset and one iptables rule a family.
type IPTables struct {
	opts     Options
	families []*family
	sets     *ipsets
	watcher  watcher

	mu      sync.Mutex // guards what follows, which any goroutine may read
	dropped map[string]Dropped
	filled  map[string]SetSize
}

// A family is IPv4 or IPv6 with its own iptables, chain and set.
type family struct {
	name   string // ipv4, ipv6: the label of metrics
	set    string
	id     uint8
	perBan bool     // the chain holds a rule for each ban, and none with a set
	ipt    *xtables // nil where the host does not speak IPv6: a set is kept all the same, and needs no rule

	unfit error       // why the set must be left alone: it could not be made, or is somebody else's
	fit   atomic.Bool // the set is there, and a rule may name it

	// What follows is for guard alone.
	cleaned bool                // what an earlier configuration had made elsewhere is gone
	printed map[string][]string // how iptables prints the rules that it was given, by table
	moved   map[Hook]time.Time  // when the jump was last put first
	seen    map[string]Dropped  // the rules' counters as last read, by table
	total   Dropped             // of all rules that this process has read

	counting bool // of Rules: its rules have been read before
}

// NewIPTables finds the host's iptables. It changes nothing.
func NewIPTables(opts Options) (*IPTables, error) {
	opts, err := opts.complete()
	if err != nil {
		return nil, err
	}
	b := &IPTables{opts: opts, dropped: make(map[string]Dropped), filled: make(map[string]SetSize), watcher: newWatcher()}
	if b.families, err = newFamilies(&b.watcher); err != nil {
		return nil, err
	}
	b.sets, err = dialIPSet()
	return b, err
}

// newWatcher hears of changes where the host has iptables-nft.
func newWatcher() watcher {
	return watcher{families: []byte{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6}, tables: tables}
}

// newFamilies finds the programs of both families. What they change is no news to w.
func newFamilies(w *watcher) ([]*family, error) {
	families := bothFamilies()
	for _, f := range families {
		f.printed, f.moved, f.seen = make(map[string][]string), make(map[Hook]time.Time), make(map[string]Dropped)
		if !f.is4() && !hostHasIPv6() {
			continue
		}
		var err error
		if f.ipt, err = findXtables(f.proto(), "", func(pid int) { w.mine(uint32(pid)) }); err != nil {
			return nil, err
		}
	}
	return families, nil
}

func bothFamilies() []*family {
	return []*family{
		{name: "ipv4", set: SetIPv4, id: unix.AF_INET},
		{name: "ipv6", set: SetIPv6, id: unix.AF_INET6},
	}
}

// proto is what go-iptables calls a family.
func (f *family) proto() iptables.Protocol {
	if f.is4() {
		return iptables.ProtocolIPv4
	}
	return iptables.ProtocolIPv6
}

// is4 tells whether a family is IPv4.
func (f *family) is4() bool { return f.id == unix.AF_INET }

// hostHasIPv6 tells whether the kernel speaks IPv6 at all: one started with ipv6.disable=1 has no ip6tables either.
func hostHasIPv6() bool {
	_, err := os.Stat(procNet + "if_inet6")
	return err == nil
}

// Name returns "iptables".
func (b *IPTables) Name() string { return "iptables" }

// Close ends the connection to the kernel. Everything stays in force.
func (b *IPTables) Close() error { return b.sets.close() }

// Dropped implements Backend.
func (b *IPTables) Dropped() map[string]Dropped {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.dropped)
}

func (b *IPTables) sizes() map[string]SetSize {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.filled)
}

// setup makes the sets that are missing, and gives them the size that is asked for.
func (b *IPTables) setup() (made []string, err error) {
	for _, f := range b.families {
		m, e := b.setupSet(f)
		made, err = append(made, m...), cmp.Or(err, e)
		f.fit.Store(f.unfit == nil)
	}
	return made, err
}

// guard makes whatever is missing of chains, rules and jumps.
func (b *IPTables) guard(ctx context.Context) (g guarded) {
	fit := slices.DeleteFunc(slices.Clone(b.families), func(f *family) bool { return !f.fit.Load() || f.ipt == nil })
	g = guardRules(ctx, fit, &b.opts)
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, f := range fit {
		b.dropped[f.name] = f.total
	}
	return g
}

func (b *IPTables) limit(bans int) { b.opts.MaxBans = bans }

func (b *IPTables) setupSet(f *family) (made []string, err error) {
	info, err := f.inspect(b.sets)
	size := SetSize{Limit: b.opts.MaxBans}
	if err == nil {
		size = SetSize{int(info.elements), int(info.maxElem)}
	}
	b.mu.Lock()
	b.filled[f.name] = size
	b.mu.Unlock()
	if errors.Is(err, errNoSet) {
		if err = b.sets.create(f.set, f.id, uint32(b.opts.MaxBans)); err == nil {
			made = []string{"set " + f.set}
		}
		f.unfit = err
		return made, err
	}
	f.unfit = err
	if err != nil || info.maxElem == uint32(b.opts.MaxBans) || int(info.elements) > b.opts.MaxBans {
		return nil, err
	}
	return nil, b.resize(f)
}

// inspect reads the header of the family's set. The error wraps errNoSet or ErrSetClash where it is not there or somebody
// else's.
func (f *family) inspect(sets *ipsets) (setInfo, error) {
	info, err := sets.info(f.set)
	if err == nil && (info.typeName != setType || info.family != f.id || !info.timeouts) {
		err = fmt.Errorf("ipset %s is of type %s: %w", f.set, info.typeName, ErrSetClash)
	}
	return info, err
}

// resize puts the entries of a set into a new one of the configured size and swaps the two: no packet sees a gap.
func (b *IPTables) resize(f *family) error {
	fresh := f.set + "-new"
	if err := b.sets.destroy(fresh); err != nil && !errors.Is(err, errNoSet) {
		return err
	}
	entries, err := b.sets.entries(f.set)
	if err != nil {
		return err
	}
	if err := b.sets.create(fresh, f.id, uint32(b.opts.MaxBans)); err != nil {
		return err
	}
	for part := range slices.Chunk(entries, batch) {
		if err := b.sets.add(fresh, part); err != nil {
			return err
		}
	}
	if err := b.sets.swap(f.set, fresh); err != nil {
		return err
	}
	return b.sets.destroy(fresh)
}

// apply carries out ops: bans and unbans. It returns those that failed, and why the first of them did.
func (b *IPTables) apply(ops []op) (failed []op, err error) {
	for _, f := range b.families {
		var adds, dels []op
		for _, o := range ops {
			switch {
			case o.prefix.Addr().Is4() != f.is4():
			case f.unfit != nil:
				failed, err = append(failed, o), cmp.Or(err, f.unfit)
			case o.add:
				adds = append(adds, o)
			default:
				dels = append(dels, o)
			}
		}
		for _, part := range []struct {
			ops    []op
			change func(string, []Entry) error
		}{{dels, b.sets.del}, {adds, b.sets.add}} {
			bad, e := inBatches(f.set, part.ops, part.change)
			failed, err = append(failed, bad...), cmp.Or(err, e)
		}
	}
	return failed, err
}

// inBatches applies ops many to a message. A message that the kernel refuses is tried again entry by entry, so that one
// bad entry does not hold up the others.
func inBatches(set string, ops []op, change func(string, []Entry) error) (failed []op, first error) {
	now := time.Now()
	entries := make([]Entry, 0, min(len(ops), batch))
	for part := range slices.Chunk(ops, batch) {
		entries = entries[:0]
		for _, o := range part {
			entries = append(entries, Entry{Prefix: o.prefix, Left: left(o.until, now)})
		}
		if err := change(set, entries); err == nil {
			continue
		}
		for i, o := range part {
			if err := change(set, entries[i:i+1]); err != nil {
				failed, first = append(failed, o), cmp.Or(first, err)
			}
		}
	}
	return failed, first
}

// entries lists what the kernel holds, which takes about 2 µs an entry.
func (b *IPTables) entries() ([]Entry, error) {
	// A connection of its own: a long dump must not hold up the bans.
	sets, err := dialIPSet()
	if err != nil {
		return nil, err
	}
	defer func() { _ = sets.close() }()
	var all []Entry
	err = b.eachSet(sets, func(f *family, _ setInfo) error {
		entries, err := sets.entries(f.set)
		all = append(all, entries...)
		return err
	})
	return all, err
}

// intact asks about the number of entries, which takes no listing.
func (b *IPTables) intact(plausible func(int) bool) (bool, error) {
	total := 0
	err := b.eachSet(b.sets, func(_ *family, info setInfo) error {
		total += int(info.elements)
		return nil
	})
	return err == nil && plausible(total), err
}

// eachSet calls do for each set of fsban's that is there.
func (b *IPTables) eachSet(sets *ipsets, do func(*family, setInfo) error) error {
	for _, f := range b.families {
		info, err := f.inspect(sets)
		if errors.Is(err, errNoSet) || errors.Is(err, ErrSetClash) {
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

// Teardown removes what fsban made, wherever its hooks were.
func (b *IPTables) Teardown() (removed []string, err error) {
	for _, f := range b.families {
		if f.ipt != nil {
			r, e := f.teardownRules(tables)
			removed, err = append(removed, r...), errors.Join(err, e)
		}
		for _, set := range []string{f.set, f.set + "-new"} {
			switch e := b.sets.destroyUnused(set); {
			case e == nil:
				removed = append(removed, "set "+set)
			case !errors.Is(e, errNoSet) && !errors.Is(e, errNoIPSet):
				err = errors.Join(err, e)
			}
		}
	}
	return removed, err
}

// watch hears of changes where this is iptables-nft.
func (b *IPTables) watch(ctx context.Context, notice func()) error {
	return b.watcher.watch(ctx, func() {}, notice)
}
