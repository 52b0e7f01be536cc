package neverban

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// aclConf returns an acl.conf with the given content of network-lists.
func aclConf(lists string) string {
	return "<configuration name=\"acl.conf\" description=\"Network Lists\">\n  <network-lists>" + lists + "</network-lists>\n</configuration>\n"
}

func TestACLs(t *testing.T) {
	for name, test := range map[string]struct {
		lists          string
		want, problems []string
	}{
		"prefixes":               {`<list name="lan" default="deny"><node type="allow" cidr="198.51.100.0/24"></node><node type="allow" cidr="2001:db8::/32"/></list>`, []string{"198.51.100.0/24 acl lan", "2001:db8::/32 acl lan"}, nil},
		"another list's":         {`<list name="other" default="deny"><node type="allow" cidr="198.51.100.0/24"/></list><list name="lan" default="deny"/>`, nil, nil},
		"host and mask":          {`<list name="lan" default="deny"><node type="allow" host="198.51.100.77" mask="255.255.255.0"/></list>`, []string{"198.51.100.0/24 acl lan"}, nil},
		"a mask with a gap":      {`<list name="lan" default="deny"><node type="allow" host="198.51.100.77" mask="255.0.255.0"/></list>`, nil, []string{"acl lan: 198.51.100.77 with mask 255.0.255.0 is no prefix"}},
		"several in one":         {`<list name="lan" default="deny"><node type="allow" cidr="198.51.100.1/32, 198.51.100.3/32,::ffff:198.51.100.5/128"/></list>`, []string{"198.51.100.1/32 acl lan", "198.51.100.3/32 acl lan", "198.51.100.5/32 acl lan"}, nil},
		"no prefix":              {`<list name="lan" default="deny"><node type="allow" cidr="198.51.100.1"/><node type="deny" cidr="rubbish"/></list>`, nil, []string{`acl lan: "198.51.100.1" is no prefix`}},
		"not allowed":            {`<list name="lan" default="deny"><node type="deny" cidr="198.51.100.0/24"/><node cidr="203.0.113.0/24"/><node type="x" cidr="203.0.113.0/24"/></list>`, nil, nil},
		"words for allowed":      {`<list name="lan" default="no"><node type="TRUE" cidr="198.51.100.1/32"/><node type="1" cidr="198.51.100.3/32"/><node type="0" cidr="198.51.100.5/32"/></list>`, []string{"198.51.100.1/32 acl lan", "198.51.100.3/32 acl lan"}, nil},
		"a hole":                 {`<list name="lan" default="deny"><node type="allow" cidr="198.51.100.0/30"/><node type="deny" cidr="198.51.100.1/32"/></list>`, []string{"198.51.100.0/32 acl lan", "198.51.100.2/31 acl lan"}, nil},
		"allows everybody":       {`<list name="lan" default="allow"><node type="allow" cidr="198.51.100.0/24"/></list>`, nil, []string{`acl lan: its default is "allow": it allows everybody`}},
		"says no default":        {`<list name="lan"><node type="allow" cidr="198.51.100.0/24"/></list>`, nil, []string{`acl lan: its default is "allow": it allows everybody`}},
		"too wide":               {`<list name="lan" default="deny"><node type="allow" cidr="0.0.0.0/0"/><node type="allow" cidr="10.0.0.0/8"/><node type="allow" cidr="12.0.0.0/7"/><node type="allow" cidr="2000::/15"/><node type="allow" host="0.0.0.0" mask="0.0.0.0"/></list>`, []string{"10.0.0.0/8 acl lan"}, []string{"acl lan: 0.0.0.0/0 is wider than /8", "acl lan: 12.0.0.0/7 is wider than /8", "acl lan: 2000::/15 is wider than /16", "acl lan: 0.0.0.0/0 is wider than /8"}},
		"too wide, mapped":       {`<list name="lan" default="deny"><node type="allow" cidr="::ffff:0:0/96"/></list>`, nil, []string{"acl lan: 0.0.0.0/0 is wider than /8"}},
		"a domain":               {`<list name="lan" default="deny"><node type="allow" domain="pbx.example.com"/></list>`, nil, []string{"acl lan: the addresses of the users of pbx.example.com are not known here; write them into ignoreip"}},
		"ports":                  {`<list name="lan" default="deny"><node type="allow" cidr="198.51.100.0/24" port="5060"/></list>`, nil, []string{"acl lan: 198.51.100.0/24 is allowed for some ports only"}},
		"no such list":           {``, nil, []string{"acl lan: acl.conf.xml has no such list"}},
		"the last of that name":  {`<list name="lan" default="deny"><node type="allow" cidr="198.51.100.0/24"/></list><list name="lan" default="deny"/>`, nil, nil},
		"not where it should be": {`<x><list name="lan" default="deny"><node type="allow" cidr="198.51.100.0/24"/></list></x>`, nil, []string{"acl lan: acl.conf.xml has no such list"}},
		"too many nodes":         {`<list name="lan" default="deny">` + strings.Repeat(`<node type="allow" cidr="198.51.100.0/24"/>`, maxNodes+1) + `</list>`, nil, []string{"acl lan: more than 4096 nodes"}},
		"too many pieces":        {`<list name="lan" default="deny"><node type="allow" cidr="2001:db8::/32"/>` + scattered(maxNodes-1) + `</list>`, nil, []string{"acl lan: more than 10000 prefixes, once what it denies is cut out"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &switchboard{replies: map[string]string{askACL: aclConf(test.lists)}}
				r := start(t, Options{API: s.API, NoGateways: true, ACLs: []string{"lan"}})
				synctest.Wait()
				r.want(t, test.want...)
				r.wantProblems(t, test.problems...)
			})
		})
	}
}

