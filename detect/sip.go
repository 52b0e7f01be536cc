package detect

import (
	"hash/maphash"
	"net/netip"
	"regexp"
	"time"

	"fsban/policy"
	"fsban/sipwire"
)

// WireOutcomes lists the outcomes of packets.
var WireOutcomes = []Outcome{Attempt, ClockAdrift, NoAttempt, KeepAlive, Malformed}

// The outcomes of packets, besides Attempt, ClockAdrift and NoAttempt.
const (
	KeepAlive Outcome = "keep_alive" // no message: it keeps a NAT binding
	Malformed Outcome = "malformed"
)

// A SIP turns SIP messages, as they cross the wire, into attempts: refused credentials of every method, of REGISTER also challenges and
// accepted ones; scans, floods, malformed messages and published attacks.
//
// FreeSWITCH answers 403 to wrong passwords of REGISTER and INVITE, and a bare 401 to those of other methods. It also answers 401 to an
// expired or invented nonce. So a refusal counts only if its credentials answer a nonce that the server issued recently. Over UDP it is
// proven if the nonce was sent to the same address: then the sender has received a packet there.
//
// It allocates nothing for texts and addresses that it has seen lately, and is not safe for concurrent use.
type SIP struct {
	scanner      *sipwire.Scanner
	transactions *sipwire.Transactions
	nonces       *sipwire.Nonces
	texts        interner
	fault        sipwire.Fault
	scans        *scans
	floods       *floods
	agents       agents
	own          ownAddrs
	garbled      garbled
	login        Login
	hasLogin     bool
}

// NewSIP returns a SIP, for which policy.ScannerAgents are scanners.
func NewSIP() *SIP {
	return &SIP{
		scanner: sipwire.NewScanner(), transactions: sipwire.NewTransactions(), nonces: sipwire.NewNonces(),
		scans: newScans(), floods: newFloods(), garbled: garbled{seed: maphash.MakeSeed()},
		agents: newAgents(regexp.MustCompile(policy.ScannerAgents)),
	}
}

// SetScanners has the user agents that match one of patterns be scanners.
func (s *SIP) SetScanners(patterns ...*regexp.Regexp) { s.agents = newAgents(patterns...) }

// Know notes that an address has logged in, as another source reports it: its requests are no scan.
func (s *SIP) Know(addr netip.Addr, at time.Time) { s.scans.know(addr, at) }

// Restarted notes that FreeSWITCH restarted at a time. It knows no nonce from before.
func (s *SIP) Restarted(at time.Time) { s.nonces.Restart(at) }

// WireStats are the counts of a SIP.
type WireStats struct {
	Evicted   uint64 // requests, nonces and clients forgotten before their time
	Unmatched uint64 // responses without a request
	Deaf      uint64 // seconds in which FreeSWITCH dropped the requests to a port
}

// Stats returns the counts so far.
func (s *SIP) Stats() WireStats {
	t := s.transactions.Stats()
	return WireStats{Evicted: t.Evicted + s.nonces.Evicted() + s.scans.evicted, Unmatched: t.Unmatched, Deaf: s.floods.deaf}
}

// Fault returns the fault of the last malformed message.
func (s *SIP) Fault() sipwire.Fault { return s.fault }

// Packet returns the attempt of a packet. now is used if the packet's own time is missing or further than MaxSkew away.
func (s *SIP) Packet(p *sipwire.Packet, now time.Time) (policy.Attempt, Outcome) {
	at, outcome := p.At, Attempt
	a := policy.Attempt{Source: policy.SIP}
	if at.IsZero() {
		at = now
	}
	if a.At = at; ExceedsSkew(at, now) {
		a.CorrectTime(now)
		outcome = ClockAdrift
	}
	if s.scans.began == 0 {
		s.scans.began = at.UnixMicro()
	}
	m := s.scanner.Scan(p.Payload)
	s.hasLogin = false
	s.noteRequest(p, m, at)
	if found := s.message(p, m, at, &a); found != Attempt {
		return policy.Attempt{}, found
	}
	return a, outcome
}

