package sipwire

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

var (
	phone     = netip.MustParseAddrPort("198.51.100.9:40000")
	registrar = netip.MustParseAddrPort("192.0.2.1:5060")
	epoch     = time.Unix(1796060023, 0)
)

// frame returns an Ethernet frame with layers, the last of which is the payload.
func frame(t testing.TB, parts ...gopacket.SerializableLayer) []byte {
	t.Helper()
	b := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true}, parts...); err != nil {
		t.Fatal(err)
	}
	return bytes.Clone(b.Bytes())
}

func ethernet(kind layers.EthernetType) *layers.Ethernet {
	return &layers.Ethernet{SrcMAC: make(net.HardwareAddr, 6), DstMAC: make(net.HardwareAddr, 6), EthernetType: kind}
}

func ip4(from, to netip.AddrPort, proto layers.IPProtocol) *layers.IPv4 {
	return &layers.IPv4{Version: 4, TTL: 64, Protocol: proto, SrcIP: from.Addr().AsSlice(), DstIP: to.Addr().AsSlice()}
}

func udp(from, to netip.AddrPort) *layers.UDP {
	return &layers.UDP{SrcPort: layers.UDPPort(from.Port()), DstPort: layers.UDPPort(to.Port())}
}

func udpFrame(t testing.TB, text string) []byte {
	return frame(t, ethernet(layers.EthernetTypeIPv4), ip4(phone, registrar, layers.IPProtocolUDP), udp(phone, registrar), gopacket.Payload(text))
}

func tcpFrame(t testing.TB, seq uint32, text string, flags string) []byte {
	tcp := &layers.TCP{
		SrcPort: layers.TCPPort(phone.Port()), DstPort: layers.TCPPort(registrar.Port()), Seq: seq, SYN: strings.Contains(flags, "S"), FIN: strings.Contains(flags, "F"),
		RST: strings.Contains(flags, "R"), ACK: true, Window: 1000,
	}
	return frame(t, ethernet(layers.EthernetTypeIPv4), ip4(phone, registrar, layers.IPProtocolTCP), tcp, gopacket.Payload(text))
}

// texts returns the payloads of all packets that frames give.
func texts(a *Assembler, frames ...[]byte) (list []string) {
	for _, f := range frames {
		for _, p := range a.Frame(LinkEthernet, f, epoch) {
			list = append(list, string(p.Payload))
		}
	}
	return list
}

func TestFramesOfEachKind(t *testing.T) {
	six := netip.MustParseAddrPort("[2001:db8::9]:40000")
	ip6 := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolUDP, SrcIP: six.Addr().AsSlice(), DstIP: six.Addr().AsSlice()}
	plain := udpFrame(t, request)
	for name, tc := range map[string]struct {
		link  int
		frame []byte
		from  netip.AddrPort
	}{
		"Ethernet":          {LinkEthernet, plain, phone},
		"IPv6":              {LinkEthernet, frame(t, ethernet(layers.EthernetTypeIPv6), ip6, udp(six, six), gopacket.Payload(request)), six},
		"padded":            {LinkEthernet, append(bytes.Clone(plain), 0, 0, 0, 0), phone},
		"VLAN":              {LinkEthernet, append(append(bytes.Clone(plain[:12]), 0x81, 0, 0, 7), plain[12:]...), phone},
		"VLAN in VLAN":      {LinkEthernet, append(append(bytes.Clone(plain[:12]), 0x88, 0xa8, 0, 7, 0x81, 0, 0, 8), plain[12:]...), phone},
		"raw":               {LinkRaw, plain[14:], phone},
		"cooked":            {LinkSLL, append(append(make([]byte, 14), 8, 0), plain[14:]...), phone},
		"cooked, version 2": {LinkSLL2, append(append([]byte{8, 0}, make([]byte, 18)...), plain[14:]...), phone},
		"loopback":          {LinkNull, append([]byte{2, 0, 0, 0}, plain[14:]...), phone},
	} {
		a := NewAssembler()
		got := a.Frame(tc.link, tc.frame, epoch)
		if len(got) != 1 || got[0].From != tc.from || got[0].Transport != UDP || string(got[0].Payload) != request || !got[0].At.Equal(epoch) {
			t.Errorf("%s: %v", name, got)
		}
	}
	a := NewAssembler()
	for n := range plain {
		if got := a.Frame(LinkEthernet, plain[:n], epoch); len(got) > 0 {
			t.Errorf("%d bytes: %v", n, got)
		}
	}
	if got := texts(a, udpFrame(t, "\x80\x00media"), udpFrame(t, "")); len(got) > 0 {
		t.Errorf("%q", got)
	}
}

