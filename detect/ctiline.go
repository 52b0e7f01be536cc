package detect

import (
	"bytes"
	"time"

	"fsban/policy"
)

// NotUnderstood is the outcome of a line that is not a record of mod_cti.
const NotUnderstood Outcome = "not_understood"

// LineOutcomes lists the outcomes of a line.
var LineOutcomes = []Outcome{Attempt, NoAddress, NotUnderstood, ClockAdrift, Repeated, Outdated}

// maxAddr is more than the longest address with a zone.
const maxAddr = 80

// registrationFailed is the only reason of mod_cti whose text is known. The set of others is open.
const registrationFailed = "Registration failed"

// CTILine returns the attempt that a line of mod_cti's file reports. Its records are
//
//	ip[ADDR] user[ANYTHING] at[TIME] REASON
//
// and the peer chooses the user freely, forged records included. So the address is the text between "ip[" at the very start and
// the first "]", and the time is in the last "] at[" followed by a time. Like the filter "^ip\[<HOST>\].*" that it replaces, it
// accepts a record with only an address, because mod_cti's other records are not known: an attempt without a time, or with
// "(null)" for one, counts as now, with outcome ClockAdrift.
//
// Any other time is kept, however old. A LogReader decides whether it counts.
func (d *Detector) CTILine(line []byte, now time.Time) (policy.Attempt, Outcome) {
	line = trimEnd(line)
	text, rest, ok := cutAddr(line)
	if !ok {
		return policy.Attempt{}, NotUnderstood
	}
	addr, ok := d.addrs.parse(text)
	if !ok {
		return policy.Attempt{}, NoAddress
	}
	a := policy.Attempt{Addr: addr, At: now, Kind: policy.Violation, Source: policy.CTILog}
	claim, at, reason, timed := cutTime(rest)
	if user, ok := bytes.CutPrefix(claim, []byte(" user[")); ok && string(user) != "(null)" {
		a.User = d.texts.keep(user)
	}
	if isRegistrationFailed(reason) {
		a.Kind = policy.AuthFailure
	}
	if !timed || at.IsZero() {
		return a, ClockAdrift
	}
	a.At = at
	return a, Attempt
}

// CTIRecord returns the record that mod_cti wrote to its file, from a line of FreeSWITCH's console that repeats it:
//
//	2024-04-13 17:21:01.959347 98.47% [NOTICE] cti_fail2ban.c:35 write to fail2ban:RECORD succeed!
//
// A channel's UUID may precede it. FreeSWITCH's log contains text chosen by peers, whole forged lines included: treat the
// record of a log as a hint, unless it is the text of a log frame whose own header names cti_fail2ban.c.
func CTIRecord(line []byte) (record []byte, ok bool) {
	const uuid = len("01234567-89ab-cdef-0123-456789abcdef ")
	line = trimEnd(line)
	if len(line) > uuid && line[8] == '-' && line[uuid-1] == ' ' && line[4] != '-' {
		line = line[uuid:]
	}
	file, text, ok := cutPrefix(line)
	if !ok || string(file) != ctiFile {
		return nil, false
	}
	return cutRecord(text)
}

// trimEnd returns line without the line feeds and carriage returns at its end.
func trimEnd(line []byte) []byte {
	for len(line) > 0 && (line[len(line)-1] == '\n' || line[len(line)-1] == '\r') {
		line = line[:len(line)-1]
	}
	return line
}

// CTITime returns the time in a line of mod_cti's file.
func CTITime(line []byte) (time.Time, bool) {
	_, rest, ok := cutAddr(line)
	if !ok {
		return time.Time{}, false
	}
	_, at, _, ok := cutTime(rest)
	return at, ok && !at.IsZero()
}

// ExceedsSkew reports whether at is more than MaxSkew away from now; a live report then counts as now.
func ExceedsSkew(at, now time.Time) bool { return now.Sub(at).Abs() > MaxSkew }

// cutAddr returns the text of the address at the beginning of a record. The rest is empty, or begins with a space.
func cutAddr(line []byte) (addr, rest []byte, ok bool) {
	line, ok = bytes.CutPrefix(line, []byte("ip["))
	if !ok {
		return nil, nil, false
	}
	// "ip[[2001:db8::7]]" has an IPv6 address in brackets of its own.
	line, bracketed := bytes.CutPrefix(line, []byte("["))
	end := bytes.IndexByte(line[:min(len(line), maxAddr)], ']')
	if end < 0 {
		return nil, nil, false
	}
	addr, rest = line[:end], line[end+1:]
	if bracketed {
		rest, ok = bytes.CutPrefix(rest, []byte("]"))
		ok = ok && bytes.IndexByte(addr, ':') >= 0
	}
	return addr, rest, ok && (len(rest) == 0 || rest[0] == ' ')
}

// cutTime splits the text after the address at the last "] at[" followed by a time and "]": mod_cti writes the text behind it,
// the peer the text before it. The time is zero for "(null)".
func cutTime(rest []byte) (claim []byte, at time.Time, reason []byte, ok bool) {
	claim = rest
	for {
		i := lastAt(claim)
		if i < 0 {
			return nil, at, nil, false
		}
		text := rest[i+len("] at["):]
		claim = claim[:i]
		// A time is short: a "]" further away is not its own.
		end := bytes.IndexByte(text[:min(len(text), maxTime)], ']')
		if end < 0 {
			continue
		}
		if string(text[:end]) == "(null)" {
			return claim, time.Time{}, text[end+1:], true
		}
		if at, ok = parseTime(text[:end]); ok {
			return claim, at, text[end+1:], true
		}
	}
}

