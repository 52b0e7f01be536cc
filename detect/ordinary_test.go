package detect

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"fsban/policy"
	"fsban/sipwire"
)

// A wire is the traffic of a FreeSWITCH at 192.0.2.1:5060, in any order.
type wire struct {
	packets []sipwire.Packet
	n       int
	proto   sipwire.Transport
}

const freeswitch, gateway = "192.0.2.1:5060", "203.0.113.99:5060"

func (w *wire) send(after time.Duration, from, to, message string) {
	w.packets = append(w.packets, sipwire.Packet{
		From: netip.MustParseAddrPort(from), To: netip.MustParseAddrPort(to), Transport: w.proto, At: wireStart.Add(after), Payload: []byte(message),
	})
}

// A query is a request: its user of From, its target and user of To, and further headers.
type query struct{ from, target, to, headers string }

// ask has a client send a request of a new transaction to a server, and the server answer, each a few milliseconds later.
func (w *wire) ask(after time.Duration, client, server, method string, q query, answers ...string) {
	w.n++
	if !strings.Contains(q.to, ":") {
		q.to = "<sip:" + q.to + "@pbx>"
	}
	common := fmt.Sprintf("Via: SIP/2.0/UDP %s;rport;branch=z9hG4bK%d\r\nFrom: <sip:%s@pbx>;tag=f%d\r\nTo: %s\r\nCall-ID: c%d\r\nCSeq: %d %s\r\n",
		client, w.n, q.from, w.n, q.to, w.n, w.n, method)
	w.send(after, client, server, method+" sip:"+q.target+" SIP/2.0\r\n"+common+q.headers+"\r\n")
	for i, a := range answers {
		status, headers, _ := strings.Cut(a, "\r\n")
		w.send(after+time.Duration(i+1)*3*time.Millisecond, server, client, "SIP/2.0 "+status+"\r\n"+common+headers+"\r\n")
	}
}

// every calls f each interval from a start to an end.
func every(start, interval, end time.Duration, f func(at time.Duration)) {
	for at := start; at < end; at += interval {
		f(at)
	}
}

// play returns the attempts of kinds that only the wire shows, and the number of keep-alives.
func (w *wire) play(s *SIP) (attempts []policy.Attempt, alive int) {
	slices.SortStableFunc(w.packets, func(a, b sipwire.Packet) int { return a.At.Compare(b.At) })
	for i := range w.packets {
		a, outcome := s.Packet(&w.packets[i], w.packets[i].At)
		switch {
		case outcome == Attempt && a.Kind.OnWire():
			attempts = append(attempts, a)
		case outcome == KeepAlive:
			alive++
		}
	}
	return attempts, alive
}

func user(n int) string { return fmt.Sprint(1000 + n) }

// nat is a phone behind the NAT of an office: the n-th port of its address.
func nat(n int) string { return fmt.Sprintf("198.51.100.20:%d", 20000+n) }

// login has a phone register with the right password.
func (w *wire) login(at time.Duration, phone, name string) {
	q := query{name, "pbx", name, "Expires: 3600\r\n"}
	nonce := fmt.Sprint(phone, at)
	w.ask(at, phone, freeswitch, "REGISTER", q, challenge(nonce))
	q.headers += answer(nonce)
	w.ask(at+20*time.Millisecond, phone, freeswitch, "REGISTER", q, accepted)
}

const (
	noSubscription = "481 Subscription Does Not Exist\r\n"
	noCall         = "481 Call Does Not Exist\r\n"
	optionsAnswer  = "200 OK\r\nAccept: application/sdp\r\n"
)

