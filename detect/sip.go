package detect

import (
	"time"

	"fsban/policy"
	"fsban/sipwire"
)

// WireOutcomes lists the outcomes of packets.
var WireOutcomes = []Outcome{Attempt, ClockAdrift, NoAttempt, KeepAlive, Malformed, Unproven}

// The outcomes of packets, besides Attempt, ClockAdrift and NoAttempt.
const (
	KeepAlive Outcome = "keep_alive" // no message: it keeps a NAT binding
	Malformed Outcome = "malformed"
	Unproven  Outcome = "unproven" // credentials were refused, and nothing proves that their sender has its address
)

// A SIP turns SIP messages, as they cross the wire, into attempts: refused credentials of every method, and of REGISTER also
// challenges and accepted ones.
//
// FreeSWITCH answers 403 to wrong passwords of REGISTER and INVITE, and a bare 401 to those of other methods. It also answers 401 to an
// expired or invented nonce. So a refusal counts only if its credentials answer a nonce that the server issued recently. Over UDP the
// nonce must have been sent to the same address: then the sender has received a packet there.
//
// It allocates nothing for texts and addresses that it has seen lately, and is not safe for concurrent use.
type SIP struct {
	scanner      *sipwire.Scanner
	transactions *sipwire.Transactions
	nonces       *sipwire.Nonces
	texts        interner
	fault        sipwire.Fault
}

// NewSIP returns a SIP.
func NewSIP() *SIP {
	return &SIP{scanner: sipwire.NewScanner(), transactions: sipwire.NewTransactions(), nonces: sipwire.NewNonces()}
}

// WireStats are the counts of a SIP.
type WireStats struct {
	Evicted   uint64 // requests and nonces forgotten before their time
	Unmatched uint64 // responses without a request
}

// Stats returns the counts so far.
func (s *SIP) Stats() WireStats {
	t := s.transactions.Stats()
	return WireStats{Evicted: t.Evicted + s.nonces.Evicted(), Unmatched: t.Unmatched}
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
	m := s.scanner.Scan(p.Payload)
	switch m.Class {
	case sipwire.KeepAlive:
		return policy.Attempt{}, KeepAlive
	case sipwire.Malformed:
		s.fault = m.Fault
		return policy.Attempt{}, Malformed
	case sipwire.Request, sipwire.Response:
	}
	t := s.transactions.Match(p, m, at)
	if t == nil {
		return policy.Attempt{}, NoAttempt
	}
	found := s.meaning(t, &a)
	if s.nonces.Serves(t.Client.Addr()) { // FreeSWITCH itself, as a client of its carrier
		found = NoAttempt
	}
	if found != Attempt {
		return policy.Attempt{}, found
	}
	a.Addr = t.Client.Addr()
	a.Method = methodOf(t.Method)
	a.User = s.texts.keep(t.User)
	to := s.texts.keep(t.ToUser)
	if a.User == "" {
		a.User = to
	}
	if to != a.User {
		a.Number = to
	}
	a.Domain = s.texts.keep(t.ToHost)
	a.UserAgent = s.texts.keep(t.UserAgent)
	return a, outcome
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
	case t.Status < 300:
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
	case recent || t.Status == 403:
		return Unproven
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
	default:
		return policy.OtherMethod
	}
}
