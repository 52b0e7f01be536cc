package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"fsban/control"
	"fsban/internal/fakeswitch"
	"fsban/internal/netns"
	"fsban/internal/term"
)

// A demo is one run of the program.
type demo struct {
	stay   bool
	dryRun bool
	night  time.Duration
	fsban  string // path of the program under demonstration
	out    *lines
	dir    string // configuration, state and sockets
}

// lines lets several goroutines print whole lines.
type lines struct {
	mu  sync.Mutex
	out io.Writer
}

func (l *lines) printf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.out, format+"\n", args...)
}

// enter runs this program again in namespaces of its own, or as a dry run if the system refuses them.
func (d *demo) enter(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	// Interrupts reach the child from the terminal, and a termination is passed on; it then ends in order.
	cmd := netns.Command(context.WithoutCancel(ctx), self, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = cmd.Start()
	if err != nil {
		d.out.printf("This system refuses namespaces (%v): the same as a dry run, without packets and without a kernel.\n", err)
		d.dryRun = true
		return d.run(ctx)
	}
	defer context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })()
	err = cmd.Wait()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return errors.New("the demo did not show what it should")
	}
	return err
}

// The addresses of the demo, from the ranges reserved for documentation.
var (
	switchAddr  = netip.MustParseAddr("192.0.2.10")
	guesserAddr = netip.MustParseAddr("203.0.113.66")
	scannerAddr = netip.MustParseAddr("203.0.113.99")
	officeAddr  = netip.MustParseAddr("203.0.113.50")
)

// run plays the night inside the namespaces.
func (d *demo) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := d.prepare(); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(d.dir) }()

	freeswitch := fakeswitch.New(fakeswitch.Options{Heartbeat: 5 * time.Second})
	if err := freeswitch.Listen("127.0.0.1:0"); err != nil {
		return err
	}
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() { _ = freeswitch.Serve(ctx) })

	config := filepath.Join(d.dir, "config.yaml")
	if err := os.WriteFile(config, d.config(freeswitch.Addr()), 0o600); err != nil {
		return err
	}
	daemon, err := d.startDaemon(ctx, config)
	if err != nil {
		return err
	}
	defer daemon.stop()
	if err := daemon.ready(ctx, freeswitch, filepath.Join(d.dir, "fsban.sock")); err != nil {
		return err
	}

	n := &night{freeswitch: freeswitch, out: d.out, packets: !d.dryRun}
	if err := n.play(ctx, d.night); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	err = d.show(ctx, config, n)
	if d.stay && err == nil {
		d.out.printf("\nIt stays up. In another terminal:\n  %s --socket %s status\n  ... list, ban 203.0.113.7, unban "+
			"203.0.113.66\nInterrupt to end it.", d.fsban, filepath.Join(d.dir, "fsban.sock"))
		n.quiet = true
		return n.play(ctx, 0)
	}
	return err
}

func (d *demo) prepare() (err error) {
	if d.dir, err = os.MkdirTemp("", "fsban-demo-"); err != nil {
		return err
	}
	if d.dryRun {
		return nil
	}
	if _, err := netns.Prepare(); err != nil {
		return err
	}
	return netns.Assign(netip.PrefixFrom(switchAddr, 32), netip.MustParsePrefix("203.0.113.1/24"))
}

// config returns the daemon's configuration: paths and addresses of the demo, and defaults for everything else.
func (d *demo) config(eventSocket string) []byte {
	enforce := !d.dryRun
	return fmt.Appendf(nil,
		"freeswitch: {address: %q}\nfirewall: {backend: iptables, enforce: %v, check: 2s}\nstate: {directory: %q}\ncontrol: {socket: "+
			"%q}\nhttp: {listen: %q}\nsip: {tap: off}\n",
		eventSocket, enforce, d.dir, filepath.Join(d.dir, "fsban.sock"), d.listen())
}

// listen returns the address of the metrics. A dry run shares the host's network, so it avoids the default port.
func (d *demo) listen() string {
	if d.dryRun {
		return "127.0.0.1:19738"
	}
	return "127.0.0.1:9738"
}

// A child is the daemon of the demo.
type child struct {
	cmd  *exec.Cmd
	done chan struct{} // closed at the daemon's end
	err  error         // of its end, once done is closed
}

func (d *demo) startDaemon(ctx context.Context, config string) (*child, error) {
	cmd := exec.CommandContext(context.WithoutCancel(ctx), d.fsban, "run", "--config", config)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	d.out.printf("$ fsban run")
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	c := &child{cmd: cmd, done: make(chan struct{})}
	go func() {
		for s := bufio.NewScanner(stderr); s.Scan(); {
			_, text, _ := strings.Cut(s.Text(), " ") // without the time
			d.out.printf("      fsban | %s", text)
		}
		c.err = cmd.Wait()
		close(c.done)
	}()
	return c, nil
}

