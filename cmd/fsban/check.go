package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"fsban/config"
	"fsban/daemon"
	"fsban/firewall/backend"
)

func newCheck(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Check and explain the configuration file",
		Long: `Read the configuration file and the files that it names, and report every error in them, or explain the configuration.
check changes nothing and asks no daemon. The exit code is 2 after an error.`,
		Example: "  fsban check\n  fsban check --config new.yaml",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.load()
			if err != nil {
				return err
			}
			listed, err := daemon.CheckFiles(&c)
			if err != nil {
				return &usageError{err}
			}
			out := cmd.OutOrStdout()
			if _, err := os.Stat(s.config); errors.Is(err, fs.ErrNotExist) {
				fmt.Fprintf(out, "%s does not exist: the defaults hold\n", s.config)
			} else {
				fmt.Fprintf(out, "%s is valid\n", s.config)
			}
			login := "auth"
			if c.FreeSWITCH.User != "" {
				login = "userauth as " + c.FreeSWITCH.User
			}
			listen := c.HTTP.Listen
			if listen == "" {
				listen = "off"
			}
			never := slices.Clone([]string(c.Policy.IgnoreIP))
			for _, n := range []struct {
				on      bool
				subject string
			}{
				{c.Policy.IgnoreFile != "", fmt.Sprintf("what %s lists (%d)", c.Policy.IgnoreFile, listed)},
				{c.Policy.IgnoreSelf, "this host, the event socket's peer"},
				{c.Policy.IgnoreGateways, "gateways"},
				{len(c.Policy.IgnoreACLs) > 0, "the access lists " + strings.Join(c.Policy.IgnoreACLs, " ")},
				{c.Policy.IgnoreSSH, "peers of ssh"},
			} {
				if n.on {
					never = append(never, n.subject)
				}
			}
			rows := [][2]string{{"event socket", c.FreeSWITCH.Address + " (" + login + ")"}}
			for _, r := range c.Policy.Rules() {
				rows = append(rows, [2]string{"rule " + r.Name, fmt.Sprintf("%d in %v: banned for %v", r.MaxRetry, config.Duration(r.FindTime),
					config.Duration(r.BanTime))})
			}
			rows = append(rows, [][2]string{
				{"never ban", strings.Join(never, ", ")},
				{"firewall", fmt.Sprintf("%s, %s in %s, at most %d bans a family", c.Firewall.Backend, c.Firewall.Target,
					strings.Join(c.Firewall.Chains, ", "), c.Firewall.MaxBans)},
				{"state", c.State.Directory},
				{"control", c.Control.Socket + groups(&c.Control)},
				{"metrics", listen},
			}...)
			for _, r := range rows {
				fmt.Fprintf(out, "  %-16s %s\n", r[0], r[1])
			}
			for _, finding := range backend.Surroundings(cmd.Context()) {
				fmt.Fprintf(out, "  %-16s %s\n", "on this host", finding)
			}
			return nil
		},
	}
}

// groups names the groups that may use the control socket.
func groups(c *config.Control) (text string) {
	if c.Readers != "" {
		text += ", members of " + c.Readers + " may look"
	}
	if c.Admins != "" {
		text += ", members of " + c.Admins + " may change"
	}
	return text
}
