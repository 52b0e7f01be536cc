package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/spf13/cobra"

	"fsban/control"
)

func newTop(s *settings) *cobra.Command {
	var (
		every        time.Duration
		once, asJSON bool
	)
	c := &cobra.Command{
		Use:   "top",
		Short: "Watch live who attacks, at what rate, and what becomes of them",
		Long: `Watch the daemon live: attempts a second by kind and over the last minutes, the addresses that try most and the users
that are tried most within five minutes, the bans made last, who speaks for what, and what needs a human.

` + topKeys + `

Where there is no terminal, --once prints one screen, after looking for as long as --every.`,
		Example: "  fsban top\n  fsban top --every 5s\n  fsban top --once\n  fsban top --once --json",
		Args:    noArgs,
		RunE: s.asking(func(cmd *cobra.Command, _ []string, client *control.Client) error {
			switch {
			case every < 200*time.Millisecond || every > time.Minute:
				return &usageError{fmt.Errorf("--every %v: write at least 200ms, at most 1m", every)}
			case asJSON && !once:
				return &usageError{errors.New("--json is for --once")}
			case !once && (!isTerminal(os.Stdin) || !isTerminal(os.Stdout)):
				return &usageError{errors.New("top needs a terminal: fsban top --once prints one screen, with --json for programs")}
			case !once && os.Getenv("TERM") == "dumb":
				return &usageError{errors.New("top cannot draw on this terminal (TERM=dumb): fsban top --once prints one screen")}
			}
			ctx := cmd.Context()
			// Whether somebody answers is known before the screen is taken.
			first, err := client.Top(ctx, maxTop)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), first)
			}
			m := newTopModel(screenOf(cmd.OutOrStdout()), every, asksOf(ctx, client))
			m.take(&first)
			if once {
				return m.printOnce(ctx)
			}
			_, err = tea.NewProgram(m, tea.WithContext(ctx), tea.WithoutSignalHandler()).Run()
			if errors.Is(err, tea.ErrProgramKilled) && ctx.Err() != nil {
				return nil // somebody ended it, and the terminal is as it was
			}
			return err
		}),
	}
	c.Flags().DurationVar(&every, "every", 2*time.Second, "how often to look")
	c.Flags().BoolVar(&once, "once", false, "print one screen and end")
	c.Flags().BoolVar(&asJSON, "json", false, "with --once: as JSON")
	return c
}

const topKeys = `  up down j k  select         b  ban it          w  all about it (why)
  tab          another list   u  end its ban     s  sort the list
  p            pause          a  never ban it    q  quit`

// maxTop bounds how many addresses and users are asked for.
const maxTop = 100

// topAsks is what a live view asks of the daemon.
type topAsks struct {
	top   func() (control.Top, error)
	ban   func(netip.Prefix) error
	unban func(netip.Prefix) error
	allow func(netip.Prefix) error
	why   func(netip.Addr) (control.Standing, error)
}

// askTime bounds how long an answer is waited for.
const askTime = 20 * time.Second

func asksOf(ctx context.Context, c *control.Client) topAsks {
	within := func(do func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(ctx, askTime)
		defer cancel()
		return do(ctx)
	}
	return topAsks{
		top: func() (t control.Top, err error) {
			err = within(func(ctx context.Context) error { t, err = c.Top(ctx, maxTop); return err })
			return t, err
		},
		ban: func(p netip.Prefix) error {
			return within(func(ctx context.Context) error {
				_, err := c.Ban(ctx, control.BanRequest{Prefix: p, Reason: "fsban top"})
				return err
			})
		},
		unban: func(p netip.Prefix) error {
			return within(func(ctx context.Context) error { _, err := c.Unban(ctx, p); return err })
		},
		allow: func(p netip.Prefix) error {
			return within(func(ctx context.Context) error {
				_, err := c.Allow(ctx, control.AllowRequest{Prefix: p, Reason: "fsban top"})
				return err
			})
		},
		why: func(a netip.Addr) (w control.Standing, err error) {
			err = within(func(ctx context.Context) error { w, err = c.Why(ctx, a); return err })
			return w, err
		},
	}
}

// printOnce prints one screen. Rates need two looks.
func (m *topModel) printOnce(ctx context.Context) error {
	select {
	case <-time.After(m.every):
	case <-ctx.Done():
		return ctx.Err()
	}
	second, err := m.ask.top()
	if err != nil {
		return err
	}
	m.take(&second)
	fmt.Fprintln(m.s.out, m.frame())
	return nil
}
