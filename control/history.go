package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"time"
)

// An EndedBan is a ban of the history, and how it ended.
type EndedBan struct {
	Prefix      netip.Prefix `json:"prefix"`
	Since       time.Time    `json:"since"`
	Until       time.Time    `json:"until,omitzero"` // end that it had; zero: none
	Rule        string       `json:"rule"`
	Source      string       `json:"source"`
	Attempts    int          `json:"attempts,omitempty"`
	Offence     int          `json:"offence,omitempty"` // ordinal of this ban among the prefix's bans
	By          string       `json:"by,omitempty"`      // operator who made it
	Reason      string       `json:"reason,omitempty"`
	Node        string       `json:"node,omitempty"` // of the fleet that made it
	Ended       time.Time    `json:"ended"`
	Cause       string       `json:"cause"`                  // expired, unbanned, allowed, never_ban, evicted, outage, invalid or replaced
	EndedBy     string       `json:"ended_by,omitempty"`     // operator who ended it
	EndedReason string       `json:"ended_reason,omitempty"` // given by that operator
	EndedOn     string       `json:"ended_on,omitempty"`     // node of the fleet where it was ended; empty: this one
	Evidence    []Attempt    `json:"evidence,omitempty"`
}

// An Allowance is a prefix that an operator has allowed at run time.
type Allowance struct {
	Prefix netip.Prefix `json:"prefix"`
	By     string       `json:"by"`
	Reason string       `json:"reason,omitempty"`
	Since  time.Time    `json:"since"`
	Until  time.Time    `json:"until,omitzero"`  // zero: until an operator disallows it
	Node   string       `json:"node,omitempty"`  // of the fleet where it was made
	Local  bool         `json:"local,omitempty"` // on this node of the fleet alone
	// StillBanned lists bans that hold addresses of the prefix all the same, such as a wider ban by an operator. Only in the answer
	// to an AllowRequest.
	StillBanned []Ban `json:"still_banned,omitempty"`
}

// A Withdrawal goes with the end of a ban or an allowance.
type Withdrawal struct {
	Reason string
	Local  bool // on this node of the fleet alone
}

func (w Withdrawal) query(p netip.Prefix) string {
	q := url.Values{"prefix": {p.String()}}
	if w.Local {
		q.Set("local", "")
	}
	if w.Reason != "" {
		q.Set("reason", w.Reason)
	}
	return "?" + q.Encode()
}

// A DoubtError refuses an order that may hit somebody trusted, or very many addresses. The same order with Force is carried out.
type DoubtError struct{ Text string }

func (e *DoubtError) Error() string { return e.Text + ": --force does it all the same" }

// Unwrap makes a doubt a refusal.
func (e *DoubtError) Unwrap() error { return &RefusedError{e.Error()} }

// A HistoryPick selects bans of the history. The zero HistoryPick is all of them.
type HistoryPick struct {
	Prefix   netip.Prefix // bans that overlap it; not valid: all
	Rules    []string
	Causes   []string
	Since    time.Time // bans that ended then or later
	Until    time.Time // bans that ended before; zero: no limit
	Limit    int       // 0: all
	Evidence bool      // with the attempts that led to each ban
}

// Check returns an error if p is invalid.
func (p *HistoryPick) Check() error {
	switch {
	case p.Limit < 0:
		return errors.New("limit: at least 1, or 0 for all")
	case !p.Since.IsZero() && !p.Until.IsZero() && !p.Until.After(p.Since):
		return errors.New("until: a time after since")
	}
	return nil
}

var historyPicks = []parameter{
	{"prefix", "string", "only bans that overlap this prefix: 192.0.2.0/24", false},
	{"rule", "string", "only bans of this rule; may be repeated", false},
	{"cause", "string", "only bans that ended for this cause; may be repeated", false},
	{"since", "string", "only bans that ended at this time (RFC 3339) or later", false},
	{"until", "string", "only bans that ended before this time (RFC 3339)", false},
	{"limit", "integer", "at most that many", false},
	{"evidence", "string", "with the attempts that led to each, whatever the value", false},
}

