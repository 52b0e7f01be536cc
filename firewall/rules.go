package firewall

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
	"time"
)

// MaxRules is how many rules the backend Rules makes at most, of both families together.
const MaxRules = 2000

// ErrTooManyRules is wrapped by the error of a ban that would be one rule too many.
var ErrTooManyRules = fmt.Errorf("there are %d rules, and each costs every packet time: install ipset, and set firewall.backend to iptables", MaxRules)

// Rules bans with one iptables rule a ban (and 15 ports): for hosts that have neither ipset nor nftables. Every packet
// passes all of them, at 4 to 8 ns each, and every change waits for the lock of iptables; there are MaxRules at most.
//
// A rule carries the end of its ban: the kernel stops heeding it then, whether fsban runs or not, and the next check takes
// it away.
type Rules struct {
	opts     Options
	table    string
	families []*family
	watcher  watcher

	mu      sync.Mutex // guards what follows
	held    map[netip.Prefix]ruled
	dropped map[string]Dropped
	notes   []string // of the last setup
	touched bool     // somebody else has made or removed rules of bans
}

// Ruled is a ban that there are rules for.
type ruled struct {
	until   time.Time // zero: without end
	counted Dropped
}

// NewRules finds the host's iptables. It changes nothing.
func NewRules(opts Options) (*Rules, error) {
	opts, err := opts.complete()
	if err != nil {
		return nil, err
	}
	b := &Rules{opts: opts, table: opts.Hooks[0].Table, held: make(map[netip.Prefix]ruled), dropped: make(map[string]Dropped)}
	for _, h := range opts.Hooks {
		if h.Table != b.table {
			return nil, fmt.Errorf("firewall.chains: one rule a ban is made in one table only, not in %s and %s", b.table, h.Table)
		}
	}
	b.watcher = newWatcher()
	b.families, err = newFamilies(&b.watcher)
	for _, f := range b.families {
		f.perBan = true
	}
	return b, err
}

// Room is how many bans there can be, of both families together.
func (b *Rules) Room() int { return MaxRules / max(len(multiports(b.opts.Ports)), 1) }

// Name returns "rules".
func (*Rules) Name() string { return "rules" }

// Close does nothing: there is nothing to let go of.
func (*Rules) Close() error { return nil }

// Dropped implements Backend.
func (b *Rules) Dropped() map[string]Dropped {
	b.mu.Lock()
	defer b.mu.Unlock()
	return maps.Clone(b.dropped)
}

// sizes has each family fill what the other one leaves: there are MaxRules for both.
func (b *Rules) sizes() map[string]SetSize {
	b.mu.Lock()
	defer b.mu.Unlock()
	v4 := 0
	for p := range b.held {
		if p.Addr().Is4() {
			v4++
		}
	}
	v6, room := len(b.held)-v4, b.Room()
	return map[string]SetSize{"ipv4": {v4, room - v6}, "ipv6": {v6, room - v4}}
}

