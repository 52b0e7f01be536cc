//go:build linux && pictures

package dashboards_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"regexp"
	"strconv"
	"testing"
	"time"

	"fsban/config"
	"fsban/internal/fakeswitch"
	"fsban/internal/netns"
)

// playing is the length of the attack.
const playing = 5 * time.Minute

// TestPictures plays attacks on two fsbans for some minutes, with real packets, and has dashboards/pictures draw the dashboard
// from Prometheus' data. `make pictures` runs it; it asserts nothing.
func TestPictures(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		s := newStage(t)
		// Two on one host need different backends.
		for _, backend := range []string{config.BackendIPTables, config.BackendNFTables} {
			s.guard(func(c *config.Config) {
				c.Firewall.Backend, c.Firewall.MaxBans, c.Firewall.Check = backend, 500, config.Duration(2*time.Second)
				c.Policy.IgnoreIP = config.IgnoreList{"127.0.0.0/8", "203.0.113.240/28"}
				c.CTILog.Path = ctiLog(t, s, backend+".log")
			})
		}
		s.names = []string{"sip1.example.net", "sip2.example.net"}
		s.watch(immediate(file(t, "rules/fsban.rules.yaml")))
		s.eventually("two are ready", func() error { return s.all(map[string]float64{`sum(fsban_ready)`: 2}) })
		began := time.Now()
		p := &play{stage: s, random: rand.New(rand.NewPCG(1, 2)), began: began}
		for time.Since(began) < playing {
			p.tick()
		}
		time.Sleep(2 * time.Second) // the last scrape
		out, err := exec.CommandContext(t.Context(), "node", "pictures/draw.mjs", "http://"+prometheusAddr,
			strconv.FormatInt(began.Unix()+2, 10), strconv.FormatInt(time.Now().Unix()-1, 10), "../docs/pictures").CombinedOutput()
		if err != nil {
			t.Errorf("draw: %v\n%s", err, out)
		}
	}, "prometheus", "prometheus-alertmanager", "iptables", "ip6tables", "node", "chromium")
}

// A play is an attack by many addresses at once.
type play struct {
	*stage
	random    *rand.Rand
	began     time.Time
	n         int
	attackers []*attacker
	next      int // the host number of the next attacker
	down      bool
}

// An attacker tries for a limited time.
type attacker struct {
	at    *guard
	addr  string
	user  int
	left  int
	every int // ticks
	what  fakeswitch.Situation
	name  string
}

// tick plays a fifth of a second.
func (p *play) tick() {
	started := time.Now()
	p.n++
	since := time.Since(p.began)
	wave := since > playing*2/5 && since < playing*3/5
	if p.n%35 == 1 || wave && p.n%4 == 0 {
		p.attackers = append(p.attackers, p.newAttacker())
	}
	for i, g := range p.guards {
		if p.n%4 == i {
			what := []fakeswitch.Situation{fakeswitch.Success, fakeswitch.Refresh, fakeswitch.Refresh, fakeswitch.StaleNonce}[p.random.IntN(4)]
			phone := p.random.IntN(40)
			p.comes(g, what, fmt.Sprintf("203.0.113.%d", 200+phone%30), fmt.Sprint(2000+phone), "Yealink SIP-T54W")
		}
		if p.n%25 == 0 {
			calls := 40 + 25*i + p.random.IntN(12)
			if p.down && i == 1 {
				calls = 0
			}
			g.fs.EmitRaw(heartbeat(calls, 1+p.random.IntN(4), 70-calls/3+p.random.IntN(6)))
		}
	}
	for _, a := range p.attackers {
		if a.left > 0 && p.n%a.every == 0 {
			a.left--
			if a.name == "" {
				a.user++
			}
			p.comes(a.at, a.what, a.addr, fmt.Sprint(a.user), a.name)
		}
	}
	p.incidents(since)
	time.Sleep(time.Until(started.Add(200 * time.Millisecond)))
}

func (p *play) newAttacker() *attacker {
	p.next++
	a := &attacker{at: p.guards[0], addr: fmt.Sprintf("203.0.113.%d", 1+p.next%190), user: 100 + p.random.IntN(900), left: 20 + p.random.IntN(60), every: 2 + p.random.IntN(5), what: fakeswitch.WrongPassword, name: "MicroSIP/3.21.3"}
	switch kind := p.random.IntN(10); {
	case kind < 2:
		a.what, a.name = fakeswitch.UnknownUser, "" // a new user each time
	case kind < 3:
		a.name = "friendly-scanner"
	case kind < 5:
		a.what = fakeswitch.RefusedCall
	case kind < 6:
		a.what = fakeswitch.RejectedRegister
	}
	if p.random.IntN(3) == 0 {
		a.at = p.guards[1]
	}
	return a
}

// comes sends a packet; if it arrives, FreeSWITCH reports the situation.
func (p *play) comes(g *guard, what fakeswitch.Situation, addr, user, agent string) {
	if p.knock(addr, 1) == 0 {
		return
	}
	profile := "internal"
	if what == fakeswitch.RefusedCall {
		profile = "external"
	}
	g.fs.Emit(what, fakeswitch.Caller{Addr: netip.MustParseAddr(addr), Port: 5060, User: user, Number: "0044123", UserAgent: agent, Profile: profile}, time.Now())
}

// incidents plays the events that occur once.
func (p *play) incidents(since time.Duration) {
	g := p.guards[0]
	switch p.n {
	case 100:
		g.happens(1, fakeswitch.Success, "203.0.113.238", "4000")
		g.happens(6, fakeswitch.WrongPassword, "203.0.113.238", "4001") // a stuck phone
	case 400:
		g.happens(5, fakeswitch.WrongPassword, "203.0.113.241", "carrier")
	case 600:
		for i := range 22 {
			g.happens(1, fakeswitch.WrongPassword, fmt.Sprintf("198.18.0.%d", 1+i), "1000")
		}
	case 700:
		for i := range 8 {
			g.happens(5, fakeswitch.WrongPassword, fmt.Sprintf("2001:db8:%x::7", 100+i), "1001")
		}
	case 900:
		g.happens(3, fakeswitch.WrongPassword, "198.18.1.1", "3001")
		g.happens(1, fakeswitch.Success, "198.18.1.1", "3001")
	}
	// FreeSWITCH restarts at the other fsban.
	other := p.guards[1]
	switch {
	case !p.down && since > playing*7/10 && since < playing*8/10:
		p.down = true
		other.fs.CloseListener()
		other.fs.End(fakeswitch.Shutdown)
	case p.down && since > playing*8/10:
		p.down = false
		if err := other.fs.Listen(other.cfg.FreeSWITCH.Address); err != nil {
			p.t.Error(err)
		}
	}
}

// heartbeat returns the recorded heartbeat with other numbers.
func heartbeat(calls, begun, idle int) []byte {
	body := fakeswitch.Frames(fakeswitch.Heartbeat, fakeswitch.Caller{}, time.Now())
	_, body, _ = bytes.Cut(body, []byte("\n\n"))
	for name, value := range map[string]string{"Session-Count": strconv.Itoa(calls), "Session-Per-Sec-Last": strconv.Itoa(begun), "Idle-CPU": strconv.Itoa(idle)} {
		body = regexp.MustCompile(`(?m)^`+name+`: .*$`).ReplaceAll(body, []byte(name+": "+value))
	}
	return append(fmt.Appendf(nil, "Content-Length: %d\nContent-Type: text/event-plain\n\n", len(body)), body...)
}
