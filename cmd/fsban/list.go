package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"fsban/config"
	"fsban/control"
)

func newList(s *settings) *cobra.Command {
	var asJSON, evidence bool
	c := &cobra.Command{
		Use:   "list",
		Short: "List who is banned",
		Long: `List the bans in force, oldest first: what is banned, by which rule, for how long still, after how many failures, and
what the kernel has thrown away since.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client := s.client()
			defer client.Close()
			bans, err := client.Bans(cmd.Context(), evidence)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), bans)
			}
			return printBans(cmd.OutOrStdout(), bans, time.Now())
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	c.Flags().BoolVar(&evidence, "evidence", false, "with the attempts that led to each ban")
	return c
}

func printBans(out io.Writer, bans []control.Ban, now time.Time) error {
	if len(bans) == 0 {
		fmt.Fprintln(out, "nobody is banned")
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "BANNED\tRULE\tSINCE\tLEFT\tFAILURES\tDROPPED")
	for i := range bans {
		b := &bans[i]
		failures, dropped := "-", fmt.Sprintf("%d packets", b.Dropped.Packets)
		if b.Attempts > 0 {
			failures = fmt.Sprint(b.Attempts)
		}
		if !b.InKernel {
			dropped = "not in the kernel yet"
		}
		fmt.Fprintf(w, "%v\t%s\t%s\t%s\t%s\t%s\n", b.Prefix, b.Rule, b.Since.Local().Format("01-02 15:04:05"), timeLeft(b, now), failures, dropped)
		for _, a := range b.Evidence {
			fmt.Fprintf(w, "  %s\t%s\t%s\tuser %q\t%s\tagent %q\n", a.Addr, a.At.Local().Format("01-02 15:04:05"), a.Kind, a.User, a.Method, a.UserAgent)
		}
	}
	return w.Flush()
}

func timeLeft(b *control.Ban, now time.Time) string {
	if b.Until.IsZero() {
		return "forever"
	}
	return short(b.Until.Sub(now))
}

// short rounds a duration to what a reader needs.
func short(d time.Duration) string {
	switch {
	case d < time.Second:
		return "0s"
	case d < 10*time.Minute:
		return d.Round(time.Second).String()
	}
	return config.Duration(d.Round(time.Minute)).String()
}

func printJSON(out io.Writer, v any) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}
