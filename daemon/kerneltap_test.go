package daemon

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"fsban/config"
	"fsban/control"
	"fsban/firewall"
	"fsban/internal/fakeswitch"
	"fsban/internal/kerneltest"
	"fsban/internal/netns"
	"fsban/policy"
	"fsban/sipwire/nflog"
)

func TestPortsOfRunningProfiles(t *testing.T) {
	profile := func(data, state string) string {
		return "<profile>\n<name>internal</name>\n<type>profile</type>\n<data>" + data + "</data>\n<state>" + state + "</state>\n</profile>\n"
	}
	many := ""
	for port := range 40 {
		many += profile(fmt.Sprintf("sip:mod_sofia@192.0.2.1:%d", 6000+port), "RUNNING (0)")
	}
	for name, tc := range map[string]struct {
		reply string
		want  string
	}{
		"vanilla": {profile("sip:mod_sofia@192.0.2.1:5080", "RUNNING (0)") + "<alias>\n<name>a</name>\n<type>alias</type>\n<data>internal</data>\n<state>ALIASED</state>\n</alias>\n" +
			profile("sip:mod_sofia@192.0.2.1:5060", "RUNNING (3)"), "[udp/5060 tcp/5060 udp/5080 tcp/5080]"},
		"IPv6 on the same port": {profile("sip:mod_sofia@192.0.2.1:5060", "RUNNING (0)") + profile("sip:mod_sofia@[2001:db8::1]:5060", "RUNNING (0)"), "[udp/5060 tcp/5060]"},
		"the usual port":        {profile("sip:mod_sofia@[2001:db8::1]", "RUNNING (0)"), "[udp/5060 tcp/5060]"},
		"TLS":                   {profile("sips:mod_sofia@192.0.2.1:5061", "RUNNING (0) (TLS)"), "[]"},
		"down":                  {profile("sip:mod_sofia@192.0.2.1:5060", "DOWN"), "[]"},
		"no ports":              {profile("sip:mod_sofia@192.0.2.1:0", "RUNNING (0)") + profile("sip:mod_sofia@192.0.2.1:99999", "RUNNING (0)"), "[]"},
		"an error":              {"-ERR sofia Command not found!\n", "[]"},
	} {
		if got := fmt.Sprint(profilePorts([]byte(tc.reply))); got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
	if got := profilePorts([]byte(many)); len(got) != firewall.MaxTapPorts {
		t.Errorf("%d ports", len(got))
	}
}

// A registrar answers every request without credentials with a challenge, and every one with credentials as FreeSWITCH answers a wrong
// password of SUBSCRIBE: with a bare 401. Its parts run until the test ends.
type registrar struct {
	t      testing.TB
	mirror func(from, to netip.AddrPort, text []byte) // nil: none

	mu     sync.Mutex
	nonces int
}

// answer returns the answer to a request.
func (s *registrar) answer(request []byte) []byte {
	var b bytes.Buffer
	b.WriteString("SIP/2.0 401 Unauthorized\r\n")
	credentials := false
	for line := range strings.Lines(string(request)) {
		name, _, _ := strings.Cut(line, ":")
		switch name {
		case "Via", "From", "To", "Call-ID", "CSeq":
			b.WriteString(line)
		case "Authorization":
			credentials = true
		}
	}
	if !credentials {
		s.mu.Lock()
		s.nonces++
		fmt.Fprintf(&b, "WWW-Authenticate: Digest realm=\"pbx\", nonce=\"nonce-%d\", algorithm=MD5, qop=\"auth\"\r\n", s.nonces)
		s.mu.Unlock()
	}
	b.WriteString("Content-Length: 0\r\n\r\n")
	return b.Bytes()
}

func (s *registrar) udp(address string) {
	s.t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(address)))
	if err != nil {
		s.t.Fatal(err)
	}
	done := make(chan struct{})
	s.t.Cleanup(func() { _ = conn.Close(); <-done })
	go func() {
		defer close(done)
		buffer := make([]byte, 1<<16)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buffer)
			if err != nil {
				return
			}
			answer, self := s.answer(buffer[:n]), netip.MustParseAddrPort(address)
			_, _ = conn.WriteToUDPAddrPort(answer, from)
			if s.mirror != nil {
				s.mirror(netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), self, buffer[:n])
				s.mirror(self, netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), answer)
			}
		}
	}()
}

