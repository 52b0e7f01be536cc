// Package api answers the control protocol, from snapshots of the daemon's parts and requests to the decision loop. It translates
// between package control's types and those of the parts, and holds no state of its own.
package api

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"fsban/config"
	"fsban/control"
	"fsban/decide"
	"fsban/firewall"
	"fsban/fleet"
	"fsban/ledger"
	"fsban/policy"
)

// Options are the parts that an API asks.
type Options struct {
	Version  string
	Started  time.Time
	Config   func() *config.Config // in force
	Loop     *decide.Loop
	Ledger   *ledger.Ledger
	Enforcer *firewall.Enforcer
	Fleet    func() *fleet.Fleet // nil: none

	// Sources returns the state of the configured sources, the event socket first, without ActiveFor and Unconfirmed.
	Sources func() []control.Source
	// Unready returns the faults that keep fsban from protecting; none: it protects, unless it watches.
	Unready func() []string
	// Watching reports whether fsban decides on bans and blocks nobody.
	Watching func() bool
	// Enforce ends watching.
	Enforce func(ctx context.Context, r control.EnforceRequest, by string) (control.Enforcement, error)
	// Existing lists the bans that the kernel holds while fsban watches.
	Existing func() ([]firewall.Entry, error)
	// Problems returns the problems of parts that the API does not know.
	Problems func() []string
	// Reload reads the configuration file again.
	Reload func(ctx context.Context, by string) (control.Reload, error)
}

// An API answers the control socket. Its methods may be called from any goroutine.
type API struct{ parts Options }

// New returns an API.
func New(o Options) *API { return &API{o} }

// Reload reads the configuration file again because an operator orders it.
func (a *API) Reload(ctx context.Context, by string) (control.Reload, error) {
	return a.parts.Reload(ctx, by)
}

// Enforce ends watching because an operator orders it.
func (a *API) Enforce(ctx context.Context, r control.EnforceRequest, by string) (control.Enforcement, error) {
	return a.parts.Enforce(ctx, r, by)
}

// Status returns the state of the daemon, as of now.
func (a *API) Status(ctx context.Context) (control.Status, error) {
	report, observed, err := a.parts.Loop.Report(ctx)
	if err != nil {
		return control.Status{}, err
	}
	why := a.parts.Unready()
	s := control.Status{
		Version: a.parts.Version, Started: a.parts.Started, Firewall: a.firewallStatus(), Attempts: make(map[string]uint64),
		ActiveSources: activeSources(observed, a.parts.Config()), Policy: policyStatus(&report), Ready: len(why) == 0 && !a.parts.Watching(),
		Watching: a.parts.Watching(), Problems: append([]string{}, why...),
	}
	s.Sources = a.sources(observed)
	v4, v6 := a.parts.Ledger.Count()
	s.Bans = control.Bans{IPv4: v4, IPv6: v6, Made: observed.Made, Refused: observed.Refused}
	for _, k := range policy.Kinds() {
		s.Attempts[k.String()] = a.parts.Loop.Counted(k)
	}
	s.Problems = append(s.Problems, exploitProblems(observed.Exploits, time.Now())...)
	s.Problems = append(s.Problems, a.problems(&s)...)
	var problems []string
	s.Fleet, problems = a.fleetStatus(ctx, observed)
	s.Problems = append(s.Problems, problems...)
	return s, nil
}

// problems returns the open problems other than not being ready.
func (a *API) problems(s *control.Status) []string {
	var list []string
	if aside := a.parts.Ledger.SetAside(); aside != "" {
		lost := "nothing of it was restored"
		if parts := a.parts.Ledger.Skipped(); parts > 0 {
			lost = fmt.Sprintf("damaged parts: %d, the rest was restored", parts)
		}
		list = append(list, fmt.Sprintf("the state file was damaged at the start (%s): check the allowances (fsban status --all); the file was "+
			"set aside as %s", lost, aside))
	}
	if _, err := a.parts.Ledger.Failures(); err != nil {
		list = append(list, "bans are in force but not on disk: "+err.Error())
	}
	for _, src := range s.Sources {
		if src.Name == policy.CTILog.String() && slices.Contains(src.ActiveFor, policy.AuthFailure.String()) {
			list = append(list, "the event socket is down, only mod_cti's log reports failed logins: "+s.Sources[0].Error)
		}
		if src.Name == policy.SIP.String() && slices.Contains(src.ActiveFor, policy.AuthFailure.String()) && s.Sources[0].Error != "" {
			list = append(list, "the event socket is down, only SIP messages show failed logins, and not those over TLS unless FreeSWITCH "+
				"captures them: "+s.Sources[0].Error)
		}
		if missed := Missed(src.NotAllowed); len(missed) > 0 {
			list = append(list, fmt.Sprintf("the login to FreeSWITCH may not see %v (esl-allowed-events in the directory)", missed))
		}
		if src.Dropped > 0 {
			list = append(list, fmt.Sprintf("%d attempts were lost: the decision queue was full", src.Dropped))
		}
	}
	list = append(list, a.parts.Problems()...)
	list = append(list, policyProblems(&s.Policy)...)
	list = append(list, s.Firewall.Notes...)
	if s.Bans.Refused > 0 {
		list = append(list, fmt.Sprintf("%d bans were refused: raise firewall.max_bans, or, where firewall.backend is rules, install ipset",
			s.Bans.Refused))
	}
	return list
}

