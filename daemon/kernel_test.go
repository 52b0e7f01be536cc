package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"fsban/config"
	"fsban/control"
	"fsban/internal/fakeswitch"
	"fsban/internal/netns"
)

// childEnv makes this test program a daemon, with the configuration in that file.
const childEnv = "FSBAN_TEST_DAEMON"

func childMain(path string) int {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	load := func() (config.Config, error) {
		data, err := os.ReadFile(path)
		if err != nil {
			return config.Config{}, err
		}
		cfg := config.Default()
		if err := json.Unmarshal(data, &cfg); err != nil {
			return config.Config{}, err
		}
		cfg.FreeSWITCH.Password, cfg.Fleet.Password = config.Default().FreeSWITCH.Password, "" // a secret is never written
		return cfg, nil
	}
	cfg, err := load()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := Run(ctx, cfg, Options{Log: slog.New(slog.NewTextHandler(os.Stderr, nil)), tune: impatient, pace: brisk, Load: load, Hangup: hangup}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// kernelConfig is a configuration that bans for real; call it in namespaces of the test's own.
func kernelConfig(t *testing.T, fs *fakeswitch.Switch) config.Config {
	cfg := configFor(t, fs)
	cfg.Firewall.Backend = config.BackendIPTables
	cfg.Firewall.Check = config.Duration(200 * time.Millisecond)
	return cfg
}

// inForce tells whether that many bans are known, and in the kernel.
func (r *rig) inForce(bans int) bool {
	entries, err := r.enforcer.Entries()
	return err == nil && len(entries) == bans && len(r.banned()) == bans && r.enforcer.Status().Pending == 0
}

// knock sends a datagram from one address to a socket and tells whether it arrived.
func knock(t *testing.T, from, to string) bool {
	t.Helper()
	listener, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(to)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	conn, err := net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(from)}, listener.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write([]byte("REGISTER")); err != nil {
		t.Fatal(err)
	}
	// On loopback a datagram is at the listener, or dropped, before Write returns.
	_ = listener.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	_, err = listener.Read(make([]byte, 100))
	return err == nil
}

func assign(t *testing.T) {
	t.Helper()
	err := netns.Assign(netip.MustParsePrefix("192.0.2.10/32"), netip.MustParsePrefix("203.0.113.254/24"),
		netip.MustParsePrefix("2001:db8:1::10/128"), netip.MustParsePrefix("2001:db8:2::7/128"), netip.MustParsePrefix("2001:db8:3::7/128"))
	if err != nil {
		t.Fatal(err)
	}
}

func TestFromTheEventSocketToTheKernel(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		assign(t)
		fs := newSwitch(t, fakeswitch.Options{})
		cfg := kernelConfig(t, fs)
		cfg.Policy.IgnoreSelf = false // the IPv6 attackers live on this host
		r := start(t, fs, cfg)
		r.ready()
		for _, tc := range []struct{ attacker, bystander, us, family string }{
			{"203.0.113.66", "203.0.113.67", "192.0.2.10", "ipv4"},
			{"2001:db8:2::7", "2001:db8:3::7", "2001:db8:1::10", "ipv6"},
		} {
			r.fail(tc.attacker, 4)
			r.settled()
			if !knock(t, tc.attacker, tc.us) {
				t.Errorf("%s is shut out after four failures", tc.attacker)
			}
			before := len(r.banned())
			r.fail(tc.attacker, 1)
			r.eventually("the ban", func() bool { return r.inForce(before + 1) })
			if knock(t, tc.attacker, tc.us) {
				t.Errorf("a packet of %s arrives after its ban", tc.attacker)
			}
			if !knock(t, tc.bystander, tc.us) {
				t.Errorf("a packet of %s does not arrive", tc.bystander)
			}
			r.eventually("the packet is counted", func() bool { return r.status().Firewall.Dropped[tc.family].Packets > 0 })
		}
		if _, err := r.client.Unban(t.Context(), netip.MustParsePrefix("203.0.113.66/32")); err != nil {
			t.Fatal(err)
		}
		r.eventually("the unban", func() bool { return r.enforcer.Status().Pending == 0 })
		if !knock(t, "203.0.113.66", "192.0.2.10") {
			t.Error("a packet does not arrive after the unban")
		}
	}, "iptables", "ip6tables")
}

// A process is a daemon in a process of its own.
type process struct {
	cmd *exec.Cmd
	log *syncBuffer
}

func spawn(t *testing.T, cfg *config.Config) process {
	t.Helper()
	path := configure(t, cfg)
	p := process{exec.CommandContext(t.Context(), os.Args[0]), new(syncBuffer)}
	p.cmd.Env = append(os.Environ(), childEnv+"="+path)
	p.cmd.Stderr = p.log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return p
}

