package detect

import (
	"bytes"
	"hash/maphash"
	"net/netip"
	"time"

	"fsban/policy"
	"fsban/sipwire"
)

// A LoginID identifies a request with credentials: by its Call-ID, and the address and port of its sender.
type LoginID struct {
	Addr netip.Addr
	Port uint16
	Call uint64 // hash of the Call-ID
}

// A Login is a request with credentials, as a tap saw it.
type Login struct {
	ID        LoginID
	Transport policy.Transport
	Proof     policy.Proof // NoProof: the request does not show one, but its answer may
}

// JoinTime is how long a failed login waits for its request at most.
const JoinTime = 50 * time.Millisecond

const (
	maxSeen     = 1 << 15 // two for each request: by its LoginID, and by that without the Call-ID
	maxWaiting  = 4096
	seenSetSize = 8

	// loginTime is how long a request is remembered. FreeSWITCH's event follows within milliseconds, except on a busy one.
	loginTime = 2 * time.Second
)

// A Join gives failed logins that the event socket reports the transport of their request, which a tap sees, and the proof of its
// sender's address. A proven request is joined at once. Otherwise the failed login waits for JoinTime, because the request or its answer
// may be on its way; then it has NoProof if the tap saw a request with credentials from its address and port, and else stays without.
//
// A proof needs the same Call-ID: a stranger cannot know that of a proven sender. Of several requests of one LoginID the proven one
// counts, so nobody can hide a guess behind a forged copy.
//
// It is pure: time comes with the calls. A full table forgets the oldest requests, and beyond maxWaiting nothing waits; both are
// counted. It is not safe for concurrent use.
type Join struct {
	seed    maphash.Seed
	seen    []seenLogin
	waiting []waitingLogin // the longest waiting first
	waits   map[uint64]int // number of waiting by key
	joined  []Joined
	stats   JoinStats
}

// A seenLogin has no pointers.
type seenLogin struct {
	key       uint64
	at        int64 // unix microseconds
	transport policy.Transport
	proof     policy.Proof
}

type waitingLogin struct {
	key  uint64
	id   LoginID
	done bool
	Joined
}

// A Joined is a failed login that waits no more.
type Joined struct {
	Attempt policy.Attempt
	Read    time.Time // as Attempt was given it
}

// JoinStats are the counts of a Join.
type JoinStats struct {
	Proofs  [policy.NumProofs]uint64 // failed logins by their proof; UnknownProof: the tap has not seen the request
	Evicted uint64                   // requests forgotten before their time
	Crowded uint64                   // failed logins that could not wait
}

// NewJoin returns an empty Join.
func NewJoin() *Join {
	return &Join{seed: maphash.MakeSeed(), seen: make([]seenLogin, maxSeen), waits: make(map[uint64]int)}
}

// Stats returns the counts so far.
func (j *Join) Stats() JoinStats { return j.stats }

// Saw notes a request that a tap saw, and returns the failed logins that waited for it, valid until the next call.
func (j *Join) Saw(l *Login, now time.Time) []Joined {
	j.joined = j.joined[:0]
	key := j.key(&l.ID)
	seen := j.note(key, l, now)
	sender := l.ID
	sender.Call = 0
	j.note(j.key(&sender), l, now)
	if seen.proof == policy.NoProof || j.waits[key] == 0 {
		return nil
	}
	for i := range j.waiting {
		if w := &j.waiting[i]; w.key == key && !w.done {
			w.done = true
			j.finish(&w.Attempt, seen.transport, seen.proof)
			j.joined = append(j.joined, w.Joined)
		}
	}
	delete(j.waits, key)
	j.trim()
	return j.joined
}

// Attempt gives a failed login the transport and the proof of its request. It returns false if the attempt waits: Saw or Due will return
// it. read is when it was read.
func (j *Join) Attempt(a *policy.Attempt, id LoginID, read time.Time) (ready bool) {
	key := j.key(&id)
	if seen := j.find(key, read); seen != nil && seen.proof != policy.NoProof {
		j.finish(a, seen.transport, seen.proof)
		return true
	}
	if len(j.waiting) >= maxWaiting {
		j.stats.Crowded++
		j.settle(a, &id, read)
		return true
	}
	j.waiting = append(j.waiting, waitingLogin{key: key, id: id, Joined: Joined{*a, read}})
	j.waits[key]++
	return false
}

// Due returns the failed logins whose JoinTime is over, valid until the next call.
func (j *Join) Due(now time.Time) []Joined {
	j.joined = j.joined[:0]
	for i := range j.waiting {
		w := &j.waiting[i]
		if w.done {
			continue
		}
		if now.Sub(w.Read) < JoinTime {
			break
		}
		w.done = true
		if j.waits[w.key]--; j.waits[w.key] == 0 {
			delete(j.waits, w.key)
		}
		j.settle(&w.Attempt, &w.id, now)
		j.joined = append(j.joined, w.Joined)
	}
	j.trim()
	return j.joined
}

// Next returns when the next failed login is due; ok is false if none waits.
func (j *Join) Next() (at time.Time, ok bool) {
	if len(j.waiting) == 0 {
		return time.Time{}, false
	}
	return j.waiting[0].Read.Add(JoinTime), true
}