// Missed returns the events of denied that protection needs. Without HEARTBEAT a few metrics are zero.
func Missed(denied []string) []string {
	return slices.DeleteFunc(slices.Clone(denied), func(name string) bool { return name == "HEARTBEAT" })
}

// activeSources returns the active source of each kind.
func activeSources(o *decide.Observed, cfg *config.Config) []control.ActiveSource {
	var list []control.ActiveSource
	for _, k := range policy.Kinds() {
		active := &o.Active[k]
		source := control.ActiveSource{Kind: k.String(), Why: active.Why}
		switch {
		case active.OK:
			source.Source = active.Source.String()
		case k.OnWire() && active.Why == "": // no tap is configured
			continue
		case k == policy.Violation && !cfg.UsesModCTI():
			source.Why = "only mod_cti reports these; ignore this on a FreeSWITCH without it, otherwise set cti_log.path"
		}
		list = append(list, source)
	}
	return list
}

// sources returns the state of each configured source, with the kinds for which it is the active one.
func (a *API) sources(o *decide.Observed) []control.Source {
	list := a.parts.Sources()
	for i := range list {
		s := &list[i]
		s.ActiveFor = []string{}
		for source := range policy.NumSources {
			if source.String() == s.Name {
				s.Unconfirmed = o.Unconfirmed[source]
			}
		}
		for _, k := range policy.Kinds() {
			if active := &o.Active[k]; active.OK && active.Source.String() == s.Name {
				s.ActiveFor = append(s.ActiveFor, k.String())
			}
		}
	}
	return list
}

func (a *API) firewallStatus() control.Firewall {
	state := a.parts.Enforcer.Status()
	f := control.Firewall{
		Backend: state.Backend, Enforcing: state.Enforcing && !a.parts.Watching(), Since: state.Since, Pending: state.Pending,
		Repairs: state.Repairs, Restored: state.Restored, Failures: state.Failures, Notes: state.Notes, Dropped: make(map[string]control.Dropped),
	}
	if state.Err != nil {
		f.Error = state.Err.Error()
	}
	for family, n := range state.Dropped {
		f.Dropped[family] = control.Dropped(n)
	}
	return f
}

// Top returns current activity, with up to n addresses and users.
func (a *API) Top(ctx context.Context, n int) (control.Top, error) {
	s, err := a.Status(ctx)
	if err != nil {
		return control.Top{}, err
	}
	t := control.Top{
		At: time.Now(), Started: s.Started, Version: s.Version, Ready: s.Ready, Watching: s.Watching, Attempts: s.Attempts,
		Bans: s.Bans, Held: s.Policy.Held,
		Sources: s.Sources, ActiveSources: s.ActiveSources, Problems: s.Problems,
		Addresses: []control.Busy{}, Users: []control.BusyUser{}, NewBans: []control.Ban{},
	}
	for _, d := range s.Firewall.Dropped {
		t.Dropped.Packets += d.Packets
		t.Dropped.Bytes += d.Bytes
	}
	top, err := a.parts.Loop.Top(ctx, n, t.At)
	for i := range top.Addresses {
		t.Addresses = append(t.Addresses, control.Busy(top.Addresses[i]))
	}
	for i := range top.Users {
		t.Users = append(t.Users, control.BusyUser(top.Users[i]))
	}
	for i := range top.NewBans {
		t.NewBans = append(t.NewBans, a.wire(&top.NewBans[i]))
	}
	return t, err
}

func refused(format string, args ...any) error {
	return &control.RefusedError{Text: fmt.Sprintf(format, args...)}
}

// parse returns the canonical form of a prefix that a client has sent.
func parse(p netip.Prefix) (netip.Prefix, error) {
	prefix, err := config.ParsePrefix(p.String())
	if err != nil {
		return prefix, &control.RefusedError{Text: err.Error()}
	}
	return prefix, nil
}

// parseOrder is parse for an order with a reason.
func parseOrder(p netip.Prefix, reason string) (netip.Prefix, error) {
	if err := checkReason(reason); err != nil {
		return p, err
	}
	return parse(p)
}
