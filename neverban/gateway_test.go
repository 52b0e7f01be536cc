package neverban

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A switchboard answers as FreeSWITCH does.
type switchboard struct {
	mu      sync.Mutex
	replies map[string]string // by command and arguments
	err     error
}

func (s *switchboard) API(_ context.Context, name, arguments string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	reply, ok := s.replies[name+" "+arguments]
	if !ok {
		reply = "-ERR " + name + " Command not found!\n"
	}
	return []byte(reply), s.err
}

func (s *switchboard) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

const (
	askGateways = "sofia xmlstatus gateway"
	askSofia    = "xml_locate configuration configuration name sofia.conf"
	askACL      = "xml_locate configuration configuration name acl.conf"
	noSofia     = `<configuration name="sofia.conf"></configuration>`
)

// status is the answer to `sofia xmlstatus gateway` for gateways of the form name, proxy, realm, From.
func status(gateways ...[4]string) string {
	var b strings.Builder
	b.WriteString("<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?>\n<gateways>\n")
	for _, g := range gateways {
		fmt.Fprintf(&b, "  <gateway>\n    <name>%s</name>\n    <profile>external</profile>\n    <scheme>Digest</scheme>\n    <realm>%s</realm>\n"+
			"    <username>a&b</username>\n    <password>yes</password>\n    <from>%s</from>\n"+
			"    <contact>&lt;sip:gw+x@203.0.113.5:5080;transport=udp;gw=x&gt;</contact>\n    <exten>x</exten>\n    <to>sip:a@%s</to>\n"+
			"    <proxy>%s</proxy>\n    <context>public</context>\n    <state>REGED</state>\n    <status>UP</status>\n  </gateway>\n",
			g[0], g[2], g[3], strings.TrimPrefix(g[1], "sip:"), g[1])
	}
	return b.String() + "</gateways>\n"
}