// fragmentsOf returns the IP fragments of a UDP datagram.
func fragmentsOf(t testing.TB, id uint16, text string, size int) (list [][]byte) {
	whole := udpFrame(t, text)[34:]
	for at := 0; at < len(whole); at += size {
		ip := ip4(phone, registrar, layers.IPProtocolUDP)
		ip.Id, ip.FragOffset = id, uint16(at/8)
		end := min(at+size, len(whole))
		if end < len(whole) {
			ip.Flags = layers.IPv4MoreFragments
		}
		list = append(list, frame(t, ethernet(layers.EthernetTypeIPv4), ip, gopacket.Payload(whole[at:end])))
	}
	return list
}

func TestFragmentsInAnyOrder(t *testing.T) {
	long := request + "X: " + strings.Repeat("x", 2000) + "\r\n\r\n"
	random := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		parts := fragmentsOf(t, 7, long, 8*(1+random.IntN(100)))
		if len(parts) > maxFragments {
			continue
		}
		random.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
		if got := texts(NewAssembler(), parts...); len(got) != 1 || got[0] != long {
			t.Fatalf("%d fragments: %d packets", len(parts), len(got))
		}
	}
	parts := fragmentsOf(t, 7, long, 800)
	a := NewAssembler()
	if got := texts(a, parts[0], parts[0], parts[1], parts[2]); len(got) != 0 || a.Stats().Dropped == 0 {
		t.Errorf("a fragment that overlaps: %d packets, %+v", len(got), a.Stats())
	}
	a = NewAssembler()
	for id := range uint16(maxFragmented + 10) {
		texts(a, fragmentsOf(t, id, long, 800)[0])
	}
	if len(a.fragments.waiting) != maxFragmented || a.Stats().Dropped != 10 {
		t.Errorf("%d wait, %+v", len(a.fragments.waiting), a.Stats())
	}
	late := fragmentsOf(t, 1, long, 800)
	a = NewAssembler()
	texts(a, late[0])
	if got := a.Frame(LinkEthernet, late[1], epoch.Add(time.Hour)); len(got) != 0 || len(a.fragments.waiting) != 1 {
		t.Errorf("%v", got)
	}
}

// message returns a message of TCP with a body.
func message(n int, body string) string {
	return fmt.Sprintf("%sX: %d\r\nContent-Length: %d\r\n\r\n%s", request, n, len(body), body)
}

func TestStreamsInAnyPieces(t *testing.T) {
	var stream strings.Builder
	var want []string
	for i := range 20 {
		text := message(i, strings.Repeat("INVITE sip:x SIP/2.0\r\n\r\n", i%3))
		want = append(want, text)
		stream.WriteString(text + strings.Repeat("\r\n\r\n", i%2))
	}
	all := stream.String()
	random := rand.New(rand.NewPCG(3, 4))
	for range 100 {
		frames := [][]byte{tcpFrame(t, 99, "", "S")}
		for at := 0; at < len(all); {
			end := min(len(all), at+1+random.IntN(700))
			frames = append(frames, tcpFrame(t, 100+uint32(at), all[at:end], ""))
			if random.IntN(3) == 0 { // again
				from := max(0, at-random.IntN(300))
				frames = append(frames, tcpFrame(t, 100+uint32(from), all[from:end], ""))
			}
			at = end
		}
		for i := 1; i+1 < len(frames); i++ { // out of order, a little
			if random.IntN(4) == 0 {
				frames[i], frames[i+1] = frames[i+1], frames[i]
			}
		}
		a := NewAssembler()
		if got := texts(a, frames...); strings.Join(got, "|") != strings.Join(want, "|") {
			t.Fatalf("%d messages of %d", len(got), len(want))
		}
		texts(a, tcpFrame(t, 100+uint32(len(all)), "", "F"))
		if len(a.streams) != 0 || a.buffered != 0 || a.idle.Len() != 0 {
			t.Fatalf("%d streams with %d bytes after their end", len(a.streams), a.buffered)
		}
	}
}

