package merge

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

var (
	start  = time.Unix(1_800_000_000, 0) // the beginning of a minute
	banned = netip.MustParsePrefix("203.0.113.66/32")
	key    = Key{Bans, banned}
)

func at(micros int64, node string) Statement {
	return Statement{Kind: Ban, Prefix: banned, Stamp: micros, Node: node, Rule: "auth", Since: start, Until: start.Add(time.Hour)}
}

func as(what Kind, st Statement) *Statement {
	st.Kind = what
	return &st
}

func stamp(micros int64, node string) Stamp { return Stamp{micros, node} }

func TestTheLaterStampSupersedes(t *testing.T) {
	for name, c := range map[string]struct {
		known func(*State) (held Stamp)
		st    Statement
		sync  bool
		want  Verdict
	}{
		"nothing is known":                  {func(*State) Stamp { return Stamp{} }, at(1, "b"), false, Newer},
		"later than the held ban":           {func(*State) Stamp { return stamp(5, "c") }, at(6, "b"), false, Newer},
		"earlier than the held ban":         {func(*State) Stamp { return stamp(5, "c") }, at(4, "b"), false, Stale},
		"the held ban":                      {func(*State) Stamp { return stamp(5, "b") }, at(5, "b"), false, Stale},
		"the same microsecond, Redis chose": {func(*State) Stamp { return stamp(5, "a") }, at(5, "b"), false, Newer},
		"later than the tombstone":          {withdrawn(5, "c"), at(6, "b"), false, Newer},
		"earlier than the tombstone":        {withdrawn(5, "c"), at(4, "b"), false, Stale},
		"later than the ban that waits":     {waits(5), at(6, "b"), false, Newer},
		"earlier than the ban that waits":   {waits(5), at(4, "b"), false, Stale},
		"an unban before the ban that waits": {
			waits(5), *as(Unban, at(4, "b")), false, Stale,
		},
		"own, an older one":              {entered(5, "a"), corrected(4, 4, "a"), false, Stale},
		"own, Redis chose an earlier":    {entered(5, "a"), corrected(4, 5, "a"), false, Echo},
		"own, an older one, corrected":   {entered(6, "a"), corrected(4, 5, "a"), false, Stale},
		"own, corrected in Redis' state": {entered(5, "a"), corrected(4, 5, "a"), true, Echo},
		"another node's, corrected":      {entered(5, "b"), corrected(4, 5, "b"), false, Echo},
		"of two nodes":                   {entered(5, "b"), corrected(4, 5, "c"), false, Stale},
		"own, of a state lost here":      {func(*State) Stamp { return Stamp{} }, at(4, "a"), true, Newer},
		"own, but another node's holds":  {entered(5, "b"), at(4, "a"), false, Stale},
		"an allowance knows no bans":     {entered(5, "b"), *as(Allow, at(1, "b")), false, Newer},
		"a disallowance knows no unbans": {withdrawn(5, "c"), *as(Disallow, at(1, "b")), false, Newer},
	} {
		t.Run(name, func(t *testing.T) {
			s := New(Options{Node: "a"})
			held := c.known(s)
			if c.st.Key() != key {
				held = Stamp{}
			}
			if got := s.Judge(&c.st, held, c.sync); got != c.want {
				t.Errorf("verdict %d, want %d", got, c.want)
			}
		})
	}
}

func corrected(micros, proposed int64, node string) Statement {
	st := at(micros, node)
	st.Proposed = proposed
	return st
}

func entered(micros int64, node string) func(*State) Stamp {
	return func(s *State) Stamp {
		s.Enter(key, Entry{Stamp: stamp(micros, node), Until: start.Add(time.Hour)}, Entry{}, start)
		return stamp(micros, node)
	}
}

func withdrawn(micros int64, node string) func(*State) Stamp {
	return func(s *State) Stamp {
		s.Withdraw(key, Tombstone{Stamp: micros, Node: node, Until: start.Add(time.Hour)}, Entry{}, start)
		return Stamp{}
	}
}

// waits admits a ban of node c that waits for the rate.
func waits(micros int64) func(*State) Stamp {
	return func(s *State) Stamp {
		s.SetRate(1)
		for i := range RatePerNode {
			st := at(1, "c")
			st.Prefix = netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), 32)
			s.Admit(&st, start)
		}
		st := at(micros, "c")
		if s.Admit(&st, start) {
			panic("the ban does not wait")
		}
		return Stamp{}
	}
}

