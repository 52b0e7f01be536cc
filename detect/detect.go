// Package detect says what happened: it turns what a source reported into a policy.Attempt.
//
// It is pure: no clock, goroutine, I/O, log or metric. One wrong password is three events of FreeSWITCH
// (pre_register, register_attempt, register_failure), so here it becomes one auth_failure, from register_failure alone.
package detect

import (
	"hash/maphash"
	"slices"
	"time"

	"fsban/esl"
	"fsban/policy"
)

// MaxSkew is how far FreeSWITCH's clock may be from ours. An event further off counts as happening now, as in fail2ban.
const MaxSkew = 60 * time.Second

// An Outcome says what became of an event: a closed, small set, safe as a metric label.
type Outcome string

// The outcomes.
const (
	Attempt        Outcome = "attempt"         // there is an attempt
	NoAttempt      Outcome = "no_attempt"      // understood, and nothing to count: a stale nonce, a heartbeat, the second report of one thing
	NoAddress      Outcome = "no_address"      // a report that must carry an address and does not
	NotForUs       Outcome = "not_for_us"      // an event that was not asked for
	GatewayChanged Outcome = "gateway_changed" // FreeSWITCH has a gateway more, or less
	ClockAdrift    Outcome = "clock_adrift"    // there is an attempt, and its time was so far off that now was taken
)

// Outcomes lists what can become of an event.
var Outcomes = []Outcome{Attempt, NoAttempt, NoAddress, NotForUs, GatewayChanged, ClockAdrift}

// Options say what a Detector looks at besides sofia's own events. It must not be changed once a Detector has it.
type Options struct {
	CTIEvents []CTIEvent // mod_cti's CUSTOM events, whose names are configuration
	Calls     Calls
	Gateways  bool // tell when FreeSWITCH's gateways have changed
}

// A Detector turns FreeSWITCH's events and log lines into attempts. It remembers the last few credentials that it saw,
// because what register_failure leaves out stands in the register_attempt before it. It allocates nothing for addresses
// and texts that it has seen lately. Not safe for concurrent use.
type Detector struct {
	fields    *esl.Fields
	cti       []ctiEvent
	calls     Calls
	heartbeat int // where heartbeatHeaders begin
	gateways  bool
	texts     interner
	addrs     addresses
	recent    [1024]credentials // by hash of address and port; a newer pair takes an older one's place
	seed      maphash.Seed
}

// New returns a Detector.
func New(o Options) *Detector {
	d := &Detector{calls: o.Calls, gateways: o.Gateways, seed: maphash.MakeSeed()}
	names := slices.Clone(sofiaHeaders[:])
	if d.calls.wanted() {
		names = append(names, callHeaders[:]...)
	}
	d.heartbeat = len(names)
	names = append(names, heartbeatHeaders[:]...)
	index := func(name string) int {
		if i := slices.Index(names, name); i >= 0 || name == "" {
			return i
		}
		names = append(names, name)
		return len(names) - 1
	}
	for _, e := range o.CTIEvents {
		d.cti = append(d.cti, ctiEvent{e.Subclass, index(e.Addr), index(e.User), index(e.Reason)})
	}
	d.fields = esl.NewFields(names...)
	return d
}

// Fields are the headers that an esl.Event for d must keep.
func (d *Detector) Fields() *esl.Fields { return d.fields }

// Subclasses are the CUSTOM events that d understands, each once.
func (d *Detector) Subclasses() []string {
	all := slices.Clone(sofiaSubclasses)
	for _, e := range d.cti {
		if !slices.Contains(all, e.subclass) {
			all = append(all, e.subclass)
		}
	}
	if d.gateways {
		all = append(all, gatewayEvents...)
	}
	return all
}

// gatewayEvents tell that FreeSWITCH has a gateway more, or less (mod_sofia.h).
var gatewayEvents = []string{"sofia::gateway_add", "sofia::gateway_delete"}

// Event says what ev, an event with d's Fields, means. now is used where the event's own time is missing or further than
// MaxSkew away.
func (d *Detector) Event(ev *esl.Event, now time.Time) (policy.Attempt, Outcome) {
	switch string(ev.Get(eventName)) {
	case "CUSTOM":
		return d.custom(ev, now)
	case CallEvent:
		if d.calls.wanted() {
			return d.call(ev, now)
		}
	case "HEARTBEAT":
		return policy.Attempt{}, NoAttempt
	}
	return policy.Attempt{}, NotForUs
}

// custom hands ev to the one that knows its subclass. sofia's own come first: no configuration can hide them.
func (d *Detector) custom(ev *esl.Event, now time.Time) (policy.Attempt, Outcome) {
	got := ev.Get(eventSubclass)
	for _, s := range sofiaSubclasses {
		if s == string(got) {
			return d.sofia(s, ev, now)
		}
	}
	for i := range d.cti {
		if d.cti[i].subclass == string(got) {
			return d.ctiEvent(&d.cti[i], ev, now)
		}
	}
	if d.gateways && slices.Contains(gatewayEvents, string(got)) {
		return policy.Attempt{}, GatewayChanged
	}
	return policy.Attempt{}, NotForUs
}

// EventTime returns FreeSWITCH's own time of ev, an event with a Detector's Fields: Event-Date-Timestamp, microseconds
// since 1970.
func EventTime(ev *esl.Event) (time.Time, bool) {
	text := ev.Get(eventTime)
	us, ok := number(text, len(text) > 0 && len(text) <= len("1795363922458042"))
	return time.UnixMicro(int64(us)), ok
}

// timed has a count as having happened when ev says, or now, and returns what that makes of it.
func timed(a *policy.Attempt, ev *esl.Event, now time.Time) Outcome {
	at, ok := EventTime(ev)
	switch {
	case !ok:
		a.At = now
		return ClockAdrift
	case Adrift(at, now):
		a.At = at
		a.Adrift(now)
		return ClockAdrift
	}
	a.At = at
	return Attempt
}
