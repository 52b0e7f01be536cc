package daemon

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// A cell is a memory limit and its enforcement.
type cell struct {
	dir    string // control group; "": not permitted to create one
	events string // its file with the number of kills
}

func (c cell) String() string {
	if c.dir == "" {
		return "GOMEMLIMIT alone, for no control group can be made here"
	}
	return "a control group of the kernel's, and nine tenths by GOMEMLIMIT"
}

func (c cell) byKernel() bool { return c.dir != "" }

// confine limits the memory of a process by a control group, version 1 or 2, below the group of this process.
func confine(t *testing.T, pid int, bytes uint64) cell {
	t.Helper()
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(own)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		var dir, limit string
		var c cell
		switch parts[1] {
		case "":
			dir, limit, c.events = "/sys/fs/cgroup", "memory.max", "memory.events"
		case "memory":
			dir, limit, c.events = "/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.oom_control"
		default:
			continue
		}
		c.dir = filepath.Join(dir, parts[2], fmt.Sprintf("fsban-test-%d", pid))
		if os.Mkdir(c.dir, 0o755) != nil {
			continue
		}
		err := write(filepath.Join(c.dir, limit), strconv.FormatUint(bytes, 10))
		if err == nil {
			err = write(filepath.Join(c.dir, "cgroup.procs"), strconv.Itoa(pid))
		}
		if err != nil {
			_ = os.Remove(c.dir)
			continue
		}
		t.Cleanup(func() {
			if os.Remove(c.dir) != nil { // the process has not ended yet
				_ = write(filepath.Join(filepath.Dir(c.dir), "cgroup.procs"), strconv.Itoa(pid))
				_ = os.Remove(c.dir)
			}
		})
		return c
	}
	return cell{}
}

// write writes to an existing file of the kernel.
func write(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}

// kills returns the number of processes in the cell that the kernel has killed for their memory.
func (c cell) kills(t *testing.T) int {
	t.Helper()
	if c.dir == "" {
		return 0
	}
	text, err := os.ReadFile(filepath.Join(c.dir, c.events))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if n, ok := strings.CutPrefix(line, "oom_kill "); ok {
			kills, err := strconv.Atoi(strings.TrimSpace(n))
			if err != nil {
				t.Fatal(err)
			}
			return kills
		}
	}
	t.Fatalf("nothing is known of kills: %s", text)
	return 0
}
