package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unicode"

	"github.com/spf13/cobra"

	"fsban/config"
	"fsban/fail2ban"
)

func newImportFail2ban(s *settings) *cobra.Command {
	var i importer
	c := &cobra.Command{
		Use:   "import-fail2ban",
		Short: "Import fail2ban's configuration or its bans",
		Long: `Translate fail2ban's configuration into fsban's: the enabled jails that watch mod_cti's log or FreeSWITCH. The configuration
goes to standard output or to --out; the report of options taken, changed and not taken, with reasons, goes to standard
error. Options that are not taken are kept in the configuration as comments.

The jail becomes the rule auth. fsban's other rules apply as well, and the report lists them as stricter than fail2ban: four
users within ten minutes, for example, are a ban of three days. With --only-auth the configuration disables them.

The exit code is 3 when the configuration is written but some value of fail2ban's could not be read, so that an operator
must look at it: the report marks such values with !.

With --bans, the running fsban takes over the bans of these jails for their remaining time. The running fail2ban is asked
for them. With --bans-file they are read from saved output of fail2ban-client get JAIL banip --with-time, and fail2ban and
its configuration need not exist. Bans that fsban has for as long already, and never-ban addresses, are left out and
reported. Nothing of fail2ban's is changed.`,
		Example: `  fsban import-fail2ban
  fsban import-fail2ban --out fsban.yaml --only-auth
  fsban import-fail2ban --bans
  fsban import-fail2ban --bans --print
  fsban import-fail2ban --bans-file saved.txt   # - for standard input`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			i.out, i.report = cmd.OutOrStdout(), cmd.ErrOrStderr()
			bans := i.bans || i.bansFile != ""
			if i.print && !bans || bans && (i.file != "" || i.onlyAuth) {
				return &usageError{errors.New("--print is for --bans; --out and --only-auth are not")}
			}
			if i.bansFile == "" {
				if err := i.read(); err != nil {
					return err
				}
			}
			if bans {
				return i.importBans(cmd.Context(), cmd.InOrStdin(), s)
			}
			return i.importConfig()
		},
	}
	c.Flags().StringVar(&i.from, "from", "/etc/fail2ban", "fail2ban's configuration directory")
	c.Flags().StringSliceVar(&i.names, "jail", nil, "take these jails, instead of those that watch mod_cti's log or FreeSWITCH")
	c.Flags().BoolVar(&i.onlyAuth, "only-auth", false, "ban only where the jail does: disable the other rules and growing bans")
	c.Flags().StringVar(&i.file, "out", "", "write the configuration to this file")
	c.Flags().BoolVar(&i.force, "force", false, "replace the file, if there is one")
	c.Flags().BoolVar(&i.bans, "bans", false, "take over the bans, not the configuration")
	c.Flags().BoolVar(&i.print, "print", false, "with --bans: print the commands, and do not ask the daemon")
	c.Flags().StringVar(&i.bansFile, "bans-file", "", "take over the bans in this `file` of saved output, - for standard input")
	c.Flags().BoolVar(&i.json, "json", false, "as JSON, all on standard output")
	return c
}

// An importer is one run of `fsban import-fail2ban`.
type importer struct {
	from, file, bansFile     string
	names                    []string
	onlyAuth                 bool // disable the rules that fail2ban does not have
	force, bans, print, json bool
	out, report              io.Writer

	fail2ban *fail2ban.Configuration
	taken    []*fail2ban.Jail
	others   []string // enabled, and not taken
}

// read reads fail2ban's configuration and picks the jails.
func (i *importer) read() (err error) {
	if i.fail2ban, err = fail2ban.Read(i.from, i.names...); err != nil {
		return err
	}
	var asleep []string
	for _, j := range i.fail2ban.Jails {
		wanted := slices.Contains(i.names, j.Name) || len(i.names) == 0 && j.Enabled && j.Guards() != ""
		switch {
		case wanted:
			i.taken = append(i.taken, j)
		case j.Enabled:
			i.others = append(i.others, j.Name)
		case j.Guards() != "":
			asleep = append(asleep, j.Name)
		}
	}
	for _, name := range i.names {
		if i.fail2ban.Jail(name) == nil {
			return fmt.Errorf("%s: there is no jail [%s]", i.from, name)
		}
	}
	if len(i.taken) == 0 {
		var problems strings.Builder
		for _, p := range i.fail2ban.Problems {
			problems.WriteString("\n  " + p)
		}
		return fmt.Errorf("%s: no enabled jail watches mod_cti's log or FreeSWITCH (enabled: %s; not enabled: %s): name one with --jail%s",
			i.from, list(i.others), list(asleep), problems.String())
	}
	return nil
}

