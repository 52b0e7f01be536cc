package detect

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"fsban/internal/captures"
	"fsban/policy"
	"fsban/sipwire"
)

var wireStart = time.Unix(1796060023, 0)

// recordedPackets returns the packets of recorded HEP. Those of version 1 have no time and are given one.
func recordedPackets(t testing.TB, name string) (packets []sipwire.Packet) {
	t.Helper()
	for r := sipwire.NewRecording(bytes.NewReader(captures.Read(t, "sip/"+name))); ; {
		datagram, err := r.Next()
		if errors.Is(err, io.EOF) {
			return packets
		}
		if err != nil {
			t.Fatal(err)
		}
		var p sipwire.Packet
		if err := sipwire.ParseHEP(bytes.Clone(datagram), &p); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if p.At.IsZero() {
			p.At = wireStart
		}
		packets = append(packets, p)
	}
}

// found returns what a SIP makes of packets: an attempt a line, and the counts of other outcomes that are not NoAttempt.
func found(s *SIP, packets []sipwire.Packet) (lines []string) {
	other := make(map[Outcome]int)
	for i := range packets {
		a, outcome := s.Packet(&packets[i], packets[i].At)
		switch outcome {
		case Attempt:
			lines = append(lines, strings.TrimSpace(fmt.Sprint(a.Kind, " ", a.Method, " ", a.User, a.Detail, " ", a.Addr, " ", a.Proof)))
		case NoAttempt:
		default:
			other[outcome]++
		}
	}
	for _, o := range WireOutcomes {
		if other[o] > 0 {
			lines = append(lines, fmt.Sprint(other[o], " ", o))
		}
	}
	return lines
}