// Redis accepts no stamp ahead of its clock, and returns the statement with another: on all nodes that one holds.
func TestAnEchoCorrectsATombstone(t *testing.T) {
	var kept *Tombstone
	s := New(Options{Node: "a", Keep: func(_ Key, t *Tombstone) { kept = t }})
	s.Withdraw(key, Tombstone{Stamp: 200, Node: "a", Until: start.Add(time.Hour)}, Entry{}, start)
	own, other := corrected(180, 200, "a"), at(190, "b")
	if got := s.Judge(as(Unban, own), Stamp{}, false); got != Stale || kept == nil || kept.Stamp != 180 {
		t.Errorf("verdict %d of a corrected unban, persisted %+v", got, kept)
	}
	if got := s.Judge(&other, Stamp{}, false); got != Newer {
		t.Errorf("verdict %d of a ban after it", got)
	}
}

// A tombstone that remains under a shorter ban has the stamp of that ban, also when Redis chooses another.
func TestAnEchoCorrectsTheTombstoneUnderABan(t *testing.T) {
	s := New(Options{Node: "a"})
	long := Entry{Stamp: stamp(50, "b"), Until: start.Add(24 * time.Hour)}
	s.Enter(key, Entry{Stamp: stamp(100, "a"), Until: start.Add(time.Hour)}, long, start)
	own, other := corrected(80, 100, "a"), at(90, "b")
	if got := s.Judge(&own, stamp(100, "a"), false); got != Echo {
		t.Fatalf("verdict %d", got)
	}
	if tomb, ok := s.Tombstone(key); !ok || tomb.Stamp != 80 {
		t.Errorf("tombstone %+v, %v", tomb, ok)
	}
	if got := s.Judge(&other, stamp(80, "a"), false); got != Newer {
		t.Errorf("verdict %d of a later ban", got)
	}
}

// Other nodes, or a node that was unreachable, may still hold an entry that a shorter one has superseded.
func TestAShorterEntryDoesNotBringBackALongerOne(t *testing.T) {
	day, hour := start.Add(24*time.Hour), start.Add(time.Hour)
	held := Entry{Stamp: stamp(5, "b"), Until: day}
	for name, c := range map[string]struct {
		before func(*State)
		held   Entry
		until  time.Time
		local  bool
		want   bool // a tombstone remains
	}{
		"nothing before":           {func(*State) {}, Entry{}, hour, false, false},
		"longer before":            {func(*State) {}, held, hour, false, true},
		"without end before":       {func(*State) {}, Entry{Stamp: stamp(5, "b")}, hour, false, true},
		"shorter before":           {func(*State) {}, Entry{Stamp: stamp(5, "b"), Until: hour}, day, false, false},
		"longer, but only here":    {func(*State) {}, Entry{Stamp: stamp(5, "a"), Until: day, Local: true}, hour, false, false},
		"longer, withdrawn before": {func(s *State) { s.Withdraw(key, Tombstone{Stamp: 7, Node: "b", Until: day}, held, start) }, Entry{}, hour, false, true},
		"shorter, withdrawn":       {func(s *State) { s.Withdraw(key, Tombstone{Stamp: 7, Node: "b", Until: hour}, Entry{}, start) }, Entry{}, day, false, false},
		"without end now":          {func(*State) {}, held, time.Time{}, false, false},
		"here only, longer before": {func(*State) {}, held, hour, true, true},
		"over already":             {func(*State) {}, held, start.Add(-time.Second), false, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := New(Options{Node: "a"})
			c.before(s)
			s.Enter(key, Entry{Stamp: stamp(10, "b"), Until: c.until, Local: c.local}, c.held, start)
			tomb, ok := s.Tombstone(key)
			if ok != c.want || ok && (tomb.Stamp != 10 || tomb.Local != c.local) {
				t.Errorf("tombstone %+v, %v", tomb, ok)
			}
			if !c.want {
				return
			}
			old := at(8, "c")
			if got := s.Judge(&old, Stamp{}, true); got != Stale {
				t.Errorf("verdict %d of the longer ban after the end of the shorter one", got)
			}
			never := func(Key) bool { return false }
			if list := s.Withdrawals(never); len(list) != 0 == c.local {
				t.Errorf("withdrawals %+v", list)
			}
			if list := s.Withdrawals(func(k Key) bool { return k == key }); len(list) != 0 {
				t.Errorf("withdrawals while the ban is in force: %+v", list)
			}
		})
	}
}

