package detect

import (
	"fmt"
	"net/netip"
	"regexp"
	"testing"
	"time"

	"fsban/policy"
	"fsban/sipwire"
)

// hunts are requests of scanners, and at least how many of them count.
var hunts = map[string]struct {
	play  func(w *wire)
	least int
	agent string
}{
	"svwar under another name": {func(w *wire) {
		for n := range 100 {
			w.ask(time.Duration(n)*10*time.Millisecond, attacker, freeswitch, "OPTIONS", query{user(n), user(n) + "@192.0.2.1", user(n), "User-Agent: Zoiper\r\n"}, optionsAnswer)
		}
	}, 60, "Zoiper"},
	"the target in the request line alone": {func(w *wire) {
		for n := range 100 {
			w.ask(time.Duration(n)*10*time.Millisecond, attacker, freeswitch, "OPTIONS", query{"100", user(n) + "@192.0.2.1", "100", ""}, optionsAnswer)
		}
	}, 60, ""},
	"one target, 20 times a second": {func(w *wire) {
		every(0, 50*time.Millisecond, time.Minute, func(at time.Duration) {
			w.ask(at, attacker, freeswitch, "OPTIONS", query{"100", "192.0.2.1", "100", ""}, optionsAnswer)
		})
	}, 800, ""},
	"methods that FreeSWITCH refuses": {func(w *wire) {
		for n := range 100 {
			method, refusal := []string{"NOTIFY", "REFER", "INFO", "FOO", "BYE"}[n%5], []string{noSubscription, "403 Forbidden\r\n", noCall, "501 Not Implemented\r\n", noCall}[n%5]
			w.ask(time.Duration(n)*100*time.Millisecond, attacker, freeswitch, method, query{"100", user(n) + "@192.0.2.1", user(n), ""}, refusal)
		}
	}, 60, ""},
	"a new port each time, an hour after the start": {func(w *wire) {
		w.login(0, honest, "1000")
		for n := range 300 {
			client := fmt.Sprintf("198.51.100.9:%d", 10000+n)
			w.ask(61*time.Minute+time.Duration(n)*10*time.Millisecond, client, freeswitch, "OPTIONS", query{"100", user(n) + "@192.0.2.1", user(n), ""}, optionsAnswer)
		}
	}, 100, ""},
	"a scanner's name, on every method": {func(w *wire) {
		for n, method := range []string{"OPTIONS", "NOTIFY", "INFO", "MESSAGE", "SUBSCRIBE", "PUBLISH", "FOO", "REFER", "INVITE", "REGISTER"} {
			w.ask(time.Duration(n)*time.Second, attacker, freeswitch, method, query{"100", "192.0.2.1", "100", "User-Agent: friendly-scanner\r\n"}, "503 Full\r\n")
		}
	}, 10, "friendly-scanner"},
	"sipsak that looks for users": {func(w *wire) {
		for n := range 60 {
			w.ask(time.Duration(n)*100*time.Millisecond, attacker, freeswitch, "OPTIONS", query{"sipsak", user(n) + "@192.0.2.1", user(n), "User-Agent: sipsak 0.9.8\r\n"}, optionsAnswer)
		}
	}, 30, "sipsak 0.9.8"},
	"again, after its ban": {func(w *wire) {
		for _, start := range []time.Duration{0, 11 * time.Minute} {
			for n := range 60 {
				w.ask(start+time.Duration(n)*100*time.Millisecond, attacker, freeswitch, "OPTIONS", query{"100", user(n) + "@192.0.2.1", user(n), ""}, optionsAnswer)
			}
		}
	}, 66, ""},
}

func TestScansCount(t *testing.T) {
	for name, tc := range hunts {
		for _, transport := range []sipwire.Transport{sipwire.UDP, sipwire.TCP} {
			t.Run(fmt.Sprint(name, " over ", transport), func(t *testing.T) {
				w := wire{proto: transport}
				tc.play(&w)
				attempts, _ := w.play(NewSIP())
				for _, a := range attempts {
					proof := policy.NoProof
					if transport.Connected() {
						proof = policy.TCPProof
					}
					if a.Addr != netip.MustParseAddrPort(attacker).Addr() || a.Kind != policy.Scan || a.UserAgent != tc.agent || a.Proof != proof {
						t.Fatalf("%+v", a)
					}
				}
				if len(attempts) < tc.least {
					t.Errorf("%d attempts, at least %d expected", len(attempts), tc.least)
				}
			})
		}
	}
}

