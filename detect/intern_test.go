package detect

import (
	"net/netip"
	"testing"
)

func TestIPv4ParsingAgreesWithNetip(t *testing.T) {
	for _, text := range []string{
		"192.0.2.7", "0.0.0.0", "255.255.255.255", "10.0.0.0", "0.1.2.3", "1.2.3", "1.2.3.", ".1.2.3", "1..2.3", "1.2.3.4.", "1.2.3.4.5", "1.2.3.4..",
		"01.2.3.4", "1.2.3.04", "00.1.2.3", "1.2.3.00", "256.1.2.3", "1.2.3.256", "1.2.3.999999999999999999999", "1.2.3.4 ", " 1.2.3.4", "+1.2.3.4",
		"1.2.3.-4", "1.2.3.4%eth0", "1.2.3.4/32", "1.2.3.4\x00", "a.b.c.d", "....", "...", ".", "", "1", "2001:db8::7", "::ffff:1.2.3.4", "::",
	} {
		want, err := netip.ParseAddr(text)
		got, ok := parseIPv4([]byte(text))
		if wanted := err == nil && want.Is4(); ok != wanted || ok && got != want {
			t.Errorf("%q: %v %t, want %v %t", text, got, ok, want, wanted)
		}
	}
}
