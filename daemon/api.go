package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"fsban/config"
	"fsban/control"
	"fsban/firewall"
	"fsban/ledger"
	"fsban/policy"
)

// api answers the control socket.
type api struct{ *Daemon }

// Status returns what the daemon knows about itself.
func (a api) Status(ctx context.Context) (control.Status, error) {
	s := control.Status{
		Version: a.opts.Version, Started: a.started, Firewall: a.firewallStatus(), Attempts: make(map[string]uint64),
	}
	err := a.do(ctx, func(l *loop) {
		l.hear(time.Now())
		s.Speakers = l.speakers()
		s.Policy = l.policyStatus()
	})
	if err != nil {
		return control.Status{}, err
	}
	why := a.unready()
	s.Ready, s.Problems = len(why) == 0, append([]string{}, why...)
	s.Sources = a.sourceStatus(s.Speakers)
	v4, v6 := a.ledger.Count()
	s.Bans = control.Bans{IPv4: v4, IPv6: v6, Made: a.made.Load(), Refused: a.refused.Load()}
	for _, k := range policy.Kinds() {
		s.Attempts[k.String()] = a.counts[k].Load()
	}
	s.Problems = append(s.Problems, a.troubles(&s)...)
	var troubles []string
	s.Fleet, troubles = a.fleetStatus(ctx)
	s.Problems = append(s.Problems, troubles...)
	return s, nil
}

// troubles are the problems beside not being ready.
func (a api) troubles(s *control.Status) []string {
	var list []string
	if aside := a.ledger.SetAside(); aside != "" {
		list = append(list, "the state file was damaged at the start: set aside as "+aside)
	}
	if _, err := a.ledger.Failures(); err != nil {
		list = append(list, "bans are in force but not on disk: "+err.Error())
	}
	for _, src := range s.Sources {
		if src.Name == policy.CTILog.String() && slices.Contains(src.Speaks, policy.AuthFailure.String()) {
			list = append(list, "only mod_cti's log speaks: "+s.Sources[0].Error)
		}
		if missed := missed(src.NotAllowed); len(missed) > 0 {
			list = append(list, fmt.Sprintf("the login to FreeSWITCH may not see %v (esl-allowed-events in the directory)", missed))
		}
		if src.Dropped > 0 {
			list = append(list, fmt.Sprintf("%d attempts were lost: the decision queue was full", src.Dropped))
		}
	}
	if trouble := a.pulse.clock.trouble(); trouble != "" && s.Sources[0].Up {
		list = append(list, trouble)
	}
	for _, said := range []*[]string{a.reloadTroubles.Load(), a.groupTroubles.Load()} {
		if said != nil {
			list = append(list, *said...)
		}
	}
	_, unknown := a.never.Status()
	list = append(list, unknown...)
	list = append(list, policyTroubles(&s.Policy)...)
	list = append(list, s.Firewall.Notes...)
	if s.Bans.Refused > 0 {
		list = append(list, fmt.Sprintf("%d bans were refused: raise firewall.max_bans, or, where firewall.backend is rules, install ipset", s.Bans.Refused))
	}
	if lost := a.opts.LogLost(); lost > 0 {
		list = append(list, fmt.Sprintf("%d lines of the log were lost: whatever reads it (journalctl -u fsban) did not take them", lost))
	}
	return list
}

// speakers tells whose word counts for what.
func (l *loop) speakers() []control.Speaker {
	var list []control.Speaker
	for _, k := range policy.Kinds() {
		speaker := control.Speaker{Kind: k.String()}
		source, why, ok := l.arbiter.Speaker(k)
		if speaker.Why = why; ok {
			speaker.Source = source.String()
		}
		list = append(list, speaker)
	}
	return list
}

