package decide

import "fsban/policy"

// An Observed is a snapshot of the loop's state, made once a second and on request. It does not change once published.
type Observed struct {
	Policy      policy.Stats
	Guards      [policy.NumGuards]bool // active ones
	Active      [policy.NumKinds]Active
	Unconfirmed [policy.NumSources]uint64 // reports that the active source never confirmed
	Made        uint64                    // bans since the start
	Refused     uint64                    // bans for which the firewall had no room
	Waiting     int                       // bans of peers that wait for their rate
	Exploits    []Exploit                 // attacks on FreeSWITCH itself since the start
}

// Active is the active source of one kind: its reports count.
type Active struct {
	Source policy.Source
	OK     bool   // false: no source of this kind is alive
	Why    string // no preferred source is active; empty if one is
}

// Observed returns the latest snapshot. It waits for nobody.
func (l *Loop) Observed() *Observed { return l.observed.Load() }

// publish makes and publishes a snapshot.
func (l *Loop) publish() *Observed {
	o := &Observed{Policy: l.engine.Stats(), Waiting: l.book.Waiting(), Exploits: l.exploits.list()}
	o.Made, o.Refused = l.book.Counts()
	for g, state := range l.engine.Guards() {
		o.Guards[g] = state.Active
	}
	for k := range policy.NumKinds {
		a := &o.Active[k]
		a.Source, a.Why, a.OK = l.arbiter.ActiveSource(k)
	}
	for s := range policy.NumSources {
		o.Unconfirmed[s] = l.arbiter.Unconfirmed(s)
	}
	l.observed.Store(o)
	return o
}
