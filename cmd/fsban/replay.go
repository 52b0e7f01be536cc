package main

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"fsban/config"
	"fsban/detect"
	"fsban/esl"
	"fsban/policy"
)

func newReplay(s *settings) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "replay [FILE...]",
		Short: "Play a log through the configuration: who would be banned?",
		Long: `Play recordings through the configuration, in their own time, and say who would have been banned, when, by which rule,
and after which attempts. Nothing is banned and no daemon is asked.

A FILE, plain or gzipped, or standard input without one, is mod_cti's cti_fail2ban.log, a console log of FreeSWITCH in
which mod_cti repeats it, or what FreeSWITCH sent to a client of its event socket: events, plain or JSON, and its log. What
was not understood is counted and shown. Of a console log take the result for a hint: its lines can hold whatever a peer
sent.`,
		Example: "  fsban replay /ddt/fs/log/cti_fail2ban.log*\n  fsban replay --config new.yaml < cti_fail2ban.log",
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := s.load()
			if err != nil {
				return err
			}
			r := newReplayer(&cfg)
			r.progress = progressOf(cmd.ErrOrStderr())
			if len(args) == 0 {
				args = []string{"-"}
			}
			inputs, err := oldestFirst(args, cmd.InOrStdin())
			for _, in := range inputs {
				if err == nil {
					err = r.play(in)
				}
				err = errors.Join(err, in.close())
			}
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), r.result())
			}
			r.print(screenOf(cmd.OutOrStdout()))
			return nil
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return c
}

// maxExamples and maxExample bound what is shown of what was not understood.
const (
	maxExamples = 5
	maxExample  = 120 // bytes
)

// maxLine is the longest line that is read, as ctilog has it; the rest of a longer one is passed over.
const maxLine = 64 << 10

// A replayer decides about recordings, in virtual time: the time of the newest attempt.
type replayer struct {
	detector *detect.Detector
	engine   *policy.Engine
	event    *esl.Event
	progress func(done, total int64)
	now      time.Time // of the last frame

	banned   map[netip.Prefix]time.Time // until; zero: without end
	bans     []replayBan
	attempts [policy.NumKinds]int
	ticked   time.Time // when the policy last heard of the time
	spared   int
	held     int
	reports  []string
	while    int // attempts of addresses that were banned already
	read     int // lines and events
	unknown  int
	examples []string
}

// A replayBan is a ban that would have been made.
type replayBan struct {
	Prefix   netip.Prefix     `json:"prefix"`
	Since    time.Time        `json:"since"`
	Until    time.Time        `json:"until,omitzero"`
	Rule     string           `json:"rule"`
	Attempts int              `json:"attempts"`
	Evidence []policy.Attempt `json:"evidence"`
}

func newReplayer(cfg *config.Config) *replayer {
	p := &cfg.Policy
	detector := detect.New(cfg.Detect())
	return &replayer{
		detector: detector, event: esl.NewEvent(detector.Fields()),
		engine: policy.NewEngine(p.Rules(), policy.NewNeverBan(policy.NeverEntries("ignoreip", p.IgnorePrefixes()...)), p.Options()),
		banned: make(map[netip.Prefix]time.Time),
	}
}

// play plays one recording.
func (r *replayer) play(in *input) error {
	if r.progress != nil && in.size > 0 {
		in.raw.tell = func(done int64) { r.progress(done, in.size) }
	}
	play := r.lines
	if in.isFrames() {
		play = r.frames
	}
	if err := play(in.text); err != nil {
		return fmt.Errorf("%s: %w", in.name, err)
	}
	return nil
}

