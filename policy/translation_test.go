package policy

import (
	"net/netip"
	"testing"
	"time"
)

// own are prefixes of an operator's translators, one of each length of RFC 6052.
var own = []netip.Prefix{
	netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("2001:db9:100::/40"), netip.MustParsePrefix("2001:dba:122::/48"),
	netip.MustParsePrefix("2001:dbb:122:300::/56"), netip.MustParsePrefix("2001:dbc:122:344::/64"), netip.MustParsePrefix("2001:dbd:122:344::/96"),
	netip.MustParsePrefix("64:ff9b:1:abcd::/64"),
}

// The IPv4 address is 192.0.2.33 throughout, as in the table of RFC 6052, section 2.4.
func TestATranslatedAddressCountsAsTheIPv4AddressInIt(t *testing.T) {
	for _, tc := range []struct{ name, addr, host, network, stands string }{
		{"NAT64", "64:ff9b::c000:221", "64:ff9b::c000:221/128", "64:ff9b::c000:200/120", "192.0.2.33/32"},
		{"6to4", "2002:c000:221:7::9", "2002:c000:221::/48", "2002:c000:200::/40", "192.0.2.33/32"},
		{"Teredo", "2001:0:4136:e378:8000:63bf:3fff:fdde", "2001:0:4136:e378:8000:63bf:3fff:fdde/128", "2001:0:4136:e378:8000:63bf:3fff:fdde/128", "192.0.2.33/32"},
		{"local use, /48", "64:ff9b:1:c000:2:2100::", "64:ff9b:1:c000:2:2100::/128", "64:ff9b:1:c000:2:2100::/128", "192.0.2.33/32"},
		{"local use, /56", "64:ff9b:1:12c0:0:221::", "64:ff9b:1:12c0:0:221::/128", "64:ff9b:1:12c0:0:221::/128", "192.0.2.33/32"},
		{"local use, /64", "64:ff9b:1:1234:c0:2:2100:0", "64:ff9b:1:1234:c0:2:2100:0/128", "64:ff9b:1:1234:c0:2:2100:0/128", "192.0.2.33/32"},
		{"local use, /96", "64:ff9b:1::c000:221", "64:ff9b:1::c000:221/128", "64:ff9b:1::c000:221/128", "192.0.2.33/32"},
		{"local use, named as our own", "64:ff9b:1:abcd:c0:2:2100:0", "64:ff9b:1:abcd:c0:2:2100:0/104", "64:ff9b:1:abcd:c0:2::/96", "192.0.2.33/32"},
		{"own /32", "2001:db8:c000:221::", "2001:db8:c000:221::/64", "2001:db8:c000:200::/56", "192.0.2.33/32"},
		{"own /40", "2001:db9:1c0:2:21::", "2001:db9:1c0:2:21::/80", "2001:db9:1c0:2::/64", "192.0.2.33/32"},
		{"own /48", "2001:dba:122:c000:2:2100::", "2001:dba:122:c000:2:2100::/88", "2001:dba:122:c000:2::/80", "192.0.2.33/32"},
		{"own /56", "2001:dbb:122:3c0:0:221::", "2001:dbb:122:3c0:0:221::/96", "2001:dbb:122:3c0:0:200::/88", "192.0.2.33/32"},
		{"own /64", "2001:dbc:122:344:c0:2:2100:0", "2001:dbc:122:344:c0:2:2100:0/104", "2001:dbc:122:344:c0:2::/96", "192.0.2.33/32"},
		{"own /96", "2001:dbd:122:344::c000:221", "2001:dbd:122:344::c000:221/128", "2001:dbd:122:344::c000:200/120", "192.0.2.33/32"},
		{"own /64, another suffix", "2001:dbc:122:344:c0:2:2100:7", "2001:dbc:122:344:c0:2:2100:0/104", "2001:dbc:122:344:c0:2::/96", "192.0.2.33/32"},
		{"own /64, reserved octet set", "2001:dbc:122:344:1c0:2:2100:0", "2001:dbc:122:344:1c0:2:2100:0/128", "2001:dbc:122:344:1c0:2:2100:0/128", ""},
		{"beside an own /96", "2001:dbd:122:344:0:1:c000:221", "2001:dbd:122:344:0:1:c000:221/128", "2001:dbd:122:344:0:1:c000:221/128", ""},
		{"beside NAT64", "64:ff9b::1:0:0", "64:ff9b::1:0:0/128", "64:ff9b::1:0:0/128", ""},
		{"mapped", "::ffff:192.0.2.33", "192.0.2.33/32", "192.0.2.0/24", "192.0.2.33/32"},
		{"IPv4", "192.0.2.33", "192.0.2.33/32", "192.0.2.0/24", "192.0.2.33/32"},
		{"IPv6", "2001:dbe:c000:221::1", "2001:dbe:c000:221::/64", "2001:dbe:c000:221::/64", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			addr := netip.MustParseAddr(tc.addr)
			host := NewEngine(jail(), NeverBan{}, Options{NAT64Prefixes: own})
			network := NewEngine(jail(), NeverBan{}, Options{NAT64Prefixes: own, IPv4Prefix: 24})
			if got := host.Prefix(addr).String(); got != tc.host {
				t.Errorf("counted by host: %s, want %s", got, tc.host)
			}
			if got := network.Prefix(addr).String(); got != tc.network {
				t.Errorf("counted by network: %s, want %s", got, tc.network)
			}
			if got := network.KnownGoodPrefix(addr).String(); got != tc.host {
				t.Errorf("known-good together: %s, want %s", got, tc.host)
			}
			if bits, home := network.PrefixLengths(addr); bits > network.Prefix(addr).Bits() || home > network.KnownGoodPrefix(addr).Bits() {
				t.Errorf("rules ban %v, and nothing wider than /%d", network.Prefix(addr), bits)
			}
			for _, listed := range []string{"192.0.2.33/32", "192.0.0.0/16"} {
				host.SetNeverBan(never("ignoreip", listed))
				d := host.Observe(failure(addr, 0))
				if spared := d.Verdict == Spared; spared != (tc.stands != "") {
					t.Errorf("%s is never banned: %v %v", listed, d.Verdict, d.Prefix)
				}
			}
			host.SetNeverBan(never("ignoreip", "198.51.100.0/24", "192.0.2.32/32"))
			if d := host.Observe(failure(addr, 0)); d.Verdict != Counted {
				t.Errorf("others are never banned: %v", d.Verdict)
			}
		})
	}
}

