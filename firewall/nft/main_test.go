package nft

import (
	"net/netip"
	"testing"

	"fsban/firewall"
	"fsban/internal/kerneltest"
)

func TestMain(m *testing.M) { kerneltest.Main(m) }

// open returns a backend that is closed with the test.
func open(t testing.TB) *Backend {
	t.Helper()
	b, err := New(firewall.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// nth returns the prefix number i of a large network.
func nth(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
}
