package testenv

import (
	"net"
	"testing"
)

func TestAddressesAreFreeAndDistinct(t *testing.T) {
	seen := make(map[string]bool)
	for range 100 {
		addr := Address(t)
		if seen[addr] {
			t.Fatalf("%s twice", addr)
		}
		seen[addr] = true
		for range 2 { // once and again
			l, err := net.Listen("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			_ = l.Close()
		}
	}
}

func TestAPortIsReservedUntilTheTestEnds(t *testing.T) {
	var first string
	t.Run("first", func(t *testing.T) {
		first = Address(t)
		nextPort.Add(^uint32(0)) // the same port is next
		if again := Address(t); again == first {
			t.Errorf("%s is given to two tests", again)
		}
	})
	nextPort.Add(^uint32(1))
	if again := Address(t); again != first {
		t.Errorf("%s, want %s: its test has ended", again, first)
	}
}
