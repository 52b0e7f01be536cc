package decide

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"fsban/decide/book"
	"fsban/firewall"
	"fsban/fleet/merge"
	"fsban/ledger"
	"fsban/policy"
)

var (
	convergeFor  = flag.Duration("converge.for", 0, "time for TestNodesConverge; 0: a fixed number of sequences")
	convergeSeed = flag.Uint64("converge.seed", 0, "the only seed of TestNodesConverge")
)

// heldBans is a firewall that holds the bans that were ordered.
type heldBans map[netip.Prefix]time.Time

func (h heldBans) Ban(p netip.Prefix, until time.Time, _ firewall.Cause) { h[p] = until }
func (h heldBans) Unban(p netip.Prefix, _ time.Time)                     { delete(h, p) }
func (h heldBans) Packets() map[netip.Prefix]uint64                      { return nil }

// A subject is a statement's place in the state that Redis holds.
type subject struct {
	known bool
	key   merge.Key
}

func subjectOf(s *merge.Statement) subject { return subject{s.Kind == merge.Known, s.Key()} }

func compareSubjects(a, b subject) int {
	return cmp.Or(cmp.Compare(a.key.Subject, b.key.Subject), a.key.Prefix.Compare(b.key.Prefix), cmp.Compare(fmt.Sprint(a.known), fmt.Sprint(b.known)))
}

// A store is a model of Redis and its script.
type store struct {
	epoch  string
	top    int64
	states map[subject]merge.Statement
	log    []logged
}

// A logged batch is an entry of the log.
type logged struct {
	id   merge.BatchID
	list []merge.Statement
}

func (s *store) clone() store {
	return store{s.epoch, s.top, maps.Clone(s.states), slices.Clone(s.log)}
}

// say takes a batch: no stamp is ahead of the clock, the later statement holds, and one that is over holds against none.
func (s *store) say(b logged, now time.Time) {
	limit := max(now.UnixMicro(), s.top+1)
	var taken []merge.Statement
	for _, st := range b.list {
		if st.Kind == merge.Attempt {
			taken = append(taken, st)
			continue
		}
		if st.Proposed = 0; st.Stamp > limit {
			st.Proposed, st.Stamp = st.Stamp, limit
		}
		old, known := s.states[subjectOf(&st)]
		over := known && !old.Until.IsZero() && !old.Until.After(now)
		if known && !over && old.Stamp >= st.Stamp && old.Stamp <= limit {
			continue
		}
		s.top = max(s.top, st.Stamp)
		s.states[subjectOf(&st)] = st
		taken = append(taken, st)
	}
	for p, st := range s.states {
		if !st.Until.IsZero() && st.Until.Add(time.Minute).Before(now) {
			delete(s.states, p)
		}
	}
	if len(taken) > 0 {
		s.log = append(s.log, logged{b.id, taken})
	}
}

// A member is a node: a loop on a disk, its kernel, and its end of the fleet.
type member struct {
	*night
	*mailbox
	name      string
	kernel    heldBans
	connected bool
	process   merge.BatchID // the latest batch of this process
	batches   merge.Batches
	place     merge.Place // in the log
	counted   merge.Place // where its earlier process had read the log to
	failovers int         // that it knows
	resync    bool
	seen      map[failureID]int // how often failures of other nodes were counted
}

// A failureID identifies a failure.
type failureID struct {
	node string
	at   int64
}

func (m *member) Resync() { m.resync = true }

func (m *member) start() {
	m.fleet.node = m.name
	m.book.SetNode(m.name)
	o := m.settings
	o.Policy.Seed = 1
	m.engine.SetRules(o.Rules, o.Policy)
	m.Join(m)
	m.process = merge.BatchID{Node: m.name, Instance: m.process.Instance + "'"}
	m.batches, m.announced, m.resync = merge.Batches{}, nil, true
}

func (m *member) stop() {
	m.Tick(m.now)
	if err := errors.Join(m.ledger.Flush(), m.ledger.Close()); err != nil {
		m.t.Fatal(err)
	}
}

func (m *member) write(s *store) {
	latest := make(map[subject]int64)
	for i := range m.announced {
		if st := &m.announced[i]; st.Kind != merge.Attempt {
			latest[subjectOf(st)] = max(latest[subjectOf(st)], st.Stamp)
		}
	}
	var list []merge.Statement
	for _, st := range m.announced {
		if st.Kind == merge.Attempt || st.Stamp == latest[subjectOf(&st)] {
			list = append(list, st)
		}
	}
	m.announced = nil
	if len(list) > 0 {
		m.process.Counter++
		s.say(logged{m.process, list}, m.now)
	}
}

