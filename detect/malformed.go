package detect

import (
	"hash/maphash"
	"time"

	"fsban/policy"
	"fsban/sipwire"
)

// maxWord is the length of a text that is not SIP up to which it may keep a NAT binding: devices send all kinds of words for that.
const maxWord = 32

// Faults lists the faults of malformed messages that count.
var Faults = []string{
	string(sipwire.BadStartLine), string(sipwire.BadVersion), string(sipwire.BadVia), string(sipwire.BadFrom), string(sipwire.BadTo),
	string(sipwire.BadCallID), string(sipwire.BadCSeq),
}

// harmful reports whether a malformed message counts: a request that FreeSWITCH refuses too.
//
// Never counted are answers, because FreeSWITCH's own to a malformed request are malformed too; messages that the tap may have cut; more
// credentials than the scanner keeps; and datagrams that are neither SIP nor a text, such as stray media.
func harmful(p *sipwire.Packet, m *sipwire.Message) bool {
	if p.Cut || m.Status > 0 || p.From.Addr().IsUnspecified() {
		return false
	}
	switch m.Fault {
	case sipwire.BadVersion, sipwire.BadVia, sipwire.BadFrom, sipwire.BadTo, sipwire.BadCallID, sipwire.BadCSeq:
		return true
	case sipwire.BadStartLine:
		return !p.Transport.Connected() && isText(p.Payload)
	}
	return false
}

// isText reports whether a datagram is a text, longer than those that only keep a NAT binding. A tap of a connection may begin in the
// middle of a message, so datagrams alone are asked.
func isText(b []byte) bool {
	if len(b) <= maxWord {
		return false
	}
	for _, c := range b[:maxWord] {
		if (c < ' ' || c > '~') && c != '\r' && c != '\n' && c != '\t' {
			return false
		}
	}
	return true
}

// A garbled remembers the last malformed message that counts: its first copy right behind it may be of another tap.
type garbled struct {
	seed maphash.Seed
	hash uint64
	at   time.Time
}

// copied reports whether a message is such a copy.
func (g *garbled) copied(payload []byte, at time.Time) bool {
	const soon = 250 * time.Millisecond // before a retransmission
	hash := maphash.Bytes(g.seed, payload) | 1
	if hash == g.hash && at.Sub(g.at) < soon {
		g.hash = 0
		return true
	}
	g.hash, g.at = hash, at
	return false
}

// malformed gives a the contents of an attempt, if a malformed message counts.
func (s *SIP) malformed(p *sipwire.Packet, m *sipwire.Message, at time.Time, a *policy.Attempt) Outcome {
	s.fault = m.Fault
	if !harmful(p, m) || s.isServer(p.From.Addr()) || s.garbled.copied(p.Payload, at) {
		return Malformed
	}
	a.Kind, a.Method, a.Detail = policy.Malformed, methodOf(m.Method), string(m.Fault)
	a.UserAgent = s.texts.keep(m.UserAgent)
	s.claim(a, p.From.Addr(), p.Transport)
	return Attempt
}