func TestRecordedMessagesGiveTheAttemptsTheyShould(t *testing.T) {
	const agent = "friendly-phone/1.0"
	phone := func(user, addr string) []string {
		return []string{"challenge REGISTER " + user + " " + addr, "auth_success REGISTER " + user + " " + addr + " password"}
	}
	for name, want := range map[string][]string{
		"call-abroad-killed-at-creation-of-its-b-leg": nil,
		"call-abroad-refused-by-the-gate":             nil,
		"call-internal-1000-to-1002":                  append(phone("1000", "10.77.0.3"), phone("1002", "10.77.0.4")...),
		"call-originated-by-api":                      nil,
		"call-registered-user-abroad":                 append(phone("1000", "10.77.0.3"), phone("1000", "10.77.0.3")...),
		"call-registered-user-national":               phone("1000", "10.77.0.3"),
		"call-wrong-password-abroad":                  {"auth_failure INVITE 1001 10.77.0.9 nonce"},
		"hep-behind-proxy-two-vias":                   {"challenge REGISTER 1000 10.77.0.18", "auth_failure REGISTER 1000 10.77.0.18 nonce"},
		"hep-forged-nonce-of-another-address":         {"challenge REGISTER 1000 10.77.0.2", "auth_failure REGISTER 1000 10.77.0.200 none", "auth_failure REGISTER 1000 10.77.0.200 none", "auth_failure REGISTER 1000 10.77.0.200 none"},
		"hep-invite-wrong-password":                   {"auth_failure INVITE 1000 10.77.0.7 nonce"},
		"hep-ipv6-register-wrong":                     {"challenge REGISTER 1000 fd77::2", "auth_failure REGISTER 1000 fd77::2 nonce"},
		"hep-malformed": {
			"malformed REGISTER cseq 10.77.0.15 none", "malformed REGISTER from 10.77.0.15 none", "malformed REGISTER version 10.77.0.15 none",
			"2 malformed", // answers of FreeSWITCH
		},
		"hep-options-svmap": {"scan OPTIONS 100 10.77.0.13 none"},
		"hep-options-svwar": {
			"scan OPTIONS 2007393340 10.77.0.2 none", "scan OPTIONS 999 10.77.0.2 none", "scan OPTIONS 1000 10.77.0.2 none",
			"scan OPTIONS 1001 10.77.0.2 none", "scan OPTIONS 1002 10.77.0.2 none", "scan OPTIONS 1003 10.77.0.2 none",
		},
		"hep-register-invented-nonce":             {"challenge REGISTER 1000 10.77.0.6"},
		"hep-register-success-refresh-unregister": slices.Insert(append(phone("1000", "10.77.0.3"), phone("1000", "10.77.0.3")...), 2, "auth_success REGISTER 1000 10.77.0.3 password"),
		"hep-register-wrong-x5-one-nonce":         append([]string{"challenge REGISTER 1000 10.77.0.3"}, slices.Repeat([]string{"auth_failure REGISTER 1000 10.77.0.3 nonce"}, 5)...),
		"hep-subscribe-bruteforce-one-nonce":      slices.Repeat([]string{"auth_failure SUBSCRIBE 1000 10.77.0.12 nonce"}, 6),
		"hep-subscribe-expired-nonce-honest":      nil,
		"hep-subscribe-right-password":            nil,
		"hep-tcp-register-wrong":                  {"challenge REGISTER 1000 10.77.0.16 tcp", "auth_failure REGISTER 1000 10.77.0.16 tcp"},
		"hep-tls-register-and-subscribe-wrong":    {"challenge REGISTER 1000 10.77.0.17 tcp"}, // the recording ends before a password
		"hep-version-1-register-wrong":            {"challenge REGISTER 1000 10.77.0.3", "auth_failure REGISTER 1000 10.77.0.3 nonce"},
		"hep-version-2-register-wrong":            {"challenge REGISTER 1000 10.77.0.3", "auth_failure REGISTER 1000 10.77.0.3 nonce"},
		"hep-via-received-lie":                    {"challenge REGISTER 1000 10.77.0.15"},
		"hep-ws-register-and-subscribe-wrong": {
			"challenge REGISTER 1000 10.77.0.17 tcp", "auth_failure REGISTER 1000 10.77.0.17 tcp", "auth_failure SUBSCRIBE 1000 10.77.0.17 tcp",
		},
	} {
		t.Run(name, func(t *testing.T) {
			packets := recordedPackets(t, name+".hep")
			s := NewSIP()
			if got := found(s, packets); !slices.Equal(got, want) {
				t.Errorf("%q, want %q", got, want)
			}
			// The copy of another tap, and retransmissions, count no second time.
			if got := found(s, packets); slices.ContainsFunc(got, func(line string) bool { return !strings.Contains(line, "malformed") }) {
				t.Errorf("again: %q", got)
			}
			for i := range packets {
				if a, outcome := s.Packet(&packets[i], packets[i].At); outcome == Attempt && a.Kind != policy.Malformed && a.UserAgent != agent {
					t.Errorf("agent %q", a.UserAgent)
				}
			}
		})
	}
	if names := captures.Names(t, "sip/*.hep"); len(names) != 26 {
		t.Errorf("%d recordings", len(names))
	}
}

// A dialogue is SIP between a client and FreeSWITCH at 192.0.2.1:5060. Each exchange is a millisecond after the one before.
type dialogue struct {
	packets []sipwire.Packet
	at      time.Time
	client  netip.AddrPort
	server  netip.AddrPort
	tcp     sipwire.Transport
	n       int
}

func newDialogue(client string) *dialogue {
	return &dialogue{at: wireStart, client: netip.MustParseAddrPort(client), server: netip.MustParseAddrPort("192.0.2.1:5060")}
}

// exchange adds a request with headers, and the responses, each a status with headers.
func (d *dialogue) exchange(method, headers string, responses ...string) {
	d.n++
	common := fmt.Sprintf("Via: SIP/2.0/UDP 10.0.0.9:5060;rport;branch=z9hG4bK%s%d\r\nFrom: <sip:1000@pbx>;tag=f%[2]d\r\nTo: <sip:1001@pbx>\r\nCall-ID: c%[1]s%[2]d\r\n"+
		"CSeq: %[2]d %[3]s\r\n", d.client, d.n, method)
	d.send(d.client, d.server, method+" sip:1001@pbx SIP/2.0\r\n"+common+"User-Agent: x\r\n"+headers+"\r\n")
	for _, response := range responses {
		status, more, _ := strings.Cut(response, "\r\n")
		d.send(d.server, d.client, "SIP/2.0 "+status+"\r\n"+common+more+"\r\n")
	}
}