// An address that has logged in, as any source reports it, may ask for what it likes.
func TestAnAddressThatHasLoggedInDoesNotScan(t *testing.T) {
	scan := hunts["svwar under another name"].play
	for name, know := range map[string]func(s *SIP, w *wire){
		"by REGISTER": func(_ *SIP, w *wire) { w.login(-time.Minute, attacker, "1000") },
		"by another method": func(_ *SIP, w *wire) {
			w.ask(-time.Minute, attacker, freeswitch, "MESSAGE", query{"1000", "pbx", "1001", ""}, challenge("a"))
			w.ask(-time.Second, attacker, freeswitch, "MESSAGE", query{"1000", "pbx", "1001", answer("a")}, "202 Accepted\r\n")
		},
		"as another source reports": func(s *SIP, _ *wire) { s.Know(netip.MustParseAddrPort(attacker).Addr(), wireStart) },
		"as FreeSWITCH's gateway": func(s *SIP, w *wire) {
			s.SetOwn([]netip.Addr{netip.MustParseAddrPort(freeswitch).Addr()})
			w.ask(-time.Minute, freeswitch, attacker, "OPTIONS", query{"pbx", "carrier", "trunk", ""}, optionsAnswer)
		},
	} {
		s := NewSIP()
		var w wire
		know(s, &w)
		scan(&w)
		if attempts, _ := w.play(s); len(attempts) > 0 {
			t.Errorf("%s: %d attempts", name, len(attempts))
		}
	}
	s := NewSIP()
	var w wire
	for n := range 20 { // credentials that nobody asked for
		w.ask(-time.Second, attacker, freeswitch, "OPTIONS", query{"1000", "pbx", user(n), answer("made-up")}, optionsAnswer)
	}
	scan(&w)
	if attempts, _ := w.play(s); len(attempts) == 0 {
		t.Error("made-up credentials are no login")
	}
}

// FreeSWITCH's own requests never count, not even those of a whole dial list.
func TestFreeSWITCHDoesNotScan(t *testing.T) {
	var w wire
	for n := range 400 {
		w.ask(time.Duration(n)*20*time.Millisecond, freeswitch, gateway, "NOTIFY", query{"pbx", user(n) + "@carrier", user(n), ""}, noSubscription)
		w.send(time.Duration(n)*20*time.Millisecond, freeswitch, gateway, "OPTIONS sip:x SIP/9.9\r\n\r\n")
	}
	s := NewSIP()
	s.SetOwn([]netip.Addr{netip.MustParseAddrPort(freeswitch).Addr()})
	if attempts, _ := w.play(s); len(attempts) > 0 {
		t.Errorf("%d attempts, %+v", len(attempts), attempts[0])
	}
}

func TestScannersAreThoseOfTheConfiguration(t *testing.T) {
	var w wire
	w.ask(0, attacker, freeswitch, "OPTIONS", query{"1", "pbx", "1", "User-Agent: EvilPhone 1\r\n"}, optionsAnswer)
	w.ask(0, attacker, freeswitch, "OPTIONS", query{"1", "pbx", "1", "User-Agent: friendly-scanner\r\n"}, optionsAnswer)
	s := NewSIP()
	s.SetScanners(regexp.MustCompile("^Evil"))
	if attempts, _ := w.play(s); len(attempts) != 1 || attempts[0].UserAgent != "EvilPhone 1" {
		t.Errorf("%+v", attempts)
	}
}

// The tables of scans do not grow, and count what they forget.
func TestScansAreBounded(t *testing.T) {
	s := newScans()
	at := wireStart
	for n := range 4 * maxProbes {
		addr := netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
		s.counts(&sipwire.Transaction{Client: netip.AddrPortFrom(addr, 5060), Server: netip.MustParseAddrPort(freeswitch), At: at, Target: uint64(n)})
		s.know(addr, at)
	}
	if len(s.probes) != maxProbes || len(s.known) != maxKnown || s.evicted < maxProbes {
		t.Errorf("%d probes, %d known, %d evicted", len(s.probes), len(s.known), s.evicted)
	}
}

// A clock that is put back makes no minute longer.
func TestAClockThatIsPutBackMakesNoScan(t *testing.T) {
	s := NewSIP()
	for _, start := range []time.Duration{2 * time.Hour, 0} {
		w := wire{n: int(start)} // other requests than before
		every(start, time.Second, start+10*time.Minute, func(at time.Duration) {
			w.ask(at, gateway, freeswitch, "OPTIONS", query{"ping", "pbx", "<sip:pbx>", ""}, optionsAnswer)
		})
		if attempts, _ := w.play(s); len(attempts) > 0 {
			t.Errorf("from %v on: %d attempts", start, len(attempts))
		}
	}
	f := newFloods()
	request := func(at time.Duration) {
		f.request(netip.MustParseAddr("203.0.113.5"), netip.MustParseAddrPort(freeswitch), true, wireStart.Add(at))
	}
	request(time.Hour)
	for i := range 3000 { // 1 a second, unanswered
		request(time.Duration(i) * time.Second)
	}
	request(time.Hour + time.Second)
	if f.deaf != 0 {
		t.Errorf("deaf for %d s", f.deaf)
	}
}

func TestIPv6CountsByNetwork(t *testing.T) {
	var w wire
	for n := range 300 {
		w.ask(time.Hour+time.Minute+time.Duration(n)*10*time.Millisecond, fmt.Sprintf("[2001:db8::%x]:5060", n+1), freeswitch, "OPTIONS", query{"1", user(n) + "@pbx", user(n), ""}, optionsAnswer)
	}
	w.login(0, honest, "1000")
	if attempts, _ := w.play(NewSIP()); len(attempts) < 100 {
		t.Errorf("%d attempts of a /64", len(attempts))
	}
}
