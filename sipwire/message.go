package sipwire

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
)

// A Class is the kind of a payload.
type Class uint8

// The classes.
const (
	Malformed Class = iota
	Request
	Response
	KeepAlive // blank lines, NUL bytes, or STUN: phones send them to keep a NAT binding
)

// A Method is the method of a request, or of the request that a response answers.
type Method uint8

// The methods. MethodUnknown is any other.
const (
	MethodUnknown Method = iota
	MethodRegister
	MethodInvite
	MethodSubscribe
	MethodMessage
	MethodPublish
	MethodOptions
	MethodNotify
	MethodAck
	MethodBye
	MethodCancel
	MethodInfo
	MethodRefer
	MethodUpdate
	MethodPrack
)

var methodNames = [...]string{
	"", "REGISTER", "INVITE", "SUBSCRIBE", "MESSAGE", "PUBLISH", "OPTIONS", "NOTIFY", "ACK", "BYE", "CANCEL", "INFO", "REFER", "UPDATE",
	"PRACK",
}

func (m Method) String() string { return methodNames[m] }

func methodOf(name []byte) Method {
	for m := MethodRegister; int(m) < len(methodNames); m++ {
		if string(name) == methodNames[m] {
			return m
		}
	}
	return MethodUnknown
}

// A Fault is the first thing wrong with a malformed message.
type Fault string

// The faults: a closed set, safe as a metric label.
const (
	BadStartLine   Fault = "start_line"
	BadVersion     Fault = "version"
	BadVia         Fault = "via"
	BadFrom        Fault = "from"
	BadTo          Fault = "to"
	BadCallID      Fault = "call_id"
	BadCSeq        Fault = "cseq"
	BadCredentials Fault = "credentials" // more than maxDigests
	TooLong        Fault = "too_long"    // beyond MaxMessage
)

// maxDigests bounds the credentials, and the challenges, of a message.
const maxDigests = 4

// A Via is the topmost Via of a message.
type Via struct {
	Host     []byte // of sent-by, without the brackets of an IPv6 address
	Port     []byte
	Branch   []byte
	Received []byte // without brackets
}

// A Nonce is the hash of a nonce. It differs between Scanners.
type Nonce uint64

// Credentials are one Authorization or Proxy-Authorization of a request.
type Credentials struct {
	User  []byte
	Nonce Nonce
}

// A Challenge is one WWW-Authenticate or Proxy-Authenticate of a response.
type Challenge struct {
	Nonce Nonce
	Stale bool
}

// A Message is a scanned message. Its slices are parts of the payload: untrusted, and valid as long as that.
type Message struct {
	Class       Class
	Fault       Fault // of a malformed message
	Method      Method
	MethodName  []byte
	Target      []byte // request URI
	Status      int    // of a response
	Via         Via
	FromTag     []byte
	ToUser      []byte
	ToHost      []byte
	InDialog    bool // To has a tag
	CallID      []byte
	CSeq        uint32
	UserAgent   []byte
	Expires     uint32 // seconds: the longest of Expires and of the first Contact
	Reason      bool   // a response with a Reason: a call ended, no login was refused
	Credentials []Credentials
	Challenges  []Challenge

	seen seen
}

// seen are the headers of which the first was read.
type seen struct{ via, to, from, cseq bool }

// A Scanner scans messages, one after the other, without allocation. It is not safe for concurrent use.
type Scanner struct {
	seed        maphash.Seed
	message     Message
	credentials [maxDigests]Credentials
	challenges  [maxDigests]Challenge
	digests     int // of the message, those beyond the bound included
	plain       [128]byte
}

// NewScanner returns a Scanner.
func NewScanner() *Scanner { return &Scanner{seed: maphash.MakeSeed()} }

// Scan scans a payload. The result is valid until the next call. Lines end with CR, LF or both, as sofia-sip reads them. Of
// repeated headers the first counts, of Via the topmost; all credentials and challenges do.
func (s *Scanner) Scan(payload []byte) *Message {
	m := &s.message
	*m = Message{Credentials: s.credentials[:0], Challenges: s.challenges[:0]}
	s.digests = 0
	if keepAlive(payload) {
		m.Class = KeepAlive
		return m
	}
	if len(payload) > MaxMessage {
		m.Fault = TooLong
		return m
	}
	lines := newLines(bytes.TrimLeft(payload, "\r\n"))
	class, fault := startLine(m, lines.next())
	if fault == BadStartLine {
		m.Fault = fault
		return m
	}
	for line := lines.next(); len(line) > 0; line = lines.next() {
		if colon := bytes.IndexByte(line, ':'); colon > 0 {
			s.header(trimRight(line[:colon]), trim(line[colon+1:]))
		}
	}
	if fault == "" {
		fault = s.missing()
	}
	if m.Fault = fault; fault == "" {
		m.Class = class
	}
	return m
}

