package firewall

import "testing"

// For the tests.
const (
	CompareEvery  = compareEvery
	Drift         = drift
	RestoreAtOnce = restoreAtOnce
	StopPatience  = stopPatience
)

// SetMaxOrders changes the bound of the queue until the end of the test.
func SetMaxOrders(t *testing.T, n int) {
	before := maxOrders
	maxOrders = n
	t.Cleanup(func() { maxOrders = before })
}
