package daemon

import (
	"bytes"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"fsban/config"
	"fsban/control"
	"fsban/internal/fakeswitch"
	"fsban/internal/netns"
)

// run runs a program with stdin and returns its output.
func run(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %v: %s%s", args, err, out.String(), errs.String())
	}
	return out.String()
}

// A backendFile saves the kernel's entries as an operator's tools do, and restores them.
type backendFile struct {
	backend, program string
	save             func(t *testing.T) string
	flush            func(t *testing.T)
	restore          func(t *testing.T, saved string)
	add              func(t *testing.T, prefix string)
}

var backendFiles = []backendFile{
	{
		config.BackendIPTables, "ipset",
		func(t *testing.T) string { return run(t, "", "ipset", "save") },
		func(t *testing.T) {
			run(t, "*raw\n-F PREROUTING\n-F FSBAN\n-X FSBAN\nCOMMIT\n", "iptables-restore", "-n")
			run(t, "*raw\n-F PREROUTING\n-F FSBAN\n-X FSBAN\nCOMMIT\n", "ip6tables-restore", "-n")
			run(t, "", "ipset", "destroy")
		},
		func(t *testing.T, saved string) { run(t, saved, "ipset", "restore", "-exist") },
		func(t *testing.T, prefix string) { run(t, "", "ipset", "add", "fsban4", prefix, "timeout", "600") },
	},
	{
		config.BackendNFTables, "nft",
		func(t *testing.T) string { return run(t, "", "nft", "list", "table", "inet", "fsban") },
		func(t *testing.T) { run(t, "", "nft", "delete", "table", "inet", "fsban") },
		func(t *testing.T, saved string) { run(t, saved, "nft", "-f", "-") },
		nil,
	},
}

// A restored entry of a saved set gets its saved end, on a running host or at the next boot. One that was unbanned, allowed or
// put onto the never-ban list since is removed and logged; one unknown to fsban is adopted.
func TestSavedEntriesPassTheDoor(t *testing.T) {
	t.Parallel()
	for _, b := range backendFiles {
		t.Run(b.backend, func(t *testing.T) {
			netns.Run(t, func(t *testing.T) {
				fs := newSwitch(t, fakeswitch.Options{})
				cfg := kernelConfig(t, fs)
				cfg.Firewall.Backend = b.backend
				r := start(t, fs, cfg)
				r.ready()
				unbanned, allowed, ignored, stranger := "203.0.113.1", "203.0.113.2", "203.0.113.3", "203.0.113.4"
				for _, addr := range []string{unbanned, allowed, ignored, stranger} {
					r.fail(addr, 5)
				}
				r.eventually("all bans", func() bool { return r.inForce(4) })
				saved := b.save(t)
				for _, addr := range []string{unbanned, stranger} {
					r.unbanAddr(t, addr)
				}
				if _, err := r.client.Allow(t.Context(), control.AllowRequest{Prefix: netip.MustParsePrefix(allowed + "/32")}); err != nil {
					t.Fatal(err)
				}
				r.eventually("one ban is left", func() bool { return r.inForce(1) })

				if b.backend == config.BackendIPTables { // restore on a running host
					b.restore(t, saved)
					r.removedAre(t, map[string]int{"withdrawn": 2, "never_ban": 1}, 1)
				}
				// A boot: an empty kernel, then the saved set, then fsban with a changed configuration.
				if err := r.stop(); err != nil {
					t.Fatal(err)
				}
				b.flush(t)
				b.restore(t, saved)
				cfg.Policy.IgnoreIP = append(cfg.Policy.IgnoreIP, ignored+"/32")
				r = start(t, fs, cfg)
				r.ready()
				r.eventually("no ban is left", func() bool { return r.inForce(0) })
				r.removedAre(t, map[string]int{"withdrawn": 2, "never_ban": 1}, 0)
				r.logged("removed from the kernel")
				for _, addr := range []string{unbanned, allowed, ignored} {
					if w := r.why(addr); w.Ban != nil {
						t.Errorf("%s is banned: %+v", addr, w.Ban)
					}
				}
			}, b.program, "iptables", "ip6tables")
		})
	}
}

func (r *rig) unbanAddr(t *testing.T, addr string) {
	t.Helper()
	if _, err := r.client.Unban(t.Context(), netip.MustParsePrefix(addr+"/32")); err != nil {
		t.Fatal(err)
	}
}

// removedAre waits until the given numbers of entries were removed, by reason, and the given number of bans is left.
func (r *rig) removedAre(t *testing.T, want map[string]int, bans int) {
	t.Helper()
	r.eventually(fmt.Sprintf("%v removed, %d bans left", want, bans), func() bool {
		got := r.metric("fsban_kernel_entries_removed_total")
		for reason, n := range want {
			if !strings.Contains(got, fmt.Sprintf("reason=%s %d\n", reason, n)) {
				return false
			}
		}
		return r.inForce(bans)
	})
}

// A prefix that fsban ban refuses is not adopted: loopback and the event socket would be cut off.
func TestAWidePrefixInTheKernelIsRemoved(t *testing.T) {
	t.Parallel()
	netns.Run(t, func(t *testing.T) {
		fs := newSwitch(t, fakeswitch.Options{})
		cfg := kernelConfig(t, fs)
		cfg.Policy.IgnoreIP, cfg.Policy.IgnoreSelf = nil, false
		r := start(t, fs, cfg)
		r.ready()
		ipset := backendFiles[0]
		ipset.add(t, "0.0.0.0/1")
		r.removedAre(t, map[string]int{"too_wide": 1}, 0)
		ipset.add(t, "198.51.100.0/24")
		r.eventually("a narrow one is adopted", func() bool { return r.inForce(1) && r.status().Sources[0].Up })
		r.metricIs("fsban_bans_adopted_total", "1\n")
		// An adopted ban ends when its address is found to be our own, or a gateway.
		cfg.Policy.IgnoreIP = []string{"198.51.100.7/32"}
		r = r.restart(cfg)
		r.eventually("it ends", func() bool { return r.inForce(0) })
	}, "ipset", "iptables", "ip6tables")
}
