package sipwire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"testing"
	"time"

	"fsban/internal/captures"
)

// recorded returns the datagrams of a recording.
func recorded(t testing.TB, name string) (datagrams [][]byte) {
	t.Helper()
	for r := NewRecording(bytes.NewReader(captures.Read(t, "sip/"+name+".hep"))); ; {
		d, err := r.Next()
		if errors.Is(err, io.EOF) {
			return datagrams
		}
		if err != nil {
			t.Fatal(err)
		}
		datagrams = append(datagrams, bytes.Clone(d))
	}
}

func TestHEPOfAllVersions(t *testing.T) {
	for name, want := range map[string]Packet{
		"hep-version-1-register-wrong":         {From: netip.MustParseAddrPort("10.77.0.3:45668"), To: netip.MustParseAddrPort("10.77.0.1:5060")},
		"hep-version-2-register-wrong":         {From: netip.MustParseAddrPort("10.77.0.3:42129"), To: netip.MustParseAddrPort("10.77.0.1:5060"), At: time.UnixMicro(1796060026034524)},
		"hep-register-wrong-x5-one-nonce":      {From: netip.MustParseAddrPort("10.77.0.3:33272"), To: netip.MustParseAddrPort("10.77.0.1:5060"), At: time.UnixMicro(1796059739363587)},
		"hep-ipv6-register-wrong":              {From: netip.MustParseAddrPort("[::]:58421"), To: netip.MustParseAddrPort("[::]:5060"), At: time.UnixMicro(1796059764347968)},
		"hep-tcp-register-wrong":               {From: netip.MustParseAddrPort("10.77.0.16:42325"), To: netip.MustParseAddrPort("10.77.0.1:5060"), Transport: TCP, At: time.UnixMicro(1796059762689423)},
		"hep-tls-register-and-subscribe-wrong": {From: netip.MustParseAddrPort("10.77.0.17:37023"), To: netip.MustParseAddrPort("10.77.0.1:5061"), Transport: TLS, At: time.UnixMicro(1796060016781302)},
	} {
		datagram := recorded(t, name)[0]
		var p Packet
		if err := ParseHEP(datagram, &p); err != nil || !bytes.HasPrefix(p.Payload, []byte("REGISTER sip:")) || p.From != want.From || p.To != want.To ||
			p.Transport != want.Transport || !p.At.Equal(want.At) {
			t.Errorf("%s: %v %v %v %v, %v", name, p.From, p.To, p.Transport, p.At.UnixMicro(), err)
		}
		for n := range datagram { // nothing but the whole is a datagram of version 3; all are read without harm
			if err := ParseHEP(datagram[:n], &p); err == nil && datagram[0] == 'H' {
				t.Errorf("%s: %d of %d bytes are a datagram", name, n, len(datagram))
			}
		}
	}
}

// hep3 returns a datagram of version 3 with chunks of vendor 0, and others.
func hep3(chunks map[uint16]string, more ...byte) []byte {
	b := []byte("HEP3\x00\x00")
	for kind := range uint16(20) {
		if text, ok := chunks[kind]; ok {
			b = binary.BigEndian.AppendUint16(append(b, 0, 0), kind)
			b = append(binary.BigEndian.AppendUint16(b, uint16(6+len(text))), text...)
		}
	}
	b = append(b, more...)
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
	return b
}