func TestALostTombstoneIsRestored(t *testing.T) {
	s := New(Options{Node: "a"})
	s.Withdraw(key, Tombstone{Stamp: 7, Node: "b", Until: start.Add(time.Hour)}, Entry{}, start)
	old := at(5, "c")
	if s.Judge(&old, Stamp{}, true); s.Tick(start).Resync {
		t.Error("a resync is due for what a resync has read")
	}
	if s.Judge(&old, Stamp{}, false); !s.Tick(start).Resync {
		t.Error("no resync is due")
	}
	s.Judge(&old, Stamp{}, false)
	if s.Tick(start.Add(resyncPause - time.Second)).Resync {
		t.Error("another resync is due at once")
	}
	if !s.Tick(start.Add(resyncPause)).Resync {
		t.Error("no resync is due after the pause")
	}
}

func TestTombstonesAreBoundedAndExpire(t *testing.T) {
	kept := make(map[Key]Tombstone)
	keep := func(k Key, t *Tombstone) {
		if delete(kept, k); t != nil {
			kept[k] = *t
		}
	}
	s := New(Options{Node: "a", Keep: keep})
	s.tombstones.limit = 20
	for _, subject := range []Subject{Bans, Allowances} {
		for i := range 25 {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), 32)
			until := start.Add(time.Duration(100-i) * time.Minute)
			s.Withdraw(Key{subject, p}, Tombstone{Stamp: 1, Node: "b", Until: until}, Entry{}, start)
			if n := len(s.tombstones.entries[subject]); n > 20 {
				t.Fatalf("%d tombstones", n)
			}
		}
		first := netip.MustParsePrefix("198.51.100.0/32")
		if _, ok := s.Tombstone(Key{subject, first}); !ok {
			t.Error("the tombstone that expires last was evicted")
		}
	}
	if st := s.Stats(); st.Evicted == 0 || st.Tombstones != len(kept) || st.Tombstones+int(st.Evicted) != 50 {
		t.Errorf("%+v, %d persisted", st, len(kept))
	}
	again := New(Options{Node: "a"})
	for k, tomb := range kept {
		if !again.Load(k, tomb, start) {
			t.Errorf("%v does not load", k)
		}
	}
	if st := again.Stats(); st.Tombstones != len(kept) {
		t.Errorf("%d tombstones loaded of %d", st.Tombstones, len(kept))
	}
	s.Tick(start.Add(98 * time.Minute))
	if len(kept) != 4 { // 99 and 100 minutes, of both subjects
		t.Errorf("%d tombstones before the last end", len(kept))
	}
	s.Tick(start.Add(100 * time.Minute))
	if st := s.Stats(); st.Tombstones != 0 || len(kept) != 0 {
		t.Errorf("%+v, %d persisted after the last end", st, len(kept))
	}
}

func TestLoadRefusesInvalidTombstones(t *testing.T) {
	s := New(Options{Node: "a", Keep: func(Key, *Tombstone) { t.Error("Load writes") }})
	s.tombstones.limit = 2
	good := Tombstone{Prefix: banned, Stamp: 5, Node: "b", Until: start.Add(time.Hour)}
	for name, c := range map[string]struct {
		key  Key
		t    func(*Tombstone)
		want bool
	}{
		"good":       {key, func(*Tombstone) {}, true},
		"no prefix":  {Key{}, func(*Tombstone) {}, false},
		"no stamp":   {key, func(t *Tombstone) { t.Stamp = 0 }, false},
		"over":       {key, func(t *Tombstone) { t.Until = start }, false},
		"far future": {key, func(t *Tombstone) { t.Until = start.Add(1000 * maxTombstoneAge) }, true},
	} {
		tomb := good
		c.t(&tomb)
		if got := s.Load(c.key, tomb, start); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	s.tombstones.remove(Key{Allowances, banned})
	for i := range 5 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), 32)
		s.Load(Key{Bans, p}, good, start)
	}
	if tomb, _ := s.Tombstone(key); s.Stats().Tombstones != 2 || tomb.Until.After(start.Add(maxTombstoneAge)) {
		t.Errorf("%+v, %+v", s.Stats(), tomb)
	}
}