func TestAStreamGoesOnAfterALoss(t *testing.T) {
	first, second := message(1, "a"), message(2, "b")
	for name, frames := range map[string][][]byte{
		"in the middle of a connection": {tcpFrame(t, 5000, "rest of a header\r\n\r\n", ""), tcpFrame(t, 5020, first, "")},
		"a gap":                         {tcpFrame(t, 5000, second[:50], ""), tcpFrame(t, 5000+MaxMessage+200, first, "")},
		"the port again":                {tcpFrame(t, 5000, second[:50], ""), tcpFrame(t, 9, "", "S"), tcpFrame(t, 10, first, "")},
		"a reset":                       {tcpFrame(t, 5000, second[:50], ""), tcpFrame(t, 5050, "", "R"), tcpFrame(t, 1, first, "")},
		"another protocol":              {tcpFrame(t, 5000, "GET / HTTP/1.1\r\n\r\n", ""), tcpFrame(t, 5018, first, "")},
		"a body too long":               {tcpFrame(t, 5000, request+"l: 99999\r\n\r\n", ""), tcpFrame(t, 5000+uint32(len(request+"l: 99999\r\n\r\n")), first, "")},
	} {
		if got := texts(NewAssembler(), frames...); len(got) != 1 || got[0] != first {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestStreamsAreBounded(t *testing.T) {
	a := NewAssembler()
	for port := range uint16(maxStreams + 100) {
		tcp := &layers.TCP{SrcPort: layers.TCPPort(1000 + port), DstPort: 5060, Seq: 1, ACK: true}
		f := frame(t, ethernet(layers.EthernetTypeIPv4), ip4(phone, registrar, layers.IPProtocolTCP), tcp, gopacket.Payload(request+strings.Repeat("x", 40_000)))
		a.Frame(LinkEthernet, f, epoch)
	}
	if len(a.streams) > maxStreams || a.buffered > maxBuffered || a.buffered < maxBuffered/2 || len(a.streams) != a.idle.Len() || a.Stats().Dropped == 0 {
		t.Errorf("%d streams, %d bytes, %+v", len(a.streams), a.buffered, a.Stats())
	}
	a = NewAssembler()
	for i := range uint32(3 * maxHeld) {
		texts(a, tcpFrame(t, 1000*i*i, "x", ""))
	}
	if held := len(a.idle.Front().Value.(*stream).held); held > maxHeld {
		t.Errorf("%d segments held", held)
	}
}

// FuzzAssembler: frames of any bytes, cut from one string, are read; each message begins with a start line, and nothing grows beyond its bound.
func FuzzAssembler(f *testing.F) {
	f.Add(udpFrame(f, request), uint8(200))
	f.Add(append(tcpFrame(f, 1, request, ""), tcpFrame(f, 1+uint32(len(request)), "\r\n", "")...), uint8(54))
	for _, part := range fragmentsOf(f, 1, request, 80) {
		f.Add(part, uint8(255))
	}
	f.Fuzz(func(t *testing.T, data []byte, size uint8) {
		a := NewAssembler()
		for at := epoch; len(data) > 0; at = at.Add(time.Second) {
			n := min(len(data), int(size)+20)
			for _, link := range []int{LinkEthernet, LinkRaw, LinkSLL, LinkSLL2, LinkNull} {
				for _, p := range a.Frame(link, data[:n], at) {
					if !isMessage(p.Payload) || len(p.Payload) > MaxMessage {
						t.Fatalf("%q", p.Payload)
					}
				}
			}
			data = data[n:]
		}
		buffered := 0
		for _, e := range a.streams {
			buffered += e.Value.(*stream).size
		}
		if buffered != a.buffered || len(a.streams) != a.idle.Len() {
			t.Fatalf("%d bytes counted, %d are there", a.buffered, buffered)
		}
	})
}

// FuzzStream: the messages of a stream do not depend on its segments.
func FuzzStream(f *testing.F) {
	f.Add([]byte(message(1, "abc")+"\r\n\r\n"+message(2, "")), []byte{5, 100, 3})
	f.Add([]byte(request+"\rx"), []byte{1})
	f.Fuzz(func(t *testing.T, data, cuts []byte) {
		if len(data) > 10_000 {
			return
		}
		in := func(cuts []byte) (list []string) {
			a := NewAssembler()
			a.Frame(LinkEthernet, tcpFrame(t, 0, "", "S"), epoch)
			for at := 0; at < len(data); {
				n := len(data)
				if len(cuts) > 0 {
					n = 1 + int(cuts[0])
					cuts = cuts[1:]
				}
				end := min(len(data), at+n)
				list = append(list, texts(a, tcpFrame(t, 1+uint32(at), string(data[at:end]), ""))...)
				at = end
			}
			return list
		}
		if whole, cut := strings.Join(in(nil), "|"), strings.Join(in(cuts), "|"); whole != cut {
			t.Fatalf("%q as one, %q in segments", whole, cut)
		}
	})
}

// The bound on all streams counts the bytes in use: an empty stream keeps little more allocated.
func TestAnEmptyStreamKeepsLittleMemory(t *testing.T) {
	long := "INVITE sip:1@example.com SIP/2.0\r\nX: " + strings.Repeat("x", 50_000)
	for name, end := range map[string]string{"message": "\r\n\r\n", "noise": "\r\n\r\n" + strings.Repeat("y", maxLine)} {
		a := NewAssembler()
		texts(a, tcpFrame(t, 1, long, ""), tcpFrame(t, 1+uint32(len(long)), end, ""))
		st := a.idle.Front().Value.(*stream)
		if len(st.buffer) != 0 || cap(st.buffer) > maxSpare || a.buffered != 0 {
			t.Errorf("%s: %d bytes in use, %d allocated, %d counted", name, len(st.buffer), cap(st.buffer), a.buffered)
		}
	}
}

// A slow sender costs no more than its bytes: a header is read once, and not again for each segment of the body.
func TestTheHeaderOfASlowSenderIsReadOnce(t *testing.T) {
	text := message(1, "body")
	begin := len(text) - len("body")
	a := NewAssembler()
	if got := texts(a, tcpFrame(t, 1, text[:begin], "")); len(got) != 0 {
		t.Fatalf("%q", got)
	}
	st := a.idle.Front().Value.(*stream)
	for i := range st.buffer { // whatever stands there now is not read
		st.buffer[i] = 'x'
	}
	for i := begin; i < len(text); i++ {
		got := texts(a, tcpFrame(t, 1+uint32(i), text[i:i+1], ""))
		if last := i == len(text)-1; last != (len(got) == 1) || last && len(got[0]) != len(text) {
			t.Fatalf("byte %d of %d: %q", i, len(text), got)
		}
	}
}

// The kernel merges datagrams of one sender if a network card or a tunnel asks for it (UDP GRO).
func TestMergedDatagramsAreSplit(t *testing.T) {
	plain := "l: 0\r\n\r\n"
	for name, tc := range map[string]struct{ payload, want string }{
		"three":                   {request + plain + request + plain + request + plain, request + plain + "|" + request + plain + "|" + request + plain},
		"with bodies":             {message(1, "abc") + message(2, "def"), message(1, "abc") + "|" + message(2, "def")},
		"a message as a body":     {message(1, message(2, "x")), message(1, message(2, "x"))},
		"a body of unknown size":  {request + "\r\n" + request + "\r\n", request + "\r\n" + request + "\r\n"},
		"something else after it": {message(1, "abc") + "\x80\x00media", message(1, "abc") + "\x80\x00media"},
	} {
		if got := strings.Join(texts(NewAssembler(), udpFrame(t, tc.payload)), "|"); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}
