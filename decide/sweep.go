package decide

import (
	"net/netip"
	"time"

	"fsban/ledger"
)

const (
	sweepEvery = time.Hour
	sweepSlack = 1000 // records on disk beyond five quarters of those in memory
)

// sweep deletes the records of known-good addresses and past bans that the engine has forgotten, because they expired or because
// of its bounds: in the first tick, then every hour, and as soon as the disk has many more of them than memory.
func (l *Loop) sweep(now time.Time) {
	s := l.engine.Stats()
	due := now.Sub(l.resume.swept) >= sweepEvery
	if due {
		l.resume.swept = now
		l.limitHistory(now)
	}
	if due || l.ledger.Shelved(ledger.Known) > s.Known+s.Known/4+sweepSlack {
		l.ledger.Sweep(ledger.Known, l.engine.HasKnownGood)
	}
	if due || l.ledger.Shelved(ledger.Offences) > s.Offenders+s.Offenders/4+sweepSlack {
		l.ledger.Sweep(ledger.Offences, func(p netip.Prefix) bool {
			_, known := l.engine.Offence(p)
			return known
		})
	}
}

// limitHistory has the ledger forget ended bans that were kept long enough at now, or that are too many.
func (l *Loop) limitHistory(now time.Time) {
	h := &l.settings.History
	l.ledger.SetHistory(now.Add(-h.Keep), h.Max)
}