// A node that withdraws more than the table holds, each for as long as possible, evicts no withdrawal of this node, however soon
// that ends. Beyond that the table is bounded by its own.
func TestAnotherNodeEvictsNoOwnWithdrawal(t *testing.T) {
	s := New(Options{Node: "a"})
	s.tombstones.limit = 20
	withdraw := func(i int, node string, left time.Duration) {
		k := Key{Bans, remote(i, node).Prefix}
		s.Withdraw(k, Tombstone{Stamp: int64(i + 1), Node: node, Until: start.Add(left)}, Entry{}, start)
	}
	own := func() (n int) {
		for _, t := range s.tombstones.entries[Bans] {
			if t.Node == "a" {
				n++
			}
		}
		return n
	}
	for i := range 15 {
		withdraw(i, "a", time.Minute)
	}
	for i := range 100 {
		withdraw(100+i, "b", maxTombstoneAge)
	}
	if own() != 15 || s.Stats().Tombstones > 20 {
		t.Errorf("%d of 15 are left, %d in all", own(), s.Stats().Tombstones)
	}
	for i := range 100 {
		withdraw(1000+i, "a", time.Hour)
	}
	if n := s.Stats().Tombstones; n > 20 || own() != n {
		t.Errorf("%d of %d are its own", own(), n)
	}
}

// A host without a battery starts with a clock that is years behind. Its withdrawals hold as long as they were to, once the clock
// is set.
func TestALoadedTombstoneOutlivesAClockThatIsBehind(t *testing.T) {
	for _, behind := range []time.Duration{0, time.Hour, 40 * 24 * time.Hour, 40 * 365 * 24 * time.Hour} {
		s := New(Options{Node: "a"})
		until := start.Add(maxTombstoneAge)
		if !s.Load(key, Tombstone{Stamp: start.UnixMicro(), Node: "a", Until: until}, start.Add(-behind)) {
			t.Fatal("not loaded")
		}
		s.Tick(until.Add(-time.Second))
		if tomb, ok := s.Tombstone(key); !ok || !tomb.Until.Equal(until) {
			t.Errorf("%v behind: %+v, %v", behind, tomb, ok)
		}
		if s.Tick(until.Add(time.Minute)); s.Stats().Tombstones != 0 {
			t.Errorf("%v behind: it never ends", behind)
		}
	}
}

func remote(i int, node string) *Statement {
	st := at(int64(i+1), node)
	st.Prefix = netip.PrefixFrom(netip.AddrFrom4([4]byte{100, 64, byte(i >> 8), byte(i)}), 32)
	return &st
}

func TestBansBeyondTheirRateWait(t *testing.T) {
	s := New(Options{Node: "a"})
	s.SetRate(3)
	for i := range 10 {
		if got, want := s.Admit(remote(i, "b"), start), i < 3*RatePerNode; got != want {
			t.Errorf("ban %d: admitted %v", i, got)
		}
	}
	if !s.Admit(remote(100, "c"), start) || !s.Admit(remote(101, "a"), start) {
		t.Error("the rate of one node puts off others")
	}
	if d := s.Tick(start.Add(59 * time.Second)); len(d.Bans) != 0 || s.Waiting() != 4 {
		t.Errorf("%d due within the minute, %d wait", len(d.Bans), s.Waiting())
	}
	next := start.Add(time.Minute)
	for i := range 5 { // they arrive before the tick
		s.Admit(remote(200+i, "b"), next)
	}
	d := s.Tick(next)
	if len(d.Bans) != 1 || d.Bans[0].Prefix != remote(6, "b").Prefix || !s.Admit(&d.Bans[0], next) {
		t.Errorf("due in the next minute: %v", d.Bans)
	}
	d = s.Tick(next.Add(time.Minute))
	if len(d.Bans) != 3 || s.Waiting() != 0 {
		t.Errorf("due in the minute after: %v, %d wait", d.Bans, s.Waiting())
	}
	for i := range d.Bans {
		if d.Bans[i].Prefix != remote(7+i, "b").Prefix || !s.Admit(&d.Bans[i], next.Add(time.Minute)) {
			t.Errorf("due as number %d: %v", i, d.Bans[i].Prefix)
		}
	}
}

func TestAllNodesTogetherHaveARate(t *testing.T) {
	s := New(Options{Node: "a"})
	s.SetRate(1)
	admitted := 0
	for i := range 100 {
		if s.Admit(remote(i, fmt.Sprint("node", i)), start) {
			admitted++
		}
	}
	if admitted != RateTotal || s.Waiting() != 100-RateTotal {
		t.Errorf("%d admitted, %d wait", admitted, s.Waiting())
	}
	s.SetRate(0)
	if d := s.Tick(start.Add(time.Minute)); len(d.Bans) != 100-RateTotal {
		t.Errorf("%d due without a rate", len(d.Bans))
	}
}

