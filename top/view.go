package top

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"fsban/internal/term"
)

func (m *model) View() tea.View {
	v := tea.NewView(m.frame())
	v.AltScreen = true
	return v
}

// frame is the whole screen, of exactly its height.
func (m *model) frame() string {
	if m.page != nil {
		return m.fit(m.page[m.scroll:], "up/down scroll, any other key goes back")
	}
	lines := append([]string{m.header()}, m.troubles()...)
	lines = append(lines, m.activeSources())
	lines = append(lines, m.gauges()...)
	lines = append(lines, m.lists(m.height-len(lines)-1)...)
	return m.fit(lines, m.footer())
}

// fit cuts lines to the screen and puts the footer on the last one.
func (m *model) fit(lines []string, footer string) string {
	if m.height > 0 {
		lines = lines[:min(len(lines), m.height-1)]
		for len(lines) < m.height-1 {
			lines = append(lines, "")
		}
		lines = append(lines, footer)
	}
	for i := range lines {
		lines[i] = term.Truncate(strings.TrimRight(lines[i], " "), m.width)
	}
	return strings.Join(lines, "\n")
}

func (m *model) header() string {
	t := &m.top
	text := fmt.Sprintf("fsban %s  %s  up %s  %d banned, %d made", m.s.Clean(t.Version), m.s.Protection(t.Ready, t.Watching),
		term.Duration(t.At.Sub(t.Started)), t.Bans.IPv4+t.Bans.IPv6, t.Bans.Made)
	if t.Held > 0 {
		text += m.s.Paint(term.Yellow, fmt.Sprintf(", %d held", t.Held))
	}
	if m.paused {
		text += "  " + m.s.Paint(term.Invert, "PAUSED")
	}
	return text
}

// troubles renders open problems, on as many lines as fit.
func (m *model) troubles() (lines []string) {
	if m.failed != nil {
		lines = append(lines, m.s.Paint(term.Red, "! "+m.s.Clean(m.failed.Error())))
	}
	room := max(1, m.height/12)
	if m.height == 0 {
		room = 100
	}
	wrapper := &term.Screen{Width: m.width, ASCII: m.s.ASCII}
	for i, p := range m.top.Problems {
		others := len(m.top.Problems) - i - 1
		if others > 0 && room < 2 {
			tail := fmt.Sprintf(" (and %d more: fsban status)", others)
			return append(lines, m.s.Paint(term.Yellow, "!")+" "+term.Truncate(m.s.Clean(p), m.width-2-len(tail))+tail)
		}
		text := wrapper.Row("! ", p)
		if fits := room - min(others, 1); len(text) > fits {
			text = text[:fits]
			text[fits-1] = term.Truncate(text[fits-1], m.width-3) + " .."
		}
		text[0] = strings.Replace(text[0], "!", m.s.Paint(term.Yellow, "!"), 1)
		lines, room = append(lines, text...), room-len(text)
	}
	return lines
}

// activeSources names the active source of each kind; sources that are down come first.
func (m *model) activeSources() string {
	var down, up []string
	for _, src := range m.top.Sources {
		name := m.s.Clean(src.Name)
		switch {
		case len(src.ActiveFor) > 0:
			up = append(up, name+": "+m.s.Clean(strings.Join(src.ActiveFor, ", ")))
		case src.Up:
			up = append(up, name+" in reserve")
		default:
			down = append(down, m.s.Paint(term.Red, name+" down"))
		}
	}
	return strings.Join(append(down, up...), "; ")
}

// gauges are the rates.
func (m *model) gauges() []string {
	const name, second, total = 15, 7, 7
	width := max(0, min(m.width-name-second-total-4, maxBuckets))
	lines := []string{m.s.Paint(term.Faint, fmt.Sprintf("%-*s%*s%*s  %s", name, "", second, "/s", total, "total",
		term.Truncate("the last "+term.Duration(time.Duration(width)*bucketTime), width)))}
	r := m.rates
	if m.paused {
		r = m.still
	}
	for i, c := range counters {
		n := c.of(&m.top)
		if n == 0 && !c.always || m.height > 0 && m.height < 16 && i > 0 {
			continue
		}
		rate := "-"
		if r.known {
			rate = perSecond(r.second[i])
		}
		lines = append(lines, strings.TrimRight(fmt.Sprintf("%-*s%*s%*s  %s", name, c.name, second, rate, total, term.Human(n),
			sparkline(r.buckets[i], width, m.s.Thin)), " "))
	}
	return lines
}

// perSecond writes a rate in a few digits.
func perSecond(x float64) string {
	if x < 100 {
		return strings.TrimSuffix(strconv.FormatFloat(x, 'f', 1, 64), ".0")
	}
	return term.Human(uint64(x + 0.5))
}

