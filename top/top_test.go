package top

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"

	"fsban/control"
	"fsban/internal/term"
)

var update = flag.Bool("update", false, "write anew what the tests compare with in testdata")

var topStart = time.Date(2026, 11, 22, 18, 0, 0, 0, time.UTC)

// aTop is the answer of a daemon some seconds after its start: ten failures a second, and peers with hostile names.
func aTop(seconds int) *control.Top {
	at := topStart.Add(time.Duration(seconds) * time.Second)
	n := uint64(seconds)
	t := &control.Top{
		At: at, Started: topStart, Version: "v0.1.0", Ready: true,
		Attempts: map[string]uint64{"auth_failure": 10 * n, "auth_success": n / 2, "challenge": 12 * n, "call_reject": 3},
		Bans:     control.Bans{IPv4: 1200, IPv6: 34, Made: n / 5}, Held: 7, Dropped: control.Dropped{Packets: 1500 * n, Bytes: 600000 * n},
		Sources: []control.Source{
			{Name: "event", Up: true, ActiveFor: []string{"auth_failure", "challenge", "auth_success", "call_reject"}},
			{Name: "esl_log", Up: true, ActiveFor: []string{"acl_reject"}}, {Name: "cti_log", Up: true}, {Name: "cti_event"},
		},
		Problems: []string{`stuck phone: user "1039" at 203.0.113.50 fails again and again ("Yealink T54W"): an old password?`, "the second", "the third"},
	}
	for i, who := range hostile {
		addr := netip.AddrFrom4([4]byte{203, 0, 113, byte(i)})
		b := control.Busy{Prefix: netip.PrefixFrom(addr, 32), Attempts: uint64(2000 / (i + 1)), Users: i, Last: at.Add(-time.Duration(i) * time.Second), LastUser: who, UserAgent: who, Banned: i%2 == 0, Known: i == 1}
		if i == 3 {
			b.Prefix = netip.MustParsePrefix("2001:db8:1234:5678::/64")
		}
		t.Addresses = append(t.Addresses, b)
		t.Users = append(t.Users, control.BusyUser{User: who, Domain: "pbx.example", Attempts: uint64(500 / (i + 1)), Addresses: 64 - i, Last: b.Last})
		t.NewBans = append(t.NewBans, control.Ban{Prefix: b.Prefix, Since: b.Last.Add(-time.Hour), Rule: "enumeration"})
	}
	return t
}

// hostile are names that peers give themselves.
var hostile = []string{
	"1001", "1002", "\x1b[2J\x1b[Hroot", "张三李四王五赵六", "\u202e1003\u2066", "שלום", "a\u0301\u0301\u0301b", "x\r\n\ty\x00", "\u009b31m\x9b", "👨‍👩‍👧 \ufe0f",
	strings.Repeat("w", 300), `"quoted" \ `,
}

// explain renders the attempts, as far as the tests need them.
func explain(s *term.Screen, w *control.AddressState, _ time.Time) []string {
	lines := []string{w.Addr.String()}
	for _, a := range w.Attempts {
		lines = append(lines, s.Row("  attempt      ", "user "+s.Quote(a.User, 60)+", "+s.Quote(a.UserAgent, 80))...)
	}
	return lines
}

// testModel is a live view of a daemon that accepts and records every request.
func testModel(s *term.Screen) (m *model, did *[]string) {
	did = new([]string)
	do := func(what string) func(netip.Prefix) error {
		return func(p netip.Prefix) error {
			*did = append(*did, what+" "+p.String())
			return nil
		}
	}
	m = newModel(Options{Screen: s, Every: 2 * time.Second, Explain: explain}, requests{
		top: func() (control.Top, error) { return *aTop(102), nil }, ban: do("ban"), unban: do("unban"), allow: do("allow"),
		why: func(a netip.Addr) (control.AddressState, error) {
			return control.AddressState{Addr: a, Prefix: netip.PrefixFrom(a, 32), Attempts: []control.Attempt{{Addr: a, At: topStart, User: hostile[2], UserAgent: hostile[4]}}}, nil
		},
	})
	for i := 60; i <= 100; i += 2 {
		m.take(aTop(i))
	}
	return m, did
}

func resize(m *model, width, height int) {
	m.Update(tea.WindowSizeMsg{Width: width, Height: height})
}

// press presses keys and runs the commands they return.
func press(t *testing.T, m *model, keys ...string) {
	t.Helper()
	for _, k := range keys {
		msg := tea.KeyPressMsg{Code: []rune(k)[0], Text: k}
		if code, special := map[string]rune{"up": tea.KeyUp, "down": tea.KeyDown, "tab": tea.KeyTab, "esc": tea.KeyEscape}[k]; special {
			msg = tea.KeyPressMsg{Code: code}
		}
		if msg.String() != k {
			t.Fatalf("%q is not the key %q", msg.String(), k)
		}
		_, cmd := m.Update(msg)
		for cmd != nil {
			_, cmd = m.Update(cmd())
		}
	}
}

