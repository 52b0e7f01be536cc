package detect

import (
	"time"

	"fsban/esl"
	"fsban/policy"
)

// A CTIEvent describes one CUSTOM event of mod_cti: its subclass, and the names of the headers with the address, the user and
// the reason. Several may share header names. An empty name means that the event lacks the value.
type CTIEvent struct{ Subclass, Addr, User, Reason string }

// ctiEvent is a CTIEvent with the headers' indexes in the Fields; -1 for none.
type ctiEvent struct {
	subclass           string
	addr, user, reason int
}

// ctiEvent returns the attempt that an event of mod_cti reports. Only the reason "Registration failed" is known to be a wrong
// password; any other, or none, is a violation, as in its log.
func (d *Detector) ctiEvent(e *ctiEvent, ev *esl.Event, now time.Time) (policy.Attempt, Outcome) {
	addr, ok := d.addrs.parse(value(ev, e.addr))
	if !ok {
		return policy.Attempt{}, NoAddress
	}
	a := policy.Attempt{Addr: addr, Kind: policy.Violation, Source: policy.CTIEvent}
	outcome := timed(&a, ev, now)
	if user := value(ev, e.user); string(user) != "(null)" {
		a.User = d.texts.keep(user)
	}
	if isRegistrationFailed(value(ev, e.reason)) {
		a.Kind = policy.AuthFailure
	}
	return a, outcome
}

// value returns header i of ev, nil if i is negative.
func value(ev *esl.Event, i int) []byte {
	if i < 0 {
		return nil
	}
	return ev.Get(i)
}
