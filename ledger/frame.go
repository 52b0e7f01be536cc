package ledger

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"syscall"
)

// A state file is a header and a sequence of frames, each of which changes the state that the frames before it describe.
// A frame is
//
//	length   uint32  of the payload
//	sum      uint32  of the length
//	payload          its kind, one byte, and the fields of that kind
//	sum      uint32  of the payload
//
// in little endian. Both checksums are CRC-32C over the frame's place in the file followed by the bytes. A frame is valid
// only where it was written: a copy elsewhere, or text of a peer that looks like a frame, is none. After a damaged frame the
// next valid one is searched byte by byte, for which the length has a checksum of its own.
const (
	header    = "fsban state 1\n\x00\x00"
	version   = 1
	headLen   = 8
	frameLen  = headLen + 4          // of a frame without payload
	maxRecord = 1<<24 - 1 - frameLen // bytes of a payload
	window    = 256 << 10            // bytes read or written at once
	maxFile   = int64(1) << 40       // bytes of a file
	blockLen  = 4096                 // bytes that one bad block of a disk costs
)

// The kinds of frames.
const (
	frameBan   = iota + 1 // key, ban: the ban of a prefix
	frameUnban            // key: it has ended
	frameChunk            // time of the newest entry, entries of the journal: they count up to the next seal
	frameSeal             // time from which entries matter, state
	frameKeep             // shelf, key, record
	frameDrop             // shelf, key
	frameEnded            // time and cause of the end, key, ban with evidence: a ban of the history
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func sumOf(at int64, data []byte) uint32 {
	seed := binary.LittleEndian.AppendUint64(make([]byte, 0, 8), uint64(at)|version<<56)
	return crc32.Update(crc32.Checksum(seed, castagnoli), castagnoli, data)
}

// A place is where a frame is in the file and how long it is; 0: nowhere.
type place uint64

func placeOf(at int64, size int) place { return place(at)<<24 | place(size) }

func (p place) at() int64   { return int64(p >> 24) }
func (p place) size() int64 { return int64(p & (1<<24 - 1)) }

// lengthAt returns the length of the frame that begins with head, or 0 if there is no frame.
func lengthAt(at int64, head []byte) int64 {
	n := binary.LittleEndian.Uint32(head)
	if n > maxRecord || binary.LittleEndian.Uint32(head[4:]) != sumOf(at, head[:4]) {
		return 0
	}
	return int64(n) + frameLen
}

// payloadOf returns the payload of a frame of the right length, or nil if it is damaged.
func payloadOf(at int64, frame []byte) []byte {
	end := len(frame) - 4
	payload := frame[headLen:end:end]
	if len(payload) == 0 || binary.LittleEndian.Uint32(frame[end:]) != sumOf(at, payload) {
		return nil
	}
	return payload
}

var errDamaged = errors.New("the record is damaged")

// readFrame returns the payload of the frame at p.
func readFrame(file io.ReaderAt, p place) ([]byte, error) {
	frame := make([]byte, p.size())
	if len(frame) < frameLen {
		return nil, errDamaged
	}
	if _, err := file.ReadAt(frame, p.at()); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if lengthAt(p.at(), frame) == p.size() {
		if payload := payloadOf(p.at(), frame); payload != nil {
			return payload, nil
		}
	}
	return nil, errDamaged
}

// A frameWriter appends frames to a file, some of them at a time. After an error it writes nothing more.
type frameWriter struct {
	file io.WriterAt
	at   int64 // of buf
	buf  []byte
	open int // where the frame begun last begins in buf
	err  error
}

// begin begins a frame. Its payload are the bytes appended to buf until end.
func (w *frameWriter) begin(kind byte) {
	w.open = len(w.buf)
	w.buf = append(w.buf, 0, 0, 0, 0, 0, 0, 0, 0, kind)
}

// end completes the frame and returns its place.
func (w *frameWriter) end() place {
	at, frame := w.at+int64(w.open), w.buf[w.open:]
	binary.LittleEndian.PutUint32(frame, uint32(len(frame)-headLen))
	binary.LittleEndian.PutUint32(frame[4:], sumOf(at, frame[:4]))
	w.buf = binary.LittleEndian.AppendUint32(w.buf, sumOf(at, frame[headLen:]))
	p := placeOf(at, len(w.buf)-w.open)
	if len(w.buf) >= window {
		w.flush()
	}
	return p
}

// copy writes a frame with the payload of another one.
func (w *frameWriter) copy(payload []byte) place {
	w.begin(payload[0])
	w.buf = append(w.buf, payload[1:]...)
	return w.end()
}

// flush writes the appended frames.
func (w *frameWriter) flush() {
	if w.err == nil && w.at+int64(len(w.buf)) >= maxFile {
		w.err = syscall.EFBIG
	}
	if w.err == nil {
		_, w.err = w.file.WriteAt(w.buf, w.at)
	}
	w.at += int64(len(w.buf))
	w.buf = w.buf[:0]
}

// A scanner finds the valid frames of a file, in order. It never holds more of the file than a window or one frame.
type scanner struct {
	file    io.ReaderAt
	size    int64  // of the file
	at      int64  // where the next frame should begin
	valid   int64  // where the last valid frame ends
	damaged int    // stretches without a valid frame before the last valid frame; at the end: all of them
	run     int    // the same since the last valid frame
	err     error  // other than damage: the rest of the file was not read
	buf     []byte // a part of the file
	from    int64  // where it begins
}

func newScanner(file io.ReaderAt, from, size int64) *scanner {
	return &scanner{file: file, size: size, at: from, valid: from}
}

// next returns the payload of the next valid frame, until the next call, and its place; nil at the end.
func (s *scanner) next() ([]byte, place) {
	for s.at < s.size && s.err == nil {
		if length := s.length(s.at); length > 0 && s.at+length <= s.size {
			if payload := payloadOf(s.at, s.peek(s.at, length)); payload != nil {
				p := placeOf(s.at, int(length))
				s.at += length
				s.valid, s.damaged, s.run = s.at, s.damaged+s.run, 0
				return payload, p
			}
		}
		s.run++
		s.search() // also in a damaged frame: its length may reach over frames that were written after a power cut
	}
	if s.run > 0 && !s.torn() {
		s.damaged += s.run
	}
	s.run = 0
	return nil, 0
}

// search goes on to the next valid frame, or to the end.
func (s *scanner) search() {
	for s.at++; s.at < s.size && s.err == nil; s.at++ {
		if length := s.length(s.at); length > 0 && s.at+length <= s.size && payloadOf(s.at, s.peek(s.at, length)) != nil {
			return
		}
	}
}

// torn reports whether the bytes after the last valid frame are an interrupted write: a frame without its end. Some file
// systems leave zeros there.
func (s *scanner) torn() bool {
	rest := s.size - s.valid
	if rest < headLen || s.length(s.valid) > rest {
		return true
	}
	return binary.LittleEndian.Uint32(s.peek(s.size-4, 4)) == 0
}

// length returns the length of the frame that begins at some place, or 0 if none does.
func (s *scanner) length(at int64) int64 {
	if at+headLen > s.size {
		return 0
	}
	return lengthAt(at, s.peek(at, headLen))
}

// peek returns n bytes of the file, until the next call.
func (s *scanner) peek(at, n int64) []byte {
	if at < s.from || at+n > s.from+int64(len(s.buf)) {
		size := int(min(max(n, window), s.size-at))
		if cap(s.buf) < size {
			s.buf = make([]byte, size)
		}
		s.buf, s.from = s.buf[:size], at
		s.read()
	}
	return s.buf[at-s.from:][:n]
}

// read fills buf. A block that the disk cannot read, or that is missing because the file has become shorter, reads as zeros,
// which are no frames.
func (s *scanner) read() {
	n, err := s.file.ReadAt(s.buf, s.from)
	if errors.Is(err, syscall.EIO) {
		for n = 0; n < len(s.buf); n += blockLen {
			block := s.buf[n:min(n+blockLen, len(s.buf))]
			if _, err := s.file.ReadAt(block, s.from+int64(n)); err != nil {
				clear(block)
			}
		}
		return
	}
	clear(s.buf[n:])
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
}