// trim removes the failed logins at the head that wait no more.
func (j *Join) trim() {
	n := 0
	for n < len(j.waiting) && j.waiting[n].done {
		j.waiting[n] = waitingLogin{}
		n++
	}
	if j.waiting = j.waiting[n:]; len(j.waiting) == 0 {
		j.waiting = nil
	}
}

// settle ends the wait for a proof.
func (j *Join) settle(a *policy.Attempt, id *LoginID, now time.Time) {
	sender := *id
	sender.Call = 0
	if seen := j.find(j.key(id), now); seen != nil {
		j.finish(a, seen.transport, policy.NoProof)
	} else if seen := j.find(j.key(&sender), now); seen != nil {
		j.finish(a, seen.transport, policy.NoProof)
	} else {
		j.finish(a, policy.UnknownTransport, policy.UnknownProof)
	}
}

func (j *Join) finish(a *policy.Attempt, transport policy.Transport, proof policy.Proof) {
	a.Transport, a.Proof = transport, proof
	j.stats.Proofs[proof]++
}

// note remembers a request under a key, with the best proof of those with that key.
func (j *Join) note(key uint64, l *Login, now time.Time) *seenLogin {
	e, us := j.find(key, now), now.UnixMicro()
	if e == nil {
		set := j.set(key)
		e = &set[0]
		for i := range set {
			if set[i].at < e.at {
				e = &set[i]
			}
		}
		if e.key != 0 && us-e.at <= loginTime.Microseconds() {
			j.stats.Evicted++
		}
		*e = seenLogin{key: key, proof: policy.NoProof}
	}
	e.at = us
	if e.proof == policy.NoProof || l.Proof == policy.TCPProof {
		e.transport, e.proof = l.Transport, l.Proof
	}
	return e
}

// find returns the request of a key, if it is not too old.
func (j *Join) find(key uint64, now time.Time) *seenLogin {
	set := j.set(key)
	for i := range set {
		if e := &set[i]; e.key == key && now.UnixMicro()-e.at <= loginTime.Microseconds() {
			return e
		}
	}
	return nil
}

func (j *Join) key(id *LoginID) uint64 { return maphash.Comparable(j.seed, *id) | 1 }

func (j *Join) set(key uint64) []seenLogin {
	first := key / seenSetSize % (maxSeen / seenSetSize) * seenSetSize
	return j.seen[first : first+seenSetSize]
}

// callSeed makes the hash of a Call-ID on the event socket that of the same one on the wire.
var callSeed = maphash.MakeSeed()

// callOf hashes a Call-ID as an event has it.
func callOf(id []byte) uint64 { return maphash.Bytes(callSeed, id) | 1 }

// callOnWire hashes a Call-ID as a message has it. FreeSWITCH leaves %XX with capital digits as it is when it encodes an event, so an
// event has the byte in its place.
func callOnWire(id []byte) uint64 {
	if bytes.IndexByte(id, '%') < 0 {
		return callOf(id)
	}
	var decoded []byte
	for i := 0; i < len(id); i++ {
		c := id[i]
		if c == '%' && i+2 < len(id) {
			high, low := capitalHex(id[i+1]), capitalHex(id[i+2])
			if high >= 0 && low >= 0 {
				c = byte(high<<4 | low)
				i += 2
			}
		}
		decoded = append(decoded, c)
	}
	return callOf(decoded)
}

// capitalHex returns the value of a digit, -1 if it is none.
func capitalHex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// Login returns the request with credentials in the packet that was read last; ok is false if it holds none. A request whose address the
// tap does not know becomes one with its answer.
func (s *SIP) Login() (l *Login, ok bool) { return &s.login, s.hasLogin }

// request notes a request with credentials. Its transport proves nothing yet: the packets of a connection can be forged too, and only
// FreeSWITCH's answer shows that there is one.
func (s *SIP) noteRequest(p *sipwire.Packet, m *sipwire.Message, at time.Time) {
	if m.Class != sipwire.Request || len(m.Credentials) == 0 || p.From.Addr().IsUnspecified() {
		return
	}
	s.setLogin(p.From, m, p.Transport)
	for _, c := range m.Credentials {
		s.proveLogin(c.Nonce, at)
	}
}

// noteAnswer notes an answered request with credentials.
func (s *SIP) noteAnswer(t *sipwire.Transaction, m *sipwire.Message) {
	if len(t.Nonces) == 0 {
		return
	}
	s.setLogin(t.Client, m, t.Transport)
	if t.Transport.Connected() {
		s.login.Proof = policy.TCPProof
		return
	}
	for _, n := range t.Nonces {
		s.proveLogin(n, t.At)
	}
}

func (s *SIP) setLogin(from netip.AddrPort, m *sipwire.Message, over sipwire.Transport) {
	s.hasLogin = true
	s.login = Login{
		ID: LoginID{Addr: from.Addr(), Port: from.Port(), Call: callOnWire(m.CallID)}, Transport: transportOf(over), Proof: policy.NoProof,
	}
}

// proveLogin notes that the credentials of the login answer a nonce.
func (s *SIP) proveLogin(n sipwire.Nonce, at time.Time) {
	if standing, own := s.nonces.Look(n, s.login.ID.Addr, at); own && standing >= sipwire.NonceOld {
		s.login.Proof = policy.NonceProof
	}
}

func transportOf(t sipwire.Transport) policy.Transport {
	switch t {
	case sipwire.TCP:
		return policy.TCP
	case sipwire.TLS:
		return policy.TLS
	default:
		return policy.UDP
	}
}
