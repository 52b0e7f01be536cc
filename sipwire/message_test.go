package sipwire

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

const request = "SUBSCRIBE sip:1001@10.77.0.1 SIP/2.0\r\n" +
	"Via: SIP/2.0/UDP 10.77.0.12:51241;rport;branch=z9hG4bKx\r\n" +
	"From: <sip:1000@10.77.0.1>;tag=0tngkw\r\n" +
	"To: <sip:1001@10.77.0.1>\r\n" +
	"Call-ID: mah6cn3znr\r\n" +
	"CSeq: 2 SUBSCRIBE\r\n"

var _, headers, _ = strings.Cut(request, "\r\n")

// summary renders a Message, its nonces by their names in nonces.
func summary(m *Message, nonces map[Nonce]string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d %s %d %d via %s:%s %s %s from %s to %s@%s call %s agent %s", m.Class, m.MethodName, m.Status, m.CSeq, m.Via.Host, m.Via.Port, m.Via.Branch,
		m.Via.Received, m.FromTag, m.ToUser, m.ToHost, m.CallID, m.UserAgent)
	for _, c := range m.Credentials {
		fmt.Fprintf(&b, " user %s %s", c.User, nonces[c.Nonce])
	}
	for _, c := range m.Challenges {
		fmt.Fprintf(&b, " challenge %s %v", nonces[c.Nonce], c.Stale)
	}
	if m.Expires > 0 {
		fmt.Fprintf(&b, " expires %d", m.Expires)
	}
	return b.String()
}

