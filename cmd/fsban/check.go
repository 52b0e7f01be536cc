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
	"fsban/firewall"
	"fsban/neverban"
)

func newCheck(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Check the configuration file",
		Long: `Read the configuration file, and the one that policy.ignore_file names, and say everything that is wrong with them, or
what they mean. It changes nothing and asks no daemon. The exit code is 2 when something is wrong.`,
		Example: "  fsban check\n  fsban check --config new.yaml",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := s.load()
			if err != nil {
				return err
			}
			listed, err := ignoreFile(&c.Policy)
			if err != nil {
				return err
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
				on   bool
				what string
			}{
				{c.Policy.IgnoreFile != "", fmt.Sprintf("what %s lists (%d)", c.Policy.IgnoreFile, listed)},
				{c.Policy.IgnoreSelf, "this host, the event socket's peer"},
				{c.Policy.IgnoreGateways, "gateways"},
				{len(c.Policy.IgnoreACLs) > 0, "the access lists " + strings.Join(c.Policy.IgnoreACLs, " ")},
				{c.Policy.IgnoreSSH, "peers of ssh"},
			} {
				if n.on {
					never = append(never, n.what)
				}
			}
			rows := [][2]string{{"event socket", c.FreeSWITCH.Address + " (" + login + ")"}}
			for _, r := range c.Policy.Rules() {
				rows = append(rows, [2]string{"rule " + r.Name, fmt.Sprintf("%d in %v: banned for %v", r.MaxRetry, config.Duration(r.FindTime), config.Duration(r.BanTime))})
			}
			rows = append(rows, [][2]string{
				{"never ban", strings.Join(never, ", ")},
				{"firewall", fmt.Sprintf("%s, %s in %s, at most %d bans a family", c.Firewall.Backend, c.Firewall.Target, strings.Join(c.Firewall.Chains, ", "), c.Firewall.MaxBans)},
				{"state", c.State.Directory},
				{"control", c.Control.Socket + groups(&c.Control)},
				{"metrics", listen},
			}...)
			for _, r := range rows {
				fmt.Fprintf(out, "  %-16s %s\n", r[0], r[1])
			}
			for _, finding := range firewall.Surroundings(cmd.Context()) {
				fmt.Fprintf(out, "  %-16s %s\n", "on this host", finding)
			}
			return nil
		},
	}
}

// ignoreFile returns how many policy.ignore_file lists.
func ignoreFile(p *config.Policy) (int, error) {
	if p.IgnoreFile == "" {
		return 0, nil
	}
	data, err := neverban.ReadFile(p.IgnoreFile)
	if err != nil {
		return 0, &config.Problems{File: "policy.ignore_file", List: []config.Problem{{Text: err.Error()}}}
	}
	prefixes, hosts, err := config.ParseIgnoreFile(p.IgnoreFile, data)
	return len(prefixes) + len(hosts), err
}

// groups says who may use the control socket beside root.
func groups(c *config.Control) (text string) {
	if c.Readers != "" {
		text += ", members of " + c.Readers + " may look"
	}
	if c.Admins != "" {
		text += ", members of " + c.Admins + " may change"
	}
	return text
}
