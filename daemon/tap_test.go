package daemon

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"fsban/config"
	"fsban/control"
	"fsban/internal/captures"
	"fsban/internal/fakeswitch"
	"fsban/policy"
	"fsban/sipwire"
)

// tapped starts a daemon with a tap for HEP at a port of its own.
func tapped(t testing.TB) *rig {
	t.Helper()
	fs := newSwitch(t, fakeswitch.Options{})
	cfg := configFor(t, fs)
	cfg.SIP.Tap, cfg.SIP.HEP.Listen = config.TapHEP, "127.0.0.1:0"
	cfg.CTILog.Path = config.CTILogOff
	r := start(t, fs, cfg)
	r.ready()
	r.eventually("it listens for HEP", func() bool { return r.sources.tap.hep.Load() != nil })
	return r
}

// datagrams returns recorded HEP.
func datagrams(t testing.TB, name string) (list [][]byte) {
	t.Helper()
	for r := sipwire.NewRecording(bytes.NewReader(captures.Read(t, "sip/"+name+".hep"))); ; {
		d, err := r.Next()
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, bytes.Clone(d))
	}
}

// eventFrames returns the events of a recording.
func eventFrames(t testing.TB, name string) []byte {
	t.Helper()
	_, events, found := bytes.Cut(captures.Read(t, "sip/"+name+".plain.esl"), []byte("\n\nContent-Length: "))
	if !found {
		return nil
	}
	return append([]byte("Content-Length: "), events...)
}

// mirror sends HEP datagrams to the daemon and waits until it has read them.
func (r *rig) mirror(list ...[]byte) {
	r.t.Helper()
	before := r.sources.tap.hepStats().Datagrams
	conn, err := net.Dial("udp", r.sources.tap.hep.Load().Addr().String())
	if err != nil {
		r.t.Fatal(err)
	}
	defer conn.Close()
	for _, d := range list {
		if _, err := conn.Write(d); err != nil {
			r.t.Fatal(err)
		}
	}
	r.eventually("the SIP messages are read", func() bool { return r.sources.tap.hepStats().Datagrams == before+uint64(len(list)) })
	r.sources.tap.joinStats() // the last one, too
}

// replay plays a recording: SIP messages, then the events that FreeSWITCH sent with them.
func (r *rig) replay(name string) {
	r.t.Helper()
	r.mirror(datagrams(r.t, name)...)
	if events := eventFrames(r.t, name); events != nil {
		r.fs.EmitRaw(events)
	}
	r.joined()
}

// joined waits until no failed login of the event socket waits for its proof, and everything is decided.
func (r *rig) joined() {
	r.t.Helper()
	r.settled()
	r.eventually("nothing waits for a proof", func() bool {
		r.sources.tap.mu.Lock()
		defer r.sources.tap.mu.Unlock()
		_, waits := r.sources.tap.join.Next()
		return !waits
	})
	r.settled()
}

// failures lists the failed logins of an address that count, or that led to its ban.
func (r *rig) failures(addr string) (list []string) {
	r.t.Helper()
	w, err := r.client.Why(r.t.Context(), netip.MustParseAddr(addr))
	if err != nil {
		r.t.Fatal(err)
	}
	attempts := w.Attempts
	if w.Ban != nil {
		attempts = w.Ban.Evidence
	}
	for _, a := range attempts {
		if a.Kind == policy.AuthFailure.String() {
			list = append(list, strings.TrimSpace(fmt.Sprintf("%s %s %s", a.Method, a.Transport, a.Proof)))
		}
	}
	return list
}

