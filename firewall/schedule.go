package firewall

import "time"

// A schedule says when the kernel is checked next: regularly, sooner after a failure, with growing pauses, and at once when
// somebody else has changed something, but not more than once a second for that.
type schedule struct {
	*time.Timer
	opts  EnforcerOptions
	due   time.Time     // when the timer fires
	last  time.Time     // when it last has
	pause time.Duration // after a failure
}

// noticeEvery is how often at most others can have the kernel checked.
const noticeEvery = time.Second

func newSchedule(opts EnforcerOptions) schedule {
	return schedule{Timer: time.NewTimer(opts.Check), opts: opts, pause: opts.RetryMin}
}

// next is called after a check that ended with err.
func (s *schedule) next(err error) {
	wait := s.opts.Check
	if err != nil {
		wait, s.pause = s.pause, min(2*s.pause, s.opts.RetryMax)
	} else {
		s.pause = s.opts.RetryMin
	}
	s.last = time.Now()
	s.due = s.last.Add(wait)
	s.Reset(wait)
}

// hurry brings the next check forward after a failure. It never puts it off: failures may keep coming.
func (s *schedule) hurry() { s.by(time.Now().Add(s.pause)) }

// soon brings the next check forward because somebody else has changed something.
func (s *schedule) soon() { s.by(s.last.Add(noticeEvery)) }

func (s *schedule) by(at time.Time) {
	if at.Before(s.due) {
		s.due = at
		s.Reset(time.Until(at))
	}
}