func (d *dialogue) send(from, to netip.AddrPort, message string) {
	d.at = d.at.Add(time.Millisecond)
	d.packets = append(d.packets, sipwire.Packet{From: from, To: to, Transport: d.tcp, At: d.at, Payload: []byte(message)})
}

func challenge(nonce string) string {
	return "401 Unauthorized\r\nWWW-Authenticate: Digest realm=\"pbx\", nonce=\"" + nonce + "\", algorithm=MD5, qop=\"auth\"\r\n"
}

func stale(nonce string) string {
	return strings.Replace(challenge(nonce), "algorithm", "stale=true, algorithm", 1)
}

func answer(nonce string) string {
	return "Authorization: Digest username=\"1000\", realm=\"pbx\", nonce=\"" + nonce + "\", uri=\"sip:pbx\", response=\"0123\"\r\n"
}

const (
	accepted  = "200 OK\r\n"
	forbidden = "403 Forbidden\r\n"
	bare      = "401 Unauthorized\r\n"
)

const attacker, honest, victim = "198.51.100.9:5060", "203.0.113.5:5062", "203.0.113.50:5060"

// refusals are dialogues of an attacker with FreeSWITCH, and the attempts in them.
var refusals = map[string]struct {
	play func(d *dialogue)
	want []string
}{
	"every method": {func(d *dialogue) {
		for _, method := range []string{"SUBSCRIBE", "MESSAGE", "PUBLISH", "INFO", "NEW"} {
			d.exchange(method, "", challenge(method))
			d.exchange(method, answer(method), bare)
		}
	}, []string{
		"auth_failure SUBSCRIBE 1000 198.51.100.9 nonce", "auth_failure MESSAGE 1000 198.51.100.9 nonce", "auth_failure PUBLISH 1000 198.51.100.9 nonce",
		"auth_failure other 1000 198.51.100.9 nonce", "auth_failure other 1000 198.51.100.9 nonce",
	}},
	"one forged packet": {func(d *dialogue) { d.exchange("REGISTER", answer("unknown"), forbidden) }, []string{"auth_failure REGISTER 1000 198.51.100.9 none"}},
	"one forged packet over TCP": {func(d *dialogue) {
		d.tcp = sipwire.TCP
		d.exchange("REGISTER", answer("unknown"), forbidden)
	}, []string{"auth_failure REGISTER 1000 198.51.100.9 tcp"}},
	"a stale nonce": {func(d *dialogue) { d.exchange("REGISTER", answer("old"), stale("new")) }, []string{"challenge REGISTER 1000 198.51.100.9"}},
	"the nonce of another address": {func(d *dialogue) {
		d.exchange("SUBSCRIBE", "", challenge("a"))
		d.client = netip.MustParseAddrPort(victim)
		d.exchange("SUBSCRIBE", answer("a"), bare)
		d.exchange("REGISTER", answer("a"), forbidden)
	}, []string{"auth_failure SUBSCRIBE 1000 203.0.113.50 none", "auth_failure REGISTER 1000 203.0.113.50 none"}},
	"the nonce of another address over TLS": {func(d *dialogue) {
		d.exchange("SUBSCRIBE", "", challenge("a"))
		d.client, d.tcp = netip.MustParseAddrPort(victim), sipwire.TLS
		d.exchange("SUBSCRIBE", answer("a"), bare)
	}, []string{"auth_failure SUBSCRIBE 1000 203.0.113.50 tcp"}},
	"another port of the same address": {func(d *dialogue) {
		d.exchange("SUBSCRIBE", "", challenge("a"))
		d.client = netip.MustParseAddrPort("198.51.100.9:9999")
		d.exchange("SUBSCRIBE", answer("a"), bare)
	}, []string{"auth_failure SUBSCRIBE 1000 198.51.100.9 nonce"}},
	"an escaped nonce": {func(d *dialogue) {
		d.exchange("SUBSCRIBE", "", challenge("abc"))
		d.exchange("SUBSCRIBE", answer(`\a\b\c`), bare)
	}, []string{"auth_failure SUBSCRIBE 1000 198.51.100.9 nonce"}},
	"the nonce in a second header": {func(d *dialogue) {
		d.exchange("SUBSCRIBE", "", challenge("abc"))
		d.exchange("SUBSCRIBE", answer("made-up")+strings.Replace(answer("abc"), "Authorization", "Proxy-Authorization", 1), bare)
	}, []string{"auth_failure SUBSCRIBE 1000 198.51.100.9 nonce"}},
	"a call that the dialplan or the carrier refuses": {func(d *dialogue) {
		d.exchange("INVITE", "", challenge("a"))
		d.exchange("INVITE", answer("a"), "100 Trying\r\n", forbidden)
		d.exchange("INVITE", answer("a"), "403 Forbidden\r\nReason: Q.850;cause=52\r\n")
	}, nil},
	"a request that is not found": {func(d *dialogue) {
		d.exchange("MESSAGE", "", challenge("a"))
		d.exchange("MESSAGE", answer("a"), "404 Not Found\r\n", "481 Call Does Not Exist\r\n", "500 Error\r\n")
	}, nil},
	"a retransmission": {func(d *dialogue) {
		d.exchange("SUBSCRIBE", "", challenge("a"))
		d.exchange("SUBSCRIBE", answer("a"), bare, bare)
		d.packets = append(d.packets, d.packets[2:]...)
	}, []string{"auth_failure SUBSCRIBE 1000 198.51.100.9 nonce"}},
	"a third guess under the same identifiers": {func(d *dialogue) { // over TCP FreeSWITCH forgets a transaction at once
		d.exchange("SUBSCRIBE", "", challenge("a"))
		for _, password := range []string{"x", "y", "z"} {
			d.n = 7
			d.exchange("SUBSCRIBE", strings.Replace(answer("a"), "0123", password, 1), bare)
		}
	}, slices.Repeat([]string{"auth_failure SUBSCRIBE 1000 198.51.100.9 nonce"}, 3)},
	"guesses under the same identifiers before an answer": {func(d *dialogue) {
		d.exchange("SUBSCRIBE", "", challenge("a"))
		for range 3 {
			d.n = 7
			d.exchange("SUBSCRIBE", answer("a")+fmt.Sprintf("X-%d: 1\r\n", len(d.packets)))
		}
		d.n = 7
		d.exchange("SUBSCRIBE", answer("made-up"), bare, bare, bare, bare, bare)
	}, slices.Repeat([]string{"auth_failure SUBSCRIBE 1000 198.51.100.9 nonce"}, 4)},
	"a nonce of an hour ago, after a restart": {func(d *dialogue) {
		d.exchange("REGISTER", "Expires: 3600\r\n", challenge("a"))
		d.exchange("REGISTER", "Expires: 3600\r\n"+answer("a"), accepted)
		d.at = d.at.Add(30 * time.Minute)
		for range 20 {
			d.exchange("SUBSCRIBE", answer("a"), bare)
		}
	}, []string{"challenge REGISTER 1001 198.51.100.9", "auth_success REGISTER 1000 198.51.100.9 password"}},
	"a nonce of an hour ago that FreeSWITCH still knows": {func(d *dialogue) {
		d.exchange("REGISTER", "Expires: 3600\r\n", challenge("guess")) // never answered
		d.client = netip.MustParseAddrPort(honest)
		d.at = d.at.Add(-time.Minute)
		d.exchange("REGISTER", "Contact: <sip:1000@10.0.0.9>;expires=3600\r\n", challenge("phone"))
		d.at = d.at.Add(30 * time.Minute)
		d.exchange("REGISTER", answer("phone"), accepted)
		d.client = netip.MustParseAddrPort(attacker)
		d.exchange("SUBSCRIBE", answer("guess"), bare)
	}, []string{
		"challenge REGISTER 1001 198.51.100.9", "challenge REGISTER 1001 203.0.113.5", "auth_success REGISTER 1000 203.0.113.5 password",
		"auth_failure SUBSCRIBE 1000 198.51.100.9 nonce",
	}},
	"a nonce of an hour ago, after a restart that a phone has met": {func(d *dialogue) {
		d.exchange("REGISTER", "Expires: 3600\r\n", challenge("guess"))
		d.client = netip.MustParseAddrPort(honest)
		d.at = d.at.Add(-time.Minute)
		d.exchange("REGISTER", "Expires: 3600\r\n", challenge("phone"))
		d.at = d.at.Add(30 * time.Minute)
		d.exchange("REGISTER", answer("phone"), accepted)
		d.exchange("REGISTER", answer("phone"), stale("new"))
		d.client = netip.MustParseAddrPort(attacker)
		d.exchange("SUBSCRIBE", answer("guess"), bare)
	}, []string{
		"challenge REGISTER 1001 198.51.100.9", "challenge REGISTER 1001 203.0.113.5", "auth_success REGISTER 1000 203.0.113.5 password",
		"challenge REGISTER 1000 203.0.113.5",
	}},
	"a nonce of an hour ago, after a restart that nobody has met": {func(d *dialogue) {
		d.exchange("REGISTER", "Expires: 3600\r\n", challenge("guess"))
		d.client = netip.MustParseAddrPort(honest)
		d.at = d.at.Add(30 * time.Minute)
		d.exchange("REGISTER", "", challenge("phone"))
		d.exchange("REGISTER", answer("phone"), accepted)
		d.client = netip.MustParseAddrPort(attacker)
		d.exchange("SUBSCRIBE", answer("guess"), bare)
	}, []string{
		"challenge REGISTER 1001 198.51.100.9", "challenge REGISTER 1001 203.0.113.5", "auth_success REGISTER 1000 203.0.113.5 password",
	}},
	"a nonce that is over": {func(d *dialogue) {
		d.exchange("SUBSCRIBE", "", challenge("a"))
		d.at = d.at.Add(time.Minute + time.Second)
		d.exchange("SUBSCRIBE", answer("a"), bare)
	}, nil},
	"made-up credentials where none are needed": {func(d *dialogue) {
		d.exchange("REGISTER", "", challenge("a"))
		d.exchange("OPTIONS", answer("a"), accepted)
		d.exchange("INVITE", answer("a"), accepted)
		d.server = netip.MustParseAddrPort("192.0.2.1:5080")
		d.exchange("REGISTER", answer("a"), accepted)
	}, []string{"challenge REGISTER 1001 198.51.100.9"}},
	"FreeSWITCH as a client of its carrier": {func(d *dialogue) {
		d.exchange("SUBSCRIBE", "", challenge("a"))
		d.client = netip.MustParseAddrPort(honest)
		d.exchange("SUBSCRIBE", "", challenge("b"))
		d.client, d.server = d.server, netip.MustParseAddrPort("203.0.113.99:5060")
		d.exchange("REGISTER", "", challenge("c"))
		d.exchange("REGISTER", answer("c"), forbidden)
	}, nil},
}

