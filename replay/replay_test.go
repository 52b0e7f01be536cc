package replay

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"fsban/detect"
	"fsban/esl"
	"fsban/internal/captures"
	"fsban/internal/fakeswitch"
	"fsban/policy"
)

// An outage takes back the ban in force, how long it may last, and none that was served before.
func TestBansLiftedAfterAnOutageAreNotReported(t *testing.T) {
	office, other := netip.MustParsePrefix("203.0.113.50/32"), netip.MustParsePrefix("203.0.113.66/32")
	served := time.Date(2026, 11, 22, 18, 0, 0, 0, time.UTC)
	for name, until := range map[string]time.Time{"for a day": served.Add(48 * time.Hour), "forever": {}} {
		r := &replayer{banned: make(map[netip.Prefix]time.Time)}
		rule := &policy.Rule{Name: "auth"}
		for _, d := range []policy.Decision{
			{Verdict: policy.BanNow, Prefix: office, Rule: rule, Since: served.Add(-time.Hour), Until: served},
			{Verdict: policy.BanNow, Prefix: office, Rule: rule, Since: served.Add(24 * time.Hour), Until: until},
			{Verdict: policy.BanNow, Prefix: other, Rule: rule, Since: served.Add(24 * time.Hour), Until: until},
			{Verdict: policy.Lift, Prefix: office},
		} {
			r.act(&d, d.Since)
		}
		var left []netip.Prefix
		for _, b := range r.result.Bans {
			left = append(left, b.Prefix)
		}
		if _, banned := r.banned[office]; banned || !slices.Equal(left, []netip.Prefix{office, other}) || !r.result.Bans[0].Until.Equal(served) {
			t.Errorf("%s: %+v", name, r.result.Bans)
		}
	}
}

const fiveGuesses = "register-wrong-password-x5-fresh-nonces.plain.esl"

// guesses returns the recording of five wrong passwords, the times of its failures and their address.
func guesses(t *testing.T) (recording []byte, times []time.Time, addr netip.Addr) {
	t.Helper()
	recording = captures.Read(t, fiveGuesses)
	d := detect.New(detect.Options{})
	ev := esl.NewEvent(d.Fields())
	for r := esl.NewReader(bytes.NewReader(recording)); ; {
		f, err := r.Next()
		if err != nil {
			return recording, times, addr
		}
		if f.Type != esl.EventPlain || ev.Parse(f.Body) != nil {
			continue
		}
		at, _ := detect.EventTime(ev)
		if a, outcome := d.Event(ev, at); outcome == detect.Attempt && a.Kind == policy.AuthFailure {
			times, addr = append(times, a.At), a.Addr
		}
	}
}

