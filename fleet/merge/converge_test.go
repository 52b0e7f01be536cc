package merge

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// A hub is a model of Redis and its script: one statement for each key, and a log.
type hub struct {
	epoch  int
	now    int64 // microseconds
	top    int64 // latest stamp
	states map[Key]Statement
	log    []Statement
}

// accept applies the rules of the script: stamps are not ahead of the clock, and the later statement holds.
func (h *hub) accept(st Statement) {
	limit := max(h.now, h.top+1)
	st.Proposed = 0
	if st.Stamp > limit {
		st.Proposed, st.Stamp = st.Stamp, limit
	}
	old, known := h.states[st.Key()]
	if known && old.Stamp >= st.Stamp && old.Stamp <= limit {
		return
	}
	h.top = max(h.top, st.Stamp)
	h.states[st.Key()] = st
	h.log = append(h.log, st)
}

// A peer is a model of a node: the book of bans and allowances around a State.
type peer struct {
	name    string
	ahead   int64 // of the hub's clock, in microseconds
	state   *State
	entries map[Key]Statement
	shelves map[Key]Tombstone
	outbox  []Statement
	last    int64 // latest stamp given or seen
	epoch   int
	place   int // in the hub's log
	resync  bool
}

func newPeer(name string, ahead int64) *peer {
	p := &peer{name: name, ahead: ahead, entries: make(map[Key]Statement), shelves: make(map[Key]Tombstone), resync: true}
	p.restart(start)
	return p
}

// restart keeps the entries and the tombstones, as a ledger does.
func (p *peer) restart(now time.Time) {
	shelves := maps.Clone(p.shelves)
	p.outbox, p.resync = nil, true
	p.state = New(Options{Node: p.name, Keep: func(k Key, t *Tombstone) {
		if delete(p.shelves, k); t != nil {
			p.shelves[k] = *t
		}
	}})
	p.state.SetRate(1)
	for k, t := range shelves {
		if !p.state.Load(k, t, now) {
			delete(p.shelves, k)
		}
	}
}

func (p *peer) held(k Key) Entry {
	st, ok := p.entries[k]
	if !ok {
		return Entry{}
	}
	return Entry{Stamp: st.stamp(), Until: st.Until}
}

// order is a local order: stated, and announced later.
func (p *peer) order(kind Kind, prefix netip.Prefix, until, now time.Time, hubNow int64) Statement {
	p.last = max(p.last+1, hubNow+p.ahead)
	st := Statement{Kind: kind, Prefix: prefix, Stamp: p.last, Node: p.name, Until: until}
	st = p.apply(st, now)
	p.outbox = append(p.outbox, st)
	return st
}

func (p *peer) apply(st Statement, now time.Time) Statement {
	k := st.Key()
	if entering(&st) {
		p.state.Enter(k, Entry{Stamp: st.stamp(), Until: st.Until}, p.held(k), now)
		if p.entries[k] = st; !st.Until.After(now) {
			delete(p.entries, k)
		}
		return st
	}
	st.Until = p.state.Withdraw(k, Tombstone{Stamp: st.Stamp, Node: st.Node, Until: st.Until}, p.held(k), now).Until
	delete(p.entries, k)
	return st
}

func (p *peer) receive(st Statement, sync bool, now time.Time) {
	k := st.Key()
	p.last = max(p.last, st.Stamp)
	switch p.state.Judge(&st, p.held(k).Stamp, sync) {
	case Echo:
		e := p.entries[k]
		e.Stamp, e.Proposed = st.Stamp, 0
		p.entries[k] = e
	case Newer:
		_, held := p.entries[k]
		if st.Kind == Ban && !held && !sync && !p.state.Admit(&st, now) {
			return
		}
		p.apply(st, now)
	}
}

func (p *peer) tick(now time.Time) {
	for k, st := range p.entries {
		if !st.Until.After(now) {
			delete(p.entries, k)
		}
	}
	d := p.state.Tick(now)
	for i := range d.Bans {
		p.receive(d.Bans[i], false, now)
	}
	p.resync = p.resync || d.Resync
}

// read takes n statements of the hub's log.
func (p *peer) read(h *hub, n int, now time.Time) {
	if p.epoch != h.epoch {
		p.epoch, p.place, p.resync = h.epoch, 0, true
	}
	for ; n > 0 && p.place < len(h.log); n-- {
		p.receive(h.log[p.place], false, now)
		p.place++
	}
}

// write announces n statements.
func (p *peer) write(h *hub, n int) {
	n = min(n, len(p.outbox))
	for _, st := range p.outbox[:n] {
		h.accept(st)
	}
	p.outbox = p.outbox[n:]
}

