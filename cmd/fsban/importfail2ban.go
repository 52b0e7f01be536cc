package main

import (
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
		Short: "Take over fail2ban's configuration, or its bans",
		Long: `Read fail2ban's configuration and write the one of fsban that means the same: of the enabled jails that watch mod_cti's
log or FreeSWITCH. The configuration goes to standard output or to --out; what was taken, changed and not taken, and why,
is said on standard error.

With --bans, have the running fsban ban whom these jails have banned, for as long as is left. The bans are read from
fail2ban's database, whether fail2ban runs or not. What fsban bans already for as long, and what it never bans, is left
out and said. Nothing of fail2ban's is changed.`,
		Example: `  fsban import-fail2ban
  fsban import-fail2ban --out fsban.yaml
  fsban import-fail2ban --bans
  fsban import-fail2ban --bans --print`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			i.out, i.report = cmd.OutOrStdout(), cmd.ErrOrStderr()
			if (i.print || i.db != "") && !i.bans || i.bans && i.file != "" {
				return &usageError{errors.New("--print and --db are for --bans, --out is not")}
			}
			if err := i.read(); err != nil {
				return err
			}
			if i.bans {
				return i.importBans(cmd.Context(), s)
			}
			return i.importConfig()
		},
	}
	c.Flags().StringVar(&i.from, "from", "/etc/fail2ban", "fail2ban's configuration directory")
	c.Flags().StringSliceVar(&i.names, "jail", nil, "take these jails, instead of those that watch mod_cti's log or FreeSWITCH")
	c.Flags().StringVar(&i.file, "out", "", "write the configuration to this file")
	c.Flags().BoolVar(&i.force, "force", false, "replace the file, if there is one")
	c.Flags().BoolVar(&i.bans, "bans", false, "take over the bans, not the configuration")
	c.Flags().BoolVar(&i.print, "print", false, "with --bans: print the commands, and do not ask the daemon")
	c.Flags().StringVar(&i.db, "db", "", "with --bans: fail2ban's database (default: as its configuration has it)")
	c.Flags().BoolVar(&i.json, "json", false, "as JSON, all on standard output")
	return c
}

// An importer is one run of `fsban import-fail2ban`.
type importer struct {
	from, file, db           string
	names                    []string
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
		return fmt.Errorf("%s: no enabled jail watches mod_cti's log or FreeSWITCH (enabled: %s; not enabled: %s): name one with --jail",
			i.from, list(i.others), list(asleep))
	}
	return nil
}

func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// importConfig writes the configuration and says what became of what.
func (i *importer) importConfig() error {
	plan := fail2ban.Translate(i.taken)
	yaml := plan.YAML(
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
	if i.json {
		return printJSON(i.out, struct {
			From     string          `json:"from"`
			Files    []string        `json:"files"`
			Jails    []string        `json:"jails"`
			Others   []string        `json:"not_taken"`
			Items    []fail2ban.Item `json:"items"`
			Problems []string        `json:"problems"`
			Config   string          `json:"config"`
			Next     []step          `json:"next"`
		}{i.from, i.fail2ban.Files, plan.Jails, append([]string{}, i.others...), plan.Items, append([]string{}, i.fail2ban.Problems...), string(yaml), next})
	}
	if i.file == "" {
		fmt.Fprintf(i.out, "%s", yaml)
	}
	i.explain(&plan)
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
	return nil
}

func jailsOf(names []string) string {
	if len(names) == 1 {
		return "jail [" + names[0] + "]"
	}
	return "jails [" + strings.Join(names, "], [") + "]"
}

// explain says what became of each option.
func (i *importer) explain(plan *fail2ban.Plan) {
	w := i.report
	fmt.Fprintf(w, "%s: %s\n", i.from, strings.Join(i.fail2ban.Files, ", "))
	for _, p := range i.fail2ban.Problems {
		fmt.Fprintf(w, "  %s\n", p)
	}
	for _, name := range plan.Jails {
		what := i.fail2ban.Jail(name).Guards()
		if what == "" {
			what = "what --jail says"
		}
		fmt.Fprintf(w, "\n[%s] watches %s:\n", name, what)
		for _, item := range plan.Items {
			if item.Jail != name {
				continue
			}
			said := ""
			switch {
			case item.From != "":
				said = fmt.Sprintf("%s = %s (%s): ", item.Option, oneLine(item.Value), item.From)
			case item.Option != "":
				said = item.Option + ": "
			}
			fmt.Fprintf(w, "  %-10s %s%s\n", item.Verdict, said, oneLine(item.Text))
		}
	}
	if len(i.others) > 0 {
		fmt.Fprintf(w, "\nNot taken, because fsban guards FreeSWITCH alone: %s\n", jailsOf(i.others))
	}
	if i.file != "" {
		fmt.Fprintf(w, "\n%s is written\n", i.file)
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

// next are the commands that change over: at no time is nobody guarding.
func (i *importer) next() []step {
	file := word(i.file)
	var steps []step
	if i.file == "" {
		file = "fsban.yaml"
		steps = append(steps, step{Command: i.command("--out " + file)})
	}
	if i.file != config.Path {
		steps = append(steps, step{"sudo cp " + file + " " + config.Path, "into the file that the package made: so fsban's user may read it"})
	}
	steps = append(steps,
		step{"sudoedit " + config.Path, "freeswitch.password"},
		step{"sudo fsban check", ""},
		step{"sudo systemctl enable fsban", ""},
		step{"sudo systemctl restart fsban", "returns when fsban protects, beside fail2ban"},
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
