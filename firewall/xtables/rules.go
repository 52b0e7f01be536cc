package xtables

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"fsban/firewall"
	"fsban/firewall/ipset"
	"fsban/firewall/nft"
)

// MaxRules is how many rules the backend Rules makes at most, of both families together.
const MaxRules = 2000

// ErrTooManyRules is wrapped by the error of a ban that would be one rule too many.
var ErrTooManyRules = fmt.Errorf("there are %d rules, and each costs every packet time: install ipset, and set "+
	"firewall.backend to iptables", MaxRules)

// Rules bans with one iptables rule a ban (and 15 ports): for hosts that have neither ipset nor nftables. Every packet passes all
// rules, at 4 to 8 ns each, and every change waits for the lock of iptables. There are MaxRules at most.
//
// A rule contains the end of its ban, by the system's clock: it stops matching then, whether fsban runs or not, and the next check
// removes it.
type Rules struct {
	opts     firewall.Options
	table    string
	families []*family
	watcher  *nft.Watcher
	tap      atomic.Pointer[firewall.Tap] // nil: none

	mu      sync.Mutex // protects the following
	held    map[netip.Prefix]ruled
	dropped map[string]firewall.Dropped
	notes   []string // of the last setup
	tapErr  error    // likewise
	touched bool     // another program has made or removed rules of bans
}

// A ruled is a ban with rules in the kernel.
type ruled struct {
	until   time.Time // zero: without end
	counted firewall.Dropped
}

// NewRules finds the host's iptables. It changes nothing.
func NewRules(opts firewall.Options) (*Rules, error) {
	opts, err := opts.Complete()
	if err != nil {
		return nil, err
	}
	b := &Rules{opts: opts, table: opts.Hooks[0].Table, held: make(map[netip.Prefix]ruled), dropped: make(map[string]firewall.Dropped)}
	for _, h := range opts.Hooks {
		if h.Table != b.table {
			return nil, fmt.Errorf("firewall.chains: one rule a ban is made in one table only, not in %s and %s", b.table, h.Table)
		}
	}
	b.watcher = newWatcher()
	b.families, err = newFamilies(b.watcher)
	for _, f := range b.families {
		f.perBan = true
	}
	return b, err
}

// Capacity returns the number of bans that fit into MaxRules rules, of both families together.
func (b *Rules) Capacity() (bans int, shared bool) { return b.room(), true }

func (b *Rules) room() int { return MaxRules / max(len(multiports(b.opts.Ports)), 1) }

// Name returns "rules".
func (*Rules) Name() string { return firewall.Rules }

// Close does nothing: there is no connection.
func (*Rules) Close() error { return nil }

// Dropped implements firewall.Backend.
func (b *Rules) Dropped() map[string]firewall.Dropped {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.dropped)
}

// Packets returns the packets that the rules of each ban dropped, as of the last time that they were read.
func (b *Rules) Packets() map[netip.Prefix]uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	packets := make(map[netip.Prefix]uint64, len(b.held))
	for p, r := range b.held {
		packets[p] = r.counted.Packets
	}
	return packets
}

// Sizes limits each family to the space that the other one leaves of MaxRules.
func (b *Rules) Sizes() map[string]firewall.SetSize {
	b.mu.Lock()
	defer b.mu.Unlock()
	v4 := 0
	for p := range b.held {
		if p.Addr().Is4() {
			v4++
		}
	}
	v6, room := len(b.held)-v4, b.room()
	return map[string]firewall.SetSize{"ipv4": {Entries: v4, Limit: room - v6}, "ipv6": {Entries: v6, Limit: room - v4}}
}

// Setup makes the chain and the jumps, removes the rules of ended bans, and repairs rules of another configuration. It does this
// here and not in Verify, because bans wait for the lock of iptables as well.
func (b *Rules) Setup() (made []string, err error) {
	usable := slices.DeleteFunc(slices.Clone(b.families), func(f *family) bool { return f.ipt == nil })
	v := verifyRules(context.Background(), usable, &b.opts)
	if v.Err == nil || errors.Is(v.Err, errNoChain) || errors.Is(v.Err, firewall.ErrForeign) {
		for _, f := range usable {
			v.Err = cmp.Or(v.Err, b.tidy(f))
		}
	}
	t := verifyTaps(context.Background(), usable, currentTap(&b.tap), b.opts.Hooks)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.notes, b.tapErr = slices.Concat(v.Notes, t.Notes), t.Tap
	return slices.Concat(v.Made, t.Made), v.Err
}

