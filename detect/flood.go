package detect

import (
	"hash/maphash"
	"net/netip"
	"time"
)

// Bounds of a flood, within a second. FreeSWITCH drops every request to a profile that got more than max-recv-requests-per-second in the
// second before, 1,000 by default: it is deaf until the rate falls.
const (
	floodTotal   = 500 // requests to one port
	floodAsked   = 10  // of them that expect an answer: less than half get one
	floodAddr    = 200 // of them from one address
	floodShare   = 4   // an address has a quarter of the largest address's; together they have a quarter of all
	floodSeconds = 2   // in a row before requests of an address count

	floodPause = 100 * time.Millisecond // between two attempts of an address
)

const (
	maxServed = 16 // ports of FreeSWITCH
	maxHeavy  = 32 // addresses counted for each
)

// floods find addresses that make FreeSWITCH deaf. It allocates only when made.
//
// Each port has a space-saving list of the addresses with the most requests of a second. The count of an address in it is too large by at
// most its error, so that the difference is certain: senders of few requests are never mistaken, however many they are.
type floods struct {
	seed   maphash.Seed
	served [maxServed]served
	latest int    // index of the port of the last message
	deaf   uint64 // seconds of all ports
}

// A served is the traffic of one port of FreeSWITCH.
type served struct {
	key      uint64
	second   int64
	total    uint32
	asked    uint32
	answered uint32
	heavy    [maxHeavy]heavy
	causes   [maxHeavy]cause // by the second before
	numCause int
}

type heavy struct {
	key          uint64
	count, error uint32
}

// A cause is an address with a part in a flood.
type cause struct {
	key     uint64
	seconds int
	next    int64 // unix microseconds of its next attempt
}

func newFloods() *floods { return &floods{seed: maphash.MakeSeed()} }

// request counts a request, asked if it expects an answer, and reports whether it is an attempt: part of a flood that makes FreeSWITCH
// deaf. Retransmissions do not belong here: they are many while FreeSWITCH is slow.
func (f *floods) request(from netip.Addr, to netip.AddrPort, asked bool, at time.Time) bool {
	us := at.UnixMicro()
	s := f.port(to, us/1e6, true)
	f.roll(s, us/1e6)
	s.total++
	if asked {
		s.asked++
	}
	if from.IsUnspecified() {
		return false
	}
	key := addrKey(f.seed, from)
	s.count(key)
	for i := range s.causes[:s.numCause] {
		c := &s.causes[i]
		if c.key == key && c.seconds >= floodSeconds && us >= c.next {
			c.next = us + floodPause.Microseconds()
			return true
		}
	}
	return false
}

// answer counts the first answer of FreeSWITCH to a request.
func (f *floods) answer(from netip.AddrPort, at time.Time) {
	second := at.UnixMicro() / 1e6
	if s := f.port(from, second, false); s != nil {
		f.roll(s, second)
		s.answered++
	}
}

// port returns the traffic of a port. If it is not counted yet and should be, it takes the place of the one with the fewest requests.
func (f *floods) port(at netip.AddrPort, second int64, add bool) *served {
	key := (addrKey(f.seed, at.Addr()) + uint64(at.Port())) | 1
	if s := &f.served[f.latest]; s.key == key {
		return s
	}
	place := 0
	for i := range f.served {
		s := &f.served[i]
		if s.key == key {
			f.latest = i
			return s
		}
		if p := &f.served[place]; s.weight(second) < p.weight(second) {
			place = i
		}
	}
	if !add {
		return nil
	}
	f.latest = place
	f.served[place] = served{key: key, second: second}
	return &f.served[place]
}

// weight is the number of requests of this second, or of the one before.
func (s *served) weight(second int64) uint32 {
	if second-s.second > 1 {
		return 0
	}
	return s.total + uint32(s.numCause)
}

// count counts a request of an address.
func (s *served) count(key uint64) {
	least := 0
	for i := range s.heavy {
		h := &s.heavy[i]
		if h.key == key {
			h.count++
			return
		}
		if h.count < s.heavy[least].count {
			least = i
		}
	}
	h := &s.heavy[least]
	*h = heavy{key: key, count: h.count + 1, error: h.count}
}

// roll begins a second, and judges the one before. Packets may be a little late; more than a second is a clock that was put back.
func (f *floods) roll(s *served, second int64) {
	if second == s.second || second == s.second-1 {
		return
	}
	if second == s.second+1 && s.total >= floodTotal && s.asked >= floodAsked && 2*s.answered < s.asked {
		f.deaf++
		s.judge()
	} else {
		s.numCause = 0
	}
	s.second, s.total, s.asked, s.answered, s.heavy = second, 0, 0, 0, [maxHeavy]heavy{}
}

// judge finds the addresses that made FreeSWITCH deaf for a second.
func (s *served) judge() {
	var largest, sum uint32
	for i := range s.heavy {
		largest = max(largest, s.heavy[i].count-s.heavy[i].error)
	}
	bound := max(floodAddr, largest/floodShare)
	var found [maxHeavy]cause
	n := 0
	for i := range s.heavy {
		h := &s.heavy[i]
		certain := h.count - h.error
		if certain < bound {
			continue
		}
		sum += certain
		found[n] = cause{key: h.key, seconds: 1}
		for j := range s.causes[:s.numCause] {
			if c := &s.causes[j]; c.key == h.key {
				found[n].seconds, found[n].next = c.seconds+1, c.next
			}
		}
		n++
	}
	if sum < s.total/floodShare {
		n = 0
	}
	s.causes, s.numCause = found, n
}
