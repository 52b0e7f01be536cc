// Package detect says what happened: it turns what a source reported into a policy.Attempt.
//
// It is pure: no clock, goroutine, I/O, log or metric. One wrong password is three events of FreeSWITCH
// (pre_register, register_attempt, register_failure), so here it becomes one auth_failure, from register_failure alone.
package detect

import (
	"bytes"
	"hash/maphash"
	"net/netip"
	"strconv"
	"time"

	"fsban/esl"
	"fsban/policy"
)

// Subclasses are the CUSTOM events that a Detector understands (mod_sofia.h).
var Subclasses = []string{registerFailure, registerAttempt, preRegister, register}

const (
	registerFailure = "sofia::register_failure"
	registerAttempt = "sofia::register_attempt"
	preRegister     = "sofia::pre_register"
	register        = "sofia::register"
)

// Required is the one without which there is nothing to count.
const Required = registerFailure

// The headers that a Detector reads, by their index in Fields.
const (
	eventName = iota
	eventSubclass
	eventTime
	profileName
	networkIP
	networkPort
	fromUser
	toUser
	toHost
	username
	userAgent
	authResult
	registrationType
)

// Fields are the headers that an esl.Event for a Detector must keep.
var Fields = esl.NewFields([]string{
	eventName:        "Event-Name",
	eventSubclass:    "Event-Subclass",
	eventTime:        "Event-Date-Timestamp",
	profileName:      "profile-name",
	networkIP:        "network-ip",
	networkPort:      "network-port",
	fromUser:         "from-user",
	toUser:           "to-user",
	toHost:           "to-host",
	username:         "username",
	userAgent:        "user-agent",
	authResult:       "auth-result",
	registrationType: "registration-type",
}...)

// MaxText bounds what is kept of a value that a peer chose, in bytes.
const MaxText = 128

// MaxSkew is how far FreeSWITCH's clock may be from ours. An event further off counts as happening now, as in fail2ban.
const MaxSkew = 60 * time.Second

// An Outcome says what became of an event: a closed, small set, safe as a metric label.
type Outcome string

// The outcomes.
const (
	Attempt     Outcome = "attempt"      // there is an attempt
	NoAttempt   Outcome = "no_attempt"   // understood, and nothing to count: a stale nonce, a heartbeat, the second report of one thing
	NoAddress   Outcome = "no_address"   // an event that must carry an address and does not
	NotForUs    Outcome = "not_for_us"   // an event that was not asked for
	ClockAdrift Outcome = "clock_adrift" // there is an attempt, and its time was so far off that now was taken
)

// Outcomes lists all of them.
var Outcomes = []Outcome{Attempt, NoAttempt, NoAddress, NotForUs, ClockAdrift}

// A Detector turns sofia's events into attempts. It remembers the last few credentials that it saw, because what
// register_failure leaves out stands in the register_attempt before it. It allocates nothing for addresses and users
// that it has seen lately. Not safe for concurrent use.
type Detector struct {
	texts  interner
	addrs  addresses
	recent [1024]credentials // by hash of address and port; a newer pair takes an older one's place
	seed   maphash.Seed
}

// credentials are what a register_attempt showed.
type credentials struct {
	addr    netip.Addr
	port    uint16
	at      int64 // unix microseconds
	user    string
	success bool // and it was counted as one
}

// sameMoment is how far apart the events of one SIP transaction are at most.
const sameMoment = 2 * time.Second

// New returns a Detector.
func New() *Detector { return &Detector{seed: maphash.MakeSeed()} }

// Event says what ev means. now is used where the event's own time is missing or further than MaxSkew away.
func (d *Detector) Event(ev *esl.Event, now time.Time) (policy.Attempt, Outcome) {
	switch name := ev.Get(eventName); {
	case string(name) == "HEARTBEAT":
		return policy.Attempt{}, NoAttempt
	case string(name) != "CUSTOM":
		return policy.Attempt{}, NotForUs
	}
	subclass := subclassOf(ev)
	if subclass == "" {
		return policy.Attempt{}, NotForUs
	}
	addr, ok := d.addrs.parse(ev.Get(networkIP))
	if !ok {
		return policy.Attempt{}, NoAddress
	}
	at, adrift := eventAt(ev, now)
	a := policy.Attempt{Addr: addr, At: at, Source: policy.Event}
	port, _ := strconv.ParseUint(string(ev.Get(networkPort)), 10, 16)
	counts := true
	switch subclass {
	case registerFailure:
		d.failure(ev, &a, uint16(port))
	case preRegister:
		d.challenge(ev, &a)
	case registerAttempt:
		counts = d.credentials(ev, &a, uint16(port))
	case register:
		counts = d.registered(ev, &a, uint16(port))
	}
	if !counts {
		return policy.Attempt{}, NoAttempt
	}
	a.Domain = d.texts.keep(ev.Get(toHost))
	a.Profile = d.texts.keep(ev.Get(profileName))
	a.UserAgent = d.texts.keep(ev.Get(userAgent))
	if adrift {
		return a, ClockAdrift
	}
	return a, Attempt
}