// sync reads all statements of the hub in a random order, and announces those that it lacks: the own ones or, with others,
// all.
func (p *peer) sync(h *hub, others bool, now time.Time, r *rand.Rand) {
	p.resync = false
	held := slices.SortedFunc(maps.Keys(h.states), compareKeys)
	r.Shuffle(len(held), func(i, j int) { held[i], held[j] = held[j], held[i] })
	for _, k := range held {
		p.receive(h.states[k], true, now)
	}
	list := p.state.Withdrawals(func(k Key) bool { _, ok := p.entries[k]; return ok })
	list = slices.AppendSeq(list, maps.Values(p.entries))
	slices.SortFunc(list, func(a, b Statement) int { return cmp.Compare(a.Stamp, b.Stamp) })
	for _, st := range list {
		if known, ok := h.states[st.Key()]; (!ok || known.Stamp < st.Stamp) && (others || st.Node == p.name) {
			p.outbox = append(p.outbox, st)
		}
	}
}

func compareKeys(a, b Key) int {
	return cmp.Or(cmp.Compare(a.Subject, b.Subject), a.Prefix.Compare(b.Prefix))
}

// A world is a hub, its peers, and the latest statement of each key.
type world struct {
	t     *testing.T
	rand  *rand.Rand
	hub   hub
	peers []*peer
	now   time.Time
	said  map[Key]Statement
}

func newWorld(t *testing.T, seed uint64, nodes int, ahead func(int) int64) *world {
	w := &world{
		t: t, rand: rand.New(rand.NewPCG(seed, 1)), now: start, said: make(map[Key]Statement),
		hub: hub{epoch: 1, now: start.UnixMicro(), states: make(map[Key]Statement)},
	}
	for i := range nodes {
		w.peers = append(w.peers, newPeer(fmt.Sprint("node", i), ahead(i)))
	}
	return w
}

// step does one of everything that can happen.
func (w *world) step(what, who, arg byte) {
	w.hub.now += 1000
	p := w.peers[int(who)%len(w.peers)]
	prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{203, 0, 113, arg % 4}), 32)
	switch what % 12 {
	case 0, 1, 2, 3: // a local order
		until := start.Add(time.Duration(1+arg%24) * 24 * time.Hour)
		st := p.order(Kind(what%4), prefix, until, w.now, w.hub.now)
		if old := w.said[st.Key()]; st.stamp().supersedes(old.stamp()) {
			w.said[st.Key()] = st
		}
	case 4, 5:
		p.write(&w.hub, int(arg%8))
	case 6, 7:
		p.read(&w.hub, int(arg%8), w.now)
	case 8: // a part of the log is delivered again, or lost
		if p.place = int(arg) % (len(w.hub.log) + 1); arg%2 == 0 {
			p.resync = true
		}
		p.resync = true
	case 9:
		p.sync(&w.hub, arg%2 == 0, w.now, w.rand)
	case 10:
		p.restart(w.now)
	case 11:
		switch {
		case arg < 64: // the hub restarts empty
			w.hub.epoch++
			w.hub.log, w.hub.states, w.hub.top = nil, make(map[Key]Statement), 0
		default:
			w.now = w.now.Add(time.Minute)
			p.tick(w.now)
		}
	}
}

// settle lets all nodes exchange everything until nothing changes.
func (w *world) settle() {
	for round := range 20 {
		w.hub.now += 1_000_000
		w.now = w.now.Add(resyncPause)
		before, epoch := len(w.hub.log), w.hub.epoch
		for _, p := range w.peers {
			p.read(&w.hub, len(w.hub.log), w.now)
			p.tick(w.now)
			if p.resync || round < 3 {
				p.sync(&w.hub, true, w.now, w.rand)
			}
			p.write(&w.hub, len(p.outbox))
		}
		if round > 3 && len(w.hub.log) == before && w.hub.epoch == epoch {
			return
		}
	}
	w.t.Fatal("the nodes never agree to rest")
}

// agree checks that all nodes and the hub hold the same bans and allowances: with last those of the last writers.
func (w *world) agree(last bool) {
	w.t.Helper()
	want := make(map[Key]Stamp)
	states := w.hub.states
	if last {
		states = w.said
	}
	for k, st := range states {
		if entering(&st) && st.Until.After(w.now) {
			want[k] = st.stamp()
		}
	}
	for _, p := range w.peers {
		got := make(map[Key]Stamp)
		for k, st := range p.entries {
			got[k] = st.stamp()
		}
		if !maps.Equal(got, want) {
			w.t.Errorf("%s holds %v, want %v", p.name, got, want)
		}
		if !maps.Equal(p.shelves, tombstonesOf(p.state)) {
			w.t.Errorf("%s has persisted %v of %v", p.name, p.shelves, tombstonesOf(p.state))
		}
	}
}