// tidy reads the rules of a family, removes surplus ones and makes missing ones.
func (b *Rules) tidy(f *family) error {
	if f.ipt == nil || f.unfit != nil {
		return nil
	}
	now, err := f.ipt.save(context.Background(), b.table)
	if err != nil {
		return f.failed("list", b.table, firewall.ChainName, err)
	}
	bans, want, have := b.read(f, now)
	err = b.restore(f, difference(have, want))
	b.mu.Lock()
	defer b.mu.Unlock()
	total := b.dropped[f.name]
	for p, r := range bans {
		if f.counting {
			total = total.Plus(b.held[p].counted, r.counted)
		}
	}
	f.counting = true // earlier counts are not this process's
	for p := range bans {
		_, known := b.held[p]
		b.touched = b.touched || !known
	}
	maps.DeleteFunc(b.held, func(p netip.Prefix, r ruled) bool {
		_, there := bans[p]
		mine := p.Addr().Is4() == f.is4()
		b.touched = b.touched || mine && !there && (r.until.IsZero() || time.Until(r.until) > firewall.Expiring)
		return mine
	})
	maps.Copy(b.held, bans)
	b.dropped[f.name] = total
	return err
}

// read returns the bans in the rules of a table, the rules that these bans need, and the rules in the table.
func (b *Rules) read(f *family, t table) (bans map[netip.Prefix]ruled, want, have []string) {
	bans = make(map[netip.Prefix]ruled)
	for _, r := range t[firewall.ChainName] {
		if strings.Contains(r.text, "--match-set "+f.set+" ") {
			continue // of another backend: in force until Abandoned removes it
		}
		have = append(have, r.text)
		prefix, until, ok := parseBan(r.text)
		if !ok || !until.IsZero() && !until.After(time.Now()) {
			continue
		}
		if _, there := bans[prefix]; !there {
			want = append(want, b.texts(f, prefix, until)...)
		}
		counted := bans[prefix].counted
		bans[prefix] = ruled{until, firewall.Dropped{Packets: counted.Packets + r.counted.Packets, Bytes: counted.Bytes + r.counted.Bytes}}
	}
	return bans, want, have
}

// Verify has nothing to do: see Setup.
func (b *Rules) Verify(context.Context) firewall.Verification {
	b.mu.Lock()
	defer b.mu.Unlock()
	return firewall.Verification{Notes: b.notes, Tap: b.tapErr}
}

// SetTap implements firewall.Backend.
func (b *Rules) SetTap(tap firewall.Tap) { b.tap.Store(&tap) }

// Resize does nothing: MaxRules is not configurable.
func (*Rules) Resize(int) {}

// Apply implements firewall.Backend. If space is short, it applies unbans before bans.
func (b *Rules) Apply(ops []firewall.Order) (failed []firewall.Order, err error) {
	b.mu.Lock()
	short := len(b.held)+len(ops) > b.room()
	b.mu.Unlock()
	if !short {
		return b.carryOut(ops)
	}
	for _, add := range []bool{false, true} {
		bad, e := b.carryOut(slices.DeleteFunc(slices.Clone(ops), func(o firewall.Order) bool { return o.Add != add }))
		failed, err = append(failed, bad...), cmp.Or(err, e)
	}
	return failed, err
}

func (b *Rules) carryOut(ops []firewall.Order) (failed []firewall.Order, err error) {
	for _, f := range b.families {
		if f.unfit != nil { // the chain is not fsban's, and holds no bans
			for _, o := range ops {
				if o.Add && o.Prefix.Addr().Is4() == f.is4() {
					failed, err = append(failed, o), cmp.Or(err, f.unfit)
				}
			}
			continue
		}
		mine := func(o firewall.Order) bool { return o.Prefix.Addr().Is4() == f.is4() }
		if b.nearlyFull() && slices.ContainsFunc(ops, mine) ||
			slices.ContainsFunc(ops, func(o firewall.Order) bool { return mine(o) && b.holds(o.Prefix) }) {
			// This adds up the counters of the rules that are about to be removed, and those by which an eviction chooses.
			err = cmp.Or(err, b.tidy(f))
		}
		bad, e := b.applyTo(f, ops)
		if e != nil && len(bad) == 0 { // another program has changed fsban's rules: read them, and try once more
			if e = b.tidy(f); e == nil {
				bad, e = b.applyTo(f, ops)
			}
			if e != nil && len(bad) == 0 {
				bad = slices.DeleteFunc(slices.Clone(ops), func(o firewall.Order) bool { return o.Prefix.Addr().Is4() != f.is4() })
			}
		}
		failed, err = append(failed, bad...), cmp.Or(err, e)
	}
	return failed, err
}

// nearlyFull reports whether bans may soon be evicted.
func (b *Rules) nearlyFull() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.held) > b.room()*7/8
}

// holds reports whether a prefix has rules.
func (b *Rules) holds(prefix netip.Prefix) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, there := b.held[prefix]
	return there
}