func TestTopScreens(t *testing.T) {
	local := time.Local
	time.Local = time.UTC
	t.Cleanup(func() { time.Local = local })
	for name, s := range map[string]*term.Screen{"80x24": {Thin: true}, "120x40": {Thin: true}, "60x20": {Thin: true}, "80x24 in Chinese": {}, "80x24 in ASCII": {ASCII: true}, "60x8": {}} {
		t.Run(name, func(t *testing.T) {
			m, _ := testModel(s)
			var width, height int
			if _, err := fmt.Sscanf(name, "%dx%d", &width, &height); err != nil {
				t.Fatal(err)
			}
			resize(m, width, height)
			press(t, m, "down")
			golden(t, name, m.frame())
		})
	}
	t.Run("once", func(t *testing.T) {
		var out bytes.Buffer
		m, _ := testModel(&term.Screen{Out: &out, Thin: true, Width: 80})
		m.every = 0
		if err := m.print(context.Background()); err != nil {
			t.Fatal(err)
		}
		golden(t, "once", out.String())
	})
	t.Run("why", func(t *testing.T) {
		m, _ := testModel(&term.Screen{Thin: true})
		resize(m, 60, 20)
		press(t, m, "w")
		golden(t, "why", m.frame())
	})
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", "screens", strings.ReplaceAll(name, " ", "-")+".txt")
	var lines []string
	for line := range strings.Lines(got) {
		lines = append(lines, strings.TrimRight(line, " \n"))
	}
	got = strings.Join(lines, "\n") + "\n"
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got:\n%s\nwant, as in %s:\n%s", got, path, want)
	}
}

// ours are the colors that a screen may have.
var ours = regexp.MustCompile(`\x1b\[[0-9;]*m`)

func TestTopStaysWithinItsScreen(t *testing.T) {
	for _, s := range []*term.Screen{{}, {Thin: true, Colors: true}, {ASCII: true}} {
		for _, keys := range [][]string{{}, {"tab", "down"}, {"tab", "tab", "s"}, {"b"}, {"u", "n"}, {"w"}, {"?"}, {"p"}} {
			m, _ := testModel(s)
			resize(m, 80, 24)
			press(t, m, keys...)
			for _, width := range []int{1, 2, 11, 29, 60, 79, 80, 81, 120, 179} {
				for _, height := range []int{1, 2, 5, 9, 15, 16, 24, 41} {
					resize(m, width, height)
					frame := m.frame()
					lines := strings.Split(frame, "\n")
					if len(lines) != height {
						t.Fatalf("%dx%d, keys %v: %d lines", width, height, keys, len(lines))
					}
					for _, line := range lines {
						line = ours.ReplaceAllString(line, "")
						if s.Clean(line) != line && !strings.ContainsAny(line, "▁▂▃▄▅▆▇█") {
							t.Fatalf("%dx%d, keys %v: %q", width, height, keys, line)
						}
						if term.Width(line) > width {
							t.Fatalf("%dx%d, keys %v: %d cells: %q", width, height, keys, term.Width(line), line)
						}
					}
				}
			}
		}
	}
}

func TestTopDoesNothingUnasked(t *testing.T) {
	for _, tt := range []struct {
		keys []string
		did  []string
		told string
	}{
		{[]string{"b"}, nil, "ban 203.0.113.0? y/n"},
		{[]string{"b", "n"}, nil, "nothing was done"},
		{[]string{"b", "q"}, nil, "nothing was done"},
		{[]string{"b", "b"}, nil, "nothing was done"},
		{[]string{"b", "y"}, []string{"ban 203.0.113.0/32"}, "banned 203.0.113.0"},
		{[]string{"down", "down", "up", "u", "y"}, []string{"unban 203.0.113.1/32"}, "unbanned 203.0.113.1"},
		{[]string{"j", "j", "j", "a", "y"}, []string{"allow 2001:db8:1234:5678::/64"}, "2001:db8:1234:5678::/64 is never banned"},
		{[]string{"tab", "b"}, nil, "select an address first (tab, up, down)"},
		{[]string{"tab", "tab", "down", "u", "y"}, []string{"unban 203.0.113.1/32"}, "unbanned 203.0.113.1"},
		{[]string{"s", "b", "y"}, []string{"ban 203.0.113.11/32"}, "banned 203.0.113.11"},
	} {
		m, did := testModel(&term.Screen{})
		resize(m, 80, 24)
		press(t, m, tt.keys...)
		if !slices.Equal(*did, tt.did) {
			t.Errorf("%v did %q, should do %q", tt.keys, *did, tt.did)
		}
		if last := m.frame()[strings.LastIndex(m.frame(), "\n")+1:]; strings.TrimRight(last, " ") != tt.told {
			t.Errorf("%v: told %q, want %q", tt.keys, last, tt.told)
		}
	}
}

