package neverban

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"
)

// A program in the place of FreeSWITCH may answer with anything up to the bound of a reply.
func TestAnEventSocketThatLiesCostsLittle(t *testing.T) {
	repeat := func(before, part, after string) string {
		return before + strings.Repeat(part, (maxReply-len(before)-len(after))/len(part)) + after
	}
	for name, reply := range map[string]string{
		"a value in a million parts":  repeat("<gateways><gateway><name>", "a<!---->", "</name></gateway></gateways>"),
		"a value of 8 MiB":            repeat("<gateways><gateway><proxy>", "a", "</proxy></gateway></gateways>"),
		"gateways without end":        repeat("<gateways>", "<gateway/>", "</gateways>"),
		"gateways of one value":       repeat("<gateways>", "<gateway><proxy>a</proxy></gateway>", "</gateways>"),
		"nested elements":             repeat("", "<a>", ""),
		"attributes without end":      repeat("<gateways ", "a='b' ", "></gateways>"),
		"profiles without end":        repeat("<configuration><profiles>", "<profile name='a'/>", "</profiles></configuration>"),
		"one name of an element":      repeat("<", "a", ">"),
		"entities":                    repeat("<!DOCTYPE x [<!ENTITY a 'aaaaaaaa'>]><gateways>", "&a;", "</gateways>"),
		"access lists without end":    repeat("<configuration><network-lists>", "<list/>", "</network-lists></configuration>"),
		"nodes without end":           repeat("<configuration><network-lists><list default='deny'>", "<node/>", "</list></network-lists></configuration>"),
		"prefixes without end":        repeat("<configuration><network-lists><list><node cidr='", "1.2.3.4/32,", "'/></list></network-lists></configuration>"),
		"not XML":                     repeat("<", "\x00\xff", ""),
		"more than a reply may have":  strings.Repeat("<", maxReply+1),
		"a document without its end":  "<gateways><gateway><name>a",
		"an instruction without end":  repeat("<?xml version='1.0' ", "x", ""),
		"a comment without end":       repeat("<!--", "x", ""),
		"a million processing orders": repeat("<gateways>", "<?a?>", "</gateways>"),
	} {
		t.Run(name, func(t *testing.T) {
			s := &switchboard{replies: map[string]string{askGateways: reply, askSofia: reply, askACL: reply}}
			w := New(Options{API: s.API, Resolver: &zone{}, ACLs: []string{"lan"}})
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			began := time.Now()
			newGatewayWatch(w).look(t.Context())
			(&aclWatch{watcher: w}).look(t.Context())
			took := time.Since(began)
			runtime.ReadMemStats(&after)
			t.Logf("%v, %d MiB", took.Round(time.Millisecond), (after.TotalAlloc-before.TotalAlloc)>>20)
			if took > time.Minute { // the value in a million parts took 48 s of copying
				t.Errorf("it takes %v", took)
			}
			if n := (after.TotalAlloc - before.TotalAlloc) >> 20; n > 2000 {
				t.Errorf("%d MiB allocated", n)
			}
		})
	}
}

// A name server may send as many records as fit into a message, with any name and address in them, or be silent.
func TestANameServerThatLiesCostsLittle(t *testing.T) {
	flood := &liar{}
	for i := range 20_000 {
		flood.addrs = append(flood.addrs, netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))
		flood.records = append(flood.records, &net.SRV{Target: fmt.Sprintf("h%d.example.", i)})
	}
	odd := &liar{}
	for _, a := range []string{"0.0.0.0", "::", "ff02::1", "224.0.0.1", "fe80::1%eth0", "::ffff:198.51.100.7", "255.255.255.255"} {
		odd.addrs = append(odd.addrs, netip.MustParseAddr(a))
	}
	odd.addrs = append(odd.addrs, netip.Addr{})
	for _, name := range []string{"", ".", "..", "\x1b[2J.", "\u202e.", strings.Repeat("a.", 200), "-", strings.Repeat("a", 70) + ".example."} {
		odd.records = append(odd.records, &net.SRV{Target: name})
	}
	for name, c := range map[string]struct {
		resolver *liar
		most     int
	}{"a flood": {flood, maxPerName}, "oddities": {odd, 3}} {
		t.Run(name, func(t *testing.T) {
			l := &lookup{names: newNames(c.resolver), services: true}
			a := l.resolve(t.Context(), []string{"sip.carrier.example"})["sip.carrier.example"]
			if len(a.addrs) > c.most {
				t.Errorf("%d addresses", len(a.addrs))
			}
			for _, addr := range a.addrs {
				if addr.Is4In6() || addr.Zone() != "" || addr.IsUnspecified() || addr.IsMulticast() {
					t.Errorf("%v", addr)
				}
			}
			if asked := c.resolver.asked; asked > 4+3*maxTargets {
				t.Errorf("%d queries", asked)
			}
		})
	}
}

// A liar answers each query with the same records.
type liar struct {
	addrs   []netip.Addr
	records []*net.SRV
	asked   int
}

func (l *liar) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	l.asked++
	return append([]netip.Addr(nil), l.addrs...), nil
}

func (l *liar) LookupSRV(context.Context, string, string, string) (string, []*net.SRV, error) {
	l.asked++
	return "", l.records, nil
}
