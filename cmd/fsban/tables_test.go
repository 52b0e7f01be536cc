package main

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"fsban/control"
	"fsban/internal/term"
)

func screen(width int) (*term.Screen, *strings.Builder) {
	var out strings.Builder
	return &term.Screen{Out: &out, Width: width}, &out
}

// The reason of a ban is on a terminal of 80 columns, however long the text of its end is.
func TestHistoryShowsTheReasonAt80Columns(t *testing.T) {
	at := time.Date(2026, 11, 22, 9, 30, 0, 0, time.Local)
	ended := control.EndedBan{
		Prefix: netip.MustParsePrefix("203.0.113.177/32"), Rule: "operator", Since: at, By: "bert", Reason: "scans of ours",
		Ended: at.Add(time.Hour), Cause: "unbanned", EndedBy: "anna", EndedReason: "a customer calls: phone has the new password",
	}
	for _, width := range []int{80, 160, 0} {
		s, out := screen(width)
		printHistory(s, []control.EndedBan{ended}, false)
		for _, want := range []string{"WHY", "scans of ours", "unbanned by anna: a customer calls", "1 ended ban\n"} {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%d columns: no %q in\n%s", width, want, out)
			}
		}
		for line := range strings.Lines(out.String()) {
			if n := term.Width(strings.TrimSuffix(line, "\n")); width > 0 && n > width {
				t.Errorf("%d columns: %d in %q", width, n, line)
			}
		}
	}
}

// Without evidence, a rule's ban of another node names that node, in the list and in why.
func TestAnotherNodesBanNamesItsNode(t *testing.T) {
	b := control.Ban{Prefix: netip.MustParsePrefix("203.0.113.7/32"), Rule: "auth", Node: "b", Attempts: 5, Source: "fleet"}
	s, _ := screen(0)
	if got := reasonFor(s, &b); got != "5 attempts on b" {
		t.Errorf("the list's reason is %q", got)
	}
	w := control.AddressState{Addr: b.Prefix.Addr(), Prefix: b.Prefix, Ban: &b}
	var rows strings.Builder
	banRows(s, &w, &b, time.Now(), func(name, format string, args ...any) { fmt.Fprintf(&rows, name+": "+format+"\n", args...) })
	for _, want := range []string{"node: b\n", "evidence: is on that node, run there: fsban why 203.0.113.7\n"} {
		if !strings.Contains(rows.String(), want) {
			t.Errorf("no %q in\n%s", want, &rows)
		}
	}
	b.Evidence = []control.Attempt{{User: "1000"}}
	if got := reasonFor(s, &b); !strings.Contains(got, "1000") {
		t.Errorf("with evidence the reason is %q", got)
	}
}

func TestListsEndWithTheirTotal(t *testing.T) {
	prefix := netip.MustParsePrefix("203.0.113.7/32")
	s, out := screen(80)
	printAllowed(s, []control.Allowance{{Prefix: prefix, Since: time.Now()}}, time.Now())
	if !strings.HasSuffix(out.String(), "\n1 allowance\n") {
		t.Errorf("allowed:\n%s", out)
	}
	s, out = screen(80)
	printHeld(s, []control.HeldBan{{Prefix: prefix}, {Prefix: prefix}})
	if !strings.HasSuffix(out.String(), "\n2 held bans\n") {
		t.Errorf("held:\n%s", out)
	}
}
