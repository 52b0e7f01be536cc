package daemon

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"fsban/config"
	"fsban/control"
	"fsban/detect"
	"fsban/esl"
	"fsban/internal/fakeswitch"
	"fsban/internal/netns"
	"fsban/policy"
)

// Set by make soak.
var (
	soakFor  = flag.Duration("soak.for", 0, "soak for so long; 0: a short form")
	soakRate = flag.Int("soak.rate", 1500, "events a second")
)

// Addresses of the actors of a soak, by their first byte.
const (
	stranger = 101 + iota // fails once; there are very many
	phone                 // logs in
	attacker              // fails until it is banned
	calling               // calls without credentials
	refused               // refused by an access list
	asking                // challenged, does not answer
	ordered               // banned by operators
	allowed               // allowed by operators
	guesser               // banned in the end
)

// TestSoak runs a daemon under all kinds of load at once, with -soak.for at several times the rate that a FreeSWITCH can emit:
// failures from very many addresses, logins, challenges, mod_cti's reports in the log stream and in its file, refused calls and
// addresses, bans that begin and end, operator requests, firewall flushes, and a socket that fails. The metrics must equal the
// load exactly, and resources at rest must not grow.
func TestSoak(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		length, rounds := 5*time.Second, 2
		if *soakFor > 0 {
			rounds = max(3, int(*soakFor/(30*time.Second)))
			length = *soakFor / time.Duration(rounds)
		}
		s := newSoak(t, `
  max_tracked: 50000
  ban_rate: 0
  escalation: {factor: 1}
  rules:
    auth: {bantime: 10s}
`)
		s.ready()
		before := s.atRest()
		observed := s.observe()
		busy := s.operate()
		exact := 0
		for round := 0; round < rounds || exact == 0; round++ {
			if s.round(length) {
				exact++
			}
			s.trouble(round)
		}
		busy()
		samples := observed()
		s.quiet()
		after := s.atRest()
		s.report(samples, before, after)
		t.Logf("compared %d of %d rounds; in the others the socket failed by itself", exact, rounds)
		// A connection about to close adds one or two of each. A leak in thousands of requests adds more.
		if after.goroutines > before.goroutines+4 || after.files > before.files+4 {
			t.Errorf("at rest before: %d goroutines, %d files; after: %d, %d", before.goroutines, before.files, after.goroutines, after.files)
		}
		s.flat(samples)
		s.guesserIsBanned(func() {})
		s.program.stop(t)
	}, "iptables", "ip6tables", "ipset")
}

// TestAnAttackerCannotFillTheMemory runs a daemon in a control group of limited memory under attempts that all have a new
// address, user and user agent, until its tables are full and beyond. The daemon must evict and count evictions, never be
// killed, and still ban.
func TestAnAttackerCannotFillTheMemory(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		const mib = 1 << 20
		limit, policyYAML, length := uint64(100*mib), "\n  max_tracked: 2000\n", 2*time.Second
		if *soakFor > 0 { // at the given rate: a million addresses
			limit, policyYAML, length = 300*mib, " {}\n", 30*time.Second
		}
		s := newSoak(t, policyYAML, fmt.Sprintf("GOMEMLIMIT=%d", limit/10*9))
		c := confine(t, s.program.cmd.Process.Pid, limit)
		s.ready()
		evicted := func() float64 { return s.metrics().sum("fsban_policy_evicted_total", `table="addresses"`) }
		for begun := time.Now(); evicted() == 0; {
			s.keepUp(length, s.neverTheSame)
			if time.Since(begun) > 15*time.Minute {
				t.Fatal("the tables are not full yet")
			}
		}
		s.keepUp(length, s.neverTheSame)
		s.guesserIsBanned(func() { s.keepUp(100*time.Millisecond, s.neverTheSame) })
		s.all.add(&s.told)
		now := s.sample()
		t.Logf("%d MiB allowed, by %s; played in %v: %d events (%.0f a second), %d log frames, %d lines", limit/mib, c, s.spent.Round(time.Second),
			s.all.events, float64(s.all.events)/s.spent.Seconds(), s.all.frames, s.all.lines)
		m := s.metrics()
		t.Logf("at most %d MiB resident, %d MiB of them its own now; %v addresses tracked, %v forgotten; %v attempts dropped", now.peak/mib, now.anonymous/mib,
			m.sum("fsban_tracked_addresses"), evicted(), m.sum("fsban_attempts_dropped_total"))
		if kills := c.kills(t); kills != 0 {
			t.Errorf("the kernel killed %d processes for their memory", kills)
		}
		if !c.byKernel() && now.peak > limit {
			t.Errorf("%d MiB resident", now.peak/mib)
		}
		s.program.stop(t)
	}, "iptables", "ip6tables", "ipset")
}

