package decide

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"fsban/ctilog"
	"fsban/decide/book"
	"fsban/detect"
	"fsban/firewall"
	"fsban/ledger"
	"fsban/policy"
)

// The journal holds the attempts that count, and sealed with them how far mod_cti's log and the fleet's log were read and which
// reports other sources may still repeat. So the next process resumes from exactly there: attempts count on, and none counts
// twice, whether this one ended in order or was killed.

// resume is how far the loop has come, for the next process.
type resume struct {
	log     LogPosition
	lines   detect.LineTail // of mod_cti's log
	changed bool            // since the journal was sealed
	sealed  []byte          // the state sealed last
	sealAt  time.Time       // time of that seal
	ahead   time.Duration   // how far the clock was set forward since attempts in the journal
	swept   time.Time       // last sweep of the shelves
}

// A LogPosition is how far mod_cti's log has been counted.
type LogPosition struct {
	ctilog.Position
	At    time.Time `json:"at"`             // time of the newest line
	Clock time.Time `json:"clock,omitzero"` // the same by FreeSWITCH's clock
}

// taken is the time before which all lines count as taken if the position is lost, by FreeSWITCH's clock.
func (p *LogPosition) taken() time.Time { return p.Clock.Add(-detect.Slack) }

// advanceLog notes that a line was decided on, or passed over if it has no address. When mod_cti's log was replaced, it seals at
// once: the file of the last seal may be deleted.
func (l *Loop) advanceLog(q *queued) {
	r := &l.resume
	replaced := q.next.File.Ino != r.log.File.Ino
	r.log.Position, r.changed = q.next, true
	if q.Addr.IsValid() {
		r.lines.Add(detect.LineMark{Addr: q.Addr, At: q.SwitchTime()})
		if !q.At.Before(r.log.At) { // a clock that is set back changes nothing
			r.log.At, r.log.Clock = q.At, q.SwitchTime()
		}
	}
	if replaced {
		l.seal(q.read)
	}
}

// seal has everything noted so far and the position in the logs written together.
func (l *Loop) seal(now time.Time) {
	l.saveRecords()
	state := l.state(now, l.resume.sealAt)
	if !l.resume.changed && !l.book.Unsealed() && bytes.Equal(state, l.resume.sealed) {
		return
	}
	state = l.state(now, now)
	l.resume.changed, l.resume.sealed, l.resume.sealAt = false, state, now
	l.book.Sealed()
	l.ledger.Seal(state, now.Add(-l.settings.Memory-l.resume.ahead))
}

// state returns the state to seal at now, as if it were sealed at at.
func (l *Loop) state(now, at time.Time) []byte {
	clock := l.clock.state()
	clock.At = at.Round(0)
	head, err := json.Marshal(position{l.resume.log, l.fleet.position(), clock, l.mode})
	if err != nil { // a year of five digits
		l.log.Error("cannot save the position in the logs", "error", err)
	}
	return appendState(make([]byte, 0, len(l.resume.sealed)+256), head, l.resume.lines.From(l.resume.log.taken()), l.arbiter.Memos(now))
}

// saveRecords saves the known-good addresses and past bans that have changed.
func (l *Loop) saveRecords() {
	known, offences := l.engine.Unsaved()
	saveAll(l, ledger.Known, known)
	saveAll(l, ledger.Offences, offences)
}

func saveAll[T any](l *Loop, shelf ledger.Shelf, changes []policy.Record[T]) {
	for _, c := range changes {
		var record any
		if c.Value != nil {
			record = *c.Value
		}
		if err := l.ledger.Keep(shelf, c.Prefix, record); err != nil {
			l.log.Error("cannot save a record", "shelf", string(shelf), "addr", c.Prefix, "error", err)
		}
	}
}

// Restored is the state that an earlier process has left.
type Restored struct {
	Log   LogPosition // where to follow mod_cti's log
	Lines detect.LinesTaken
	Node  string // this node's name in the fleet
	Fleet FleetPosition
}

