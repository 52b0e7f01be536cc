package decide

import (
	"context"
	"net/netip"
	"time"

	"fsban/ledger"
)

// A Mode says whether fsban enforces its decisions or only watches. It is sealed with the journal.
type Mode struct {
	Watching bool      `json:"watching,omitzero"` // the bans of the ledger are decisions that nothing enforces
	By       string    `json:"by,omitzero"`       // operator who has ordered enforcement, against the configuration; empty: nobody
	At       time.Time `json:"at,omitzero"`       // time of that order
}

// SealedMode returns the mode in a state that an earlier process sealed. It is zero if the state is lost.
func SealedMode(state []byte) Mode {
	p, _, _, err := readState(state)
	if err != nil {
		return Mode{}
	}
	return p.Mode
}

// An Enforcement is the change from watching to enforcing.
type Enforcement struct {
	Keep    bool                      // the watched bans are enforced; else they end
	Blocked map[netip.Prefix]struct{} // bans that the kernel holds already: they stay in any case
}

// Enforce ends watching, and returns how many bans stay and how many have ended. The firewall must then be switched to the kernel,
// and its earlier orders dropped.
func (l *Loop) Enforce(ctx context.Context, e Enforcement) (kept, ended int, err error) {
	err = l.change(ctx, func() {
		kept, ended = l.book.Enforce(e.Keep, e.Blocked)
		l.mode.Watching = false
		l.publish()
	})
	return kept, ended, err
}

// EnforceRestored is Enforce at a start, for a ledger of an fsban that has watched. It runs after Restore, and before Run.
func (l *Loop) EnforceRestored(e Enforcement) (kept, ended int) {
	kept, ended = l.book.Enforce(e.Keep, e.Blocked)
	l.mode.Watching = false
	l.seal(l.started)
	return kept, ended
}

// SetOrder records the operator's order of enforcement against the configuration; the zero Mode: none, or the configuration
// agrees.
func (l *Loop) SetOrder(ctx context.Context, order Mode) error {
	return l.change(ctx, func() { l.mode.By, l.mode.At = order.By, order.At })
}

// shares reports whether other nodes of the fleet receive a ban as part of this node's state.
func (m *Mode) shares(ban *ledger.Ban) bool { return !m.Watching || ban.Stamp != 0 }
