package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"fsban/internal/fakeswitch"
)

// A night simulates peers that send real packets to FreeSWITCH's SIP port, and a FreeSWITCH that answers them with recorded
// events.
type night struct {
	freeswitch *fakeswitch.Switch
	out        *lines
	packets    bool // send real packets; otherwise every request counts as arrived
	quiet      bool
	began      time.Time

	mu       sync.Mutex
	failures map[netip.Addr]int // answered with 403
}

// maxRetry is the default of policy.maxretry, which the demo runs with.
const maxRetry = 5

// A peer sends requests at a fixed interval.
type peer struct {
	name    string
	addr    netip.Addr
	agent   string
	first   time.Duration // time of the first request
	every   time.Duration
	request func(n int) (user string, s fakeswitch.Situation)
}

func peers() []peer {
	list := []peer{
		{"guesser", guesserAddr, "MicroSIP/3.21.3", time.Second, 900 * time.Millisecond,
			func(int) (string, fakeswitch.Situation) { return "1001", fakeswitch.WrongPassword }},
		{"scanner", scannerAddr, "sipvicious", 6 * time.Second, 700 * time.Millisecond,
			func(n int) (string, fakeswitch.Situation) { return fmt.Sprint(100 + n), fakeswitch.UnknownUser }},
		{"office", officeAddr, "Yealink SIP-T54W", 3 * time.Second, 4 * time.Second,
			func(n int) (string, fakeswitch.Situation) {
				return "2001", []fakeswitch.Situation{fakeswitch.WrongPassword, fakeswitch.WrongPassword, fakeswitch.Success,
					fakeswitch.Refresh}[min(n, 3)]
			}},
	}
	for i := range 4 {
		list = append(list, peer{"phone", netip.AddrFrom4([4]byte{203, 0, 113, byte(21 + i)}), "Grandstream GXP2170",
			time.Duration(500+1700*i) * time.Millisecond, 5 * time.Second,
			func(n int) (string, fakeswitch.Situation) {
				// Every phone has an expired nonce now and then.
				return fmt.Sprint(3001 + i), []fakeswitch.Situation{fakeswitch.Success, fakeswitch.Refresh, fakeswitch.StaleNonce}[n%3]
			}})
	}
	return list
}

// answers are FreeSWITCH's SIP responses by situation.
var answers = map[fakeswitch.Situation]string{
	fakeswitch.WrongPassword: "403 Forbidden", fakeswitch.UnknownUser: "403 Forbidden", fakeswitch.Success: "200 OK",
	fakeswitch.Refresh:    "200 OK",
	fakeswitch.StaleNonce: "401 Unauthorized",
}

// play runs the peers for that long; 0 means until ctx ends.
func (n *night) play(ctx context.Context, long time.Duration) error {
	n.began = time.Now()
	n.failures = make(map[netip.Addr]int)
	if long > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, long)
		defer cancel()
	}
	var running sync.WaitGroup
	defer running.Wait()
	var door *net.UDPConn
	if n.packets {
		var err error
		if door, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(switchAddr, 5060))); err != nil {
			return err
		}
		defer func() { _ = door.Close() }()
		running.Go(func() { n.answer(door) })
		defer context.AfterFunc(ctx, func() { _ = door.Close() })()
	}
	for _, p := range peers() {
		running.Go(func() { n.act(ctx, p) })
	}
	<-ctx.Done()
	return nil
}

// act sends the requests of one peer until ctx ends.
func (n *night) act(ctx context.Context, p peer) {
	var conn *net.UDPConn
	if n.packets {
		var err error
		conn, err = net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(p.addr, 0)),
			net.UDPAddrFromAddrPort(netip.AddrPortFrom(switchAddr, 5060)))
		if err != nil {
			n.out.printf("%s: %v", p.name, err)
			return
		}
		defer func() { _ = conn.Close() }()
	}
	timer := time.NewTimer(p.first)
	defer timer.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			timer.Reset(p.every)
		}
		user, situation := p.request(i)
		n.say(p, user, n.send(conn, p, user, situation))
	}
}

// send sends a request to FreeSWITCH and returns its answer.
func (n *night) send(conn *net.UDPConn, p peer, user string, s fakeswitch.Situation) string {
	if !n.packets {
		n.happens(netip.AddrPortFrom(p.addr, 5060), user, p.agent, s)
		return answers[s]
	}
	request := strings.Join([]string{string(s), user, p.agent}, "\n")
	if _, err := conn.Write([]byte(request)); err != nil {
		return "no answer: " + err.Error()
	}
	buf := make([]byte, 200)
	_ = conn.SetReadDeadline(time.Now().Add(400 * time.Millisecond))
	size, err := conn.Read(buf)
	if err != nil {
		return "no answer: the packet was dropped"
	}
	return string(buf[:size])
}

// answer plays FreeSWITCH's SIP port: it turns each request into events and an answer.
func (n *night) answer(door *net.UDPConn) {
	buf := make([]byte, 2000)
	for {
		size, from, err := door.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		parts := strings.SplitN(string(buf[:size]), "\n", 3)
		situation := fakeswitch.Situation(parts[0])
		from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
		n.happens(from, parts[1], parts[2], situation)
		_, _ = door.WriteToUDPAddrPort([]byte(answers[situation]), from)
	}
}

func (n *night) happens(from netip.AddrPort, user, agent string, s fakeswitch.Situation) {
	if strings.HasPrefix(answers[s], "403") {
		n.mu.Lock()
		n.failures[from.Addr()]++
		n.mu.Unlock()
	}
	n.freeswitch.Emit(s, fakeswitch.Caller{Addr: from.Addr(), Port: from.Port(), User: user, UserAgent: agent}, time.Now())
}

func (n *night) say(p peer, user, answer string) {
	if n.quiet {
		return
	}
	n.out.printf("%5.1fs  %-8s %-13s REGISTER %-5s %s", time.Since(n.began).Seconds(), p.name, p.addr, user, answer)
}

// answeredAfterBan returns the number of failures beyond maxRetry that FreeSWITCH answered.
func (n *night) answeredAfterBan() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	over := 0
	for _, failures := range n.failures {
		over += max(0, failures-maxRetry)
	}
	return over
}