// configure writes what a process reads as it starts, and when it is told to read it again.
func configure(t *testing.T, cfg *config.Config) (path string) {
	t.Helper()
	data, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(cfg.State.Directory, "config.json")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAKilledDaemonLeavesItsBansInForceAndKnowsThemAgain(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		assign(t)
		fs := newSwitch(t, fakeswitch.Options{})
		cfg := kernelConfig(t, fs)
		p := spawn(t, &cfg)
		if err := fs.WaitSubscribed(t.Context(), "sofia::register_failure"); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			fs.Emit(fakeswitch.WrongPassword, fakeswitch.Caller{Addr: netip.MustParseAddr("203.0.113.66")}, time.Now())
		}
		deadline := time.Now().Add(30 * time.Second)
		for knock(t, "203.0.113.66", "192.0.2.10") {
			if time.Now().After(deadline) {
				t.Fatal("never banned")
			}
		}
		// A second ban, and the kill at once: before the disk has it.
		for range 5 {
			fs.Emit(fakeswitch.WrongPassword, fakeswitch.Caller{Addr: netip.MustParseAddr("203.0.113.99")}, time.Now())
		}
		for knock(t, "203.0.113.99", "192.0.2.10") {
			if time.Now().After(deadline) {
				t.Fatal("never banned")
			}
		}
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = p.cmd.Wait()
		for _, addr := range []string{"203.0.113.66", "203.0.113.99"} {
			if knock(t, addr, "192.0.2.10") {
				t.Errorf("%s passes after the kill\n%s", addr, p.log)
			}
		}

		r := start(t, fs, cfg)
		r.ready()
		r.eventually("both bans are known", func() bool { return len(r.banned()) == 2 })
		bans, err := r.client.Bans(t.Context(), control.Pick{})
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range bans {
			if left := time.Until(b.Until); left < 24*time.Hour-time.Minute || left > 24*time.Hour+2*time.Second || !b.InKernel {
				t.Errorf("%v: %v left, in the kernel: %v", b.Prefix, left, b.InKernel)
			}
		}
		if got := r.bansMade(); got != "" {
			t.Errorf("counted again:\n%s", got)
		}
		if got := r.metric("fsban_banned_prefixes"); got != "family=ipv4 2\nfamily=ipv6 0\n" {
			t.Errorf("fsban_banned_prefixes:\n%s", got)
		}
		for _, addr := range []string{"203.0.113.66", "203.0.113.99"} {
			if knock(t, addr, "192.0.2.10") {
				t.Errorf("%s passes after the restart", addr)
			}
		}
	}, "iptables", "ip6tables")
}

func TestADamagedStateFileIsRebuiltFromTheKernel(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		fs := newSwitch(t, fakeswitch.Options{})
		cfg := kernelConfig(t, fs)
		r := start(t, fs, cfg)
		r.ready()
		r.fail("203.0.113.66", 5)
		r.eventually("the ban", func() bool { return r.inForce(1) })
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(cfg.State.Directory, "fsban.db"), []byte("no database"), 0o600); err != nil {
			t.Fatal(err)
		}
		r = start(t, fs, cfg)
		r.ready()
		r.eventually("the ban is back", func() bool { return len(r.banned()) == 1 })
		bans, err := r.client.Bans(t.Context(), control.Pick{})
		if err != nil {
			t.Fatal(err)
		}
		if b := bans[0]; b.Rule != "kernel" || time.Until(b.Until) < 23*time.Hour {
			t.Errorf("ban %+v", b)
		}
		if p := fmt.Sprint(r.status().Problems); !strings.Contains(p, "the state file was damaged at the start") {
			t.Errorf("problems %s", p)
		}
		if got := r.metric("fsban_bans_adopted_total"); got != "1\n" {
			t.Errorf("fsban_bans_adopted_total %s", got)
		}
	}, "iptables", "ip6tables")
}

