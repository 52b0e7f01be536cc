package replay

import (
	"errors"
	"io"
	"time"

	"fsban/detect"
	"fsban/policy"
	"fsban/sipwire"
	"fsban/sipwire/pcap"
)

// A wire is a recording of SIP messages. next returns the next one, valid until the next call.
type wire interface {
	next() (sipwire.Packet, error)
}

// openWire returns the wire that r holds, of which head is the beginning; nil if it is none.
func openWire(head []byte, r io.Reader, frames *int) (wire, error) {
	switch {
	case sipwire.IsRecording(head):
		return &hepFile{sipwire.NewRecording(r)}, nil
	case pcap.IsCapture(head):
		reader, err := pcap.NewReader(r)
		if err != nil {
			return nil, err
		}
		return &captureFile{reader: reader, assembler: sipwire.NewAssembler(), frames: frames}, nil
	}
	return nil, nil
}

// A hepFile is recorded HEP.
type hepFile struct{ recording *sipwire.Recording }

func (f *hepFile) next() (p sipwire.Packet, err error) {
	for {
		datagram, err := f.recording.Next()
		if err != nil {
			return p, err
		}
		if err := sipwire.ParseHEP(datagram, &p); !errors.Is(err, sipwire.ErrHEPOther) {
			return p, err
		}
	}
}

// A captureFile is a pcap or pcapng file.
type captureFile struct {
	reader    *pcap.Reader
	assembler *sipwire.Assembler
	ready     []sipwire.Packet
	frames    *int // counts
}

func (f *captureFile) next() (sipwire.Packet, error) {
	for len(f.ready) == 0 {
		link, frame, at, err := f.reader.Next()
		if err != nil {
			return sipwire.Packet{}, err
		}
		*f.frames++
		f.ready = f.assembler.Frame(link, frame, at)
	}
	p := f.ready[0]
	f.ready = f.ready[1:]
	return p, nil
}

// ended is a wire at its end.
type ended struct{}

func (ended) next() (sipwire.Packet, error) { return sipwire.Packet{}, io.EOF }

// nextPacket reads the next SIP message. HEP 1 has no times: its messages are as old as the file.
func (in *input) nextPacket() error {
	p, err := in.wire.next()
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		in.record = record{kind: damaged, text: []byte("the recording ends within a packet")}
		in.wire = ended{}
		return nil
	case errors.Is(err, sipwire.ErrHEP):
		in.record = record{kind: damaged, text: []byte(err.Error())}
		return nil
	case err != nil:
		return err
	}
	if p.At.IsZero() {
		p.At = in.at
		if p.At.IsZero() {
			p.At = in.changed
		}
	}
	in.record = record{kind: packet, packet: p, at: p.At}
	return nil
}

// waits reports whether a failed login of the event socket waits for its SIP request, as in the daemon. Otherwise it has its proof.
func (r *replayer) waits(a *policy.Attempt) bool {
	id, ok := r.detector.Login()
	return ok && r.alive[policy.SIP] > 0 && !r.join.Attempt(a, id, r.now)
}

// joined decides on failed logins that wait no more.
func (r *replayer) joined(list []detect.Joined) {
	for i := range list {
		r.reports++
		r.sequence.Attempt(&list[i].Attempt, r.now)
	}
}

// endWaits ends the waits that are due until a time.
func (r *replayer) endWaits(to time.Time) {
	for r.join != nil {
		due, waits := r.join.Next()
		if !waits || due.After(to) {
			return
		}
		if due.After(r.now) {
			r.now = due
		}
		r.joined(r.join.Due(due))
	}
}

// packet replays a SIP message, at its own time.
func (r *replayer) packet(in *input) {
	r.result.Messages++
	a := &in.record.attempt
	var outcome detect.Outcome
	*a, outcome = r.sip.Packet(&in.record.packet, in.record.at)
	if l, ok := r.sip.Login(); ok {
		r.joined(r.join.Saw(l, r.now))
	}
	switch outcome {
	case detect.Attempt, detect.ClockAdrift:
		if a.Kind == policy.Malformed { // an attempt, but not understood
			r.malformed(in)
			r.reports++
			r.sequence.Attempt(a, r.now)
			return
		}
		if a.Kind == policy.AuthFailure && a.Proof == policy.NoProof {
			r.result.Unproven++
		}
		r.attempt(in, a, nil)
	case detect.Malformed:
		r.malformed(in)
	default:
		r.result.understood(in)
	}
}

func (r *replayer) malformed(in *input) {
	r.result.notUnderstood(in, []byte("malformed SIP message: "+string(r.sip.Fault())))
}
