// Package replay simulates the daemon's decisions on recordings: logs of mod_cti and FreeSWITCH, event socket streams,
// and SIP messages in recorded HEP, pcap or pcapng.
//
// A replay runs in the recordings' own time, in which they overlap as they did when they were made. It decides as the daemon
// does, by the same arbiter of sources, reader of mod_cti's log and policy, but bans nothing and asks no daemon.
package replay

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"slices"
	"time"

	"fsban/config"
	"fsban/decide/sequence"
	"fsban/detect"
	"fsban/policy"
)

// Options are the circumstances of a replay.
type Options struct {
	Stdin    io.Reader               // read for the name "-"
	Zone     *time.Location          // of FreeSWITCH's log where a recording does not state it; nil: UTC
	Progress func(done, total int64) // called with the bytes read and the size of all files; nil: none
}

// Run replays the named recordings through the configuration.
func Run(cfg *config.Config, names []string, o Options) (Result, error) {
	if o.Zone == nil {
		o.Zone = time.UTC
	}
	r := newReplayer(cfg, o.Zone)
	inputs, err := r.open(names, o)
	if err == nil {
		err = r.play(slices.Clone(inputs))
	}
	for _, in := range inputs {
		err = errors.Join(err, in.close())
	}
	r.finish()
	slices.SortStableFunc(r.result.Bans, func(a, b Ban) int {
		return cmp.Or(a.Since.Compare(b.Since), a.Prefix.Addr().Compare(b.Prefix.Addr()))
	})
	return r.result, err
}

// A replayer decides on recordings in virtual time.
type replayer struct {
	detector *detect.Detector
	lines    *detect.LogReader
	sip      *detect.SIP // nil: no recording holds SIP messages
	scanners []*regexp.Regexp
	join     *detect.Join
	arbiter  *detect.Arbiter
	engine   *policy.Engine
	sequence *sequence.Sequence
	cti      bool          // mod_cti's events are configured
	findtime time.Duration // the longest
	wait     time.Duration // for credentials, after a challenge
	zone     *time.Location

	now     time.Time                  // the newest time of a record
	ticked  time.Time                  // last Advance of the engine
	alive   [policy.NumSources]int     // recordings that are being replayed, by source
	banned  map[netip.Prefix]time.Time // until; zero: without end
	ended   bool                       // the recordings are
	reports int
	result  Result
}

func newReplayer(cfg *config.Config, zone *time.Location) *replayer {
	p := &cfg.Policy
	r := &replayer{
		detector: detect.New(cfg.Detect()), lines: detect.NewLogReader(),
		engine: policy.NewEngine(p.Rules(), policy.NewNeverBan(policy.NeverEntries("ignoreip", p.IgnorePrefixes()...)), p.Options()),
		cti:    len(cfg.CTIEvent.Subclasses) > 0, findtime: p.LongestFindTime(), wait: p.Options().ChallengeWait, zone: zone,
		scanners: detect.Scanners(p.Rules()), banned: make(map[netip.Prefix]time.Time),
		result: Result{Attempts: make(map[string]int), Bans: []Ban{}},
	}
	return r
}

// open opens recordings and reads the first record of each. The caller closes the inputs, also after an error.
func (r *replayer) open(names []string, o Options) (inputs []*input, err error) {
	var done, total int64
	for _, name := range names {
		in, err := openInput(name, o.Stdin, r.detector.Fields(), r.zone, &r.result.frames)
		if err != nil {
			return inputs, err
		}
		inputs = append(inputs, in)
		in.number = uint64(len(inputs))
		total += in.size
	}
	for _, in := range inputs {
		if o.Progress != nil && in.size > 0 {
			in.raw.report = func(read int) {
				done += int64(read)
				o.Progress(done, total)
			}
		}
	}
	return inputs, nil
}

// sources returns the sources that the recordings hold.
func (r *replayer) sources(inputs []*input) (list []policy.Source) {
	if slices.ContainsFunc(inputs, func(in *input) bool { return in.frames != nil }) {
		list = append(list, policy.Event, policy.ESLLog)
		if r.cti {
			list = append(list, policy.CTIEvent)
		}
	}
	if slices.ContainsFunc(inputs, (*input).isLog) {
		list = append(list, policy.CTILog)
	}
	if slices.ContainsFunc(inputs, func(in *input) bool { return in.wire != nil }) {
		list = append(list, policy.SIP)
		r.sip, r.join = detect.NewSIP(), detect.NewJoin()
		r.sip.SetScanners(r.scanners...)
	}
	return list
}