// setup makes chain and jumps, takes away the rules whose bans are over, and puts right those of another configuration. It
// does all that here, because bans have to wait for the lock of iptables as well.
func (b *Rules) setup() (made []string, err error) {
	usable := slices.DeleteFunc(slices.Clone(b.families), func(f *family) bool { return f.ipt == nil })
	g := guardRules(context.Background(), usable, &b.opts)
	if g.err == nil || errors.Is(g.err, errNoChain) {
		for _, f := range usable {
			g.err = cmp.Or(g.err, b.tidy(f))
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.notes = g.notes
	return g.made, g.err
}

// tidy reads the rules of a family, and leaves only those that should be.
func (b *Rules) tidy(f *family) error {
	if f.ipt == nil {
		return nil
	}
	now, err := f.ipt.save(context.Background(), b.table)
	if err != nil {
		return f.failed("list", b.table, ChainName, err)
	}
	bans, want, have := b.read(f, now)
	err = b.restore(f, difference(have, want))
	b.mu.Lock()
	defer b.mu.Unlock()
	total := b.dropped[f.name]
	for p, r := range bans {
		if f.counting {
			total = total.plus(b.held[p].counted, r.counted)
		}
	}
	f.counting = true // what was there before this process is not its own
	for p := range bans {
		_, known := b.held[p]
		b.touched = b.touched || !known
	}
	maps.DeleteFunc(b.held, func(p netip.Prefix, r ruled) bool {
		_, there := bans[p]
		mine := p.Addr().Is4() == f.is4()
		b.touched = b.touched || mine && !there && (r.until.IsZero() || time.Until(r.until) > expiring)
		return mine
	})
	maps.Copy(b.held, bans)
	b.dropped[f.name] = total
	return err
}

// read finds the bans among the rules of a table, and says what rules there should be for them.
func (b *Rules) read(f *family, t table) (bans map[netip.Prefix]ruled, want, have []string) {
	bans = make(map[netip.Prefix]ruled)
	for _, r := range t[ChainName] {
		if strings.Contains(r.text, "--match-set "+f.set+" ") {
			continue // of another backend: in force until Abandoned takes it away
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
		bans[prefix] = ruled{until, Dropped{counted.Packets + r.counted.Packets, counted.Bytes + r.counted.Bytes}}
	}
	return bans, want, have
}

// guard has nothing to do: see setup.
func (b *Rules) guard(context.Context) guarded {
	b.mu.Lock()
	defer b.mu.Unlock()
	return guarded{notes: b.notes}
}

// limit does nothing: how many rules there may be is not for a configuration to say.
func (*Rules) limit(int) {}

// apply carries out bans and unbans, many at once, but where room is short unbans first.
func (b *Rules) apply(ops []op) (failed []op, err error) {
	b.mu.Lock()
	short := len(b.held)+len(ops) > b.Room()
	b.mu.Unlock()
	if !short {
		return b.carryOut(ops)
	}
	for _, add := range []bool{false, true} {
		bad, e := b.carryOut(slices.DeleteFunc(slices.Clone(ops), func(o op) bool { return o.add != add }))
		failed, err = append(failed, bad...), cmp.Or(err, e)
	}
	return failed, err
}

func (b *Rules) carryOut(ops []op) (failed []op, err error) {
	for _, f := range b.families {
		if slices.ContainsFunc(ops, func(o op) bool { return b.holds(o.prefix) && o.prefix.Addr().Is4() == f.is4() }) {
			err = cmp.Or(err, b.tidy(f)) // counts what the rules have counted that go now
		}
		bad, e := b.applyTo(f, ops)
		if e != nil && len(bad) == 0 { // somebody has changed our rules: look, and try once more
			if e = b.tidy(f); e == nil {
				bad, e = b.applyTo(f, ops)
			}
			if e != nil && len(bad) == 0 {
				bad = slices.DeleteFunc(slices.Clone(ops), func(o op) bool { return o.prefix.Addr().Is4() != f.is4() })
			}
		}
		failed, err = append(failed, bad...), cmp.Or(err, e)
	}
	return failed, err
}

// holds tells whether there are rules for a prefix.
func (b *Rules) holds(prefix netip.Prefix) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, there := b.held[prefix]
	return there
}

// applyTo carries out what concerns one family. It returns what cannot be; where iptables fails it does nothing, and returns
// the error alone.
func (b *Rules) applyTo(f *family, ops []op) (failed []op, err error) {
	b.mu.Lock()
	fresh, room := maps.Clone(b.held), b.Room()
	b.mu.Unlock()
	var lines []string
	if now := time.Now(); len(fresh)+len(ops) > room { // bans that are over make room before the next check does
		for p, r := range fresh {
			if p.Addr().Is4() == f.is4() && !r.until.IsZero() && !r.until.After(now) {
				lines = append(lines, difference(b.texts(f, p, r.until), nil)...)
				delete(fresh, p)
			}
		}
	}
	for _, o := range ops {
		if o.prefix.Addr().Is4() != f.is4() {
			continue
		}
		old, there := fresh[o.prefix]
		var have, want []string
		if there {
			have = b.texts(f, o.prefix, old.until)
		}
		switch {
		case !o.add:
			delete(fresh, o.prefix)
		case o.prefix.Bits() == 0:
			failed, err = append(failed, o), cmp.Or(err, f.failed("ban "+o.prefix.String()+" in", b.table, ChainName, errAll))
			continue
		case !there && len(fresh) >= room:
			failed, err = append(failed, o), cmp.Or(err, f.failed("ban "+o.prefix.String()+" in", b.table, ChainName, ErrTooManyRules))
			continue
		default:
			end := endOf(o.until)
			want = b.texts(f, o.prefix, end)
			fresh[o.prefix] = ruled{end, old.counted}
			if !slices.Equal(have, want) {
				fresh[o.prefix] = ruled{until: end} // new rules count from zero
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

// portion is how many rules are changed in one moment: more do not fit into a message of iptables-nft everywhere.
const portion = 250

func (b *Rules) restore(f *family, lines []string) error {
	if len(lines) == 0 || f.ipt == nil {
		return nil
	}
	for part := range slices.Chunk(lines, portion) {
		if err := f.ipt.restore(context.Background(), b.table, part); err != nil {
			return f.failed("change", b.table, ChainName, err)
		}
	}
	return nil
}

// intact asks about the rules that setup has just seen, and their number.
func (b *Rules) intact(plausible func(int) bool) (bool, error) {
	b.mu.Lock()
	size, touched := len(b.held), b.touched
	b.touched = false
	b.mu.Unlock()
	return plausible(size) && !touched, nil
}

// entries lists the bans that there are rules for.
func (b *Rules) entries() ([]Entry, error) {
	var list []Entry
	for _, f := range b.families {
		if f.ipt == nil {
			continue
		}
		now, err := f.ipt.save(context.Background(), b.table)
		if err != nil {
			return nil, f.failed("list", b.table, ChainName, err)
		}
		bans, _, _ := b.read(f, now)
		for p, r := range bans {
			list = append(list, Entry{p, left(r.until, time.Now()), r.counted.Packets, r.counted.Bytes})
		}
	}
	return list, nil
}

func (b *Rules) watch(ctx context.Context, notice func()) error {
	return b.watcher.watch(ctx, func() {}, notice)
}

// dropSets takes away the sets of an earlier run, and the rules that use them.
func (b *Rules) dropSets() (removed []string, err error) {
	sets, err := dialIPSet()
	if err != nil {
		return nil, err
	}
	defer func() { _ = sets.close() }()
	for _, f := range b.families {
		if f.ipt != nil {
			now, e := f.ipt.save(context.Background(), b.table)
			var lines []string
			for _, text := range now.texts(ChainName) {
				if strings.Contains(text, "--match-set "+f.set+" ") {
					lines = append(lines, "-D "+ChainName+" "+text)
				}
			}
			err = errors.Join(err, e, b.restore(f, lines))
		}
		switch e := sets.destroyUnused(f.set); {
		case e == nil:
			removed = append(removed, "set "+f.set)
		case !errors.Is(e, errNoSet):
			err = errors.Join(err, e)
		}
	}
	return removed, err
}

// Teardown removes fsban's chains, and with them all bans.
func (b *Rules) Teardown() (removed []string, err error) {
	for _, f := range b.families {
		if f.ipt != nil {
			r, e := f.teardownRules(tables)
			removed, err = append(removed, r...), errors.Join(err, e)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.held)
	return removed, err
}