// neverTheSame plays every kind of attempt that an attacker can cause, each with a new address and user.
func (s *soak) neverTheSame(at time.Time) {
	situations := []fakeswitch.Situation{fakeswitch.OnePacket, fakeswitch.OnePacket, fakeswitch.OnePacket, fakeswitch.NoAuth, fakeswitch.RefusedCall, fakeswitch.CTILine}
	s.play(situations[s.rng.IntN(len(situations))], s.another(stranger, 3_000_000), s.rng.Uint32(), at)
}

// A tally counts events, log frames and lines.
type tally struct {
	events, frames, lines int
	attempts              [policy.NumSources][policy.NumKinds]int
}

func (n *tally) add(o *tally) {
	n.events += o.events
	n.frames += o.frames
	n.lines += o.lines
	for s := range o.attempts {
		for k, m := range o.attempts[s] {
			n.attempts[s][k] += m
		}
	}
}

// Placeholders in an act for address, user, user agent and time.
const (
	markAddr  = "199.199.199.199"
	markUser  = "u7777777"
	markAgent = "agent-7777777777"
)

var markTime = time.UnixMicro(1795363922458042)

const ctiTime = "2006-01-02T15:04:05.000000-0700"

// An act is FreeSWITCH's output for one situation, with placeholders that append overwrites. An append takes 1 µs, a
// fakeswitch.Switch 50 µs.
type act struct {
	text                           []byte
	addr, user, agent, stamp, time []int
	told                           tally
}

// newAct returns the act of a situation, limited to events that fsban subscribes to. more is appended to the user and to the
// user agent; headers are prepended to those of each event.
func newAct(t testing.TB, situation fakeswitch.Situation, more, headers string) *act {
	t.Helper()
	cfg := config.Default()
	d := detect.New(cfg.Detect())
	a := new(act)
	raw := fakeswitch.Frames(situation, fakeswitch.Caller{Addr: netip.MustParseAddr(markAddr), User: markUser + more, UserAgent: markAgent + more}, markTime)
	r, ev := esl.NewReader(bytes.NewReader(raw)), esl.NewEvent(d.Fields())
	for {
		f, err := r.Next()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			break
		}
		var attempt policy.Attempt
		var outcome detect.Outcome
		switch f.Type {
		case esl.EventPlain:
			if err := ev.Parse(f.Body); err != nil {
				t.Fatal(err)
			}
			if attempt, outcome = d.Event(ev, markTime); outcome == detect.NotForUs {
				continue
			}
			a.told.events++
			a.text = fmt.Appendf(a.text, "Content-Length: %d\nContent-Type: text/event-plain\n\n%s%s", len(headers)+len(f.Body), headers, f.Body)
		case esl.LogData:
			l := esl.ParseLog(f)
			if l.Level > levelNotice {
				continue
			}
			attempt, outcome = d.Log(&l, markTime)
			a.told.frames++
			a.text = fmt.Appendf(a.text, "%s\n\n%s", bytes.TrimRight(f.Header, "\n"), f.Body)
		}
		if outcome == detect.Attempt {
			a.told.attempts[attempt.Source][attempt.Kind]++
		}
	}
	places := func(mark string) (all []int) {
		for i := 0; ; i++ {
			n := bytes.Index(a.text[i:], []byte(mark))
			if n < 0 {
				return all
			}
			i += n
			all = append(all, i)
		}
	}
	a.addr, a.user, a.agent = places(markAddr), places(markUser), places(markAgent)
	a.stamp, a.time = places(fmt.Sprint(markTime.UnixMicro())), places(markTime.Format(ctiTime))
	if len(a.text) == 0 || a.told.attempts == (tally{}.attempts) && situation != fakeswitch.Heartbeat {
		t.Fatalf("nothing can be played of %q", situation)
	}
	return a
}

// append appends the act with another address, user, user agent and time.
func (a *act) append(b []byte, addr [4]byte, user, agent uint32, at time.Time) []byte {
	from := len(b)
	b = append(b, a.text...)
	var room [64]byte
	put := func(places []int, what []byte) {
		for _, i := range places {
			copy(b[from+i:], what)
		}
	}
	put(a.addr, appendAddr(room[:0], addr))
	put(a.user, fmt.Appendf(room[:0], "u%07d", user%10_000_000))
	put(a.agent, fmt.Appendf(room[:0], "agent-%010d", agent))
	put(a.stamp, strconv.AppendInt(room[:0], at.UnixMicro(), 10))
	put(a.time, at.AppendFormat(room[:0], ctiTime))
	return b
}

