// Package sipgo compares sipwire's scanner with the parser of github.com/emiago/sipgo: in the meaning of messages, and in speed.
package sipgo

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/emiago/sipgo/sip"

	"fsban/sipwire"
)

// torture returns the torture messages of sipgo, those of RFC 4475 among them.
func torture(t testing.TB) map[string][]byte {
	t.Helper()
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/emiago/sipgo").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	paths, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "sip/testdata/torture/*/*"))
	if err != nil || len(paths) < 20 {
		t.Fatalf("%d torture messages: %v", len(paths), err)
	}
	messages := make(map[string][]byte)
	for _, p := range paths {
		if messages[filepath.Base(p)], err = os.ReadFile(p); err != nil {
			t.Fatal(err)
		}
	}
	return messages
}

// meaning renders sipgo's reading of a message; ok is false if sipgo refuses it, or if it lacks a mandatory header.
func meaning(p *sip.Parser, data []byte) (text string, ok bool) {
	defer func() { // sipgo's own faults are none of the scanner's
		if recover() != nil {
			ok = false
		}
	}()
	msg, err := p.ParseSIP(data)
	if err != nil {
		return "", false
	}
	via, from, to, call, cseq := msg.Via(), msg.From(), msg.To(), msg.CallID(), msg.CSeq()
	if via == nil || from == nil || to == nil || call == nil || cseq == nil {
		return "", false
	}
	start := "0"
	switch m := msg.(type) {
	case *sip.Request:
		if m.Method != cseq.MethodName || !strings.EqualFold(m.SipVersion, "SIP/2.0") {
			return "", false
		}
	case *sip.Response:
		start = fmt.Sprint(m.StatusCode)
	}
	branch, _ := via.Params.Get("branch")
	tag, _ := from.Params.Get("tag")
	return fmt.Sprintf("%s %s %d via %s %s tag %s to %s call %s", start, cseq.MethodName, cseq.SeqNo, strings.Trim(via.Host, "[]"), branch, tag, to.Address.User, call.Value()), true
}

// scanned renders the same for sipwire.
func scanned(m *sipwire.Message) string {
	return fmt.Sprintf("%d %s %d via %s %s tag %s to %s call %s", m.Status, m.MethodName, m.CSeq, m.Via.Host, m.Via.Branch, m.FromTag, m.ToUser, m.CallID)
}

// differ are torture messages that sipgo reads in another way, and why the scanner does not.
var differ = map[string]string{
	"wsinv.dat":   "sipgo overlooks a tag with white space around its equals sign",
	"multi01.dat": "of headers that may not be repeated sipgo takes the last, the scanner the first",
}

func TestTortureMessagesMeanTheSame(t *testing.T) {
	p, s := sip.NewParser(), sipwire.NewScanner()
	same := 0
	for name, data := range torture(t) {
		want, ok := meaning(p, data)
		m := s.Scan(data)
		if !ok {
			continue
		}
		got := scanned(m)
		if reason, known := differ[name]; m.Class == sipwire.Malformed || (got != want) != known {
			t.Errorf("%s: %s (%s), sipgo %s; known: %s", name, got, m.Fault, want, reason)
		}
		same++
	}
	if same < 15 {
		t.Errorf("%d messages compared", same)
	}
}

// ordinary is a message as phones send it.
var ordinary = []byte("SUBSCRIBE sip:1001@10.77.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 10.77.0.12:51241;rport;branch=z9hG4bKanov69hndt\r\nMax-Forwards: 70\r\n" +
	"From: <sip:1000@10.77.0.1>;tag=0tngkw\r\nTo: <sip:1001@10.77.0.1>\r\nCall-ID: mah6cn3znr\r\nCSeq: 2 SUBSCRIBE\r\nContact: <sip:1000@10.77.0.12:51241>\r\n" +
	"User-Agent: friendly-phone/1.0\r\nProxy-Authorization: Digest username=\"1000\", realm=\"10.77.0.1\", nonce=\"220f24cb-90d4-4123-bf8d-ca18dced3385\", " +
	"uri=\"sip:1001@10.77.0.1\", response=\"900a97514d23452aebeb1c3595070a3b\", algorithm=MD5, qop=auth, nc=00000001, cnonce=\"b1jya15e\"\r\n" +
	"Event: presence\r\nAccept: application/pidf+xml\r\nExpires: 60\r\nContent-Length: 0\r\n\r\n")

// BenchmarkMessage is the cost of one message for each.
func BenchmarkMessage(b *testing.B) {
	b.Run("sipwire", func(b *testing.B) {
		s := sipwire.NewScanner()
		b.ReportAllocs()
		for b.Loop() {
			if m := s.Scan(ordinary); m.Class != sipwire.Request {
				b.Fatal(m.Fault)
			}
		}
	})
	b.Run("sipgo", func(b *testing.B) {
		p := sip.NewParser()
		b.ReportAllocs()
		for b.Loop() {
			if _, err := p.ParseSIP(bytes.Clone(ordinary)); err != nil {
				b.Fatal(err)
			}
		}
	})
}