func TestOneAttackerBehindATranslatorBansNobodyElse(t *testing.T) {
	for _, tc := range []struct{ name, attacker, customer string }{
		{"NAT64", "64:ff9b::cb00:7110", "64:ff9b::c633:6401"},
		{"local-use NAT64", "64:ff9b:1::cb00:7110", "64:ff9b:1::c633:6401"},
		{"own /96", "2001:dbd:122:344::cb00:7110", "2001:dbd:122:344::c633:6401"},
		{"own /64", "2001:dbc:122:344:cb:71:1000:0", "2001:dbc:122:344:c6:3364:100:0"},
		{"6to4", "2002:cb00:7110::1", "2002:c633:6401::1"},
		{"Teredo", "2001:0:4136:e378:8000:63bf:34ff:8eef", "2001:0:4136:e378:8000:63bf:39cc:9bfe"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e := NewEngine(jail(), NeverBan{}, Options{NAT64Prefixes: own})
			attacker, customer := netip.MustParseAddr(tc.attacker), netip.MustParseAddr(tc.customer)
			bansAt(e, customer, seconds(0, 1, 2, 3)...)
			if got := bansAt(e, attacker, seconds(4, 5, 6, 7, 8)...); len(got) != 1 || got[0] != 5 {
				t.Errorf("bans at %v", got)
			}
			if e.Prefix(attacker).Contains(customer) || e.Why(customer).Rules[0].Count != 4 {
				t.Errorf("%v holds %v, or counts as it", e.Prefix(attacker), customer)
			}
			e.Observe(Attempt{Addr: customer, At: start.Add(time.Minute), Kind: AuthSuccess, User: "1000"})
			if _, known := e.KnownGood(customer); !known {
				t.Error("the customer is not known-good")
			}
			if g, known := e.KnownGood(attacker); known {
				t.Errorf("the attacker is known-good: %+v", g)
			}
		})
	}
}

// A known-good host of a network that counts as one counts alone, in either family.
func TestAKnownGoodHostBehindATranslatorCountsAlone(t *testing.T) {
	e := NewEngine(jail(), NeverBan{}, Options{IPv4Prefix: 24})
	home := netip.MustParseAddr("64:ff9b::c000:221")
	e.Observe(Attempt{Addr: home, At: start, Kind: AuthSuccess, User: "1000"})
	for addr, want := range map[string]string{"64:ff9b::c000:221": "64:ff9b::c000:221/128", "64:ff9b::c000:222": "64:ff9b::c000:200/120"} {
		if got := e.Prefix(netip.MustParseAddr(addr)).String(); got != want {
			t.Errorf("%s counts as %s, want %s", addr, got, want)
		}
	}
	if g, ok := e.KnownGood(home); !ok || g.Prefix.String() != "64:ff9b::c000:221/128" {
		t.Errorf("known-good: %+v %t", g, ok)
	}
}