func gzipped(t *testing.T, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Five guesses are five failures and one ban in every kind of recording: events with mod_cti's lines among them, its log, a
// console log.
func TestAFailureCountsOnceInAllRecordings(t *testing.T) {
	socket, times, addr := guesses(t)
	shanghai := time.FixedZone("", 8*3600)
	var frames, log, console []byte
	for i, at := range times { // two are of one moment
		at = at.Add(time.Duration(3+i) * time.Millisecond).In(shanghai)
		line := ctiLine(addr, "1000", at)
		log = append(log, line...)
		console = fmt.Appendf(console, "%s 98.47%% [NOTICE] cti_fail2ban.c:35 write to fail2ban:%s succeed!\n", at.Format(logLayout), strings.TrimSpace(line))
		frames = append(frames, fakeswitch.Frames(fakeswitch.CTILine, fakeswitch.Caller{Addr: addr, User: "1000"}, at)...)
	}
	both := interleave(t, socket, frames)
	for name, tc := range map[string]struct {
		recordings                        map[string][]byte
		duplicates, repeated, unconfirmed int
	}{
		"events":                         {map[string][]byte{"a": socket}, 0, 0, 0},
		"log":                            {map[string][]byte{"a": log}, 0, 0, 0},
		"console":                        {map[string][]byte{"a": console}, 0, 0, 0},
		"lines of the log stream":        {map[string][]byte{"a": frames}, 0, 0, 0},
		"events and lines in one stream": {map[string][]byte{"a": both}, 5, 0, 0},
		"events, then their lines":       {map[string][]byte{"a": append(bytes.Clone(socket), frames...)}, 5, 0, 0},
		"stream and log":                 {map[string][]byte{"a": socket, "b": log}, 5, 0, 0},
		"log and stream":                 {map[string][]byte{"a": log, "b": socket}, 5, 0, 0},
		"all":                            {map[string][]byte{"a": log, "b": both, "c": console}, 10, 5, 0},
		"log and its copy":               {map[string][]byte{"a": log, "b": gzipped(t, log)}, 0, 5, 0},
		"a log in two parts":             {map[string][]byte{"b": log[:bytes.IndexByte(log, '\n')+1], "a": log[bytes.IndexByte(log, '\n')+1:]}, 0, 0, 0},
	} {
		r := run(t, testConfig(), Options{}, tc.recordings)
		if len(r.Bans) != 1 || r.Bans[0].Prefix.Addr() != addr || r.Attempts["auth_failure"] != 5 || r.Duplicates != tc.duplicates || r.Repeated != tc.repeated || r.Unconfirmed != tc.unconfirmed {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// While events are recorded, a line that none of them confirms does not count. Before and after, it does.
func TestALineCountsWhereNoEventCan(t *testing.T) {
	at := time.Date(2026, 11, 22, 18, 0, 0, 0, time.UTC)
	c := fakeswitch.Caller{Addr: netip.MustParseAddr("198.51.100.9"), Port: 5060, User: "1000"}
	socket := slices.Concat(fakeswitch.Frames(fakeswitch.WrongPassword, c, at.Add(time.Minute)), fakeswitch.Frames(fakeswitch.WrongPassword, c, at.Add(3*time.Minute)))
	var log string
	for i := range 5 {
		log += ctiLine(c.Addr, "1000", at.Add(time.Duration(i)*time.Minute+time.Millisecond))
	}
	r := run(t, testConfig(), Options{}, map[string][]byte{"a": []byte(log), "b": socket})
	if r.Attempts["auth_failure"] != 4 || r.Duplicates != 2 || r.Unconfirmed != 1 {
		t.Errorf("%+v", r)
	}
}

// interleave puts a frame of b after each register_failure of a.
func interleave(t *testing.T, a, b []byte) (both []byte) {
	t.Helper()
	extra := bytes.SplitAfter(b, []byte("succeed!\n"))
	for r := esl.NewReader(bytes.NewReader(a)); ; {
		f, err := r.Next()
		if err != nil {
			return both
		}
		both = append(append(append(both, f.Header...), '\n'), f.Body...)
		if bytes.Contains(f.Body, []byte("register_failure")) {
			both, extra = append(both, extra[0]...), extra[1:]
		}
	}
}

func TestChallengesAtTheEndAreDecided(t *testing.T) {
	cfg := testConfig()
	rule := cfg.Policy.Ruleset.Named("challenge")
	if rule == nil {
		t.Fatal("no rule named challenge")
	}
	at := time.Date(2026, 11, 22, 18, 0, 0, 0, time.UTC)
	var recording []byte
	n := 0
	for _, r := range cfg.Policy.Rules() {
		if r.Name == "challenge" {
			n = r.MaxRetry
		}
	}
	for i := range n {
		c := fakeswitch.Caller{Addr: netip.MustParseAddr("198.51.100.9"), Port: 5060, User: fmt.Sprint(i)}
		recording = append(recording, fakeswitch.Frames(fakeswitch.NoAuth, c, at.Add(time.Duration(i)*time.Millisecond))...)
	}
	r := run(t, cfg, Options{}, map[string][]byte{"a": recording})
	wait := cfg.Policy.Options().ChallengeWait
	if r.Unanswered != n || len(r.Bans) != 1 || r.Bans[0].Rule != "challenge" || r.Bans[0].Since.Before(at) || r.Bans[0].Since.After(at.Add(wait+time.Second)) {
		t.Errorf("%d of %d unanswered, bans %v", r.Unanswered, n, bansOf(&r))
	}
	// Credentials follow the last one.
	c := fakeswitch.Caller{Addr: netip.MustParseAddr("198.51.100.9"), Port: 5060, User: "1"}
	recording = append(recording, fakeswitch.Frames(fakeswitch.Refresh, c, at.Add(wait/2))...)
	if r := run(t, cfg, Options{}, map[string][]byte{"a": recording}); len(r.Bans) != 0 {
		t.Errorf("credentials followed: bans %v, %d unanswered", bansOf(&r), r.Unanswered)
	}
}

// FreeSWITCH's log lines state no zone. In a recording with events or mod_cti's lines they are read in the recording's zone,
// not in this host's.
func TestTheZoneOfALogIsTheRecordings(t *testing.T) {
	local := time.Local
	t.Cleanup(func() { time.Local = local })
	caller := fakeswitch.Caller{Addr: netip.MustParseAddr("198.51.100.9"), Port: 5060, User: "1000"}
	other := fakeswitch.Caller{Addr: netip.MustParseAddr("198.51.100.10"), Port: 5060, User: "1000"}
	utc := time.Date(2026, 11, 22, 18, 0, 0, 0, time.UTC)
	for _, host := range []int{0, 9 * 3600, -11 * 3600} {
		time.Local = time.FixedZone("host", host)
		for _, recorded := range []int{0, 8 * 3600, 5*3600 + 1800, -9*3600 - 1800, 14 * 3600} {
			zone := time.FixedZone("", recorded)
			at := utc.In(zone)
			refused := fakeswitch.Frames(fakeswitch.RejectedRegister, caller, at)
			for name, tc := range map[string]struct {
				frames  []byte
				options Options
				zone    string
			}{
				"an event before it":       {slices.Concat(fakeswitch.Frames(fakeswitch.WrongPassword, other, at.Add(-time.Second)), refused), Options{}, ""},
				"an event after it":        {slices.Concat(refused, fakeswitch.Frames(fakeswitch.WrongPassword, other, at.Add(time.Second))), Options{}, ""},
				"mod_cti's line before it": {slices.Concat(fakeswitch.Frames(fakeswitch.CTILine, other, at.Add(-time.Second)), refused), Options{}, ""},
				"mod_cti's line after it":  {slices.Concat(refused, fakeswitch.Frames(fakeswitch.CTILine, other, at.Add(time.Second))), Options{}, ""},
				"neither":                  {refused, Options{Zone: zone}, zone.String()},
			} {
				cfg := testConfig()
				for i := range cfg.Policy.Ruleset {
					cfg.Policy.Ruleset[i].MaxRetry = new(1)
				}
				cfg.Policy.MaxRetry = 1
				r := run(t, cfg, tc.options, map[string][]byte{"a": tc.frames})
				i := slices.IndexFunc(r.Bans, func(b Ban) bool { return b.Prefix.Addr() == caller.Addr })
				if i < 0 || !r.Bans[i].Since.Equal(utc) || r.Zone != tc.zone {
					t.Errorf("host %v, recording %v, %s: %v, zone %q", host, recorded, name, bansOf(&r), r.Zone)
				}
			}
		}
	}
}

// A log has lines of all kinds: records, console lines that repeat them, others, lines without a time, without an end.
func TestAMixedLog(t *testing.T) {
	at := time.Date(2026, 11, 22, 18, 0, 0, 0, time.UTC)
	addr := netip.MustParseAddr("198.51.100.9")
	record := func(i int) string { return ctiLine(addr, "1000", at.Add(time.Duration(i)*time.Second)) }
	console := func(i int) string {
		return "2026-11-22 21:00:00.000000 98.47% [NOTICE] cti_fail2ban.c:35 write to fail2ban:" + strings.TrimSpace(record(i)) + " succeed!\r\n"
	}
	log := record(0) + record(2) + console(0) + "2026-11-22 21:00:00.000000 [WARNING] sofia_reg.c:1842 SIP auth challenge\n" + console(4) + record(2) +
		"\n" + strings.Repeat("x", 300_000) + "\n" + "ip[198.51.100.9] user[1000] at[(null)] Registration failed\n" + "ip[nobody]\n" + record(-100_000_000) + strings.TrimSpace(record(5))
	r := run(t, testConfig(), Options{}, map[string][]byte{"a": []byte(log)})
	if r.Read != 12 || r.Attempts["auth_failure"] != 5 || r.Repeated != 2 || r.Outdated != 1 || r.NotUnderstood != 4 || r.Understood != 8 || r.Err() != nil {
		t.Errorf("%+v", r)
	}
}

// The end of a line is mod_cti's own word. A time in the rest of a line that is too long is a peer's, and may be of any year.
func TestATimeInALineThatIsTooLongIsNotBelieved(t *testing.T) {
	at := time.Date(2026, 11, 22, 18, 0, 0, 0, time.UTC)
	addr := netip.MustParseAddr("198.51.100.9")
	for _, year := range []int{2000, 2090} {
		for _, length := range []int{maxLine, 2 * peek} {
			user := "x] at[" + at.AddDate(year-2026, 0, 0).Format("2006-01-02T15:04:05Z") + "] Registration failed " + strings.Repeat("x", length)
			log := ctiLine(addr, "1000", at) + ctiLine(addr, user, at.Add(time.Second)) + ctiLine(addr, "1000", at.Add(2*time.Second))
			r := run(t, testConfig(), Options{}, map[string][]byte{"a": []byte(log)})
			if r.Attempts["auth_failure"] != 2 || r.Attempts["violation"] != 1 || r.Outdated != 0 {
				t.Errorf("%d, %d bytes: %+v", year, length, r)
			}
		}
	}
}

func TestAReplayThatUnderstandsNothingFails(t *testing.T) {
	for name, tc := range map[string]struct {
		recording, want string
	}{
		"nothing":             {"", "empty"},
		"another log":         {"Jan 1 00:00:00 sshd: hello\nip[x]\n", "none of 2 lines or events"},
		"a stream of replies": {"Content-Type: auth/request\n\n", "empty"},
		"events of others":    {"Content-Type: text/event-plain\nContent-Length: 21\n\nEvent-Name: RELOADXML", "none of 1 lines or events"},
	} {
		r := run(t, testConfig(), Options{}, map[string][]byte{"a": []byte(tc.recording)})
		if err := r.Err(); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A recording that was stopped within a frame counts as far as it goes, pending challenges included.
func TestATruncatedRecordingCountsUpToItsEnd(t *testing.T) {
	recording, _, _ := guesses(t)
	r := run(t, testConfig(), Options{}, map[string][]byte{"a": recording[:len(recording)-10]})
	if r.NotUnderstood != 1 || r.Attempts["auth_failure"] != 4 {
		t.Errorf("%+v", r)
	}
}
