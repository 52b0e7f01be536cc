package fakeswitch

import (
	"math/rand/v2"
	"time"
)

// A Fault is a way of going wrong that lasts until SetFault says otherwise.
type Fault string

// The faults.
const (
	NoFault        Fault = ""
	DenyAddress    Fault = "deny-address"    // a new client's address is not in the ACL: rude rejection, then the end
	RefusePassword Fault = "refuse-password" // every login is refused
	Silent         Fault = "silent"          // connections stand and are read, and nothing is ever said, to old clients either
	Garbage        Fault = "garbage"         // a new client is greeted with bytes that are no protocol
	Slow           Fault = "slow"            // bytes trickle, a few each millisecond
)

// SetFault makes f the way in which the Switch goes wrong from now on.
func (s *Switch) SetFault(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// trickle is what a slow Switch sends at once, and how long it waits then.
const (
	trickleBytes = 64
	tricklePause = time.Millisecond
)

// An Ending is a way for a connection to end.
type Ending string

// The endings.
const (
	Shutdown  Ending = "shutdown"   // a SHUTDOWN event to those who listen, a notice, the end
	Reload    Ending = "reload"     // mod_event_socket was reloaded: the notice alone
	Kill      Ending = "kill"       // FreeSWITCH was killed: the bare end of the stream
	HalfFrame Ending = "half-frame" // the end comes in the middle of an event
	Reset     Ending = "reset"      // a TCP reset, as from a firewall
)

// End ends every connection. The listener stays open.
func (s *Switch) End(how Ending) {
	if how == Shutdown {
		s.Emit(shutdown, Caller{}, time.Now())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.clients {
		switch how {
		case Shutdown, Reload:
			c.finish([]byte("Content-Type: text/disconnect-notice\nContent-Length: 31\n\nThe system is being shut down.\n"))
		case HalfFrame:
			frame := Frames(NoAuth, Caller{}, time.Time{})
			c.finish(frame[:len(frame)/2])
		case Kill:
			c.finish(nil)
		case Reset:
			_ = c.conn.SetLinger(0)
			c.finishing = true
			c.conn.Close()
		}
	}
}

// garbage returns bytes that are no event socket's, the same ones each time.
func garbage() []byte {
	b := make([]byte, 128<<10)
	random := rand.NewChaCha8([32]byte{'f', 's', 'b', 'a', 'n'})
	_, _ = random.Read(b) // never fails
	return b
}
