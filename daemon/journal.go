package daemon

import (
	"encoding/json"
	"net/netip"
	"time"

	"fsban/ctilog"
	"fsban/detect"
	"fsban/ledger"
	"fsban/policy"
)

// What counts is in the ledger's journal, together with how far mod_cti's log had been read and what other sources may
// still tell of. So the next process goes on from exactly there: attempts count on, and none counts twice, whether this
// one ended in order or was killed.

// A logPlace is how far mod_cti's log counts.
type logPlace struct {
	ctilog.Position
	At time.Time `json:"at"` // of the last line, by FreeSWITCH's clock
}

// A standing is what is sealed with the journal.
type standing struct {
	Log     logPlace      `json:"log"`
	Arbiter []detect.Memo `json:"arbiter,omitempty"`
}

// memory is how long an attempt can matter.
func (l *loop) memory() time.Duration { return time.Duration(l.cfg.Policy.FindTime) }

// note has an attempt that counts survive a restart.
func (l *loop) note(a *policy.Attempt) {
	l.ledger.Note(ledger.Entry{Attempt: *a}, a.At)
	l.changed = true
}

// forget has every address in prefix start from zero.
func (l *loop) forget(prefix netip.Prefix) {
	l.engine.Forget(prefix)
	l.ledger.Note(ledger.Entry{Forgot: prefix}, time.Now())
	l.changed = true
}

// seal makes what was noted so far, and where we stand, what the next process begins with.
func (l *loop) seal(now time.Time) {
	memory := l.arbiter.Recent(now)
	if !l.changed && len(memory) == 0 {
		return
	}
	l.changed = len(memory) > 0 // once more when it is empty
	state, err := json.Marshal(standing{Log: l.place, Arbiter: memory})
	if err != nil {
		l.log.Error("cannot note where the log stands", "error", err)
		return
	}
	l.ledger.Seal(state, now.Add(-l.memory()))
}

// restore counts again what an earlier process had counted, and returns how far it had read.
func (l *loop) restore() logPlace {
	attempts := 0
	begun := make(map[netip.Prefix]policy.Decision) // bans that the journal leads to, and that no unban followed
	state, unreadable, err := l.ledger.Journal(func(e ledger.Entry) {
		if e.Forgot.IsValid() {
			l.engine.Forget(e.Forgot)
			delete(begun, e.Forgot)
			return
		}
		attempts++
		if d := l.engine.Observe(e.Attempt); d.Verdict == policy.BanNow {
			begun[d.Prefix] = d
		}
	})
	if err != nil {
		l.log.Error("attempts from before the start are not known", "error", err)
		return logPlace{}
	}
	if unreadable > 0 {
		l.log.Warn("some attempts from before the start cannot be read", "attempts", unreadable)
	}
	var s standing
	if state != nil {
		if err := json.Unmarshal(state, &s); err != nil {
			l.log.Error("where the log stood is not known: it is read back as far as findtime reaches", "error", err)
		}
	}
	l.arbiter.Remember(s.Arbiter)
	l.place, l.known = s.Log, s.Log.At.Add(-time.Second)
	for _, d := range begun {
		if _, banned := l.ledger.Get(d.Prefix); !banned {
			l.banFor(&d, d.Evidence[len(d.Evidence)-1].Source, l.started)
		}
	}
	if attempts > 0 {
		l.log.Info("counting on from before the start", "attempts", attempts)
	}
	return s.Log
}
