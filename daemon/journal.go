package daemon

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"slices"
	"time"

	"fsban/ctilog"
	"fsban/detect"
	"fsban/firewall"
	"fsban/ledger"
	"fsban/policy"
)

// What counts is in the ledger's journal, together with how far mod_cti's log had been read and what other sources may
// still tell of. So the next process goes on from exactly there: attempts count on, and none counts twice, whether this
// one ended in order or was killed.

// A logPlace is how far mod_cti's log counts.
type logPlace struct {
	ctilog.Position
	At    time.Time `json:"at"`             // of the newest line
	Clock time.Time `json:"clock,omitzero"` // the same, by FreeSWITCH's clock
}

// memory is how long an attempt can matter.
func (l *loop) memory() time.Duration { return l.cfg().Policy.LongestFindTime() }

// note has an attempt that counts survive a restart.
func (l *loop) note(a *policy.Attempt) {
	l.ledger.Note(ledger.Entry{Attempt: *a}, a.At)
	l.changed = true
}

// forget has every address in prefix start from zero.
func (l *loop) forget(prefix netip.Prefix) {
	now := time.Now()
	if _, changed := l.engine.Forget(prefix, now); changed {
		l.keepOffence(prefix)
	}
	l.ledger.Note(ledger.Entry{Forgot: prefix, At: now}, now)
	l.changed = true
}

// keepOffence saves what is on record of prefix.
func (l *loop) keepOffence(prefix netip.Prefix) {
	var record any
	if o, ok := l.engine.Offence(prefix); ok {
		record = o
	}
	if err := l.ledger.Keep(ledger.Offences, prefix, record); err != nil {
		l.log.Error("an offence is not on disk", "addr", prefix, "error", err)
	}
}

// keepKnown saves whether addr, or the IPv6 prefix that it is counted by, is known-good.
func (l *loop) keepKnown(addr netip.Addr) {
	var record any
	place := l.engine.Prefix(addr)
	if addr.Is4() {
		place = netip.PrefixFrom(addr, addr.BitLen())
	}
	if g, ok := l.engine.KnownGood(addr); ok {
		record, place = g, g.Prefix
	}
	if err := l.ledger.Keep(ledger.Known, place, record); err != nil {
		l.log.Error("a known-good address is not on disk", "addr", addr, "error", err)
	}
}

// seal makes what was noted so far, and where we stand, what the next process begins with.
func (l *loop) seal(now time.Time) {
	head, err := json.Marshal(standing{l.place, l.fleetPlace()})
	if err != nil {
		l.log.Error("cannot note where the log stands", "error", err)
		return
	}
	state := appendStanding(make([]byte, 0, len(l.sealed)+256), head, l.arbiter.Recent(now, l.place.Clock))
	if !l.changed && bytes.Equal(state, l.sealed) {
		return
	}
	l.changed, l.sealed = false, state
	l.ledger.Seal(state, now.Add(-l.memory()))
}

// restore takes up what an earlier process knew, counts again what it had counted, and returns how far it had read: mod_cti's
// log, and the fleet's.
func (l *loop) restore() (logPlace, fleetPlace) {
	l.restoreAllowances()
	l.listed = l.never.Local()
	l.setNeverBan()
	restoreAll(l, ledger.Known, func(g policy.KnownGood) time.Time { return later(g.Last, g.Suspected) }, l.engine.SetKnown)
	attempts := 0
	var newest time.Time                            // of them
	begun := make(map[netip.Prefix]policy.Decision) // bans that the journal leads to, and that no unban followed
	take := func(d policy.Decision) {
		switch d.Verdict {
		case policy.BanNow:
			begun[d.Prefix] = d
		case policy.Lift:
			delete(begun, d.Prefix)
		}
	}
	state, unreadable, err := l.ledger.Journal(func(e ledger.Entry) {
		if e.Forgot.IsValid() {
			l.engine.Forget(e.Forgot, e.At)
			delete(begun, e.Forgot)
			return
		}
		attempts++
		newest = later(newest, e.Attempt.At)
		for _, d := range l.engine.Advance(e.Attempt.At) {
			take(d)
		}
		take(l.engine.Observe(e.Attempt))
	})
	l.missing("attempts", unreadable, err)
	// What the file says of past bans is right, whatever the journal led to.
	restoreAll(l, ledger.Offences, func(o policy.Offence) time.Time { return o.Since }, l.engine.SetOffence)
	var s standing
	if state != nil {
		var memos []detect.Memo
		if s, memos, err = readStanding(state); err == nil {
			for i := range memos {
				l.arbiter.Remember(&memos[i])
			}
		}
	}
	if s.Log.At.IsZero() && attempts > 0 { // what the journal holds must not be read again and count twice
		l.lost = true
		s.Log.At = newest.Add(3 * time.Second) // sources that tell of one failure are up to two seconds apart
	}
	if err != nil {
		l.log.Error("where the log stood is not known: it is read from the last attempt on", "after", newest, "error", err)
	}
	l.place, l.known = s.Log, s.Log.At.Add(-detect.Slack)
	if l.cfg().Fleet.On() {
		l.restoreGone()
	}
	for _, d := range begun {
		if _, banned := l.ledger.Get(d.Prefix); banned {
			continue
		}
		if g, there := l.member.gone[what{ledger.Unbanned, d.Prefix}]; there && g.Stamp > d.Since.UnixMicro() {
			l.forget(d.Prefix) // the fleet's unban was on disk, and that this is from where it counts was not
			continue
		}
		l.banFor(&d, policy.Event, firewall.Cause{Read: l.started})
	}
	for _, h := range l.engine.Held() { // an operator has released it
		if _, banned := l.ledger.Get(h.Prefix); banned {
			l.engine.Discard(h.Prefix)
		}
	}
	if attempts > 0 {
		l.log.Info("counting on from before the start", "attempts", attempts)
	}
	// Without it we have another name, and the fleet's log tells of what is counted here from mod_cti's log already.
	s.Fleet.Lost = s.Fleet.Lost || s.Fleet.ID == "" && (attempts > 0 || unreadable > 0 || l.ledger.SetAside() != "")
	return s.Log, s.Fleet
}

// restoreAll gives what is on a shelf to put, the oldest first.
func restoreAll[T any](l *loop, shelf ledger.Shelf, at func(T) time.Time, put func(T)) {
	var all []T
	unreadable, err := l.ledger.Records(shelf, func(record []byte) error {
		var v T
		if err := json.Unmarshal(record, &v); err != nil {
			return err
		}
		all = append(all, v)
		return nil
	})
	l.missing(string(shelf), unreadable, err)
	slices.SortFunc(all, func(a, b T) int { return at(a).Compare(at(b)) })
	for _, v := range all {
		put(v)
	}
}

// missing says what of an earlier process is not known.
func (l *loop) missing(what string, unreadable int, err error) {
	if err != nil || unreadable > 0 {
		l.log.Error("not all is known from before the start", "what", what, "unreadable", unreadable, "error", err)
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
