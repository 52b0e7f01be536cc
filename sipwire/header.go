package sipwire

import (
	"bytes"
	"hash/maphash"
	"math"
	"slices"
	"strings"
)

// A field is a header that a Scanner reads.
type field uint8

const (
	fieldOther field = iota
	fieldVia
	fieldFrom
	fieldTo
	fieldCallID
	fieldCSeq
	fieldUserAgent
	fieldContact
	fieldExpires
	fieldReason
	fieldCredentials
	fieldChallenge
)

// fieldOf returns the field of a header's name, long or compact.
func fieldOf(name []byte) field {
	switch len(name) {
	case 1:
		return compact(name[0] | 0x20)
	case 2:
		return named(name, "to", fieldTo)
	case 3:
		return named(name, "via", fieldVia)
	case 4:
		return max(named(name, "from", fieldFrom), named(name, "cseq", fieldCSeq))
	case 6:
		return named(name, "reason", fieldReason)
	case 7:
		return max(named(name, "call-id", fieldCallID), named(name, "contact", fieldContact), named(name, "expires", fieldExpires))
	case 10:
		return named(name, "user-agent", fieldUserAgent)
	case 13:
		return named(name, "authorization", fieldCredentials)
	case 16:
		return named(name, "www-authenticate", fieldChallenge)
	case 18:
		return named(name, "proxy-authenticate", fieldChallenge)
	case 19:
		return named(name, "proxy-authorization", fieldCredentials)
	}
	return fieldOther
}

func compact(c byte) field {
	switch c {
	case 'v':
		return fieldVia
	case 'f':
		return fieldFrom
	case 't':
		return fieldTo
	case 'i':
		return fieldCallID
	case 'm':
		return fieldContact
	}
	return fieldOther
}

func named(name []byte, lower string, f field) field {
	if hasPrefixFold(name, lower) {
		return f
	}
	return fieldOther
}

// lines iterates over the lines of a header, each with the lines that continue it. It is linear in the header, however its lines end.
type lines struct {
	b      []byte
	at     int // the next line
	cr, lf int // the next of each at or behind at; len(b): none
}

func newLines(b []byte) lines { return lines{b: b, cr: -1, lf: -1} }

// next returns the next line without its end; an empty one also at the end of the header.
func (l *lines) next() []byte {
	for from, at := l.at, l.at; ; {
		l.cr, l.lf = l.find(l.cr, at, '\r'), l.find(l.lf, at, '\n')
		end := min(l.cr, l.lf)
		at = end
		if at < len(l.b) && l.b[at] == '\r' {
			at++
		}
		if at < len(l.b) && l.b[at] == '\n' {
			at++
		}
		if end == from || at >= len(l.b) || l.b[at] != ' ' && l.b[at] != '\t' {
			l.at = at
			return l.b[from:end]
		}
	}
}

// find returns the place of c at or behind at, if found is none of them any more.
func (l *lines) find(found, at int, c byte) int {
	if found >= at {
		return found
	}
	if i := bytes.IndexByte(l.b[at:], c); i >= 0 {
		return at + i
	}
	return len(l.b)
}

// parseVia reads the first element of a Via. Host is empty if it is none.
func parseVia(b []byte) (v Via) {
	protocol := bytes.LastIndexByte(b[:len(b)-len(after(b, ','))], '/')
	if protocol < 0 {
		return v
	}
	b = trim(b[protocol+1:])
	space := bytes.IndexAny(b, " \t\r\n")
	if space < 0 {
		return v
	}
	b = trim(b[space:])
	params := after(b, ',')
	v.Host, v.Port = hostPort(trim(b[:len(b)-len(params)]))
	for len(params) > 0 && params[0] == ';' {
		var name, value []byte
		name, value, params = parameter(params[1:])
		switch {
		case equalFold(name, "branch"):
			v.Branch = value
		case equalFold(name, "received"):
			v.Received, _ = hostPort(value)
		}
	}
	return v
}