func (m *member) see(list []merge.Statement) {
	for i := range list {
		m.last = max(m.last, list[i].Stamp)
	}
}

// read reads the log, and all of the state before where that is due.
func (m *member) read(s *store, failovers int, others bool) {
	if m.failovers != failovers || m.place.Epoch != s.epoch {
		m.failovers, m.resync = failovers, true
		if m.place.Epoch == s.epoch && !m.batches.Any() {
			m.place.Seq = uint64(len(s.log)) // it went back while the node was down
			m.counted = m.place
		} else {
			m.place = merge.Place{Epoch: s.epoch}
			m.counted.Seq = min(m.counted.Seq, uint64(len(s.log)))
		}
	}
	if m.resync {
		m.resync = false
		m.sync(s, others)
	}
	for ; m.place.Seq < uint64(len(s.log)); m.place.Seq++ {
		b := s.log[m.place.Seq]
		counted := m.counted.Epoch == s.epoch && m.place.Seq < m.counted.Seq
		again := b.id.Node == m.name || m.batches.Again(b.id, counted)
		var list []merge.Statement
		for _, st := range b.list {
			if st.Kind == merge.Attempt && again {
				continue
			}
			if st.Kind == merge.Attempt {
				m.seen[failureID{st.Node, st.Attempt.At.UnixMicro()}]++
				st.Attempt.Source = policy.Fleet
			}
			list = append(list, st)
		}
		m.see(list)
		m.takeBatch(&merge.Batch{Statements: list, Place: merge.Place{Epoch: s.epoch, Seq: m.place.Seq + 1}}, m.now)
	}
}

func (m *member) sync(s *store, others bool) {
	var list []merge.Statement
	for _, p := range slices.SortedFunc(maps.Keys(s.states), compareSubjects) {
		list = append(list, s.states[p])
	}
	m.see(list)
	m.takeBatch(&merge.Batch{Statements: list, Sync: true}, m.now)
	for _, st := range m.current() {
		old, known := s.states[subjectOf(&st)]
		over := known && !old.Until.IsZero() && !old.Until.After(m.now)
		if (!known || over || old.Stamp < st.Stamp) && (others || st.Node == m.name) {
			m.Announce(st)
		}
	}
}

// current is Current without the loop's goroutine.
func (m *member) current() []merge.Statement {
	list := m.book.Statements()
	for _, b := range m.ledger.List() {
		if s, ok := m.book.Statement(&b, m.now); ok {
			list = append(list, s)
		}
	}
	for g := range m.engine.AllKnownGood() {
		if !g.Since.IsZero() && g.Suspected.IsZero() {
			list = append(list, m.statementOfKnown(&g))
		}
	}
	slices.SortFunc(list, func(a, b merge.Statement) int { return compareSubjects(subjectOf(&a), subjectOf(&b)) })
	return list
}

// An order is the latest of an operator about a prefix, for the whole fleet.
type order struct {
	stamp int64
	at    time.Time
	ban   bool
	until time.Time
	old   ledger.Ban // that it replaced
	by    *member
}

// A world is three members, a Redis and its replica.
type world struct {
	t         *testing.T
	rand      *rand.Rand
	now       time.Time
	members   []*member
	store     store
	replica   store
	failovers int
	orders    map[netip.Prefix]order
	local     map[netip.Prefix]bool // an order with --local was given
	trace     []string
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{t: t, rand: rand.New(rand.NewPCG(seed, 15)), now: time.Now(), orders: make(map[netip.Prefix]order), local: make(map[netip.Prefix]bool)}
	w.store = store{epoch: "1", states: make(map[subject]merge.Statement)}
	w.replica = w.store.clone()
	for _, name := range []string{"a-1", "b-1", "c-1"} {
		m := &member{name: name, kernel: make(heldBans), connected: true, seen: make(map[failureID]int)}
		m.night = newNight(t, func(o *Options) { o.Settings.ShareFailures, o.Firewall = true, m.kernel })
		m.mailbox = &mailbox{n: m.night}
		m.start()
		w.members = append(w.members, m)
	}
	w.pass(0)
	return w
}

func (w *world) close() {
	for _, m := range w.members {
		if err := m.ledger.Close(); err != nil {
			w.t.Error(err)
		}
	}
}