func TestGateways(t *testing.T) {
	zoned := map[string][]string{
		"sip.carrier.example": {"192.0.2.1"}, "carrier.example": {"192.0.2.2"}, "edge.carrier.example": {"192.0.2.3"},
		"sbc": {"192.0.2.4"}, "asterisk": {"192.0.2.66"},
	}
	for name, test := range map[string]struct {
		status, sofia  string
		want, problems []string
	}{
		"none":                   {status(), "", nil, nil},
		"an address":             {status([4]string{"c1", "sip:198.51.100.7", "198.51.100.7", "&lt;sip:a@198.51.100.7&gt;"}), noSofia, []string{"198.51.100.7/32 gateway c1"}, nil},
		"an IPv6 one":            {status([4]string{"c1", "sip:[2001:db8::7]:5070;transport=tls", "asterisk", ""}), noSofia, []string{"2001:db8::7/128 gateway c1"}, nil},
		"names":                  {status([4]string{"c1", "sip:SIP.carrier.example:5061;transport=tcp", "carrier.example", "&lt;sip:a@edge.carrier.example;x=1&gt;"}), noSofia, []string{"192.0.2.1/32 gateway c1 (sip.carrier.example)", "192.0.2.2/32 gateway c1 (carrier.example)", "192.0.2.3/32 gateway c1 (edge.carrier.example)"}, nil},
		"a short name":           {status([4]string{"c1", "sip:sbc", "asterisk", ""}), noSofia, []string{"192.0.2.4/32 gateway c1 (sbc)"}, nil},
		"a realm that is none":   {status([4]string{"c1", "sip:sbc", "voice.nowhere.example", "&lt;sip:a@b c.d&gt;"}), noSofia, []string{"192.0.2.4/32 gateway c1 (sbc)"}, nil},
		"does not resolve":       {status([4]string{"c1", "sip:nowhere.example", "nowhere.example", ""}), noSofia, nil, []string{"gateway c1: nowhere.example does not resolve: no such host: it can be banned"}},
		"no host":                {status([4]string{"c1", "sip:a b&c", "", ""}), noSofia, nil, []string{`gateway c1: "a b&c" is neither an address nor a host name`}},
		"everybody":              {status([4]string{"c1", "sip:0.0.0.0", "", ""}, [4]string{"c2", "0.0.0.0/0", "", ""}, [4]string{"c3", "sip:127.0.0.1", "", ""}), noSofia, []string{"127.0.0.1/32 gateway c3"}, []string{`gateway c2: "0.0.0.0/0" is neither an address nor a host name`}},
		"an odd name":            {status([4]string{"c\x1b[31m\xff&lt;", "sip:sbc", "", ""}), noSofia, []string{"192.0.2.4/32 gateway c?[31m?< (sbc)"}, nil},
		"no sofia":               {"-ERR sofia Command not found!\n", "", nil, []string{`gateways: FreeSWITCH answers sofia xmlstatus gateway with "-ERR sofia Command not found!": no gateway is known, so carriers can be banned: add their addresses to ignoreip`}},
		"nothing":                {"", "", nil, []string{`gateways: FreeSWITCH answers sofia xmlstatus gateway with "": no gateway is known, so carriers can be banned: add their addresses to ignoreip`}},
		"cut off":                {status([4]string{"c1", "sip:sbc", "", ""})[:200], "", nil, []string{"gateways: sofia xmlstatus gateway: XML syntax error on line 8: unexpected EOF: no gateway is known, so carriers can be banned: add their addresses to ignoreip"}},
		"too deep":               {strings.Repeat("<gateways>", 1000), "", nil, []string{"gateways: sofia xmlstatus gateway: more than 32 elements within each other: no gateway is known, so carriers can be banned: add their addresses to ignoreip"}},
		"too long":               {"<" + strings.Repeat(" ", maxReply), "", nil, []string{"gateways: FreeSWITCH answers sofia xmlstatus gateway with 8388609 bytes, more than 8388608: no gateway is known, so carriers can be banned: add their addresses to ignoreip"}},
		"not where it should be": {"<x><gateways><gateway><proxy>sip:sbc</proxy></gateway></gateways></x>", "", nil, nil},
		"no configuration":       {status([4]string{"c1", "sip:sbc", "", ""}), "can't find anything\n", []string{"192.0.2.4/32 gateway c1 (sbc)"}, []string{`gateways: outbound proxies: FreeSWITCH answers xml_locate configuration configuration name sofia.conf with "can't find anything": known gateways stay on the never-ban list, new ones can be banned`}},
		"outbound proxies": {status([4]string{"c1", "sip:sbc", "", ""}), `<configuration name="sofia.conf"><profiles>
			<profile name="internal"><gateways><gateway name="c1"><param name="outbound-proxy" value="198.51.100.66"></param></gateway></gateways></profile>
			<profile name="external"><gateways><gateway name="c1"><param name="password" value="x"></param>
			<param name="register-proxy" value="sip:edge.carrier.example"></param><param name="outbound-proxy" value="198.51.100.8:5080"></param></gateway>
			<gateway name="unloaded"><param name="outbound-proxy" value="198.51.100.67"></param></gateway></gateways></profile></profiles></configuration>`,
			[]string{"192.0.2.3/32 gateway c1 (edge.carrier.example)", "192.0.2.4/32 gateway c1 (sbc)", "198.51.100.8/32 gateway c1"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &switchboard{replies: map[string]string{askGateways: test.status, askSofia: test.sofia}}
				r := start(t, Options{API: s.API, Resolver: &zone{hosts: zoned}})
				synctest.Wait()
				r.want(t, test.want...)
				r.wantProblems(t, test.problems...)
			})
		})
	}
}

