package daemon

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fsban/config"
	"fsban/control"
	"fsban/internal/fakeswitch"
	"fsban/internal/kerneltest"
	"fsban/internal/netns"
)

// make chaos sets it.
var changeRuns = flag.Int("change.runs", 0, "number of changes from each backend to each other one, with both variants of iptables; 0: one, with iptables-nft")

// A backendKind is a backend, with the variant of iptables that it uses.
type backendKind struct{ backend, variant string }

func (k backendKind) String() string { return k.backend + " " + k.variant }

// circuit returns a closed walk over kinds that makes each change from one of them to another once.
func circuit(kinds []backendKind) (walk []backendKind) {
	for i, from := range kinds {
		for _, to := range kinds[i+1:] {
			walk = append(walk, from, to)
		}
	}
	return append(walk, kinds[0])
}

// objectsOf returns the backends, with their variants of iptables, that have rules or sets in the kernel.
func objectsOf(t *testing.T) []string {
	t.Helper()
	found := make(map[string]bool)
	for _, variant := range []string{"nft", "legacy"} {
		for _, program := range []string{"iptables-", "ip6tables-"} {
			saved, err := exec.CommandContext(t.Context(), program+variant+"-save", "-t", "raw").Output()
			if err != nil { // a set was destroyed while the program listed its rule
				found["unreadable "+variant] = true
			}
			for line := range strings.Lines(string(saved)) {
				switch {
				case strings.Contains(line, "--match-set fsban"):
					found[config.BackendIPTables+" "+variant] = true
				case strings.HasPrefix(line, "-A FSBAN "):
					found[config.BackendRules+" "+variant] = true
				case strings.Contains(line, "FSBAN"):
					found["chain "+variant] = true
				}
			}
		}
	}
	if strings.Contains(kerneltest.Command(t, "ipset list -n"), "fsban") {
		found["sets"] = true
	}
	if strings.Contains(kerneltest.Command(t, "nft list tables"), "inet fsban\n") {
		found[config.BackendNFTables+" nft"] = true
	}
	return slices.Sorted(maps.Keys(found))
}

// wantedObjects is the value of objectsOf when there is nothing but the objects of one backend that holds bans.
func (k backendKind) wantedObjects() []string {
	list := []string{k.String()}
	if k.backend != config.BackendNFTables {
		list = append(list, "chain "+k.variant)
	}
	if k.backend == config.BackendIPTables {
		list = append(list, "sets")
	}
	slices.Sort(list)
	return list
}

// attack has new addresses fail, and a banned one send packets, until the returned function ends it. Another program takes the lock
// of iptables-legacy now and then.
func attack(t *testing.T, fs *fakeswitch.Switch, banned, us string) (end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	conn, err := net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(banned)}, &net.UDPAddr{IP: net.ParseIP(us), Port: 5060})
	if err != nil {
		t.Fatal(err)
	}
	lock, err := os.Open(os.Getenv("XTABLES_LOCKFILE"))
	if err != nil {
		t.Fatal(err)
	}
	var attackers sync.WaitGroup
	each := func(pause time.Duration, do func(n int)) {
		attackers.Go(func() {
			tick := time.NewTicker(pause)
			defer tick.Stop()
			for n := 0; ; n++ {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
					do(n)
				}
			}
		})
	}
	each(time.Millisecond, func(int) { _, _ = conn.Write([]byte("REGISTER")) })
	each(10*time.Millisecond, func(n int) {
		addr := netip.AddrFrom4([4]byte{198, 18, byte(n / 250 % 2), byte(n % 250)})
		for range 5 {
			fs.Emit(fakeswitch.WrongPassword, fakeswitch.Caller{Addr: addr, User: "1000"}, time.Now())
		}
		fs.Emit(fakeswitch.Success, fakeswitch.Caller{Addr: netip.MustParseAddr("198.51.100.1")}, time.Now())
	})
	each(400*time.Millisecond, func(int) {
		if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			time.Sleep(200 * time.Millisecond)
			_ = unix.Flock(int(lock.Fd()), unix.LOCK_UN)
		}
	})
	return func() {
		cancel()
		attackers.Wait()
		_, _ = conn.Close(), lock.Close()
	}
}

