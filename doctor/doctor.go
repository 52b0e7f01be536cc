// Package doctor examines a FreeSWITCH and its host for open doors, weak secrets, and attacks that fsban cannot see.
//
// Examine asks FreeSWITCH through a few api commands that only read, and judges the answers. It changes nothing, and it
// never repeats a password or the arguments of a program in a dialplan. Data that it cannot read become a finding of their own,
// not an error: a login that may run no command at all gives a list of unseen subjects.
package doctor

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A Severity is the urgency of a finding.
type Severity uint8

// The severities. A note requires no action.
const (
	Note Severity = iota
	Warning
	Critical
)

func (s Severity) String() string {
	switch s {
	case Critical:
		return "critical"
	case Warning:
		return "warning"
	}
	return "note"
}

// MarshalText is the severity in JSON.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// A Finding is one result of an examination.
type Finding struct {
	Check    string   `json:"check"` // which check found it: short, stable, the same for every FreeSWITCH
	Severity Severity `json:"severity"`
	Title    string   `json:"title"`
	Seen     string   `json:"seen"`   // the observation, without any secret
	Why      string   `json:"why"`    // the consequence
	Change   string   `json:"change"` // the remedy: file and parameter
}

// An API runs an api command of FreeSWITCH, as esl.Client does.
type API interface {
	API(ctx context.Context, name, arguments string) ([]byte, error)
}

// Options are the parts of fsban's configuration that matter to an examination.
type Options struct {
	Contexts []string // contexts in which fsban counts unauthenticated calls
	Denied   []string // events, and "log", that the login of fsban may not see
	Required string   // the event without which fsban cannot guard
	LoggedIn string   // user@domain, or empty for the event socket's own password
	NoTap    bool     // fsban reads no SIP messages

	// Patience is how long one command may take. 10s when it is zero.
	Patience time.Duration
}

// Examine looks at FreeSWITCH and at the host, and returns the findings, the most severe first. It always comes to an end:
// every reply, walk and list is bounded.
func Examine(ctx context.Context, api API, host *Host, opts Options) []Finding {
	if opts.Patience <= 0 {
		opts.Patience = 10 * time.Second
	}
	s := look(ctx, api, opts.Patience)
	return s.findings(host, &opts)
}

// ExamineHost returns the findings of the host alone, for a FreeSWITCH that cannot be examined because of cause. The first one
// reports that.
func ExamineHost(host *Host, cause error) []Finding {
	all := append([]Finding{{
		Check: "not-examined", Severity: Critical, Title: "FreeSWITCH was not examined", Seen: capital(sanitize(cause.Error())) + ".",
		Why: "fsban logs in to the same event socket: while it cannot, it counts no failed logins except those in mod_cti's log. Open " +
			"doors, weak passwords and known vulnerabilities of this FreeSWITCH are not in this report.",
		Change: "Start FreeSWITCH, or correct freeswitch.address, freeswitch.user and freeswitch.password; then run fsban doctor again.",
	}}, host.findings()...)
	return sorted(all)
}

// sorted returns findings with the most severe first.
func sorted(all []Finding) []Finding {
	slices.SortStableFunc(all, func(a, b Finding) int { return cmp.Compare(b.Severity, a.Severity) })
	return all
}

// findings judges the observations.
func (s *system) findings(host *Host, opts *Options) []Finding {
	var all []Finding
	all = append(all, s.callFindings()...)
	all = append(all, s.profileFindings()...)
	all = append(all, s.directoryFindings()...)
	all = append(all, s.socketFindings(opts)...)
	all = append(all, s.moduleFindings()...)
	all = append(all, s.versionFindings()...)
	all = append(all, s.clockFindings(host)...)
	all = append(all, host.findings()...)
	all = append(all, s.blindSpots(opts)...)
	all = append(all, opts.tapFindings()...)
	all = append(all, s.unseenFindings()...)
	return sorted(all)
}

// maxNames bounds how many names a finding lists.
const maxNames = 20

// list joins names for a reader: sorted, each once, the first of them.
func list(names []string) string {
	names = slices.Clone(names)
	slices.Sort(names)
	names = slices.Compact(names)
	if more := len(names) - maxNames; more > 0 {
		names = append(names[:maxNames:maxNames], fmt.Sprintf("%d more", more))
	}
	return enumerate(names)
}

// enumerate is "a", "a and b", "a, b and c".
func enumerate(names []string) string {
	n := len(names)
	if n < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:n-1], ", ") + " and " + names[n-1]
}

// maxWord is how much of one name or value is shown, in bytes.
const maxWord = 120

// word is text of FreeSWITCH's for a reader: as it is when it is short, printable and in one piece, else cut and quoted.
func word(s string) string {
	plain := s != "" && len(s) <= maxWord
	for _, r := range s {
		plain = plain && r > ' ' && r != '"' && r != 0x7f && r < 0x80
	}
	if plain {
		return s
	}
	return fmt.Sprintf("%.*q", maxWord, s)
}

// sanitize makes a foreign sentence printable, one line, and not too long.
func sanitize(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f {
			return '?'
		}
		return r
	}, s)
	return s[:min(len(s), 2*maxWord)]
}

func words(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = word(s)
	}
	return out
}

// plural is one thing, or n of them.
func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return fmt.Sprintf("%d %s", n, many)
}
