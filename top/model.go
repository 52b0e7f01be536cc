package top

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	tea "charm.land/bubbletea/v2"

	"fsban/control"
	"fsban/internal/term"
)

// The lists of a live view.
const (
	paneAddresses = iota
	paneUsers
	paneBans
	panes
)

// A model is the state of a live view. view.go draws it.
type model struct {
	s             *term.Screen
	every         time.Duration
	explain       func(*term.Screen, *control.AddressState, time.Time) []string
	ask           requests
	width, height int // height 0: as high as it gets

	top    control.Top // shown
	newer  control.Top // the latest answer
	rates  *rates
	still  *rates // shown while it is paused
	failed error  // the daemon does not answer
	paused bool

	pane     int
	order    [panes]int    // of each list, in sortings
	selected [panes]string // by its name, so that it stays selected where the order changes
	row      [panes]int    // where it was last

	question prompt
	reply    string   // to the last key
	page     []string // replaces the view: why, help
	scroll   int
}

// newModel returns the state before the first answer.
func newModel(o Options, ask requests) *model {
	return &model{s: o.Screen, every: o.Every, explain: o.Explain, ask: ask, rates: newRates(),
		width: cmp.Or(o.Screen.Width, term.DefaultWidth)}
}

// A prompt is a question that is answered with y, and the command that y runs.
type prompt struct {
	text string
	yes  tea.Cmd
}

type (
	lookMsg  struct{}
	topMsg   struct{ top *control.Top }
	failMsg  struct{ err error }
	doneMsg  struct{ text string }
	aboutMsg struct{ standing *control.AddressState }
)

func (m *model) Init() tea.Cmd { return m.later() }

func (m *model) later() tea.Cmd {
	return tea.Tick(m.every, func(time.Time) tea.Msg { return lookMsg{} })
}

// take shows an answer. During a pause the rates are kept up, so that none is missing afterwards.
func (m *model) take(t *control.Top) {
	m.newer, m.failed = *t, nil
	m.rates.take(t)
	if !m.paused {
		m.top = *t
	}
}

func (m *model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = cmp.Or(msg.Width, term.DefaultWidth), cmp.Or(msg.Height, 24)
	case lookMsg:
		return m, func() tea.Msg {
			t, err := m.ask.top()
			if err != nil {
				return failMsg{err}
			}
			return topMsg{&t}
		}
	case topMsg:
		m.take(msg.top)
		return m, m.later()
	case failMsg:
		m.failed = msg.err
		return m, m.later()
	case doneMsg:
		m.reply = msg.text
	case aboutMsg:
		m.open(m.explain(&term.Screen{Width: m.width, ASCII: m.s.ASCII}, msg.standing, m.top.At))
	case tea.KeyPressMsg:
		return m, m.key(msg.String())
	}
	return m, nil
}

func (m *model) open(page []string) { m.page, m.scroll, m.reply = page, 0, "" }

// key handles a key.
func (m *model) key(key string) tea.Cmd {
	m.reply = ""
	switch {
	case key == "ctrl+c":
		return tea.Quit
	case key == "ctrl+z":
		return tea.Suspend
	case m.question.text != "":
		yes := m.question.yes
		m.question = prompt{}
		if key != "y" {
			m.reply = "nothing was done"
			return nil
		}
		return yes
	case m.page != nil:
		m.turn(key)
		return nil
	}
	switch key {
	case "q", "esc":
		return tea.Quit
	case "up", "k":
		m.move(-1)
	case "down", "j":
		m.move(1)
	case "tab", "right", "l":
		m.pane = (m.pane + 1) % panes
	case "shift+tab", "left", "h":
		m.pane = (m.pane + panes - 1) % panes
	case "p", "space":
		m.paused, m.still = !m.paused, m.rates.clone()
		m.top = m.newer
	case "s":
		m.order[m.pane] = (m.order[m.pane] + 1) % len(sortings[m.pane])
		m.reply = "sorted by " + sortings[m.pane][m.order[m.pane]].name
	case "?":
		m.open([]string{"fsban top", "", "Keys:", ""})
		m.page = append(m.page, linesOf(Keys)...)
		m.page = append(m.page, "", "b, u and a ask first. A ban lasts as long as policy.bantime says.",
			"The daemon logs what is done, and who did it.")
	case "b", "u", "a", "w":
		return m.act(key)
	}
	return nil
}