// patience bounds the daemon's start, its end and a page.
const patience = 20 * time.Second

// ready waits until the daemon reports that it protects.
func (c *child) ready(ctx context.Context, freeswitch *fakeswitch.Switch, socket string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := freeswitch.WaitSubscribed(ctx); err != nil {
		return fmt.Errorf("the daemon did not connect: %w", err)
	}
	client := control.NewClient(socket)
	defer client.Close()
	for {
		s, err := client.Status(ctx)
		if err == nil && (s.Ready || s.Watching) {
			return nil
		}
		select {
		case <-c.done:
			return fmt.Errorf("the daemon ended: %w", c.err)
		case <-ctx.Done():
			return fmt.Errorf("the daemon did not get ready: %v (%w)", s.Problems, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (c *child) stop() {
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.done:
	case <-time.After(patience):
		_ = c.cmd.Process.Kill()
		<-c.done
	}
}

// show prints status, bans, kernel rules and metrics, and returns an error if the bans are not the expected ones.
func (d *demo) show(ctx context.Context, config string, n *night) error {
	for _, args := range [][]string{{"status"}, {"list"}} {
		if err := d.command(ctx, d.fsban, append([]string{"--config", config}, args...)...); err != nil {
			return err
		}
	}
	if !d.dryRun {
		// The kernel's view. fsban itself does not need the ipset program.
		for _, line := range []string{"iptables -t raw -v -n -L FSBAN", "ipset list fsban4"} {
			words := strings.Fields(line)
			if _, err := exec.LookPath(words[0]); err == nil {
				if err := d.command(ctx, words[0], words[1:]...); err != nil {
					return err
				}
			}
		}
	}
	client := control.NewClient(filepath.Join(d.dir, "fsban.sock"))
	defer client.Close()
	if err := d.metrics(ctx); err != nil {
		return err
	}
	bans, err := client.Bans(ctx, control.Pick{})
	if err != nil {
		return err
	}
	return d.verdict(bans, n)
}

func (d *demo) command(ctx context.Context, path string, args ...string) error {
	shown := slices.Clone(args)
	if path == d.fsban {
		shown = args[2:] // without --config
	}
	d.out.printf("\n$ %s %s", filepath.Base(path), strings.Join(shown, " "))
	cmd := exec.CommandContext(ctx, path, args...)
	if width := term.NewScreen(os.Stdout).Width; width > 0 {
		cmd.Env = append(os.Environ(), fmt.Sprintf("COLUMNS=%d", width))
	}
	out, err := cmd.CombinedOutput()
	d.out.printf("%s", strings.TrimRight(string(out), "\n"))
	if err != nil {
		return fmt.Errorf("%s %s: %w", filepath.Base(path), strings.Join(shown, " "), err)
	}
	return nil
}

func (d *demo) metrics(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	page := "http://" + d.listen() + "/metrics"
	d.out.printf("\n$ curl -s %s | grep -E '^fsban_(attempts_total|bans_total|banned|dropped)' | grep -v ' 0$'", page)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, page, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	for s := bufio.NewScanner(resp.Body); s.Scan(); {
		for _, prefix := range []string{"fsban_attempts_total", "fsban_bans_total", "fsban_banned", "fsban_dropped"} {
			if strings.HasPrefix(s.Text(), prefix) && !strings.HasSuffix(s.Text(), " 0") {
				d.out.printf("%s", s.Text())
			}
		}
	}
	return nil
}

// verdict compares the bans and the answered requests with the expected ones.
func (d *demo) verdict(bans []control.Ban, n *night) error {
	var banned []string
	for i := range bans {
		if bans[i].InKernel || bans[i].Watched {
			banned = append(banned, bans[i].Prefix.String())
		}
	}
	slices.Sort(banned)
	want := []string{guesserAddr.String() + "/32", scannerAddr.String() + "/32"}
	if !slices.Equal(banned, want) {
		return fmt.Errorf("banned are %v, should be %v", banned, want)
	}
	if d.dryRun {
		d.out.printf("\nThe guesser would be banned at the fifth failure, the scanner, which gives its name, at the third; the phones and the " +
			"office would\nnot.")
		return nil
	}
	var dropped uint64
	for i := range bans {
		dropped += bans[i].Dropped.Packets
	}
	answered := n.answeredAfterBan()
	if dropped == 0 || answered > 0 {
		return fmt.Errorf("the kernel dropped %d packets of the banned, and FreeSWITCH answered %d", dropped, answered)
	}
	d.out.printf("\nThe guesser is banned at the fifth failure, the scanner, which gives its name, at the third; %d packets that they "+
		"sent\nsince were dropped before anything saw them. The phones and the office were not touched.", dropped)
	return nil
}