// message gives a the contents of an attempt, if a message is one.
func (s *SIP) message(p *sipwire.Packet, m *sipwire.Message, at time.Time, a *policy.Attempt) Outcome {
	switch m.Class {
	case sipwire.KeepAlive:
		return KeepAlive
	case sipwire.Malformed:
		found := s.malformed(p, m, at, a)
		if m.Status == 0 {
			s.floods.request(p.From.Addr(), p.To, false, at)
		}
		return found
	case sipwire.Request:
		if s.transactions.Match(p, m, at); s.transactions.Fresh() {
			return s.request(p, m, at, a)
		}
		return NoAttempt
	case sipwire.Response:
	}
	t := s.transactions.Match(p, m, at)
	if s.transactions.Fresh() {
		s.floods.answer(p.From, at)
	}
	if t == nil {
		return NoAttempt
	}
	s.noteAnswer(t, m)
	found := s.meaning(t, a)
	s.own.learn(t)
	if s.isServer(t.Client.Addr()) { // FreeSWITCH itself, as a client
		if !t.InDialog && t.Status < 300 {
			s.scans.know(t.Server.Addr(), at)
		}
		if a.Kind.OnWire() || s.nonces.Serves(t.Client.Addr()) {
			return NoAttempt
		}
	}
	if p.To.Addr().IsUnspecified() && s.exploit(t.Client.Addr(), m.MethodName, t.ToUser, a) == Attempt { // its request had no address
		s.answered(a, t)
		found = Attempt
	}
	if found != Attempt {
		return found
	}
	a.Addr = t.Client.Addr()
	s.texts.describe(a, t.User, t.ToUser, t.ToHost, t.UserAgent)
	a.Method, a.Transport = methodOf(t.Method), transportOf(t.Transport)
	return Attempt
}

// request gives a the contents of an attempt, if a request is one by itself, whatever the answer is.
func (s *SIP) request(p *sipwire.Packet, m *sipwire.Message, at time.Time, a *policy.Attempt) Outcome {
	found := s.exploit(p.From.Addr(), m.MethodName, m.ToUser, a)
	if s.floods.request(p.From.Addr(), p.To, m.Method != sipwire.MethodAck, at) && found != Attempt && !s.isServer(p.From.Addr()) {
		a.Kind, found = policy.Flood, Attempt
	}
	if found == Attempt {
		s.claim(a, p.From.Addr(), p.Transport)
		s.texts.describe(a, nil, m.ToUser, m.ToHost, m.UserAgent)
		a.Method, a.Transport = methodOf(m.Method), transportOf(p.Transport)
	}
	return found
}

// claim gives a the address of a sender without an answer yet. Nothing proves it: the packets of a TCP connection can be forged like
// those of UDP, and only FreeSWITCH itself reports what it received over TLS.
func (s *SIP) claim(a *policy.Attempt, addr netip.Addr, transport sipwire.Transport) {
	if a.Addr, a.Proof = addr, policy.NoProof; transport == sipwire.TLS {
		a.Proof = policy.TCPProof
	}
}

// answered gives a the address of a sender that has an answer. Over a connection that proves it.
func (s *SIP) answered(a *policy.Attempt, t *sipwire.Transaction) {
	if a.Addr, a.Proof = t.Client.Addr(), policy.NoProof; t.Transport.Connected() {
		a.Proof = policy.TCPProof
	}
}

// describe gives a the names in a request.
func (t *interner) describe(a *policy.Attempt, user, toUser, toHost, agent []byte) {
	a.User = t.keep(user)
	to := t.keep(toUser)
	if a.User == "" {
		a.User = to
	}
	if to != a.User {
		a.Number = to
	}
	a.Domain = t.keep(toHost)
	a.UserAgent = t.keep(agent)
}