func (w *world) log(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf("%8v ", w.now.Sub(w.members[0].started).Round(time.Millisecond))+fmt.Sprintf(format, args...))
}

func (w *world) pass(d time.Duration) {
	w.now = w.now.Add(d)
	for _, m := range w.members {
		m.now = w.now
		m.Tick(w.now)
		maps.DeleteFunc(m.kernel, func(_ netip.Prefix, until time.Time) bool { return !until.IsZero() && !until.After(w.now) })
	}
}

// exchange lets the connected members write and read, in a random order.
func (w *world) exchange(others bool) {
	for _, i := range w.rand.Perm(len(w.members)) {
		if m := w.members[i]; m.connected {
			if m.read(&w.store, w.failovers, others); w.rand.IntN(4) > 0 || others {
				m.write(&w.store)
			}
		}
	}
}

// order gives an order of an operator.
func (w *world) order(m *member, p netip.Prefix) {
	local := w.rand.IntN(12) == 0
	w.local[p] = w.local[p] || local
	if b, held := m.book.Covering(p); held && w.rand.IntN(2) == 0 {
		w.log("%s unban %v local %v", m.name, p, local)
		if local {
			m.book.Unban(b, book.Order{By: "anna", Local: true})
			return
		}
		m.book.Unban(b, book.Order{By: "anna"})
		w.orders[p] = order{stamp: m.last, at: w.now, by: m}
		return
	}
	old, _ := m.ledger.Get(p)
	b := ledger.Ban{Prefix: p, Since: w.now, Rule: book.RuleOperator, Source: policy.Operator, By: "anna", Local: local}
	if length := []time.Duration{0, time.Minute, 10 * time.Minute, 10 * time.Hour}[w.rand.IntN(4)]; length > 0 {
		b.Until = w.now.Add(length)
	}
	w.log("%s ban %v until %v local %v", m.name, p, b.Until, local)
	if err := m.book.Ban(book.Entry{Ban: b, Origin: book.ByOperator, Force: true, Cause: firewall.Cause{Read: w.now}}); err != nil {
		w.t.Fatal(err)
	}
	if !local {
		w.orders[p] = order{m.last, w.now, true, b.Until, old, m}
	}
}

// loseState gives m an empty disk, and with that another name. The orders that were given there may be lost.
func (w *world) loseState(m *member) {
	w.log("   without its state, and joins anew")
	m.name += "x"
	m.path = filepath.Join(w.t.TempDir(), "fsban.db")
	m.place, m.last = merge.Place{}, 0
	clear(m.kernel)
	clear(m.seen)
	maps.DeleteFunc(w.orders, func(_ netip.Prefix, o order) bool { return o.by == m })
}

// step does one of everything that can happen.
func (w *world) step() {
	w.now = w.now.Add(50 * time.Millisecond)
	for _, m := range w.members {
		m.now = w.now
	}
	m := w.members[w.rand.IntN(len(w.members))]
	addr := netip.AddrFrom4([4]byte{198, 51, 100, byte(w.rand.IntN(3))})
	switch w.rand.IntN(14) {
	case 0, 1, 2:
		w.order(m, netip.PrefixFrom(addr, 32))
	case 3, 4:
		n := 1 + w.rand.IntN(6)
		w.log("%s %d failures of %v", m.name, n, addr)
		for range n {
			m.try(policy.AuthFailure, addr, "1000")
		}
		w.now = w.now.Add(time.Duration(10*n) * time.Millisecond)
	case 5:
		if w.rand.IntN(2) == 0 {
			w.log("%s a login from %v", m.name, addr)
			m.try(policy.AuthSuccess, addr, "1000")
			w.now = w.now.Add(10 * time.Millisecond)
			return
		}
		m.connected = !m.connected
		w.log("%s connected: %v", m.name, m.connected)
	case 6:
		w.log("%s restarts", m.name)
		unsaid := len(m.announced)
		m.stop()
		if w.rand.IntN(4) == 0 {
			w.loseState(m)
		}
		m.open()
		m.start()
		m.counted = m.place
		w.log("   with %d statements not announced", unsaid)
	case 7:
		w.replica = w.store.clone()
		w.log("the replica has %d entries", len(w.store.log))
	case 8:
		w.failovers++
		w.store = w.replica.clone()
		w.log("fail-over to %d entries", len(w.store.log))
	case 9:
		if w.rand.IntN(4) == 0 {
			w.failovers++
			w.store = store{epoch: w.store.epoch + "'", states: make(map[subject]merge.Statement)}
			w.replica = w.store.clone()
			w.log("Redis is empty")
		}
	case 10, 11:
		w.exchange(false)
		w.log("exchange")
	default:
		d := []time.Duration{time.Second, 5 * time.Second, 30 * time.Second, 2 * time.Minute}[w.rand.IntN(4)]
		w.pass(d)
		w.log("%v later", d)
	}
}