func TestTheWaitingListIsBounded(t *testing.T) {
	s := New(Options{Node: "a"})
	s.SetRate(1)
	for i := range maxWaiting + 100 {
		s.Admit(remote(i, "b"), start)
		if i%2 == 0 { // withdrawn again and again
			unban := remote(0, "b")
			unban.Stamp = int64(i + 10)
			s.Judge(as(Unban, *unban), Stamp{}, false)
			s.Withdraw(unban.Key(), Tombstone{Stamp: unban.Stamp, Node: "b", Until: unban.Until}, Entry{}, start)
		}
	}
	st := s.Stats()
	if st.Waiting != maxWaiting || st.Dropped != 100-RatePerNode {
		t.Errorf("%+v", st)
	}
	if s.Tick(start).Resync {
		t.Error("a resync is due while bans wait: it would pass the rate")
	}
	s.SetRate(0)
	s.Tick(start.Add(time.Minute))
	if !s.Tick(start.Add(time.Minute + time.Second)).Resync {
		t.Error("no resync is due for the bans that found no room")
	}
}

func TestUnannouncedBansAreDueUnlessAnotherNodeAnnounces(t *testing.T) {
	s := New(Options{Node: "a"})
	mine, theirs, lifted := remote(1, "a"), remote(2, "b"), remote(3, "b")
	for _, st := range []*Statement{mine, theirs, lifted} {
		if !s.AnnounceLater(st.Prefix, start.Add(2*time.Second)) {
			t.Fatal("no room")
		}
	}
	s.Enter(theirs.Key(), Entry{Stamp: theirs.stamp(), Until: theirs.Until}, Entry{}, start)
	s.Withdraw(lifted.Key(), Tombstone{Stamp: 9, Node: "b"}, Entry{}, start)
	if d := s.Tick(start.Add(time.Second)); len(d.Announce) != 0 {
		t.Errorf("due at once: %v", d.Announce)
	}
	if d := s.Tick(start.Add(2 * time.Second)); len(d.Announce) != 1 || d.Announce[0] != mine.Prefix {
		t.Errorf("due: %v", d.Announce)
	}
	if d := s.Tick(start.Add(3 * time.Second)); len(d.Announce) != 0 {
		t.Errorf("due again: %v", d.Announce)
	}
	for i := range maxUnannounced {
		addr := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		s.AnnounceLater(netip.PrefixFrom(addr, 32), start)
	}
	if s.AnnounceLater(mine.Prefix, start) {
		t.Error("room beyond the bound")
	}
}

func TestANewerStatementReplacesTheBanThatWaits(t *testing.T) {
	s := New(Options{Node: "a"})
	waits(5)(s)
	later := at(6, "c")
	later.Until = start.Add(2 * time.Hour)
	if s.Judge(&later, Stamp{}, false) != Newer || s.Admit(&later, start) || s.Waiting() != 1 {
		t.Errorf("%d wait", s.Waiting())
	}
	if d := s.Tick(start.Add(time.Minute)); len(d.Bans) != 1 || !d.Bans[0].Until.Equal(later.Until) {
		t.Errorf("due: %+v", d.Bans)
	}
	waits(7)(s)
	s.Withdraw(key, Tombstone{Stamp: 8, Node: "c", Until: start.Add(time.Hour)}, Entry{}, start)
	if s.Waiting() != 0 {
		t.Errorf("%d wait after the withdrawal", s.Waiting())
	}
}

func TestATombstoneLastsAsLongAsAnyEntryThatItWithdraws(t *testing.T) {
	hour, day := start.Add(time.Hour), start.Add(24*time.Hour)
	for name, c := range map[string]struct {
		said, held time.Time
		local      bool
		want       time.Time
	}{
		"as stated":              {day, hour, false, day},
		"the held one is longer": {hour, day, false, day},
		"but nobody knows that":  {hour, day, true, hour},
		"without end":            {time.Time{}, hour, false, start.Add(maxTombstoneAge)},
		"the held without end":   {hour, time.Time{}, false, start.Add(maxTombstoneAge)},
		"in a hundred years":     {start.Add(1000 * maxTombstoneAge), hour, false, start.Add(maxTombstoneAge)},
	} {
		s := New(Options{Node: "a"})
		held := Entry{Stamp: stamp(5, "a"), Until: c.held, Local: c.local}
		if got := s.Withdraw(key, Tombstone{Stamp: 6, Node: "b", Until: c.said}, held, start); !got.Until.Equal(c.want) || got.Prefix != banned {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