func TestScan(t *testing.T) {
	s := NewScanner()
	nonces := map[Nonce]string{s.hash([]byte("abc")): "abc", s.hash([]byte("def")): "def"}
	const plain = "1 SUBSCRIBE 0 2 via 10.77.0.12:51241 z9hG4bKx  from 0tngkw to 1001@10.77.0.1 call mah6cn3znr agent "
	for name, tc := range map[string]struct{ message, want string }{
		"plain":                {request + "\r\n", plain},
		"body":                 {request + "\r\nAuthorization: Digest username=\"x\", nonce=\"abc\"\r\n", plain},
		"no blank line":        {request, plain},
		"lines end with LF":    {strings.ReplaceAll(request, "\r\n", "\n") + "\n", plain},
		"lines end with CR":    {strings.ReplaceAll(request, "\r\n", "\r") + "\r", plain},
		"blank lines before":   {"\r\n\r\n" + request + "\r\n", plain},
		"user agent":           {request + "User-Agent: friendly-scanner\r\n\r\n", plain + "friendly-scanner"},
		"first of repeated":    {request + "User-Agent: a\r\nuser-agent: b\r\nCall-ID: y\r\nFrom: <sip:z>;tag=z\r\nCSeq: 3 SUBSCRIBE\r\nVia: SIP/2.0/TCP z\r\n\r\n", plain + "a"},
		"space before colon":   {request + "User-Agent \t: a\r\n\r\n", plain + "a"},
		"expires":              {request + "Expires: 60\r\nContact: \"a;expires=9\" <sip:x;expires=8>;q=1;expires=3600, <sip:y>;expires=9999\r\n\r\n", plain + " expires 3600"},
		"credentials":          {request + "Authorization: Digest username=\"10\\\"00\", realm=\"a,nonce=x\", nonce=\"abc\", uri=\"sip:x\", response=\"f\"\r\n\r\n", plain + " user 10\\\"00 abc"},
		"no space, other case": {request + "AUTHORIZATION:dIGEST nonce=abc,USERNAME=1000\r\n\r\n", plain + " user 1000 abc"},
		"two credentials":      {request + "Authorization: Digest nonce=\"abc\"\r\nProxy-Authorization: Digest nonce=\"def\"\r\n\r\n", plain + " user  abc user  def"},
		"nonce twice":          {request + "Authorization: Digest nonce=\"abc\", nonce=\"def\", username=\"u\"\r\n\r\n", plain + " user u abc user u def"},
		"escaped nonce":        {request + "Authorization: Digest nonce=\"\\a\\bc\"\r\n\r\n", plain + " user  abc"},
		"folded":               {request + "Authorization:\r\n Digest\r\n\tusername=\"u\",\r\n  nonce\r\n =\r\n \"abc\"\r\n\r\n", plain + " user u abc"},
		"other scheme":         {request + "Authorization: Bearer nonce=\"abc\"\r\nAuthorization: Digestive nonce=\"abc\"\r\n\r\n", plain},
		"line without colon":   {request + "nonsense\r\n: x\r\n\r\n", plain},
		"compact": {
			"MESSAGE sip:x SIP/2.0\r\nv: SIP / 2.0 / UDP  [2001:db8::1] : 5060 ; received=[2001:db8::2] ;branch = \"b\", SIP/2.0/UDP z\r\n" +
				"f: \"A <b>; \\\" c\" <sip:1000@x>;x=\"y;tag=z\" ; tag = T\r\nt: sip:1001:secret@[2001:db8::3]:5061;user=phone\r\ni:c\r\nCSeq:\r\n 4294967295\tMESSAGE\r\nm: *\r\n\r\n",
			"1 MESSAGE 0 4294967295 via 2001:db8::1:5060 b 2001:db8::2 from T to 1001@2001:db8::3 call c agent ",
		},
		"response": {
			"SIP/2.0 401 Unauthorized\r\n" + headers +
				"WWW-Authenticate: Digest realm=\"x\", nonce=\"abc\", stale=TRUE\r\nProxy-Authenticate: Digest nonce=\"def\"\r\n\r\n",
			"2 SUBSCRIBE 401 2 via 10.77.0.12:51241 z9hG4bKx  from 0tngkw to 1001@10.77.0.1 call mah6cn3znr agent  challenge abc true challenge def false",
		},
		"two challenges in a header": {
			"SIP/2.0 401 \r\n" + headers + "WWW-Authenticate: Digest realm=\"x\", nonce=\"abc\", Digest realm=\"y\", nonce=\"def\"\r\n\r\n",
			"2 SUBSCRIBE 401 2 via 10.77.0.12:51241 z9hG4bKx  from 0tngkw to 1001@10.77.0.1 call mah6cn3znr agent  challenge abc false challenge def false",
		},
	} {
		m := s.Scan([]byte(tc.message))
		if got := summary(m, nonces); got != tc.want || m.Fault != "" {
			t.Errorf("%s: %s (%s), want %s", name, got, m.Fault, tc.want)
		}
	}
}