func TestRefusedCredentialsAndTheirProof(t *testing.T) {
	for name, tc := range refusals {
		t.Run(name, func(t *testing.T) {
			d := newDialogue(attacker)
			tc.play(d)
			if got := found(NewSIP(), d.packets); !slices.Equal(got, tc.want) {
				t.Errorf("%q, want %q", got, tc.want)
			}
		})
	}
}

// An address that a response of the attacker's own claims proves nothing.
func TestAForgedViaProvesNothing(t *testing.T) {
	d := newDialogue("[::]:5080")
	d.server = netip.MustParseAddrPort("[::]:5060")
	d.exchange("REGISTER", "") // a phone's, at the other profile
	d.packets[0].To = netip.MustParseAddrPort("[::]:5080")
	// The responses are the attacker's own, from its port 5060 to the profile at 5080.
	d.exchange("SUBSCRIBE", "", challenge("a"))
	d.exchange("SUBSCRIBE", answer("a"), bare)
	if got := found(NewSIP(), d.packets); len(got) != 0 {
		t.Errorf("%q", got)
	}
}

// A packet of a peer whose clock is far off counts as now.
func TestAPacketFarFromNowCountsAsNow(t *testing.T) {
	d := newDialogue("198.51.100.9:5060")
	d.exchange("SUBSCRIBE", "", challenge("a"))
	d.exchange("SUBSCRIBE", answer("a"), bare)
	now := wireStart.Add(2 * time.Hour)
	s := NewSIP()
	var got []policy.Attempt
	for i := range d.packets {
		if a, outcome := s.Packet(&d.packets[i], now); outcome == ClockAdrift {
			got = append(got, a)
		}
	}
	if len(got) != 1 || !got[0].At.Equal(now) || got[0].SwitchTime().Sub(wireStart) > time.Second {
		t.Errorf("%+v", got)
	}
}