// sourceStatus tells of each source that the configuration has, the event socket first.
func (a api) sourceStatus(speakers []control.Speaker) []control.Source {
	var list []control.Source
	for _, source := range a.sources() {
		s := control.Source{Name: source.String(), Up: a.alive[source].Load(), Unconfirmed: a.alone[source].Load(), Speaks: []string{}}
		if us := a.told[source].Load(); us > 0 {
			s.LastEvent = time.UnixMicro(us)
		}
		for _, speaker := range speakers {
			if speaker.Source == s.Name {
				s.Speaks = append(s.Speaks, speaker.Kind)
			}
		}
		switch source {
		case policy.Event:
			a.socketStatus(&s)
		case policy.CTIEvent:
			s.Address = strings.Join(a.cfg().CTIEvent.Subclasses, " ")
		case policy.CTILog:
			a.logStatus(&s)
		}
		list = append(list, s)
	}
	return list
}

func (a api) socketStatus(s *control.Source) {
	state := a.client.State()
	s.Address, s.Up, s.Since, s.Retry = a.cfg().FreeSWITCH.Address, state.Up, state.Since, state.Retry
	s.Connects, s.Dropped, s.NotAllowed = state.Connects, a.dropped.Load(), state.Denied
	if state.Err != nil {
		s.Error = state.Err.Error()
	}
	if us := a.pulse.last.Load(); us > 0 {
		s.LastEvent = time.UnixMicro(us)
	}
}

func (a api) logStatus(s *control.Source) {
	follower := a.ctilog.Load()
	if follower == nil { // it is to be another one in a moment
		return
	}
	state := follower.Status()
	s.Address, s.LastEvent = a.cfg().CTILog.File(), state.LastLine
	if state.Err != nil {
		s.Error = state.Err.Error()
	}
}

func (a api) firewallStatus() control.Firewall {
	state := a.enforcer.Status()
	f := control.Firewall{
		Backend: state.Backend, Enforcing: state.Enforcing, Since: state.Since, Pending: state.Pending,
		Repairs: state.Repairs, Restored: state.Restored, Failures: state.Failures, Notes: state.Notes, Dropped: make(map[string]control.Dropped),
	}
	if state.Err != nil {
		f.Error = state.Err.Error()
	}
	for family, n := range state.Dropped {
		f.Dropped[family] = control.Dropped(n)
	}
	return f
}

// Bans returns the bans that p says, with what the kernel counted for each.
func (a api) Bans(_ context.Context, p *control.Pick) ([]control.Ban, error) {
	entries, err := a.enforcer.Entries()
	if err != nil {
		return nil, err
	}
	inKernel := make(map[netip.Prefix]firewall.Entry, len(entries))
	for _, e := range entries {
		inKernel[e.Prefix] = e
	}
	now := time.Now()
	all := a.ledger.List()
	list := make([]control.Ban, 0, len(all))
	for i := range all {
		if all[i].Over(now) {
			continue
		}
		w := wire(&all[i])
		if e, ok := inKernel[w.Prefix]; ok {
			w.InKernel = true
			w.Dropped = control.Dropped{Packets: e.Packets, Bytes: e.Bytes}
		}
		list = append(list, w)
	}
	list = p.Of(list, now)
	if len(list) > p.Evidence {
		return list, nil
	}
	return list, a.addEvidence(list)
}

// addEvidence adds the last attempts to bans. One that has ended meanwhile has none.
func (a api) addEvidence(list []control.Ban) error {
	for i := range list {
		b, err := a.ledger.Load(list[i].Prefix)
		if err != nil && !errors.Is(err, ledger.ErrNotBanned) {
			return err
		}
		list[i].Evidence = wireAttempts(b.Evidence)
	}
	return nil
}

