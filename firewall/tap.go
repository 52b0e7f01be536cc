package firewall

import (
	"context"
	"fmt"
	"slices"
)

// A Tap selects the packets that the kernel copies to a group of NFLOG: those to and from some ports of this host, behind the rules
// that drop packets of banned addresses. Its zero value copies nothing.
type Tap struct {
	Group     uint16
	Threshold uint16  // packets that the kernel hands over at once
	Ports     []Ports // of udp and tcp; none: nothing is copied
}

// TapPrefix marks the rules of a Tap, and begins the kernel's messages about their packets.
const TapPrefix = "fsban"

// MaxTapPorts is the largest number of Tap.Ports. Every packet that is not one of SIP passes a rule for each.
const MaxTapPorts = 32

// Validate returns an error for a tap that no backend supports.
func (t *Tap) Validate() error {
	if len(t.Ports) > MaxTapPorts {
		return fmt.Errorf("%d ports or ranges to copy packets of, the limit is %d", len(t.Ports), MaxTapPorts)
	}
	for _, p := range t.Ports {
		if p.Proto != "udp" && p.Proto != "tcp" {
			return fmt.Errorf("%v: only packets of udp and tcp are copied", p)
		}
	}
	return nil
}

func (t *Tap) equal(o *Tap) bool {
	return t.Group == o.Group && t.Threshold == o.Threshold && slices.Equal(t.Ports, o.Ports)
}

// Forwards reports whether hooks drop packets on their way to containers or other hosts, so that a tap copies those packets too. Chain
// is the one of table filter that they pass; it can be another program's.
func Forwards(h Hook) (chain string, ok bool) {
	switch {
	case h.Chain == "FORWARD":
		return h.Chain, true
	case h.Table == "filter" && !BuiltIn(h.Chain):
		return h.Chain, true
	}
	return "", false
}

// A TapStatus is the state of the rules that copy packets.
type TapStatus struct {
	Tap Tap
	On  bool  // the rules are in force, as of the last verification
	Err error // why not
}

// SetTap sets the packets that the kernel copies from the next verification on, which it begins. It returns when that has begun, or when
// ctx ends. A backend that only records copies nothing.
func (e *Enforcer) SetTap(ctx context.Context, tap Tap) error {
	if err := tap.Validate(); err != nil {
		return err
	}
	return e.change(ctx, change{tap: &tap})
}

// setTap takes a new tap over. A verification that is under way may not know it: its result is no result for the tap.
func (e *Enforcer) setTap(tap Tap) {
	e.mu.Lock()
	if e.tap.Tap.equal(&tap) {
		e.mu.Unlock()
		return
	}
	e.tap = TapStatus{Tap: tap}
	e.mu.Unlock()
	e.tapChanged = e.verifying
	e.backend.SetTap(tap)
}

// retap forgets the state of the tap's rules, because another backend is about to make them, and returns the tap.
func (e *Enforcer) retap() Tap {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.tap = TapStatus{Tap: e.tap.Tap}
	e.tapChanged = false
	return e.tap.Tap
}

// concludeTap takes over the result of a verification, and reports whether another one must follow at once.
func (e *Enforcer) concludeTap(v *Verification) (again bool) {
	if e.tapChanged {
		e.tapChanged = false
		return true
	}
	e.mu.Lock()
	before := e.tap
	e.tap.Err = v.Tap
	e.tap.On = v.Tap == nil && len(e.tap.Tap.Ports) > 0 && e.status.Backend != None
	now := e.tap
	e.mu.Unlock()
	if e.opts.Tapped != nil && (now.On != before.On || cause(now.Err) != cause(before.Err)) {
		e.opts.Tapped(now)
	}
	return false
}

// Tap returns the state of the rules that copy packets.
func (e *Enforcer) Tap() TapStatus {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.tap
}
