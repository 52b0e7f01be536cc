package main

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
)

func (m *topModel) View() tea.View {
	v := tea.NewView(m.frame())
	v.AltScreen = true
	return v
}

// frame is the whole screen, of exactly its height.
func (m *topModel) frame() string {
	if m.page != nil {
		return m.fit(m.page[m.scroll:], "up/down scroll, any other key goes back")
	}
	lines := append([]string{m.header()}, m.troubles()...)
	lines = append(lines, m.speakers())
	lines = append(lines, m.gauges()...)
	lines = append(lines, m.lists(m.height-len(lines)-1)...)
	return m.fit(lines, m.footer())
}

// fit cuts lines to the screen and puts the footer on the last one.
func (m *topModel) fit(lines []string, footer string) string {
	if m.height > 0 {
		lines = lines[:min(len(lines), m.height-1)]
		for len(lines) < m.height-1 {
			lines = append(lines, "")
		}
		lines = append(lines, footer)
	}
	for i := range lines {
		lines[i] = shorten(strings.TrimRight(lines[i], " "), m.width)
	}
	return strings.Join(lines, "\n")
}

func (m *topModel) header() string {
	t := &m.top
	text := fmt.Sprintf("fsban %s  %s  up %s  %d banned, %d made", m.s.clean(t.Version), m.s.state(t.Ready), short(t.At.Sub(t.Started)), t.Bans.IPv4+t.Bans.IPv6, t.Bans.Made)
	if t.Held > 0 {
		text += m.s.paint(yellow, fmt.Sprintf(", %d held", t.Held))
	}
	if m.paused {
		text += "  " + m.s.paint(invert, "PAUSED")
	}
	return text
}

// troubles are what needs a human, on as many lines as there is room for.
func (m *topModel) troubles() (lines []string) {
	if m.failed != nil {
		lines = append(lines, m.s.paint(red, "! "+m.s.clean(m.failed.Error())))
	}
	room := max(1, m.height/12)
	if m.height == 0 {
		room = 100
	}
	wrapper := &screen{width: m.width, ascii: m.s.ascii}
	for i, p := range m.top.Problems {
		others := len(m.top.Problems) - i - 1
		if others > 0 && room < 2 {
			tail := fmt.Sprintf(" (and %d more: fsban status)", others)
			return append(lines, m.s.paint(yellow, "!")+" "+shorten(m.s.clean(p), m.width-2-len(tail))+tail)
		}
		text := wrapper.row("! ", p)
		if fits := room - min(others, 1); len(text) > fits {
			text = text[:fits]
			text[fits-1] = shorten(text[fits-1], m.width-3) + " .."
		}
		text[0] = strings.Replace(text[0], "!", m.s.paint(yellow, "!"), 1)
		lines, room = append(lines, text...), room-len(text)
	}
	return lines
}

// speakers says whose word counts for what; who is down stands first.
func (m *topModel) speakers() string {
	var down, up []string
	for _, src := range m.top.Sources {
		name := m.s.clean(src.Name)
		switch {
		case len(src.Speaks) > 0:
			up = append(up, name+": "+m.s.clean(strings.Join(src.Speaks, ", ")))
		case src.Up:
			up = append(up, name+" in reserve")
		default:
			down = append(down, m.s.paint(red, name+" down"))
		}
	}
	return strings.Join(append(down, up...), "; ")
}

// gauges are the rates.
func (m *topModel) gauges() []string {
	const name, second, total = 15, 7, 7
	width := max(0, min(m.width-name-second-total-4, maxBuckets))
	lines := []string{m.s.paint(faint, fmt.Sprintf("%-*s%*s%*s  %s", name, "", second, "/s", total, "total", shorten("the last "+short(time.Duration(width)*bucketTime), width)))}
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
		lines = append(lines, strings.TrimRight(fmt.Sprintf("%-*s%*s%*s  %s", name, c.name, second, rate, total, human(n), sparkline(r.buckets[i], width, m.s.thin)), " "))
	}
	return lines
}

// perSecond writes a rate in a few digits.
func perSecond(x float64) string {
	if x < 100 {
		return strings.TrimSuffix(strconv.FormatFloat(x, 'f', 1, 64), ".0")
	}
	return human(uint64(x + 0.5))
}

