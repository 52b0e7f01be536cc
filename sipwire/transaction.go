package sipwire

import (
	"hash/maphash"
	"net/netip"
	"time"
)

const (
	maxTransactions = 1 << 15
	setSize         = 8  // entries of a set of a table: a new entry takes the place of the oldest in its set
	maxText         = 64 // bytes kept of a user and of a user agent

	// lifetime is that of a transaction by the timers B, F, H and J of RFC 3261: 64 times T1.
	lifetime = 32 * time.Second

	// hastiest is the shortest time between a request and its retransmission: half of T1.
	hastiest = 250 * time.Millisecond
)

// A Transaction is a request with its final response.
type Transaction struct {
	Client, Server netip.AddrPort // Client has the address that the server saw
	Transport      Transport
	Method         Method
	Status         int
	At             time.Time // of the response
	Call           uint64    // hash of the Call-ID
	User           []byte    // of the first credentials
	UserAgent      []byte    // of the request
	ToUser, ToHost []byte
	Nonces         []Nonce     // of the request's credentials
	Challenges     []Challenge // of the response
	Expires        time.Duration
	Proceeded      bool   // a provisional response came first, or the final one has a Reason: the request was let in
	InDialog       bool   // the request's To had a tag
	Target         uint64 // hash of the request's URI and of the user of To
}

// TransactionStats are the counts of a Transactions.
type TransactionStats struct {
	Evicted   uint64 // requests without a response whose place was needed
	Unmatched uint64 // final responses without a request
}

// Transactions match final responses to their requests, by branch, sent-by, Call-ID, CSeq, tag of From, the client's address and the
// server's address and port. A retransmission is none. It holds maxTransactions for lifetime. It allocates only when made.
type Transactions struct {
	seed    maphash.Seed
	hash    maphash.Hash
	entries []entry
	servers [1 << 16 / 64]uint64 // ports at which registrars with unknown addresses were addressed: a bit each
	fresh   bool                 // of the last message
	result  Transaction
	stats   TransactionStats
}

// An entry is a transaction in the table.
type entry struct {
	key         uint64
	content     uint64 // hash of the request
	at          int64  // unix microseconds
	copied      int64  // of the newest copy of the request
	port        uint16 // of the client
	target      uint64
	open        uint8 // requests of this key without a final response
	copies      uint8 // of the request, each sooner than a retransmission behind the one before
	numNonces   uint8
	userLen     uint8
	agentLen    uint8
	proceeded   bool
	inDialog    bool
	expires     uint32
	nonces      [maxDigests]Nonce
	user, agent [maxText]byte
}

// NewTransactions returns an empty Transactions.
func NewTransactions() *Transactions {
	t := &Transactions{seed: maphash.MakeSeed(), entries: make([]entry, maxTransactions)}
	t.hash.SetSeed(t.seed)
	return t
}

// Stats returns the counts so far.
func (t *Transactions) Stats() TransactionStats { return t.stats }

// Fresh reports whether the last message was a request and no retransmission, or a response and the first to its request. Copies of a
// request that follow each other faster than retransmissions are requests, but for the first copy: that may be of another tap.
func (t *Transactions) Fresh() bool { return t.fresh }

// Match takes a message that crossed the wire at a time, and returns the transaction that it completes, valid until the next call, or nil.
func (t *Transactions) Match(p *Packet, m *Message, at time.Time) *Transaction {
	t.fresh = false
	switch m.Class {
	case Request:
		if t.fresh = true; m.Method != MethodAck {
			t.fresh = t.request(p, m, at.UnixMicro())
		}
	case Response:
		return t.response(p, m, at)
	}
	return nil
}

// request reports whether a request is no retransmission.
func (t *Transactions) request(p *Packet, m *Message, at int64) (fresh bool) {
	if m.Method == MethodRegister && p.To.Addr().IsUnspecified() {
		t.servers[p.To.Port()/64] |= 1 << (p.To.Port() % 64)
	}
	key := t.key(m, p.From.Addr(), p.To)
	content := maphash.Bytes(t.seed, p.Payload)
	e := t.find(key, at)
	switch {
	case e == nil:
		e = t.place(key, at)
		*e = entry{key: key}
	case e.content == content:
		if e.copies++; at-e.copied >= hastiest.Microseconds() {
			e.copies = 0
		}
		e.copied = at
		return e.copies > 1
	}
	// Another request of the same key has a response of its own.
	if e.open < 255 {
		e.open++
	}
	e.content, e.at, e.copied, e.port, e.expires = content, at, at, p.From.Port(), m.Expires
	e.copies, e.proceeded, e.inDialog, e.target = 0, false, m.InDialog, maphash.Bytes(t.seed, m.Target)+maphash.Bytes(t.seed, m.ToUser)
	for _, c := range m.Credentials {
		e.nonces[e.numNonces%maxDigests] = c.Nonce
		e.numNonces++
	}
	if len(m.Credentials) > 0 {
		e.userLen = uint8(copy(e.user[:], m.Credentials[0].User))
	}
	e.agentLen = uint8(copy(e.agent[:], m.UserAgent))
	return true
}

