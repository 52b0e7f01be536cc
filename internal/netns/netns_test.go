package netns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"fsban/internal/testenv"
)

func TestRunIsRootOfAnEmptyNetwork(t *testing.T) {
	Run(t, func(t *testing.T) {
		if !Inside() {
			t.Errorf("in network namespace %s, which Command has not made", current())
		}
		if os.Getuid() != 0 || os.Getgid() != 0 {
			t.Errorf("uid %d gid %d, want 0 and 0", os.Getuid(), os.Getgid())
		}
		links, err := net.Interfaces()
		if err != nil || len(links) != 1 || links[0].Name != "lo" || links[0].Index != loopback || links[0].Flags&net.FlagUp == 0 {
			t.Errorf("interfaces %v (%v), want lo alone, and up", links, err)
		}
		lock := os.Getenv("XTABLES_LOCKFILE")
		if _, err := os.Stat(lock); err != nil || strings.HasPrefix(lock, "/run") {
			t.Errorf("lock file %q: %v", lock, err)
		}
	})
}

func TestRunOfASubtestRunsOnlyIt(t *testing.T) {
	for _, name := range []string{"one", "an (odd) name/with a slash.", "one"} {
		t.Run(name, func(t *testing.T) {
			Run(t, func(t *testing.T) {
				if os.Getenv(testEnv) != t.Name() {
					t.Errorf("runs %s in the process of %s", t.Name(), os.Getenv(testEnv))
				}
			})
		})
	}
}

func TestIptablesAndIpsetWorkInside(t *testing.T) {
	Run(t, func(t *testing.T) {
		for _, line := range []string{
			"iptables -t raw -N PROOF", "ip6tables -t raw -N PROOF",
			"iptables-legacy -t raw -N PROOF", "ip6tables-legacy -t raw -N PROOF",
			"ipset create proof hash:net timeout 0 counters",
		} {
			words := strings.Fields(line)
			if out, err := exec.CommandContext(t.Context(), words[0], words[1:]...).CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %s", line, err, out)
			}
		}
	}, "iptables", "ip6tables", "iptables-legacy", "ip6tables-legacy", "ipset")
}

func TestAssignedAddressesReachEachOther(t *testing.T) {
	Run(t, func(t *testing.T) {
		err := Assign(netip.MustParsePrefix("203.0.113.1/24"), netip.MustParsePrefix("2001:db8::1/128"), netip.MustParsePrefix("2001:db8::2/128"))
		if err != nil {
			t.Fatal(err)
		}
		for _, pair := range [][2]string{{"203.0.113.1", "203.0.113.254"}, {"127.0.0.1", "203.0.113.9"}, {"2001:db8::1", "2001:db8::2"}, {"::1", "2001:db8::1"}} {
			if err := exchange(pair[0], pair[1]); err != nil {
				t.Errorf("%s to %s: %v", pair[0], pair[1], err)
			}
		}
	})
}

func TestAssignTwiceIsNoError(t *testing.T) {
	Run(t, func(t *testing.T) {
		for range 2 {
			if err := Assign(netip.MustParsePrefix("203.0.113.1/24"), netip.MustParsePrefix("2001:db8::1/128")); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestNothingIsChangedOutside(t *testing.T) {
	t.Setenv(outsideEnv, "")
	if _, err := Prepare(); err == nil {
		t.Error("Prepare works on the host")
	}
	if err := Assign(netip.MustParsePrefix("203.0.113.1/32")); err == nil {
		t.Error("Assign works on the host")
	}
}

func TestRunFailsWith(t *testing.T) {
	testenv.System(t)
	for name, want := range map[string]string{
		"TestThatDoesNotExist":     "did not run to its end",
		"TestForOthers/fails":      "on purpose",
		"TestForOthers/skips":      "did not run to its end",
		"TestForOthers/lacks tool": "needs the program no-such-tool",
	} {
		t.Run(name, func(t *testing.T) {
			f := &recorder{T: t, name: strings.ReplaceAll(name, " ", "_")}
			finished := make(chan struct{})
			go func() { // Fatalf ends the goroutine
				defer close(finished)
				Run(f, func(*recorder) {})
			}()
			<-finished
			if !strings.Contains(f.fatal, want) {
				t.Errorf("failed with %q, want %q", f.fatal, want)
			}
		})
	}
}

// TestForOthers is the other process of TestRunFailsWith and TestCommandDiesWithItsContext.
func TestForOthers(t *testing.T) {
	if os.Getenv(testEnv) == "" {
		return
	}
	t.Run("fails", func(t *testing.T) { t.Error("on purpose") })
	t.Run("skips", func(t *testing.T) { t.SkipNow() })
	t.Run("lacks tool", func(t *testing.T) { Run(t, func(*testing.T) {}, "no-such-tool") })
	t.Run("waits", func(t *testing.T) {
		fmt.Println("waiting")
		time.Sleep(time.Minute)
	})
}

func TestCommandDiesWithItsContext(t *testing.T) {
	testenv.System(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd := Command(ctx, os.Args[0], arguments("TestForOthers/waits")...)
	cmd.Env = append(cmd.Env, testEnv+"=TestForOthers/waits")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	for seen := ""; !strings.Contains(seen, "waiting"); {
		n, err := out.Read(buf)
		if err != nil {
			t.Fatalf("%v after %q", err, seen)
		}
		seen += string(buf[:n])
	}
	cancel()
	if err := cmd.Wait(); err == nil {
		t.Error("ended well, want it killed")
	}
}

// A recorder is a test of another name that keeps its failure to itself.
type recorder struct {
	*testing.T
	name  string
	fatal string
}

func (r *recorder) Name() string { return r.name }

func (r *recorder) Fatalf(format string, args ...any) {
	r.fatal = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// exchange sends one packet from an address to another.
func exchange(from, to string) error {
	server, err := net.ListenPacket("udp", net.JoinHostPort(to, "0"))
	if err != nil {
		return err
	}
	defer func() { _ = server.Close() }()
	client, err := net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(from)}, server.LocalAddr().(*net.UDPAddr))
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	if _, err := client.Write([]byte("proof")); err != nil {
		return err
	}
	_ = server.SetReadDeadline(time.Now().Add(2 * time.Minute))
	_, sender, err := server.ReadFrom(make([]byte, 16))
	if err == nil && sender.(*net.UDPAddr).IP.String() != from {
		err = fmt.Errorf("arrived from %v", sender)
	}
	return err
}