// play replays the records of all inputs in the order of their times. Those of one input keep their order.
func (r *replayer) play(inputs []*input) error {
	r.arbiter = detect.NewArbiter(r.sources(inputs)...)
	r.sequence = sequence.New(r.arbiter, r.engine, r)
	read := func(in *input) (more bool, err error) {
		switch err := in.next(); {
		case errors.Is(err, io.EOF):
			return false, nil
		case err != nil:
			return false, fmt.Errorf("%s: %w", in.name, err)
		}
		return true, nil
	}
	waiting := make([]*input, 0, len(inputs))
	for _, in := range inputs {
		more, err := read(in)
		if err != nil {
			return err
		}
		if more {
			waiting = append(waiting, in)
		}
	}
	for len(waiting) > 0 {
		slices.SortStableFunc(waiting, func(a, b *input) int { return a.at.Compare(b.at) })
		in := waiting[0]
		for more := true; more && (len(waiting) == 1 || !in.at.After(waiting[1].at)); {
			r.replay(in)
			var err error
			if more, err = read(in); err != nil {
				return err
			}
			if !more {
				waiting = waiting[1:]
				r.end(in)
			}
		}
	}
	return nil
}

// pass lets virtual time pass.
func (r *replayer) pass(to time.Time) {
	r.endWaits(to)
	if to.After(r.now) {
		r.now = to
	}
	if r.now.Sub(r.ticked) >= time.Second {
		r.ticked = r.now
		r.sequence.CountMissed(r.now)
		r.sequence.Advance(r.now)
	}
}

// replay replays the record that an input has read last.
func (r *replayer) replay(in *input) {
	r.result.Read++
	last := r.now
	if at := in.record.at; !at.IsZero() {
		r.pass(at)
		r.begin(in)
	}
	switch in.record.kind {
	case logLine:
		r.line(in, last)
	case eventFrame:
		r.event(in)
	case logFrame:
		r.frame(in)
	case packet:
		r.packet(in)
	case damaged:
		r.result.notUnderstood(in, in.record.text)
	}
}

// begin marks the sources of an input alive from its first time on. That of sofia's events is alive once one is known to be in
// the recording.
func (r *replayer) begin(in *input) {
	if in.sofia && !in.events {
		in.events = true
		r.revive(policy.Event, 1)
	}
	if in.begun {
		return
	}
	in.begun = true
	switch {
	case in.wire != nil:
		r.revive(policy.SIP, 1)
	case in.frames != nil:
		r.revive(policy.ESLLog, 1)
		r.revive(policy.CTIEvent, 1)
	default:
		r.revive(policy.CTILog, 1)
	}
}

// end marks the sources of a recording dead, but not a log, which can be read on.
func (r *replayer) end(in *input) {
	if in.events {
		r.revive(policy.Event, -1)
	}
	if in.begun && in.wire != nil {
		r.revive(policy.SIP, -1)
	}
	if in.begun && in.frames != nil {
		r.revive(policy.ESLLog, -1)
		r.revive(policy.CTIEvent, -1)
	}
	r.sequence.CountMissed(r.now)
	r.result.judge(in)
}

func (r *replayer) revive(s policy.Source, by int) {
	if s == policy.CTIEvent && !r.cti {
		return
	}
	r.alive[s] += by
	r.arbiter.SetAlive(s, r.alive[s] > 0, r.now)
}

// line replays a line of mod_cti's log as one that was written after the record before it, which was at last.
func (r *replayer) line(in *input, last time.Time) {
	if last.IsZero() {
		last = r.now
	}
	a := &in.record.attempt
	if in.record.outcome == detect.ClockAdrift {
		a.At = r.now
	}
	var outcome detect.Outcome
	*a, outcome = r.lines.Judge(*a, in.record.outcome, detect.LogLine{Reading: in.number, Since: last, Cut: in.record.cut},
		r.now, r.findtime, 0)
	switch outcome {
	case detect.Attempt, detect.ClockAdrift:
		r.attempt(in, a, in.record.text)
	case detect.Repeated:
		r.result.understood(in)
		r.result.Repeated++
	case detect.Outdated:
		r.result.understood(in)
		r.result.Outdated++
	default:
		r.result.notUnderstood(in, in.record.text)
	}
}

// event replays an event, at its own time.
func (r *replayer) event(in *input) {
	at := in.record.at
	if at.IsZero() {
		at = r.now
	}
	a := &in.record.attempt
	var outcome detect.Outcome
	*a, outcome = r.detector.Event(in.event, at)
	switch outcome {
	case detect.Attempt, detect.ClockAdrift:
		if r.waits(a) {
			r.result.understood(in)
			return
		}
		r.attempt(in, a, in.record.text)
	case detect.NoAddress:
		r.result.notUnderstood(in, in.record.text)
	case detect.NotForUs:
	default:
		r.result.understood(in)
	}
}