func TestGatewaysStayWhileFreeSWITCHCannotNameThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		both := status([4]string{"c1", "sip:198.51.100.7", "", ""}, [4]string{"c2", "sip:sbc.example", "", ""})
		s := &switchboard{replies: map[string]string{askGateways: both, askSofia: noSofia}}
		z := &zone{hosts: map[string][]string{"sbc.example": {"192.0.2.4"}}}
		r := start(t, Options{API: s.API, Resolver: z})
		step := func(d time.Duration) { time.Sleep(d); synctest.Wait() }
		step(0)
		all := []string{"192.0.2.4/32 gateway c2 (sbc.example)", "198.51.100.7/32 gateway c1"}
		r.want(t, all...)

		s.set(func() { s.err = errors.New("event socket is not connected") })
		step(time.Hour)
		r.want(t, all...)
		r.wantProblems(t, "gateways: event socket is not connected: known gateways stay on the never-ban list, new ones can be banned")

		// It has restarted, and has not loaded all profiles yet.
		s.set(func() {
			s.err = nil
			s.replies[askGateways] = status([4]string{"c1", "sip:198.51.100.8", "", ""})
		})
		r.Refresh()
		step(refreshGap)
		r.want(t, "192.0.2.4/32 gateway c2 (sbc.example)", "198.51.100.8/32 gateway c1")
		r.wantProblems(t)
		step(refreshEvery)
		s.set(func() { s.replies[askGateways] = both })
		step(refreshEvery)
		r.want(t, all...)

		s.set(func() { s.replies[askGateways] = status() })
		r.Refresh()
		step(gatewayStays - time.Minute)
		r.want(t, all...)
		step(refreshEvery)
		r.want(t)
		r.wantProblems(t)
	})
}

func TestGatewaysWithAddressesDoNotWaitForNameServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &switchboard{replies: map[string]string{askSofia: noSofia,
			askGateways: status([4]string{"c1", "sip:198.51.100.7", "", ""}, [4]string{"c2", "sip:sbc.example", "", ""})}}
		r := start(t, Options{API: s.API, Resolver: &zone{slow: time.Hour}})
		synctest.Wait()
		r.want(t, "198.51.100.7/32 gateway c1")
		r.wantProblems(t)
		time.Sleep(nameTimeout)
		synctest.Wait()
		r.want(t, "198.51.100.7/32 gateway c1")
		r.wantProblems(t, "gateway c2: sbc.example does not resolve: the name server does not answer: it can be banned")
	})
}

func TestGatewaysAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var many [][4]string
		for i := range maxGateways + 5 {
			many = append(many, [4]string{fmt.Sprintf("c%d", i), fmt.Sprintf("sip:10.0.%d.%d", i/256, i%256), "", ""})
		}
		s := &switchboard{replies: map[string]string{askGateways: status(many...), askSofia: noSofia}}
		r := start(t, Options{API: s.API, Resolver: &zone{}})
		synctest.Wait()
		if entries, _ := r.Status(); len(entries) < maxGateways || len(entries) > maxGateways+100 {
			t.Errorf("%d entries", len(entries))
		}
		r.wantProblems(t, "gateways: more than 1000: the rest is left out")
	})
}

func TestGatewaysCanBeLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &switchboard{err: errors.New("asked")}
		r := start(t, Options{API: s.API, NoGateways: true})
		synctest.Wait()
		r.wantProblems(t)
	})
}

func TestHostOf(t *testing.T) {
	for uri, want := range map[string]string{
		"sip:host": "host", "SIPS:Host.Example.:5061": "host.example", "host:5060": "host", "<sip:u@host;lr>": "host", `"x" <sip:host>`: "host",
		"sip:u;x=1@host:5060;transport=tcp": "host", "192.0.2.1:5060": "192.0.2.1", "[2001:db8::1]:5060": "2001:db8::1", "2001:db8::1": "2001:db8::1",
		"": "", "sip:": "", "[": "", "<": "", "@": "", "host?x": "host",
	} {
		if got := hostOf(uri); got != want {
			t.Errorf("%q: %q, want %q", uri, got, want)
		}
	}
}

// FuzzGateways: for any answer of FreeSWITCH, every entry is a single address.
func FuzzGateways(f *testing.F) {
	f.Add([]byte(status([4]string{"c1", "sip:198.51.100.7", "carrier.example", "&lt;sip:a@b&gt;"})))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &switchboard{replies: map[string]string{askGateways: string(data), askSofia: string(data)}}
		g := newGatewayWatch(New(Options{API: s.API, Resolver: &zone{}}))
		g.look(t.Context())
		for _, e := range g.watcher.reports[gateways].entries {
			if !e.Prefix.IsSingleIP() || e.Prefix.Addr().IsUnspecified() || strings.ContainsFunc(e.Origin, func(r rune) bool { return r < ' ' }) {
				t.Errorf("%v from %q", e, data)
			}
		}
		if !slices.IsSortedFunc(g.watcher.reports[gateways].entries, compare) {
			t.Error("not sorted")
		}
	})
}