func (s *registrar) tcp(address string) {
	s.t.Helper()
	listener, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.MustParseAddrPort(address)))
	if err != nil {
		s.t.Fatal(err)
	}
	var conns sync.WaitGroup
	done := make(chan struct{})
	var open []net.Conn // the end of a banned client's connection does not arrive
	s.t.Cleanup(func() {
		_ = listener.Close()
		<-done
		for _, conn := range open {
			_ = conn.Close()
		}
		conns.Wait()
	})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			open = append(open, conn)
			conns.Go(func() {
				for r := bufio.NewReader(conn); ; {
					request, err := readMessage(r)
					if err != nil {
						return
					}
					if _, err := conn.Write(s.answer(request)); err != nil {
						return
					}
				}
			})
		}
	}()
}

// readMessage reads a message without a body.
func readMessage(r *bufio.Reader) (message []byte, err error) {
	for {
		line, err := r.ReadBytes('\n')
		message = append(message, line...)
		if err != nil || len(line) == 2 {
			return message, err
		}
	}
}

// A wireGuesser tries passwords with SUBSCRIBE.
type wireGuesser struct {
	t     testing.TB
	conn  net.Conn
	r     *bufio.Reader
	calls int
	nonce string
}

// guess sends a guess and reads its answer; the first fetches a nonce before.
func (g *wireGuesser) guess() {
	g.t.Helper()
	if g.nonce == "" {
		_, g.nonce, _ = strings.Cut(g.send(""), `nonce="`)
		if g.nonce, _, _ = strings.Cut(g.nonce, `"`); g.nonce == "" {
			g.t.Fatal("no challenge")
		}
	}
	g.send(fmt.Sprintf("Authorization: Digest username=\"1000\", realm=\"pbx\", nonce=\"%s\", uri=\"sip:1000@pbx\", response=\"%032x\"\r\n", g.nonce, g.calls))
}

func (g *wireGuesser) send(credentials string) string {
	g.t.Helper()
	g.calls++
	request := fmt.Sprintf("SUBSCRIBE sip:1000@pbx SIP/2.0\r\nVia: SIP/2.0/X %v;branch=z9hG4bK%d;rport\r\nFrom: <sip:1000@pbx>;tag=1\r\nTo: <sip:1000@pbx>\r\n"+
		"Call-ID: %v\r\nCSeq: %d SUBSCRIBE\r\nEvent: presence\r\n%sContent-Length: 0\r\n\r\n", g.conn.LocalAddr(), g.calls, g.conn.LocalAddr(), g.calls, credentials)
	if _, err := g.conn.Write([]byte(request)); err != nil {
		g.t.Fatal(err)
	}
	if g.r == nil {
		g.r = bufio.NewReaderSize(g.conn, 1<<16)
	}
	answer, err := readMessage(g.r)
	if err != nil && !errors.Is(err, io.EOF) {
		g.t.Fatal(err)
	}
	return string(answer)
}

// tapConfig is a configuration with the taps in a mode. FreeSWITCH reports nothing, as it does not for SUBSCRIBE.
func tapConfig(t *testing.T, fs *fakeswitch.Switch, backend, mode string) config.Config {
	cfg := kernelConfig(t, fs)
	cfg.Firewall.Backend, cfg.SIP.Tap, cfg.SIP.HEP.Listen, cfg.CTILog.Path = backend, mode, "127.0.0.1:9060", config.CTILogOff
	return cfg
}

// wireFailures reports whether that many failed logins were seen on the wire.
func (r *rig) wireFailures(n int) bool {
	return strings.Contains(r.metric("fsban_attempts_total"), fmt.Sprintf("kind=auth_failure source=%s %d\n", policy.SIP, n))
}

func (r *rig) banCount() int { return len(r.banned()) }