// hostPort splits a host and its port. An IPv6 address may lack brackets if it has no port.
func hostPort(b []byte) (host, port []byte) {
	if len(b) > 0 && b[0] == '[' {
		end := bytes.IndexByte(b, ']')
		if end < 0 {
			return nil, nil
		}
		host, b = b[1:end], trim(b[end+1:])
		if len(b) > 0 && b[0] == ':' {
			port = trim(b[1:])
		}
		return host, port
	}
	colon := bytes.IndexByte(b, ':')
	if colon < 0 || bytes.IndexByte(b[colon+1:], ':') >= 0 {
		return b, nil
	}
	return trimRight(b[:colon]), trim(b[colon+1:])
}

// parseNameAddr reads the address of From, To or Contact, and its tag.
func parseNameAddr(b []byte) (user, host, tag []byte, ok bool) {
	uri, params := splitNameAddr(b)
	if len(uri) == 0 {
		return nil, nil, nil, false
	}
	user, host = splitURI(uri)
	for len(params) > 0 && params[0] == ';' {
		var name, value []byte
		name, value, params = parameter(params[1:])
		if equalFold(name, "tag") {
			tag = value
		}
	}
	return user, host, tag, true
}

// splitNameAddr returns the URI of the first address in b, and the parameters behind it.
func splitNameAddr(b []byte) (uri, params []byte) {
	b = trim(b)
	if len(b) > 0 && b[0] == '"' {
		b = b[quoted(b):]
	}
	open := bytes.IndexByte(b, '<')
	if open < 0 {
		params = after(b, ',')
		return trim(b[:len(b)-len(params)]), params
	}
	b = b[open+1:]
	end := bytes.IndexByte(b, '>')
	if end < 0 {
		return nil, nil
	}
	return trim(b[:end]), trim(b[end+1:])
}

// splitURI returns user and host of a URI, as sofia-sip reads it: the user ends at the first @, wherever that is. A tel URI has no host,
// only a user. A URI without a scheme is a host.
func splitURI(b []byte) (user, host []byte) {
	colon := max(0, bytes.IndexByte(b, ':'))
	scheme := b[:colon]
	if colon > 0 {
		b = b[colon+1:]
	}
	switch at := bytes.IndexByte(b, '@'); {
	case isOpaque(scheme):
		return b[:len(b)-len(after(b, '?'))], nil
	case at >= 0:
		user, b = b[:at], b[at+1:]
		if colon := bytes.IndexByte(user, ':'); colon >= 0 { // a password
			user = user[:colon]
		}
	}
	host, _ = hostPort(b[:len(b)-len(after(b, '?'))])
	return user, host
}

// isOpaque reports whether URIs of a scheme have no host.
func isOpaque(scheme []byte) bool {
	switch len(scheme) {
	case 3:
		return equalFold(scheme, "tel") || equalFold(scheme, "fax") || equalFold(scheme, "cid")
	case 5:
		return equalFold(scheme, "modem")
	}
	return false
}

// contactExpires returns the parameter expires of the first Contact, or nil.
func contactExpires(b []byte) []byte {
	_, params := splitNameAddr(b)
	for len(params) > 0 && params[0] == ';' {
		var name, value []byte
		name, value, params = parameter(params[1:])
		if equalFold(name, "expires") {
			return value
		}
	}
	return nil
}

// parameter cuts a parameter, with or without a value, off b. A quoted value loses its quotes, not its escapes. rest begins with
// the semicolon or comma that ends the parameter.
func parameter(b []byte) (name, value, rest []byte) {
	i := 0
	for i < len(b) && b[i] != '=' && b[i] != ';' && b[i] != ',' {
		i++
	}
	if i == len(b) {
		return trim(b), nil, nil
	}
	name = trim(b[:i])
	if b[i] != '=' {
		return name, nil, b[i:]
	}
	b = trim(b[i+1:])
	if len(b) > 0 && b[0] == '"' {
		n := quoted(b)
		return name, unquoted(b[:n]), after(b[n:], ',')
	}
	rest = after(b, ',')
	return name, trimRight(b[:len(b)-len(rest)]), rest
}

