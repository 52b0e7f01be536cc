// Package detect turns the reports of a source into a policy.Attempt.
//
// It is pure: no clock, goroutine, I/O, log or metric. FreeSWITCH sends three events for one wrong password (pre_register,
// register_attempt, register_failure). They count as one auth_failure, from register_failure alone.
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

// An Outcome is the result of reading an event: a closed, small set, safe as a metric label.
type Outcome string

// Outcomes of an event.
const (
	Attempt        Outcome = "attempt"         // an attempt was found
	NoAttempt      Outcome = "no_attempt"      // understood, but nothing counts: a stale nonce, a heartbeat, a duplicate report
	NoAddress      Outcome = "no_address"      // a report that must carry an address, but does not
	NotForUs       Outcome = "not_for_us"      // an event without a subscription
	GatewayChanged Outcome = "gateway_changed" // a gateway was added to FreeSWITCH, or removed
	ClockAdrift    Outcome = "clock_adrift"    // an attempt was found, whose time was so far off that it was replaced by now
)

// Outcomes lists the outcomes of an event.
var Outcomes = []Outcome{Attempt, NoAttempt, NoAddress, NotForUs, GatewayChanged, ClockAdrift}

// Options select the events that a Detector reads besides sofia's own. They must not be changed once a Detector has them.
type Options struct {
	CTIEvents []CTIEvent // mod_cti's CUSTOM events, whose names are configuration
	Calls     Calls
	Gateways  bool // report changes of FreeSWITCH's gateways
}

// A Detector turns FreeSWITCH's events and log lines into attempts. It remembers the last few credentials, because
// register_failure lacks values that the register_attempt before it has. It does not allocate for recently seen addresses and
// texts. It is not safe for concurrent use.
type Detector struct {
	fields    *esl.Fields
	cti       []ctiEvent
	calls     Calls
	heartbeat int // index of the first of heartbeatHeaders
	gateways  bool
	texts     interner
	addrs     addresses
	recent    [1024]credentials // by hash of address and port; a newer pair replaces an older one
	seed      maphash.Seed
	forced    func(profile string) string // nil: none is known
	login     LoginID                     // of the last event
	hasLogin  bool
}

// ForceDomains makes d count users of a profile in the domain that forced returns for it, if that is not empty: see ParseDomains. Call it
// before the first event.
func (d *Detector) ForceDomains(forced func(profile string) string) { d.forced = forced }

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

// Fields returns the headers that an esl.Event for d must keep.
func (d *Detector) Fields() *esl.Fields { return d.fields }

// Subclasses returns the CUSTOM events that d reads, each once.
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

// gatewayEvents report that FreeSWITCH has added or removed a gateway (mod_sofia.h).
var gatewayEvents = []string{"sofia::gateway_add", "sofia::gateway_delete"}

// Event returns the attempt that ev, an event with d's Fields, reports. now replaces a time that is missing or further than
// MaxSkew away.
func (d *Detector) Event(ev *esl.Event, now time.Time) (policy.Attempt, Outcome) {
	d.hasLogin = false
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

// Login returns the request behind the failed login that the last event reported; ok is false if it reported none, or the request is
// unknown.
func (d *Detector) Login() (id LoginID, ok bool) { return d.login, d.hasLogin }

// custom dispatches ev by its subclass. sofia's own come first: no configuration can hide them.
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

// timed sets the time of a: that of ev, or now. It returns the outcome.
func timed(a *policy.Attempt, ev *esl.Event, now time.Time) Outcome {
	at, ok := EventTime(ev)
	switch {
	case !ok:
		a.At = now
		return ClockAdrift
	case ExceedsSkew(at, now):
		a.At = at
		a.CorrectTime(now)
		return ClockAdrift
	}
	a.At = at
	return Attempt
}