// A guesser of passwords with SUBSCRIBE, which FreeSWITCH does not report, is banned at the fifth guess: real packets between two
// namespaces, the real packet filter, no capture by FreeSWITCH.
func TestSubscribeGuessesAreBannedByTheKernelTap(t *testing.T) {
	for _, backend := range []string{config.BackendIPTables, config.BackendNFTables} {
		t.Run(backend, func(t *testing.T) {
			netns.Run(t, func(t *testing.T) {
				there := kerneltest.Beside(t, []string{"203.0.113.1/24", "2001:db8::1/64"}, []string{"203.0.113.7/24", "203.0.113.8/24", "2001:db8::7/64"})
				pbx := &registrar{t: t}
				pbx.udp("203.0.113.1:5060")
				pbx.udp("[2001:db8::1]:5060")
				pbx.tcp("203.0.113.1:5060")
				fs := newSwitch(t, fakeswitch.Options{})
				r := start(t, fs, tapConfig(t, fs, backend, config.TapAuto))
				r.ready()
				r.eventually("the kernel tap is up", func() bool { return r.sources.tap.kernel.up() })
				dial := func(network, from, to string) net.Conn {
					var conn net.Conn
					there(func() (err error) {
						if network == "tcp" {
							conn, err = net.DialTCP("tcp", &net.TCPAddr{IP: net.ParseIP(from)}, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(to)))
						} else {
							conn, err = net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(from)}, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to)))
						}
						return err
					})
					t.Cleanup(func() { _ = conn.Close() })
					return conn
				}
				total := 0
				for _, way := range [][3]string{{"udp", "203.0.113.7", "203.0.113.1:5060"}, {"udp", "2001:db8::7", "[2001:db8::1]:5060"}, {"tcp", "203.0.113.8", "203.0.113.1:5060"}} {
					bans := r.banCount()
					g := &wireGuesser{t: t, conn: dial(way[0], way[1], way[2])}
					for n := range 5 {
						if now := r.banCount(); now != bans {
							t.Fatalf("%v: banned after %d guesses", way, n)
						}
						g.guess()
						total++
						r.eventually("the failure is counted", func() bool { return r.wireFailures(total) })
					}
					r.eventually("banned", func() bool { return r.banCount() == bans+1 && r.inForce(bans+1) })
				}
				if stats := r.sources.tap.kernel.stats(); stats.Lost+stats.Dropped+stats.Malformed > 0 {
					t.Errorf("%+v", stats)
				}
				if r.sources.tap.hep.Load() != nil {
					t.Error("it listens for HEP, although the kernel copies SIP")
				}
			}, "iptables", "ip6tables", "ipset", "nft", "ip")
		})
	}
}

// hep3 returns a HEP datagram, with the addresses of IPv6 left out as mod_sofia does.
func hep3(from, to netip.AddrPort, text []byte) []byte {
	var chunks []byte
	chunk := func(kind uint16, value []byte) {
		chunks = binary.BigEndian.AppendUint16(chunks, 0)
		chunks = binary.BigEndian.AppendUint16(chunks, kind)
		chunks = binary.BigEndian.AppendUint16(chunks, uint16(6+len(value)))
		chunks = append(chunks, value...)
	}
	chunk(1, []byte{2})
	if from.Addr().Is4() {
		chunk(3, from.Addr().AsSlice())
		chunk(4, to.Addr().AsSlice())
	} else {
		chunks[len(chunks)-1] = 10
		chunk(5, make([]byte, 16))
		chunk(6, make([]byte, 16))
	}
	chunk(2, []byte{17})
	chunk(7, binary.BigEndian.AppendUint16(nil, from.Port()))
	chunk(8, binary.BigEndian.AppendUint16(nil, to.Port()))
	chunk(11, []byte{1})
	chunk(15, text)
	return append(binary.BigEndian.AppendUint16([]byte("HEP3"), uint16(6+len(chunks))), chunks...)
}

func TestAMessageThatBothTapsSeeCountsOnce(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		assignAll(t, "203.0.113.1/32", "203.0.113.7/32", "2001:db8::1/128", "2001:db8::7/128")
		fs := newSwitch(t, fakeswitch.Options{})
		r := start(t, fs, tapConfig(t, fs, config.BackendIPTables, config.TapBoth))
		r.ready()
		r.eventually("both taps are up", func() bool { return r.sources.tap.kernel.up() && r.sources.tap.hep.Load() != nil })
		collector, err := net.Dial("udp", "127.0.0.1:9060")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = collector.Close() }()
		mirrored := 0
		pbx := &registrar{t: t, mirror: func(from, to netip.AddrPort, text []byte) { _, _ = collector.Write(hep3(from, to, text)) }}
		pbx.udp("203.0.113.1:5060")
		pbx.udp("[2001:db8::1]:5060")
		for i, way := range [][2]string{{"203.0.113.7", "203.0.113.1:5060"}, {"2001:db8::7", "[2001:db8::1]:5060"}} {
			conn, err := net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(way[0])}, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(way[1])))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			g := &wireGuesser{t: t, conn: conn}
			for range 4 {
				g.guess()
			}
			mirrored += 2 * g.calls
			r.eventually("the failures are counted", func() bool { return r.wireFailures(4 * (i + 1)) })
		}
		r.eventually("all HEP is read", func() bool { return r.sources.tap.hepStats().Datagrams == uint64(mirrored) })
		r.sources.tap.joinStats() // the last one, too
		if n := r.banCount(); n > 0 || !r.wireFailures(8) {
			t.Errorf("%d bans after four guesses each: %s", n, r.metric("fsban_attempts_total"))
		}
	}, "iptables", "ip6tables", "ipset")
}

