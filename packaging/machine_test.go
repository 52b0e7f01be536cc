package packaging_test

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience is how long a machine may take for anything that it takes a moment for: this host may be busy.
const patience = 2 * time.Minute

// packages are installed on a machine in addition to Debian's minimum.
const packages = "systemd,systemd-sysv,dbus,iptables,ipset,nftables,iproute2"

// debian returns a directory with a clean Debian in it, of the release that this host has. It is made once and kept among
// temporary files, for root alone. Nobody may write to it.
func debian(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test installs a Debian and boots it, and fails without root")
	}
	release := strings.TrimSpace(output(t, "sh", "-c", `. /etc/os-release && echo "$VERSION_CODENAME"`))
	mirror := ""
	for line := range strings.Lines(output(t, "apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI)", "Identifier: Packages", "Origin: Debian")) {
		if words := strings.Fields(line); len(words) == 2 && words[0] == release && mirror == "" {
			mirror = words[1]
		}
	}
	if mirror == "" {
		t.Fatalf("apt knows no Debian %s: run apt-get update", release)
	}
	sum := sha256.Sum256([]byte(release + mirror + packages))
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("fsban-debian-%x", sum[:6]))
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
	if info, err := os.Lstat(dir); err != nil || !info.IsDir() || info.Mode().Perm() != 0o700 || info.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Fatalf("%s is not root's alone (%v)", dir, err)
	}
	lock, err := os.Create(filepath.Join(dir, "lock"))
	if err == nil {
		defer func() { _ = lock.Close() }()
		err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(dir, "root")
	if _, err := os.Stat(root); err == nil {
		return root
	}
	half := filepath.Join(dir, "half")
	if err := os.RemoveAll(half); err != nil {
		t.Fatal(err)
	}
	output(t, "debootstrap", "--variant=minbase", "--include="+packages, release, half, mirror)
	if err := os.Rename(half, root); err != nil {
		t.Fatal(err)
	}
	return root
}

// A machine is a Debian that systemd runs, in namespaces of its own.
type machine struct {
	*testing.T
	pid string // of its process 1
}

// boot starts a machine, which is removed after the test.
func boot(t *testing.T) *machine {
	t.Helper()
	return bootWith(t, "", "")
}

// bootWith starts a machine that has the content of the directory files in its root, and on which a shell script has run
// before systemd starts. Both are optional.
func bootWith(t *testing.T, files, script string) *machine {
	t.Helper()
	args := []string{"--mount", "sh", "testdata/machine.sh", debian(t), t.TempDir()}
	if script != "" {
		args = append(args, "sh", "-ec", script+"\nexec /lib/systemd/systemd --log-target=null --show-status=0")
	}
	cmd := exec.Command("unshare", args...)
	cmd.Env = append(os.Environ(), "FILES="+files)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	m := &machine{T: t}
	t.Cleanup(func() {
		if pid, err := strconv.Atoi(m.pid); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL) // and with it all its processes; then the script clears up
		} else {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		}
		if err := cmd.Wait(); t.Failed() {
			t.Logf("the machine: %v\n%s", err, out.String())
		}
	})
	m.until("systemd is process 1 of a machine", func() (string, bool) {
		m.pid = first(cmd.Process.Pid)
		return m.pid, m.pid != ""
	})
	m.until("systemd is up", func() (string, bool) {
		out, _ := m.try("systemctl", "is-system-running")
		return out, out == "running\n" || out == "degraded\n"
	})
	return m
}

// first returns the systemd among the descendants of a process, by its number out here.
func first(pid int) string {
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	for child := range strings.FieldsSeq(string(children)) {
		if name, _ := os.ReadFile("/proc/" + child + "/comm"); string(name) == "systemd\n" {
			return child
		}
		if n, err := strconv.Atoi(child); err == nil {
			if found := first(n); found != "" {
				return found
			}
		}
	}
	return ""
}

// command is a program to be run on the machine, as root.
func (m *machine) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(m.Context(), "nsenter", append([]string{"-t", m.pid, "-m", "-p", "-n", "-u", "-i", "-C", "-r", "-w", "--"}, args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive"}
	return cmd
}

// try runs a program there.
func (m *machine) try(args ...string) (string, error) {
	out, err := m.command(args...).CombinedOutput()
	return string(out), err
}

// do runs a program there, which is to succeed.
func (m *machine) do(args ...string) string {
	m.Helper()
	out, err := m.try(args...)
	if err != nil {
		m.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// sh runs lines of shell there.
func (m *machine) sh(script string) string {
	m.Helper()
	return strings.TrimSpace(m.do("sh", "-ec", script))
}

// until waits for a condition, which returns its observation.
func (m *machine) until(what string, ok func() (string, bool)) {
	m.Helper()
	last := ""
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		var done bool
		if last, done = ok(); done {
			return
		}
	}
	m.Fatalf("not so after %v: %s. Seen:\n%s", patience, what, last)
}

// put copies a file to the machine.
func (m *machine) put(from, to string) {
	m.Helper()
	file, err := os.Open(from)
	if err != nil {
		m.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	cmd := m.command("sh", "-c", `cat >"$1" && chmod 755 "$1"`, "sh", to)
	cmd.Stdin = file
	if out, err := cmd.CombinedOutput(); err != nil {
		m.Fatalf("put %s: %v\n%s", to, err, out)
	}
}

// A freeswitch is one that testdata/playswitch plays on a machine.
type freeswitch struct {
	m   *machine
	in  io.Writer
	out *bufio.Scanner
}

func (m *machine) play() *freeswitch {
	m.Helper()
	program := filepath.Join(m.TempDir(), "playswitch")
	cmd := exec.CommandContext(m.Context(), "go", "build", "-o", program, "./testdata/playswitch")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		m.Fatalf("%v\n%s", err, out)
	}
	m.put(program, "/run/playswitch")
	m.sh("ip address add 203.0.113.1/24 dev lo; ip address add 198.51.100.1/24 dev lo")
	cmd = m.command("/run/playswitch")
	in, err := cmd.StdinPipe()
	if err != nil {
		m.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		m.Fatal(err)
	}
	m.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	f := &freeswitch{m: m, in: in, out: bufio.NewScanner(out)}
	f.says("listening")
	return f
}

func (f *freeswitch) says(want string) {
	f.m.Helper()
	if !f.out.Scan() || f.out.Text() != want {
		f.m.Fatalf("FreeSWITCH says %q, want %q (%v)", f.out.Text(), want, f.out.Err())
	}
}

// tell gives an order, and expects an answer.
func (f *freeswitch) tell(order, want string) {
	f.m.Helper()
	if _, err := fmt.Fprintln(f.in, order); err != nil {
		f.m.Fatal(err)
	}
	f.says(want)
}