// scattered denies n single addresses of 2001:db8::/32.
func scattered(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `<node type="deny" cidr="2001:db8:%x::1/128"/>`, i)
	}
	return b.String()
}

func TestACLWithAHoleAndAnAddressInIt(t *testing.T) {
	lists, err := parseACLs([]byte(aclConf(`<list name="lan" default="deny"><node type="deny" cidr="198.51.100.0/24"/>` +
		`<node type="allow" cidr="198.51.100.1/32"/><node type="allow" cidr="198.51.0.0/16"/></list>`)))
	if err != nil {
		t.Fatal(err)
	}
	prefixes, _ := lists["lan"].allowed()
	for s, want := range map[string]bool{"198.51.100.1": true, "198.51.100.2": false, "198.51.99.255": true, "198.51.101.0": true, "198.52.0.0": false} {
		if got := slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(netip.MustParseAddr(s)) }); got != want {
			t.Errorf("%s: %v, want %v", s, got, want)
		}
	}
}

func TestACLsThatFreeSWITCHMakesItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &switchboard{replies: map[string]string{askACL: aclConf("")}}
		r := start(t, Options{API: s.API, NoGateways: true, ACLs: []string{"rfc1918.auto", "loopback.auto", "rfc6598.auto", "localnet.auto", "wan.auto", "any_v4.auto"}})
		synctest.Wait()
		r.want(t, "10.0.0.0/8 acl rfc1918.auto", "100.64.0.0/10 acl rfc6598.auto", "127.0.0.0/8 acl loopback.auto", "172.16.0.0/12 acl rfc1918.auto",
			"192.168.0.0/16 acl rfc1918.auto", "::1/128 acl loopback.auto", "fe80::/10 acl rfc1918.auto")
		if _, problems, _ := r.last(); len(problems) != 3 || !strings.HasPrefix(problems[0], "acl any_v4.auto: FreeSWITCH makes this list up") {
			t.Errorf("problems %q", problems)
		}
	})
}

func TestKnownACLsStayWhileFreeSWITCHFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &switchboard{err: errors.New("event socket is not connected")}
		r := start(t, Options{API: s.API, NoGateways: true, ACLs: []string{"lan"}})
		synctest.Wait()
		r.want(t)
		r.wantProblems(t, "access lists: event socket is not connected: their addresses can be banned: add them to ignoreip")
		s.set(func() {
			s.err = nil
			s.replies = map[string]string{askACL: aclConf(`<list name="lan" default="deny"><node type="allow" cidr="198.51.100.0/24"/></list>`)}
		})
		r.Refresh()
		time.Sleep(refreshGap)
		synctest.Wait()
		r.want(t, "198.51.100.0/24 acl lan")
		r.wantProblems(t)
		for problem, reply := range map[string]string{
			`access lists: FreeSWITCH answers xml_locate configuration configuration name acl.conf with "can't find anything": their known addresses stay on the never-ban list`: "can't find anything\n",
			"access lists: acl.conf: XML syntax error on line 2: unexpected EOF: their known addresses stay on the never-ban list":                                               aclConf("")[:70],
		} {
			s.set(func() { s.replies[askACL] = reply })
			r.Refresh()
			time.Sleep(refreshGap)
			synctest.Wait()
			r.want(t, "198.51.100.0/24 acl lan")
			r.wantProblems(t, problem)
		}
	})
}

// TestACLAgreesWithFreeSWITCH compares the allowed prefixes of a list with FreeSWITCH's lookup of an address: of the nodes that
// contain it the longest decides, of equal ones the first.
func TestACLAgreesWithFreeSWITCH(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		var list acl
		for range 1 + random.IntN(12) {
			bits := 24 + random.IntN(9)
			p, _ := netip.AddrFrom4([4]byte{198, 51, 100, byte(random.IntN(256))}).Prefix(bits)
			list.nodes = append(list.nodes, node{p, random.IntN(2) == 0})
		}
		prefixes, problems := list.allowed()
		if len(problems) != 0 {
			t.Fatal(problems)
		}
		for last := range 256 {
			addr := netip.AddrFrom4([4]byte{198, 51, 100, byte(last)})
			want, bits := false, 0
			for _, n := range slices.Backward(list.nodes) {
				if n.prefix.Bits() >= bits && n.prefix.Contains(addr) {
					want, bits = n.allow, n.prefix.Bits()
				}
			}
			if got := slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr) }); got != want {
				t.Fatalf("%v: %v, want %v, with %v", addr, got, want, list.nodes)
			}
		}
	}
}

// FuzzACLs: no acl.conf allows a wider prefix than the limit.
func FuzzACLs(f *testing.F) {
	f.Add([]byte(aclConf(`<list name="lan" default="deny"><node type="allow" cidr="198.51.100.0/24"/><node type="deny" host="198.51.100.1" mask="255.255.255.255"/></list>`)))
	f.Fuzz(func(t *testing.T, data []byte) {
		lists, err := parseACLs(data)
		if err != nil {
			return
		}
		for _, l := range lists {
			prefixes, _ := l.allowed()
			for _, p := range prefixes {
				if !p.IsValid() || p.Bits() < widest(p) || p != p.Masked() || p.Addr().Is4In6() && p.Bits() >= 96 {
					t.Errorf("%v from %q", p, data)
				}
			}
		}
	})
}