// lastAt returns the index of the last "] at[" in b, or -1. A bracket is rare, so searching for it is faster than searching for
// all five bytes.
func lastAt(b []byte) int {
	for end := len(b); ; {
		i := bytes.LastIndexByte(b[:end], '[') - len("] at")
		if i < 0 {
			return -1
		}
		if string(b[i:i+len("] at")]) == "] at" {
			return i
		}
		end = i + len("] at")
	}
}

func isRegistrationFailed(reason []byte) bool {
	more, ok := bytes.CutPrefix(bytes.TrimLeft(reason, " "), []byte(registrationFailed))
	return ok && (len(more) == 0 || !isWord(more[0]))
}

func isWord(b byte) bool {
	return isDigit(b) || b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b == '_'
}

func isDigit(b byte) bool { return b >= '0' && b <= '9' }

// maxTime is more than the longest time.
const maxTime = 64

// parseTime parses 2024-04-13T17:21:01.959347+0800. The fraction may be missing. The offset is Z, +0800, +08:00, or, as
// FreeSWITCH prints it in zones that are not whole hours away, hours and then the rest in seconds: +05:30 is +051800 and -03:30
// is -03-1800. A time without an offset is ambiguous, and rejected.
func parseTime(b []byte) (time.Time, bool) {
	const layout = "2024-04-13T17:21:01"
	if len(b) <= len(layout) || b[4] != '-' || b[7] != '-' || b[10] != 'T' && b[10] != ' ' || b[13] != ':' || b[16] != ':' {
		return time.Time{}, false
	}
	var fields [6]int // year, month, day, hour, minute, second
	ok := true
	for i, at := range [6][2]int{{0, 4}, {5, 7}, {8, 10}, {11, 13}, {14, 16}, {17, 19}} {
		fields[i], ok = number(b[at[0]:at[1]], ok)
	}
	year, month, day := fields[0], fields[1], fields[2]
	hour, minute, second := fields[3], fields[4], fields[5]
	if !ok || month < 1 || month > 12 || day < 1 || day > daysIn(year, month) || hour > 23 || minute > 59 || second > 60 {
		return time.Time{}, false
	}
	nanos, b := fraction(b[len(layout):])
	offset, ok := parseOffset(b)
	if !ok {
		return time.Time{}, false
	}
	seconds := int64(daysBefore(year, month)+day-1)*86400 + int64(hour*3600+minute*60+second)
	return time.Unix(seconds-int64(offset/time.Second), int64(nanos)).UTC(), true
}

// monthBegins is the number of days before each month in a year that is not a leap year.
var monthBegins = [13]int{0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365}

func isLeap(year int) bool { return year%4 == 0 && (year%100 != 0 || year%400 == 0) }

// daysIn returns the number of days in a month, 1 to 12.
func daysIn(year, month int) int {
	if month == 2 && isLeap(year) {
		return 29
	}
	return monthBegins[month] - monthBegins[month-1]
}

// daysBefore returns the number of days from 1970 to the beginning of a month, negative before 1970.
func daysBefore(year, month int) int {
	const before1970 = 1969*365 + 1969/4 - 1969/100 + 1969/400
	days := monthBegins[month-1] - before1970
	if month > 2 && isLeap(year) {
		days++
	}
	if year == 0 { // a leap year, and the one before the first
		return days - 366
	}
	year--
	return days + year*365 + year/4 - year/100 + year/400
}

// number parses digits if ok is true, and reports whether it succeeded.
func number(b []byte, ok bool) (n int, _ bool) {
	for _, c := range b {
		if !isDigit(c) {
			return 0, false
		}
		n = 10*n + int(c-'0')
	}
	return n, ok
}

// fraction parses the optional fraction of a second, and returns the rest.
func fraction(b []byte) (nanos int, rest []byte) {
	if b[0] != '.' && b[0] != ',' {
		return 0, b
	}
	i, unit := 1, 100_000_000
	for ; i < len(b) && isDigit(b[i]); i++ {
		nanos += unit * int(b[i]-'0')
		unit /= 10
	}
	return nanos, b[i:]
}

func parseOffset(b []byte) (time.Duration, bool) {
	if string(b) == "Z" {
		return 0, true
	}
	if len(b) < len("+0800") || b[0] != '+' && b[0] != '-' {
		return 0, false
	}
	hours, ok := number(b[1:3], true)
	rest, negative := b[3:], b[0] == '-'
	switch rest[0] {
	case ':':
		rest = rest[1:]
	case '-': // the remainder has the sign of the whole; for -00:30 the hours cannot show it
		rest, negative = rest[1:], true
	}
	n, ok := number(rest[:min(len(rest), 9)], ok)
	offset := time.Duration(n) * time.Second
	if len(rest) == 2 {
		offset = time.Duration(n) * time.Minute
	}
	if !ok || len(rest) < 2 || len(rest) > 9 || hours > 14 || offset >= time.Hour {
		return 0, false
	}
	offset += time.Duration(hours) * time.Hour
	if negative {
		return -offset, true
	}
	return offset, true
}

const (
	ctiFile  = "cti_fail2ban.c"     // mod_cti's source file that writes the records
	ctiWords = "write to fail2ban:" // precedes a record in the log
)

// cutRecord returns the record in a log text of mod_cti.
func cutRecord(text []byte) (record []byte, ok bool) {
	record, ok = bytes.CutPrefix(text, []byte(ctiWords))
	return bytes.TrimSuffix(record, []byte(" succeed!")), ok
}