// settle connects all members until nothing changes any more.
func (w *world) settle() {
	for _, m := range w.members {
		m.connected = true
	}
	w.log("all are connected")
	for round := range 30 {
		w.pass(30 * time.Second)
		before := len(w.store.log)
		for _, m := range w.members {
			m.resync = m.resync || round < 3
		}
		w.exchange(true)
		unsaid := 0
		for _, m := range w.members {
			unsaid += len(m.announced)
		}
		if round > 12 && len(w.store.log) == before && unsaid == 0 { // a resync is due at most every five minutes
			return
		}
	}
	w.t.Error("the members never agree to rest")
}

// agree checks that ledger, kernel and list are the same on each member, and on all of them, and that the operators' latest orders
// hold. A ban that is over says nothing of an older, longer one that its node did not know.
func (w *world) agree() {
	type inForce struct {
		until int64
		rule  string
		stamp int64
	}
	var lists []map[netip.Prefix]inForce
	for _, m := range w.members {
		list := make(map[netip.Prefix]inForce)
		ends := make(map[netip.Prefix]int64)
		for _, b := range m.ledger.List() {
			if ends[b.Prefix] = b.Until.UnixMilli(); !w.local[b.Prefix] {
				list[b.Prefix] = inForce{b.Until.UnixMilli(), b.Rule, b.Stamp}
			}
		}
		for p, until := range m.kernel {
			if ends[p] != until.UnixMilli() {
				w.t.Errorf("%s: %v in the kernel until %v", m.name, p, until)
			}
			delete(ends, p)
		}
		if len(ends) > 0 {
			w.t.Errorf("%s: in the ledger, not in the kernel: %v", m.name, ends)
		}
		lists = append(lists, list)
		w.checkOrders(m)
		for id, n := range m.seen {
			if n > 1 {
				w.t.Errorf("%s counts a failure at %s %d times", m.name, id.node, n)
			}
		}
	}
	for i, list := range lists[1:] {
		if !maps.Equal(list, lists[0]) {
			w.t.Errorf("%s holds %+v, %s %+v", w.members[0].name, lists[0], w.members[i+1].name, list)
		}
	}
}

// checkOrders checks that the operators' latest orders hold on m.
func (w *world) checkOrders(m *member) {
	for p, o := range w.orders {
		if w.local[p] {
			continue
		}
		b, held := m.ledger.Get(p)
		switch over := !o.until.IsZero() && !o.until.After(w.now); {
		case o.ban && !over && (!held || b.Rule != book.RuleOperator || b.Until.UnixMilli() != o.until.UnixMilli()):
			w.t.Errorf("%s: %v is banned by order until %v; held: %v %+v", m.name, p, o.until, held, b)
		case !o.ban && held && (b.Rule == book.RuleOperator || !b.Since.After(o.at)), over && held && b.Stamp == o.old.Stamp && b.Stamp != 0:
			w.t.Errorf("%s: the ban of %v ended by the order of %v; held: %+v", m.name, p, o.at, b)
		}
	}
}

// Three nodes that fail, restart, lose their connection and Redis the end of its log hold the same bans in the end: those of the
// operators' latest orders, and of rules where there is none.
func TestNodesConverge(t *testing.T) {
	began, first, n := time.Now(), uint64(1), uint64(30)
	if *convergeSeed != 0 {
		first, n = *convergeSeed, 1
	}
	done := uint64(0)
	for ; done < n || time.Since(began) < *convergeFor; done++ {
		seed := first + done
		w := newWorld(t, seed)
		for range 20 + w.rand.IntN(80) {
			w.step()
		}
		w.settle()
		w.agree()
		w.close()
		if t.Failed() {
			for _, line := range w.trace {
				t.Log(line)
			}
			t.Fatalf("seed %d: repeat it with -converge.seed", seed)
		}
	}
	t.Logf("%d sequences from seed %d", done, first)
}