func tombstonesOf(s *State) map[Key]Tombstone {
	all := make(map[Key]Tombstone)
	for subject, table := range s.tombstones.entries {
		for p, t := range table {
			all[Key{Subject(subject), p}] = t
		}
	}
	return all
}

func exact(int) int64 { return 0 }

// skewed clocks are up to a minute ahead or behind.
func skewed(i int) int64 { return int64(i-1) * 60_000_000 }

func TestNodesConverge(t *testing.T) {
	for name, c := range map[string]struct {
		ahead func(int) int64
		last  bool
	}{"exact clocks": {exact, true}, "skewed clocks": {skewed, false}} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(500) {
				r := rand.New(rand.NewPCG(seed, 2))
				w := newWorld(t, seed, 2+r.IntN(4), c.ahead)
				for range 20 + r.IntN(200) {
					w.step(byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32()))
				}
				w.settle()
				if w.agree(c.last); t.Failed() {
					t.Fatalf("seed %d", seed)
				}
			}
		})
	}
}

// Without a hub: every node receives every statement at least once, in an order of its own.
func TestTheOrderOfDeliveryDoesNotMatter(t *testing.T) {
	for seed := range uint64(500) {
		w := newWorld(t, seed, 2+int(seed%4), exact)
		var all []Statement
		for i := range 30 {
			w.hub.now += 1000
			p := w.peers[w.rand.IntN(len(w.peers))]
			prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(w.rand.IntN(4))}), 32)
			st := p.order(Kind(w.rand.IntN(4)), prefix, start.Add(time.Duration(1+i)*24*time.Hour), w.now, w.hub.now)
			all = append(all, st)
			if old := w.said[st.Key()]; st.Stamp > old.Stamp {
				w.said[st.Key()] = st
			}
		}
		for _, p := range w.peers {
			list := slices.Concat(all, all[:w.rand.IntN(len(all))])
			w.rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
			for _, st := range list {
				if p.receive(st, false, w.now); w.rand.IntN(10) == 0 {
					p.restart(w.now)
					for _, st := range all { // a resync follows each restart, and brings waiting bans back
						p.receive(st, true, w.now)
					}
				}
			}
		}
		for range 20 {
			w.now = w.now.Add(time.Minute)
			for _, p := range w.peers {
				p.tick(w.now)
			}
		}
		if w.agree(true); t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// A node returns with a long ban after a shorter one, stated in its absence, has expired everywhere.
func TestAnAbsentNodeDoesNotRestoreASupersededBan(t *testing.T) {
	w := newWorld(t, 1, 3, exact)
	a, b, c := w.peers[0], w.peers[1], w.peers[2]
	a.order(Ban, banned, start.Add(20*24*time.Hour), w.now, w.hub.now)
	w.settle()
	w.hub.now += 1_000_000
	b.order(Ban, banned, w.now.Add(time.Hour), w.now, w.hub.now)
	b.write(&w.hub, 1)
	for _, p := range []*peer{b, c} { // a is absent
		p.read(&w.hub, 10, w.now)
	}
	w.now = w.now.Add(2 * time.Hour)
	delete(w.hub.states, key) // Redis removes statements that are over
	for _, p := range []*peer{b, c} {
		p.tick(w.now)
	}
	a.place = len(w.hub.log) // the log was trimmed
	a.sync(&w.hub, true, w.now, w.rand)
	a.write(&w.hub, 1)
	w.settle()
	for _, p := range w.peers {
		if len(p.entries) != 0 {
			t.Errorf("%s holds %v", p.name, p.entries)
		}
	}
}

func FuzzConverge(f *testing.F) {
	f.Add(uint8(0), []byte{0, 0, 1, 4, 0, 7, 6, 1, 7, 1, 1, 1, 4, 1, 7, 10, 0, 0})
	f.Add(uint8(1), []byte{0, 2, 1, 4, 2, 7, 8, 1, 3, 9, 1, 0, 11, 0, 3, 1, 1, 1, 11, 1, 200})
	f.Fuzz(func(t *testing.T, mode uint8, steps []byte) {
		ahead := exact
		if mode%2 == 1 {
			ahead = skewed
		}
		w := newWorld(t, 1, 2+int(mode/2%4), ahead)
		for i := 0; i+2 < min(len(steps), 1000); i += 3 {
			w.step(steps[i], steps[i+1], steps[i+2])
		}
		w.settle()
		w.agree(mode%2 == 0)
	})
}
