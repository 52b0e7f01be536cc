package detect

import (
	"hash/maphash"
	"math"
	"net/netip"
	"time"

	"fsban/esl"
	"fsban/policy"
)

// sofia's CUSTOM events, as mod_sofia.h spells them.
const (
	registerFailure = "sofia::register_failure"
	registerAttempt = "sofia::register_attempt"
	preRegister     = "sofia::pre_register"
	register        = "sofia::register"
)

var sofiaSubclasses = []string{registerFailure, registerAttempt, preRegister, register}

// Required is the subclass without which failures cannot be counted.
const Required = registerFailure

// Indexes in Fields of the headers that every Detector reads.
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
	realm
	callID
	endOfSofia
)

var sofiaHeaders = [endOfSofia]string{
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
	realm:            "realm",
	callID:           "call-id",
}

// credentials are those of a register_attempt.
type credentials struct {
	addr    netip.Addr
	port    uint16
	at      int64  // unix microseconds
	to      string // user of the request's To
	user    string
	realm   string // of the digest
	digest  bool   // user is the digest user
	success bool   // counted as a success
	refused bool
	call    uint64 // hash of the Call-ID
}

// sameMoment is how far apart the events of one SIP transaction are at most.
const sameMoment = 2 * time.Second

// sofia returns the attempt that an event of mod_sofia reports.
func (d *Detector) sofia(subclass string, ev *esl.Event, now time.Time) (policy.Attempt, Outcome) {
	addr, ok := d.addrs.parse(ev.Get(networkIP))
	if !ok {
		return policy.Attempt{}, NoAddress
	}
	a := policy.Attempt{Addr: addr, Source: policy.Event}
	outcome := timed(&a, ev, now)
	port := portOf(ev)
	counts := true
	switch subclass {
	case registerFailure:
		d.failure(ev, &a, port)
	case preRegister:
		d.challenge(ev, &a)
	case registerAttempt:
		counts = d.credentials(ev, &a, port)
	case register:
		counts = d.registered(ev, &a, port)
	}
	if !counts {
		return policy.Attempt{}, NoAttempt
	}
	a.Profile = d.texts.keep(ev.Get(profileName))
	a.Domain = d.domain(ev, &a, port)
	a.UserAgent = d.texts.keep(ev.Get(userAgent))
	return a, outcome
}

// domain returns the domain in whose directory FreeSWITCH looks up the user: force-register-domain of the profile, or else the realm in the
// credentials, whatever To says (sofia_reg_parse_auth). Without credentials it is the domain in To.
func (d *Detector) domain(ev *esl.Event, a *policy.Attempt, port uint16) string {
	if d.forced != nil {
		if domain := d.forced(a.Profile); domain != "" {
			return domain
		}
	}
	if r := ev.Get(realm); len(r) > 0 {
		return d.texts.keep(r)
	}
	if a.Kind != policy.Challenge {
		if c := d.slot(a.Addr, port); c.realm != "" && c.matches(a, port) {
			return c.realm
		}
	}
	return d.texts.keep(ev.Get(toHost))
}

// portOf returns the remote port of ev, 0 if it is missing.
func portOf(ev *esl.Event) uint16 {
	text := ev.Get(networkPort)
	port, ok := number(text, len(text) <= len("65535"))
	if !ok || port > math.MaxUint16 {
		return 0
	}
	return uint16(port)
}

// failure reads sofia::register_failure: wrong credentials, answered with 403. The user under attack is the digest user, in the
// register_attempt just before it: to-user is the dialled number for an INVITE, and for a REGISTER an arbitrary value of the
// peer, unless the profile has inbound-reg-force-matching-username.
func (d *Detector) failure(ev *esl.Event, a *policy.Attempt, port uint16) {
	a.Kind = policy.AuthFailure
	if c := d.slot(a.Addr, port); c.refused && c.matches(a, port) {
		d.login, d.hasLogin = LoginID{Addr: a.Addr, Port: port, Call: c.call}, true
	}
	if string(ev.Get(registrationType)) != "INVITE" {
		a.Method = policy.Register
		a.User = d.texts.keep(ev.Get(toUser))
		if c := d.slot(a.Addr, port); c.digest && c.to == a.User && c.user != a.User && c.matches(a, port) {
			a.User, a.Number = c.user, a.User
		}
		return
	}
	a.Method = policy.Invite
	a.Number = d.texts.keep(ev.Get(toUser))
	if c := d.slot(a.Addr, port); c.matches(a, port) {
		a.User = c.user
	}
}

// credentials is sofia::register_attempt. FORBIDDEN comes with a register_failure, which is counted; STALE is an expired
// nonce, as every phone has now and then. In this event from-user and to-user are crossed.
func (d *Detector) credentials(ev *esl.Event, a *policy.Attempt, port uint16) bool {
	user := ev.Get(username)
	digest := len(user) > 0 && string(user) != "unknown"
	if !digest {
		user = ev.Get(toUser)
	}
	a.User = d.texts.keep(user)
	result := string(ev.Get(authResult))
	success := result == "SUCCESS" || result == "RENEWED"
	*d.slot(a.Addr, port) = credentials{
		addr: a.Addr, port: port, at: a.At.UnixMicro(), to: d.texts.keep(ev.Get(fromUser)), user: a.User,
		realm: d.texts.keep(ev.Get(realm)), digest: digest, success: success,
		refused: result == "FORBIDDEN", call: callOf(ev.Get(callID)),
	}
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