// Ban bans a prefix because an operator says so.
func (a api) Ban(ctx context.Context, r control.BanRequest, by string) (control.Ban, error) {
	if !r.Prefix.IsValid() {
		return control.Ban{}, &control.RefusedError{Text: "no prefix to ban"}
	}
	prefix, err := config.ParsePrefix(r.Prefix.String())
	if err != nil {
		return control.Ban{}, &control.RefusedError{Text: err.Error()}
	}
	if prefix.Bits() == 0 {
		return control.Ban{}, &control.RefusedError{Text: prefix.String() + " is everybody"}
	}
	now := time.Now()
	b := ledger.Ban{Prefix: prefix, Since: now, Rule: ruleOperator, Source: policy.Operator, By: by, Reason: cut(r.Reason), Local: r.Local}
	duration := r.Time
	if duration == 0 {
		duration = time.Duration(a.cfg().Policy.BanTime)
	}
	switch {
	case duration == policy.Forever:
	case duration < time.Second:
		return control.Ban{}, &control.RefusedError{Text: "a ban lasts at least 1s"}
	default:
		b.Until = now.Add(duration)
	}
	var refused error
	err = a.do(ctx, func(l *loop) {
		if entry, never := l.engine.NeverBan().Match(prefix); never && !r.Force {
			refused = &control.RefusedError{Text: fmt.Sprintf("%v is never banned, because of %v (%s): --force bans it all the same", prefix, entry.Prefix, entry.Origin)}
			return
		}
		if banErr := l.ban(b, firewall.Cause{Read: now}); banErr != nil {
			refused = &control.RefusedError{Text: banErr.Error()}
		}
	})
	if err == nil {
		err = refused
	}
	return wire(&b), err
}

// Unban ends a ban because an operator says so.
func (a api) Unban(ctx context.Context, p netip.Prefix, local bool, by string) (control.Ban, error) {
	prefix, err := config.ParsePrefix(p.String())
	if err != nil {
		return control.Ban{}, &control.RefusedError{Text: err.Error()}
	}
	var (
		b     ledger.Ban
		found bool
		near  []netip.Prefix
	)
	err = a.change(ctx, func(l *loop) {
		if b, found = l.covering(prefix); !found {
			near = l.overlapping(prefix, 3)
			return
		}
		if local {
			l.tellUnban(&b, by, true)
			l.forget(b.Prefix)
			l.drop(b, causeOperator, by)
			return
		}
		l.unban(b, causeOperator, by)
	})
	if err == nil && !found {
		text := prefix.String() + " is not banned"
		if len(near) > 0 {
			text += fmt.Sprintf(", but it overlaps with %v: name the prefix as fsban list shows it", near)
		}
		err = &control.RefusedError{Text: text}
	}
	return wire(&b), err
}

// change has f change something that a restart must not take back: it is on disk when change returns, where the disk takes
// it; else it is written later, and status says so. A new ban needs none of this, because the kernel holds it.
func (a api) change(ctx context.Context, f func(*loop)) error {
	err := a.do(ctx, func(l *loop) {
		f(l)
		l.seal(time.Now())
	})
	if err == nil {
		_ = a.ledger.Flush()
	}
	return err
}

// overlapping returns up to limit bans that share an address with p.
func (l *loop) overlapping(p netip.Prefix, limit int) []netip.Prefix {
	var list []netip.Prefix
	l.ledger.Each(func(q netip.Prefix, _ time.Time) bool {
		if q.Overlaps(p) {
			list = append(list, q)
		}
		return len(list) < limit
	})
	return list
}

// maxReason bounds an operator's words, in bytes.
const maxReason = 200

func cut(s string) string { return s[:min(len(s), maxReason)] }

func wire(b *ledger.Ban) control.Ban {
	w := control.Ban{
		Prefix: b.Prefix, Since: b.Since, Until: b.Until, Rule: b.Rule, Source: b.Source.String(), Attempts: b.Attempts, Offence: b.Offence, By: b.By, Reason: b.Reason, Node: b.Node, Local: b.Local,
	}
	w.Evidence = wireAttempts(b.Evidence)
	return w
}

func wireAttempts(attempts []policy.Attempt) (list []control.Attempt) {
	for _, a := range attempts {
		list = append(list, control.Attempt{
			Addr: a.Addr, At: a.At, Kind: a.Kind.String(), Source: a.Source.String(), Method: a.Method.String(),
			User: a.User, Number: a.Number, Domain: a.Domain, Profile: a.Profile, UserAgent: a.UserAgent,
		})
	}
	return list
}
