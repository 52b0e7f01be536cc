// Playswitch is a FreeSWITCH for a machine that has none: the event socket at 127.0.0.1:8021, and one command a line on
// standard input, each answered by a line.
//
//	fail ADDRESS TIMES   a wrong password from there, so many times
//	send ADDRESS         a packet from there to this host; says whether it arrived
package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"fsban/internal/fakeswitch"
)

func main() {
	s := fakeswitch.New(fakeswitch.Options{Heartbeat: 5 * time.Second})
	if err := s.Listen("127.0.0.1:8021"); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	go func() { _ = s.Serve(context.Background()) }()
	fmt.Println("listening")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		fmt.Println(obey(s, strings.Fields(lines.Text())))
	}
}

func obey(s *fakeswitch.Switch, words []string) string {
	addr, err := netip.ParseAddr(words[1])
	if err != nil {
		return err.Error()
	}
	if words[0] == "send" {
		return send(addr)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := s.WaitSubscribed(ctx); err != nil {
		return "nobody listens"
	}
	times, err := strconv.Atoi(words[2])
	if err != nil {
		return err.Error()
	}
	for range times {
		s.Emit(fakeswitch.WrongPassword, fakeswitch.Caller{Addr: addr, User: "1001", UserAgent: "friendly"}, time.Now())
	}
	return "ok"
}

// send sends a packet from addr, which has to be one of this host's, and waits for it.
func send(addr netip.Addr) string {
	server, err := net.ListenPacket("udp", "203.0.113.1:5060")
	if err != nil {
		return err.Error()
	}
	defer func() { _ = server.Close() }()
	client, err := net.DialUDP("udp", &net.UDPAddr{IP: addr.AsSlice()}, server.LocalAddr().(*net.UDPAddr))
	if err != nil {
		return err.Error()
	}
	defer func() { _ = client.Close() }()
	if _, err := client.Write([]byte("hello")); err != nil {
		return err.Error()
	}
	_ = server.SetReadDeadline(time.Now().Add(time.Second))
	if _, _, err := server.ReadFrom(make([]byte, 16)); err != nil {
		return "dropped"
	}
	return "arrived"
}