// Restore loads the state of an earlier process and counts its attempts again. never is the never-ban list as far as it is known;
// fleetName is this node's name in the fleet without the part that keeps it unique, or "" without a fleet. Restore runs before
// Run, and starts nothing.
func (l *Loop) Restore(never []policy.NeverEntry, fleetName string) Restored {
	missed := l.clock.missed
	l.book.RestoreAllowances(never, missed)
	l.book.RestoreTombstones(missed, fleetName == "")
	restoreAll(l, ledger.Known, func(g policy.KnownGood) time.Time { return later(g.Last, g.Suspected) }, l.engine.SetKnownGood)
	restoreAll(l, ledger.Offences, func(o policy.Offence) time.Time { return o.Last() }, l.engine.SetOffence)
	r := l.replayJournal()
	if missed != 0 {
		l.log.Warn("clock stepped while fsban was stopped", "by", missed)
		l.step(missed, l.started)
	}
	s, lines := l.restorePosition(&r)
	if fleetName != "" {
		// Without its identity this node has another name, and the fleet's log repeats attempts that mod_cti's log holds.
		s.Fleet.Lost = s.Fleet.Lost || s.Fleet.ID == "" && (r.attempts > 0 || r.unreadable > 0 || l.ledger.SetAside() != "")
		if s.Fleet.ID == "" {
			s.Fleet.ID = fmt.Sprintf("%06x", rand.N(1<<24))
		}
		l.fleet = fleetState{node: fleetName + "-" + s.Fleet.ID, id: s.Fleet.ID, place: s.Fleet.Place, lost: s.Fleet.Lost}
	}
	l.book.SetNode(l.fleet.node)
	l.book.RestoreBans()
	l.restoreHeld()
	if r.attempts > 0 {
		l.log.Info("counting on from before the start", "attempts", r.attempts)
	}
	if missed != 0 || s.Mode != l.mode {
		l.seal(l.started) // in the batch that writes the moved ends: the next start must not move them again
	}
	if fleetName != "" {
		l.sealName()
	}
	l.publish()
	return Restored{Log: s.Log, Lines: lines, Node: l.fleet.node, Fleet: s.Fleet}
}

// sealName writes this node's name to disk before it is used: to a node of another name its own failures are remote ones.
func (l *Loop) sealName() {
	l.seal(l.started)
	if err := l.ledger.Flush(); err != nil {
		l.log.Error("cannot save this node's name in the fleet", "node", l.fleet.node, "error", err)
	}
}

// A replay is the result of counting the journal again.
type replay struct {
	attempts   int
	newest     time.Time // stamp of this node's newest attempt of a kind that mod_cti's log reports, too
	state      []byte
	unreadable int
}

// replayJournal counts the attempts of an earlier process again. That makes no ban: the ledger has those that were made, and a ban
// that has ended stays so. Attempts from before a step of the clock move with it, as they did in memory.
func (l *Loop) replayJournal() (r replay) {
	var moved time.Duration
	_, _, err := l.ledger.Journal(func(e ledger.Entry) {
		moved += e.Step
		l.resume.ahead += max(e.Step, 0)
	})
	if err != nil { // the second reading reports it
		moved = 0
	}
	r.state, r.unreadable, err = l.ledger.Journal(func(e ledger.Entry) {
		switch {
		case e.Step != 0:
			moved -= e.Step
			return
		case e.Forgot.IsValid():
			l.engine.ReplayForget(e.Forgot, e.At.Add(moved))
			return
		}
		r.attempts++
		if a := &e.Attempt; a.Source != policy.Fleet && slices.Contains(detect.Sources(a.Kind), policy.CTILog) {
			r.newest = later(r.newest, a.SwitchTime())
		}
		e.Attempt.At = e.Attempt.At.Add(moved)
		as := e.Attempt
		as.At = as.At.Add(l.clock.missed)                         // withdrawals have moved already
		if !l.excused(&as, l.engine.Prefix(as.Addr), l.started) { // a kill parted a withdrawal from its entry here
			l.engine.Replay(e.Attempt)
		}
	})
	l.book.ReportLoss("attempts", r.unreadable, err)
	return r
}

