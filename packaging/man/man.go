// Package man writes manual pages and shell completions of a command tree. It is for builds: no shipped program links it.
package man

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// Write writes DIR/man/NAME.1 with one more page for each command, and the completions of bash, zsh and fish into
// DIR/completion, unless the program has none. The pages bear the month of SOURCE_DATE_EPOCH, which must be set: the same
// commit gives the same files.
func Write(root *cobra.Command, version, dir string) error {
	seconds, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	if err != nil {
		return fmt.Errorf("SOURCE_DATE_EPOCH: %.40q is not a number of seconds", os.Getenv("SOURCE_DATE_EPOCH"))
	}
	pages := filepath.Join(dir, "man")
	if err := os.MkdirAll(pages, 0o755); err != nil {
		return err
	}
	if !root.CompletionOptions.DisableDefaultCmd {
		if err := completions(root, filepath.Join(dir, "completion")); err != nil {
			return err
		}
	}
	root.DisableAutoGenTag = true
	root.SetHelpCommand(&cobra.Command{Use: "no-help", Hidden: true}) // the help command has no page
	var list strings.Builder
	for _, c := range root.Commands() {
		c.Long = markdown(c.Long) + exitStatus
		if c.IsAvailableCommand() {
			fmt.Fprintf(&list, "**%s**\n\t%s\n\n", c.Name(), markdown(c.Short))
		}
	}
	root.Long = markdown(root.Long)
	if list.String() != "" {
		root.Long += "\n\n# COMMANDS\n\n" + list.String()
	}
	root.Long += exitStatus
	date := time.Unix(seconds, 0).UTC()
	return doc.GenManTreeFromOpts(root, doc.GenManTreeOptions{
		Path: pages, CommandSeparator: "-",
		Header: &doc.GenManHeader{Section: "1", Date: &date, Source: root.Name() + " " + version, Manual: root.Name()},
	})
}

const exitStatus = "\n\n# EXIT STATUS\n\n0 on success, 1 on failure, 2 on wrong usage or configuration.\n"

func completions(root *cobra.Command, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return errors.Join(
		root.GenBashCompletionFileV2(filepath.Join(dir, root.Name()+".bash"), true),
		root.GenZshCompletionFile(filepath.Join(dir, "_"+root.Name())),
		root.GenFishCompletionFile(filepath.Join(dir, root.Name()+".fish"), true),
	)
}

// markdown turns a help text into Markdown: indented lines become a literal block, in the rest no character is special.
func markdown(text string) string {
	special := strings.NewReplacer(`\`, `\\`, "`", "\\`", "*", `\*`, "_", `\_`, "<", `\<`, ">", `\>`, "[", `\[`, "]", `\]`, "#", `\#`)
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, "  ") {
			lines[i] = "    " + line
		} else {
			lines[i] = special.Replace(line)
		}
	}
	return strings.Join(lines, "\n")
}