// meaning gives a the kind and the proof of a transaction.
func (s *SIP) meaning(t *sipwire.Transaction, a *policy.Attempt) Outcome {
	challenged := len(t.Challenges) > 0 && (t.Status == 401 || t.Status == 407)
	switch {
	case challenged:
		s.challenge(t)
		a.Kind = policy.Challenge
		if t.Transport.Connected() {
			a.Proof = policy.TCPProof
		}
		if t.Method == sipwire.MethodRegister {
			return Attempt
		}
	case len(t.Nonces) == 0:
		return s.scan(t, a)
	case t.Status < 300:
		if s.letIn(t) {
			s.scans.know(t.Client.Addr(), t.At)
		}
		if s.accepted(t) {
			a.Kind, a.Proof = policy.AuthSuccess, policy.PasswordProof
			return Attempt
		}
	case t.Status == 401 || t.Status == 407 || t.Status == 403:
		if !t.Proceeded { // else the dialplan or the carrier has refused the call
			a.Kind = policy.AuthFailure
			return s.refused(t, a)
		}
	}
	return NoAttempt
}

// challenge notes the nonces of a challenge.
func (s *SIP) challenge(t *sipwire.Transaction) {
	issue := sipwire.Issue{Client: t.Client, Server: t.Server, Method: t.Method, Expires: t.Expires, At: t.At}
	for _, c := range t.Challenges {
		s.nonces.Add(c.Nonce, &issue)
		for _, n := range t.Nonces {
			if c.Stale {
				s.nonces.Reject(n, t.At)
			}
		}
	}
}

// accepted reports whether a success shows that the client knows the password. A profile without authentication accepts any
// invented credentials, so the nonce must be this profile's, for this method, to this address.
func (s *SIP) accepted(t *sipwire.Transaction) bool {
	if t.Method != sipwire.MethodRegister {
		return false
	}
	for _, n := range t.Nonces {
		if standing, own := s.nonces.Look(n, t.Client.Addr(), t.At); own && standing >= sipwire.NonceOld &&
			s.nonces.Issued(n, t.Client.Addr(), t.Server, t.Method) {
			s.nonces.Confirm(n, t.At)
			return true
		}
	}
	return false
}

// letIn reports whether a success answers credentials for a nonce that this profile issued to this address for this method.
func (s *SIP) letIn(t *sipwire.Transaction) bool {
	for _, n := range t.Nonces {
		if standing, own := s.nonces.Look(n, t.Client.Addr(), t.At); own && standing >= sipwire.NonceOld &&
			s.nonces.Issued(n, t.Client.Addr(), t.Server, t.Method) {
			return true
		}
	}
	return false
}

// refused gives a the proof of refused credentials. A 403 says that the server compared a password, so the nonce was not too old.
func (s *SIP) refused(t *sipwire.Transaction, a *policy.Attempt) Outcome {
	enough, recent := sipwire.NonceLive, false
	if t.Status == 403 {
		enough = sipwire.NonceOld
	}
	for _, n := range t.Nonces {
		standing, own := s.nonces.Look(n, t.Client.Addr(), t.At)
		if standing < enough {
			continue
		}
		recent = true
		switch {
		case t.Transport.Connected():
			a.Proof = policy.TCPProof
		case own:
			a.Proof = policy.NonceProof
		}
	}
	switch {
	case a.Proof != policy.UnknownProof:
		return Attempt
	case t.Status == 403 && t.Transport.Connected():
		a.Proof = policy.TCPProof
		return Attempt
	case recent || t.Status == 403:
		a.Proof = policy.NoProof
		return Attempt
	}
	return NoAttempt
}

func methodOf(m sipwire.Method) policy.Method {
	switch m {
	case sipwire.MethodRegister:
		return policy.Register
	case sipwire.MethodInvite:
		return policy.Invite
	case sipwire.MethodSubscribe:
		return policy.Subscribe
	case sipwire.MethodMessage:
		return policy.Message
	case sipwire.MethodPublish:
		return policy.Publish
	case sipwire.MethodOptions:
		return policy.OptionsMethod
	default:
		return policy.OtherMethod
	}
}
