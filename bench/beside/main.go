// Beside runs fsban and fail2ban under the same load and prints the tables of docs/performance.md.
//
// Both are configured as in use: Debian's fail2ban-server with the jail of mod_cti's installations, its database and pyinotify,
// which Debian installs with it; fsban with its defaults, but without a limit of bans a minute, which fail2ban lacks too. Both
// get the same lines of mod_cti's log. Each measurement has network namespaces of its own, with real iptables and ipset and an
// empty state. Packets show the banned addresses, for both in the same way. The rounds alternate. After each, both must have
// counted and banned the same, or the run fails.
//
// The tables name the differences: fsban gets more bans and lines in some rows, because fail2ban would take too long; latency
// and idle are also measured with the event socket, fsban's normal source, which fail2ban cannot read. A recorded FreeSWITCH
// runs in a process of its own, outside all figures.
//
// Exit code: 0 measured, 1 they disagree or something failed, 2 something is missing or the call is wrong.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"fsban/internal/netns"
)

// options choose the measurements.
type options struct {
	params
	rounds    int
	attackers int // of latency, a round
	f2bLines  int
	fsLines   int
	f2bBans   int
	fsBans    int
	manyBans  int
	inside    string // a job: only it is done
	dir       string // of its files
}

func main() { os.Exit(run()) }

func run() int {
	o, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		if o.inside != "" {
			err = o.child(ctx)
		} else {
			err = o.measure(ctx)
		}
	}
	if err == nil {
		return 0
	}
	fmt.Fprintln(os.Stderr, "beside:", err)
	if usage := (*usageError)(nil); errors.As(err, &usage) {
		return 2
	}
	return 1
}

// A usageError reports a wrong command line: exit code 2.
type usageError struct{ error }

func parse(args []string, out io.Writer) (o options, err error) {
	flags := flag.NewFlagSet("beside", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.StringVar(&o.fsban, "fsban", "bin/fsban", "the fsban to measure")
	flags.IntVar(&o.rounds, "rounds", 3, "so often each; figures are medians of them")
	flags.IntVar(&o.attackers, "attackers", 34, "one after the other, in each round")
	flags.IntVar(&o.f2bLines, "fail2ban-lines", 50_000, "lines for both")
	flags.IntVar(&o.fsLines, "fsban-lines", 300_000, "lines for fsban alone")
	flags.IntVar(&o.perAddress, "per-address", 4, "lines of an address, 1 to 4; with 1 each brings a new address, the worst case for both")
	flags.IntVar(&o.f2bBans, "fail2ban-bans", 500, "bans at once, for both")
	flags.IntVar(&o.fsBans, "fsban-bans", 5_000, "bans at once, for fsban alone")
	flags.IntVar(&o.manyBans, "many-bans", 100_000, "and so many")
	flags.IntVar(&o.tracked, "tracked", 20_000, "addresses that failed once, when memory is measured")
	flags.DurationVar(&o.quiet, "idle", 20*time.Second, "how long nothing happens")
	flags.DurationVar(&o.timeout, "timeout", 10*time.Minute, "of one measurement")
	flags.StringVar(&o.inside, "inside", "", "for its own use: ROW/GUARD/N")
	flags.StringVar(&o.dir, "dir", "", "for its own use: of the files")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return o, err
		}
		return o, &usageError{err}
	}
	o.settle = time.Second
	for name, n := range map[string]int{
		"rounds": o.rounds, "attackers": o.attackers, "fail2ban-lines": o.f2bLines, "fsban-lines": o.fsLines, "per-address": o.perAddress,
		"fail2ban-bans": o.f2bBans, "fsban-bans": o.fsBans, "many-bans": o.manyBans, "tracked": o.tracked,
	} {
		if n < 1 || n > 1_000_000 {
			return o, &usageError{fmt.Errorf("-%s is 1 to 1000000, not %d", name, n)}
		}
	}
	if o.perAddress >= maxretry {
		return o, &usageError{fmt.Errorf("-per-address is 1 to %d: with more an address would be banned", maxretry-1)}
	}
	if o.quiet < time.Second || o.quiet > time.Hour {
		return o, &usageError{fmt.Errorf("-idle is 1s to 1h, not %v", o.quiet)}
	}
	if flags.NArg() > 0 {
		return o, &usageError{fmt.Errorf("it takes flags alone, not %q", flags.Args())}
	}
	return o, nil
}

