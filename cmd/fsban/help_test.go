package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// Every command has a short description that fits a list of commands, and an example unless it takes nothing.
func TestShortDescriptionsAreImperativeFragments(t *testing.T) {
	var check func(c *cobra.Command)
	check = func(c *cobra.Command) {
		first, _, _ := strings.Cut(c.Short, " ")
		if len(c.Short) == 0 || len(c.Short) > 60 || strings.ContainsAny(c.Short[len(c.Short)-1:], ".?!:") || first != strings.ToUpper(first[:1])+first[1:] ||
			strings.HasSuffix(strings.TrimSuffix(first, ":"), "s") && !strings.HasSuffix(first, "ss") {
			t.Errorf("%s: %q is no imperative fragment of at most 60 characters", c.CommandPath(), c.Short)
		}
		for _, sub := range c.Commands() {
			check(sub)
		}
	}
	check(newRoot())
}

// An operator finds the commands by the headings.
func TestCommandsAreGrouped(t *testing.T) {
	root := newRoot()
	for name, group := range map[string]string{
		"status": "Status:", "why": "Status:", "list": "Ban and unban:", "ban": "Ban and unban:", "unban": "Ban and unban:", "allow": "Ban and unban:",
		"import-fail2ban": "Configure and test:", "check": "Configure and test:", "run": "Service:", "reload": "Service:",
	} {
		c, _, err := root.Find([]string{name})
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range root.Groups() {
			if g.ID == c.GroupID && g.Title != group {
				t.Errorf("%s is in group %q, want %q", name, g.Title, group)
			}
		}
	}
	for _, c := range root.Commands() {
		if c.GroupID == "" {
			t.Errorf("%s is in no group", c.Name())
		}
	}
}