// restorePosition returns how far the logs had been read, and restores the arbiter's memory.
func (l *Loop) restorePosition(r *replay) (p position, lines detect.LinesTaken) {
	var err error
	if r.state != nil {
		var memos []detect.Memo
		if p, lines.Newest, memos, err = readState(r.state); err == nil {
			for i := range memos {
				l.arbiter.RestoreMemo(&memos[i])
			}
		}
	}
	if p.Log.At.IsZero() && !r.newest.IsZero() { // the journal's attempts must not be read again and count twice
		p.Log.At = r.newest.Add(3 * time.Second) // reports of one failure by several sources are up to two seconds apart
	}
	if p.Log.Clock.IsZero() {
		p.Log.Clock = p.Log.At
	}
	if err != nil {
		l.log.Error("position in mod_cti's log unknown: reading on from the last attempt", "after", r.newest, "error", err)
	}
	l.resume.log = p.Log
	for _, m := range lines.Newest {
		l.resume.lines.Add(m)
	}
	// While the log was unreadable, other sources reported the attempts in it.
	lines.Before = later(p.Log.taken(), r.newest.Add(-detect.Slack))
	if skew := p.Log.Clock.Sub(p.Log.At); skew.Abs() > detect.MaxSkew {
		lines.Ahead = skew
	}
	if now := l.started.Add(lines.Ahead); lines.Before.After(now) { // the clock was set back
		lines.Before = now
	}
	return p, lines
}

// restoreHeld drops held bans that are in force or have ended. Others are made from now on, as far as the ban rate allows: a guard
// held them, or the rules have changed since.
func (l *Loop) restoreHeld() {
	held := l.engine.Held()
	ended := l.endedFor(held)
	for _, h := range held {
		_, banned := l.ledger.Get(h.Prefix)
		if since, found := ended[h.Prefix]; banned || found && !since.Before(newestEvidence(&h)) {
			l.engine.Discard(h.Prefix)
		}
	}
	for _, d := range l.engine.Advance(l.started) {
		if d.Verdict != policy.BanNow {
			continue
		}
		l.recorder.Decided(d.Verdict)
		e := entryOf(&d, book.Replayed, policy.Event, firewall.Cause{Read: l.started})
		if e.Ban.Over(l.started) {
			continue
		}
		l.reportRefusal(d.Prefix, l.book.Replay(e))
	}
}

// endedFor returns the start of the newest ended ban of each held prefix. Attempts that such a ban punished count again if the policy has
// forgotten the offence.
func (l *Loop) endedFor(held []policy.HeldBan) map[netip.Prefix]time.Time {
	if len(held) == 0 {
		return nil
	}
	wanted, q := make(map[netip.Prefix]bool, len(held)), ledger.Query{Since: newestEvidence(&held[0])}
	for i := range held {
		wanted[held[i].Prefix] = true
		if at := newestEvidence(&held[i]); at.Before(q.Since) {
			q.Since = at
		}
	}
	newest := make(map[netip.Prefix]time.Time)
	q.Match = func(e *ledger.EndedBan) bool {
		if wanted[e.Prefix] {
			newest[e.Prefix] = later(newest[e.Prefix], e.Since)
		}
		return false
	}
	if _, unreadable, err := l.ledger.History(q); err != nil || unreadable > 0 {
		l.log.Warn("cannot read all ended bans", "unreadable", unreadable, "error", err)
	}
	return newest
}

// newestEvidence returns the time of the last attempt of a held ban.
func newestEvidence(h *policy.HeldBan) time.Time {
	if n := len(h.Evidence); n > 0 {
		return h.Evidence[n-1].At
	}
	return h.Since
}

// restoreAll passes the records of a shelf to put, the oldest first.
func restoreAll[T any](l *Loop, shelf ledger.Shelf, at func(T) time.Time, put func(T)) {
	var all []T
	unreadable, err := l.ledger.Records(shelf, func(record []byte) error {
		var v T
		if err := json.Unmarshal(record, &v); err != nil {
			return err
		}
		all = append(all, v)
		return nil
	})
	l.book.ReportLoss(string(shelf), unreadable, err)
	slices.SortFunc(all, func(a, b T) int { return at(a).Compare(at(b)) })
	for _, v := range all {
		put(v)
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
