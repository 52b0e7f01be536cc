package firewall

import (
	"maps"
	"net/netip"
	"sync"
	"time"
)

// maxOrders bounds the orders that wait for the kernel. Bans beyond it are restored by a later comparison; after unbans beyond
// it, entries that Bans does not yield are removed instead of adopted. It is a variable for tests.
var maxOrders = 1 << 18

// restoreAtOnce is the number of bans that are restored in one batch. It takes 20 to 100 ms, for which a new ban may wait.
const restoreAtOnce = 10_000

// A queue holds the orders that have not reached the kernel. A prefix is in one of the three maps at most, with the newest
// order for it.
type queue struct {
	mu        sync.Mutex
	pending   map[netip.Prefix]Order
	restoring map[netip.Prefix]Order // bans to restore, some at a time; no more than Bans yields
	stuck     map[netip.Prefix]Order // orders that failed and wait for the next try
	taken     int                    // orders that are being applied
	lost      loss                   // since the last call of losses
	expired   uint64                 // bans that ended before the kernel took them
	overflows uint64                 // orders beyond maxOrders
}

// A loss holds the kinds of orders that were dropped because the queue was full.
type loss struct{ bans, unbans bool }

func newQueue() *queue {
	return &queue{pending: make(map[netip.Prefix]Order), restoring: make(map[netip.Prefix]Order), stuck: make(map[netip.Prefix]Order)}
}

// put queues o in place of an older order for its prefix.
func (q *queue) put(o Order) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.putLocked(o)
}

// putIfNone queues o unless there is another order for its prefix.
func (q *queue) putIfNone(o Order) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.holds(o.Prefix) {
		q.putLocked(o)
	}
}

func (q *queue) putLocked(o Order) {
	delete(q.restoring, o.Prefix)
	delete(q.stuck, o.Prefix)
	if _, there := q.pending[o.Prefix]; !there && len(q.pending)+len(q.stuck)+q.taken >= maxOrders {
		q.overflows++
		q.lost.bans, q.lost.unbans = q.lost.bans || o.Add, q.lost.unbans || !o.Add
		return
	}
	q.pending[o.Prefix] = o
}

// losses returns and forgets which kinds of orders were dropped.
func (q *queue) losses() loss {
	q.mu.Lock()
	defer q.mu.Unlock()
	lost := q.lost
	q.lost = loss{}
	return lost
}

// restore queues bans that are missing in the kernel, and returns their number. A prefix with another order is left out.
func (q *queue) restore(orders []Order) (n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, o := range orders {
		if !q.holds(o.Prefix) {
			q.restoring[o.Prefix] = o
			n++
		}
	}
	return n
}

// has reports whether there is an order for prefix.
func (q *queue) has(prefix netip.Prefix) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.holds(prefix)
}

func (q *queue) holds(prefix netip.Prefix) bool {
	_, pending := q.pending[prefix]
	_, restoring := q.restoring[prefix]
	_, stuck := q.stuck[prefix]
	return pending || restoring || stuck
}

// take returns the pending orders and some of the bans to restore, and whether there are more of those. A ban that has ended
// meanwhile becomes an unban: the kernel may hold an older and longer ban of the same prefix.
func (q *queue) take(now time.Time) (orders map[netip.Prefix]Order, more bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	orders, q.pending = q.pending, make(map[netip.Prefix]Order)
	room := restoreAtOnce
	for p, o := range q.restoring {
		if room--; room < 0 {
			break
		}
		orders[p] = o
		delete(q.restoring, p)
	}
	if room < restoreAtOnce && len(q.restoring) == 0 {
		q.restoring = make(map[netip.Prefix]Order) // a map that was large keeps its memory
	}
	for p, o := range orders {
		if o.Add && !o.Until.IsZero() && !o.Until.After(now) {
			orders[p] = Order{Prefix: p}
			q.expired++
		}
	}
	q.taken = len(orders)
	return orders, len(q.restoring) > 0
}

// done follows take. Orders that failed are kept for the next try, unless there is a newer one for the prefix.
func (q *queue) done(failed []Order) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.taken = 0
	for _, o := range failed {
		if _, newer := q.pending[o.Prefix]; !newer {
			q.stuck[o.Prefix] = o
		}
	}
}

// clear drops all orders.
func (q *queue) clear() {
	q.mu.Lock()
	defer q.mu.Unlock()
	clear(q.pending)
	clear(q.restoring)
	clear(q.stuck)
	q.lost = loss{}
}

// unstick makes orders that failed pending again.
func (q *queue) unstick() {
	q.mu.Lock()
	defer q.mu.Unlock()
	maps.Copy(q.pending, q.stuck)
	clear(q.stuck)
}

// unbans returns the number of unbans that failed, and one of them.
func (q *queue) unbans() (n int, one netip.Prefix) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for p, o := range q.stuck {
		if !o.Add {
			n++
			one = p
		}
	}
	return n, one
}

// counts returns the number of orders in the queue, of those that failed, and the counters.
func (q *queue) counts() (waiting, stuck int, expired, overflows uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.pending) + len(q.restoring) + len(q.stuck) + q.taken, len(q.stuck), q.expired, q.overflows
}