// A soak is a daemon under load, with counts of the load.
type soak struct {
	t       *testing.T
	rng     *rand.Rand
	fs      *fakeswitch.Switch
	dir     string
	log     *ctiWriter
	program *program
	client  *control.Client

	acts  map[fakeswitch.Situation]*act
	batch []byte       // for the socket
	lines bytes.Buffer // for mod_cti's file
	told  tally        // since the round began
	all   tally
	next  [256]uint32 // next number of each actor
	beat  time.Time
	spent time.Duration // playing
	asked int           // requests to the control API
}

func newSoak(t *testing.T, policyYAML string, env ...string) *soak {
	fs := newSwitch(t, fakeswitch.Options{})
	dir := configFor(t, fs).State.Directory
	s := &soak{t: t, rng: rand.New(rand.NewPCG(1, 2)), fs: fs, dir: dir, acts: make(map[fakeswitch.Situation]*act)}
	s.log = &ctiWriter{t: t, path: filepath.Join(dir, "cti_fail2ban.log")}
	s.log.open()
	for _, situation := range []fakeswitch.Situation{
		fakeswitch.WrongPassword, fakeswitch.OnePacket, fakeswitch.NoAuth, fakeswitch.Success, fakeswitch.RefusedCall,
		fakeswitch.RejectedRegister, fakeswitch.CTILine, fakeswitch.Heartbeat,
	} {
		s.acts[situation] = newAct(t, situation, "", "")
	}
	s.program = startProgram(t, dir, fmt.Sprintf(`
freeswitch: {address: %q}
cti_log: {path: %q}
policy:%sfirewall: {backend: iptables, check: 1s}
state: {directory: %q}
control: {socket: %q}
http: {listen: "127.0.0.1:0"}
log: {level: error}
`, fs.Addr(), s.log.path, policyYAML, dir, filepath.Join(dir, "s")), env...)
	s.client = control.NewClient(filepath.Join(dir, "s"))
	return s
}

// nthOf returns the n-th address of an actor. All have fifteen characters.
func nthOf(sort byte, n uint32) [4]byte {
	return [4]byte{sort, 100 + byte(n/156/156%156), 100 + byte(n/156%156), 100 + byte(n%156)}
}

func appendAddr(b []byte, addr [4]byte) []byte {
	for i, n := range addr {
		if i > 0 {
			b = append(b, '.')
		}
		b = append(b, '0'+n/100, '0'+n/10%10, '0'+n%10)
	}
	return b
}

// play reports one situation: over the socket, and if mod_cti logs it, in its file too.
func (s *soak) play(situation fakeswitch.Situation, addr [4]byte, user uint32, at time.Time) {
	a := s.acts[situation]
	s.told.add(&a.told)
	s.batch = a.append(s.batch, addr, user, user, at)
	if len(a.time) > 0 {
		fmt.Fprintf(&s.lines, "ip[%s] user[u%07d] at[%s] Registration failed\n", appendAddr(nil, addr), user%10_000_000, at.Format(ctiTime))
		s.told.lines++
		s.told.attempts[policy.CTILog][policy.AuthFailure]++
	}
}

// wrong plays a wrong password that all three sources report.
func (s *soak) wrong(addr [4]byte, user uint32, at time.Time) {
	s.play(fakeswitch.WrongPassword, addr, user, at)
	s.play(fakeswitch.CTILine, addr, user, at)
}

// another returns the next of n addresses of an actor, in turn.
func (s *soak) another(sort byte, of uint32) [4]byte {
	s.next[sort]++
	return nthOf(sort, s.next[sort]%of)
}