func TestAMalformedMessageHasAFault(t *testing.T) {
	s := NewScanner()
	without := func(header string) string {
		i := strings.Index(request, header)
		return request[:i] + request[i+strings.Index(request[i:], "\n")+1:] + "\r\n"
	}
	credentials := strings.Repeat("Authorization: Digest nonce=\"a\"\r\n", maxDigests)
	for name, tc := range map[string]struct {
		message string
		want    Fault
	}{
		"a word":                {"hello world\r\n\r\n", BadStartLine},
		"binary":                {"\xff\xff\xff\xff\xff\xff", BadStartLine},
		"HTTP":                  {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", BadStartLine},
		"no URI":                {"REGISTER SIP/2.0\r\n\r\n", BadStartLine},
		"no method":             {" sip:x SIP/2.0\r\n\r\n", BadStartLine},
		"status without number": {"SIP/2.0 abc\r\n\r\n", BadStartLine},
		"status 700":            {"SIP/2.0 700 x\r\n\r\n", BadStartLine},
		"version of request":    {strings.Replace(request, "SIP/2.0\r\n", "SIP/9.9\r\n", 1), BadVersion},
		"version of response":   {"SIP/3.0 200 OK\r\n" + headers, BadVersion},
		"no Via":                {without("Via:"), BadVia},
		"Via without host":      {strings.Replace(request, "Via: SIP/2.0/UDP 10.77.0.12:51241", "Via: SIP/2.0/UDP ", 1), BadVia},
		"no From":               {without("From:"), BadFrom},
		"From without URI":      {strings.Replace(request, "<sip:1000@10.77.0.1>", "<>", 1), BadFrom},
		"no To":                 {without("To:"), BadTo},
		"no Call-ID":            {without("Call-ID:"), BadCallID},
		"no CSeq":               {without("CSeq:"), BadCSeq},
		"CSeq of another":       {strings.Replace(request, "2 SUBSCRIBE", "2 INVITE", 1), BadCSeq},
		"CSeq without number":   {strings.Replace(request, "2 SUBSCRIBE", "x SUBSCRIBE", 1), BadCSeq},
		"many credentials":      {request + credentials + "Authorization: Digest nonce=\"a\"\r\n", BadCredentials},
		"too long":              {request + strings.Repeat("x", MaxMessage), TooLong},
	} {
		if m := s.Scan([]byte(tc.message)); m.Class != Malformed || m.Fault != tc.want {
			t.Errorf("%s: class %d, %q, want %q", name, m.Class, m.Fault, tc.want)
		}
	}
	if m := s.Scan([]byte(request + credentials)); m.Class != Request || len(m.Credentials) != maxDigests {
		t.Errorf("%+v", m)
	}
	for _, text := range []string{"", "\r\n\r\n", "\x00\x00\x00\x00\x00", "jaK", "\x00\x01\x00\x00\x21\x12\xa4\x42123456789012"} {
		if m := s.Scan([]byte(text)); m.Class != KeepAlive {
			t.Errorf("%q: class %d", text, m.Class)
		}
	}
}

// The shapes that are hardest to scan: a quadratic scan would exceed the test's timeout.
func TestHardShapesAreReadInLinearTime(t *testing.T) {
	s := NewScanner()
	for _, unit := range []string{"\r", "\n", "a:\r", "a:\n", "\n ", "\r\t", "\"", "\\", "Via: SIP/2.0/UDP x;\n", "a;", ",", "m:<\n", "Authorization: Digest ,\n"} {
		message := []byte(request + strings.Repeat(unit, (MaxMessage-len(request))/len(unit)))
		for range 50 {
			s.Scan(message)
		}
	}
}

// FuzzScan: a scan ends, keeps to its bounds, and its parts are parts of the payload. The body changes nothing.
func FuzzScan(f *testing.F) {
	f.Add([]byte(request+"\r\n"), []byte("body"))
	f.Add([]byte("SIP/2.0 401 x\r\nv: SIP/2.0/UDP [::1];branch=1;received=::2\r\nWWW-Authenticate: Digest nonce=\"\\a\"\r\n\r\n"), []byte{})
	s := NewScanner()
	f.Fuzz(func(t *testing.T, payload, body []byte) {
		m := s.Scan(payload)
		if len(m.Credentials) > maxDigests || len(m.Challenges) > maxDigests || (m.Class == Malformed) != (m.Fault != "") {
			t.Fatalf("%+v", m)
		}
		for _, part := range [][]byte{m.MethodName, m.Via.Host, m.Via.Port, m.Via.Branch, m.Via.Received, m.FromTag, m.ToUser, m.ToHost, m.CallID, m.UserAgent} {
			if !bytes.Contains(payload, part) {
				t.Fatalf("%q is no part of %q", part, payload)
			}
		}
		end := headerEnd(payload, 0)
		if end == 0 || m.Class == KeepAlive || m.Class == Malformed || len(payload)+len(body) > MaxMessage || len(bytes.TrimLeft(payload, "\r\n")) != len(payload) {
			return
		}
		want := summary(m, nil)
		if got := summary(s.Scan(append(bytes.Clone(payload[:end]), body...)), nil); got != want {
			t.Fatalf("with another body %s, was %s", got, want)
		}
	})
}
