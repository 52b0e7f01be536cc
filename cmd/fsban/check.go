package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"fsban/config"
)

func newCheck(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Check the configuration file",
		Long:  "Read the configuration file and say everything that is wrong with it, or what it means. It changes nothing and asks no daemon.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := config.Load(s.config)
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
			prefixes := make([]string, len(c.Policy.IgnoreIP))
			for i, p := range c.Policy.IgnoreIP {
				prefixes[i] = p.String()
			}
			rows := [][2]string{
				{"event socket", c.FreeSWITCH.Address + " (" + login + ")"},
				{"policy", fmt.Sprintf("%d failures in %v: banned for %v", c.Policy.MaxRetry, c.Policy.FindTime, c.Policy.BanTime)},
				{"never ban", strings.Join(prefixes, ", ")},
				{"firewall", fmt.Sprintf("%s, %s, at most %d bans a family", c.Firewall.Backend, strings.Join(c.Firewall.Chains, ", "), c.Firewall.MaxBans)},
				{"state", c.State.Directory},
				{"control", c.Control.Socket},
				{"metrics", listen},
			}
			if c.Policy.IgnoreSelf {
				rows[2][1] += ", this host, the event socket's peer"
			}
			for _, r := range rows {
				fmt.Fprintf(out, "  %-13s %s\n", r[0], r[1])
			}
			return nil
		},
	}
}