// lists are the addresses, the users and the new bans, in that many lines; side by side where it is wide enough, and the
// chosen one alone where it is too low for all.
func (m *topModel) lists(height int) []string {
	const usual = 10 // rows, where the height does not matter
	beside := m.width >= usualWidth
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
		lines = append(lines, fill(a, half)+"  "+b)
	}
	return lines
}

// list draws one list, in exactly that many lines where the screen has a height.
func (m *topModel) list(pane, width, height int) []string {
	if height < 1 {
		return nil
	}
	t := m.table(pane)
	at := m.at(pane)
	from := max(0, at-(height-2))
	if from > 0 && len(t.rows)-from < height-1 {
		from = max(0, len(t.rows)-(height-1))
	}
	t.rows = t.rows[from:min(len(t.rows), from+height-1)]
	at -= from
	var out bytes.Buffer
	t.print(&screen{out: &out, width: width - 2})
	lines := linesOf(strings.TrimSuffix(out.String(), "\n"))
	for i := range lines {
		switch {
		case i == 0:
			head := bold
			if pane == m.pane {
				head = invert
			}
			lines[i] = m.s.paint(head, fill("  "+lines[i], width))
		case i == at+1 && pane == m.pane:
			lines[i] = m.s.paint(invert, fill("> "+ansi.Strip(lines[i]), width))
		default:
			lines[i] = "  " + lines[i]
		}
	}
	if len(t.rows) == 0 {
		lines = append(lines, "  "+m.s.paint(faint, "nobody, in the last 5m"))
		if pane == paneBans {
			lines[1] = "  " + m.s.paint(faint, "none since the start")
		}
		lines = lines[:min(len(lines), height)]
	}
	for m.height > 0 && len(lines) < height {
		lines = append(lines, "")
	}
	return lines
}

// table holds the rows of one list.
func (m *topModel) table(pane int) (t table) {
	ago := func(at time.Time) string { return short(max(0, m.top.At.Sub(at))) }
	switch pane {
	case paneAddresses:
		t.columns = []column{
			{name: "ADDRESS", wide: 15}, {name: "ATTEMPTS", right: true}, {name: "USERS", right: true, drop: 2}, {name: "LAST", right: true, wide: 6}, {name: "STATE", wide: 10},
			{name: "LAST USER", drop: 1}, {name: "USER AGENT", least: 10},
		}
		for _, b := range m.addresses() {
			state := ""
			switch {
			case b.Banned:
				state = m.s.paint(green, "banned")
			case b.Known:
				state = "known-good"
			}
			t.add(shortest(b.Prefix), human(b.Attempts), human(uint64(max(b.Users, 0))), ago(b.Last), state, m.s.quote(b.LastUser, 16), m.s.quote(b.UserAgent, 60))
		}
	case paneUsers:
		t.columns = []column{{name: "ATTEMPTS", right: true}, {name: "ADDRS", right: true, drop: 1}, {name: "LAST", right: true, wide: 6, drop: 2}, {name: "USER", wide: 6}, {name: "DOMAIN", least: 8}}
		for _, u := range m.users() {
			t.add(human(u.Attempts), human(uint64(max(u.Addresses, 0))), ago(u.Last), m.s.quote(u.User, 16), m.s.quote(u.Domain, 60))
		}
	case paneBans:
		t.columns = []column{{name: "NEW BANS", wide: 15}, {name: "AGO", right: true, wide: 6, drop: 1}, {name: "RULE", least: 8}}
		for i := range m.top.NewBans {
			b := &m.top.NewBans[i]
			t.add(shortest(b.Prefix), ago(b.Since), m.s.clean(b.Rule))
		}
	}
	return t
}

func (m *topModel) footer() string {
	switch {
	case m.question != "":
		return m.s.paint(invert, fill(m.question, m.width))
	case m.told != "":
		return m.s.paint(bold, m.s.clean(m.told))
	}
	keys := "b ban  u unban  a allow  w why  tab list  s sort  p pause  ? help  q quit"
	if len(keys) > m.width {
		keys = "b u a w  tab s p  ? help  q quit"
	}
	return m.s.paint(faint, keys)
}

func linesOf(text string) []string { return strings.Split(text, "\n") }