func (p *HistoryPick) query() string {
	q := make(url.Values)
	if p.Prefix.IsValid() {
		q.Set("prefix", p.Prefix.String())
	}
	for _, rule := range p.Rules {
		q.Add("rule", rule)
	}
	for _, cause := range p.Causes {
		q.Add("cause", cause)
	}
	if !p.Since.IsZero() {
		q.Set("since", p.Since.Format(time.RFC3339Nano))
	}
	if !p.Until.IsZero() {
		q.Set("until", p.Until.Format(time.RFC3339Nano))
	}
	if p.Limit != 0 {
		q.Set("limit", strconv.Itoa(p.Limit))
	}
	if p.Evidence {
		q.Set("evidence", "")
	}
	if len(q) == 0 {
		return ""
	}
	return "?" + q.Encode()
}

func historyPickOf(r *http.Request) (p HistoryPick, err error) {
	q := r.URL.Query()
	p = HistoryPick{Rules: q["rule"], Causes: q["cause"], Evidence: q.Has("evidence")}
	if p.Prefix, err = prefix(r); err != nil {
		return p, err
	}
	for name, to := range map[string]*time.Time{"since": &p.Since, "until": &p.Until} {
		if text := q.Get(name); text != "" && err == nil {
			if *to, err = time.Parse(time.RFC3339Nano, text); err != nil {
				err = fmt.Errorf("%s: %.40q is no time of RFC 3339", name, text)
			}
		}
	}
	if text := q.Get("limit"); text != "" && err == nil {
		if p.Limit, err = strconv.Atoi(text); err != nil {
			err = fmt.Errorf("limit: %.40q is no number", text)
		}
	}
	if err == nil {
		err = p.Check()
	}
	if err != nil {
		return p, &RefusedError{"request: " + err.Error()}
	}
	return p, nil
}

// historyRoutes are the requests about ended bans, their ends, and allowances.
var historyRoutes = []route{
	{
		http.MethodGet, pathHistory, "List bans that have ended, the newest first", historyPicks, nil, []EndedBan{},
		func(s *Server, _ http.ResponseWriter, r *http.Request) (any, error) {
			p, err := historyPickOf(r)
			if err != nil {
				return nil, err
			}
			return s.daemon.History(r.Context(), &p)
		},
	},
	{
		http.MethodPost, pathUnban, "End the bans of many prefixes", nil, UnbanRequest{}, Unbanned{},
		func(s *Server, w http.ResponseWriter, r *http.Request) (any, error) {
			req, err := body[UnbanRequest](s, w, r)
			if err != nil {
				return nil, err
			}
			return s.daemon.UnbanMany(r.Context(), req, by(r))
		},
	},
	{
		http.MethodGet, pathAllow, "List the allowances", nil, nil, []Allowance{},
		func(s *Server, _ http.ResponseWriter, r *http.Request) (any, error) {
			return s.daemon.Allowed(r.Context())
		},
	},
}

// History returns ended bans, the newest first.
func (c *Client) History(ctx context.Context, p HistoryPick) (list []EndedBan, err error) {
	return list, c.do(ctx, http.MethodGet, pathHistory+p.query(), nil, &list)
}

// Allowed returns the allowances, by start.
func (c *Client) Allowed(ctx context.Context) (list []Allowance, err error) {
	return list, c.do(ctx, http.MethodGet, pathAllow, nil, &list)
}

// UnbanWith is Unban with a reason, or on this node of the fleet alone.
func (c *Client) UnbanWith(ctx context.Context, p netip.Prefix, w Withdrawal) (b Ban, err error) {
	return b, c.do(ctx, http.MethodDelete, pathBans+w.query(p), nil, &b)
}

// UnbanMany ends the bans of exactly the prefixes of r, at most MaxUnbans.
func (c *Client) UnbanMany(ctx context.Context, r UnbanRequest) (done Unbanned, err error) {
	return done, c.do(ctx, http.MethodPost, pathUnban, r, &done)
}

// DisallowWith is Disallow with a reason, or on this node of the fleet alone.
func (c *Client) DisallowWith(ctx context.Context, p netip.Prefix, w Withdrawal) (n NeverBan, err error) {
	return n, c.do(ctx, http.MethodDelete, pathAllow+w.query(p), nil, &n)
}
