package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"fsban/control"
	"fsban/internal/plainjson"
	"fsban/internal/term"
)

// maxWithUsers bounds the bans that are listed with their users.
const maxWithUsers = 1000

// printBans prints bans, out of all that are active, and returns the table.
func printBans(s *term.Screen, bans []control.Ban, all int, evidence bool, now time.Time) *term.Table {
	heading := "BANNED"
	if len(bans) > 0 && bans[0].Watched {
		heading = "WOULD BE BANNED"
	}
	t := &term.Table{Columns: []term.Column{
		{Name: heading, Want: ipv4Width}, {Name: "RULE", Drop: 5}, {Name: "SINCE", Drop: 1}, {Name: "LEFT"},
		{Name: "ATTEMPTS", Right: true, Drop: 3},
		{Name: "PACKETS", Right: true, Drop: 4}, {Name: "BYTES", Right: true, Drop: 2}, {Name: "NODE", Drop: 6, Spare: true},
		{Name: "WHY", Want: 24},
	}}
	for i := range bans {
		t.Add(banCells(s, &bans[i], now)...)
		if evidence {
			for _, a := range bans[i].Evidence {
				t.Note("    " + attemptLine(s, &a))
			}
		}
	}
	if len(bans) > 0 {
		t.Print(s)
	}
	switch {
	case all == 0:
		fmt.Fprintln(s.Out, "no active bans")
	case len(bans) == 0:
		fmt.Fprintf(s.Out, "no matching bans (%d active)\n", all)
	case len(bans) < all:
		fmt.Fprintf(s.Out, "%d of %d bans\n", len(bans), all)
	default:
		fmt.Fprintln(s.Out, plural(all, "ban"))
	}
	return t
}

// ipv4Width is the width of an IPv4 address.
const ipv4Width = 15

// columnLeft is the place of the remaining time among the cells of a ban.
const columnLeft = 3

// banCells renders a ban for the columns of printBans.
func banCells(s *term.Screen, b *control.Ban, now time.Time) []string {
	attempts, packets, bytes := "-", term.Human(b.Dropped.Packets), term.Human(b.Dropped.Bytes)+"B"
	if b.Attempts > 0 {
		attempts = term.Human(uint64(b.Attempts))
	}
	switch {
	case b.InKernel:
	case b.Watched:
		packets, bytes = "-", "-"
	default:
		packets, bytes = "not yet", "-"
	}
	return []string{term.Prefix(b.Prefix), s.Clean(b.Rule), b.Since.Local().Format("01-02 15:04"), timeLeft(b, now), attempts, packets, bytes,
		nodeOf(s, b), reasonFor(s, b)}
}

// printCSV prints bans with a header, one a line.
func printCSV(out io.Writer, bans []control.Ban) {
	fmt.Fprintln(out, term.CSV("prefix", "rule", "source", "since", "until", "attempts", "packets", "bytes", "in_kernel",
		"node", "operator", "reason", "users"))
	for i := range bans {
		b := &bans[i]
		fmt.Fprintln(out, term.CSV(term.Prefix(b.Prefix), b.Rule, b.Source, csvTime(b.Since), csvTime(b.Until), strconv.Itoa(b.Attempts),
			strconv.FormatUint(b.Dropped.Packets, 10), strconv.FormatUint(b.Dropped.Bytes, 10), strconv.FormatBool(b.InKernel),
			b.Node, b.By, b.Reason, distinctUsers(b.Evidence)))
	}
}

// csvTime renders a time; the end of a ban without end is forever.
func csvTime(t time.Time) string {
	if t.IsZero() {
		return "forever"
	}
	return t.Local().Format(time.RFC3339)
}

// distinctUsers renders the users of attempts, each once.
func distinctUsers(attempts []control.Attempt) string {
	return strings.Join(slices.Compact(slices.Sorted(slices.Values(usersOf(attempts)))), " ")
}

// plural returns a count with its noun.
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// nodeOf names the node of the fleet that made a ban.
func nodeOf(s *term.Screen, b *control.Ban) string {
	if b.Local {
		return strings.TrimSpace(s.Clean(b.Node) + " (local)")
	}
	return s.Clean(b.Node)
}

// reasonFor renders the reason of a ban in a few words.
func reasonFor(s *term.Screen, b *control.Ban) string {
	switch {
	case b.Reason != "":
		return s.Clean(b.Reason)
	case b.By != "":
		return s.Clean("by " + b.By)
	}
	if users := userList(s, usersOf(b.Evidence)); users != "" {
		return users
	}
	switch {
	case b.Attempts > 0 && b.Node != "" && len(b.Evidence) == 0:
		return plural(b.Attempts, "attempt") + " on " + s.Clean(b.Node)
	case b.Attempts > 0: // the evidence is on another node, or has expired
		return plural(b.Attempts, "attempt")
	case b.Source == "kernel":
		return "found in the kernel"
	}
	return ""
}

// attemptLine renders one attempt on a line.
func attemptLine(s *term.Screen, a *control.Attempt) string {
	text := fmt.Sprintf("%s %s", a.At.Local().Format("01-02 15:04:05"), kindOf(s, a))
	if a.Method != "" {
		text += " " + s.Clean(a.Method)
	}
	text += onWire(s, a)
	text += " user " + s.Quote(a.User, 40)
	if a.Number != "" {
		text += " to " + s.Quote(a.Number, 40)
	}
	return text + " from " + a.Addr.String() + " agent " + s.Quote(a.UserAgent, 60) + " reported by " + s.Clean(a.Source)
}

// kindOf renders the kind of an attempt: of a malformed message with the fault, of an attack on FreeSWITCH with the advisory.
func kindOf(s *term.Screen, a *control.Attempt) string {
	if a.Detail == "" {
		return s.Clean(a.Kind)
	}
	return s.Clean(a.Kind) + " (" + s.Clean(a.Detail) + ")"
}

// onWire renders what a tap saw of an attempt's request: its transport, and the evidence for its address.
func onWire(s *term.Screen, a *control.Attempt) string {
	text := ""
	if a.Transport != "" {
		text = " over " + s.Clean(a.Transport)
	}
	switch a.Proof {
	case "":
	case "none":
		text += ", address unproven,"
	default:
		text += ", address proven (" + s.Clean(a.Proof) + "),"
	}
	return text
}

// userList names the first three users, each once.
func userList(s *term.Screen, all []string) string {
	var names []string
	for _, user := range all {
		if name := s.Quote(user, 22); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if n := len(names); n > 3 {
		return strings.Join(names[:3], " ") + fmt.Sprintf(" and %d more", n-3)
	}
	return strings.Join(names, " ")
}

func usersOf(attempts []control.Attempt) []string {
	list := make([]string, len(attempts))
	for i := range attempts {
		list[i] = attempts[i].User
	}
	return list
}

func timeLeft(b *control.Ban, now time.Time) string {
	if b.Until.IsZero() {
		return "forever"
	}
	return term.Duration(b.Until.Sub(now))
}

func printJSON(out io.Writer, v any) error {
	enc := json.NewEncoder(plainjson.Writer{Out: out})
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