// frame replays a line of FreeSWITCH's log, at the time it begins with.
func (r *replayer) frame(in *input) {
	at := in.record.at
	if at.IsZero() {
		at = r.now
	}
	a := &in.record.attempt
	var outcome detect.Outcome
	*a, outcome = r.detector.Log(&in.record.log, at)
	switch outcome {
	case detect.Attempt, detect.ClockAdrift:
		if a.Kind == policy.ACLReject && !in.zone.known { // its only time is that of the line
			r.result.Zone = r.zone.String()
		}
		r.attempt(in, a, in.record.log.Text)
	case detect.NoAddress, detect.NotUnderstood:
		r.result.notUnderstood(in, in.record.log.Text)
	default:
		r.result.understood(in)
	}
}

// attempt decides on an attempt that text reports. One without a time, before all that have one, is not understood.
func (r *replayer) attempt(in *input, a *policy.Attempt, text []byte) {
	if a.At.IsZero() {
		r.result.notUnderstood(in, text)
		return
	}
	r.result.understood(in)
	r.reports++
	r.sequence.Attempt(a, r.now)
}

// finish lets the time pass that the last challenges have, and that reports may still be confirmed.
func (r *replayer) finish() {
	if r.sequence == nil || r.now.IsZero() {
		return
	}
	r.ended = true
	r.endWaits(r.now.Add(detect.JoinTime))
	r.sequence.CountMissed(r.now.Add(detect.ConfirmTime + time.Second))
	r.sequence.Advance(r.now.Add(r.wait + time.Second))
	r.result.Duplicates = r.reports
	for source := range policy.NumSources {
		r.result.Unconfirmed += int(r.arbiter.Unconfirmed(source))
	}
	r.result.Duplicates -= r.result.Unconfirmed
	for _, n := range r.result.Attempts {
		r.result.Duplicates -= n
	}
}

// Counted counts an attempt that is no duplicate. Counted, Ignores, Decided and Due are the effects of decisions.
func (r *replayer) Counted(a *policy.Attempt, _ time.Time) { r.result.Attempts[a.Kind.String()]++ }

// Ignores reports whether prefix is banned.
func (r *replayer) Ignores(_ *policy.Attempt, prefix netip.Prefix, read time.Time) bool {
	if len(r.banned) == 0 {
		return false
	}
	until, banned := r.banned[prefix]
	if banned && !until.IsZero() && !until.After(read) {
		delete(r.banned, prefix)
		banned = false
	}
	if banned {
		r.result.WhileBanned++
	}
	return banned
}

// Decided carries out the decision on an attempt.
func (r *replayer) Decided(_ *policy.Attempt, d *policy.Decision, read time.Time) { r.act(d, read) }

// Due carries out a decision that time has made. A ban that is over by now was in force in between.
func (r *replayer) Due(d *policy.Decision, _ time.Time) {
	if r.ended && d.Unanswered != nil {
		r.result.Unanswered++
	}
	r.act(d, d.Since)
}

func (r *replayer) act(d *policy.Decision, now time.Time) {
	switch d.Verdict {
	case policy.Spared, policy.SparedBan:
		r.result.Spared++
	case policy.BanNow:
		r.ban(d, now)
	case policy.Held:
		r.result.Held++
	case policy.Lift:
		delete(r.banned, d.Prefix)
		for i, b := range slices.Backward(r.result.Bans) { // the ban in force is the newest: those before it were served
			if b.Prefix == d.Prefix {
				r.result.Bans = slices.Delete(r.result.Bans, i, i+1)
				break
			}
		}
	case policy.Pass, policy.Counted, policy.Excused, policy.Forged:
	}
	r.result.notice(d.Reports)
}

// ban makes a ban, unless it is over at now, because its attempts came late, or one that lasts longer is in force.
func (r *replayer) ban(d *policy.Decision, now time.Time) {
	over := func(until time.Time) bool { return !until.IsZero() && !until.After(now) }
	old, banned := r.banned[d.Prefix]
	if over(d.Until) || banned && !over(old) && (old.IsZero() || !d.Until.IsZero() && old.After(d.Until)) {
		return
	}
	r.banned[d.Prefix] = d.Until
	r.result.Bans = append(r.result.Bans, Ban{d.Prefix, d.Since, d.Until, d.Rule.Name, d.Count, d.Evidence})
}