func (t *Transactions) response(p *Packet, m *Message, at time.Time) *Transaction {
	e := t.find(t.key(m, p.To.Addr(), p.From), at.UnixMicro())
	if m.Status < 200 {
		if e != nil {
			t.fresh = !e.proceeded
			e.proceeded = true
		}
		return nil
	}
	t.fresh = e == nil || !e.proceeded
	if e == nil {
		t.stats.Unmatched++
		return nil
	}
	if e.open == 0 {
		return nil
	}
	e.open--
	client := netip.AddrPortFrom(p.To.Addr(), e.port)
	if client.Addr().IsUnspecified() {
		addr, ok := t.viaAddr(m, e.port)
		if !ok {
			t.stats.Unmatched++
			return nil
		}
		client = netip.AddrPortFrom(addr, e.port)
	}
	t.result = Transaction{
		Client: client, Server: p.From, Transport: p.Transport, Method: m.Method, Status: m.Status, At: at,
		Call: maphash.Bytes(t.seed, m.CallID), User: e.user[:e.userLen], UserAgent: e.agent[:e.agentLen], ToUser: m.ToUser, ToHost: m.ToHost,
		Nonces: e.nonces[:min(e.numNonces, maxDigests)], Challenges: m.Challenges, Expires: time.Duration(e.expires) * time.Second,
		Proceeded: e.proceeded || m.Reason, InDialog: e.inDialog, Target: e.target,
	}
	return &t.result
}

// viaAddr returns the client's address from the topmost Via of a response, in which the server has noted it. The response of a
// client, from a port of a registrar to another one, would be taken for the server's, and its Via for the server's word: port is
// that of the client, and none of a registrar.
func (t *Transactions) viaAddr(m *Message, port uint16) (netip.Addr, bool) {
	if t.servers[port/64]&(1<<(port%64)) != 0 {
		return netip.Addr{}, false
	}
	text := m.Via.Received
	if len(text) == 0 {
		text = m.Via.Host
	}
	return parseAddr(text)
}

// key hashes the common parts of a request and its response.
func (t *Transactions) key(m *Message, client netip.Addr, server netip.AddrPort) uint64 {
	h := &t.hash
	h.Reset()
	for _, text := range [...][]byte{m.Via.Branch, m.Via.Host, m.Via.Port, m.CallID, m.FromTag, m.MethodName} {
		_, _ = h.Write(text)
		_ = h.WriteByte('\n')
	}
	a, b := client.As16(), server.Addr().As16()
	_, _ = h.Write(a[:])
	_, _ = h.Write(b[:])
	_, _ = h.Write([]byte{
		byte(server.Port() >> 8), byte(server.Port()),
		byte(m.CSeq >> 24), byte(m.CSeq >> 16), byte(m.CSeq >> 8), byte(m.CSeq),
	})
	return h.Sum64() | 1
}

// find returns the entry of key, if it is not too old.
func (t *Transactions) find(key uint64, at int64) *entry {
	set := t.set(key)
	for i := range set {
		if e := &set[i]; e.key == key && at-e.at <= lifetime.Microseconds() {
			return e
		}
	}
	return nil
}

// place returns an entry for key: that of key, a free one, or the oldest of its set.
func (t *Transactions) place(key uint64, at int64) *entry {
	set := t.set(key)
	oldest := &set[0]
	for i := range set {
		e := &set[i]
		if e.key == key {
			return e
		}
		if e.at < oldest.at {
			oldest = e
		}
	}
	if oldest.open > 0 && at-oldest.at <= lifetime.Microseconds() {
		t.stats.Evicted++
	}
	return oldest
}

func (t *Transactions) set(key uint64) []entry {
	first := key / setSize % (maxTransactions / setSize) * setSize
	return t.entries[first : first+setSize]
}