func TestRecordingsThroughTheDaemon(t *testing.T) {
	t.Parallel()
	times := func(n int, text string) []string { return slices.Repeat([]string{text}, n) }
	for name, test := range map[string]struct {
		addr     string
		failures []string // of whichever source came first: for two seconds after its start, each counts
		joined   string   // those of the event socket by proof
		banned   bool
	}{
		"hep-subscribe-bruteforce-one-nonce":      {"10.77.0.12", times(5, "SUBSCRIBE UDP nonce"), "", true},
		"hep-register-wrong-x5-one-nonce":         {"10.77.0.3", times(5, "REGISTER UDP nonce"), "nonce 5", true},
		"hep-invite-wrong-password":               {"10.77.0.7", times(1, "INVITE UDP nonce"), "nonce 1", false},
		"hep-tcp-register-wrong":                  {"10.77.0.16", times(1, "REGISTER TCP tcp"), "tcp 1", false},
		"hep-ws-register-and-subscribe-wrong":     {"10.77.0.17", []string{"REGISTER TCP tcp", "SUBSCRIBE TCP tcp"}, "tcp 1", false},
		"hep-ipv6-register-wrong":                 {"fd77::2", times(1, "REGISTER UDP nonce"), "nonce 1", false},
		"hep-subscribe-expired-nonce-honest":      {"10.77.0.13", nil, "", false},
		"hep-register-invented-nonce":             {"10.77.0.6", nil, "", false},
		"hep-register-success-refresh-unregister": {"10.77.0.3", nil, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := tapped(t)
			r.replay(name)
			r.eventually("the failures count", func() bool { return len(r.failures(test.addr)) >= len(test.failures) })
			r.joined()
			if got := r.failures(test.addr); !slices.Equal(got, test.failures) {
				t.Errorf("failures %q, want %q", got, test.failures)
			}
			if test.joined != "" {
				r.metricHas("fsban_sip_joined_total", "proof="+test.joined)
			}
			if got := len(r.banned()) > 0; got != test.banned {
				t.Errorf("banned %v, want %v", r.banned(), test.banned)
			}
		})
	}
}

// Forged failures are never proven, and ban nobody: three packets with the nonce of another address.
func TestForgedFailuresAreUnproven(t *testing.T) {
	t.Parallel()
	r := tapped(t)
	const recording = "hep-forged-nonce-of-another-address"
	for range 3 { // nine failures within findtime
		r.mirror(datagrams(t, recording)...)
		r.fs.EmitRaw(eventFrames(t, recording))
	}
	r.joined()
	r.metricHas("fsban_sip_joined_total", "proof=none 9")
	if got := r.metric("fsban_sip_joined_total"); !strings.Contains(got, "proof=nonce 0\n") || !strings.Contains(got, "proof=unknown 0\n") {
		t.Errorf("joined:\n%s", got)
	}
	for _, f := range r.failures("10.77.0.200") {
		if f != "REGISTER UDP none" {
			t.Errorf("failure %q", f)
		}
	}
	if got := r.banned(); len(got) > 0 {
		t.Errorf("banned %v", got)
	}
}

// When the event socket is down, the tap's failures count, and each once when both report it.
func TestTheTapTakesOverFromTheEventSocket(t *testing.T) {
	t.Parallel()
	r := tapped(t)
	const recording = "hep-register-wrong-x5-one-nonce"
	r.fs.SetFault(fakeswitch.RefusePassword)
	r.fs.End(fakeswitch.Kill)
	r.statusIs("the event socket is down", func(s control.Status) bool { return !s.Sources[0].Up })
	r.mirror(datagrams(t, recording)...)
	r.eventually("banned", func() bool { return len(r.banned()) == 1 })
	if got := r.failures("10.77.0.3"); !slices.Equal(got, slices.Repeat([]string{"REGISTER UDP nonce"}, 5)) {
		t.Errorf("failures %q", got)
	}
	r.statusIs("the tap is active", func(s control.Status) bool {
		return slices.ContainsFunc(s.Sources, func(src control.Source) bool {
			return src.Name == "sip" && src.Up && src.Messages > 0 && slices.Contains(src.ActiveFor, "auth_failure")
		})
	})
}

// A failed login whose request no tap sees waits, counts without proof, and is not lost at a stop.
func TestAFailureWithoutItsRequestCounts(t *testing.T) {
	t.Parallel()
	r := tapped(t)
	r.mirror(datagrams(t, "hep-options-svmap")...) // the tap is alive
	r.fail("192.0.2.7", 4)
	r.joined()
	if got := r.failures("192.0.2.7"); !slices.Equal(got, slices.Repeat([]string{"REGISTER"}, 4)) {
		t.Errorf("failures %q", got)
	}
	r.metricHas("fsban_sip_joined_total", "proof=unknown 4")
	r.fail("192.0.2.7", 1)
	r.eventually("banned", func() bool { return slices.Equal(r.banned(), []string{"192.0.2.7/32"}) })
}

