// Package resp bounds the replies of a Redis server before a client library parses them.
//
// Libraries allocate as many elements and bytes as a reply announces, and recurse as deep as it nests. A Conn passes on only
// complete, well-formed headers of sizes within Limits; a reply beyond them ends the connection. The protocol
// is RESP2: a client that asks for nothing else receives no maps, sets, attributes, pushes or other types of RESP3.
package resp

import (
	"errors"
	"fmt"
)

// Limits bound one reply. All are inclusive.
type Limits struct {
	Line     int // bytes of a status, an error or an integer
	String   int // bytes of a bulk string
	Reply    int // bytes of all bulk strings and lines of a reply
	Elements int // elements of a reply, those of nested arrays included
	Depth    int // nested arrays
}

// Errors of a Scanner.
var (
	ErrLimit     = errors.New("reply exceeds a limit")
	ErrMalformed = errors.New("malformed reply")
)

// maxHeader bounds the line of an array or a bulk string: the longest length has 10 digits.
const maxHeader = 10

// A Scanner follows the replies in a byte stream. It holds no data of them.
type Scanner struct {
	limits Limits
	state  state
	kind   byte  // of the line
	digits int   // bytes of the line after its type
	length int   // of the header being read; -1: nil
	bulk   int   // bytes left of a bulk string, without its end
	open   []int // elements left of each open array
	total  int   // bytes announced or read of this reply
	count  int   // elements announced by this reply
	err    error
}

// A state is the next token in the stream.
type state uint8

const (
	atType state = iota
	inLine       // text of a status, an error or an integer
	lineCR       // a carriage return in it
	inHeader
	headerLF
	inBulk
	bulkCR
	bulkLF
)

// NewScanner returns a Scanner at the beginning of a reply.
func NewScanner(l Limits) *Scanner { return &Scanner{limits: l, open: make([]int, 0, l.Depth)} }

// Scan follows the next bytes of the stream, and returns how many of them a client may read. If these are not all, the error
// says why, and all later calls return it.
func (s *Scanner) Scan(p []byte) (int, error) {
	for i := 0; i < len(p) && s.err == nil; {
		if s.state == inBulk {
			n := min(s.bulk, len(p)-i)
			if s.bulk -= n; s.bulk == 0 {
				s.state = bulkCR
			}
			i += n
			continue
		}
		if s.err = s.next(p[i]); s.err != nil {
			return i, s.err
		}
		i++
	}
	if s.err != nil {
		return 0, s.err
	}
	return len(p), nil
}

// next follows one byte that is not part of a bulk string.
func (s *Scanner) next(c byte) error {
	switch s.state {
	case atType:
		return s.begin(c)
	case inLine, lineCR:
		return s.line(c)
	case inHeader:
		return s.header(c)
	case headerLF:
		if c != '\n' {
			return ErrMalformed
		}
		return s.announce()
	case bulkCR:
		if c != '\r' {
			return ErrMalformed
		}
		s.state = bulkLF
	case bulkLF:
		if c != '\n' {
			return ErrMalformed
		}
		s.end()
	}
	return nil
}

func (s *Scanner) begin(c byte) error {
	s.kind, s.digits, s.length = c, 0, 0
	switch c {
	case '+', '-', ':':
		s.state = inLine
	case '$', '*':
		s.state = inHeader
	default:
		return fmt.Errorf("%w: type %q", ErrMalformed, c)
	}
	return nil
}

func (s *Scanner) line(c byte) error {
	switch {
	case c == '\n' && s.state == lineCR:
		s.end()
		return nil
	case c == '\n':
		return ErrMalformed
	case c == '\r':
		s.state = lineCR
	default:
		s.state = inLine
	}
	if s.digits++; s.digits > s.limits.Line+1 { // with the carriage return
		return fmt.Errorf("%w: a line of more than %d bytes", ErrLimit, s.limits.Line)
	}
	return s.add(1)
}

// header follows the length of an array or a bulk string: decimal, without leading zeros, or -1.
func (s *Scanner) header(c byte) error {
	first := s.digits == 0
	s.digits++
	switch {
	case c == '-' && first:
		s.length = -1
	case s.length == -1 && s.digits == 2 && c == '1':
		s.digits = maxHeader
	case c >= '0' && c <= '9' && s.length >= 0 && s.digits <= maxHeader && (s.length > 0 || first):
		s.length = s.length*10 + int(c-'0')
	case c >= '0' && c <= '9' && s.length > 0 && s.digits > maxHeader:
		return fmt.Errorf("%w: a length of more than %d digits", ErrLimit, maxHeader)
	case c == '\r' && !first && (s.length >= 0 || s.digits == maxHeader+1):
		s.state = headerLF
	default:
		return ErrMalformed
	}
	return nil
}

// announce checks an array or a bulk string of the length read, and enters it.
func (s *Scanner) announce() error {
	switch n := s.length; {
	case n == -1:
		s.end()
	case s.kind == '$':
		if n > s.limits.String {
			return fmt.Errorf("%w: a string of %d bytes, %d allowed", ErrLimit, n, s.limits.String)
		}
		if s.bulk, s.state = n, inBulk; n == 0 {
			s.state = bulkCR
		}
		return s.add(n)
	case n > s.limits.Elements-s.count:
		return fmt.Errorf("%w: %d more elements, %d allowed", ErrLimit, n, s.limits.Elements)
	case n == 0:
		s.end()
	case len(s.open) == s.limits.Depth:
		return fmt.Errorf("%w: more than %d nested arrays", ErrLimit, s.limits.Depth)
	default:
		s.count += n
		s.open = append(s.open, n)
		s.state = atType
	}
	return nil
}

func (s *Scanner) add(n int) error {
	if s.total += n; s.total > s.limits.Reply {
		return fmt.Errorf("%w: more than %d bytes", ErrLimit, s.limits.Reply)
	}
	return nil
}

// end completes an element, and with it the arrays that it is the last of.
func (s *Scanner) end() {
	s.state = atType
	for len(s.open) > 0 {
		last := len(s.open) - 1
		if s.open[last]--; s.open[last] > 0 {
			return
		}
		s.open = s.open[:last]
	}
	s.total, s.count = 0, 0
}
