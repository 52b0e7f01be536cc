// Package top is the live view of a daemon: it polls the control socket, draws rates, lists and problems, and acts on keys.
package top

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	tea "charm.land/bubbletea/v2"

	"fsban/control"
	"fsban/internal/term"
)

// Keys is the help text of the keys.
const Keys = `  up down j k  select         b  ban it          w  all about it (why)
  tab          another list   u  end its ban     s  sort the list
  p            pause          a  never ban it    q  quit`

// MaxRows bounds the addresses and users that are requested.
const MaxRows = 100

// Options of a live view.
type Options struct {
	Screen *term.Screen
	Every  time.Duration // between polls
	First  control.Top   // the first answer of the daemon

	// Explain renders the state of an address, one fact a line.
	Explain func(*term.Screen, *control.AddressState, time.Time) []string
}

// Run shows the live view on the terminal until a key or ctx ends it.
func Run(ctx context.Context, client *control.Client, o Options) error {
	m := newModel(o, requestsOf(ctx, client))
	m.take(&o.First)
	_, err := tea.NewProgram(m, tea.WithContext(ctx), tea.WithoutSignalHandler()).Run()
	if errors.Is(err, tea.ErrProgramKilled) && ctx.Err() != nil {
		return nil // a signal ended it, and the terminal is restored
	}
	return err
}

// Print prints one view after o.Every, because rates need two answers.
func Print(ctx context.Context, client *control.Client, o Options) error {
	m := newModel(o, requestsOf(ctx, client))
	m.take(&o.First)
	return m.print(ctx)
}

// print takes a second answer and prints the view.
func (m *model) print(ctx context.Context) error {
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
	fmt.Fprintln(m.s.Out, m.frame())
	return nil
}

// requests are the live view's requests to the daemon.
type requests struct {
	top   func() (control.Top, error)
	ban   func(netip.Prefix) error
	unban func(netip.Prefix) error
	allow func(netip.Prefix) error
	why   func(netip.Addr) (control.AddressState, error)
}

// requestTimeout bounds the wait for an answer.
const requestTimeout = 20 * time.Second

func requestsOf(ctx context.Context, c *control.Client) requests {
	within := func(do func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		return do(ctx)
	}
	return requests{
		top: func() (t control.Top, err error) {
			err = within(func(ctx context.Context) error { t, err = c.Top(ctx, MaxRows); return err })
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
		why: func(a netip.Addr) (w control.AddressState, err error) {
			err = within(func(ctx context.Context) error { w, err = c.Why(ctx, a); return err })
			return w, err
		},
	}
}