// subclassOf returns which of Subclasses ev is, or "".
func subclassOf(ev *esl.Event) string {
	got := ev.Get(eventSubclass)
	for _, s := range Subclasses {
		if s == string(got) {
			return s
		}
	}
	return ""
}

// failure is sofia::register_failure: wrong credentials, answered with 403. For an INVITE its to-user is the number that
// was dialled; the user under attack stands in the register_attempt just before it.
func (d *Detector) failure(ev *esl.Event, a *policy.Attempt, port uint16) {
	a.Kind = policy.AuthFailure
	if string(ev.Get(registrationType)) != "INVITE" {
		a.Method = policy.Register
		a.User = d.texts.keep(ev.Get(toUser))
		return
	}
	a.Method = policy.Invite
	if c := d.slot(a.Addr, port); c.matches(a, port) {
		a.User = c.user
	}
}

// credentials is sofia::register_attempt. FORBIDDEN comes with a register_failure, which is counted; STALE is an expired
// nonce, as every phone has now and then. In this event from-user and to-user are crossed.
func (d *Detector) credentials(ev *esl.Event, a *policy.Attempt, port uint16) bool {
	user := ev.Get(username)
	if len(user) == 0 || string(user) == "unknown" {
		user = ev.Get(toUser)
	}
	a.User = d.texts.keep(user)
	result := string(ev.Get(authResult))
	success := result == "SUCCESS" || result == "RENEWED"
	*d.slot(a.Addr, port) = credentials{a.Addr, port, a.At.UnixMicro(), a.User, success}
	a.Kind = policy.AuthSuccess
	return success
}

// challenge is sofia::pre_register: a request without credentials was answered with 401 or 407.
func (d *Detector) challenge(ev *esl.Event, a *policy.Attempt) {
	a.Kind = policy.Challenge
	a.User = d.texts.keep(ev.Get(toUser))
}

// registered is sofia::register. It follows a successful register_attempt, which has been counted; where a profile
// accepts registrations blindly it says username "unknown" and proves nothing.
func (d *Detector) registered(ev *esl.Event, a *policy.Attempt, port uint16) bool {
	user := ev.Get(username)
	if len(user) == 0 || string(user) == "unknown" {
		return false
	}
	if c := d.slot(a.Addr, port); c.success && c.matches(a, port) {
		c.success = false
		return false
	}
	a.Kind = policy.AuthSuccess
	a.Method = policy.Register
	a.User = d.texts.keep(user)
	return true
}

// slot returns the place for the credentials of addr and port.
func (d *Detector) slot(addr netip.Addr, port uint16) *credentials {
	h := maphash.Comparable(d.seed, addr) + uint64(port)
	return &d.recent[h%uint64(len(d.recent))]
}

func (c *credentials) matches(a *policy.Attempt, port uint16) bool {
	apart := time.Duration(a.At.UnixMicro()-c.at) * time.Microsecond
	return c.addr == a.Addr && c.port == port && apart.Abs() <= sameMoment
}

// EventTime returns FreeSWITCH's own time of ev: Event-Date-Timestamp, microseconds since 1970.
func EventTime(ev *esl.Event) (time.Time, bool) {
	us, err := strconv.ParseInt(string(ev.Get(eventTime)), 10, 64)
	return time.UnixMicro(us), err == nil
}

// eventAt returns when ev counts as having happened.
func eventAt(ev *esl.Event, now time.Time) (at time.Time, adrift bool) {
	at, ok := EventTime(ev)
	if !ok || Adrift(at, now) {
		return now, true
	}
	return at, false
}

// interner keeps strings that were seen lately, so that the same bytes become the same string without an allocation. It
// is a table of fixed size: a newer string takes an older one's place, so it cannot grow, whatever peers send.
type interner struct {
	seed  maphash.Seed
	slots [4096]string
}

// keep returns b as a string, cut at MaxText bytes.
func (t *interner) keep(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	if len(b) > MaxText {
		b = bytes.ToValidUTF8(b[:MaxText], nil)
	}
	if t.seed == (maphash.Seed{}) {
		t.seed = maphash.MakeSeed()
	}
	slot := &t.slots[maphash.Bytes(t.seed, b)%uint64(len(t.slots))]
	if *slot != string(b) {
		*slot = string(b)
	}
	return *slot
}

// addresses does for addresses what interner does for strings.
type addresses struct {
	seed  maphash.Seed
	slots [4096]struct {
		text string
		addr netip.Addr
	}
}

// parse reads an address as FreeSWITCH writes it: IPv6 without brackets. A zone is not part of a remote address, and an
// IPv4-mapped one is an IPv4 address.
func (t *addresses) parse(b []byte) (netip.Addr, bool) {
	if len(b) == 0 || len(b) > 64 {
		return netip.Addr{}, false
	}
	if t.seed == (maphash.Seed{}) {
		t.seed = maphash.MakeSeed()
	}
	slot := &t.slots[maphash.Bytes(t.seed, b)%uint64(len(t.slots))]
	if slot.text != string(b) {
		text := string(b)
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return netip.Addr{}, false
		}
		slot.text, slot.addr = text, addr.WithZone("").Unmap()
	}
	if slot.addr.IsUnspecified() {
		return netip.Addr{}, false
	}
	return slot.addr, true
}
