// Command fsban guards a FreeSWITCH: it bans the addresses that try to break in.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"fsban/config"
	"fsban/control"
	"fsban/internal/guess"
	"fsban/internal/term"
)

// Set at build time: -ldflags "-X main.version=1.2.3 -X main.commit=...". Without commit, the revision in Go's build information counts.
var version, commit = "dev", ""

// Exit codes. 0 is success.
const (
	exitFailed = 1 // the command failed
	exitUsage  = 2 // wrong usage or configuration
	exitLook   = 3 // import-fail2ban: done, but some value could not be read
	exitWatch  = 4 // status: fsban watches only, and blocks nobody
)

// cleanLines escapes the characters of each line that a terminal would act upon: an error may quote text of a peer.
func cleanLines(text string) string {
	screen := term.Screen{}
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		words := strings.Split(line, "\t")
		for j, word := range words {
			words[j] = screen.Clean(word)
		}
		lines[i] = strings.Join(words, "\t")
	}
	return strings.Join(lines, "\n")
}

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		err = root.ValidateArgs(root.Flags().Args()) // --help checks no arguments
	}
	if code := exitCode(err); code != 0 {
		if text := err.Error(); text != "" {
			fmt.Fprintf(os.Stderr, "fsban: %s\n", cleanLines(text))
		}
		return code
	}
	return 0
}

func exitCode(err error) int {
	var exit *exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.code
	case errors.As(err, new(*config.Problems)), errors.As(err, new(*control.ConfigError)), errors.As(err, new(*usageError)):
		return exitUsage
	}
	return exitFailed
}

// A usageError reports a wrong command line or configuration file.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

// An exitError ends the program with a code of its own, and without a message if err is nil.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// settings are the flags that all subcommands share.
type settings struct {
	config string
	socket string
}

func newRoot() *cobra.Command {
	var (
		s           settings
		showVersion bool
	)
	cobra.EnableCommandSorting = false // the groups have an order of their own
	root := &cobra.Command{
		Use:           "fsban",
		Short:         "Protect FreeSWITCH: ban addresses that try to break in",
		Long:          rootHelp,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if showVersion {
				printVersion(cmd.OutOrStdout())
				return nil
			}
			return cmd.Help()
		},
	}
	root.Flags().BoolVarP(&showVersion, "version", "V", false, "print the version")
	root.PersistentFlags().StringVarP(&s.config, "config", "c", config.Path, "configuration `file`")
	root.PersistentFlags().StringVar(&s.socket, "socket", "", "control socket of the daemon (default: control.socket)")
	root.SetFlagErrorFunc(flagError)
	for _, g := range []struct {
		id, title string
		commands  []*cobra.Command
	}{
		{"status", "Status:", []*cobra.Command{newStatus(&s), newTop(&s), newWhy(&s), newHistory(&s)}},
		{"bans", "Ban and unban:", []*cobra.Command{
			newList(&s), newBan(&s), newUnban(&s), newBanned(&s), newAllow(&s), newDisallow(&s), newAllowed(&s), newHeld(&s),
		}},
		{"configure", "Configure and test:", []*cobra.Command{newCheck(&s), newDoctor(&s), newDiscover(&s), newReplay(&s),
			newImportFail2ban(&s)}},
		{"service", "Service:", []*cobra.Command{newRun(&s), newReload(&s), newEnforce(&s), newCreateSets(&s), newTeardown(&s), newVersion()}},
	} {
		root.AddGroup(&cobra.Group{ID: g.id, Title: g.title})
		for _, c := range g.commands {
			c.GroupID = g.id
			root.AddCommand(c)
		}
	}
	root.SetHelpCommandGroupID("service")
	root.SetCompletionCommandGroupID("service")
	for _, c := range root.Commands() {
		if c.ValidArgsFunction == nil && c.Name() != "replay" {
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
		var names []string
		for _, c := range cmd.Commands() {
			names = append(names, c.Name())
		}
		if near := guess.DidYouMean(a[0], names); near != "" {
			return &usageError{fmt.Errorf("no such command %.40q: %s", a[0], near)}
		}
		return &usageError{fmt.Errorf("no such command %.40q (see fsban --help)", a[0])}
	}
	root.SetHelpFunc(help)
	root.SetHelpCommand(newHelp(root))
	return root
}

// synonyms are flags of one command that operators try on another, where a flag of another name has that meaning.
var synonyms = map[string]string{"for": "bantime", "bantime": "for"}

// flagError explains a wrong flag, and suggests the flag that was meant.
func flagError(cmd *cobra.Command, err error) error {
	if name, unknown := strings.CutPrefix(err.Error(), "unknown flag: --"); unknown {
		flags := flagNames(cmd)
		near := guess.Near(name, flags)
		if same, ok := synonyms[name]; ok && slices.Contains(flags, same) {
			near = []string{same}
		}
		if len(near) > 0 {
			return &usageError{fmt.Errorf("unknown flag --%.40s: did you mean --%s?", name, strings.Join(near, " or --"))}
		}
	}
	return &usageError{fmt.Errorf("%w (see %s --help)", err, cmd.CommandPath())}
}

