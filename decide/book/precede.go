package book

import (
	"time"

	"fsban/ledger"
)

// precedes reports whether e replaces held, a ban of the same prefix. Operators precede rules. An order given here is the latest;
// a ban with --local yields to nothing that another node announces; of bans by rules, and those found in the kernel, the one that
// lasts longer holds. Among the fleet's bans the stamps have decided by the same rules: see merge.RuleStamp.
func (b *Book) precedes(e *Entry, held *ledger.Ban, now time.Time) bool {
	peer := e.Origin == FromPeer
	switch {
	case held.Over(now), e.Origin == ByOperator:
		return true
	case e.Origin == InKernel, e.Origin == Imported && held.Rule == RuleOperator, peer && held.Local:
		return false
	case e.Ban.Rule == RuleOperator, peer && held.Rule != RuleKernel:
		return true
	case held.Rule == RuleOperator:
		return false
	}
	return lastsLonger(&e.Ban, held)
}

// lastsLonger reports whether x ends after y.
func lastsLonger(x, y *ledger.Ban) bool {
	return !y.Until.IsZero() && (x.Until.IsZero() || x.Until.After(y.Until))
}
