package fakeswitch

import (
	"math/rand/v2"
	"time"
)

// A Fault is a kind of misbehaviour that lasts until the next SetFault.
type Fault string

// The faults.
const (
	NoFault        Fault = ""
	DenyAddress    Fault = "deny-address"    // a new client's address fails the ACL: rude-rejection, then the end of the connection
	RefusePassword Fault = "refuse-password" // every login is refused
	Silent         Fault = "silent"          // connections stay open and are read, but nothing is sent, to existing clients neither
	Garbage        Fault = "garbage"         // a new client receives bytes that are not of the protocol
	Slow           Fault = "slow"            // output trickles, a few bytes each millisecond
)

// SetFault sets the current fault.
func (s *Switch) SetFault(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
}

// trickle limits the output of a slow Switch: bytes per write, and the pause after it.
const (
	trickleBytes = 64
	tricklePause = time.Millisecond
)

// An Ending is a way for a connection to end.
type Ending string

// The endings.
const (
	Shutdown  Ending = "shutdown"   // a SHUTDOWN event to subscribers, the disconnect notice, the end
	Reload    Ending = "reload"     // mod_event_socket was reloaded: only the notice
	Kill      Ending = "kill"       // FreeSWITCH was killed: end of the stream without a notice
	HalfFrame Ending = "half-frame" // the stream ends within an event
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

// garbage returns bytes that are not of the event socket protocol, the same on each call.
func garbage() []byte {
	b := make([]byte, 128<<10)
	random := rand.NewChaCha8([32]byte{'f', 's', 'b', 'a', 'n'})
	_, _ = random.Read(b) // never fails
	return b
}
