package xtables

import (
	"context"
	"errors"
	"testing"

	"go.uber.org/goleak"

	"fsban/firewall"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open returns a backend that is closed with the test.
func open(t testing.TB, opts firewall.Options) *IPTables {
	t.Helper()
	b, err := NewIPTables(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// setUp makes sets and rules, as an enforcer does at its start.
func setUp(b firewall.Backend) error {
	_, err := b.Setup()
	v := b.Verify(context.Background())
	return errors.Join(err, v.Err)
}
