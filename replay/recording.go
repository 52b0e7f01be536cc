package replay

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"fsban/detect"
	"fsban/esl"
	"fsban/policy"
	"fsban/sipwire"
)

// peek bounds the search for the zone and the sources of a recording, in bytes.
const peek = 256 << 10

// maxLine is the longest line in bytes, as in ctilog. The rest of a longer line is skipped.
const maxLine = 64 << 10

// A recordKind is a kind of records.
type recordKind uint8

const (
	logLine    recordKind = iota
	logFrame              // a line of FreeSWITCH's log on the event socket
	eventFrame            // an event, parsed
	packet                // a SIP message
	damaged               // an event or datagram that cannot be parsed, or the beginning of a frame
)

// A record is a line, a frame or a packet. It is valid until the next one of its recording is read.
type record struct {
	kind recordKind
	text []byte    // the line, mod_cti's record in it, or the body of the event
	log  esl.Log   // of a frame
	at   time.Time // its own time; zero: it has none
	cut  bool      // the end of a long line is missing, and with it mod_cti's own word

	attempt policy.Attempt // that it reports; that of a line is parsed when it is read, and has no time if outcome is ClockAdrift
	outcome detect.Outcome // of a line
	packet  sipwire.Packet
}

// An input is one recording.
type input struct {
	number uint64 // of this input, from 1
	name   string
	raw    *counter      // bytes read from the disk
	text   *bufio.Reader // unzipped
	file   *os.File      // nil for standard input
	size   int64         // of file

	changed time.Time // last modification of the file, or else now

	wire   wire        // SIP messages; nil: the recording has none
	frames *esl.Reader // an event socket's; nil: the recording has none
	event  *esl.Event
	zoned  *esl.Event // the same event with zoneFields
	zone   zone
	sofia  bool // sofia's events are in it
	long   []byte
	lines  *detect.Detector // parses the lines of a log

	record record
	at     time.Time // newest time of its records so far: its place among other recordings
	begun  bool      // a record with a time was replayed
	events bool      // its events are a live source

	tally tally
}

// A tally counts the records of a recording.
type tally struct {
	understood, notUnderstood int
	console                   bool // it is a console log: a line of FreeSWITCH's own is in it
}

// openInput opens a recording, and reads ahead for its zone and sources. fields are the headers that events keep.
// captured counts the frames of captures that are read.
func openInput(name string, stdin io.Reader, fields *esl.Fields, assumed *time.Location, captured *int) (in *input, err error) {
	in = &input{
		name: name, raw: &counter{Reader: stdin}, zone: zone{assumed: assumed}, changed: time.Now(), lines: detect.New(detect.Options{}),
	}
	if name != "-" {
		if in.file, err = os.Open(name); err != nil {
			return nil, err
		}
		in.raw.Reader = in.file
		if info, err := in.file.Stat(); err == nil {
			in.size, in.changed = info.Size(), info.ModTime()
		}
	}
	in.text = bufio.NewReaderSize(in.raw, peek)
	if magic, _ := in.text.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(in.text)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", name, err), in.close())
		}
		in.text = bufio.NewReaderSize(z, peek)
	}
	head, _ := in.text.Peek(len("Content-"))
	if in.wire, err = openWire(head, in.text, captured); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), in.close())
	}
	if string(head) == "Content-" {
		in.event, in.zoned = esl.NewEvent(fields), esl.NewEvent(zoneFields)
		in.lookAhead()
		in.frames = esl.NewReader(in.text)
	}
	return in, nil
}

// isLog reports whether the recording is a log, of mod_cti or of FreeSWITCH.
func (in *input) isLog() bool { return in.wire == nil && in.frames == nil }

func (in *input) close() error {
	if in.file == nil {
		return nil
	}
	return in.file.Close()
}

