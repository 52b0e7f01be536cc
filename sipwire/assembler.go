package sipwire

import (
	"bytes"
	"container/list"
	"net/netip"
	"time"
)

const (
	maxStreams  = 4096
	maxBuffered = 64 << 20 // bytes of all streams
	maxHeld     = 32       // segments of a stream that came before an earlier one
	maxLine     = 8 << 10  // bytes of a start line
	maxSpare    = 4 << 10  // bytes that an empty stream keeps allocated
	doubtful    = 2        // messages in a row that make the place of the next one certain, in a stream that was joined in the middle
)

// AssemblerStats are the counts of an Assembler.
type AssemblerStats struct {
	Packets uint64 // UDP datagrams and TCP segments
	Other   uint64 // frames of other protocols
	Dropped uint64 // IP packets and TCP streams of which a part was missing, or beyond the bounds
}

// An Assembler cuts captured frames into SIP messages: it reassembles IP fragments and TCP streams. It holds at most maxStreams
// directions of connections and maxBuffered bytes; beyond that it drops the stream longest idle. After a gap, and in the middle of a
// connection, it goes on at the next start line.
//
// It passes on payloads that begin with a start line: a capture holds much else, such as media.
type Assembler struct {
	fragments fragments
	streams   map[streamKey]*list.Element // of *stream
	idle      *list.List                  // the stream longest idle first
	buffered  int
	ready     []Packet
	stats     AssemblerStats
}

type streamKey struct{ from, to netip.AddrPort }

// A stream is one direction of a TCP connection.
type stream struct {
	key    streamKey
	synced bool // next is known
	next   uint32
	buffer []byte // the beginning of a message
	known  progress
	held   []segment
	size   int // bytes of buffer and held
	doubt  int // messages until it is certain where they begin: the first ones may have been found in the body of another
}

// A progress records the parsed beginning of an incomplete message, so that each segment costs only its own length.
type progress struct {
	line     int // length of the start line; 0: not complete
	searched int // the line, or else the header, does not end before this offset
	length   int // of the message; 0: its header is not complete
}

// NewAssembler returns an Assembler.
func NewAssembler() *Assembler {
	return &Assembler{streams: make(map[streamKey]*list.Element), idle: list.New()}
}

// Stats returns the counts so far.
func (a *Assembler) Stats() AssemblerStats {
	stats := a.stats
	stats.Dropped += a.fragments.dropped
	return stats
}

// Frame takes a captured frame and returns the packets that it completes, valid until the next call.
func (a *Assembler) Frame(link int, frame []byte, at time.Time) []Packet {
	a.ready = a.ready[:0]
	f, ok := parseIP(network(link, frame))
	if !ok || f.key.proto != protoUDP && f.key.proto != protoTCP {
		a.stats.Other++
		return nil
	}
	whole, ok := a.fragments.add(f, at)
	if !ok {
		return nil
	}
	s, ok := parseSegment(&whole)
	if !ok {
		a.stats.Other++
		return nil
	}
	a.stats.Packets++
	switch {
	case s.proto == protoTCP:
		a.tcp(&s, at)
	case isMessage(s.payload):
		a.datagram(&s, at)
	}
	return a.ready
}

// datagram passes on the messages of a datagram. The kernel may have merged several datagrams of a sender into one (UDP GRO), so a
// start line behind a message that ends by its Content-Length begins another message.
func (a *Assembler) datagram(s *segment, at time.Time) {
	for begin := 0; begin < len(s.payload); {
		length := datagramLength(s.payload[begin:])
		a.ready = append(a.ready, Packet{From: s.from, To: s.to, At: at, Cut: begin > 0, Payload: s.payload[begin : begin+length]})
		begin += length
	}
}

// datagramLength returns the length of the first message of a datagram: all of it, unless another start line follows the message.
func datagramLength(b []byte) int {
	blank := bytes.Index(b, []byte("\r\n\r\n"))
	if blank < 0 || blank+4 == len(b) {
		return len(b)
	}
	if body := contentLength(b[:blank+4]); body >= 0 && blank+4+body < len(b) && isMessage(b[blank+4+body:]) {
		return blank + 4 + body
	}
	return len(b)
}

func (a *Assembler) tcp(s *segment, at time.Time) {
	key := streamKey{s.from, s.to}
	if s.flags&tcpRst != 0 {
		a.remove(key)
		a.remove(streamKey{s.to, s.from})
		return
	}
	st := a.stream(key, s)
	if st == nil {
		return
	}
	if s.flags&tcpSyn != 0 {
		a.buffered -= st.size
		*st = stream{key: key, synced: true, next: s.seq + 1}
		return
	}
	if len(s.payload) > 0 {
		a.place(st, s, at)
		a.measure(st)
	}
	if s.flags&tcpFin != 0 && len(st.held) == 0 {
		a.remove(key)
	}
	for a.buffered > maxBuffered {
		a.dropIdle()
	}
}

// measure updates the bytes of a stream.
func (a *Assembler) measure(st *stream) {
	size := len(st.buffer)
	for i := range st.held {
		size += len(st.held[i].payload)
	}
	a.buffered += size - st.size
	st.size = size
}

// stream returns the stream of a segment; nil if a segment without data would begin it.
func (a *Assembler) stream(key streamKey, s *segment) *stream {
	if e := a.streams[key]; e != nil {
		a.idle.MoveToBack(e)
		return e.Value.(*stream)
	}
	if s.flags&tcpSyn == 0 && len(s.payload) == 0 {
		return nil
	}
	if len(a.streams) >= maxStreams {
		a.dropIdle()
	}
	st := &stream{key: key}
	a.streams[key] = a.idle.PushBack(st)
	return st
}

