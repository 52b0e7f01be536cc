package merge

import (
	"testing"
	"time"
)

// Orders and withdrawals supersede the bans of rules that were made without knowing them, and the longer ban of a rule supersedes the
// shorter one.
func TestStampsOfRulesBans(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC).UnixMicro()
	const day = 24 * 60 * minute
	for _, known := range []int64{0, now - 20*day, now} {
		last := max(known, FirstStamp)
		for _, length := range []int64{minute, 10 * minute, 2 * 60 * minute, day, 2 * day, 7 * day, 365 * day, 9 * 365 * day} {
			stamp := RuleStamp(known, now+length)
			if length < 60*minute && known == now-20*day {
				continue // a thousandth of 20 days is more
			}
			if stamp <= last {
				t.Errorf("after %d, a ban of %d minutes: %d is not later than %d", known, length/minute, stamp, last)
			}
			last = stamp
		}
		endless := RuleStamp(known, 0)
		if endless <= last {
			t.Errorf("after %d, an endless ban: %d is not later than %d", known, endless, last)
		}
		if known != 0 && endless > known+26_000 {
			t.Errorf("an order 26 ms after the withdrawal is not later: %d", endless-known)
		}
		if endless >= now && known < now {
			t.Errorf("after %d, an endless ban: %d supersedes an order of now", known, endless)
		}
	}
}