// lines plays a log.
func (r *replayer) lines(in *bufio.Reader) error {
	var long []byte
	for {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			if len(long) == 0 {
				long = append(long, line[:maxLine]...)
			}
			continue
		}
		if len(long) > 0 {
			line, long = long, long[:0]
		}
		if len(line) > 0 {
			r.line(line[:min(len(line), maxLine)])
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (r *replayer) line(line []byte) {
	r.read++
	if a, ok := attemptOf(r.detector, line); ok {
		r.decide(&a)
	} else {
		r.notUnderstood(line)
	}
}

// frames plays what an event socket sent.
func (r *replayer) frames(in *bufio.Reader) error {
	reader := esl.NewReader(in)
	for {
		f, err := reader.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		r.frame(f)
	}
}

// frame plays one frame. An event counts at its own time, a line of FreeSWITCH's log at the one that it begins with.
func (r *replayer) frame(f *esl.Frame) {
	var err error
	switch f.Type {
	case esl.LogData:
		r.read++
		log := esl.ParseLog(f)
		if at, ok := loggedAt(log.Text); ok {
			r.now = at
		}
		a, outcome := r.detector.Log(&log, r.now)
		if outcome == detect.Attempt || outcome == detect.ClockAdrift {
			r.decide(&a)
		}
		return
	case esl.EventPlain:
		err = r.event.Parse(f.Body)
	case esl.EventJSON:
		err = r.event.ParseJSON(f.Body)
	default:
		return
	}
	r.read++
	if err != nil {
		r.notUnderstood(f.Body)
		return
	}
	at, ok := detect.EventTime(r.event)
	if ok {
		r.now = at
	}
	a, outcome := r.detector.Event(r.event, at)
	switch {
	case outcome == detect.Attempt && ok:
		r.decide(&a)
	case outcome == detect.Attempt, outcome == detect.ClockAdrift, outcome == detect.NoAddress:
		r.notUnderstood(f.Body)
	}
}

// loggedAt reads the local time that a line of FreeSWITCH's log begins with, perhaps behind the UUID of a channel.
func loggedAt(line []byte) (time.Time, bool) {
	const layout = "2006-01-02 15:04:05.000000"
	if len(line) > 37 && line[36] == ' ' {
		if at, err := time.ParseInLocation(layout, string(line[37:min(len(line), 37+len(layout))]), time.Local); err == nil {
			return at, true
		}
	}
	at, err := time.ParseInLocation(layout, string(line[:min(len(line), len(layout))]), time.Local)
	return at, err == nil
}

func (r *replayer) notUnderstood(text []byte) {
	r.unknown++
	if len(r.examples) < maxExamples {
		text = bytes.TrimRight(text, "\r\n")
		r.examples = append(r.examples, string(text[:min(len(text), maxExample)]))
	}
}

// decide does what the daemon's decision loop does, without doing anything.
func (r *replayer) decide(a *policy.Attempt) {
	r.attempts[a.Kind]++
	if a.At.Sub(r.ticked) >= time.Second {
		r.ticked = a.At
		r.advance(a.At)
	}
	if len(r.banned) > 0 && r.isBanned(a) {
		r.while++
		return
	}
	d := r.engine.Observe(*a)
	r.act(&d)
}

// isBanned tells whether a comes from an address that is banned at its time.
func (r *replayer) isBanned(a *policy.Attempt) bool {
	prefix := r.engine.Prefix(a.Addr)
	until, banned := r.banned[prefix]
	if banned && !until.IsZero() && !until.After(a.At) {
		delete(r.banned, prefix)
		banned = false
	}
	return banned
}

// advance lets virtual time pass.
func (r *replayer) advance(to time.Time) {
	for _, d := range r.engine.Advance(to) {
		r.act(&d)
	}
}

func (r *replayer) act(d *policy.Decision) {
	switch d.Verdict {
	case policy.Spared, policy.SparedBan:
		r.spared++
	case policy.BanNow:
		r.banned[d.Prefix] = d.Until
		r.bans = append(r.bans, replayBan{d.Prefix, d.Since, d.Until, d.Rule.Name, d.Count, d.Evidence})
	case policy.Held:
		r.held++
	case policy.Lift:
		delete(r.banned, d.Prefix)
		for i, b := range slices.Backward(r.bans) { // the ban in force is the newest: those before it were served
			if b.Prefix == d.Prefix {
				r.bans = slices.Delete(r.bans, i, i+1)
				break
			}
		}
	case policy.Pass, policy.Counted, policy.Excused:
	}
	for _, report := range d.Reports {
		r.reports = append(r.reports, noticed(report))
		if len(r.reports) > maxReports {
			r.reports = r.reports[1:]
		}
	}
}

// maxReports bounds what is shown of what was noticed; the last ones are.
const maxReports = 20

// noticed says in words what nobody is banned for.
func noticed(r policy.Report) string {
	stamp := func(t time.Time) string { return t.Local().Format(time.DateTime) }
	switch r := r.(type) {
	case policy.StuckPhone:
		return fmt.Sprintf("%s stuck phone: user %.40q at %v, %.40q", stamp(r.Last), r.User, r.Addr, r.UserAgent)
	case policy.SuspiciousLogin:
		return fmt.Sprintf("%s suspicious login: user %.40q from %v after %d failures", stamp(r.At), r.User, r.Addr, r.Failures)
	case policy.DistributedAttack:
		return fmt.Sprintf("%s distributed attack: %d addresses on user %.40q", stamp(r.Last), r.Addresses, r.User)
	case policy.GuardChange:
		if r.Active {
			return fmt.Sprintf("%s guard %v: bans are held", stamp(r.At), r.Guard)
		}
		return fmt.Sprintf("%s guard %v: over, %d bans dropped", stamp(r.At), r.Guard, r.Dropped)
	}
	return ""
}

// replayResult is the result for --json.
type replayResult struct {
	Read          int            `json:"read"`
	NotUnderstood int            `json:"not_understood"`
	Examples      []string       `json:"examples,omitempty"`
	Attempts      map[string]int `json:"attempts"`
	WhileBanned   int            `json:"while_banned"`
	Spared        int            `json:"spared"`
	Held          int            `json:"held"` // bans that a guard would have held
	Noticed       []string       `json:"noticed,omitempty"`
	Bans          []replayBan    `json:"bans"`
}

func (r *replayer) result() replayResult {
	slices.SortStableFunc(r.bans, func(a, b replayBan) int {
		return cmp.Or(a.Since.Compare(b.Since), a.Prefix.Addr().Compare(b.Prefix.Addr()))
	})
	res := replayResult{
		Read: r.read, NotUnderstood: r.unknown, Examples: r.examples, Attempts: make(map[string]int),
		WhileBanned: r.while, Spared: r.spared, Held: r.held, Noticed: r.reports, Bans: append([]replayBan{}, r.bans...),
	}
	for k, n := range r.attempts {
		if n > 0 {
			res.Attempts[policy.Kind(k).String()] = n
		}
	}
	return res
}

func (r *replayer) print(s *screen) {
	out := s.out
	res := r.result()
	if len(res.Bans) > 0 {
		t := table{columns: []column{{name: "WOULD BAN"}, {name: "RULE"}, {name: "AT"}, {name: "UNTIL", drop: 1}, {name: "ATTEMPTS", right: true, drop: 2}, {name: "USERS", least: 14}}}
		for _, b := range res.Bans {
			until := "forever"
			if !b.Until.IsZero() {
				until = b.Until.Local().Format(time.DateTime)
			}
			users := make([]string, len(b.Evidence))
			for i := range b.Evidence {
				users[i] = b.Evidence[i].User
			}
			t.add(shortest(b.Prefix), b.Rule, b.Since.Local().Format(time.DateTime), until, strconv.Itoa(b.Attempts), s.users(users))
		}
		t.print(s)
	}
	fmt.Fprintf(out, "%d lines or events: %d bans, %d failures, %d violations, %d calls refused, %d refused by access lists, %d while banned, %d from addresses never banned\n",
		res.Read, len(res.Bans), res.Attempts["auth_failure"], res.Attempts["violation"], res.Attempts["call_reject"], res.Attempts["acl_reject"], res.WhileBanned, res.Spared)
	if res.Held > 0 {
		fmt.Fprintf(out, "%d bans would have been held by a guard\n", res.Held)
	}
	for _, text := range res.Noticed {
		fmt.Fprintf(out, "noticed: %s\n", s.clean(text))
	}
	if res.NotUnderstood > 0 {
		fmt.Fprintf(out, "%d were not understood, like:\n", res.NotUnderstood)
		for _, e := range res.Examples {
			fmt.Fprintf(out, "  %s\n", s.quote(e, maxExample))
		}
	}
}