func TestTopShowsRefusalsOfTheDaemon(t *testing.T) {
	m, _ := testModel(&term.Screen{})
	resize(m, 80, 24)
	m.ask.ban = func(netip.Prefix) error { return &control.RefusedError{Text: "it is never banned"} }
	m.ask.why = func(netip.Addr) (control.AddressState, error) { return control.AddressState{}, errors.New("gone") }
	press(t, m, "b", "y")
	if !strings.HasSuffix(m.frame(), "\nthe daemon says no: it is never banned") {
		t.Errorf("after a refusal:\n%s", m.frame())
	}
	press(t, m, "w")
	if !strings.HasSuffix(m.frame(), "\ngone") {
		t.Errorf("after an error:\n%s", m.frame())
	}
}

func TestTopKeepsTheSelection(t *testing.T) {
	m, did := testModel(&term.Screen{})
	resize(m, 80, 24)
	press(t, m, "down") // 203.0.113.1
	newer := aTop(104)
	slices.Reverse(newer.Addresses)
	for i := range newer.Addresses {
		newer.Addresses[i].Attempts = uint64(100 - i)
	}
	m.take(newer)
	press(t, m, "b", "y")
	if !slices.Equal(*did, []string{"ban 203.0.113.1/32"}) {
		t.Errorf("did %q", *did)
	}
	// Between the question and its answer, too.
	press(t, m, "u")
	m.take(aTop(106))
	press(t, m, "y")
	if !slices.Equal(*did, []string{"ban 203.0.113.1/32", "unban 203.0.113.1/32"}) {
		t.Errorf("did %q", *did)
	}
}

func TestTopPauses(t *testing.T) {
	m, _ := testModel(&term.Screen{})
	resize(m, 80, 24)
	press(t, m, "p")
	before := m.frame()
	m.take(aTop(200))
	if m.frame() != before || !strings.Contains(before, "PAUSED") {
		t.Errorf("paused, and yet:\n%s", m.frame())
	}
	press(t, m, "p")
	if !strings.Contains(m.frame(), "up 3m20s") {
		t.Errorf("not going on:\n%s", m.frame())
	}
}

func TestTopOutlivesItsDaemon(t *testing.T) {
	m, _ := testModel(&term.Screen{})
	resize(m, 80, 24)
	if _, cmd := m.Update(failMsg{errors.New("no fsban is running here")}); cmd == nil {
		t.Error("it does not look again")
	}
	if !strings.Contains(m.frame(), "\n! no fsban is running here\n") {
		t.Errorf("nothing says it:\n%s", m.frame())
	}
	// Another run of it counts from zero.
	fresh := aTop(1)
	fresh.At, fresh.Started = topStart.Add(time.Hour), topStart.Add(time.Hour-time.Second)
	m.Update(topMsg{fresh})
	if frame := m.frame(); strings.Contains(frame, "no fsban is running") || !regexp.MustCompile(`failures +- +10`).MatchString(frame) {
		t.Errorf("after it came back:\n%s", frame)
	}
	fresh = aTop(3)
	fresh.At, fresh.Started = topStart.Add(time.Hour+2*time.Second), topStart.Add(time.Hour-time.Second)
	m.Update(topMsg{fresh})
	if frame := m.frame(); !regexp.MustCompile(`failures +10 +30`).MatchString(frame) {
		t.Errorf("its rates:\n%s", frame)
	}
}

func TestTopQuits(t *testing.T) {
	m, _ := testModel(&term.Screen{})
	for _, key := range []tea.KeyPressMsg{{Code: 'q', Text: "q"}, {Code: tea.KeyEscape}, {Code: 'c', Mod: tea.ModCtrl}} {
		if _, cmd := m.Update(key); cmd == nil || cmd() != (tea.QuitMsg{}) {
			t.Errorf("%s does not end it", key)
		}
	}
}

func TestSparkline(t *testing.T) {
	buckets := []uint64{9, 0, 1, 5, 10}
	for _, tt := range []struct {
		width int
		thin  bool
		want  string
	}{{5, true, "▇ ▁▄█"}, {2, true, "▄█"}, {9, false, "# .=@"}, {0, true, ""}} {
		if got := sparkline(buckets, tt.width, tt.thin); got != tt.want {
			t.Errorf("%d cells: %q, want %q", tt.width, got, tt.want)
		}
	}
}