// missing returns the first fault of the headers.
func (s *Scanner) missing() Fault {
	m := &s.message
	switch {
	case len(m.Via.Host) == 0:
		return BadVia
	case !m.seen.from:
		return BadFrom
	case !m.seen.to:
		return BadTo
	case len(m.CallID) == 0:
		return BadCallID
	case !m.seen.cseq:
		return BadCSeq
	case s.digests > maxDigests:
		return BadCredentials
	}
	return ""
}

// keepAlive reports whether a payload is empty, blank, NULs, a word of four bytes or less as some phones send it, or STUN.
func keepAlive(b []byte) bool {
	const cookie = 0x2112A442
	if len(b) <= 4 || len(b) >= 20 && b[0] < 4 && binary.BigEndian.Uint32(b[4:]) == cookie {
		return true
	}
	for _, c := range b {
		if c != '\r' && c != '\n' && c != 0 && c != ' ' && c != '\t' {
			return false
		}
	}
	return true
}

// startLine reads a request line or a status line into m. After a wrong version the rest is still read.
func startLine(m *Message, line []byte) (Class, Fault) {
	if isVersion(line) || hasPrefixFold(line, "sip/") && bytes.IndexByte(line, ' ') < len("SIP/2.0")+1 {
		version, rest, _ := bytes.Cut(line, []byte{' '})
		code, _, _ := bytes.Cut(trim(rest), []byte{' '})
		n, ok := number(code)
		if !ok || n < 100 || n > 699 {
			return Response, BadStartLine
		}
		m.Status = int(n)
		if !isVersion(version) {
			return Response, BadVersion
		}
		return Response, ""
	}
	first, last := bytes.IndexByte(line, ' '), bytes.LastIndexByte(trimRight(line), ' ')
	if first <= 0 || last <= first || !isToken(line[:first]) {
		return Request, BadStartLine
	}
	m.MethodName = line[:first]
	m.Method = methodOf(m.MethodName)
	m.Target = trim(line[first:last])
	version := trim(line[last:])
	switch {
	case !hasPrefixFold(version, "sip/"):
		return Request, BadStartLine
	case !isVersion(version):
		return Request, BadVersion
	}
	return Request, ""
}

func isVersion(b []byte) bool {
	const version = "sip/2.0"
	return hasPrefixFold(b, version) && (len(b) == len(version) || b[len(version)] == ' ')
}

// header takes the header name from its value, if it is one of those that count.
func (s *Scanner) header(name, value []byte) {
	m := &s.message
	switch fieldOf(name) {
	case fieldVia:
		if !m.seen.via {
			m.Via, m.seen.via = parseVia(value), true
		}
	case fieldFrom:
		if !m.seen.from {
			_, _, m.FromTag, m.seen.from = parseNameAddr(value)
		}
	case fieldTo:
		if !m.seen.to {
			var tag []byte
			m.ToUser, m.ToHost, tag, m.seen.to = parseNameAddr(value)
			m.InDialog = len(tag) > 0
		}
	case fieldCallID:
		if len(m.CallID) == 0 {
			m.CallID = value
		}
	case fieldCSeq:
		s.readCSeq(value)
	case fieldUserAgent:
		if len(m.UserAgent) == 0 {
			m.UserAgent = value
		}
	case fieldExpires:
		m.expires(value)
	case fieldContact:
		m.expires(contactExpires(value))
	case fieldReason:
		m.Reason = true
	case fieldCredentials:
		s.digest(value, true)
	case fieldChallenge:
		s.digest(value, false)
	}
}

func (m *Message) expires(value []byte) {
	if n, ok := number(value); ok {
		m.Expires = max(m.Expires, n)
	}
}

// readCSeq reads the first valid CSeq. That of a request must name its method.
func (s *Scanner) readCSeq(value []byte) {
	m := &s.message
	if m.seen.cseq {
		return
	}
	space := bytes.IndexAny(value, " \t\r\n")
	if space < 0 {
		return
	}
	n, ok := number(value[:space])
	method := trim(value[space:])
	if ok && isToken(method) && (m.Status > 0 || bytes.Equal(method, m.MethodName)) {
		m.CSeq, m.MethodName, m.Method, m.seen.cseq = n, method, methodOf(method), true
	}
}
