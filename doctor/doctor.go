// Package doctor looks at a FreeSWITCH and at its host and says what is open, what is weak, and what fsban cannot see.
//
// Examine asks FreeSWITCH through a few api commands that only read, and judges the answers. It changes nothing, and it
// never repeats a password or what a dialplan hands to a program. What it cannot read becomes a finding of its own, not an
// error: a login that may run no command at all gives a list of what stayed unseen.
package doctor

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// A Severity says how bad a finding is.
type Severity uint8

// The severities. A note asks for nothing: it says how things are.
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

// A Finding is one thing that somebody should know.
type Finding struct {
	Check    string   `json:"check"` // which check found it: short, stable, the same for every FreeSWITCH
	Severity Severity `json:"severity"`
	Title    string   `json:"title"`
	Seen     string   `json:"seen"`             // what was seen, without any secret
	Why      string   `json:"why"`              // why it matters
	Change   string   `json:"change,omitempty"` // which file and parameter; empty: there is nothing to change
}

// An API runs an api command of FreeSWITCH, as esl.Client does.
type API interface {
	API(ctx context.Context, name, arguments string) ([]byte, error)
}

// Options say what the configuration of fsban has to do with it.
type Options struct {
	Contexts []string // contexts whose unauthenticated calls fsban counts
	Denied   []string // events, and "log", that the login of fsban may not see
	Required string   // the event without which fsban cannot guard
	LoggedIn string   // as whom: user@domain, or empty for the event socket's own password

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

// findings judges what was seen.
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
	all = append(all, s.unseenFindings()...)
	slices.SortStableFunc(all, func(a, b Finding) int { return cmp.Compare(b.Severity, a.Severity) })
	return all
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

// tame is a sentence of somebody else's for a reader: in one piece, printable and not too long.
func tame(s string) string {
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
