// Package sipwire reads SIP as it crosses the wire: packets, HEP datagrams, messages, transactions and nonces.
//
// It knows no policy. Input is hostile: every function accepts any bytes, every table is bounded, and evictions are counted.
// Digests, message bodies and session descriptions never leave the scanner; of a nonce only a hash does.
//
// Nothing here performs I/O, except a Recording on its reader, or reads the clock: time comes with the packets.
package sipwire

import (
	"net/netip"
	"time"
)

// MaxMessage is the largest message or datagram in bytes.
const MaxMessage = 1<<16 - 1

// A Transport is the transport of a message, as the tap saw it, not as its Via claims.
type Transport uint8

// The transports. WebSocket connections count as TCP or TLS.
const (
	UDP Transport = iota
	TCP
	TLS
)

func (t Transport) String() string { return [...]string{"UDP", "TCP", "TLS"}[t] }

// Connected reports whether a message of t has a proven sender: its connection needed a handshake.
func (t Transport) Connected() bool { return t != UDP }

// A Packet is one SIP message with its addresses.
type Packet struct {
	From, To  netip.AddrPort // never IPv4-mapped; an unspecified address is unknown to the tap
	Transport Transport
	At        time.Time // zero: unknown
	Cut       bool      // the tap lacks a part of the message, or found it in the middle of a stream: a fault in it may be the tap's
	Payload   []byte    // owned by the tap, valid until its next packet
}
