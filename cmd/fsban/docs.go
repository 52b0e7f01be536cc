package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// newDocs is for whoever packages fsban.
func newDocs() *cobra.Command {
	return &cobra.Command{
		Use:    "docs DIR",
		Short:  "Write the manual pages and the completions of shells into a directory",
		Hidden: true,
		Long: `Write DIR/man/fsban.1 and one page for each command, and DIR/completion/fsban.bash, _fsban (zsh) and fsban.fish. The pages
bear the date SOURCE_DATE_EPOCH, or none: the same fsban writes the same files.`,
		Example: "  fsban docs dist/docs",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			files, err := documents(cmd.Root())
			if err != nil {
				return err
			}
			for name, text := range files {
				path := filepath.Join(args[0], name)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					return err
				}
				if err := os.WriteFile(path, text, 0o644); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// documents makes all files, by their names.
func documents(root *cobra.Command) (map[string][]byte, error) {
	date := ""
	if epoch := os.Getenv("SOURCE_DATE_EPOCH"); epoch != "" {
		seconds, err := strconv.ParseInt(epoch, 10, 64)
		if err != nil {
			return nil, &usageError{fmt.Errorf("SOURCE_DATE_EPOCH: %.40q is not a number of seconds", epoch)}
		}
		date = time.Unix(seconds, 0).UTC().Format(time.DateOnly)
	}
	files := make(map[string][]byte)
	for _, c := range append([]*cobra.Command{root}, commandsOf(root)...) {
		files[filepath.Join("man", pageOf(c)+".1")] = manPage(c, date)
	}
	for name, write := range map[string]func(*bytes.Buffer) error{
		"fsban.bash": func(b *bytes.Buffer) error { return root.GenBashCompletionV2(b, true) },
		"_fsban":     func(b *bytes.Buffer) error { return root.GenZshCompletion(b) },
		"fsban.fish": func(b *bytes.Buffer) error { return root.GenFishCompletion(b, true) },
	} {
		var b bytes.Buffer
		if err := write(&b); err != nil {
			return nil, err
		}
		files[filepath.Join("completion", name)] = b.Bytes()
	}
	return files, nil
}

// commandsOf are the subcommands that a user is shown.
func commandsOf(root *cobra.Command) (list []*cobra.Command) {
	for _, c := range root.Commands() {
		if c.IsAvailableCommand() && c.Name() != "completion" {
			list = append(list, c)
		}
	}
	return list
}

// pageOf is the name of a command's page, without the section.
func pageOf(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// manPage writes the page of one command, in the man macros that every man knows. It is made of the help text.
func manPage(c *cobra.Command, date string) []byte {
	var b bytes.Buffer
	section := func(name string) { fmt.Fprintf(&b, ".SH %s\n", name) }
	fmt.Fprintf(&b, ".TH %q 1 %q %q %q\n", strings.ToUpper(pageOf(c)), date, "fsban "+version, "fsban")
	section("NAME")
	fmt.Fprintf(&b, "%s \\- %s\n", roff(pageOf(c)), roff(c.Short))
	section("SYNOPSIS")
	use := c.UseLine()
	if c.HasAvailableSubCommands() {
		use = c.CommandPath() + " COMMAND [flags]"
	}
	fmt.Fprintf(&b, "%s\n", roff(use))
	if c.Long != "" {
		section("DESCRIPTION")
		paragraphs(&b, c.Long)
	}
	if c.HasAvailableSubCommands() {
		section("COMMANDS")
		for _, sub := range commandsOf(c) {
			fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(sub.Name()), roff(sub.Short))
		}
	}
	if c.Example != "" {
		section("EXAMPLES")
		paragraphs(&b, c.Example)
	}
	section("OPTIONS")
	c.InitDefaultHelpFlag()
	option := func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		name, usage := pflag.UnquoteUsage(f)
		long := strings.TrimRight("--"+f.Name+" "+name, " ")
		if f.Shorthand != "" {
			long = "-" + f.Shorthand + ", " + long
		}
		if d := f.DefValue; d != "" && d != "false" && d != "[]" && d != "0" {
			usage += " (default " + d + ")"
		}
		fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(long), roff(usage))
	}
	c.NonInheritedFlags().VisitAll(option)
	c.InheritedFlags().VisitAll(option)
	section("EXIT STATUS")
	paragraphs(&b, "0 is success, 1 that it did not work, 2 that the command or the configuration is wrong.")
	section("SEE ALSO")
	if c.HasParent() {
		fmt.Fprintf(&b, ".BR %s (1)\n", roff(pageOf(c.Root())))
	} else {
		var pages []string
		for _, sub := range commandsOf(c) {
			pages = append(pages, ".BR "+roff(pageOf(sub))+" (1)")
		}
		fmt.Fprintln(&b, strings.Join(pages, " ,\n"))
	}
	return b.Bytes()
}

// paragraphs writes a help text: indented lines as they stand, the others filled.
func paragraphs(b *bytes.Buffer, text string) {
	asIs := false
	for _, line := range strings.Split(text, "\n") {
		if indented := strings.HasPrefix(line, "  "); indented != asIs && line != "" {
			asIs = indented
			fmt.Fprintln(b, map[bool]string{true: ".PP\n.nf", false: ".fi"}[asIs])
		}
		if line == "" {
			line = ".PP"
		} else {
			line = roff(line)
		}
		fmt.Fprintln(b, line)
	}
	if asIs {
		fmt.Fprintln(b, ".fi")
	}
}

// roff escapes what troff would take for its own.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}