func assignAll(t testing.TB, prefixes ...string) {
	t.Helper()
	for _, p := range prefixes {
		if err := netns.Assign(netip.MustParsePrefix(p)); err != nil {
			t.Fatal(err)
		}
	}
}

// The rules follow the ports of FreeSWITCH's profiles, and sip.ports if it names some.
func TestTheKernelTapFollowsTheProfiles(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		fs := newSwitch(t, fakeswitch.Options{})
		fs.SetReply("sofia xmlstatus", "<profile>\n<name>internal</name>\n<type>profile</type>\n<data>sip:mod_sofia@192.0.2.1:5090</data>\n<state>RUNNING (0)</state>\n</profile>\n")
		cfg := tapConfig(t, fs, config.BackendIPTables, config.TapNFLOG)
		r, file := startFile(t, fs, cfg)
		copied := func(port string) bool {
			return r.sources.tap.kernel.up() && strings.Contains(kerneltest.Command(t, "iptables -S FSBAN-TAP-IN"), "--dport "+port+" ")
		}
		r.eventually("the port of the profile is copied", func() bool { return copied("5090") })
		file.set(func(cfg *config.Config) { cfg.SIP.Ports = []string{"udp/7000-7010"} })
		r.reload()
		r.eventually("the configured ports are copied", func() bool { return copied("7000:7010") && !copied("5090") })
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}
		cfg.SIP.Tap = config.TapOff
		again := start(t, fs, cfg)
		again.ready()
		again.eventually("the rules are gone", func() bool { return !strings.Contains(kerneltest.Command(t, "iptables -S"), "FSBAN-TAP") })
	}, "iptables", "ip6tables", "ipset")
}

// An fsban that watches makes no rules: with auto it listens for HEP instead. A group that another program has is an open problem.
func TestWhereTheKernelTapCannotWork(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		fs := newSwitch(t, fakeswitch.Options{})
		cfg := tapConfig(t, fs, config.BackendIPTables, config.TapAuto)
		cfg.Firewall.Enforce = false
		r := start(t, fs, cfg)
		r.eventually("connected", r.connected)
		r.eventually("it listens for HEP", func() bool { return r.sources.tap.hep.Load() != nil })
		if rules := kerneltest.Command(t, "iptables -S"); strings.Contains(rules, "FSBAN") {
			t.Errorf("rules although it watches:\n%s", rules)
		}
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}

		cfg.SIP.Tap = config.TapNFLOG
		r = start(t, fs, cfg)
		r.eventually("connected", r.connected)
		r.problem("sip.tap is nflog", "watches")
		if err := r.stop(); err != nil {
			t.Fatal(err)
		}

		other := occupy(t)
		cfg.Firewall.Enforce = true
		r = start(t, fs, cfg)
		r.ready()
		r.problem("SIP is not read from the kernel", "another program receives this NFLOG group")
		if rules := kerneltest.Command(t, "iptables -S"); strings.Contains(rules, "FSBAN-TAP") {
			t.Errorf("rules without a reader:\n%s", rules)
		}
		_ = other.Close()
		r.eventually("the kernel tap is up", func() bool { return r.sources.tap.kernel.up() })
		r.noProblem("SIP is not read")
		if !slices.ContainsFunc(r.sources.status(), func(s control.Source) bool { return strings.Contains(s.Address, "nflog udp/5060") && s.Up }) {
			t.Errorf("status: %+v", r.sources.status())
		}
	}, "iptables", "ip6tables", "ipset")
}

// occupy takes the tap's group, as another program does.
func occupy(t testing.TB) *nflog.Reader {
	t.Helper()
	other, err := nflog.Open(nflog.Options{Group: tapGroup})
	if err != nil {
		t.Fatal(err)
	}
	return other
}