func (a *Assembler) dropIdle() {
	a.stats.Dropped++
	a.remove(a.idle.Front().Value.(*stream).key)
}

func (a *Assembler) remove(key streamKey) {
	if e := a.streams[key]; e != nil {
		a.buffered -= e.Value.(*stream).size
		a.idle.Remove(e)
		delete(a.streams, key)
	}
}

// place puts the data of a segment in its place in the stream.
func (a *Assembler) place(st *stream, s *segment, at time.Time) {
	if !st.synced {
		st.synced, st.next, st.doubt = true, s.seq, doubtful
	}
	switch ahead := int32(s.seq - st.next); {
	case ahead > 0 && ahead <= MaxMessage && len(st.held) < maxHeld:
		held := *s
		held.payload = bytes.Clone(s.payload)
		st.held = append(st.held, held)
		return
	case ahead > 0, ahead < -MaxMessage: // what is missing was lost, or this is another connection
		a.stats.Dropped++
		st.buffer, st.known, st.held, st.next, st.doubt = st.buffer[:0], progress{}, nil, s.seq, doubtful
	}
	a.take(st, s, at)
	for i := 0; i < len(st.held); {
		if h := st.held[i]; int32(h.seq-st.next) <= 0 {
			st.held = append(st.held[:i], st.held[i+1:]...)
			a.take(st, &h, at)
			i = 0
			continue
		}
		i++
	}
}

// take appends the new bytes of a segment that begins at or before the next byte, and cuts messages off the stream.
func (a *Assembler) take(st *stream, s *segment, at time.Time) {
	old := int(st.next - s.seq)
	if old >= len(s.payload) {
		return
	}
	st.next = s.seq + uint32(len(s.payload))
	st.buffer = append(st.buffer, s.payload[old:]...)
	rest := st.buffer
	for len(rest) > 0 {
		length, state := frameMessage(rest, &st.known)
		if state == framePartial {
			break
		}
		switch {
		case state == frameWhole:
			a.ready = append(a.ready, Packet{From: s.from, To: s.to, Transport: TCP, At: at, Cut: st.doubt > 0, Payload: bytes.Clone(rest[:length])})
			st.doubt = max(0, st.doubt-1)
		case st.doubt > 0 && !isEnd(rest[0]):
			st.doubt = doubtful
		}
		rest, st.known = rest[length:], progress{}
	}
	switch {
	case len(rest) > MaxMessage:
		a.stats.Dropped++
		rest, st.known = nil, progress{}
	case len(rest) == len(st.buffer): // nothing was cut off
		return
	}
	if cap(st.buffer) > maxSpare+2*len(rest) { // measure counts bytes in use, not those allocated
		st.buffer = nil
	}
	st.buffer = append(st.buffer[:0], rest...)
}

// A frameState classifies the beginning of a stream.
type frameState uint8

const (
	framePartial frameState = iota
	frameWhole
	frameNoise // no message
)

// frameMessage returns the length of the message or noise that b, a part of a stream, begins with. If b is only a part of that, it
// notes in known where to go on once there is more.
func frameMessage(b []byte, known *progress) (int, frameState) {
	if isEnd(b[0]) { // keep-alives between messages
		return 1, frameNoise
	}
	if known.line == 0 {
		line := bytes.IndexAny(b[known.searched:min(len(b), maxLine)], "\r\n")
		switch {
		case line < 0 && len(b) >= maxLine:
			return len(b), frameNoise
		case line < 0:
			known.searched = len(b)
			return 0, framePartial
		}
		line += known.searched
		if !isMessage(b[:line]) {
			return line, frameNoise
		}
		known.line, known.searched = line, line
	}
	if known.length == 0 {
		end := headerEnd(b, known.searched)
		if end == 0 {
			const blank = len("\n\r\n") // the longest end of a header
			known.searched = max(known.searched, len(b)-blank)
			return 0, framePartial
		}
		known.length = end + max(0, contentLength(b[:end]))
		if known.length > MaxMessage {
			return known.line, frameNoise
		}
	}
	if known.length > len(b) {
		return 0, framePartial
	}
	return known.length, frameWhole
}

// headerEnd returns the length of the header that b begins with, its empty line included, searched behind from; 0: it does not end.
func headerEnd(b []byte, from int) int {
	for i := from; i+1 < len(b); i++ {
		if !isEnd(b[i]) || !isEnd(b[i+1]) || b[i] == '\r' && b[i+1] == '\n' {
			continue
		}
		switch end := i + 2; {
		case b[i+1] == '\n':
			return end
		case end == len(b): // perhaps a line feed follows
			return 0
		case b[end] == '\n':
			return end + 1
		default:
			return end
		}
	}
	return 0
}

// contentLength returns the length of the body that a header announces; -1: it announces none.
func contentLength(header []byte) int {
	l := newLines(header)
	for line := l.next(); len(line) > 0; line = l.next() {
		colon := max(0, bytes.IndexByte(line, ':'))
		if name := trimRight(line[:colon]); equalFold(name, "content-length") || equalFold(name, "l") {
			n, _ := number(trim(line[colon+1:]))
			return int(min(n, MaxMessage))
		}
	}
	return -1
}

// isMessage reports whether b begins with a start line, of any version.
func isMessage(b []byte) bool {
	l := newLines(bytes.TrimLeft(b[:min(len(b), maxLine)], "\r\n"))
	var m Message
	_, fault := startLine(&m, l.next())
	return fault != BadStartLine
}

func isEnd(c byte) bool { return c == '\r' || c == '\n' }
