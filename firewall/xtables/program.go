package xtables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coreos/go-iptables/iptables"
)

// An xtables holds the programs of one family's iptables. Rules are read with iptables-save, which waits for no lock, and
// changed with iptables-restore, which changes all or nothing of a table in one moment.
type xtables struct {
	*iptables.IPTables
	saver, restorer string
	wait            []string      // arguments that make the restorer wait for the lock
	started         func(pid int) // called with the process number of each restorer
	legacy          string        // ip or ip6, as the modules of iptables-legacy begin; empty for iptables-nft
}

const (
	// lockWait is how many seconds one iptables may wait for the lock of another.
	lockWait = 5
	// patience is the time after which a program is killed.
	patience = 30 * time.Second
)

// findXtables finds the programs of a family: those in use, or those of one of variants. It changes nothing.
func findXtables(proto iptables.Protocol, variant string, started func(pid int)) (*xtables, error) {
	kind := "ip"
	if proto == iptables.ProtocolIPv6 {
		kind = "ip6"
	}
	name := kind + "tables"
	if variant != "" {
		name += "-" + variant
	}
	ipt, err := iptables.New(iptables.IPFamily(proto), iptables.Timeout(lockWait), iptables.Path(name))
	if err != nil {
		return nil, fmt.Errorf("find %s (install the package iptables): %w", name, err)
	}
	x := &xtables{IPTables: ipt, started: started}
	if version, err := run(context.Background(), nil, "", name, "--version"); err == nil && !strings.Contains(version, "nf_tables") {
		x.legacy = kind
	}
	for path, program := range map[*string]string{&x.saver: name + "-save", &x.restorer: name + "-restore"} {
		if *path, err = exec.LookPath(program); err != nil {
			return nil, fmt.Errorf("find %s (install the package iptables): %w", program, err)
		}
	}
	if major, minor, patch := ipt.GetIptablesVersion(); major > 1 || minor > 6 || minor == 6 && patch >= 2 {
		x.wait = []string{"--wait", strconv.Itoa(lockWait)}
	}
	return x, nil
}

// procNet describes the network namespace of this thread; /proc/net that of the process's first thread.
const procNet = "/proc/thread-self/net/"

// lacks reports whether a table certainly does not exist. Listing a table of iptables-legacy creates it, and every packet passes it
// from then on.
func (x *xtables) lacks(name string) bool {
	if x.legacy == "" {
		return false
	}
	names, err := os.ReadFile(procNet + x.legacy + "_tables_names")
	switch {
	case err == nil:
		return !slices.Contains(strings.Fields(string(names)), name)
	case errors.Is(err, fs.ErrNotExist): // the module is not loaded, if there is a /proc at all
		_, err = os.Stat(procNet + "dev")
		return err == nil
	}
	modules, err := os.ReadFile("/proc/modules") // root alone may read the names
	return err == nil && modulesLack(string(modules), x.legacy, name)
}

// modulesLack reports whether a table of iptables-legacy cannot exist because its module is not loaded. Tables that are built into
// the kernel are not among the modules.
func modulesLack(modules, legacy, name string) bool {
	modules = "\n" + modules
	return strings.Contains(modules, "\n"+legacy+"_tables ") && !strings.Contains(modules, "\n"+legacy+"table_"+name+" ")
}

// save reads a table with its counters.
func (x *xtables) save(ctx context.Context, name string) (table, error) {
	out, err := run(ctx, nil, "", x.saver, "-c", "-t", name)
	if err == nil && strings.Contains(out, "is incompatible, use 'nft' tool") {
		err = errors.New("the table holds rules that only nft understands")
	}
	return parseTable(out), err
}

// restore changes a table by lines in the format of iptables-save, in one transaction. Rules that the lines do not name stay.
func (x *xtables) restore(ctx context.Context, name string, lines []string) error {
	script := "*" + name + "\n" + strings.Join(lines, "\n") + "\nCOMMIT\n"
	_, err := run(ctx, x.started, script, x.restorer, append([]string{"--noflush"}, x.wait...)...)
	return err
}

// run runs a program and returns its output. The error contains the program's message. started, if not nil, is called with the
// process number.
func run(ctx context.Context, started func(pid int), input, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errs
	cmd.WaitDelay = time.Second
	err := cmd.Start()
	if err == nil {
		if started != nil {
			started(cmd.Process.Pid)
		}
		err = cmd.Wait()
	}
	switch {
	case err == nil:
		return out.String(), nil
	case ctx.Err() != nil:
		err = fmt.Errorf("%w: %w", ctx.Err(), err)
	case errs.Len() > 0:
		err = fmt.Errorf("%w: %s", err, errs.String())
	}
	return "", err
}
