// Package esl reads FreeSWITCH's event socket: frames, events, log lines and replies.
//
// A Client keeps one connection for as long as its Run lasts: it dials, logs in, subscribes, reads, detects a dead peer and
// reconnects by itself. A Reader splits any byte stream of an event socket, live or recorded, into frames. The package does not
// interpret events: it has no knowledge of SIP.
//
// Reading never waits for the consumer. A client that leaves its socket unread can freeze FreeSWITCH as a whole, so a consumer
// of events must take them at once and drop those that it cannot keep.
package esl

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// A FrameType is the content type of a frame. Frames of other types are Unknown; their body is skipped.
type FrameType uint8

// The content types that FreeSWITCH sends to an inbound client (mod_event_socket.c).
const (
	Unknown          FrameType = iota
	AuthRequest                // auth/request: FreeSWITCH asks for the password
	CommandReply               // command/reply: the answer to a command
	APIResponse                // api/response: the answer to an api command
	EventPlain                 // text/event-plain
	LogData                    // log/data: one line of FreeSWITCH's log
	DisconnectNotice           // text/disconnect-notice: the connection is about to end
	RudeRejection              // text/rude-rejection: the event socket's ACL denies our address
	EventJSON                  // text/event-json: not requested by a Client, but in recordings
)

// The bounds of a Reader. FreeSWITCH's own header blocks stay under 1 KiB and its replies to a login under 600 bytes;
// the largest bodies are api replies with the whole configuration.
const (
	MaxLine   = 16 << 10 // bytes in one frame header line
	MaxHeader = 64 << 10 // bytes in one frame's header block, blank lines before it included
	MaxBody   = 16 << 20 // bytes in one frame's body
)

const firstBuffer = 64 << 10

// ErrProtocol is wrapped by every error for bytes that are not the event socket protocol or exceed a bound of this package. The
// stream cannot be read further.
var ErrProtocol = errors.New("event socket protocol error")

// A Frame is one message of the event socket. Its slices are the Reader's own memory: valid until the next call to Next.
type Frame struct {
	Type   FrameType
	Header []byte // the header block, without the blank line that ends it
	Body   []byte // Content-Length bytes, or nil
}

// Get returns the value of the first header of that name, as sent. It is a linear scan, for frames that are rare.
func (f *Frame) Get(name string) string {
	v, _ := lookup(f.Header, name)
	return string(v)
}

// A Reader splits a byte stream into frames, in order. It holds at most MaxHeader+MaxBody bytes, and not much more than the
// bytes received: a wrong Content-Length costs nothing.
type Reader struct {
	src        io.Reader
	buf        []byte
	start, end int // buf[start:end] is read and not consumed
	frame      Frame
}

// NewReader returns a Reader of src.
func NewReader(src io.Reader) *Reader {
	return &Reader{src: src, buf: make([]byte, firstBuffer)}
}

// Next returns the next frame. The error is io.EOF at an end between two frames, io.ErrUnexpectedEOF inside one, wraps
// ErrProtocol for invalid bytes, and is the source's own otherwise.
func (r *Reader) Next() (*Frame, error) {
	r.shrink()
	blank, err := r.skipBlankLines()
	if err != nil {
		return nil, err
	}
	f := &r.frame
	*f = Frame{}
	head, body, err := r.header(MaxHeader - blank)
	if err != nil {
		return nil, err
	}
	if err := r.fill(head + body); err != nil {
		return nil, inside(err)
	}
	f.Header = trimEnd(r.buf[r.start : r.start+head])
	if body > 0 {
		f.Body = r.buf[r.start+head : r.start+head+body]
	}
	r.start += head + body
	return f, nil
}

// skipBlankLines consumes the extra blank line that follows some replies of FreeSWITCH.
func (r *Reader) skipBlankLines() (skipped int, err error) {
	for ; skipped < MaxHeader; skipped++ {
		if err := r.fill(1); err != nil {
			return skipped, err
		}
		if c := r.buf[r.start]; c != '\n' && c != '\r' {
			return skipped, nil
		}
		r.start++
	}
	return skipped, fmt.Errorf("%w: %d blank lines and no frame", ErrProtocol, MaxHeader)
}

var (
	contentType   = []byte("Content-Type")
	contentLength = []byte("Content-Length")
)

