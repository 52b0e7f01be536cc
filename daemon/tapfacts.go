package daemon

import (
	"net/netip"
	"time"

	"fsban/neverban"
)

// The tap is given facts that other parts of the daemon know.

// restarted notes that FreeSWITCH has restarted, by its first event. That is a little late: nonces issued in between count as old too,
// which misses a guess at worst.
func (t *tap) restarted(now time.Time) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sip.Restarted(now)
}

// setOwn takes FreeSWITCH's addresses from the never-ban list: those of this host, and the event socket's peer. Its own requests are no
// attempts.
func (t *tap) setOwn(entries []neverban.Entry) {
	if t == nil {
		return
	}
	var own []netip.Addr
	for i := range entries {
		if e := &entries[i]; e.Own() {
			own = append(own, e.Prefix.Addr())
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sip.SetOwn(own)
}
