package policy

// waiting holds the challenges that may still be answered with credentials: a ring in order of arrival with a chain for each
// address. An answered challenge leaves its chain, and stays in the ring until it is the oldest.
type waiting struct {
	limit   int // challenges; beyond it the oldest counts as answered
	dropped uint64
	ring    []challenge
	oldest  uint64 // the ring holds the challenges of these numbers: oldest, oldest+1, … next-1. 0 is none
	next    uint64
	chains  table[key, chain]
}

// A challenge is one that may still be answered.
type challenge struct {
	attempt  Attempt
	key      key
	user     uint32
	due      int64  // when it counts as not answered, in unix milliseconds
	next     uint64 // the next of the same address
	answered bool
}

// A chain is the challenges of one address.
type chain struct {
	first, last uint64 // the unanswered ones
	length      int    // of the chain, including answered challenges: the places in the ring
}

// maxChain is the maximum number of waiting challenges of one address: more than any reasonable rule needs.
const maxChain = 1024

// minRing is the number of places in the smallest ring.
const minRing = 16

func newWaiting() waiting {
	return waiting{ring: make([]challenge, minRing), oldest: 1, next: 1, chains: newTable[key, chain](0, nil)}
}

// observeChallenge lets a challenge wait for credentials. A challenge to a known-good address counts as answered: its phones also
// subscribe and send messages, with credentials that FreeSWITCH does not report.
func (e *Engine) observeChallenge(s *observation) {
	if s.deferred != 0 && !s.known && !e.replay.active {
		e.waiting.add(s, e.now+e.opts.ChallengeWait.Milliseconds())
	}
}

// countUnanswered counts a challenge without credentials as a late attempt.
func (e *Engine) countUnanswered(c challenge) {
	s := e.examine(c.attempt)
	if s.known {
		return
	}
	if s.immediate != 0 { // rules have counted it at once; without its user agent, Replay leaves them out
		s.UserAgent = ""
	}
	s.immediate = s.deferred
	s.when = e.time()
	d := Decision{Prefix: s.prefix}
	e.pending.reports = nil
	if e.count(&s, &d); d.Verdict != Pass {
		d.Unanswered, d.Reports, e.pending.reports = &s.Attempt, e.pending.reports, nil
		e.pending.decisions = append(e.pending.decisions, d)
	}
}

func (w *waiting) add(s *observation, due int64) {
	c := w.chains.get(s.key)
	if c != nil && c.length >= maxChain {
		return
	}
	for w.next-w.oldest >= uint64(w.limit) {
		if lost := w.removeOldest(); !lost.answered {
			w.dropped++
		}
	}
	if w.next-w.oldest == uint64(len(w.ring)) {
		w.resize(2 * len(w.ring))
	}
	w.chains.limit = len(w.ring)
	n := w.next
	w.next++
	*w.at(n) = challenge{attempt: s.Attempt, key: s.key, user: s.user, due: due}
	c = w.chains.touch(s.key)
	if c.length++; c.last == 0 {
		c.first = n
	} else {
		w.at(c.last).next = n
	}
	c.last = n
}

// first returns the oldest challenge in the ring, whether answered or not.
func (w *waiting) first() (c *challenge, ok bool) {
	if w.oldest == w.next {
		return nil, false
	}
	return w.at(w.oldest), true
}

// answer marks the challenges of a user at an address as answered, or else the oldest one of the address.
func (w *waiting) answer(k key, user uint32) {
	c := w.chains.get(k)
	if c == nil {
		return
	}
	found := false
	for before, n := uint64(0), c.first; n != 0; {
		open := w.at(n)
		if after := open.next; open.user == user {
			w.markAnswered(c, before, n)
			n, found = after, true
		} else {
			before, n = n, after
		}
	}
	if !found && c.first != 0 {
		w.markAnswered(c, 0, c.first)
	}
}

// markAnswered marks challenge n of chain c as answered; before is the number of the one before it in the chain.
func (w *waiting) markAnswered(c *chain, before, n uint64) {
	open := w.at(n)
	if before == 0 {
		c.first = open.next
	} else {
		w.at(before).next = open.next
	}
	if c.last == n {
		c.last = before
	}
	open.answered = true
}

// answerAll marks all challenges of an address as answered.
func (w *waiting) answerAll(k key) {
	if c := w.chains.get(k); c != nil {
		for c.first != 0 {
			w.markAnswered(c, 0, c.first)
		}
	}
}

// count returns the number of waiting challenges of an address.
func (w *waiting) count(k key) (n int) {
	if c := w.chains.get(k); c != nil {
		for i := c.first; i != 0; i = w.at(i).next {
			n++
		}
	}
	return n
}

// removeOldest removes the oldest challenge from the ring and returns it.
func (w *waiting) removeOldest() challenge {
	old := *w.at(w.oldest)
	*w.at(w.oldest) = challenge{}
	c := w.chains.get(old.key)
	if c.first == w.oldest {
		c.first = old.next
	}
	if c.last == w.oldest {
		c.last = 0
	}
	if c.length--; c.length == 0 {
		w.chains.remove(old.key)
	}
	w.oldest++
	return old
}

// resize gives the ring places for n challenges, at least as many as wait.
func (w *waiting) resize(n int) {
	ring := make([]challenge, n)
	for i := w.oldest; i < w.next; i++ {
		ring[i%uint64(n)] = *w.at(i)
	}
	w.ring = ring
}

// compact releases memory after most challenges have left the ring.
func (w *waiting) compact() {
	if n := len(w.ring) / 4; n >= minRing && w.next-w.oldest <= uint64(n/2) {
		w.resize(n)
	}
	w.chains.compact()
}

func (w *waiting) at(n uint64) *challenge { return &w.ring[n%uint64(len(w.ring))] }