func TestEverybodyBehindATranslatorIsRecognized(t *testing.T) {
	e := NewEngine(jail(), NeverBan{}, Options{NAT64Prefixes: own})
	for p, want := range map[string]bool{
		"0.0.0.0/0": true, "::/0": true, "64:ff9b::/96": true, "64:ff9b::/64": true, "64:ff9b::/97": false, "64:ff9b::c000:221/128": false,
		"64:ff9b:1::/48": true, "64:ff9b:1:7::/64": true, "64:ff9b:1:7::/96": true, "64:ff9b:1:7::/97": false, "64:ff9b:1:abcd:c0::/80": false,
		"64:ff9b:1:abcd::/64": true, "2001:db8::/32": true, "2001:dbc:122:344::/64": true, "2001:dbd:122:344::/96": true, "2001:dbd:122:344::/64": true,
		"2001:dbd:122:344:0:1::/96": false, "2001:dbe::/32": false, "2002::/16": false, "2001::/32": false, "192.0.0.0/8": false,
	} {
		if got := e.CoversAll(netip.MustParsePrefix(p)); got != want {
			t.Errorf("%s: %t", p, got)
		}
	}
}

func TestWhatCoversNeverBannedIPv4IsNeverBanned(t *testing.T) {
	e := NewEngine(jail(), never("ignoreip", "192.0.2.33/32"), Options{NAT64Prefixes: own})
	for p, want := range map[string]bool{
		"64:ff9b::/96": true, "64:ff9b::c000:0/112": true, "64:ff9b::c633:0/112": false, "2002:c000::/24": true, "2002:c600::/24": false,
		"2001:db8:c000::/48": true, "2001:db8:c600::/48": false, "2001:dbc:122:344:c0::/80": true, "64:ff9b:1:7::/96": true,
		"2001:dbc:122:344:c0:2:2100:0/104": true, "2001:dbc:122:344:c0:2:2200:0/104": false,
	} {
		if entry, got := e.NeverBan().Match(netip.MustParsePrefix(p)); got != want || got && entry.Origin != "ignoreip" {
			t.Errorf("%s: %t", p, got)
		}
	}
	e.SetRules(jail(), Options{})
	if _, got := e.NeverBan().Match(netip.MustParsePrefix("2001:dbc:122:344:c0:2:2100:0/104")); got {
		t.Error("what was a prefix of our own stands for IPv4 still")
	}
}

func TestAPrefixOfATranslatorIsChecked(t *testing.T) {
	for _, p := range append(own, netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1:7::/96")) {
		if err := CheckNAT64(p); err != nil {
			t.Error(err)
		}
	}
	for p, want := range map[string]string{
		"192.0.2.0/24":          "192.0.2.0/24 is not an IPv6 prefix",
		"::ffff:0:0/96":         "::ffff:0.0.0.0/96 is not an IPv6 prefix",
		"2001:db8::/33":         "2001:db8::/33 is no length of a NAT64 prefix: write /32, /40, /48, /56, /64 or /96 (RFC 6052)",
		"2001:db8::1/96":        "2001:db8::1/96 has bits beyond its length: write 2001:db8::/96",
		"2001:db8:0:0:100::/96": "2001:db8:0:0:100::/96 has bits set between 64 and 71, which RFC 6052 keeps zero",
		"2002:c000::/32":        "2002:c000::/32 overlaps 6to4 (2002::/16) or Teredo (2001::/32)",
		"2001::/32":             "2001::/32 overlaps 6to4 (2002::/16) or Teredo (2001::/32)",
	} {
		if err := CheckNAT64(netip.MustParsePrefix(p)); err == nil || err.Error() != want {
			t.Errorf("%s: %v", p, err)
		}
	}
}

// For any address, the counted prefix contains it, its layouts agree, and no lookup allocates.
func FuzzATranslatedPrefixHoldsItsAddress(f *testing.F) {
	for _, p := range own {
		raw := p.Addr().As16()
		f.Add(raw[:], uint8(24))
	}
	f.Fuzz(func(t *testing.T, raw []byte, bits uint8) {
		addr, ok := netip.AddrFromSlice(raw)
		if !ok {
			return
		}
		e := NewEngine(jail(), never("ignoreip", "192.0.2.33/32"), Options{NAT64Prefixes: own, IPv4Prefix: 8 + int(bits)%25})
		addr = addr.Unmap()
		counted, home := e.Prefix(addr), e.KnownGoodPrefix(addr)
		if !counted.Contains(addr) || !home.Contains(addr) || !counted.Contains(home.Addr()) || counted.Bits() > home.Bits() && counted != home {
			t.Fatalf("%v counts as %v and is known-good as %v", addr, counted, home)
		}
		if e.CoversAll(counted) {
			t.Fatalf("%v counts as everybody: %v", addr, counted)
		}
		if l, ok := e.never.translation.of(addr); ok && l != unknownLayout {
			for n := range 33 {
				p, _ := addr.Prefix(l.bits(n))
				if v4 := l.ipv4(p); v4.Bits() != n {
					t.Fatalf("%v of layout %d is %v, want /%d", p, l, v4, n)
				}
			}
		}
		if n := testing.AllocsPerRun(10, func() { e.Prefix(addr) }); n > 0 {
			t.Fatalf("%v allocations", n)
		}
	})
}
