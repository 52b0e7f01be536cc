// Command fsban guards a FreeSWITCH: it bans the addresses that try to break in.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"fsban/config"
	"fsban/control"
)

// version is set at build time: -ldflags "-X main.version=1.2.3".
var version = "dev"

// Exit codes: 0 is success, 1 that it did not work, 2 that the command or the configuration is wrong.
const (
	exitFailed = 1
	exitUsage  = 2
)

func main() {
	// Debian keeps iptables where the PATH of a user, and of some services, does not look.
	_ = os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := newRoot()
	root.SetArgs(args)
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "fsban: %v\n", err)
		var problems *config.Problems
		if errors.As(err, &problems) || errors.As(err, new(*control.ConfigError)) || errors.As(err, new(*usageError)) {
			return exitUsage
		}
		return exitFailed
	}
	return 0
}

// A usageError is a command line that cannot be.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

// settings are the flags that all subcommands share.
type settings struct {
	config string
	socket string
}

func newRoot() *cobra.Command {
	var s settings
	root := &cobra.Command{
		Use:           "fsban",
		Short:         "Guard a FreeSWITCH: ban the addresses that try to break in",
		Long:          rootHelp,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.PersistentFlags().StringVarP(&s.config, "config", "c", config.Path, "configuration file")
	root.PersistentFlags().StringVar(&s.socket, "socket", "", "control socket of the daemon (default: as the configuration has it)")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.AddCommand(
		newRun(&s), newCheck(&s), newStatus(&s), newTop(&s), newList(&s), newBan(&s), newUnban(&s), newAllow(&s), newDisallow(&s), newWhy(&s), newHeld(&s), newReload(&s), newReplay(&s), newDiscover(&s), newDoctor(&s),
		newImportFail2ban(&s), newTeardown(&s), newDemo(), newVersion(), newDocs(),
	)
	for _, c := range root.Commands() {
		if c.ValidArgsFunction == nil && c.Name() != "replay" && c.Name() != "docs" {
			c.ValidArgsFunction = cobra.NoFileCompletions
		}
		if args := c.Args; args != nil {
			c.Args = func(cmd *cobra.Command, a []string) error {
				if err := args(cmd, a); err != nil {
					return &usageError{fmt.Errorf("%w (see %s --help)", err, cmd.CommandPath())}
				}
				return nil
			}
		}
	}
	root.Args = func(cmd *cobra.Command, a []string) error {
		if len(a) > 0 {
			return &usageError{fmt.Errorf("no such command: %.40q (see fsban --help)", a[0])}
		}
		return nil
	}
	return root
}

const rootHelp = `fsban stands next to a FreeSWITCH and throws out everyone who tries to break in.

It listens to FreeSWITCH's event socket, counts the failed logins of each address (findtime, maxretry, bantime, as in
fail2ban) and bans through iptables and a kernel set.

  fsban run       the daemon            fsban ban ADDRESS     ban by hand
  fsban status    are we protected?     fsban unban ADDRESS   end a ban
  fsban list      who is banned         fsban allow ADDRESS   never ban it
  fsban why       all about an address  fsban held            bans that a guard holds
  fsban discover  what FreeSWITCH says  fsban replay LOG      what would have been banned?
  fsban doctor    what is open          fsban reload          read the configuration again
  fsban demo      see it work, on no host but its own`

// client returns a client of the daemon that the settings name.
func (s *settings) client() *control.Client {
	socket := s.socket
	if socket == "" {
		// A configuration that this user may not read leaves the default; the daemon's answer tells the rest.
		socket = config.Socket(s.config)
	}
	client := control.NewClient(socket)
	client.Version = version
	return client
}

// revision is the commit that this binary was built from.
func revision() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value[:min(len(s.Value), 12)]
		}
	}
	return ""
}
