package merge

import "math"

// FirstStamp is earlier than the stamp of any statement at its time: July 2017.
const FirstStamp = int64(1_500_000_000) * 1e6

const (
	minute     = int64(60 * 1e6)
	maxMinutes = 100 * 366 * 24 * 60 // no ban with an end is accepted that is longer
)

// RuleStamp returns the stamp of a ban by a rule. known is the stamp of the withdrawal of its prefix that its node knows, 0 for none;
// until is the end of the ban in microseconds of Redis' clock, 0 for none.
//
// A rule decides without the knowledge of orders that have not arrived yet, so its ban must not supersede them because it is later.
// So its stamp is that of the known withdrawal, or FirstStamp, and some microseconds that grow with the time from then to its end:
// every later order or withdrawal supersedes it, and of two bans by rules the longer one holds. Without a known withdrawal there is
// room for a microsecond a minute. With one it is at most 26 ms, so that an order right after the withdrawal is later: the difference
// between two ends counts if it is more than a thousandth of the time since the withdrawal.
func RuleStamp(known, until int64) int64 {
	since := max(known, FirstStamp)
	minutes := int64(maxMinutes + 1)
	if until != 0 {
		minutes = min(max((until-since)/minute, 1), maxMinutes)
	}
	if known < FirstStamp {
		return since + minutes
	}
	return since + int64(1000*math.Log2(float64(1+minutes)))
}
