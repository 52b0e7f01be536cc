package neverban

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestLookup(t *testing.T) {
	busy := errors.New("server misbehaving")
	for name, test := range map[string]struct {
		zone  *zone
		known []string
		want  []string
		err   string
	}{
		"addresses":              {&zone{hosts: map[string][]string{"a.example": {"192.0.2.2", "::ffff:192.0.2.1", "2001:db8::1%eth0", "192.0.2.2"}}}, nil, []string{"192.0.2.1", "192.0.2.2", "2001:db8::1"}, ""},
		"none, never":            {&zone{}, nil, nil, "no such host"},
		"none any more":          {&zone{}, []string{"192.0.2.9"}, []string{"192.0.2.9"}, "no such host"},
		"others now":             {&zone{hosts: map[string][]string{"a.example": {"192.0.2.1"}}}, []string{"192.0.2.9"}, []string{"192.0.2.1"}, ""},
		"nobody's":               {&zone{hosts: map[string][]string{"a.example": {"0.0.0.0", "::", "224.0.0.1"}}}, []string{"192.0.2.9"}, []string{"192.0.2.9"}, "no usable address"},
		"services":               {&zone{srv: map[string][]string{"_sip._udp.a.example": {"s1.example.", "s2.example."}, "_sips._tcp.a.example": {"."}}, hosts: map[string][]string{"s1.example": {"192.0.2.1"}, "s2.example": {"192.0.2.2"}}}, []string{"192.0.2.9"}, []string{"192.0.2.1", "192.0.2.2"}, ""},
		"services and an own":    {&zone{srv: map[string][]string{"_sip._tcp.a.example": {"s1.example."}}, hosts: map[string][]string{"s1.example": {"192.0.2.1"}, "a.example": {"192.0.2.3"}}}, nil, []string{"192.0.2.1", "192.0.2.3"}, ""},
		"a service is silent":    {&zone{broken: map[string]error{"_sip._udp.a.example": busy}, hosts: map[string][]string{"a.example": {"192.0.2.3"}}}, []string{"192.0.2.1"}, []string{"192.0.2.3", "192.0.2.1"}, ""},
		"a target is gone":       {&zone{srv: map[string][]string{"_sip._tcp.a.example": {"s1.example.", "s2.example."}}, hosts: map[string][]string{"s2.example": {"192.0.2.2"}}}, []string{"192.0.2.1"}, []string{"192.0.2.2", "192.0.2.1"}, ""},
		"the server is silent":   {&zone{slow: time.Hour}, []string{"192.0.2.1"}, []string{"192.0.2.1"}, "the name server does not answer"},
		"the server is unwell":   {&zone{broken: map[string]error{"a.example": busy}}, []string{"192.0.2.1"}, []string{"192.0.2.1"}, "server misbehaving"},
		"a target is no name":    {&zone{srv: map[string][]string{"_sip._tcp.a.example": {"a b", ""}}}, nil, nil, "no such host"},
		"an address as a target": {&zone{srv: map[string][]string{"_sip._tcp.a.example": {"s1.example."}}, hosts: map[string][]string{"s1.example": {"127.0.0.1"}}}, nil, []string{"127.0.0.1"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				l := &lookup{names: newNames(test.zone), services: true, known: map[string]answer{"a.example": {addrs: parsed(test.known)}}}
				a := l.resolve(t.Context(), []string{"a.example"})["a.example"]
				if !slices.Equal(a.addrs, parsed(test.want)) {
					t.Errorf("%v, want %v", a.addrs, test.want)
				}
				if (a.err != nil || test.err != "") && (a.err == nil || reason(a.err) != test.err) {
					t.Errorf("error %v, want %q", a.err, test.err)
				}
				if took := time.Since(began); took > nameTimeout {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}

func parsed(list []string) []netip.Addr {
	var addrs []netip.Addr
	for _, s := range list {
		addrs = append(addrs, netip.MustParseAddr(s))
	}
	return addrs
}

func TestLookupIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := &zone{slow: time.Second, hosts: make(map[string][]string), srv: make(map[string][]string)}
		var names []string
		for i := range 200 {
			names = append(names, fmt.Sprintf("h%d.example", i))
			z.hosts[names[i]] = []string{"192.0.2.1"}
		}
		for i := range 1000 {
			z.hosts["h0.example"] = append(z.hosts["h0.example"], fmt.Sprintf("10.0.%d.%d", i/256, i%256))
			z.srv["_sip._udp.h1.example"] = append(z.srv["_sip._udp.h1.example"], fmt.Sprintf("s%d.example.", i))
		}
		l := &lookup{names: newNames(z), services: true}
		answers := l.resolve(t.Context(), names)
		if n := len(answers["h0.example"].addrs); n != maxPerName {
			t.Errorf("%d addresses, want %d", n, maxPerName)
		}
		if z.mostNow != maxLookups {
			t.Errorf("%d questions at once, want %d", z.mostNow, maxLookups)
		}
		if n := len(z.asked); n > 4*200+maxTargets {
			t.Errorf("%d questions", n)
		}

		// A thousand names and a silent server: the lookup ends, and known addresses stay.
		z.slow = time.Hour
		began := time.Now()
		for i := range 800 {
			names = append(names, fmt.Sprintf("i%d.example", i))
		}
		answers = l.resolve(t.Context(), names)
		if took := time.Since(began); took > refreshEvery+nameTimeout || len(answers) != 1000 || len(answers["h7.example"].addrs) != 1 {
			t.Errorf("took %v for %d answers; h7 is %v", took, len(answers), answers["h7.example"])
		}

		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		began = time.Now()
		l.resolve(ctx, names)
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("took %v after its context has ended", took)
		}
	})
}

func TestHostNames(t *testing.T) {
	for s, want := range map[string]bool{
		"sip.carrier.example": true, "carrier": true, "_sip.a-b.example.": true, "": false, ".": false, "a..b": false,
		"a b": false, "a/b": false, "a\x00b": false, "2001:db8::1": false, "é.example": false,
	} {
		if got := isHostName(s); got != want {
			t.Errorf("%q: %v, want %v", s, got, want)
		}
	}
}

func TestDefaultResolverIsOne(t *testing.T) {
	if w := New(Options{}); w.names.resolver != Resolver(net.DefaultResolver) {
		t.Errorf("resolver %v", w.names.resolver)
	}
}
