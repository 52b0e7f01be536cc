package sipwire

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestTheUserOfAURIEndsAtTheFirstAt(t *testing.T) {
	for uri, want := range map[string][2]string{
		"sip:alice@example.com":               {"alice", "example.com"},
		"sip:alice:secret@example.com:5060;x": {"alice", "example.com"},
		"sip:a;b?c/d@example.com?x=y@z":       {"a;b?c/d", "example.com"},
		"sip:a@b@example.com":                 {"a", "b@example.com"},
		"sip:example.com;maddr=x":             {"", "example.com"},
		"tel:+4930;phone-context=example.com": {"+4930", ""},
		"TEL:1@2":                             {"1@2", ""},
		"anonymous":                           {"", "anonymous"},
	} {
		user, host := splitURI([]byte(uri))
		if string(user) != want[0] || string(host) != want[1] {
			t.Errorf("%s: %q at %q, want %q", uri, user, host, want)
		}
	}
}

// exchanged is a request of the n-th transaction, or a response to it.
func exchanged(n int, response string) []byte {
	start := "OPTIONS sip:100@192.0.2.1 SIP/2.0"
	if response != "" {
		start = "SIP/2.0 " + response
	}
	return fmt.Appendf(nil, "%s\r\nVia: SIP/2.0/UDP x;branch=z9hG4bK%d\r\nFrom: <sip:1@x>;tag=1\r\nTo: <sip:100@x>\r\nCall-ID: 1\r\nCSeq: 1 OPTIONS\r\n\r\n", start, n)
}

func TestFreshTellsRequestsFromRetransmissions(t *testing.T) {
	s, table := NewScanner(), NewTransactions()
	at := epoch
	for i, step := range []struct {
		after    time.Duration // the step before
		response string
		fresh    bool
		why      string
	}{
		{0, "", true, "a request"},
		{time.Millisecond, "", false, "the copy of another tap"},
		{500 * time.Millisecond, "", false, "a retransmission"},
		{time.Millisecond, "", false, "the copy of that"},
		{time.Second, "", false, "another retransmission"},
		{time.Millisecond, "", false, "its copy"},
		{time.Millisecond, "", true, "no peer retransmits so soon"},
		{time.Millisecond, "", true, "nor then"},
		{time.Millisecond, "100 Trying", true, "the first answer"},
		{time.Millisecond, "100 Trying", false, "the same"},
		{time.Millisecond, "200 OK", false, "the second answer"},
	} {
		at = at.Add(step.after)
		p := Packet{From: phone, To: registrar, At: at, Payload: exchanged(1, step.response)}
		if step.response != "" {
			p.From, p.To = registrar, phone
		}
		if table.Match(&p, s.Scan(p.Payload), at); table.Fresh() != step.fresh {
			t.Errorf("step %d, %s: fresh %v", i, step.why, table.Fresh())
		}
	}
	p := Packet{From: phone, To: registrar, At: at, Payload: exchanged(2, "")}
	table.Match(&p, s.Scan(p.Payload), at)
	p = Packet{From: registrar, To: phone, At: at, Payload: exchanged(2, "200 OK")}
	if done := table.Match(&p, s.Scan(p.Payload), at); done == nil || !table.Fresh() || done.InDialog || done.Target == 0 {
		t.Errorf("an answer at once: %+v, fresh %v", done, table.Fresh())
	}
}

// In the middle of a connection the first messages may be parts of a body.
func TestMessagesOfAStreamThatWasJoinedAreInDoubt(t *testing.T) {
	body := "part of a body\r\nOPTIONS sip:x SIP/2.0\r\n\r\n"
	stream := body + message(1, "") + message(2, "") + "\r\n\r\n" + message(3, "")
	for from, want := range map[int][]bool{0: {true, true, false, false}, len(body): {true, true, false}} {
		var cut []bool
		for _, p := range NewAssembler().Frame(LinkEthernet, tcpFrame(t, uint32(100+from), stream[from:], ""), epoch) {
			cut = append(cut, p.Cut)
		}
		if !slices.Equal(cut, want) {
			t.Errorf("from byte %d: %v, want %v", from, cut, want)
		}
	}
	a := NewAssembler()
	a.Frame(LinkEthernet, tcpFrame(t, 99, "", "S"), epoch)
	for _, p := range a.Frame(LinkEthernet, tcpFrame(t, 100, message(1, "")+strings.Repeat("x", 9000)+"\r\n"+message(2, ""), ""), epoch) {
		if p.Cut {
			t.Errorf("%q is in doubt", p.Payload)
		}
	}
}

func TestARestartMakesNoncesOld(t *testing.T) {
	n := NewNonces()
	issue := Issue{Client: phone, Server: registrar, Method: MethodSubscribe, At: epoch}
	n.Add(1, &issue)
	n.Restart(epoch.Add(time.Second))
	issue.At = epoch.Add(2 * time.Second)
	n.Add(2, &issue)
	for nonce, want := range map[Nonce]Standing{1: NonceOld, 2: NonceLive} {
		if got, own := n.Look(nonce, phone.Addr(), epoch.Add(3*time.Second)); got != want || !own {
			t.Errorf("nonce %d: %d, want %d", nonce, got, want)
		}
	}
	n.Restart(epoch) // reported late
	if got, _ := n.Look(1, phone.Addr(), epoch.Add(3*time.Second)); got != NonceOld {
		t.Errorf("standing %d after an earlier restart", got)
	}
}
