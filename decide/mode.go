package decide

import (
	"context"
	"time"

	"fsban/decide/book"
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

// Enforce ends watching, and records order, the operator's order against the configuration; zero: none. The mode and all ends are
// sealed together, so a crash leaves an fsban that watches as before, or one that enforces. The firewall must then be switched to the
// kernel, and its earlier orders dropped. After an error nothing has changed.
func (l *Loop) Enforce(ctx context.Context, e *book.Enforcement, order Mode) (done book.Enforced, err error) {
	err = l.change(ctx, func() {
		l.ledger.Together(func() {
			done = l.book.Enforce(e)
			l.mode = Mode{By: order.By, At: order.At}
			l.seal(l.clock.Now())
		})
		l.publish()
	})
	return done, err
}

// EnforceRestored is Enforce at a start, for a ledger of an fsban that has watched. It runs after Restore, and before Run.
func (l *Loop) EnforceRestored(e *book.Enforcement) book.Enforced {
	done := l.book.Enforce(e)
	l.seal(l.started)
	return done
}

// SetOrder records the operator's order of enforcement against the configuration; the zero Mode: none, or the configuration
// agrees.
func (l *Loop) SetOrder(ctx context.Context, order Mode) error {
	return l.change(ctx, func() { l.mode.By, l.mode.At = order.By, order.At })
}

// shares reports whether other nodes of the fleet receive a ban as part of this node's state.
func (m *Mode) shares(ban *ledger.Ban) bool { return !m.Watching || ban.Stamp != 0 }