func TestReadyIsNeverClaimedWithoutEnforcing(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		fs := newSwitch(t, fakeswitch.Options{})
		cfg := kernelConfig(t, fs)
		// Somebody else's set stands where ours should.
		if out, err := exec.CommandContext(t.Context(), "ipset", "create", "fsban4", "hash:ip").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		r := start(t, fs, cfg)
		r.eventually("the reason in status", func() bool {
			p := strings.Join(r.status().Problems, "\n")
			return strings.Contains(p, "bans are not enforced: ") && strings.Contains(p, "is not fsban's")
		})
		r.eventually("the source is up", func() bool { return r.status().Sources[0].Up })
		if s := r.status(); s.Ready || s.Firewall.Enforcing {
			t.Errorf("status %+v", s)
		}
		r.fail("203.0.113.66", 5)
		r.settled()
		if out, err := exec.CommandContext(t.Context(), "ipset", "destroy", "fsban4").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		r.ready()
		bans, err := r.client.Bans(t.Context(), control.Pick{})
		if err != nil || len(bans) != 1 || !bans[0].InKernel {
			t.Errorf("the ban from before: %+v, %v", bans, err)
		}
	}, "iptables", "ip6tables", "ipset")
}

// One rule a ban, or 100 with 1,500 ports: then 20 bans are what there is room for, of both families together.
func TestWhereThereAreAsManyRulesAsMayBeTheBanNearestToItsEndMakesRoom(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		assign(t)
		fs := newSwitch(t, fakeswitch.Options{})
		cfg := kernelConfig(t, fs)
		cfg.Firewall.Backend = config.BackendRules
		cfg.Policy.IgnoreSelf = false // the attackers live on this host
		cfg.Firewall.Ports = nil
		for port := range 1500 {
			cfg.Firewall.Ports = append(cfg.Firewall.Ports, fmt.Sprintf("udp/%d", 5060+2*port))
		}
		r := start(t, fs, cfg)
		r.ready()
		for i := range 22 {
			r.fail(fmt.Sprintf("203.0.113.%d", i+1), 5)
		}
		r.settled()
		r.fail("2001:db8:2::7", 5)
		r.settled()
		want := []string{"2001:db8:2::/64"}
		for i := 3; i < 22; i++ {
			want = append(want, fmt.Sprintf("203.0.113.%d/32", i+1))
		}
		slices.Sort(want)
		got := r.banned()
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("banned %v, want %v", got, want)
		}
		r.eventually("all of them are in force", func() bool {
			entries, err := r.enforcer.Entries()
			s := r.status()
			return err == nil && len(entries) == len(want) && s.Firewall.Enforcing && s.Firewall.Pending == 0
		})
		if got := r.metric("fsban_unbans_total"); !strings.Contains(got, "cause=room 3\n") {
			t.Errorf("fsban_unbans_total\n%s", got)
		}
		if s := r.status().Firewall; s.Backend != "rules" {
			t.Errorf("%+v", s)
		}
		for i := range 20 {
			if _, err := r.client.Ban(t.Context(), control.BanRequest{Prefix: netip.MustParsePrefix(fmt.Sprintf("198.51.100.%d/32", i+1))}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := r.client.Ban(t.Context(), control.BanRequest{Prefix: netip.MustParsePrefix("198.51.100.99/32")}); err == nil || !strings.Contains(err.Error(), "20 bans of operators are in force: install ipset") {
			t.Errorf("one more: %v", err)
		}
	}, "iptables", "ip6tables")
}

func TestBansOutliveAChangeOfBackend(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		assign(t)
		fs := newSwitch(t, fakeswitch.Options{})
		cfg := kernelConfig(t, fs)
		r := start(t, fs, cfg)
		r.ready()
		r.fail("203.0.113.66", 5)
		r.eventually("the ban", func() bool { return r.inForce(1) })
		for _, next := range []string{config.BackendNFTables, config.BackendRules, config.BackendAuto} {
			cfg.Firewall.Backend = next
			r = r.restart(cfg)
			r.eventually("what the other backend made is gone", func() bool {
				select {
				case <-r.enforced:
				default:
					return false
				}
				rules, err := exec.CommandContext(t.Context(), "iptables-save", "-t", "raw").CombinedOutput()
				if err != nil {
					t.Fatalf("%v: %s", err, rules)
				}
				tables, err := exec.CommandContext(t.Context(), "nft", "list", "tables").CombinedOutput()
				if err != nil {
					t.Fatalf("%v: %s", err, tables)
				}
				sets := strings.Contains(string(rules), "match-set fsban4")
				single := strings.Contains(string(rules), "203.0.113.66/32")
				table := strings.Contains(string(tables), "inet fsban\n")
				return sets == (next == config.BackendAuto) && single == (next == config.BackendRules) && table == (next == config.BackendNFTables)
			})
			if knock(t, "203.0.113.66", "192.0.2.10") {
				t.Errorf("%s: a packet of a banned address arrives", next)
			}
			if !knock(t, "203.0.113.67", "192.0.2.10") {
				t.Errorf("%s: a packet of somebody else does not arrive", next)
			}
		}
	}, "iptables", "ip6tables", "nft", "iptables-save")
}