// lookAhead searches the beginning of an event socket stream for its zone and for events of sofia's. An event's word on the
// zone replaces that of a log line.
func (in *input) lookAhead() {
	head, _ := in.text.Peek(peek)
	for r := esl.NewReader(bytes.NewReader(head)); !in.zone.known || !in.sofia; {
		f, err := r.Next()
		switch {
		case err != nil:
			return
		case f.Type == esl.LogData && !in.zone.known:
			in.zone.readLine(f.Body)
		case f.Type == esl.EventPlain, f.Type == esl.EventJSON:
			if at, err := in.parse(f); err == nil {
				in.learn(f, at)
			}
		}
	}
}

// parse parses an event, and returns its own time, or the zero time.
func (in *input) parse(f *esl.Frame) (at time.Time, err error) {
	if err = parseInto(in.event, f); err != nil {
		return at, err
	}
	if t, ok := detect.EventTime(in.event); ok {
		at = t
	}
	return at, nil
}

func parseInto(ev *esl.Event, f *esl.Frame) error {
	if f.Type == esl.EventJSON {
		return ev.ParseJSON(f.Body)
	}
	return ev.Parse(f.Body)
}

// learn takes from an event of time at the zone, which daylight saving changes, and whether sofia's events are recorded.
func (in *input) learn(f *esl.Frame, at time.Time) {
	if in.sofia && in.zone.known && at.Sub(in.zone.asked).Abs() < time.Minute || parseInto(in.zoned, f) != nil {
		return
	}
	in.sofia = in.sofia || bytes.HasPrefix(in.zoned.Get(subclass), []byte("sofia::"))
	if !at.IsZero() {
		in.zone.readEvent(in.zoned, at)
	}
}

// next reads the next record. At the end of the recording it returns io.EOF.
func (in *input) next() (err error) {
	switch {
	case in.wire != nil:
		err = in.nextPacket()
	case in.frames != nil:
		err = in.nextFrame()
	default:
		err = in.nextLine()
	}
	if in.record.at.After(in.at) {
		in.at = in.record.at
	}
	return err
}

func (in *input) nextFrame() error {
	for {
		f, err := in.frames.Next()
		switch {
		case errors.Is(err, io.ErrUnexpectedEOF): // the recording was stopped within a frame
			in.record = record{kind: damaged, text: []byte("the recording ends within a frame")}
			in.frames = esl.NewReader(bytes.NewReader(nil))
			return nil
		case err != nil:
			return err
		case f.Type == esl.LogData:
			in.record = record{kind: logFrame, log: esl.ParseLog(f)}
			in.zone.readLine(in.record.log.Text)
			in.record.at, _ = in.zone.time(in.record.log.Text)
			return nil
		case f.Type == esl.EventPlain, f.Type == esl.EventJSON:
			at, err := in.parse(f)
			in.record = record{kind: eventFrame, text: f.Body, at: at}
			if err != nil {
				in.record.kind = damaged
				return nil
			}
			in.learn(f, at)
			return nil
		}
	}
}

func (in *input) nextLine() error {
	in.long = in.long[:0]
	for {
		text, err := in.text.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			if len(in.long) == 0 {
				in.long = append(in.long, text[:maxLine]...)
			}
			continue
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if len(in.long) > 0 {
			text = in.long
		}
		if len(text) == 0 {
			return io.EOF
		}
		in.record = record{kind: logLine, text: text[:min(len(text), maxLine)], cut: len(text) > maxLine || len(in.long) > 0}
		if r, ok := detect.CTIRecord(in.record.text); ok {
			in.record.text, in.tally.console = r, true
		}
		in.record.attempt, in.record.outcome = in.lines.CTILine(in.record.text, time.Time{})
		if in.record.outcome == detect.Attempt && !in.record.cut {
			in.record.at = in.record.attempt.At
		}
		return nil
	}
}

// A counter counts the bytes that are read through it.
type counter struct {
	io.Reader
	report func(read int) // may be nil
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if c.report != nil {
		c.report(n)
	}
	return n, err
}
