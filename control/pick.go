package control

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Pick selects bans, and their order. The zero Pick selects all, by start.
type Pick struct {
	Sort    string // one of Orders; empty: by start
	Reverse bool
	Rules   []string
	Prefix  netip.Prefix // bans in it, or covering it
	Sources []string
	By      string        // part of the operator's name
	Node    string        // of the fleet: its name or its fleet.node
	Left    time.Duration // ends within it; 0: whenever
	Limit   int           // 0: all
	// Evidence adds the last attempts, which are on the daemon's disk, unless more bans than this are selected.
	Evidence int
}

// All as Pick.Evidence adds the last attempts to every ban.
const All = math.MaxInt32

// An order compares bans.
type order struct {
	name    string
	compare func(a, b *Ban) int
}

// orders are the sort orders of bans.
var orders = []order{
	{"since", func(*Ban, *Ban) int { return 0 }}, // the order of ties
	{"time-left", func(a, b *Ban) int {
		if a.Until.IsZero() != b.Until.IsZero() { // without end: last
			return map[bool]int{true: 1, false: -1}[a.Until.IsZero()]
		}
		return a.Until.Compare(b.Until)
	}},
	{"dropped", func(a, b *Ban) int { return cmp.Compare(b.Dropped.Packets, a.Dropped.Packets) }},
	{"attempts", func(a, b *Ban) int { return cmp.Compare(b.Attempts, a.Attempts) }},
	{"prefix", func(a, b *Ban) int { return a.Prefix.Compare(b.Prefix) }},
	{"rule", func(a, b *Ban) int { return cmp.Compare(a.Rule, b.Rule) }},
}

// Orders returns the names of the ways to sort.
func Orders() (names []string) {
	for _, o := range orders {
		names = append(names, o.name)
	}
	return names
}

func (p *Pick) order() int {
	return slices.IndexFunc(orders, func(o order) bool { return o.name == cmp.Or(p.Sort, orders[0].name) })
}

// Check returns an error if p is invalid.
func (p *Pick) Check() error {
	switch {
	case p.order() < 0:
		return fmt.Errorf("sort %.40q: there are %s", p.Sort, strings.Join(Orders(), ", "))
	case p.Limit < 0:
		return errors.New("limit: at least 1, or 0 for all")
	case p.Left < 0:
		return errors.New("left: longer than 0s")
	}
	return nil
}

// Of returns those of bans, in order.
func (p *Pick) Of(bans []Ban, now time.Time) []Ban {
	picked := make([]*Ban, 0, len(bans))
	for i := range bans {
		if p.wants(&bans[i], now) {
			picked = append(picked, &bans[i])
		}
	}
	compare := orders[p.order()].compare
	slices.SortFunc(picked, func(a, b *Ban) int {
		n := cmp.Or(compare(a, b), a.Since.Compare(b.Since), a.Prefix.Compare(b.Prefix))
		if p.Reverse {
			return -n
		}
		return n
	})
	if p.Limit > 0 {
		picked = picked[:min(len(picked), p.Limit)]
	}
	list := make([]Ban, len(picked))
	for i, b := range picked {
		list[i] = *b
	}
	return list
}

func (p *Pick) wants(b *Ban, now time.Time) bool {
	switch {
	case len(p.Rules) > 0 && !slices.Contains(p.Rules, b.Rule),
		p.Prefix.IsValid() && !p.Prefix.Overlaps(b.Prefix),
		len(p.Sources) > 0 && !slices.Contains(p.Sources, b.Source),
		p.By != "" && !strings.Contains(b.By, p.By),
		p.Node != "" && b.Node != p.Node && !strings.HasPrefix(b.Node, p.Node+"-"),
		p.Left > 0 && (b.Until.IsZero() || b.Until.Sub(now) > p.Left):
		return false
	}
	return true
}

// picks are the parameters of a Pick.
var picks = []parameter{
	{"sort", "string", "one of " + strings.Join(Orders(), ", ") + "; default: " + orders[0].name, false},
	{"reverse", "string", "in reverse order, whatever the value", false},
	{"rule", "string", "only bans of this rule; may be repeated", false},
	{"prefix", "string", "only bans in this prefix, or covering it: 192.0.2.0/24", false},
	{"source", "string", "only bans of this source: event, cti_event, esl_log, cti_log, fleet, operator, kernel; may be repeated", false},
	{"by", "string", "only manual bans whose operator contains this text", false},
	{"node", "string", "only bans made by this node of the fleet", false},
	{"left", "integer", "only bans that end within this many nanoseconds", false},
	{"limit", "integer", "at most that many", false},
	{"evidence", "integer", "with the last attempts of each ban, unless there are more bans than this; empty: always", false},
}

// query returns p as the query of a request.
func (p *Pick) query() string {
	q := make(url.Values)
	set := func(name, value string, is bool) {
		if is {
			q.Set(name, value)
		}
	}
	set("sort", p.Sort, p.Sort != "")
	set("reverse", "", p.Reverse)
	set("prefix", p.Prefix.String(), p.Prefix.IsValid())
	set("by", p.By, p.By != "")
	set("node", p.Node, p.Node != "")
	set("left", strconv.FormatInt(int64(p.Left), 10), p.Left != 0)
	set("limit", strconv.Itoa(p.Limit), p.Limit != 0)
	set("evidence", strconv.Itoa(p.Evidence), p.Evidence != 0)
	if len(p.Rules) > 0 {
		q["rule"] = p.Rules
	}
	if len(p.Sources) > 0 {
		q["source"] = p.Sources
	}
	if len(q) == 0 {
		return ""
	}
	return "?" + q.Encode()
}

// pickOf reads the Pick of a request.
func pickOf(r *http.Request) (p Pick, err error) {
	q := r.URL.Query()
	p = Pick{
		Sort: q.Get("sort"), Reverse: q.Has("reverse"), Rules: q["rule"], Sources: q["source"], By: q.Get("by"), Node: q.Get("node"),
	}
	if p.Prefix, err = prefix(r); err != nil {
		return p, err
	}
	number := func(name string) (n int) {
		if err == nil && q.Get(name) != "" {
			if n, err = strconv.Atoi(q.Get(name)); err != nil {
				err = fmt.Errorf("%s: %.40q is no number", name, q.Get(name))
			}
		}
		return n
	}
	p.Left, p.Limit, p.Evidence = time.Duration(number("left")), number("limit"), number("evidence")
	if q.Has("evidence") && q.Get("evidence") == "" {
		p.Evidence = All
	}
	if err == nil {
		err = p.Check()
	}
	if err != nil {
		return p, &RefusedError{"request: " + err.Error()}
	}
	return p, nil
}