// flagNames returns the names of the flags that a command takes.
func flagNames(cmd *cobra.Command) (names []string) {
	for line := range strings.Lines(cmd.LocalFlags().FlagUsages() + cmd.InheritedFlags().FlagUsages()) {
		if _, flag, ok := strings.Cut(line, "--"); ok {
			name, _, _ := strings.Cut(flag, " ")
			names = append(names, name)
		}
	}
	return names
}

const rootHelp = `fsban protects FreeSWITCH: it bans addresses that guess passwords or try to make calls.

It reads FreeSWITCH's event socket, counts the failed logins of each address (findtime, maxretry, bantime, as in fail2ban)
and bans in the kernel, through iptables and ipset or through nftables.`

// help prints a help text as wide as the terminal, and nothing for an unknown command, which run reports.
func help(cmd *cobra.Command, _ []string) {
	if !cmd.HasParent() && cmd.Flags().NArg() > 0 {
		return
	}
	s := term.NewScreen(cmd.OutOrStdout())
	for i, paragraph := range strings.Split(cmp.Or(cmd.Long, cmd.Short), "\n\n") {
		if i > 0 {
			fmt.Fprintln(s.Out)
		}
		if strings.HasPrefix(paragraph, "  ") {
			fmt.Fprintln(s.Out, paragraph)
		} else {
			s.PrintLines(s.Wrap("", paragraph))
		}
	}
	wrapped := fmt.Sprintf(".FlagUsagesWrapped %d", cmp.Or(s.Width, term.DefaultWidth))
	cmd.SetUsageTemplate(strings.ReplaceAll(cmd.UsageTemplate(), ".FlagUsages", wrapped))
	fmt.Fprintf(s.Out, "\n%s", cmd.UsageString())
}

func newHelp(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND]",
		Short:   "Show the help of a command",
		Example: "  fsban help ban",
		GroupID: "service",
		ValidArgsFunction: func(*cobra.Command, []string, string) (names []string, _ cobra.ShellCompDirective) {
			for _, c := range root.Commands() {
				names = append(names, c.Name()+"\t"+c.Short)
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			c, rest, err := root.Find(args)
			if err == nil && c == root {
				err = root.ValidateArgs(rest)
			}
			if err != nil {
				return err
			}
			c.InitDefaultHelpFlag()
			return c.Help()
		},
	}
}

// noArgs accepts no arguments.
func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("unexpected argument %.60q", args[0])
	}
	return nil
}

// someArgs accepts one or more arguments.
func someArgs(_ *cobra.Command, args []string) error {
	if len(args) == 0 {
		return errors.New("name an address or prefix")
	}
	return nil
}

// maxOneArg accepts at most one argument.
func maxOneArg(_ *cobra.Command, args []string) error {
	if len(args) > 1 {
		return fmt.Errorf("unexpected argument %.60q: name at most one address or prefix", args[1])
	}
	return nil
}

// oneArg accepts exactly one argument.
func oneArg(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return errors.New("name one address")
	}
	return nil
}

// load reads the configuration. An error is wrong usage.
func (s *settings) load() (config.Config, error) {
	c, err := config.Load(s.config)
	if err != nil {
		return c, &usageError{err}
	}
	return c, nil
}

// client returns a client of the daemon that the settings name: by --socket, by the configuration, or the default if this user may
// not read that. A named file without a readable control.socket is an error. For the file at its usual place that is a warning, because
// an operator must be able to unban while a mistake in the file waits for its correction.
func (s *settings) client(warn io.Writer) (*control.Client, error) {
	socket := s.socket
	if socket == "" {
		named := s.config != config.Path
		if named {
			f, err := os.Open(s.config)
			if err != nil {
				return nil, &usageError{fmt.Errorf("configuration: %w", err)}
			}
			_ = f.Close()
		}
		var err error
		socket, err = config.Socket(s.config)
		switch {
		case err != nil && named:
			return nil, &usageError{fmt.Errorf("%w\nno control.socket in %s: correct the file, or use --socket", err, s.config)}
		case err != nil:
			fmt.Fprintf(warn, "fsban: %v\nfsban: no control.socket in %s, using %s\n", err, s.config, socket)
		}
	}
	client := control.NewClient(socket)
	client.Version = version
	return client, nil
}

// asking returns a command function that calls do with a client of the daemon.
func (s *settings) asking(do func(*cobra.Command, []string, *control.Client) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		client, err := s.client(cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		defer client.Close()
		return do(cmd, args, client)
	}
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  fsban version",
		Args:    noArgs,
		Run:     func(cmd *cobra.Command, _ []string) { printVersion(cmd.OutOrStdout()) },
	}
}

func printVersion(out io.Writer) {
	fmt.Fprintf(out, "fsban %s %s %s %s/%s\n", version, revision(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// revision returns the commit that this binary was built from, or "".
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
