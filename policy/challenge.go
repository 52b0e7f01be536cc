package policy

// waiting are the challenges that may still be answered with credentials: a ring in the order in which they came, and in
// it a chain for each address. One that is answered leaves its chain, and stays in the ring until its turn comes.
type waiting struct {
	limit  int // challenges; beyond it the oldest counts as answered
	lost   uint64
	ring   []challenge
	first  uint64 // the ring holds the challenges of these numbers: first, first+1, … next-1. 0 is none
	next   uint64
	chains table[key, chain]
}

// A challenge is one that may still be answered.
type challenge struct {
	attempt  Attempt
	key      key
	who      uint32
	due      int64  // when it counts as not answered, in unix milliseconds
	after    uint64 // the next of the same address
	answered bool
}

// A chain is the challenges of one address.
type chain struct {
	first, last uint64 // those that are not answered
	length      int    // and those that are: the places in the ring
}

// maxChain is how many challenges of one address wait at most: more than any rule of sense asks for.
const maxChain = 1024

func newWaiting() waiting {
	return waiting{ring: make([]challenge, 16), first: 1, next: 1, chains: newTable[key, chain](0, nil)}
}

// challenged has a challenge wait for credentials. Those to a known-good address are taken for answered: its phones also
// subscribe and send messages, with credentials that FreeSWITCH does not tell of.
func (e *Engine) challenged(s *sight) {
	if s.later != 0 && !s.known {
		e.waiting.add(s, e.now+e.opts.ChallengeWait.Milliseconds())
	}
}

// unanswered counts a challenge that nobody answered as an attempt that came late.
func (e *Engine) unanswered(c challenge) {
	s := e.sight(c.attempt)
	if s.now = s.later; s.known {
		return
	}
	s.when = e.time()
	d := Decision{Prefix: s.prefix}
	e.reports = nil
	if e.count(&s, &d); d.Verdict == BanNow || d.Verdict == Held || d.Verdict == SparedBan {
		d.Reports, e.reports = e.reports, nil
		e.ready = append(e.ready, d)
	}
}

func (w *waiting) add(s *sight, due int64) {
	c := w.chains.get(s.key)
	if c != nil && c.length >= maxChain {
		return
	}
	for w.next-w.first >= uint64(w.limit) {
		if lost := w.pop(); !lost.answered {
			w.lost++
		}
	}
	if w.next-w.first == uint64(len(w.ring)) {
		w.grow()
	}
	w.chains.limit = len(w.ring)
	n := w.next
	w.next++
	*w.at(n) = challenge{attempt: s.Attempt, key: s.key, who: s.who &^ failed, due: due}
	c = w.chains.touch(s.key)
	if c.length++; c.last == 0 {
		c.first = n
	} else {
		w.at(c.last).after = n
	}
	c.last = n
}

// due takes the oldest challenge from the ring if it is due and not answered.
func (w *waiting) due(now int64) (c challenge, ok bool) {
	for w.first < w.next && w.at(w.first).due <= now {
		if c = w.pop(); !c.answered {
			return c, true
		}
	}
	return c, false
}

// answer takes the challenges of a user at an address for answered, or else the oldest one of the address.
func (w *waiting) answer(k key, who uint32) {
	c := w.chains.get(k)
	if c == nil {
		return
	}
	who &^= failed
	found := false
	for before, n := uint64(0), c.first; n != 0; {
		open := w.at(n)
		if after := open.after; open.who == who {
			w.settle(c, before, n)
			n, found = after, true
		} else {
			before, n = n, after
		}
	}
	if !found && c.first != 0 {
		w.settle(c, 0, c.first)
	}
}

// settle takes challenge n, which follows the one numbered before in c, for answered.
func (w *waiting) settle(c *chain, before, n uint64) {
	open := w.at(n)
	if before == 0 {
		c.first = open.after
	} else {
		w.at(before).after = open.after
	}
	if c.last == n {
		c.last = before
	}
	open.answered = true
}

// forgive takes all challenges of an address for answered.
func (w *waiting) forgive(k key) {
	if c := w.chains.get(k); c != nil {
		for c.first != 0 {
			w.settle(c, 0, c.first)
		}
	}
}

// of returns how many challenges of an address wait.
func (w *waiting) of(k key) (n int) {
	if c := w.chains.get(k); c != nil {
		for i := c.first; i != 0; i = w.at(i).after {
			n++
		}
	}
	return n
}

// pop takes the oldest challenge from the ring.
func (w *waiting) pop() challenge {
	old := *w.at(w.first)
	*w.at(w.first) = challenge{}
	c := w.chains.get(old.key)
	if c.first == w.first {
		c.first = old.after
	}
	if c.last == w.first {
		c.last = 0
	}
	if c.length--; c.length == 0 {
		w.chains.remove(old.key)
	}
	w.first++
	return old
}

func (w *waiting) grow() {
	larger := make([]challenge, 2*len(w.ring))
	for n := w.first; n < w.next; n++ {
		larger[n%uint64(len(larger))] = *w.at(n)
	}
	w.ring = larger
}

func (w *waiting) at(n uint64) *challenge { return &w.ring[n%uint64(len(w.ring))] }
