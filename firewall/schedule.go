package firewall

import "time"

// A schedule sets the time of the next check: regularly, sooner after a failure, with growing pauses, and at once after a change by
// another program, at most once in noticeEvery.
type schedule struct {
	*time.Timer
	opts  EnforcerOptions
	due   time.Time     // of the next check
	last  time.Time     // of the last one
	pause time.Duration // after a failure
}

// noticeEvery is the shortest time between checks that changes by other programs cause.
const noticeEvery = time.Second

func newSchedule(opts EnforcerOptions) schedule {
	return schedule{Timer: time.NewTimer(opts.Check), opts: opts, pause: opts.RetryMin}
}

// next schedules the check after one that ended with err.
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

// soon brings the next check forward after a change by another program.
func (s *schedule) soon() { s.by(s.last.Add(noticeEvery)) }

func (s *schedule) by(at time.Time) {
	if at.Before(s.due) {
		s.due = at
		s.Reset(time.Until(at))
	}
}
