package fakeswitch

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// A logLine is one line of FreeSWITCH's log with its event socket headers.
type logLine struct {
	level                             int
	channel, file, fn, line, userData string
	text                              string // begins with a time, ends with a line feed
}

const logTime = "2006-01-02 15:04:05.000000"

var (
	rejected  = regexp.MustCompile(`IP (\S+) Rejected by`)
	inviting  = regexp.MustCompile(` receiving invite from \S+:(\d+) `)
	ofChannel = regexp.MustCompile(` New Channel sofia/([^/]+)/([^@]+)@`)
)

// newLogRecording reads the log lines of stream.
func newLogRecording(stream string) *recording {
	r := &recording{changes: logChanges}
	for stream != "" {
		head, rest, _ := strings.Cut(stream, "\n\n")
		fields := make(map[string]string)
		for line := range strings.SplitSeq(head, "\n") {
			name, value, _ := strings.Cut(line, ": ")
			fields[name] = value
		}
		length, _ := strconv.Atoi(fields["Content-Length"])
		text := rest[:length]
		stream = rest[length:]
		if fields["Content-Type"] != "log/data" {
			continue
		}
		l := logLine{channel: fields["Text-Channel"], file: fields["Log-File"], fn: fields["Log-Func"], line: fields["Log-Line"],
			userData: fields["User-Data"], text: text}
		l.level, _ = strconv.Atoi(fields["Log-Level"])
		r.logs = append(r.logs, l)
		if m := rejected.FindStringSubmatch(text); m != nil {
			r.caller.Addr, _ = netip.ParseAddr(m[1])
		}
		if m := inviting.FindStringSubmatch(text); m != nil {
			r.caller.Port = port(m[1])
		}
		if m := ofChannel.FindStringSubmatch(text); m != nil {
			r.caller.Profile, r.caller.User = m[1], m[2]
		}
	}
	return r
}

// logChanges returns the substitutions within the text of a recorded log line, apart from the time at its start.
func logChanges(was, is Caller, _ time.Time) []string {
	from := func(c Caller) string { return netip.AddrPortFrom(c.Addr, c.Port).String() }
	channel := func(c Caller) string { return "sofia/" + c.Profile + "/" + c.User + "@" }
	changes := []string{from(was), from(is), was.Addr.String(), is.Addr.String()}
	if was.User != "" {
		changes = append(changes, channel(was), channel(is))
	}
	return changes
}

// ctiLine returns the situation of CTILine.
func ctiLine() *recording {
	const stamp = "2024-04-13T17:21:01.959347+0800"
	return &recording{
		logs: []logLine{{level: 5, channel: "0", file: "cti_fail2ban.c", line: "35", text: "2024-04-13 17:21:01.959347 98.47% " +
			"[NOTICE] cti_fail2ban.c:35 write to fail2ban:ip[124.32.10.1] user[1177] at[" + stamp + "] Registration failed succeed!\n"}},
		caller: Caller{Addr: netip.MustParseAddr("124.32.10.1"), User: "1177"},
		changes: func(was, is Caller, at time.Time) []string {
			who := func(c Caller) string { return fmt.Sprintf("ip[%s] user[%s]", c.Addr, c.User) }
			changes := []string{who(was), who(is)}
			if !at.IsZero() {
				changes = append(changes, stamp, at.Format("2006-01-02T15:04:05.000000-0700"))
			}
			return changes
		},
	}
}

// appendLog appends l as a frame.
func (t *telling) appendLog(b []byte, l logLine) []byte {
	text := l.text
	if !t.at.IsZero() {
		text = t.at.Format(logTime) + text[len(logTime):]
	}
	text = t.change.Replace(text)
	b = fmt.Appendf(b, "Content-Type: log/data\nContent-Length: %d\nLog-Level: %d\nText-Channel: %s\n", len(text), l.level, l.channel)
	return fmt.Appendf(b, "Log-File: %s\nLog-Func: %s\nLog-Line: %s\nUser-Data: %s\n\n%s", l.file, l.fn, l.line, l.userData, text)
}
