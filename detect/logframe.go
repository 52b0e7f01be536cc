package detect

import (
	"bytes"
	"time"

	"fsban/esl"
	"fsban/policy"
)

// Forged is a log frame that resembles a refusal in a plain log, but was not printed by a function of FreeSWITCH that reports refusals:
// a peer has composed its text.
const Forged Outcome = "forged"

// LogOutcomes lists the outcomes of a log frame.
var LogOutcomes = []Outcome{Attempt, NoAttempt, NoAddress, NotUnderstood, ClockAdrift, Forged}

// warning is the highest, least severe log level at which FreeSWITCH reports a refusal. Its messages about access lists at
// debug level are not refusals: it then asks for a password, or checks more lists.
const warning = 4

// Log returns the attempt that a frame of FreeSWITCH's log reports: an access list refused an address, or mod_cti wrote a
// record to its file, which it repeats in the log.
//
// The text of a log contains text chosen by peers, whole forged lines included. So an address is accepted only from frames of
// the functions that print one, and only from its place in a text without anything else. The time of such a text has no zone: a
// refusal happened now. mod_cti's records have a time of their own.
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

// A refuser is a function of FreeSWITCH that prints
//
//	IP ADDR Rejected by acl "NAME"
//
// if an access list refuses a stranger, and the method that it refuses. "Rejected by user acl" is not included: the password
// may be right there.
//
// For calls, FreeSWITCH prints the same line in two cases that are not refusals, and the line does not show which: for a
// trusted proxy (apply-proxy-acl) the address is the one that the proxy sends in X-AUTH-IP, and if addresses outside the list
// have a context of their own (apply-inbound-acl "list:context:context") the call continues there.
type refuser struct {
	file, function string
	words          string // between the address and the name of the list
	method         policy.Method
}

var refusers = [...]refuser{
	{"sofia_reg.c", "sofia_reg_handle_sip_i_register", ` Rejected by register acl "`, policy.Register},
	{"sofia.c", "sofia_handle_sip_i_invite", ` Rejected by acl "`, policy.Invite},
	{"mod_event_socket.c", "listener_run", ` Rejected by acl "`, policy.UnknownMethod},
}

// address returns the text in the address's place, if l consists of r's text and nothing else.
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

// ctiFrame returns the attempt that a frame of mod_cti reports. The user in it may contain line feeds: FreeSWITCH delimits the
// frame, so a record is its whole text.
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
		if ExceedsSkew(a.At, now) {
			a.CorrectTime(now)
			outcome = ClockAdrift
		}
	}
	return a, outcome
}

// message returns the printed text, without the prefix of FreeSWITCH and the final line feed.
func message(l *esl.Log) ([]byte, bool) {
	file, text, ok := cutPrefix(l.Text)
	if !ok || !bytes.Equal(file, l.File) {
		return nil, false
	}
	// FreeSWITCH built with SWITCH_FUNC_IN_LOG repeats the name of the function.
	if rest, ok := bytes.CutPrefix(text, l.Func); ok && len(l.Func) > 0 {
		if rest, ok := bytes.CutPrefix(rest, []byte("() ")); ok {
			text = rest
		}
	}
	return bytes.TrimSuffix(text, []byte("\n")), true
}

// orForged returns Forged for a frame that resembles a refusal, and NoAttempt for others. FreeSWITCH's own messages about
// access lists, in one line that begins with "IP", only resemble one.
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

// cutPrefix splits a log line at the end of FreeSWITCH's prefix (switch_log.c):
//
//	2024-04-13 17:21:01.959347 98.47% [WARNING] sofia.c:10679 TEXT
//
// Older versions omit the idle percentage.
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