// ordinary is traffic that never counts, however much of it there is.
var ordinary = map[string]func(w *wire){
	"keep-alives of 50 registered phones": func(w *wire) {
		for n := range 50 {
			w.login(time.Duration(n)*time.Second, nat(n), user(n))
			every(time.Duration(n)*100*time.Millisecond, 15*time.Second, 10*time.Minute, func(at time.Duration) {
				w.ask(at, nat(n), freeswitch, "OPTIONS", query{user(n), "pbx", user(n), ""}, optionsAnswer)
			})
		}
	},
	"keep-alives of 200 phones that registered before fsban began": func(w *wire) {
		for n := range 200 {
			every(time.Duration(n)*100*time.Millisecond, 30*time.Second, 10*time.Minute, func(at time.Duration) {
				w.ask(at, nat(n), freeswitch, "OPTIONS", query{user(n), user(n) + "@pbx", user(n), ""}, optionsAnswer)
			})
		}
	},
	"FreeSWITCH asks its gateways": func(w *wire) {
		for n := range 30 {
			every(0, time.Second, 5*time.Minute, func(at time.Duration) {
				w.ask(at, freeswitch, fmt.Sprintf("203.0.113.%d:5060", n+1), "OPTIONS", query{"trunk", "carrier", user(n), ""}, optionsAnswer)
			})
		}
	},
	"FreeSWITCH asks phones before any has registered": func(w *wire) {
		for n := range 300 {
			every(time.Duration(n)*time.Millisecond, 20*time.Second, 5*time.Minute, func(at time.Duration) {
				w.ask(at, freeswitch, nat(n), "OPTIONS", query{"pbx", user(n) + "@" + nat(n), user(n), ""}, optionsAnswer)
			})
		}
	},
	"Kamailio's dispatcher": func(w *wire) {
		every(0, time.Second, 20*time.Minute, func(at time.Duration) {
			w.ask(at, "198.51.100.30:5060", freeswitch, "OPTIONS", query{"dispatcher", "192.0.2.1:5060", "<sip:192.0.2.1:5060>", ""}, optionsAnswer)
		})
	},
	"OpenSIPS' dispatcher, to two profiles": func(w *wire) {
		for _, profile := range []string{freeswitch, "192.0.2.1:5080"} {
			every(0, 2*time.Second, 20*time.Minute, func(at time.Duration) {
				w.ask(at, "198.51.100.30:5060", profile, "OPTIONS", query{"prober", profile, "<sip:" + profile + ">", ""}, optionsAnswer)
			})
		}
	},
	"Asterisk's qualify of 18 trunks": func(w *wire) {
		for n := range 18 {
			every(time.Duration(n)*time.Millisecond, 30*time.Second, time.Hour, func(at time.Duration) {
				w.ask(at, "198.51.100.31:5060", freeswitch, "OPTIONS", query{"asterisk", user(n) + "@pbx", user(n), "User-Agent: Asterisk PBX 20\r\n"}, optionsAnswer)
			})
		}
	},
	"blank lines, NULs, words and STUN": func(w *wire) {
		stun := "\x00\x01\x00\x00\x21\x12\xa4\x42" + strings.Repeat("x", 12)
		for n, text := range []string{"\r\n", "\r\n\r\n", "\x00\x00\x00\x00", "jaK", "", "\x00", stun, " \r\n"} {
			every(0, 15*time.Second, 10*time.Minute, func(at time.Duration) { w.send(at, nat(n), freeswitch, text) })
		}
	},
	"odd keep-alives and stray media": func(w *wire) {
		for n, text := range []string{"keep-alive", "PING", "hello\r\n", "\x80\x00" + strings.Repeat("\x55", 170), strings.Repeat("\xff", 64)} {
			every(0, 20*time.Millisecond, 30*time.Second, func(at time.Duration) { w.send(at, nat(n), freeswitch, text) })
		}
	},
	"keep-alive NOTIFY": func(w *wire) {
		for n, answer := range []string{optionsAnswer, noSubscription, "489 Bad Event\r\n", "405 Method Not Allowed\r\n"} {
			for p := range 30 {
				every(0, 15*time.Second, 10*time.Minute, func(at time.Duration) {
					w.ask(at, nat(100*n+p), freeswitch, "NOTIFY", query{user(p), "pbx", "<sip:pbx>", "Event: keep-alive\r\n"}, answer)
				})
			}
		}
	},
	"check_sip and sipsak, five times a minute": func(w *wire) {
		for _, agent := range []string{"User-Agent: sipsak 0.9.8.1\r\n", "User-Agent: Nagios check_sip\r\n"} {
			every(0, 12*time.Second, time.Hour, func(at time.Duration) {
				port := 30000 + int(at.Seconds()) // of its own each time
				w.ask(at, fmt.Sprintf("198.51.100.32:%d", port), freeswitch, "OPTIONS", query{"sipsak", "100@pbx", "100", agent}, optionsAnswer)
			})
		}
	},
	"a session border controller, from 16 ports": func(w *wire) {
		for n := range 16 {
			every(0, 5*time.Second, 30*time.Minute, func(at time.Duration) {
				w.ask(at, fmt.Sprintf("198.51.100.33:%d", 5060+n), freeswitch, "OPTIONS", query{"ping", "192.0.2.1", "<sip:192.0.2.1>", "Max-Forwards: 0\r\n"}, optionsAnswer)
			})
		}
	},
	"a provider, each second from 40 sockets": func(w *wire) {
		for n := range 40 {
			every(0, time.Second, 3*time.Minute, func(at time.Duration) {
				w.ask(at, fmt.Sprintf("203.0.113.7:%d", 10000+n), freeswitch, "OPTIONS", query{"ping", "pbx", "<sip:pbx>", ""}, optionsAnswer)
			})
		}
	},
	"a provider, five times a second": func(w *wire) {
		every(0, 201*time.Millisecond, 10*time.Minute, func(at time.Duration) {
			w.ask(at, "203.0.113.8:5060", freeswitch, "OPTIONS", query{"ping", "pbx", "<sip:pbx>", ""}, optionsAnswer)
		})
	},
	"all phones register again after a restart": func(w *wire) {
		for n := range 400 {
			at := time.Duration(n) * 20 * time.Millisecond
			w.ask(at, nat(n), freeswitch, "REGISTER", query{user(n), "pbx", user(n), answer("old")}, stale(user(n)))
			w.ask(at+10*time.Millisecond, nat(n), freeswitch, "REGISTER", query{user(n), "pbx", user(n), answer(user(n))}, accepted)
		}
	},
	"subscriptions to the lamps of 60 phones": func(w *wire) {
		for n := range 60 {
			w.ask(time.Duration(n)*time.Second, nat(0), freeswitch, "SUBSCRIBE", query{"1000", user(n) + "@pbx", user(n), ""}, challenge(user(n)))
			w.ask(time.Duration(n)*time.Second+30*time.Millisecond, nat(0), freeswitch, "SUBSCRIBE", query{"1000", user(n) + "@pbx", user(n), answer(user(n))},
				"202 Accepted\r\n")
			every(time.Minute, time.Minute, 10*time.Minute, func(at time.Duration) { // refreshed, and unknown after a restart
				to := "<sip:" + user(n) + "@pbx>;tag=t"
				w.ask(at, nat(1), freeswitch, "SUBSCRIBE", query{"1000", "pbx", to, ""}, noSubscription)
			})
		}
	},
	"messages of a provider without passwords": func(w *wire) {
		for n := range 500 {
			w.ask(time.Duration(n)*50*time.Millisecond, gateway, freeswitch, "MESSAGE", query{"sms", user(n) + "@pbx", user(n), ""}, "202 Accepted\r\n")
			w.ask(time.Duration(n)*50*time.Millisecond, gateway, freeswitch, "PUBLISH", query{"sms", user(n) + "@pbx", user(n), ""}, accepted)
		}
	},
	"calls of a carrier to 800 numbers": func(w *wire) {
		for n := range 800 {
			final := []string{accepted, "486 Busy Here\r\n", "404 Not Found\r\n", "480 Temporarily Unavailable\r\n"}[n%4]
			w.ask(time.Duration(n)*30*time.Millisecond, gateway, freeswitch, "INVITE", query{"+4930", user(n) + "@pbx", user(n), ""}, "100 Trying\r\n", final)
			w.ask(time.Duration(n)*30*time.Millisecond+time.Second, gateway, freeswitch, "CANCEL", query{"+4930", user(n) + "@pbx", user(n), ""}, noCall)
		}
	},
	"requests in calls that FreeSWITCH has forgotten": func(w *wire) {
		for n := range 300 {
			for i, method := range []string{"BYE", "UPDATE", "INFO", "REFER", "OPTIONS", "NOTIFY"} {
				to := "<sip:" + user(n) + "@pbx>;tag=t"
				w.ask(time.Duration(6*n+i)*20*time.Millisecond, gateway, freeswitch, method, query{"+4930", user(n) + "@pbx", to, ""}, noCall)
			}
		}
	},
	"messages waiting, of 15 accounts, refused": func(w *wire) {
		for n := range 15 {
			every(0, 20*time.Second, 10*time.Minute, func(at time.Duration) {
				w.ask(at, gateway, freeswitch, "NOTIFY", query{"voicemail", user(n) + "@pbx", user(n), "Event: message-summary\r\n"}, noSubscription)
			})
		}
	},
	"retransmissions of a lossy line": func(w *wire) {
		every(0, 15*time.Second, 10*time.Minute, func(at time.Duration) {
			w.ask(at, nat(1), freeswitch, "OPTIONS", query{"1001", "pbx", "1001", ""}, optionsAnswer)
			request, response := w.packets[len(w.packets)-2], w.packets[len(w.packets)-1]
			for i, ms := range []int{500, 1500, 3500, 7500, 11500} {
				again, answer := request, response
				again.At = request.At.Add(time.Duration(ms) * time.Millisecond)
				answer.At = again.At.Add(time.Duration(i+1) * time.Millisecond)
				w.packets = append(w.packets, again, answer)
			}
		})
	},
	"web phones behind a proxy, over TCP": func(w *wire) {
		w.proto = sipwire.TCP
		for n := range 80 {
			every(time.Duration(n)*10*time.Millisecond, 25*time.Second, 5*time.Minute, func(at time.Duration) {
				w.ask(at, fmt.Sprintf("198.51.100.34:%d", 40000+n), freeswitch, "OPTIONS", query{user(n), "pbx", user(n), ""}, optionsAnswer)
			})
		}
	},
	"a proxy that answers for 60 logged-in users": func(w *wire) {
		w.login(0, gateway, "1000")
		every(time.Second, 100*time.Millisecond, time.Minute, func(at time.Duration) {
			name := user(int(at/(100*time.Millisecond)) % 60)
			w.ask(at, gateway, freeswitch, "OPTIONS", query{name, name + "@pbx", name, ""}, optionsAnswer)
		})
	},
}

