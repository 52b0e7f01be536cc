package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A process is a server at work.
type process struct {
	cmd  *exec.Cmd
	out  string        // file of its output
	done chan struct{} // closed at its end
	err  error         // why it ended, after that
}

// startProcess starts a server. It dies with this program.
func startProcess(out, path string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(path, args...), out: out, done: make(chan struct{})}
	f, err := os.OpenFile(out, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	p.cmd.Stdout, p.cmd.Stderr = f, f
	p.cmd.Env = append(os.Environ(), "TZ=UTC")
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// gone is an error when the process has ended.
func (p *process) gone() error {
	select {
	case <-p.done:
		said, _ := os.ReadFile(p.out)
		return fmt.Errorf("%s ended (%s): %s", filepath.Base(p.cmd.Path), p.cmd.ProcessState, said[max(0, len(said)-1000):])
	default:
		return nil
	}
}

// stop ends it in order.
func (p *process) stop() error {
	if err := p.gone(); err != nil {
		return err
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	<-p.done
	if p.err != nil {
		return fmt.Errorf("stop %s: %w", filepath.Base(p.cmd.Path), p.err)
	}
	return nil
}

// kill ends it, however it is.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// usage is the CPU time and memory that a process has used so far.
type usage struct {
	cpu      time.Duration  // user and system time of all its threads, also of those that ended
	children time.Duration  // of the programs that it ran and that ended, in hundredths of a second
	waits    map[string]int // how often each of its threads has waited for something
	rss      float64        // MiB now
	peak     float64        // MiB at most
}

func (p *process) usage() (u usage, err error) {
	dir := fmt.Sprintf("/proc/%d", p.cmd.Process.Pid)
	var cpu unix.Timespec
	// clock_getcpuclockid(3): the clock of another process.
	if err := unix.ClockGettime(int32(^p.cmd.Process.Pid<<3|2), &cpu); err != nil {
		return u, fmt.Errorf("read the CPU time of %s: %w", dir, err)
	}
	u.cpu = time.Duration(cpu.Nano())
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return u, err
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	for _, ticks := range fields[13:15] { // cutime and cstime
		n, err := strconv.Atoi(ticks)
		if err != nil {
			return u, fmt.Errorf("read %s/stat: %w", dir, err)
		}
		u.children += time.Duration(n) * time.Second / 100
	}
	rss, err := status(dir, "VmRSS")
	if err != nil {
		return u, err
	}
	peak, err := status(dir, "VmHWM")
	if err != nil {
		return u, err
	}
	u.rss, u.peak = float64(rss)/1024, float64(peak)/1024
	threads, err := filepath.Glob(dir + "/task/*")
	if err != nil {
		return u, err
	}
	u.waits = make(map[string]int)
	for _, thread := range threads {
		n, err := status(thread, "voluntary_ctxt_switches")
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ESRCH): // it has ended meanwhile
		case err != nil:
			return u, err
		default:
			u.waits[thread] = n
		}
	}
	return u, nil
}

// wakeups returns the number of waits of its threads since before. Those of threads that have ended are unknown.
func (u *usage) wakeups(before usage) (n int) {
	for thread, waits := range u.waits {
		n += waits - before.waits[thread]
	}
	return n
}

// status reads a number of a process's or a thread's status.
func status(dir, name string) (int, error) {
	data, err := os.ReadFile(dir + "/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			return strconv.Atoi(strings.Fields(rest)[0])
		}
	}
	return 0, fmt.Errorf("read %s/status: there is no %s", dir, name)
}
