package firewall_test

import (
	"fmt"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"fsban/firewall"
	"fsban/internal/kerneltest"
)

// damage lists commands by which an operator can damage the objects of each backend. %s is an address.
var damage = map[string][]string{
	"nft": {
		"ipset flush", "ipset del fsban4 %s", "ipset add fsban4 %s timeout 0", "iptables -t raw -F", "ip6tables -t raw -F", "iptables -t raw -D PREROUTING -j FSBAN",
		"iptables -t raw -I PREROUTING 1 -j ACCEPT", "iptables -t raw -F FSBAN;ip6tables -t raw -F FSBAN;ipset destroy fsban4;ipset destroy fsban6", "nft flush ruleset",
	},
	"legacy": {
		"ipset flush fsban4", "ipset del fsban4 %s", "ipset add fsban4 %s timeout 3600", "iptables -t raw -F;iptables -t raw -X", "ip6tables -t raw -F", "iptables -t raw -D FSBAN 1",
		"iptables -t raw -I PREROUTING 1 -j ACCEPT", "iptables -t raw -F FSBAN;ip6tables -t raw -F FSBAN;ipset destroy",
	},
	"nftables": {
		"nft flush ruleset", "nft delete table inet fsban", "nft flush set inet fsban fsban4", "nft delete element inet fsban fsban4 { %s }", "nft add element inet fsban fsban4 { %s }",
		"nft flush chain inet fsban FSBAN", "nft flush table inet fsban", "nft insert rule inet fsban raw_prerouting accept", "nft flush chain inet fsban FSBAN;nft delete set inet fsban fsban6_64",
	},
	"rules nft": {
		"iptables -t raw -F", "iptables -t raw -F FSBAN", "iptables -t raw -D FSBAN 1", "iptables -t raw -A FSBAN -s %s -j DROP", "ip6tables -t raw -F;ip6tables -t raw -X", "nft flush ruleset",
	},
	"rules legacy": {
		"iptables -t raw -F;iptables -t raw -X", "iptables -t raw -F FSBAN", "iptables -t raw -D FSBAN 1", "iptables -t raw -A FSBAN -s %s/32 -m time --datestop 2037-01-01T00:00:00 -j DROP",
	},
}

// After any sequence of orders, restarts and damage the kernel holds the bans of the book and drops their packets.
func TestKernelAndBookAgreeAfterAnySequence(t *testing.T) {
	onBackends(t, func(t *testing.T, kind string) {
		server := listen(t, "203.0.113.1")
		banned, allowed := server.dial("198.51.100.7"), server.dial("198.51.100.8")
		for range 3 {
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			rnd := rand.New(rand.NewPCG(seed, 0))
			book := newBook()
			options := firewall.EnforcerOptions{Check: 20 * time.Millisecond, RetryMin: 5 * time.Millisecond, RetryMax: 20 * time.Millisecond}
			begin := func() *rig { return enforce(t, openKind(t, kind, firewall.Options{}), book, options) }
			r := begin()
			for range 60 {
				p := fmt.Sprintf("198.18.0.%d", rnd.IntN(12))
				switch rnd.IntN(3) {
				case 0:
					p = fmt.Sprintf("198.18.%d.0/24", rnd.IntN(4))
				case 1:
					p = fmt.Sprintf("2001:db8:%d::/64", rnd.IntN(4))
				}
				switch n := rnd.IntN(10); {
				case n < 5:
					r.ban(p, []time.Duration{time.Hour, 24 * time.Hour, firewall.Forever, 100 * 24 * time.Hour}[rnd.IntN(4)])
				case n < 7:
					r.unban(p)
				case n < 9:
					line := damage[kind][rnd.IntN(len(damage[kind]))]
					address := fmt.Sprintf("192.0.2.%d", rnd.IntN(5))
					for part := range strings.SplitSeq(line, ";") {
						words := strings.Fields(strings.ReplaceAll(part, "%s", address))
						_ = exec.CommandContext(t.Context(), words[0], words[1:]...).Run() // it may come too late, or too early
					}
				default:
					r.stop()
					r = begin()
				}
			}
			r.ban("198.51.100.7", time.Hour)
			agree := func() bool {
				want := []string{}
				for p := range book.all() {
					want = append(want, p.String())
				}
				slices.Sort(want)
				s := r.Status()
				return s.Pending == 0 && s.Enforcing && slices.Equal(kerneltest.Banned(t, r.backend), want)
			}
			for deadline := time.Now().Add(time.Minute); !agree(); time.Sleep(5 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("seed %d: %+v, the kernel holds %q, the book says %v", seed, r.Status(), kerneltest.Banned(t, r.backend), book.bans)
				}
			}
			r.until("in force", func() bool { // an accept may still stand before it: it goes within a minute, or with a new start
				r.stop()
				r = begin()
				r.until("enforcing", func() bool { return r.Status().Enforcing })
				send(t, banned)
				send(t, allowed)
				from := server.next()
				if from == "198.51.100.7" {
					server.next()
				}
				return from == "198.51.100.8"
			})
			r.unban("198.51.100.7")
			r.settle()
			r.stop()
			if _, err := r.backend.Teardown(); err != nil {
				t.Errorf("seed %d: %v", seed, err)
			}
		}
	})
}