// lists are the addresses, the users and the new bans, in that many lines; side by side where it is wide enough, and the
// chosen one alone where it is too low for all.
func (m *model) lists(height int) []string {
	const usual = 10 // rows, where the height does not matter
	beside := m.width >= term.DefaultWidth
	switch {
	case m.height == 0:
		height = panes * (usual + 1)
		if beside {
			height = 2 * (usual + 1)
		}
	case height < 9 && !beside, height < 6:
		return m.list(m.pane, m.width, height)
	}
	if !beside {
		each := height / panes
		lines := m.list(paneAddresses, m.width, height-2*each)
		lines = append(lines, m.list(paneUsers, m.width, each)...)
		return append(lines, m.list(paneBans, m.width, each)...)
	}
	lower := height / 2
	lines := m.list(paneAddresses, m.width, height-lower)
	half := (m.width - 2) / 2
	left, right := m.list(paneUsers, half, lower), m.list(paneBans, m.width-half-2, lower)
	for i := range max(len(left), len(right)) {
		a, b := "", ""
		if i < len(left) {
			a = left[i]
		}
		if i < len(right) {
			b = right[i]
		}
		lines = append(lines, term.Pad(a, half)+"  "+b)
	}
	return lines
}

// list draws one list, in exactly that many lines where the screen has a height.
func (m *model) list(pane, width, height int) []string {
	if height < 1 {
		return nil
	}
	t := m.table(pane)
	at := m.at(pane)
	from := max(0, at-(height-2))
	if from > 0 && len(t.Rows)-from < height-1 {
		from = max(0, len(t.Rows)-(height-1))
	}
	t.Rows = t.Rows[from:min(len(t.Rows), from+height-1)]
	at -= from
	var out bytes.Buffer
	t.Print(&term.Screen{Out: &out, Width: width - 2})
	lines := linesOf(strings.TrimSuffix(out.String(), "\n"))
	for i := range lines {
		switch {
		case i == 0:
			head := term.Bold
			if pane == m.pane {
				head = term.Invert
			}
			lines[i] = m.s.Paint(head, term.Pad("  "+lines[i], width))
		case i == at+1 && pane == m.pane:
			lines[i] = m.s.Paint(term.Invert, term.Pad("> "+ansi.Strip(lines[i]), width))
		default:
			lines[i] = "  " + lines[i]
		}
	}
	if len(t.Rows) == 0 {
		lines = append(lines, "  "+m.s.Paint(term.Faint, "nobody, in the last 5m"))
		if pane == paneBans {
			lines[1] = "  " + m.s.Paint(term.Faint, "none since the start")
		}
		lines = lines[:min(len(lines), height)]
	}
	for m.height > 0 && len(lines) < height {
		lines = append(lines, "")
	}
	return lines
}

// table holds the rows of one list.
func (m *model) table(pane int) (t term.Table) {
	ago := func(at time.Time) string { return term.Duration(max(0, m.top.At.Sub(at))) }
	switch pane {
	case paneAddresses:
		t.Columns = []term.Column{
			{Name: "ADDRESS", Min: 15}, {Name: "ATTEMPTS", Right: true}, {Name: "USERS", Right: true, Drop: 2}, {Name: "LAST", Right: true, Min: 6},
			{Name: "STATE", Min: 10},
			{Name: "LAST USER", Drop: 1}, {Name: "USER AGENT", Want: 10},
		}
		for _, b := range m.addresses() {
			state := ""
			switch {
			case b.Banned:
				state = m.s.Paint(term.Green, "banned")
			case b.Known:
				state = "known-good"
			}
			t.Add(term.Prefix(b.Prefix), term.Human(b.Attempts), term.Human(uint64(max(b.Users, 0))), ago(b.Last), state, m.s.Quote(b.LastUser, 16),
				m.s.Quote(b.UserAgent, 60))
		}
	case paneUsers:
		t.Columns = []term.Column{{Name: "ATTEMPTS", Right: true}, {Name: "ADDRS", Right: true, Drop: 1},
			{Name: "LAST", Right: true, Min: 6, Drop: 2}, {Name: "USER", Min: 6}, {Name: "DOMAIN", Want: 8}}
		for _, u := range m.users() {
			t.Add(term.Human(u.Attempts), term.Human(uint64(max(u.Addresses, 0))), ago(u.Last), m.s.Quote(u.User, 16), m.s.Quote(u.Domain, 60))
		}
	case paneBans:
		t.Columns = []term.Column{{Name: "NEW BANS", Min: 15}, {Name: "AGO", Right: true, Min: 6, Drop: 1}, {Name: "RULE", Want: 8}}
		for i := range m.top.NewBans {
			b := &m.top.NewBans[i]
			t.Add(term.Prefix(b.Prefix), ago(b.Since), m.s.Clean(b.Rule))
		}
	}
	return t
}

func (m *model) footer() string {
	switch {
	case m.question.text != "":
		return m.s.Paint(term.Invert, term.Pad(m.question.text, m.width))
	case m.reply != "":
		return m.s.Paint(term.Bold, m.s.Clean(m.reply))
	}
	keys := "b ban  u unban  a allow  w why  tab list  s sort  p pause  ? help  q quit"
	if len(keys) > m.width {
		keys = "b u a w  tab s p  ? help  q quit"
	}
	return m.s.Paint(term.Faint, keys)
}

func linesOf(text string) []string { return strings.Split(text, "\n") }