func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// importConfig writes the configuration and reports the verdict on each option.
func (i *importer) importConfig() error {
	plan := fail2ban.Translate(i.taken)
	stricter := plan.Stricter()
	if i.onlyAuth {
		plan.OnlyAuth()
		stricter = []fail2ban.Extra{}
	}
	yaml := plan.YAML(i.fail2ban.Problems,
		fmt.Sprintf("fsban's configuration, made of fail2ban's in %s: %s.", i.from, jailsOf(plan.Jails)),
		"What is not said here is as config.example.yaml has it; that explains every setting, too.",
		"",
		"fail2ban read logs. fsban logs in to FreeSWITCH's event socket: if its password is not ClueCon, say so here.",
		"freeswitch: {password: ClueCon}",
		"",
		"The file that the packages bring lets two groups use fsban's commands. So does this one, if you say so here, too.",
		"control: {readers: fsban-reader, admins: fsban-admin}",
	)
	if _, err := config.Parse("config.yaml", yaml); err != nil {
		return fmt.Errorf("a mistake in fsban: it does not understand what it made of fail2ban's configuration:\n%w\n%s", err, yaml)
	}
	if i.file != "" {
		if err := writeNew(i.file, yaml, i.force); err != nil {
			return err
		}
	}
	next := i.next()
	var look error
	if plan.NeedsLook() || len(i.fail2ban.Problems) > 0 {
		look = &exitError{exitLook,
			errors.New("some values of fail2ban's configuration could not be read: look at the comments in the configuration")}
	}
	if i.json {
		err := printJSON(i.out, struct {
			From     string           `json:"from"`
			Files    []string         `json:"files"`
			Jails    []string         `json:"jails"`
			Others   []string         `json:"not_taken"`
			Items    []fail2ban.Item  `json:"items"`
			Stricter []fail2ban.Extra `json:"stricter"` // parts of fsban's default policy that the jails do not have
			Problems []string         `json:"problems"`
			Config   string           `json:"config"`
			Next     []step           `json:"next"`
		}{i.from, i.fail2ban.Files, plan.Jails, append([]string{}, i.others...), plan.Items, stricter, append([]string{}, i.fail2ban.Problems...),
			string(yaml), next})
		return cmp.Or(err, look)
	}
	if i.file == "" {
		fmt.Fprintf(i.out, "%s", yaml)
	}
	i.explain(&plan)
	i.explainStricter(stricter)
	fmt.Fprintf(i.report, "\nTo change over without a gap:\n")
	width := 0
	for _, s := range next {
		width = max(width, len(s.Command))
	}
	for _, s := range next {
		if s.Why == "" {
			fmt.Fprintf(i.report, "  %s\n", s.Command)
		} else {
			fmt.Fprintf(i.report, "  %-*s  # %s\n", width, s.Command, s.Why)
		}
	}
	return look
}

func jailsOf(names []string) string {
	if len(names) == 1 {
		return "jail [" + names[0] + "]"
	}
	return "jails [" + strings.Join(names, "], [") + "]"
}

// explain reports the verdict on each option.
func (i *importer) explain(plan *fail2ban.Plan) {
	w := i.report
	fmt.Fprintf(w, "%s: %s\n", i.from, strings.Join(i.fail2ban.Files, ", "))
	for _, p := range i.fail2ban.Problems {
		fmt.Fprintf(w, "! %s\n", p)
	}
	for _, name := range plan.Jails {
		subject := i.fail2ban.Jail(name).Guards()
		if subject == "" {
			subject = "the choice of --jail"
		}
		fmt.Fprintf(w, "\n[%s] watches %s:\n", name, subject)
		for _, item := range plan.Items {
			if item.Jail != name {
				continue
			}
			said := ""
			mark := " "
			if item.Look {
				mark = "!"
			}
			switch {
			case item.From != "":
				said = fmt.Sprintf("%s = %s (%s): ", item.Option, oneLine(item.Value), item.From)
			case item.Option != "":
				said = item.Option + ": "
			}
			fmt.Fprintf(w, "%s %-10s %s%s\n", mark, item.Verdict, said, oneLine(item.Text))
		}
	}
	if len(i.others) > 0 {
		fmt.Fprintf(w, "\nNot taken, because fsban guards FreeSWITCH alone: %s\n", jailsOf(i.others))
	}
}

