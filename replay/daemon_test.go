package replay

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fsban/config"
	"fsban/daemon"
	"fsban/decide"
	"fsban/decide/book"
	"fsban/detect"
	"fsban/esl"
	"fsban/firewall"
	"fsban/internal/fakeswitch"
	"fsban/ledger"
	"fsban/policy"
)

// A node is a daemon's decision loop with a firewall that notes its orders.
type node struct {
	*decide.Loop
	cfg      *config.Config
	detector *detect.Detector
	lines    *detect.LogReader
	ledger   *ledger.Ledger
	ordered  []netip.Prefix // bans, whose evidence is not looked up yet
	bans     []string
}

func newNode(t *testing.T, cfg *config.Config, now time.Time) *node {
	t.Helper()
	l, err := ledger.Open(filepath.Join(t.TempDir(), "fsban.db"), now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	n := &node{cfg: cfg, detector: detect.New(cfg.Detect()), lines: detect.NewLogReader(), ledger: l}
	n.Loop = decide.New(decide.Options{
		Log: slog.New(slog.DiscardHandler), Ledger: l, Firewall: n, Capacity: func() (int, bool) { return 0, false }, Recorder: uncounted{}, Started: now,
		Settings: decide.Settings{
			Rules: cfg.Policy.Rules(), Policy: cfg.Policy.Options(), Sources: []policy.Source{policy.Event, policy.ESLLog, policy.CTILog},
			Memory: cfg.Policy.LongestFindTime(), Limits: book.Limits{MaxBans: 1000, BanRate: cfg.Policy.Options().BanRate},
		},
	})
	return n
}

func (n *node) Ban(p netip.Prefix, _ time.Time, _ firewall.Cause) { n.ordered = append(n.ordered, p) }
func (n *node) Unban(netip.Prefix, time.Time)                     {}
func (n *node) Packets() map[netip.Prefix]uint64                  { return nil }

// decided decides on the offered attempts, and notes the bans.
func (n *node) decided() {
	n.Drain()
	n.noteBans()
}

func (n *node) tick(now time.Time) {
	n.Tick(now)
	n.noteBans()
}

func (n *node) noteBans() {
	for _, p := range n.ordered {
		b, _ := n.ledger.Get(p)
		n.bans = append(n.bans, banText(b.Prefix, b.Rule, b.Attempts, b.Since))
	}
	n.ordered = n.ordered[:0]
}

func banText(p netip.Prefix, rule string, attempts int, since time.Time) string {
	return fmt.Sprintf("%v %s %d %s", p, rule, attempts, since.UTC().Format("15:04:05.000"))
}

func bansOf(r *Result) (list []string) {
	for _, b := range r.Bans {
		list = append(list, banText(b.Prefix, b.Rule, b.Attempts, b.Since))
	}
	return list
}

func (n *node) onEvent(ev *esl.Event, now time.Time) {
	if a, outcome := n.detector.Event(ev, now); outcome == detect.Attempt || outcome == detect.ClockAdrift {
		n.Offer(a, now)
	}
}

func (n *node) onLog(l *esl.Log, now time.Time) {
	if a, outcome := n.detector.Log(l, now); outcome == detect.Attempt || outcome == detect.ClockAdrift {
		n.Offer(a, now)
	}
}

func (n *node) onLine(text []byte, now time.Time) {
	a, outcome := n.lines.Line(detect.LogLine{Text: text, Reading: 1, Since: now}, now, n.cfg.Policy.LongestFindTime(), 0)
	if outcome == detect.Attempt || outcome == detect.ClockAdrift {
		n.OfferLine(decide.Line{Attempt: a, Read: now}, nil)
	}
}

// uncounted is a Recorder that counts nothing.
type uncounted struct{}

func (uncounted) Banned(string)                  {}
func (uncounted) Unbanned(book.Cause)            {}
func (uncounted) BanRefused()                    {}
func (uncounted) Adopted()                       {}
func (uncounted) Removed(book.Reason)            {}
func (uncounted) Counted(string, policy.Kind)    {}
func (uncounted) CountedRemote(policy.Kind, int) {}
func (uncounted) CountedBanned()                 {}
func (uncounted) Detailed(policy.Kind, string)   {}
func (uncounted) Decided(policy.Verdict)         {}
func (uncounted) Reported(policy.Report)         {}

// A happening is bytes of the event socket, or a line of mod_cti's log.
type happening struct {
	at     time.Time
	frames []byte
	line   string
}

// evening makes random attempts of some addresses, as both sources report them: the event socket from a time on, and until another.
func evening(rng *rand.Rand, start time.Time, up, down time.Duration) (all []happening) {
	situations := []fakeswitch.Situation{
		fakeswitch.WrongPassword, fakeswitch.WrongPassword, fakeswitch.InviteWrongPassword, fakeswitch.OnePacket,
		fakeswitch.Success, fakeswitch.NoAuth, fakeswitch.NoAuth, fakeswitch.RejectedRegister,
	}
	at := start
	for range 300 {
		at = at.Add(time.Duration(100+rng.IntN(2000)) * time.Millisecond)
		c := fakeswitch.Caller{Addr: netip.AddrFrom4([4]byte{198, 51, 100, byte(rng.IntN(8))}), Port: 5060, User: fmt.Sprint(1000 + rng.IntN(6))}
		s := situations[rng.IntN(len(situations))]
		heard := at.After(start.Add(up)) && at.Before(start.Add(down))
		if heard {
			all = append(all, happening{at: at, frames: fakeswitch.Frames(s, c, at)})
		}
		switch s {
		case fakeswitch.WrongPassword, fakeswitch.InviteWrongPassword, fakeswitch.OnePacket:
			late := at.Add(time.Duration(1+rng.IntN(20)) * time.Millisecond)
			if heard {
				all = append(all, happening{at: late, frames: fakeswitch.Frames(fakeswitch.CTILine, c, late)})
			}
			late = late.Add(time.Millisecond)
			all = append(all, happening{at: late, line: ctiLine(c.Addr, c.User, late)})
		}
	}
	return all
}

func ctiLine(addr netip.Addr, user string, at time.Time) string {
	return fmt.Sprintf("ip[%v] user[%s] at[%s] Registration failed\n", addr, user, at.Format("2006-01-02T15:04:05.000000-0700"))
}

// replayed replays the happenings as two recordings.
func replayed(t *testing.T, cfg *config.Config, all []happening) Result {
	t.Helper()
	var socket, log []byte
	for _, h := range all {
		socket, log = append(socket, h.frames...), append(log, h.line...)
	}
	return run(t, cfg, Options{}, map[string][]byte{"1.log": log, "2.esl": socket})
}

// run replays recordings by name, in the order of the names.
func run(t *testing.T, cfg *config.Config, o Options, recordings map[string][]byte) Result {
	t.Helper()
	dir := t.TempDir()
	var names []string
	for name, data := range recordings {
		names = append(names, filepath.Join(dir, name))
		if err := os.WriteFile(names[len(names)-1], data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(names)
	r, err := Run(cfg, names, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func testConfig() *config.Config {
	cfg := config.Default()
	cfg.FreeSWITCH.Log = true
	return &cfg
}

// The same evening leads to the same bans in the daemon's loop and in a replay: with an event socket that comes and goes, mod_cti's
// log as a second source, and challenges, in another zone than this host's.
func TestAReplayDecidesAsTheDaemonDoes(t *testing.T) {
	zone := time.FixedZone("", -(3*3600 + 1800))
	bans := 0
	for seed := range uint64(40) {
		rng := rand.New(rand.NewPCG(seed, 15))
		start := time.Date(2026, 11, 22, 18, 0, 0, 0, time.UTC).In(zone)
		up := time.Duration(rng.IntN(100)) * time.Second
		down := up + time.Duration(rng.IntN(300))*time.Second
		all := evening(rng, start, up, down)
		cfg := testConfig()
		n := newNode(t, cfg, start)
		n.live(all)
		result := replayed(t, cfg, all)
		slices.Sort(n.bans)
		got := bansOf(&result)
		slices.Sort(got)
		if !slices.Equal(got, n.bans) {
			t.Fatalf("seed %d: replay\n%s\ndaemon\n%s", seed, strings.Join(got, "\n"), strings.Join(n.bans, "\n"))
		}
		for kind := range policy.NumKinds {
			if got, want := result.Attempts[kind.String()], int(n.Counted(kind)); got != want {
				t.Errorf("seed %d: replay counts %d of kind %v, the daemon %d", seed, got, kind, want)
			}
		}
		bans += len(got)
	}
	if bans < 100 {
		t.Errorf("only %d bans", bans)
	}
}

// live has the daemon's loop decide on happenings as they come, and on decisions due after them.
func (n *node) live(all []happening) {
	var last time.Time
	for _, h := range all {
		if h.frames != nil {
			last = h.at
		}
	}
	ticked := all[0].at
	n.SetAlive(policy.CTILog, true)
	ev := esl.NewEvent(n.detector.Fields())
	for _, h := range all {
		for ; !ticked.Add(time.Second).After(h.at); n.tick(ticked) {
			ticked = ticked.Add(time.Second)
		}
		if h.frames == nil {
			n.onLine([]byte(h.line), h.at)
			n.decided()
			continue
		}
		n.SetAlive(policy.Event, true)
		n.SetAlive(policy.ESLLog, true)
		for r := esl.NewReader(bytes.NewReader(h.frames)); ; {
			f, err := r.Next()
			if err != nil {
				break
			}
			if f.Type == esl.LogData {
				l := esl.ParseLog(f)
				n.onLog(&l, h.at)
			} else if ev.Parse(f.Body) == nil {
				n.onEvent(ev, h.at)
			}
			n.decided()
		}
		if h.at.Equal(last) {
			n.SetAlive(policy.Event, false)
			n.SetAlive(policy.ESLLog, false)
			n.tick(h.at)
		}
	}
	for range 20 {
		ticked = ticked.Add(time.Second)
		n.tick(ticked)
	}
}

// A recorded FreeSWITCH sends the same bytes to a client of the daemon's kind and to a file.
func TestAReplayOfTheEventSocketDecidesAsTheDaemonDoes(t *testing.T) {
	fs := fakeswitch.New(fakeswitch.Options{})
	if err := fs.Listen("127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{}, 2)
	go func() { _ = fs.Serve(ctx); ended <- struct{}{} }()
	now := time.Now()
	cfg := testConfig()
	cfg.FreeSWITCH.Password = "ClueCon"
	n := newNode(t, cfg, now)
	n.SetAlive(policy.CTILog, true)
	frames := make(chan struct{}, 1000)
	o := daemon.Subscription(cfg, n.detector)
	o.OnEvent = func(ev *esl.Event) { n.onEvent(ev, time.Now()); frames <- struct{}{} }
	o.OnLog = func(l esl.Log) { n.onLog(&l, time.Now()); frames <- struct{}{} }
	o.OnState = func(s esl.State) { n.SetAlive(policy.Event, s.Up); n.SetAlive(policy.ESLLog, s.Up) }
	client := esl.NewClient(fs.Addr(), o)
	go func() { _ = client.Run(ctx); ended <- struct{}{} }()
	t.Cleanup(func() { cancel(); <-ended; <-ended })
	if err := fs.WaitSubscribed(ctx, "sofia::register_failure"); err != nil {
		t.Fatal(err)
	}

	var recording []byte
	want := 0
	for i := range 30 {
		c := fakeswitch.Caller{Addr: netip.AddrFrom4([4]byte{198, 51, 100, byte(i % 4)}), Port: 5060, User: fmt.Sprint(1000 + i%3)}
		at := now.Add(-30*time.Second + time.Duration(i)*time.Second)
		for _, s := range []fakeswitch.Situation{fakeswitch.WrongPassword, fakeswitch.CTILine, fakeswitch.NoAuth} {
			recording = append(recording, fakeswitch.Frames(s, c, at)...)
			want += bytes.Count(fakeswitch.Frames(s, c, at), []byte("Content-Type"))
		}
	}
	fs.EmitRaw(recording)
	for range want {
		<-frames
	}
	n.decided()
	n.tick(time.Now().Add(10 * time.Second))
	result := run(t, cfg, Options{}, map[string][]byte{"socket.esl": recording})
	got := bansOf(&result)
	slices.Sort(got)
	slices.Sort(n.bans)
	if len(got) == 0 || !slices.Equal(got, n.bans) || result.Attempts["auth_failure"] != 30 || result.Duplicates != 30 {
		t.Errorf("replay\n%s\ndaemon\n%s\n%+v", strings.Join(got, "\n"), strings.Join(n.bans, "\n"), result)
	}
}