// digest reads the nonces, users and stale flags of a Digest header. Where a nonce is repeated each counts.
func (s *Scanner) digest(b []byte, credentials bool) {
	const scheme = "digest"
	if !hasPrefixFold(b, scheme) || len(b) == len(scheme) || !isSpace(b[len(scheme)]) {
		return
	}
	b = b[len(scheme):]
	m := &s.message
	var user []byte
	stale, first, challenges := false, len(m.Credentials), len(m.Challenges)
	for len(b) > 0 {
		var name, value []byte
		name, value, b = parameter(b)
		if len(b) > 0 {
			b = b[1:]
		}
		for i, c := range slices.Backward(name) {
			if isSpace(c) { // behind the scheme of a further challenge
				name = name[i+1:]
				break
			}
		}
		switch {
		case equalFold(name, "username"):
			user = value
		case equalFold(name, "stale"):
			stale = equalFold(value, "true")
		case !equalFold(name, "nonce"):
		case credentials:
			if s.digests++; len(m.Credentials) < maxDigests {
				m.Credentials = append(m.Credentials, Credentials{Nonce: s.hash(value)})
			}
		default:
			if s.digests++; len(m.Challenges) < maxDigests {
				m.Challenges = append(m.Challenges, Challenge{Nonce: s.hash(value)})
			}
		}
	}
	for i := first; i < len(m.Credentials); i++ {
		m.Credentials[i].User = user
	}
	for i := challenges; i < len(m.Challenges); i++ {
		m.Challenges[i].Stale = stale
	}
}

// hash hashes a nonce. An escaped character is the character, as for sofia-sip.
func (s *Scanner) hash(nonce []byte) Nonce {
	if bytes.IndexByte(nonce, '\\') >= 0 {
		plain := s.plain[:0]
		for i := 0; i < len(nonce) && len(plain) < len(s.plain); i++ {
			if nonce[i] == '\\' && i+1 < len(nonce) {
				i++
			}
			plain = append(plain, nonce[i])
		}
		nonce = plain
	}
	return Nonce(maphash.Bytes(s.seed, nonce[:min(len(nonce), len(s.plain))]))
}

// after returns b from the first semicolon or other on that is not in a quoted string; nothing if there is none.
func after(b []byte, other byte) []byte {
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			i += quoted(b[i:]) - 1
		case ';', other:
			return b[i:]
		}
	}
	return nil
}

// quoted returns the length of the quoted string that b begins with: to the end of b if it does not end.
func quoted(b []byte) int {
	for i := 1; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(b)
}

func unquoted(b []byte) []byte {
	b = b[1:]
	if len(b) > 0 && b[len(b)-1] == '"' {
		b = b[:len(b)-1]
	}
	return b
}

// number reads a decimal number. One beyond 32 bits is the largest of them.
func number(b []byte) (uint32, bool) {
	if len(b) == 0 {
		return 0, false
	}
	var n uint64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		if n = 10*n + uint64(c-'0'); n > math.MaxUint32 {
			n = math.MaxUint32
		}
	}
	return uint32(n), true
}

func isToken(b []byte) bool {
	for _, c := range b {
		switch {
		case 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		case strings.IndexByte("-.!%*_+`'~", c) < 0:
			return false
		}
	}
	return len(b) > 0
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

func trimRight(b []byte) []byte {
	for len(b) > 0 && isSpace(b[len(b)-1]) {
		b = b[:len(b)-1]
	}
	return b
}

func trim(b []byte) []byte {
	for len(b) > 0 && isSpace(b[0]) {
		b = b[1:]
	}
	return trimRight(b)
}

// hasPrefixFold reports whether b begins with an ASCII prefix given in lower case, in any case.
func hasPrefixFold(b []byte, lower string) bool {
	if len(b) < len(lower) {
		return false
	}
	for i := range len(lower) {
		c := b[i]
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

func equalFold(b []byte, lower string) bool { return len(b) == len(lower) && hasPrefixFold(b, lower) }
