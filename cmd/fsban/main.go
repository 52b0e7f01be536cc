// Command fsban guards a FreeSWITCH: it bans the addresses that try to break in.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"fsban/config"
	"fsban/control"
)

// Set at build time: -ldflags "-X main.version=1.2.3 -X main.commit=...". Without commit, what Go knows of it.
var version, commit = "dev", ""

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
	cobra.EnableCommandSorting = false // those that belong together stand together
	root := &cobra.Command{
		Use:           "fsban",
		Short:         "Guard a FreeSWITCH: ban the addresses that try to break in",
		Long:          rootHelp,
		SilenceUsage:  true,
		SilenceErrors: true,

		SuggestionsMinimumDistance: 2,
		RunE:                       func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.PersistentFlags().StringVarP(&s.config, "config", "c", config.Path, "configuration `file`")
	root.PersistentFlags().StringVar(&s.socket, "socket", "", "control socket of the daemon (default: as the configuration has it)")
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &usageError{fmt.Errorf("%w (see %s --help)", err, cmd.CommandPath())}
	})
	for _, g := range []struct {
		id, title string
		commands  []*cobra.Command
	}{
		{"look", "What is going on:", []*cobra.Command{newStatus(&s), newTop(&s), newList(&s), newWhy(&s), newHeld(&s)}},
		{"act", "Doing something about it:", []*cobra.Command{newBan(&s), newUnban(&s), newAllow(&s), newDisallow(&s)}},
		{"before", "Before the first day:", []*cobra.Command{newDemo(), newCheck(&s), newDoctor(&s), newDiscover(&s), newReplay(&s), newImportFail2ban(&s)}},
		{"run", "Running it:", []*cobra.Command{newRun(&s), newReload(&s), newTeardown(&s), newVersion()}},
	} {
		root.AddGroup(&cobra.Group{ID: g.id, Title: g.title})
		for _, c := range g.commands {
			c.GroupID = g.id
			root.AddCommand(c)
		}
	}
	root.SetHelpCommandGroupID("run")
	root.SetCompletionCommandGroupID("run")
	root.AddCommand(newDocs())
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
		if len(a) == 0 {
			return nil
		}
		if near := cmd.SuggestionsFor(a[0]); len(near) > 0 {
			return &usageError{fmt.Errorf("no such command: %.40q: %s?", a[0], strings.Join(near, " or "))}
		}
		return &usageError{fmt.Errorf("no such command: %.40q (see fsban --help)", a[0])}
	}
	root.SetHelpFunc(help)
	return root
}

const rootHelp = `fsban stands next to a FreeSWITCH and throws out everyone who tries to break in.

It listens to FreeSWITCH's event socket, counts the failed logins of each address (findtime, maxretry, bantime, as in
fail2ban) and bans through iptables and a kernel set.`

// help prints a help text as wide as the terminal.
func help(cmd *cobra.Command, _ []string) {
	s := screenOf(cmd.OutOrStdout())
	for i, paragraph := range strings.Split(cmp.Or(cmd.Long, cmd.Short), "\n\n") {
		if i > 0 {
			fmt.Fprintln(s.out)
		}
		if strings.HasPrefix(paragraph, "  ") {
			fmt.Fprintln(s.out, paragraph)
		} else {
			fmt.Fprint(s.out, s.wrap("", "", paragraph))
		}
	}
	wrapped := fmt.Sprintf(".FlagUsagesWrapped %d", cmp.Or(s.width, usualWidth))
	cmd.SetUsageTemplate(strings.ReplaceAll(cmd.UsageTemplate(), ".FlagUsages", wrapped))
	fmt.Fprintf(s.out, "\n%s", cmd.UsageString())
}

// noArgs is for commands that take no arguments.
func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("takes no arguments, and got %.60q", args[0])
	}
	return nil
}

// someArgs is for commands that take addresses.
func someArgs(_ *cobra.Command, args []string) error {
	if len(args) == 0 {
		return errors.New("name an address or prefix")
	}
	return nil
}

// oneArg is for commands that take one address.
func oneArg(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return errors.New("name one address")
	}
	return nil
}

// load reads the configuration. What is wrong with it is wrong usage.
func (s *settings) load() (config.Config, error) {
	c, err := config.Load(s.config)
	if err != nil {
		return c, &usageError{err}
	}
	return c, nil
}

// client returns a client of the daemon that the settings name. Without --socket that is the one of the configuration, or
// the usual one where this user may not read that; but a file that was named and cannot be read is a mistake.
func (s *settings) client() (*control.Client, error) {
	socket := s.socket
	if socket == "" {
		if s.config != config.Path {
			f, err := os.Open(s.config)
			if err != nil {
				return nil, &usageError{fmt.Errorf("configuration: %w", err)}
			}
			_ = f.Close()
		}
		socket = config.Socket(s.config)
	}
	client := control.NewClient(socket)
	client.Version = version
	return client, nil
}

// asking makes a command of do, which talks to the daemon that the settings name.
func (s *settings) asking(do func(*cobra.Command, []string, *control.Client) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		client, err := s.client()
		if err != nil {
			return err
		}
		defer client.Close()
		return do(cmd, args, client)
	}
}

// revision is the commit that this binary was built from.
func revision() string {
	if commit != "" {
		return commit[:min(len(commit), 12)]
	}
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
