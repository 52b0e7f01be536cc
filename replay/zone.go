package replay

import (
	"time"

	"fsban/detect"
	"fsban/esl"
)

// A zone is the time zone of FreeSWITCH's log, whose lines state none. An event implies it by its time in both forms, mod_cti's
// line by the record in it.
type zone struct {
	offset  time.Duration  // east of UTC
	known   bool           // offset was stated
	asked   time.Time      // time of the event that stated it last
	assumed *time.Location // while offset is not known
}

// The headers of an event that state the zone, and the subclass.
const (
	localDate = iota
	timestamp
	subclass
)

var zoneFields = esl.NewFields("Event-Date-Local", "Event-Date-Timestamp", "Event-Subclass")

const (
	localLayout = "2006-01-02 15:04:05"
	logLayout   = localLayout + ".000000"
	maxOffset   = 14 * time.Hour
	quarter     = 15 * time.Minute // offsets are multiples of it
)

// state takes the zone from a local time and the same moment at.
func (z *zone) state(local, at time.Time) {
	if offset := local.Sub(at).Round(quarter); offset.Abs() <= maxOffset {
		z.offset, z.known, z.asked = offset, true, at
	}
}

// readEvent takes the zone from an event with zoneFields.
func (z *zone) readEvent(ev *esl.Event, at time.Time) {
	if local, err := time.Parse(localLayout, string(ev.Get(localDate))); err == nil {
		z.state(local, at)
	}
}

// readLine takes the zone from the text of a log frame, if that is mod_cti's.
func (z *zone) readLine(text []byte) {
	record, ok := detect.CTIRecord(text)
	if !ok {
		return
	}
	if at, ok := detect.CTITime(record); ok {
		if local, ok := logged(text, time.UTC); ok {
			z.state(local, at)
		}
	}
}

// time returns the time that a line of FreeSWITCH's log begins with.
func (z *zone) time(text []byte) (time.Time, bool) {
	if !z.known {
		return logged(text, z.assumed)
	}
	at, ok := logged(text, time.UTC)
	return at.Add(-z.offset), ok
}

// logged reads the time that a line of FreeSWITCH's log begins with, perhaps behind the UUID of a channel.
func logged(line []byte, in *time.Location) (time.Time, bool) {
	const uuid = len("01234567-89ab-cdef-0123-456789abcdef ")
	for _, from := range [...]int{0, uuid} {
		if len(line) < from+len(logLayout) {
			break
		}
		if at, err := time.ParseInLocation(logLayout, string(line[from:from+len(logLayout)]), in); err == nil {
			return at, true
		}
	}
	return time.Time{}, false
}