// applyTo applies the orders of one family, and returns those that cannot be applied. If iptables fails, it applies none and returns
// the error alone.
func (b *Rules) applyTo(f *family, ops []firewall.Order) (failed []firewall.Order, err error) {
	b.mu.Lock()
	fresh, room := maps.Clone(b.held), b.room()
	b.mu.Unlock()
	var lines []string
	if now := time.Now(); len(fresh)+len(ops) > room { // do not wait for the next check to remove ended bans
		for p, r := range fresh {
			if p.Addr().Is4() == f.is4() && !r.until.IsZero() && !r.until.After(now) {
				lines = append(lines, difference(b.texts(f, p, r.until), nil)...)
				delete(fresh, p)
			}
		}
	}
	for _, o := range ops {
		if o.Prefix.Addr().Is4() != f.is4() {
			continue
		}
		old, there := fresh[o.Prefix]
		var have, want []string
		if there {
			have = b.texts(f, o.Prefix, old.until)
		}
		switch {
		case !o.Add:
			delete(fresh, o.Prefix)
		case o.Prefix.Bits() == 0:
			failed, err = append(failed, o), cmp.Or(err, f.failed("ban "+o.Prefix.String()+" in", b.table, firewall.ChainName,
				firewall.ErrEverybody))
			continue
		case !there && len(fresh) >= room:
			failed, err = append(failed, o), cmp.Or(err, f.failed("ban "+o.Prefix.String()+" in", b.table, firewall.ChainName, ErrTooManyRules))
			continue
		default:
			end := endOf(o.Until)
			want = b.texts(f, o.Prefix, end)
			fresh[o.Prefix] = ruled{end, old.counted}
			if !slices.Equal(have, want) {
				fresh[o.Prefix] = ruled{until: end} // new rules count from zero
			}
		}
		lines = append(lines, difference(have, want)...)
	}
	if e := b.restore(f, lines); e != nil {
		return nil, e
	}
	b.mu.Lock()
	b.held = fresh
	b.mu.Unlock()
	return failed, err
}

// portion is the number of rules in one transaction. More do not fit into one message of each iptables-nft.
const portion = 250

func (b *Rules) restore(f *family, lines []string) error {
	if len(lines) == 0 || f.ipt == nil {
		return nil
	}
	for part := range slices.Chunk(lines, portion) {
		if err := f.ipt.restore(context.Background(), b.table, part); err != nil {
			return f.failed("change", b.table, firewall.ChainName, err)
		}
	}
	return nil
}

// Intact compares the number of rules as of the last Setup.
func (b *Rules) Intact(plausible func(int) bool) (bool, error) {
	b.mu.Lock()
	size, touched := len(b.held), b.touched
	b.touched = false
	b.mu.Unlock()
	return plausible(size) && !touched, nil
}

// Entries lists the bans that have rules.
func (b *Rules) Entries() ([]firewall.Entry, error) {
	var list []firewall.Entry
	for _, f := range b.families {
		if f.ipt == nil {
			continue
		}
		now, err := f.ipt.save(context.Background(), b.table)
		if err != nil {
			return nil, f.failed("list", b.table, firewall.ChainName, err)
		}
		bans, _, _ := b.read(f, now)
		for p, r := range bans {
			list = append(list, firewall.Entry{Prefix: p, Left: firewall.Left(r.until, time.Now()), ByWall: true, Packets: r.counted.Packets,
				Bytes: r.counted.Bytes})
		}
	}
	return list, nil
}

// Watch calls notice when the rules may have changed, until ctx ends.
func (b *Rules) Watch(ctx context.Context, notice func()) error {
	return b.watcher.Watch(ctx, func() {}, notice)
}

// DropSets removes the sets of an earlier run, and the rules that use them.
func (b *Rules) DropSets() (removed []string, err error) {
	sets, err := ipset.Dial()
	if errors.Is(err, ipset.ErrUnsupported) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	defer func() { _ = sets.Close() }()
	for _, f := range b.families {
		if f.ipt != nil {
			now, e := f.ipt.save(context.Background(), b.table)
			var lines []string
			for _, text := range now.texts(firewall.ChainName) {
				if strings.Contains(text, "--match-set "+f.set+" ") {
					lines = append(lines, "-D "+firewall.ChainName+" "+text)
				}
			}
			err = errors.Join(err, e, b.restore(f, lines))
		}
		r, e := removeSets(sets, f.id, f.set, f.set+newSuffix)
		removed, err = append(removed, r...), errors.Join(err, e)
	}
	return removed, err
}

// Teardown removes fsban's chains, and with them all bans.
func (b *Rules) Teardown() (removed []string, err error) {
	for _, f := range b.families {
		if f.ipt != nil {
			r, e := f.teardownRules(firewall.Tables)
			removed, err = append(removed, r...), errors.Join(err, e)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.held)
	return removed, err
}
