package daemon

import (
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fsban/config"
	"fsban/control"
	"fsban/internal/fakeswitch"
	"fsban/internal/netns"
	"fsban/ledger"
)

// A daemon that finds a read-only file system where it must write names the setting and does not start.
func TestReadOnlyPlacesAreSaidAtTheStart(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		set  func(cfg *config.Config, place string)
		want string
	}{
		"control socket": {
			func(cfg *config.Config, place string) { cfg.Control.Socket = filepath.Join(place, "s") },
			"control socket (control.socket): listen unix PLACE/s: bind: read-only file system: fsban must be able to write to PLACE",
		},
		"directory of the control socket": {
			func(cfg *config.Config, place string) { cfg.Control.Socket = filepath.Join(place, "fsban", "s") },
			"control socket (control.socket): mkdir PLACE/fsban: read-only file system: fsban must be able to write to PLACE/fsban",
		},
		"state directory": {
			func(cfg *config.Config, place string) { cfg.State.Directory = place },
			"state file (state.directory): open PLACE/fsban.db: read-only file system",
		},
	} {
		t.Run(name, func(t *testing.T) {
			netns.Run(t, func(t *testing.T) {
				cfg := configFor(t, newSwitch(t, fakeswitch.Options{}))
				place := filepath.Join(cfg.State.Directory, "place")
				path := filepath.Join(cfg.State.Directory, "config.json")
				test.set(&cfg, place)
				data, err := json.Marshal(cfg)
				if err == nil {
					err = os.Mkdir(place, 0o755)
				}
				if err == nil {
					err = os.WriteFile(path, data, 0o600)
				}
				if err != nil {
					t.Fatal(err)
				}
				cmd := exec.CommandContext(t.Context(), "unshare", "-m", "sh", "-c", `mount -t tmpfs -o ro none "$1" && exec "$0"`, os.Args[0], place)
				cmd.Env = append(os.Environ(), childEnv+"="+path)
				out, err := cmd.CombinedOutput()
				if want := strings.ReplaceAll(test.want, "PLACE", place) + "\n"; err == nil || !strings.HasSuffix(string(out), want) {
					t.Errorf("%v, want %s:\n%s", err, want, out)
				}
			}, "unshare", "mount")
		})
	}
}

// A ban that cannot be written is in force, reported as a problem, and written later.
func TestBansThatCannotBeWrittenAreInForceAndSaid(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		assign(t)
		fs := newSwitch(t, fakeswitch.Options{})
		cfg := kernelConfig(t, fs)
		p := spawn(t, &cfg)
		client := control.NewClient(cfg.Control.Socket)
		defer client.Close()
		said := func() bool {
			s, err := client.Status(t.Context())
			return err == nil && slices.ContainsFunc(s.Problems, func(p string) bool {
				return strings.HasPrefix(p, "bans are in force but not on disk: write to the state file "+cfg.State.Directory)
			})
		}
		wait := func(what string, ok func() bool) {
			t.Helper()
			wait(t, what, ok, p.log.String)
		}
		wait("ready", func() bool { s, err := client.Status(t.Context()); return err == nil && s.Ready })
		var before unix.Rlimit
		if err := unix.Prlimit(p.cmd.Process.Pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 0, Max: unix.RLIM_INFINITY}, &before); err != nil {
			t.Fatal(err)
		}
		fail := func() {
			for range 5 {
				fs.Emit(fakeswitch.WrongPassword, fakeswitch.Caller{Addr: netip.MustParseAddr("203.0.113.66")}, time.Now())
			}
		}
		fail()
		wait("said", said)
		wait("in force", func() bool { return !knock(t, "203.0.113.66", "192.0.2.10") })
		if err := unix.Prlimit(p.cmd.Process.Pid, unix.RLIMIT_FSIZE, &before, nil); err != nil {
			t.Fatal(err)
		}
		wait("written", func() bool { s, err := client.Status(t.Context()); return err == nil && s.Ready && !said() })
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = p.cmd.Wait()
		l, err := ledger.Open(filepath.Join(cfg.State.Directory, "fsban.db"), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if _, there := l.Get(netip.MustParsePrefix("203.0.113.66/32")); !there {
			t.Error("the ban has not reached the disk")
		}
		_ = l.Close()
	}, "iptables", "ip6tables", "ipset")
}
