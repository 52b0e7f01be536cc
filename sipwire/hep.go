package sipwire

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"
)

// Errors of ParseHEP.
var (
	ErrHEP      = errors.New("no HEP datagram of version 1, 2 or 3")
	ErrHEPOther = errors.New("HEP datagram without SIP") // RTCP, logs, reports and compressed payloads
)

// Chunks of HEP 3 that are read, all of the generic vendor 0. Times are in big endian.
const (
	hepProtocol    = 2
	hepSource4     = 3
	hepDest4       = 4
	hepSource6     = 5
	hepDest6       = 6
	hepSourcePort  = 7
	hepDestPort    = 8
	hepSeconds     = 9
	hepMicros      = 10
	hepPayloadType = 11
	hepPayload     = 15
)

const hepSIP = 1 // payload type

// ParseHEP reads a HEP datagram of version 1, 2 or 3 into p. The payload is a part of the datagram. mod_sofia leaves IPv6 addresses
// unspecified.
func ParseHEP(datagram []byte, p *Packet) error {
	*p = Packet{}
	switch {
	case len(datagram) > MaxMessage:
		return ErrHEP
	case len(datagram) >= 6 && string(datagram[:4]) == "HEP3":
		return parseHEP3(datagram, p)
	case len(datagram) >= 8 && (datagram[0] == 1 || datagram[0] == 2):
		return parseHEP12(datagram, p)
	}
	return ErrHEP
}

func parseHEP3(b []byte, p *Packet) error {
	total := int(binary.BigEndian.Uint16(b[4:]))
	if total < 6 || total > len(b) {
		return ErrHEP
	}
	var from, to netip.Addr
	var fromPort, toPort uint16
	var seconds, micros uint32
	payloadType := byte(hepSIP)
	for b = b[6:total]; len(b) > 0; {
		if len(b) < 6 {
			return ErrHEP
		}
		vendor, kind, length := binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]), int(binary.BigEndian.Uint16(b[4:]))
		if length < 6 || length > len(b) {
			return ErrHEP
		}
		value := b[6:length]
		b = b[length:]
		if vendor != 0 {
			continue
		}
		ok := true
		switch kind {
		case hepProtocol:
			if ok = len(value) == 1; ok {
				p.Transport = transportOf(value[0])
			}
		case hepSource4, hepSource6:
			from, ok = addrOf(value)
		case hepDest4, hepDest6:
			to, ok = addrOf(value)
		case hepSourcePort:
			fromPort, ok = uint16Of(value)
		case hepDestPort:
			toPort, ok = uint16Of(value)
		case hepSeconds:
			seconds, ok = uint32Of(value)
		case hepMicros:
			micros, ok = uint32Of(value)
		case hepPayloadType:
			if ok = len(value) == 1; ok {
				payloadType = value[0]
			}
		case hepPayload:
			p.Payload = value
		}
		if !ok {
			return ErrHEP
		}
	}
	if payloadType != hepSIP || p.Payload == nil {
		return ErrHEPOther
	}
	if !from.IsValid() || !to.IsValid() {
		return ErrHEP
	}
	p.From, p.To = netip.AddrPortFrom(from, fromPort), netip.AddrPortFrom(to, toPort)
	p.At = hepTime(seconds, micros)
	return nil
}

// parseHEP12 reads version 1 and 2: a header of eight bytes, two addresses, and in version 2 a time, in the byte order of its sender.
func parseHEP12(b []byte, p *Packet) error {
	const inet = 2
	version, size := b[0], 4
	if b[2] != inet {
		size = 16
	}
	header := 8 + 2*size
	if int(b[1]) != header && (version != 2 || int(b[1]) != header+12) { // version 2 counts its time, or does not
		return ErrHEP
	}
	if version == 2 {
		header += 12
	}
	if len(b) < header {
		return ErrHEP
	}
	p.Transport = transportOf(b[3])
	from, _ := addrOf(b[8 : 8+size])
	to, _ := addrOf(b[8+size : 8+2*size])
	p.From = netip.AddrPortFrom(from, binary.BigEndian.Uint16(b[4:]))
	p.To = netip.AddrPortFrom(to, binary.BigEndian.Uint16(b[6:]))
	if version == 2 {
		t := b[header-12:]
		seconds, micros := binary.LittleEndian.Uint32(t), binary.LittleEndian.Uint32(t[4:])
		if micros >= 1e6 {
			seconds, micros = binary.BigEndian.Uint32(t), binary.BigEndian.Uint32(t[4:])
		}
		p.At = hepTime(seconds, micros)
	}
	p.Payload = b[header:]
	return nil
}

func hepTime(seconds, micros uint32) time.Time {
	if seconds == 0 || micros >= 1e6 {
		return time.Time{}
	}
	return time.Unix(int64(seconds), int64(micros)*1000)
}

// transportOf returns the transport of an IP protocol number. sofia-sip writes 22 for TLS. SCTP, like TCP, has a handshake.
func transportOf(protocol byte) Transport {
	switch protocol {
	case 6, 132:
		return TCP
	case 22:
		return TLS
	}
	return UDP
}

func addrOf(b []byte) (netip.Addr, bool) {
	addr, ok := netip.AddrFromSlice(b)
	return addr.Unmap(), ok
}

func uint16Of(b []byte) (uint16, bool) {
	if len(b) != 2 {
		return 0, false
	}
	return binary.BigEndian.Uint16(b), true
}

func uint32Of(b []byte) (uint32, bool) {
	if len(b) != 4 {
		return 0, false
	}
	return binary.BigEndian.Uint32(b), true
}
