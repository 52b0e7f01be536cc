package daemon

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"fsban/control"
	"fsban/internal/fakeswitch"
	"fsban/policy"
)

// hepOf returns a SIP message over UDP as HEP 3.
func hepOf(from, to, message string) []byte {
	f, s := netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)
	b := []byte("HEP3\x00\x00")
	chunk := func(kind uint16, value []byte) {
		b = binary.BigEndian.AppendUint16(append(b, 0, 0), kind)
		b = append(binary.BigEndian.AppendUint16(b, uint16(6+len(value))), value...)
	}
	port := func(p uint16) []byte { return binary.BigEndian.AppendUint16(nil, p) }
	chunk(1, []byte{2})
	chunk(2, []byte{17})
	chunk(3, f.Addr().AsSlice())
	chunk(4, s.Addr().AsSlice())
	chunk(7, port(f.Port()))
	chunk(8, port(s.Port()))
	chunk(11, []byte{1})
	chunk(15, []byte(message))
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
	return b
}

// asked is a request of a client to FreeSWITCH, and the answer.
func asked(client, method, to, agent, answer string, n int) [][]byte {
	const server = "192.0.2.1:5060"
	common := fmt.Sprintf("Via: SIP/2.0/UDP %s;rport;branch=z9hG4bK%d\r\nFrom: <sip:1@pbx>;tag=f\r\nTo: <sip:%s@pbx>\r\nCall-ID: c%d\r\nCSeq: 1 %s\r\n", client, n, to, n, method)
	return [][]byte{
		hepOf(client, server, method+" sip:"+to+"@pbx SIP/2.0\r\n"+common+"User-Agent: "+agent+"\r\n\r\n"),
		hepOf(server, client, "SIP/2.0 "+answer+"\r\n"+common+"\r\n"),
	}
}

// scan asks for users, from one port.
func scan(r *rig, client string, users int) {
	for n := range users {
		r.mirror(asked(client, "OPTIONS", fmt.Sprint(1000+n), "Zoiper", "200 OK", n)...)
	}
	r.settled()
}

func TestKindsOfTheWireThroughTheDaemon(t *testing.T) {
	t.Parallel()
	r := tapped(t)
	for _, d := range asked("203.0.113.6:5060", "MESSAGE", "api+status", "x", "202 Accepted", 1) {
		r.mirror(d)
	}
	for range 2 { // the scanner's name counts on every method
		for n, method := range []string{"NOTIFY", "OPTIONS", "INFO"} {
			r.mirror(asked("203.0.113.7:5060", method, "100", "friendly-scanner", "481 None", n)...)
		}
	}
	scan(r, "203.0.113.5:5060", 60)
	for n := range 40 {
		r.mirror(hepOf("203.0.113.9:5060", "192.0.2.1:5060", fmt.Sprintf("OPTIONS sip:%d@pbx SIP/2.0\r\nVia: SIP/2.0/UDP x\r\n\r\n", n)))
	}
	r.settled()
	rules := make(map[string]string)
	r.eventually("all four are banned", func() bool {
		s, err := r.client.Bans(t.Context(), control.Pick{})
		if err != nil {
			t.Fatal(err)
		}
		clear(rules)
		for _, b := range s {
			rules[b.Prefix.Addr().String()] = b.Rule
		}
		return len(rules) == 4
	})
	for addr, rule := range map[string]string{"203.0.113.5": "scan", "203.0.113.6": "exploit", "203.0.113.7": "scanner", "203.0.113.9": "malformed"} {
		if rules[addr] != rule {
			t.Errorf("%s is banned by rule %q, want %s", addr, rules[addr], rule)
		}
	}
	r.problem("critical: 203.0.113.6 attacks FreeSWITCH itself", "CVE-2026-116779", "older than 1.11.3")
	r.logged("published attack on FreeSWITCH itself")
	r.metricHas("fsban_exploits_total", "advisory=CVE-2026-116779 1")
	r.metricHas("fsban_malformed_messages_total", "fault=from 40")
}

// What FreeSWITCH itself asks is no scan: its address is that of the event socket's peer.
func TestFreeSWITCHsOwnRequestsThroughTheDaemon(t *testing.T) {
	t.Parallel()
	r := tapped(t)
	scan(r, "127.0.0.1:5060", 60)
	if n := r.loop.Counted(policy.Scan); n != 0 {
		t.Errorf("%d scans by FreeSWITCH", n)
	}
}

// A login that the event socket reports makes an address known to the tap.
func TestTheTapKnowsALoginThatTheEventSocketReports(t *testing.T) {
	t.Parallel()
	r := tapped(t)
	r.login("203.0.113.5", 1)
	scan(r, "203.0.113.5:5060", 60)
	if n := r.loop.Counted(policy.Scan); n != 0 {
		t.Errorf("%d scans of an address that has logged in", n)
	}
}

// login plays a login over the event socket and waits until it is the n-th.
func (r *rig) login(addr string, n uint64) {
	r.t.Helper()
	r.fs.Emit(fakeswitch.Success, fakeswitch.Caller{Addr: netip.MustParseAddr(addr), Port: 5060, User: "1000"}, time.Now())
	r.eventually("the login is counted", func() bool { return r.loop.Counted(policy.AuthSuccess) == n })
}

// A restart of FreeSWITCH, which shows in its events, makes the nonces from before it old: answers to them are refused, and are no guesses.
func TestARestartOfFreeSWITCHReachesTheTap(t *testing.T) {
	t.Parallel()
	for restarted, want := range map[bool]uint64{false: 5, true: 0} {
		r := tapped(t)
		r.login("203.0.113.77", 1)
		const nonce = "220f24cb-90d4-4123-bf8d-ca18dced3385"
		r.mirror(asked("203.0.113.5:5060", "SUBSCRIBE", "1001", "x", "401 Unauthorized\r\nWWW-Authenticate: Digest realm=\"pbx\", nonce=\""+nonce+"\"", 0)...)
		if restarted {
			const body = "Event-Name: HEARTBEAT\nCore-UUID: another\n\n"
			r.fs.EmitRaw(fmt.Appendf(nil, "Content-Length: %d\nContent-Type: text/event-plain\n\n%s", len(body), body))
		}
		r.login("203.0.113.77", 2) // the events before it have been read
		for n := range 5 {
			agent := "x\r\nAuthorization: Digest username=\"1000\", nonce=\"" + nonce + "\", response=\"0\""
			r.mirror(asked("203.0.113.5:5060", "SUBSCRIBE", "1001", agent, "401 Unauthorized", n+1)...)
		}
		r.settled()
		r.eventually("the guesses are counted", func() bool { return r.loop.Counted(policy.AuthFailure) == want })
	}
}