// header reads the header block at r.start. It returns the block's length, including the blank line that ends it and at most
// limit, and the length of the following body.
func (r *Reader) header(limit int) (head, body int, err error) {
	for {
		line, err := r.line(head, limit-head)
		if err != nil {
			return 0, 0, err
		}
		head += len(line)
		name, value, ok := cutHeader(line)
		switch {
		case !ok && len(name) == 0:
			return head, body, nil
		case !ok:
			return 0, 0, fmt.Errorf("%w: %.80q is not a header line", ErrProtocol, name)
		case equalFold(name, contentType):
			r.frame.Type = frameType(value)
		case equalFold(name, contentLength):
			if body, err = parseLength(value, MaxBody); err != nil {
				return 0, 0, err
			}
		}
	}
}

// line returns the line at r.start+from, including its end. left is the number of bytes left for the header block.
func (r *Reader) line(from, left int) ([]byte, error) {
	for {
		window := r.buf[r.start+from : r.end]
		size := bytes.IndexByte(window, '\n') + 1
		whole := size > 0
		if !whole {
			size = len(window) + 1 // at least
		}
		// The tighter of the two bounds is exceeded first, however the bytes arrive.
		switch {
		case size > left && left < MaxLine:
			return nil, fmt.Errorf("%w: header block of more than %d bytes", ErrProtocol, MaxHeader)
		case size > MaxLine:
			return nil, fmt.Errorf("%w: header line of more than %d bytes", ErrProtocol, MaxLine)
		case whole:
			return window[:size], nil
		}
		if err := r.fill(from + size); err != nil {
			return nil, inside(err)
		}
	}
}

func parseLength(value []byte, limit int) (int, error) {
	n, err := strconv.ParseUint(string(value), 10, 63)
	if err != nil || n > uint64(limit) {
		return 0, fmt.Errorf("%w: Content-Length %.40q is not a number from 0 to %d", ErrProtocol, value, limit)
	}
	return int(n), nil
}

func frameType(value []byte) FrameType {
	switch string(value) {
	case "text/event-plain":
		return EventPlain
	case "command/reply":
		return CommandReply
	case "api/response":
		return APIResponse
	case "log/data":
		return LogData
	case "auth/request":
		return AuthRequest
	case "text/disconnect-notice":
		return DisconnectNotice
	case "text/rude-rejection":
		return RudeRejection
	case "text/event-json":
		return EventJSON
	}
	return Unknown
}

// fill reads until buf has n bytes at r.start, moving or growing the buffer as necessary.
func (r *Reader) fill(n int) error {
	for r.end-r.start < n {
		if r.start > 0 && (r.start == r.end || r.start+n > len(r.buf)) {
			r.end = copy(r.buf, r.buf[r.start:r.end])
			r.start = 0
		}
		if r.end == len(r.buf) {
			grown := make([]byte, min(2*len(r.buf), MaxHeader+MaxBody))
			copy(grown, r.buf[:r.end])
			r.buf = grown
		}
		m, err := r.src.Read(r.buf[r.end:])
		r.end += m
		if m == 0 && err != nil {
			return err
		}
	}
	return nil
}

// shrink releases the memory of a very large frame.
func (r *Reader) shrink() {
	if len(r.buf) > 16*firstBuffer && r.end-r.start <= firstBuffer {
		small := make([]byte, firstBuffer)
		r.end = copy(small, r.buf[r.start:r.end])
		r.start, r.buf = 0, small
	}
}

// inside turns the end of the stream into io.ErrUnexpectedEOF.
func inside(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// cutHeader splits a line at its colon. A line without one is returned as the name, with ok false.
func cutHeader(line []byte) (name, value []byte, ok bool) {
	line = trimEnd(line)
	i := bytes.IndexByte(line, ':')
	if i < 0 {
		return line, nil, false
	}
	value = line[i+1:]
	if len(value) > 0 && value[0] == ' ' {
		value = value[1:]
	}
	return line[:i], value, true
}

// trimEnd removes the end of a line: a line feed, or a carriage return and a line feed.
func trimEnd(line []byte) []byte {
	if n := len(line); n > 0 && line[n-1] == '\n' {
		line = line[:n-1]
	}
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	return line
}

func lookup(block []byte, name string) (value []byte, ok bool) {
	for line := range bytes.Lines(block) {
		n, v, ok := cutHeader(line)
		if ok && equalFold(n, []byte(name)) {
			return v, true
		}
	}
	return nil, false
}

// equalFold compares header names, which are ASCII.
func equalFold(a, b []byte) bool {
	return len(a) == len(b) && (string(a) == string(b) || bytes.EqualFold(a, b))
}