// anything plays a random situation.
func (s *soak) anything(at time.Time) {
	const many = 1 << 21
	user := s.rng.Uint32N(20_000)
	switch n := s.rng.IntN(100); {
	case n < 20:
		s.play(fakeswitch.WrongPassword, s.another(stranger, many), user, at)
	case n < 30:
		s.wrong(s.another(stranger, many), user, at)
	case n < 45:
		s.play(fakeswitch.OnePacket, s.another(stranger, many), user, at)
	case n < 65:
		s.play(fakeswitch.NoAuth, s.another(asking, 20_000), user, at)
	case n < 85:
		n := s.rng.Uint32N(2000)
		s.play(fakeswitch.Success, nthOf(phone, n), n, at)
	case n < 87:
		addr := s.another(attacker, 20_000)
		for range 5 {
			s.wrong(addr, user, at)
		}
	case n < 93:
		s.play(fakeswitch.RefusedCall, s.another(calling, 20_000), user, at)
	default:
		s.play(fakeswitch.RejectedRegister, s.another(refused, 20_000), user, at)
	}
}

// flush writes the batch to the socket and the lines to the file.
func (s *soak) flush() {
	s.fs.EmitRaw(s.batch)
	_, err := s.log.file.Write(s.lines.Bytes())
	s.log.check(err)
	s.batch = s.batch[:0]
	s.lines.Reset()
}

// keepUp calls next at the given rate of events a second for a duration. Events that a busy machine missed are not made up for.
func (s *soak) keepUp(length time.Duration, next func(at time.Time)) {
	begun := time.Now()
	at, owed := begun, 0.0
	for at.Sub(begun) < length {
		time.Sleep(5 * time.Millisecond)
		now := time.Now()
		owed += float64(*soakRate) * min(now.Sub(at), 100*time.Millisecond).Seconds()
		at = now
		for was := s.told.events; owed > 0; was = s.told.events {
			next(at)
			owed -= float64(max(1, s.told.events-was))
		}
		if at.Sub(s.beat) > time.Second {
			s.beat = at
			s.play(fakeswitch.Heartbeat, nthOf(phone, 0), 0, at)
		}
		s.flush()
	}
	s.spent += time.Since(begun)
}