// explainStricter lists the parts of fsban's policy that ban more than the jails.
func (i *importer) explainStricter(list []fail2ban.Extra) {
	if len(list) > 0 {
		fmt.Fprint(i.report, "\nStricter than fail2ban (--only-auth disables all of it; fsban replay shows the effect):\n")
	}
	for _, extra := range list {
		fmt.Fprintf(i.report, "  %-12s %s\n", cmp.Or(extra.Rule, "repeated ban"), extra.Text)
	}
	if i.file != "" {
		fmt.Fprintf(i.report, "\n%s is written\n", i.file)
	}
}

// oneLine shows a value in one line of some length.
func oneLine(s string) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
	if s == "" {
		return `""`
	}
	if short := fmt.Sprintf("%.200s", s); short != s {
		return short + "..."
	}
	return s
}

// word is s as one word of a shell's command.
func word(s string) string {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-,") == "" && s != "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// A step is one command of changing over.
type step struct {
	Command string `json:"command"`
	Why     string `json:"why,omitempty"`
}

// next returns the commands of the migration, during which the host is always guarded.
func (i *importer) next() []step {
	file := word(i.file)
	var steps []step
	if i.file == "" {
		file = "fsban.yaml"
		flags := "--out " + file
		if i.onlyAuth {
			flags += " --only-auth"
		}
		steps = append(steps, step{Command: i.command(flags)})
	}
	if i.file != config.Path {
		steps = append(steps, step{"sudo cp " + file + " " + config.Path, "into the file that the package made: so fsban's user may read it"})
	}
	steps = append(steps,
		step{"sudoedit " + config.Path, "freeswitch.password"},
		step{"sudo fsban check", ""},
		step{"sudo systemctl enable fsban fsban-sets", ""},
		step{"sudo systemctl restart fsban", ""},
		step{"sudo fsban status --wait 30s", "go on only if it says PROTECTING"},
		step{i.command("--bans"), ""},
		step{"sudo fsban list", "are they there?"},
	)
	if len(i.others) == 0 {
		steps = append(steps, step{"sudo systemctl disable --now fail2ban", "it removes its rules and chains"})
	} else {
		steps = append(steps, step{"sudoedit " + word(filepath.Join(i.from, "jail.local")),
			"enabled = false, in " + jailsOf(i.takenNames()) + "; fail2ban stays for " + strings.Join(i.others, ", ")})
		for _, name := range i.takenNames() {
			steps = append(steps, step{"sudo fail2ban-client stop " + word(name), "it removes its rules and chains"})
		}
	}
	if chains := i.chains(); len(chains) > 0 {
		steps = append(steps, step{"sudo iptables-save | grep -E " + word(strings.Join(chains, "|")),
			"should find nothing; else iptables -D the jump, then -F and -X the chain"})
	}
	return steps
}

// command is this command again, with other flags.
func (i *importer) command(flags string) string {
	line := "sudo fsban import-fail2ban " + flags
	if i.from != "/etc/fail2ban" {
		line += " --from " + word(i.from)
	}
	if len(i.names) > 0 {
		line += " --jail " + word(strings.Join(i.names, ","))
	}
	return line
}

// chains are the names that fail2ban gives its chains.
func (i *importer) chains() []string {
	var chains []string
	for _, j := range i.taken {
		for _, a := range j.Actions {
			name := a.Options["name"]
			if name == "" {
				name = j.Name
			}
			if chain := "f2b-" + name; strings.HasPrefix(a.Name, "iptables") && !slices.Contains(chains, chain) {
				chains = append(chains, chain)
			}
		}
	}
	return chains
}

func (i *importer) takenNames() []string {
	list := make([]string, len(i.taken))
	for k, j := range i.taken {
		list[k] = j.Name
	}
	return list
}

// writeNew writes a file that is not there yet, or with force also one that is. It is there in whole or not at all.
func writeNew(path string, data []byte, force bool) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if _, err := os.Lstat(path); err == nil && !force {
		return fmt.Errorf("%s is there already: --force replaces it", path)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // 0600: a password may come into it
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	likeBefore(f, path)
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if force {
		return os.Rename(f.Name(), path)
	}
	if err := os.Link(f.Name(), path); errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already: --force replaces it", path)
	} else if err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	return nil
}

// likeBefore gives f the owner and mode of the file that it replaces, or of a new one that the service has to read, as far as
// we may.
func likeBefore(f *os.File, path string) {
	if old, err := os.Stat(path); err == nil {
		if st, ok := old.Sys().(*syscall.Stat_t); ok && f.Chown(int(st.Uid), int(st.Gid)) == nil {
			_ = f.Chmod(old.Mode().Perm())
		}
		return
	}
	if g, err := user.LookupGroup("fsban"); err == nil {
		if gid, err := strconv.Atoi(g.Gid); err == nil && f.Chown(-1, gid) == nil {
			_ = f.Chmod(0o640)
		}
	}
}