// child does one job, inside, and writes its figures to standard output.
func (o *options) child(ctx context.Context) error {
	j, err := parseJob(o.inside)
	if err != nil {
		return &usageError{err}
	}
	done, err := netns.Prepare()
	if err != nil {
		return err
	}
	defer done()
	f, err := j.run(ctx, o.dir, o.params)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(f)
}

func parseJob(s string) (j job, err error) {
	words := strings.Split(s, "/")
	if len(words) != 3 || rows[words[0]] == nil && words[0] != "replay" {
		return j, fmt.Errorf("there is no measurement %q", s)
	}
	j.Row, j.Guard = words[0], words[1]
	j.N, err = strconv.Atoi(words[2])
	return j, err
}

// missing lists required programs and privileges that are absent.
func (o *options) missing() error {
	for _, tool := range []string{"fail2ban-server", "fail2ban-client"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("there is no %s: install fail2ban (apt-get install fail2ban python3-pyinotify)", tool)
		}
	}
	if _, err := exec.LookPath("iptables"); err != nil {
		return errors.New("there is no iptables: install it (apt-get install iptables)")
	}
	if _, err := os.Stat(etc + "/fail2ban.conf"); err != nil {
		return fmt.Errorf("%w: install Debian's fail2ban (apt-get install fail2ban python3-pyinotify)", err)
	}
	if info, err := os.Stat(o.fsban); err != nil || info.IsDir() {
		return fmt.Errorf("there is no program %s: make build, or name one with -fsban", o.fsban)
	}
	return nil
}

// jobs are all that is measured: those of each round, and those that are done once.
func (o *options) jobs() (each, once []job) {
	each = []job{
		{"latency", "fail2ban", o.attackers}, {"latency", "log", o.attackers}, {"latency", "events", o.attackers},
		{"lines", "fail2ban", o.f2bLines}, {"lines", "log", o.f2bLines}, {"lines", "log", o.fsLines},
		{"replay", "log", o.fsLines},
		{"bans", "fail2ban", o.f2bBans}, {"bans", "log", o.f2bBans}, {"bans", "log", o.fsBans},
	}
	// Memory and idle figures vary little, and very many bans take long: one round suffices.
	once = []job{
		{"bans", "log", o.manyBans},
		{"memory", "fail2ban", o.f2bBans}, {"memory", "log", o.f2bBans},
		{"idle", "fail2ban", 0}, {"idle", "events", 0},
	}
	return each, once
}

func (o *options) measure(ctx context.Context) error {
	if err := o.missing(); err != nil {
		return &usageError{err}
	}
	all := make(figures)
	each, once := o.jobs()
	for round := range o.rounds {
		list := slices.Clone(each)
		if round == 0 {
			list = append(list, once...)
		}
		for i, j := range list {
			fmt.Fprintf(os.Stderr, "round %d of %d, %d of %d: %s\n", round+1, o.rounds, i+1, len(list), j)
			f, err := o.start(ctx, j)
			if err != nil {
				return fmt.Errorf("%s: %w", j, err)
			}
			for name, values := range f {
				all[j.String()+" "+name] = append(all[j.String()+" "+name], values...)
			}
		}
	}
	return o.report(os.Stdout, all)
}

// start does a job in a process, with namespaces and a directory of its own.
func (o *options) start(ctx context.Context, j job) (f figures, err error) {
	dir, err := os.MkdirTemp("", "beside") // a socket's path is short
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	program, err := filepath.Abs(o.fsban)
	if err != nil {
		return nil, err
	}
	cmd := netns.Command(ctx, self, append(slices.Clone(os.Args[1:]), "-fsban", program, "-inside", j.String(), "-dir", dir)...)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return nil, errors.Join(errors.New(strings.TrimSpace(said.String())), context.Cause(ctx))
	}
	if err != nil {
		return nil, fmt.Errorf("in namespaces of its own: %w", err)
	}
	if err := json.Unmarshal(out, &f); err != nil {
		return nil, fmt.Errorf("%w: %.200s", err, out)
	}
	if j.Guard == "fail2ban" && f["pyinotify"] == nil {
		return nil, &usageError{errors.New("fail2ban looks at its log once a second, because it lacks pyinotify: install it (apt-get install " +
			"python3-pyinotify)")}
	}
	return f, nil
}