// A change of backend under attack leaves nothing of the earlier backend, and ends no ban; an unban then lets the address in.
func TestAChangeOfBackendUnderAttackLeavesNothingOfTheEarlierOne(t *testing.T) {
	kerneltest.Parallel(t)
	netns.Run(t, func(t *testing.T) {
		kinds := []backendKind{{config.BackendIPTables, "nft"}, {config.BackendNFTables, "nft"}, {config.BackendRules, "nft"}}
		if *changeRuns > 0 {
			kinds = append(kinds, backendKind{config.BackendIPTables, "legacy"}, backendKind{config.BackendRules, "legacy"})
		}
		assign(t)
		fs := newSwitch(t, fakeswitch.Options{})
		cfg := kernelConfig(t, fs)
		cfg.Policy.BanRate = 0
		cfg.Firewall.Backend = kinds[0].backend
		kerneltest.UseIPTables(t, kinds[0].variant)
		const banned, us = "203.0.113.66", "192.0.2.10"
		r := start(t, fs, cfg)
		r.ready()
		made, slowest := make(map[string]int), time.Duration(0)
		for range max(*changeRuns, 1) {
			walk := circuit(kinds)
			for i, next := range walk[1:] {
				if _, err := r.client.Ban(t.Context(), control.BanRequest{Prefix: netip.MustParsePrefix(banned + "/32")}); err != nil {
					t.Fatal(err)
				}
				r.eventually("the ban", func() bool { return r.enforcer.Status().Pending == 0 })
				end := attack(t, fs, banned, us)
				kerneltest.UseIPTables(t, next.variant)
				cfg.Firewall.Backend = next.backend
				r = r.restart(cfg)
				change, began := fmt.Sprintf("%v to %v", walk[i], next), time.Now()
				r.eventually(change+": nothing else is in the kernel", func() bool { return slices.Equal(objectsOf(t), next.wantedObjects()) })
				slowest = max(slowest, time.Since(began))
				if knock(t, banned, us) {
					t.Errorf("%s: a packet of a banned address arrives", change)
				}
				end()
				// The switch may have dropped events of the attack, so no event marks its end.
				r.eventually(change+": kernel and ledger agree", func() bool { return r.loop.Queued() == 0 && r.inForce(len(r.banned())) })
				r.eventually(change+": nothing else is in the kernel after the attack", func() bool { return slices.Equal(objectsOf(t), next.wantedObjects()) })
				r.unbanAddr(t, banned)
				r.eventually("the unban", func() bool { return r.enforcer.Status().Pending == 0 })
				if !knock(t, banned, us) {
					t.Errorf("%s: after its unban a packet of the address does not arrive", change)
				}
				if p := r.status().Problems; strings.Contains(strings.Join(p, "\n"), "earlier backend") {
					t.Errorf("%s: %q", change, p)
				}
				made[change]++
			}
		}
		for _, change := range slices.Sorted(maps.Keys(made)) {
			t.Logf("%s: %d times", change, made[change])
		}
		t.Logf("the earlier backend was removed %v after the new one was ready, at most", slowest.Round(time.Millisecond))
	}, "nft", "ipset", "iptables-nft", "iptables-legacy", "ip6tables-nft", "ip6tables-legacy")
}

func TestCircuitMakesEachChangeOnce(t *testing.T) {
	kerneltest.Parallel(t)
	kinds := []backendKind{{"a", ""}, {"b", ""}, {"c", ""}, {"d", ""}}
	changes := make(map[[2]backendKind]bool)
	walk := circuit(kinds)
	for i, next := range walk[1:] {
		change := [2]backendKind{walk[i], next}
		if walk[i] == next || changes[change] {
			t.Errorf("step %d: %v", i, change)
		}
		changes[change] = true
	}
	if len(changes) != len(kinds)*(len(kinds)-1) {
		t.Errorf("%d changes", len(changes))
	}
}
