package replay

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"

	"fsban/internal/captures"
	"fsban/sipwire"
)

const (
	guessesOfSubscribe = "sip/hep-subscribe-bruteforce-one-nonce.hep"
	guessesOfRegister  = "sip/hep-register-wrong-x5-one-nonce"
	forgeries          = "sip/hep-forged-nonce-of-another-address"
)

// packetsOf returns the SIP messages of recorded HEP.
func packetsOf(t *testing.T, name string) (packets []sipwire.Packet) {
	t.Helper()
	f := &hepFile{sipwire.NewRecording(bytes.NewReader(captures.Read(t, name)))}
	for {
		p, err := f.next()
		if err != nil {
			return packets
		}
		p.Payload = bytes.Clone(p.Payload)
		packets = append(packets, p)
	}
}

// A capturer writes a capture.
type capturer interface {
	WritePacket(ci gopacket.CaptureInfo, data []byte) error
}

// captured writes packets as a capture: over UDP or TCP, which begins in the middle of connections.
func captured(t *testing.T, packets []sipwire.Packet, open func(w io.Writer) capturer, tcp bool) []byte {
	t.Helper()
	var file bytes.Buffer
	w := open(&file)
	next := make(map[netip.AddrPort]uint32)
	for _, p := range packets {
		eth := &layers.Ethernet{SrcMAC: make(net.HardwareAddr, 6), DstMAC: make(net.HardwareAddr, 6), EthernetType: layers.EthernetTypeIPv4}
		ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: p.From.Addr().AsSlice(), DstIP: p.To.Addr().AsSlice()}
		pieces := [][]byte{p.Payload}
		if tcp {
			pieces = [][]byte{p.Payload[:100], p.Payload[100:]}
		}
		for _, piece := range pieces {
			b := gopacket.NewSerializeBuffer()
			var transport gopacket.SerializableLayer = &layers.UDP{SrcPort: layers.UDPPort(p.From.Port()), DstPort: layers.UDPPort(p.To.Port())}
			if tcp {
				ip.Protocol = layers.IPProtocolTCP
				transport = &layers.TCP{SrcPort: layers.TCPPort(p.From.Port()), DstPort: layers.TCPPort(p.To.Port()), Seq: next[p.From], ACK: true}
				next[p.From] += uint32(len(piece))
			}
			if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true}, eth, ip, transport, gopacket.Payload(piece)); err != nil {
				t.Fatal(err)
			}
			if err := w.WritePacket(gopacket.CaptureInfo{Timestamp: p.At, CaptureLength: len(b.Bytes()), Length: len(b.Bytes())}, b.Bytes()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if ng, ok := w.(*pcapgo.NgWriter); ok {
		if err := ng.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	return file.Bytes()
}

func pcapOf(t *testing.T, packets []sipwire.Packet, tcp bool) []byte {
	return captured(t, packets, func(w io.Writer) capturer {
		p := pcapgo.NewWriter(w)
		if err := p.WriteFileHeader(65535, layers.LinkTypeEthernet); err != nil {
			t.Fatal(err)
		}
		return p
	}, tcp)
}

func pcapngOf(t *testing.T, packets []sipwire.Packet) []byte {
	return captured(t, packets, func(w io.Writer) capturer {
		p, err := pcapgo.NewNgWriter(w, layers.LinkTypeEthernet)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}, false)
}

// Guesses with SUBSCRIBE, which FreeSWITCH does not report, are banned at the fifth, in every kind of recording.
func TestGuessesOfSubscribeAreBanned(t *testing.T) {
	hep, packets := captures.Read(t, guessesOfSubscribe), packetsOf(t, guessesOfSubscribe)
	half := len(packets) / 2
	for name, recordings := range map[string]map[string][]byte{
		"HEP":                        {"a": hep},
		"HEP, gzipped":               {"a": gzipped(t, hep)},
		"pcap":                       {"a": pcapOf(t, packets, false)},
		"pcap, gzipped":              {"a": gzipped(t, pcapOf(t, packets, false))},
		"pcap of TCP":                {"a": pcapOf(t, packets, true)},
		"pcapng":                     {"a": pcapngOf(t, packets)},
		"HEP and pcap":               {"a": hep, "b": pcapOf(t, packets, false)},
		"two captures":               {"a": pcapOf(t, packets[:half], false), "b": pcapngOf(t, packets[half:])},
		"HEP beside a log":           {"a": hep, "b": []byte(ctiLine(netip.MustParseAddr("192.0.2.9"), "1000", packets[0].At))},
		"HEP beside an event socket": {"a": hep, "b": captures.Read(t, "sip/hep-register-wrong-x5-one-nonce.plain.esl")},
	} {
		r := run(t, testConfig(), Options{}, recordings)
		var bans []string
		for _, b := range r.Bans {
			if b.Prefix.Addr() == netip.MustParseAddr("10.77.0.12") {
				bans = append(bans, fmt.Sprint(b.Rule, " ", b.Attempts, " ", b.Evidence[0].Method, " ", b.Evidence[0].Proof))
			}
		}
		want := "auth 5 SUBSCRIBE nonce"
		if strings.HasSuffix(name, "TCP") {
			want = "auth 5 SUBSCRIBE tcp"
		}
		if len(bans) != 1 || bans[0] != want || r.WhileBanned != 1 || r.NotUnderstood != 0 || r.Messages == 0 {
			t.Errorf("%s: %q, %+v", name, bans, r)
		}
	}
}

// A failure that FreeSWITCH also reports counts once. One that only FreeSWITCH reports counts: the SIP messages may be incomplete.
func TestAFailureInSIPAndEventsCountsOnce(t *testing.T) {
	for name, tc := range map[string]struct {
		recordings                     map[string][]byte
		failures, duplicates, unproven int
	}{
		"SIP":             {map[string][]byte{"a": captures.Read(t, guessesOfRegister+".hep")}, 5, 0, 0},
		"both":            {map[string][]byte{"a": captures.Read(t, guessesOfRegister+".hep"), "b": captures.Read(t, guessesOfRegister+".plain.esl")}, 5, 6, 0},
		"forged, in SIP":  {map[string][]byte{"a": captures.Read(t, forgeries+".hep")}, 3, 0, 3},
		"forged, in both": {map[string][]byte{"a": captures.Read(t, forgeries+".hep"), "b": captures.Read(t, forgeries+".plain.esl")}, 3, 4, 3},
	} {
		r := run(t, testConfig(), Options{}, tc.recordings)
		if r.Attempts["auth_failure"] != tc.failures || r.Duplicates != tc.duplicates || r.Unproven != tc.unproven {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

func TestACaptureWithoutSIP(t *testing.T) {
	packets := packetsOf(t, guessesOfSubscribe)
	for i := range packets {
		packets[i].Payload = []byte("\x80\x00 media")
	}
	r := run(t, testConfig(), Options{}, map[string][]byte{"a": pcapOf(t, packets, false)})
	want := fmt.Sprintf("no SIP message in %d packets", len(packets))
	if err := r.Err(); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
}

// A recording that was stopped within a packet is replayed up to there. HEP of version 1, which has no times, is as old as its file.
func TestRecordingsWithoutTheirEndOrTime(t *testing.T) {
	packets := packetsOf(t, guessesOfSubscribe)
	for name, data := range map[string][]byte{"HEP": captures.Read(t, guessesOfSubscribe), "pcap": pcapOf(t, packets, false), "pcapng": pcapngOf(t, packets)} {
		r := run(t, testConfig(), Options{}, map[string][]byte{"a": data[:len(data)-10]})
		if len(r.Bans) != 1 || r.NotUnderstood != 1 {
			t.Errorf("%s: %+v", name, r)
		}
	}
	r := run(t, testConfig(), Options{}, map[string][]byte{"a": captures.Read(t, "sip/hep-version-1-register-wrong.hep")})
	if r.Attempts["auth_failure"] != 1 || r.NotUnderstood != 0 {
		t.Errorf("%+v", r)
	}
}

func TestMalformedMessagesAreCounted(t *testing.T) {
	r := run(t, testConfig(), Options{}, map[string][]byte{"a": captures.Read(t, "sip/hep-malformed.hep")})
	if r.NotUnderstood != 5 || r.Examples[0] != "malformed SIP message: cseq" || len(r.Bans) != 0 || r.Attempts["malformed"] != 3 {
		t.Errorf("%+v", r)
	}
}
