package firewall

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"
)

func number(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, uint32(i)))), 32)
}

func TestQueueIsBounded(t *testing.T) {
	SetMaxOrders(t, 1000)
	q := newQueue()
	for i := range maxOrders {
		q.put(Order{Prefix: number(i), Add: true})
	}
	if waiting, _, _, overflows := q.counts(); waiting != maxOrders || overflows != 0 || q.losses() != (loss{}) {
		t.Errorf("%d orders, %d overflows", waiting, overflows)
	}
	q.put(Order{Prefix: number(7)}) // in place of another order
	q.put(Order{Prefix: number(maxOrders), Add: true})
	if waiting, _, _, overflows := q.counts(); waiting != maxOrders || overflows != 1 {
		t.Errorf("%d orders, %d overflows", waiting, overflows)
	}
	if lost := q.losses(); lost != (loss{bans: true}) {
		t.Errorf("lost %+v", lost)
	}
	taken, _ := q.take(time.Now())
	failed := make([]Order, 0, len(taken))
	for _, o := range taken {
		failed = append(failed, o)
	}
	q.done(failed)
	q.putIfNone(Order{Prefix: number(maxOrders + 1)})
	if waiting, stuck, _, overflows := q.counts(); waiting != maxOrders || stuck != maxOrders || overflows != 2 {
		t.Errorf("%d orders, %d stuck, %d overflows", waiting, stuck, overflows)
	}
	if lost := q.losses(); lost != (loss{unbans: true}) || q.losses() != (loss{}) {
		t.Errorf("lost %+v", lost)
	}
}

// A ban that has ended before the kernel took it becomes an unban, wherever it waited.
func TestExpiredBansBecomeUnbans(t *testing.T) {
	now := time.Now()
	q := newQueue()
	q.put(Order{Prefix: number(1), Add: true, Until: now.Add(time.Second), Cause: Cause{Read: now}})
	q.put(Order{Prefix: number(2), Add: true, Until: now.Add(time.Hour)})
	q.put(Order{Prefix: number(3), Add: true})
	q.put(Order{Prefix: number(4)})
	q.restore([]Order{{Prefix: number(5), Add: true, Until: now.Add(time.Second)}})
	for _, test := range []struct {
		after time.Duration
		adds  int
		total uint64
	}{{0, 4, 0}, {time.Second, 2, 2}, {time.Minute, 2, 2}, {2 * time.Hour, 1, 3}} {
		taken, _ := q.take(now.Add(test.after))
		adds, failed := 0, []Order(nil)
		for _, o := range taken {
			if o.Add {
				adds++
			}
			failed = append(failed, o)
		}
		if _, _, expired, _ := q.counts(); adds != test.adds || len(taken) != 5 || expired != test.total {
			t.Errorf("after %v: %d bans of %d orders, %d expired", test.after, adds, len(taken), expired)
		}
		q.done(failed)
		q.unstick()
	}
}

func TestWhatCanBeBanned(t *testing.T) {
	for _, p := range []string{"0.0.0.0/1", "192.0.2.1/32", "2001:db8::/64", "8000::/1", "::1/128", "64:ff9b::/96"} {
		if !CanBan(netip.MustParsePrefix(p)) {
			t.Errorf("%s cannot be banned", p)
		}
	}
	for _, p := range []string{"0.0.0.0/0", "::/0", "::/1", "::/64", "::ffff:0:0/96", "::ffff:0:0/97", "::ffff:192.0.2.1/128", "192.0.2.1/24", "2001:db8::1/64"} {
		if CanBan(netip.MustParsePrefix(p)) {
			t.Errorf("%s can be banned", p)
		}
	}
	if CanBan(netip.Prefix{}) {
		t.Error("the zero prefix can be banned")
	}
}
