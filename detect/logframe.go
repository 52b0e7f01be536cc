package detect

import (
	"bytes"
	"time"

	"fsban/esl"
	"fsban/policy"
)

// Forged is a log frame that looks to a reader of plain logs like one that tells of an address, but that no function of
// FreeSWITCH's that tells of addresses printed so: what stands in it is some peer's word.
const Forged Outcome = "forged"

// LogOutcomes lists what can become of a log frame.
var LogOutcomes = []Outcome{Attempt, NoAttempt, NoAddress, NotUnderstood, ClockAdrift, Forged}

// warning is the highest log level, and so the least grave, at which FreeSWITCH tells of a refusal. What it tells of access
// lists at debug level is no refusal: it goes on to ask for a password, or looks at more lists.
const warning = 4

// Log says what a frame of FreeSWITCH's log means: that an access list refused an address, or what mod_cti writes to its
// file, which it repeats in the log.
//
// The text of a log holds whatever peers sent, whole forged lines included. So an address is taken from nothing but the
// frames of the functions that print one, and there from its place in a text that says nothing else. The time of such a
// text has no zone: a refusal happened now. mod_cti's records have a time of their own.
func (d *Detector) Log(l *esl.Log, now time.Time) (policy.Attempt, Outcome) {
	if string(l.File) == ctiFile {
		return d.ctiFrame(l, now)
	}
	for i := range refusers {
		r := &refusers[i]
		if r.file != string(l.File) || r.function != string(l.Func) || l.Level < 0 || l.Level > warning {
			continue
		}
		text, ok := r.address(l)
		if !ok {
			break
		}
		addr, ok := d.addrs.parse(text)
		if !ok {
			return policy.Attempt{}, NoAddress
		}
		return policy.Attempt{Addr: addr, At: now, Kind: policy.ACLReject, Source: policy.ESLLog, Method: r.method}, Attempt
	}
	return policy.Attempt{}, orForged(l)
}

// A refuser is a function of FreeSWITCH's that prints
//
//	IP ADDR Rejected by acl "NAME"
//
// where an access list refuses a stranger, and the method that it refuses. "Rejected by user acl" is none: there the
// password may well be right.
//
// Of calls, FreeSWITCH prints the same of two who are no strangers to it, and one line does not tell: with a proxy that it
// trusts (apply-proxy-acl) the address is what that proxy says in X-AUTH-IP, and with a context of their own for those not
// in the list (apply-inbound-acl "list:context:context") the call goes on there.
type refuser struct {
	file, function string
	words          string // between the address and the name of the list
	method         policy.Method
}

var refusers = [...]refuser{
	{"sofia_reg.c", "sofia_reg_handle_sip_i_register", ` Rejected by register acl "`, policy.Register},
	{"sofia.c", "sofia_handle_sip_i_invite", ` Rejected by acl "`, policy.Invite},
	{"mod_event_socket.c", "listener_run", ` Rejected by acl "`, policy.AnyMethod},
}

// address returns what stands in the address's place, if l is r's text and nothing but that.
func (r *refuser) address(l *esl.Log) (addr []byte, ok bool) {
	text, ok := message(l)
	if !ok {
		return nil, false
	}
	text, ok = bytes.CutPrefix(text, []byte("IP "))
	n := bytes.Index(text, []byte(r.words))
	if !ok || n < 0 {
		return nil, false
	}
	name, ok := bytes.CutSuffix(text[n+len(r.words):], []byte(`"`))
	if !ok || bytes.ContainsAny(name, "\"\n") || bytes.IndexByte(text[:n], '\n') >= 0 {
		return nil, false
	}
	return text[:n], true
}

// ctiFrame says what a frame of mod_cti's means. The user in it may hold line feeds: where a frame ends is FreeSWITCH's
// word, so a record is its whole text.
func (d *Detector) ctiFrame(l *esl.Log, now time.Time) (policy.Attempt, Outcome) {
	text, ok := message(l)
	if !ok {
		return policy.Attempt{}, orForged(l)
	}
	record, ok := cutRecord(bytes.TrimRight(text, "\r\n"))
	if !ok {
		return policy.Attempt{}, orForged(l)
	}
	a, outcome := d.CTILine(record, now)
	switch outcome {
	case Attempt, ClockAdrift:
		a.Source = policy.ESLLog
		if Adrift(a.At, now) {
			a.Adrift(now)
			outcome = ClockAdrift
		}
	}
	return a, outcome
}

// message returns what was printed, without what FreeSWITCH puts before each text, and without the line feed after it.
func message(l *esl.Log) ([]byte, bool) {
	file, text, ok := cutPrefix(l.Text)
	if !ok || !bytes.Equal(file, l.File) {
		return nil, false
	}
	// A FreeSWITCH that is built with SWITCH_FUNC_IN_LOG names the function once more.
	if rest, ok := bytes.CutPrefix(text, l.Func); ok && len(l.Func) > 0 {
		if rest, ok := bytes.CutPrefix(rest, []byte("() ")); ok {
			text = rest
		}
	}
	return bytes.TrimSuffix(text, []byte("\n")), true
}

// orForged tells a frame that nothing is to be taken from, and that looks as if there were, from one that does not. What
// FreeSWITCH itself says of access lists, in one line that begins with "IP", only looks so.
func orForged(l *esl.Log) Outcome {
	_, list, _ := bytes.Cut(l.Text, []byte("Rejected by "))
	if !bytes.Contains(list, []byte("acl")) && !bytes.Contains(l.Text, []byte(ctiWords)) {
		return NoAttempt
	}
	if string(l.File) == "sofia.c" || string(l.File) == "sofia_reg.c" {
		text, ok := message(l)
		if ok && bytes.HasPrefix(text, []byte("IP")) && bytes.IndexByte(text, '\n') < 0 {
			return NoAttempt
		}
	}
	return Forged
}

// cutPrefix parts a log line where FreeSWITCH's own words end (switch_log.c):
//
//	2024-04-13 17:21:01.959347 98.47% [WARNING] sofia.c:10679 TEXT
//
// Older ones do not say how idle they are.
func cutPrefix(line []byte) (file, text []byte, ok bool) {
	const stamp = "0000-00-00 00:00:00.000000 "
	if len(line) < len(stamp) {
		return nil, nil, false
	}
	for i := range len(stamp) {
		if c := line[i]; stamp[i] == '0' && !isDigit(c) || stamp[i] != '0' && stamp[i] != c {
			return nil, nil, false
		}
	}
	line = line[len(stamp):]
	if n := bytes.IndexByte(line[:min(len(line), 12)], ' '); n > 0 && line[n-1] == '%' {
		line = line[n+1:]
	}
	n := bytes.IndexByte(line[:min(len(line), 16)], ']')
	if n < 0 || line[0] != '[' {
		return nil, nil, false
	}
	line, ok = bytes.CutPrefix(line[n+1:], []byte(" "))
	colon := bytes.IndexByte(line[:min(len(line), 128)], ':')
	if !ok || colon <= 0 {
		return nil, nil, false
	}
	file, line = line[:colon], line[colon+1:]
	n = 0
	for n < len(line) && isDigit(line[n]) {
		n++
	}
	text, ok = bytes.CutPrefix(line[n:], []byte(" "))
	return file, text, ok && n > 0
}