// That the address is in use is an open problem with a remedy, and fsban protects all the same.
func TestAnAddressInUseIsAnOpenProblem(t *testing.T) {
	t.Parallel()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fs := newSwitch(t, fakeswitch.Options{})
	cfg := configFor(t, fs)
	cfg.SIP.Tap, cfg.SIP.HEP.Listen = config.TapHEP, conn.LocalAddr().String()
	r := start(t, fs, cfg)
	r.ready()
	r.problem("no SIP messages can be received", "address already in use", "sip.hep.listen")
	r.metricIs("fsban_hep_listening", "0\n")
	r.fail("192.0.2.7", 5)
	r.eventually("banned", func() bool { return slices.Equal(r.banned(), []string{"192.0.2.7/32"}) })
}

// A caller's wrong password on the wire: as HEP, a challenge, the answer to it, and its refusal.
type wrongPassword struct{ challenge, challenged, answer, refused []byte }

// onWire returns the SIP of WrongPassword as fakeswitch reports it for a caller.
func onWire(t testing.TB, frames []byte, addr netip.Addr) wrongPassword {
	t.Helper()
	header := func(name string) string {
		_, attempt, _ := bytes.Cut(frames, []byte("register_attempt"))
		_, value, found := bytes.Cut(attempt, []byte("\n"+name+": "))
		value, _, _ = bytes.Cut(value, []byte("\n"))
		if !found {
			t.Fatalf("no %s in %s", name, frames)
		}
		return string(value)
	}
	port, err := strconv.ParseUint(header("network-port"), 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	client, server := netip.AddrPortFrom(addr, uint16(port)), netip.MustParseAddrPort("192.0.2.1:5060")
	message := func(first string, cseq int, more string) string {
		return fmt.Sprintf("%s\r\nVia: SIP/2.0/UDP %v;branch=z9hG4bK%s%d;rport\r\nFrom: <sip:1000@pbx>;tag=f\r\nTo: <sip:1000@pbx>\r\nCall-ID: %s\r\n"+
			"CSeq: %d REGISTER\r\n%s\r\n", first, client, addr, cseq, header("call-id"), cseq, more)
	}
	const request = "REGISTER sip:pbx SIP/2.0"
	nonce := "n" + addr.String()
	return wrongPassword{
		challenge:  hepDatagram(client, server, message(request, 1, "")),
		challenged: hepDatagram(server, client, message("SIP/2.0 401 Unauthorized", 1, fmt.Sprintf("WWW-Authenticate: Digest realm=\"pbx\", nonce=\"%s\"\r\n", nonce))),
		answer: hepDatagram(client, server, message(request, 2, fmt.Sprintf("Authorization: Digest username=\"1000\", realm=\"pbx\", nonce=\"%s\", uri=\"sip:pbx\", "+
			"response=\"0\"\r\n", nonce))),
		refused: hepDatagram(server, client, message("SIP/2.0 403 Forbidden", 2, "")),
	}
}

// hepDatagram returns a datagram of HEP 3, of UDP over IPv4.
func hepDatagram(from, to netip.AddrPort, payload string) []byte {
	chunk := func(kind uint16, value []byte) []byte {
		b := binary.BigEndian.AppendUint16([]byte{0, 0}, kind)
		return append(binary.BigEndian.AppendUint16(b, uint16(6+len(value))), value...)
	}
	port := func(p uint16) []byte { return binary.BigEndian.AppendUint16(nil, p) }
	var body []byte
	for _, c := range [][]byte{
		chunk(1, []byte{2}), chunk(2, []byte{17}), chunk(3, from.Addr().AsSlice()), chunk(4, to.Addr().AsSlice()), chunk(7, port(from.Port())),
		chunk(8, port(to.Port())), chunk(11, []byte{1}), chunk(15, []byte(payload)),
	} {
		body = append(body, c...)
	}
	return append(binary.BigEndian.AppendUint16([]byte("HEP3"), uint16(6+len(body))), body...)
}