func TestOrdinaryTrafficNeverCounts(t *testing.T) {
	for name, traffic := range ordinary {
		t.Run(name, func(t *testing.T) {
			var w wire
			traffic(&w)
			attempts, alive := w.play(NewSIP())
			if len(attempts) > 0 {
				t.Errorf("%d attempts, the first is %+v", len(attempts), attempts[0])
			}
			if keep := strings.HasPrefix(name, "blank"); keep != (alive == len(w.packets)) || len(w.packets) < 60 {
				t.Errorf("%d of %d packets keep a connection alive", alive, len(w.packets))
			}
		})
	}
	if len(ordinary) < 20 {
		t.Errorf("%d kinds of traffic", len(ordinary))
	}
}

// All of it at once, next to a scanner: the scanner alone counts.
func TestOrdinaryTrafficBesideAScanner(t *testing.T) {
	var w wire
	for name, traffic := range ordinary {
		if !strings.Contains(name, "TCP") {
			traffic(&w)
		}
	}
	for n := range 200 {
		w.ask(time.Duration(n)*50*time.Millisecond, attacker, freeswitch, "OPTIONS", query{"100", user(n) + "@pbx", user(n), ""}, optionsAnswer)
	}
	attempts, _ := w.play(NewSIP())
	for _, a := range attempts {
		if a.Addr != netip.MustParseAddrPort(attacker).Addr() || a.Kind != policy.Scan {
			t.Fatalf("%+v", a)
		}
	}
	if len(attempts) < 100 {
		t.Errorf("%d attempts of the scanner", len(attempts))
	}
}
