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

// childEnv makes this test program a daemon with the configuration file that it names.
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
		cfg.FreeSWITCH.Password, cfg.Fleet.Password = config.Default().FreeSWITCH.Password, "" // secrets are never written to the file
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

// kernelConfig returns a configuration that enforces in the kernel. The caller must be in namespaces of its own.
func kernelConfig(t *testing.T, fs *fakeswitch.Switch) config.Config {
	cfg := configFor(t, fs)
	cfg.Firewall.Backend = config.BackendIPTables
	cfg.Firewall.Check = config.Duration(200 * time.Millisecond)
	return cfg
}

// inForce reports whether exactly that many bans are in the ledger, and all in the kernel.
func (r *rig) inForce(bans int) bool {
	entries, err := r.enforcer.Entries()
	return err == nil && len(entries) == bans && len(r.banned()) == bans && r.enforcer.Status().Pending == 0
}

// knock sends a datagram from one address to another of this host and reports whether it arrived. A later datagram of the
// receiving address itself, which always passes, shows that the first one was dropped and is not on its way.
func knock(t *testing.T, from, to string) (arrived bool) {
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
	fence, err := net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(to)}, listener.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = fence.Close() }()
	send := func(conn *net.UDPConn, text string) {
		if _, err := conn.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	send(conn, "REGISTER")
	passed := false
	wait(t, "a datagram from "+to+" to itself arrives", func() bool {
		if !passed {
			send(fence, "fence")
		}
		buf := make([]byte, 100)
		_ = listener.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		n, err := listener.Read(buf)
		if string(buf[:n]) == "REGISTER" {
			arrived = true
		}
		late := passed && err != nil // no packet arrived for a while after the fence
		passed = passed || err == nil
		return arrived || late
	}, nil)
	return arrived
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
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		assign(t)
		fs := newSwitch(t, fakeswitch.Options{})
		cfg := kernelConfig(t, fs)
		cfg.Policy.IgnoreSelf = false // the IPv6 attackers are addresses of this host
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
		r.eventually("the unban", func() bool { return r.inForce(1) })
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

// configure writes the configuration file that a process reads at start and reload.
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
	t.Parallel()
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
		banned := func(addr string) {
			t.Helper()
			wait(t, addr+" is shut out", func() bool { return !knock(t, addr, "192.0.2.10") }, p.log.String)
		}
		banned("203.0.113.66")
		// A second ban, killed before it is on disk.
		for range 5 {
			fs.Emit(fakeswitch.WrongPassword, fakeswitch.Caller{Addr: netip.MustParseAddr("203.0.113.99")}, time.Now())
		}
		banned("203.0.113.99")
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
		for _, b := range r.enforced(2) {
			if left := time.Until(b.Until); left < 23*time.Hour || left > 24*time.Hour+2*time.Second {
				t.Errorf("%v: %v left", b.Prefix, left)
			}
		}
		if got := r.bansMade(); got != "" {
			t.Errorf("counted again:\n%s", got)
		}
		r.metricIs("fsban_banned_prefixes", "family=ipv4 2\nfamily=ipv6 0\n")
		for _, addr := range []string{"203.0.113.66", "203.0.113.99"} {
			if knock(t, addr, "192.0.2.10") {
				t.Errorf("%s passes after the restart", addr)
			}
		}
	}, "iptables", "ip6tables")
}

func TestADamagedStateFileIsRebuiltFromTheKernel(t *testing.T) {
	t.Parallel()
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
		if b := r.enforced(1)[0]; b.Rule != "kernel" || time.Until(b.Until) < 23*time.Hour {
			t.Errorf("ban %+v", b)
		}
		r.problem("the state file was damaged at the start")
		r.metricIs("fsban_bans_adopted_total", "1\n")
	}, "iptables", "ip6tables")
}

func TestReadyIsNeverClaimedWithoutEnforcing(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		fs := newSwitch(t, fakeswitch.Options{})
		cfg := kernelConfig(t, fs)
		// A foreign set has the name of ours.
		if out, err := exec.CommandContext(t.Context(), "ipset", "create", "fsban4", "hash:ip").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		r := start(t, fs, cfg)
		r.problem("bans are not enforced: ", "not made by fsban")
		r.eventually("the source is up", r.connected)
		if s := r.status(); s.Ready || s.Firewall.Enforcing {
			t.Errorf("status %+v", s)
		}
		r.fail("203.0.113.66", 5)
		r.settled()
		if out, err := exec.CommandContext(t.Context(), "ipset", "destroy", "fsban4").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		r.ready()
		r.enforced(1) // the ban from before
	}, "iptables", "ip6tables", "ipset")
}

// Each ban takes one rule, or 100 with 1,500 ports: then there is room for 20 bans of both families together.
func TestWhereThereAreAsManyRulesAsMayBeTheBanNearestToItsEndMakesRoom(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		assign(t)
		fs := newSwitch(t, fakeswitch.Options{})
		cfg := kernelConfig(t, fs)
		cfg.Firewall.Backend = config.BackendRules
		cfg.Policy.IgnoreSelf = false // the attackers are addresses of this host
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
		r.metricHas("fsban_unbans_total", "cause=evicted 3")
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
	t.Parallel()
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
				case <-r.readiness.enforced:
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