// turn scrolls a page, or leaves it.
func (m *model) turn(key string) {
	switch key {
	case "up", "k":
		m.scroll--
	case "down", "j":
		m.scroll++
	case "pgup":
		m.scroll -= m.height - 2
	case "pgdown", "space":
		m.scroll += m.height - 2
	default:
		m.page = nil
	}
	m.scroll = max(0, min(m.scroll, len(m.page)-(m.height-1)))
}

// move selects another row.
func (m *model) move(by int) {
	names := m.names(m.pane)
	if len(names) == 0 {
		return
	}
	row := min(max(m.at(m.pane)+by, 0), len(names)-1)
	m.row[m.pane], m.selected[m.pane] = row, names[row]
}

// at returns the selected row of a list: the row of the selected name, or its last position.
func (m *model) at(pane int) int {
	names := m.names(pane)
	if i := slices.Index(names, m.selected[pane]); i >= 0 {
		return i
	}
	return max(0, min(m.row[pane], len(names)-1))
}

// names are the rows of a list, in its order.
func (m *model) names(pane int) (names []string) {
	switch pane {
	case paneAddresses:
		for _, b := range m.addresses() {
			names = append(names, b.Prefix.String())
		}
	case paneUsers:
		for _, u := range m.users() {
			names = append(names, u.User+"@"+u.Domain)
		}
	case paneBans:
		for i := range m.top.NewBans {
			names = append(names, m.top.NewBans[i].Prefix.String())
		}
	}
	return names
}

// A sorting is an order of a list.
type sorting struct {
	name      string
	addresses func(a, b control.Busy) int
	users     func(a, b control.BusyUser) int
}

var sortings = [panes][]sorting{
	paneAddresses: {
		{name: "attempts", addresses: func(a, b control.Busy) int { return cmp.Compare(b.Attempts, a.Attempts) }},
		{name: "users", addresses: func(a, b control.Busy) int { return cmp.Compare(b.Users, a.Users) }},
		{name: "the last attempt", addresses: func(a, b control.Busy) int { return b.Last.Compare(a.Last) }},
	},
	paneUsers: {
		{name: "attempts", users: func(a, b control.BusyUser) int { return cmp.Compare(b.Attempts, a.Attempts) }},
		{name: "addresses", users: func(a, b control.BusyUser) int { return cmp.Compare(b.Addresses, a.Addresses) }},
		{name: "the last attempt", users: func(a, b control.BusyUser) int { return b.Last.Compare(a.Last) }},
	},
	paneBans: {{name: "their begin"}},
}

func (m *model) addresses() []control.Busy {
	list := slices.Clone(m.top.Addresses)
	slices.SortStableFunc(list, sortings[paneAddresses][m.order[paneAddresses]].addresses)
	return list
}

func (m *model) users() []control.BusyUser {
	list := slices.Clone(m.top.Users)
	slices.SortStableFunc(list, sortings[paneUsers][m.order[paneUsers]].users)
	return list
}

// act asks before it changes something about the selected address, or explains it.
func (m *model) act(key string) tea.Cmd {
	names := m.names(m.pane)
	if m.pane == paneUsers || len(names) == 0 {
		m.reply = "select an address first (tab, up, down)"
		return nil
	}
	prefix, err := netip.ParsePrefix(names[m.at(m.pane)])
	if err != nil {
		return nil
	}
	it := term.Prefix(prefix)
	if key == "w" {
		return func() tea.Msg {
			w, err := m.ask.why(prefix.Addr())
			if err != nil {
				return doneMsg{err.Error()}
			}
			return aboutMsg{&w}
		}
	}
	do := map[string]struct {
		question, done string
		do             func(netip.Prefix) error
	}{
		"b": {"ban %s?", "banned %s", m.ask.ban},
		"u": {"end the ban of %s?", "unbanned %s", m.ask.unban},
		"a": {"never ban %s from now on?", "%s is never banned", m.ask.allow},
	}[key]
	m.question = prompt{text: fmt.Sprintf(do.question, it) + " y/n", yes: func() tea.Msg {
		if err := do.do(prefix); err != nil {
			if refused := (*control.RefusedError)(nil); errors.As(err, &refused) {
				return doneMsg{"the daemon says no: " + refused.Text}
			}
			return doneMsg{err.Error()}
		}
		return doneMsg{fmt.Sprintf(do.done, it)}
	}}
	return nil
}
