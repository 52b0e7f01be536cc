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
	Proceeded      bool // a provisional response came first, or the final one has a Reason: the request was let in
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
	result  Transaction
	stats   TransactionStats
}

// An entry is a transaction in the table.
type entry struct {
	key         uint64
	content     uint64 // hash of the request
	at          int64  // unix microseconds
	port        uint16 // of the client
	open        uint8  // requests of this key without a final response
	numNonces   uint8
	userLen     uint8
	agentLen    uint8
	proceeded   bool
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

// Match takes a message that crossed the wire at a time, and returns the transaction that it completes, valid until the next call, or nil.
func (t *Transactions) Match(p *Packet, m *Message, at time.Time) *Transaction {
	switch m.Class {
	case Request:
		if m.Method != MethodAck {
			t.request(p, m, at.UnixMicro())
		}
	case Response:
		return t.response(p, m, at)
	}
	return nil
}

func (t *Transactions) request(p *Packet, m *Message, at int64) {
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
		return
	}
	// Another request of the same key has a response of its own.
	if e.open < 255 {
		e.open++
	}
	e.content, e.at, e.port, e.expires, e.proceeded = content, at, p.From.Port(), m.Expires, false
	for _, c := range m.Credentials {
		e.nonces[e.numNonces%maxDigests] = c.Nonce
		e.numNonces++
	}
	if len(m.Credentials) > 0 {
		e.userLen = uint8(copy(e.user[:], m.Credentials[0].User))
	}
	e.agentLen = uint8(copy(e.agent[:], m.UserAgent))
}

func (t *Transactions) response(p *Packet, m *Message, at time.Time) *Transaction {
	e := t.find(t.key(m, p.To.Addr(), p.From), at.UnixMicro())
	if m.Status < 200 {
		if e != nil {
			e.proceeded = true
		}
		return nil
	}
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
		Proceeded: e.proceeded || m.Reason,
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