// round plays for a duration and compares the metrics with the load. It returns false, without comparing, if the socket failed
// by itself meanwhile.
func (s *soak) round(length time.Duration) bool {
	s.t.Helper()
	before := s.quiet()
	s.told = tally{}
	s.keepUp(length, s.anything)
	deadline := time.Now().Add(time.Minute)
	for {
		now := s.metrics()
		if now["fsban_event_socket_connects_total"] != before["fsban_event_socket_connects_total"] {
			s.all.add(&s.told)
			return false
		}
		wrong := s.compare(before, now)
		if wrong == "" {
			s.all.add(&s.told)
			return true
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("metrics differ from the load: %s\n%s", wrong, s.program.said(s.t))
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// compare describes the metrics that differ from the load; empty: none.
func (s *soak) compare(before, now metricValues) string {
	var wrong bytes.Buffer
	same := func(what string, want int, name string, labels ...string) {
		if got := now.sum(name, labels...) - before.sum(name, labels...); got != float64(want) {
			fmt.Fprintf(&wrong, "%s: %v of %d; ", what, got, want)
		}
	}
	same("events", s.told.events, "fsban_events_total")
	same("frames", s.told.frames, "fsban_log_frames_total")
	same("lines", s.told.lines, "fsban_cti_log_lines_total")
	once := 0
	for source := range policy.NumSources {
		for kind := range policy.NumKinds {
			n := s.told.attempts[source][kind]
			if n > 0 {
				same(fmt.Sprint(source, " ", kind), n, "fsban_attempts_total", `source="`+source.String()+`"`, `kind="`+kind.String()+`"`)
			}
			if source == policy.Event || kind == policy.ACLReject {
				once += n
			}
		}
	}
	if now.sum("fsban_attempts_dropped_total") == before.sum("fsban_attempts_dropped_total") {
		decided := now.sum("fsban_decisions_total") + now.sum("fsban_attempts_while_banned_total")
		if was := before.sum("fsban_decisions_total") + before.sum("fsban_attempts_while_banned_total"); decided-was != float64(once) {
			fmt.Fprintf(&wrong, "decided on: %v of %d; ", decided-was, once)
		}
	}
	return wrong.String()
}

// trouble rotates the log, flushes the firewall, and closes the socket while events arrive.
func (s *soak) trouble(round int) {
	s.log.rotate()
	if out, err := exec.CommandContext(s.t.Context(), "ipset", "flush", "fsban4").CombinedOutput(); err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
	s.told = tally{}
	s.keepUp(300*time.Millisecond, s.anything)
	s.fs.End([]fakeswitch.Ending{fakeswitch.Kill, fakeswitch.Reset, fakeswitch.HalfFrame, fakeswitch.Reload}[round%4])
	s.keepUp(300*time.Millisecond, s.anything)
	s.all.add(&s.told)
	s.ready()
}

// ready waits until every source is connected and the firewall enforces.
func (s *soak) ready() {
	s.t.Helper()
	s.eventually("it is ready", func() error {
		status, err := s.client.Status(s.t.Context())
		switch {
		case err != nil:
			return err
		case !status.Ready || !status.Sources[0].Up || status.Firewall.Pending > 0:
			return fmt.Errorf("%q, pending %d", status.Problems, status.Firewall.Pending)
		}
		return nil
	})
	s.client.Close()
}

func (s *soak) eventually(what string, f func() error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Minute)
	defer cancel()
	for err := f(); err != nil; err = f() {
		select {
		case <-ctx.Done():
			s.t.Fatalf("timed out waiting until %s: %v\n%s", what, err, s.program.said(s.t))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// quiet waits until everything played is counted, and attempts held back for a failed source are released.
func (s *soak) quiet() metricValues {
	s.t.Helper()
	counted := func(m metricValues) float64 {
		return m.sum("fsban_events_total") + m.sum("fsban_log_frames_total") + m.sum("fsban_cti_log_lines_total") + m.sum("fsban_decisions_total") +
			m.sum("fsban_attempts_while_banned_total")
	}
	m := s.metrics()
	for same := 0; same < 3; {
		time.Sleep(time.Second) // the daemon refreshes these once a second
		now := s.metrics()
		if same++; counted(now) != counted(m) {
			same = 0
		}
		m = now
	}
	return m
}

// operate sends operator requests, one every 50 ms. stop waits for its end.
func (s *soak) operate() (stop func()) {
	ctx, cancel := context.WithCancel(s.t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		client := control.NewClient(filepath.Join(s.dir, "s"))
		defer client.Close()
		prefix := func(sort byte, n int) netip.Prefix {
			return netip.PrefixFrom(netip.AddrFrom4(nthOf(sort, uint32(n))), 32)
		}
		for n := 0; ctx.Err() == nil; n++ {
			var err error
			switch n % 8 {
			case 0:
				_, err = client.Status(ctx)
			case 1:
				_, err = client.Bans(ctx, control.Pick{Evidence: n % 3 * control.All / 2})
			case 2:
				_, err = client.Why(ctx, netip.AddrFrom4(nthOf(phone, uint32(n%2000))))
			case 3:
				_, err = client.Ban(ctx, control.BanRequest{Prefix: prefix(ordered, n), Time: time.Minute})
			case 4:
				_, err = client.Unban(ctx, prefix(ordered, n-1))
			case 5:
				_, err = client.Allow(ctx, control.AllowRequest{Prefix: prefix(allowed, n)})
			case 6:
				_, err = client.Disallow(ctx, prefix(allowed, n-1))
			case 7:
				_, err = client.Ban(ctx, control.BanRequest{Prefix: prefix(ordered, n), Time: 5 * time.Second})
			}
			if err != nil && ctx.Err() == nil {
				s.t.Errorf("request %d: %v", n, err)
				return
			}
			s.asked++
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	return func() {
		cancel()
		done.Wait()
	}
}

// atRest samples the daemon without load: the minimum of several samples, because background work never stops.
func (s *soak) atRest() sample {
	rest := s.sample()
	for range 20 {
		time.Sleep(100 * time.Millisecond)
		now := s.sample()
		rest.goroutines, rest.files = min(rest.goroutines, now.goroutines), min(rest.files, now.files)
	}
	return rest
}

func (s *soak) metrics() metricValues {
	s.t.Helper()
	m, err := s.program.scrape(s.t.Context())
	if err != nil {
		s.t.Fatalf("%v\n%s", err, s.program.said(s.t))
	}
	return m
}

func (s *soak) sample() sample {
	s.t.Helper()
	goroutines := s.metrics()["go_goroutines"]
	now, err := measure(s.program.cmd.Process.Pid)
	if err != nil {
		s.t.Fatalf("%v\n%s", err, s.program.said(s.t))
	}
	now.goroutines = int(goroutines)
	return now
}

// observe samples the daemon every second. stop waits for its end.
func (s *soak) observe() (stop func() []sample) {
	ctx, cancel := context.WithCancel(s.t.Context())
	var done sync.WaitGroup
	var samples []sample
	done.Go(func() {
		ticker := time.NewTicker(time.Second)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			m, err := s.program.scrape(ctx)
			now, measureErr := measure(s.program.cmd.Process.Pid)
			if err := errors.Join(err, measureErr); err != nil {
				if ctx.Err() == nil {
					s.t.Errorf("measure the daemon: %v", err)
				}
				return
			}
			now.goroutines = int(m["go_goroutines"])
			samples = append(samples, now)
		}
	})
	return func() []sample {
		cancel()
		done.Wait()
		return samples
	}
}

// report logs the measured figures.
func (s *soak) report(samples []sample, before, after sample) {
	s.t.Helper()
	if len(samples) < 3 {
		s.t.Fatalf("%d samples", len(samples))
	}
	const mib = 1 << 20
	m := s.metrics()
	s.t.Logf("played in %v: %d events (%.0f a second), %d log frames, %d lines of the file; %d requests of an operator",
		s.spent.Round(time.Second), s.all.events, float64(s.all.events)/s.spent.Seconds(), s.all.frames, s.all.lines, s.asked)
	third := len(samples) / 3
	for i, name := range []string{"first", "second", "last"} {
		of := samples[i*third : (i+1)*third]
		var most sample
		for _, one := range of {
			most.rss, most.anonymous = max(most.rss, one.rss), max(most.anonymous, one.anonymous)
			most.goroutines, most.files, most.threads = max(most.goroutines, one.goroutines), max(most.files, one.files), max(most.threads, one.threads)
		}
		s.t.Logf("%s third: at most %d MiB, %d MiB of them its own; %d goroutines, %d files, %d threads", name, most.rss/mib, most.anonymous/mib, most.goroutines, most.files, most.threads)
	}
	s.t.Logf("at rest: %d goroutines, %d files before, %d and %d after; %d MiB before, %d MiB after", before.goroutines, before.files, after.goroutines, after.files, before.rss/mib, after.rss/mib)
	s.t.Logf("CPU: %v, %.0f µs an event", (after.cpu - before.cpu).Round(time.Second), float64((after.cpu-before.cpu).Microseconds())/float64(s.all.events))
	pauses := s.program.pauses(s.t)
	if len(pauses) == 0 {
		s.t.Fatal("the log has no trace of the garbage collector")
	}
	s.t.Logf("garbage collector: %d pauses, p50 %v, p99 %v, at most %v", len(pauses), pauses[len(pauses)/2], pauses[len(pauses)*99/100], pauses[len(pauses)-1])
	s.t.Logf("bans: %v made, %v ended by themselves, %v put back, %v in force; in the kernel in %s in 99 of 100 cases",
		m.sum("fsban_bans_total"), m.sum("fsban_unbans_total", `cause="expired"`), m.sum("fsban_firewall_restored_total"), m.sum("fsban_banned_prefixes"), m.latency(0.99))
	s.t.Logf("attempts dropped: %v; addresses forgotten: %v; the socket came up %v times; notes lost: %v", m.sum("fsban_attempts_dropped_total"),
		m.sum("fsban_policy_evicted_total", `table="addresses"`), m.sum("fsban_event_socket_connects_total"), m.sum("fsban_journal_lost_total"))
	if n := s.fs.Dropped(); n > 0 {
		s.t.Errorf("FreeSWITCH had to cut it off %d times, because it did not read", n)
	}
}

// flat asserts that memory has stopped growing. A short run is not long enough for that: there it is only bounded.
func (s *soak) flat(samples []sample) {
	peak := func(of []sample) uint64 {
		return slices.MaxFunc(of, func(a, b sample) int { return int(a.rss) - int(b.rss) }).rss
	}
	const mib = 1 << 20
	if *soakFor == 0 {
		if most := peak(samples); most > 256*mib {
			s.t.Errorf("%d MiB", most/mib)
		}
		return
	}
	third := len(samples) / 3
	middle, last := peak(samples[third:2*third]), peak(samples[2*third:])
	if last > middle+middle/10+8*mib {
		s.t.Errorf("at most %d MiB in the second third, %d MiB in the last", middle/mib, last/mib)
	}
}

// guesserIsBanned has the guesser fail until the kernel holds the ban, and calls meanwhile between the failures.
func (s *soak) guesserIsBanned(meanwhile func()) {
	s.t.Helper()
	addr := nthOf(guesser, 1)
	s.eventually("a guesser is banned", func() error {
		for range 5 {
			s.wrong(addr, 7, time.Now())
		}
		s.flush()
		meanwhile()
		return exec.CommandContext(s.t.Context(), "ipset", "test", "fsban4", netip.AddrFrom4(addr).String()).Run()
	})
}