func TestHEPWithoutAMessageOrAddress(t *testing.T) {
	chunks := func(kind uint16, value string) map[uint16]string {
		m := map[uint16]string{hepProtocol: "\x11", hepSource4: "\x01\x02\x03\x04", hepDest4: "\x01\x02\x03\x05", hepSourcePort: "\x13\xc4", hepDestPort: "\x13\xc5", hepPayload: "x"}
		if m[kind] = value; value == "" {
			delete(m, kind)
		}
		return m
	}
	vendor := []byte{0, 7, 0, hepPayload, 0, 7, 'y'} // another vendor's chunk
	for name, tc := range map[string]struct {
		datagram []byte
		want     error
	}{
		"complete":           {hep3(chunks(hepPayload, "x")), nil},
		"another vendor":     {hep3(chunks(hepPayload, "x"), vendor...), nil},
		"bytes behind it":    {append(hep3(chunks(hepPayload, "x")), "more"...), nil},
		"SIP":                {hep3(chunks(hepPayloadType, "\x01")), nil},
		"mapped IPv4":        {hep3(chunks(hepSource6, "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xff\x01\x02\x03\x04")), nil},
		"RTCP":               {hep3(chunks(hepPayloadType, "\x05")), ErrHEPOther},
		"no payload":         {hep3(chunks(hepPayload, "")), ErrHEPOther},
		"no source":          {hep3(chunks(hepSource4, "")), ErrHEP},
		"source of 3 bytes":  {hep3(chunks(hepSource4, "\x01\x02\x03")), ErrHEP},
		"port of a byte":     {hep3(chunks(hepSourcePort, "\x01")), ErrHEP},
		"half a chunk":       {hep3(chunks(hepPayload, "x"), 0, 0, 0), ErrHEP},
		"chunk too long":     {hep3(chunks(hepPayload, "x"), 0, 0, 0, 1, 0, 99), ErrHEP},
		"chunk of length 5":  {hep3(chunks(hepPayload, "x"), 0, 0, 0, 1, 0, 5), ErrHEP},
		"longer than itself": {[]byte("HEP3\xff\xff"), ErrHEP},
		"SIP without HEP":    {[]byte(request), ErrHEP},
		"empty":              {nil, ErrHEP},
		"version 1, cut":     {[]byte{1, 16, 2, 17, 0, 1, 0, 2, 1, 2, 3}, ErrHEP},
		"version 2, cut":     {[]byte{2, 28, 2, 17, 0, 1, 0, 2, 1, 2, 3, 4, 5, 6, 7, 8}, ErrHEP},
		"version 1, odd":     {append([]byte{1, 99, 2, 17}, make([]byte, 99)...), ErrHEP},
	} {
		var p Packet
		if err := ParseHEP(tc.datagram, &p); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		} else if err == nil && (p.From != netip.MustParseAddrPort("1.2.3.4:5060") || string(p.Payload) != "x") {
			t.Errorf("%s: %+v", name, p)
		}
	}
}

func TestARecordingThatIsCut(t *testing.T) {
	data := captures.Read(t, "sip/hep-options-svmap.hep")
	if !IsRecording(data) || !IsRecording(captures.Read(t, "sip/hep-version-1-register-wrong.hep")) || !IsRecording(captures.Read(t, "sip/hep-version-2-register-wrong.hep")) {
		t.Error("a recording is not known as one")
	}
	if IsRecording([]byte("\x00\x00\x00\x10Content")) || IsRecording([]byte("ip[192.0.2.7] user[1]")) || IsRecording(data[:7]) {
		t.Error("something else is taken for a recording")
	}
	read := func(data []byte) (n int, err error) {
		for r := NewRecording(bytes.NewReader(data)); ; n++ {
			if _, err = r.Next(); err != nil {
				return n, err
			}
		}
	}
	for n := range data {
		if _, err := read(data[:n]); !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
	if n, err := read(data); n != 2 || !errors.Is(err, io.EOF) {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := read([]byte("\xff\xff\xff\xff")); n != 0 || err == nil || errors.Is(err, io.EOF) {
		t.Errorf("%d, %v", n, err)
	}
}

// FuzzHEP: any bytes are read; a datagram has addresses, and a payload that is a part of it.
func FuzzHEP(f *testing.F) {
	for _, name := range []string{"hep-version-1-register-wrong", "hep-version-2-register-wrong", "hep-options-svmap"} {
		f.Add(recorded(f, name)[0])
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var p Packet
		if err := ParseHEP(data, &p); err != nil {
			return
		}
		if !p.From.Addr().IsValid() || !p.To.Addr().IsValid() || p.From.Addr().Is4In6() || !bytes.Contains(data, p.Payload) {
			t.Fatalf("%+v", p)
		}
	})
}
