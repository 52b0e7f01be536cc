package book

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"fsban/firewall"
	"fsban/fleet/merge"
	"fsban/ledger"
	"fsban/policy"
)

// kernel is a firewall that holds the ordered bans.
type kernel map[netip.Prefix]time.Time

func (k kernel) Ban(p netip.Prefix, until time.Time, _ firewall.Cause) { k[p] = until }
func (k kernel) Unban(p netip.Prefix, _ time.Time)                     { delete(k, p) }
func (k kernel) Packets() map[netip.Prefix]uint64                      { return nil }

// outbox keeps the announced statements. The test sets its clock.
type outbox struct {
	announced []merge.Statement
	refused   []merge.Refusal
	resyncs   int
	last      int64
}

func (o *outbox) Announce(s merge.Statement) { o.announced = append(o.announced, s) }
func (o *outbox) StampOf(t time.Time) int64  { return t.UnixMicro() }
func (o *outbox) Refuse(r merge.Refusal)     { o.refused = append(o.refused, r) }
func (o *outbox) Resync()                    { o.resyncs++ }
func (o *outbox) Step(time.Duration)         {}
func (o *outbox) Stamp() int64 {
	o.last = max(o.last+1, time.Now().UnixMicro())
	return o.last
}

// counts is a Recorder.
type counts struct {
	banned   map[string]int
	unbanned map[Cause]int
	removed  map[Reason]int
	refused  int
	adopted  int
}

func (c *counts) Banned(rule string)   { c.banned[rule]++ }
func (c *counts) Unbanned(cause Cause) { c.unbanned[cause]++ }
func (c *counts) Removed(r Reason)     { c.removed[r]++ }
func (c *counts) BanRefused()          { c.refused++ }
func (c *counts) Adopted()             { c.adopted++ }

// A rig is a book with fakes around it.
type rig struct {
	*Book
	t        *testing.T
	path     string
	disk     *ledger.Ledger
	kernel   kernel
	outbox   *outbox
	counts   *counts
	capacity int // of both families together; 0: no limit of its own
	now      time.Time
	never    []policy.NeverEntry
}

func newRig(t *testing.T, never ...string) *rig {
	t.Helper()
	r := &rig{t: t, path: filepath.Join(t.TempDir(), "fsban.db"), kernel: make(kernel), now: time.Now()}
	for _, p := range never {
		r.never = append(r.never, policy.NeverEntry{Prefix: netip.MustParsePrefix(p), Origin: "ignoreip"})
	}
	r.open()
	t.Cleanup(func() { _ = r.disk.Close() })
	return r
}

// open starts a book on the disk and the kernel as they are.
func (r *rig) open() {
	r.t.Helper()
	var err error
	if r.disk, err = ledger.Open(r.path, r.now); err != nil {
		r.t.Fatal(err)
	}
	r.outbox = new(outbox)
	r.counts = &counts{banned: make(map[string]int), unbanned: make(map[Cause]int), removed: make(map[Reason]int)}
	r.Book = New(Options{
		Log: slog.New(slog.DiscardHandler), Ledger: r.disk, Engine: policy.NewEngine(policy.DefaultRules(), policy.NeverBan{}, policy.Options{}),
		Firewall: r.kernel, Capacity: func() (int, bool) { return r.capacity, r.capacity > 0 }, Recorder: r.counts, Started: r.now,
		Limits: Limits{MaxBans: 100},
	})
	r.RestoreAllowances(r.never, 0)
	r.SetNode("a-1")
	r.RestoreTombstones(0, false)
	r.RestoreBans()
	r.Join(r.outbox)
}

func (r *rig) restart() {
	r.t.Helper()
	if err := errors.Join(r.disk.Flush(), r.disk.Close()); err != nil {
		r.t.Fatal(err)
	}
	r.open()
}

// ban returns an entry of an origin.
func (r *rig) entry(prefix string, origin Origin) Entry {
	b := ledger.Ban{Prefix: netip.MustParsePrefix(prefix), Since: r.now, Until: r.now.Add(time.Hour), Rule: "auth", Attempts: 5, Source: policy.Event}
	switch origin {
	case ByOperator:
		b.Rule, b.Source = RuleOperator, policy.Operator
	case InKernel:
		b.Rule, b.Source = RuleKernel, policy.Kernel
	case ByRule, FromPeer, Restored, Replayed, numOrigins:
	}
	return Entry{Ban: b, Origin: origin, Cause: firewall.Cause{Read: r.now}}
}

// enter has an entry ask to be in force, by the way of its origin.
func (r *rig) enter(e Entry) {
	r.t.Helper()
	switch e.Origin {
	case ByRule, ByOperator:
		_ = r.Ban(e)
	case Replayed:
		_ = r.Replay(e)
	case FromPeer:
		s := statementOf(&e.Ban)
		s.Stamp, s.Node = r.outbox.Stamp(), "b-1"
		r.TakeBan(&s, false, r.now)
	case InKernel:
		r.kernel[e.Ban.Prefix] = e.Ban.Until
		left := firewall.Forever
		if !e.Ban.Until.IsZero() {
			left = e.Ban.Until.Sub(r.now)
		}
		r.Found([]firewall.Entry{{Prefix: e.Ban.Prefix, Left: left}})
		<-r.Ready()
		r.TakeKernel(r.now)
	case Restored:
		r.disk.Add(e.Ban)
		r.kernel[e.Ban.Prefix] = e.Ban.Until
		r.restart()
	case numOrigins:
	}
}

// inForce reports whether a prefix is banned, and fails when ledger and kernel disagree.
func (r *rig) inForce(p netip.Prefix) bool {
	r.t.Helper()
	_, onDisk := r.disk.Get(p)
	if _, inKernel := r.kernel[p]; inKernel != onDisk {
		r.t.Errorf("%v: in the ledger %v, in the kernel %v", p, onDisk, inKernel)
	}
	return onDisk
}

// fill makes bans of operators until the limit is reached.
func (r *rig) fill(n int) {
	r.t.Helper()
	for i := range n {
		if err := r.Ban(r.entry(fmt.Sprintf("198.18.%d.%d/32", i/250, i%250), ByOperator)); err != nil {
			r.t.Fatal(err)
		}
	}
}

var origins = []Origin{ByRule, ByOperator, FromPeer, InKernel, Restored, Replayed}

// Every origin passes the same checks, except those that an operator of this host may override.
func TestEachOriginPassesEachCheck(t *testing.T) {
	const addr = "203.0.113.7/32"
	for _, tc := range []struct {
		name    string
		prefix  string
		never   []string
		prepare func(*rig)
		except  []Origin // that may be in force all the same
	}{
		{name: "an ordinary address", prefix: addr, except: origins},
		{name: "an ordinary IPv6 network", prefix: "2001:db8:0:7::/64", except: origins},
		{name: "on the never-ban list", prefix: addr, never: []string{"203.0.113.0/24"}},
		{name: "holds an entry of the never-ban list", prefix: "203.0.113.0/24", never: []string{addr}, except: []Origin{Restored}},
		{name: "allowed", prefix: addr, prepare: func(r *rig) { r.allow("203.0.113.0/28") }},
		{name: "allowed on another node", prefix: addr, prepare: func(r *rig) { r.peerAllows(addr) }},
		{name: "everybody", prefix: "0.0.0.0/0"},
		{name: "half of everybody", prefix: "0.0.0.0/1"},
		{name: "the other half", prefix: "128.0.0.0/1"},
		{name: "a /7", prefix: "202.0.0.0/7"},
		{name: "half of IPv6", prefix: "8000::/1"},
		{name: "an IPv6 /15", prefix: "2002::/15"},
		{name: "host bits", prefix: "203.0.113.7/24"},
		{name: "IPv4-mapped", prefix: "::ffff:203.0.113.7/128"},
		{name: "all of IPv4, mapped", prefix: "::ffff:0:0/96"},
		{name: "a network that holds all of IPv4, mapped", prefix: "::/16"},
	} {
		for _, origin := range origins {
			t.Run(tc.name+"/"+origin.String(), func(t *testing.T) {
				r := newRig(t, tc.never...)
				if tc.prepare != nil {
					tc.prepare(r)
				}
				e := r.entry(tc.prefix, origin)
				if origin == Restored || origin == FromPeer && !e.Ban.Prefix.IsSingleIP() && e.Ban.Prefix.Bits() != 64 {
					e.Ban.Rule = RuleOperator // a rule of a peer bans no network
				}
				want := slices.Contains(tc.except, origin)
				if p := e.Ban.Prefix; origin == Restored && (p.Addr().Is4In6() || p != p.Masked()) {
					return // the ledger cannot hold it
				}
				r.enter(e)
				if got := r.inForce(e.Ban.Prefix); got != want {
					t.Errorf("in force: %v, want %v", got, want)
				}
				if origin == InKernel && !want && r.counts.adopted+len(r.counts.removed) != 1 {
					t.Errorf("adopted %d, removed %v", r.counts.adopted, r.counts.removed)
				}
			})
		}
	}
}

func (r *rig) allow(prefix string) {
	r.t.Helper()
	if err := r.Allow(Allowance{Prefix: netip.MustParsePrefix(prefix), By: "root", Since: r.now}, false); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) peerAllows(prefix string) {
	s := merge.Statement{Kind: merge.Allow, Prefix: netip.MustParsePrefix(prefix), Stamp: r.outbox.Stamp(), Node: "b-1", Since: r.now, By: "root"}
	if r.TakeAllow(&s, false, r.now) {
		r.ApplyNeverBan()
	}
}

// When the never-ban list gains an address, its bans of every origin end, at once or at the next start. An operator's ban stays if it
// was forced, or if the operator of this host has banned a network around the entry.
func TestBansPassTheNeverBanListThatChanges(t *testing.T) {
	for name, tc := range map[string]struct {
		prefix string
		ban    func(*ledger.Ban)
		want   bool
	}{
		"by a rule":                             {"203.0.113.7/32", func(*ledger.Ban) {}, false},
		"by rule office":                        {"203.0.113.7/32", func(b *ledger.Ban) { b.Rule = RuleOffice }, false},
		"found in the kernel":                   {"203.0.113.7/32", func(b *ledger.Ban) { b.Rule = RuleKernel }, false},
		"imported":                              {"203.0.113.7/32", func(b *ledger.Ban) { b.Rule = RuleImported }, false},
		"by an operator":                        {"203.0.113.7/32", func(b *ledger.Ban) { b.Rule = RuleOperator }, false},
		"by an operator, here alone":            {"203.0.113.7/32", func(b *ledger.Ban) { b.Rule, b.Local = RuleOperator, true }, false},
		"by an operator, forced":                {"203.0.113.7/32", func(b *ledger.Ban) { b.Rule, b.Forced = RuleOperator, true }, true},
		"by an operator of another node":        {"203.0.113.7/32", func(b *ledger.Ban) { b.Rule, b.Node = RuleOperator, "b-1" }, false},
		"a wider one, by an operator":           {"203.0.112.0/20", func(b *ledger.Ban) { b.Rule, b.Node = RuleOperator, "a-1" }, true},
		"a wider one, by another node's":        {"203.0.112.0/20", func(b *ledger.Ban) { b.Rule, b.Node = RuleOperator, "b-1" }, false},
		"a wider one, found in the kernel":      {"203.0.112.0/20", func(b *ledger.Ban) { b.Rule = RuleKernel }, false},
		"a wider one, by an operator, IPv6":     {"2001:db8::/40", func(b *ledger.Ban) { b.Rule = RuleOperator }, true},
		"an IPv6 network of one attacker":       {"2001:db8:1:2::/64", func(b *ledger.Ban) { b.Rule = RuleOperator }, false},
		"translated, by an operator":            {"64:ff9b::203.0.113.7/128", func(b *ledger.Ban) { b.Rule = RuleOperator }, false},
		"translated, forced":                    {"64:ff9b::203.0.113.7/128", func(b *ledger.Ban) { b.Rule, b.Forced = RuleOperator, true }, true},
		"a neighbour of the list, by rule auth": {"203.0.114.7/32", func(*ledger.Ban) {}, true},
	} {
		for when, change := range map[string]func(*rig){
			"at once":      func(r *rig) { r.SetConfigured(r.never) },
			"by a restart": func(r *rig) { r.restart() },
		} {
			t.Run(name+" "+when, func(t *testing.T) {
				r := newRig(t)
				e := r.entry(tc.prefix, ByRule)
				tc.ban(&e.Ban)
				r.disk.Add(e.Ban)
				r.kernel[e.Ban.Prefix] = e.Ban.Until
				r.never = policy.NeverEntries("ignoreip", netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("2001:db8:1:2::/63"))
				change(r)
				if got := r.inForce(e.Ban.Prefix); got != tc.want {
					t.Errorf("in force %v, want %v", got, tc.want)
				}
				if ended := r.ended(); tc.want != (ended == "") || ended != "" && ended != netip.MustParsePrefix(tc.prefix).String()+" never_ban" {
					t.Errorf("the history says %q", ended)
				}
			})
		}
	}
}

// ended lists the history, the newest first: prefix, cause, operator, node and reason of each end.
func (r *rig) ended() string {
	r.t.Helper()
	list, _, err := r.disk.History(ledger.Query{})
	if err != nil {
		r.t.Fatal(err)
	}
	var texts []string
	for i := range list {
		e := &list[i]
		texts = append(texts, strings.Join(strings.Fields(strings.Join([]string{e.Prefix.String(), e.Ending.Cause, e.Ending.By, e.Ending.Node, e.Ending.Reason}, " ")), " "))
	}
	return strings.Join(texts, ", ")
}

// An allowance ends each ban that keeps its addresses out, however it was made, on this node and on the others, and leaves a tombstone.
// A wider ban by an operator stays.
func TestAnAllowanceEndsBans(t *testing.T) {
	for name, tc := range map[string]struct {
		prefix string
		ban    func(*ledger.Ban)
		allow  string
		here   bool // the ban stays if the allowance is given here
		peer   bool // it stays if the allowance is another node's
	}{
		"by a rule":                        {"203.0.113.7/32", func(*ledger.Ban) {}, "203.0.113.7/32", false, false},
		"by an operator":                   {"203.0.113.7/32", func(b *ledger.Ban) { b.Rule = RuleOperator }, "203.0.113.7/32", false, false},
		"imported":                         {"203.0.113.7/32", func(b *ledger.Ban) { b.Rule = RuleImported }, "203.0.113.7/32", false, false},
		"found in the kernel":              {"203.0.113.7/32", func(b *ledger.Ban) { b.Rule = RuleKernel }, "203.0.113.7/32", false, false},
		"of another node":                  {"203.0.113.7/32", func(b *ledger.Ban) { b.Rule, b.Node = RuleOperator, "b-1" }, "203.0.113.7/32", false, false},
		"of this node alone":               {"203.0.113.7/32", func(b *ledger.Ban) { b.Rule, b.Local = RuleOperator, true }, "203.0.113.7/32", false, true},
		"forced":                           {"203.0.113.7/32", func(b *ledger.Ban) { b.Rule, b.Forced = RuleOperator, true }, "203.0.113.7/32", false, false},
		"in an allowed network":            {"203.0.113.7/32", func(b *ledger.Ban) { b.Rule = RuleOperator }, "203.0.113.0/24", false, false},
		"wider, by an operator":            {"203.0.113.0/24", func(b *ledger.Ban) { b.Rule = RuleOperator }, "203.0.113.7/32", true, true},
		"wider, of another node":           {"203.0.113.0/24", func(b *ledger.Ban) { b.Rule, b.Node = RuleOperator, "b-1" }, "203.0.113.7/32", true, true},
		"wider, found in the kernel":       {"203.0.113.0/24", func(b *ledger.Ban) { b.Rule = RuleKernel }, "203.0.113.7/32", false, false},
		"the /64 of an address":            {"2001:db8::/64", func(b *ledger.Ban) { b.Rule = RuleOperator }, "2001:db8::7/128", false, false},
		"a /48 around an address":          {"2001:db8::/48", func(b *ledger.Ban) { b.Rule = RuleOperator }, "2001:db8::7/128", true, true},
		"of another address, by a rule":    {"203.0.113.8/32", func(*ledger.Ban) {}, "203.0.113.7/32", true, true},
		"translated":                       {"64:ff9b::203.0.113.7/128", func(b *ledger.Ban) { b.Rule = RuleOperator }, "203.0.113.7/32", false, false},
		"forced, in an allowed network":    {"203.0.113.7/32", func(b *ledger.Ban) { b.Rule, b.Forced = RuleOperator, true }, "203.0.113.0/28", false, false},
		"of another node, and of its rule": {"203.0.113.7/32", func(b *ledger.Ban) { b.Node = "b-1" }, "203.0.113.7/32", false, false},
	} {
		for by, want := range map[string]bool{"here": tc.here, "on another node": tc.peer} {
			t.Run(name+" "+by, func(t *testing.T) {
				r := newRig(t)
				e := r.entry(tc.prefix, ByRule)
				e.Ban.Since = r.now.Add(-time.Minute)
				tc.ban(&e.Ban)
				r.disk.Add(e.Ban)
				r.kernel[e.Ban.Prefix] = e.Ban.Until
				ending := netip.MustParsePrefix(tc.prefix).String() + " allowed root"
				if by == "here" {
					r.allow(tc.allow)
				} else {
					r.peerAllows(tc.allow)
					ending += " b-1"
				}
				if got := r.inForce(e.Ban.Prefix); got != want {
					t.Errorf("in force %v, want %v", got, want)
				}
				if got := r.ended(); got != "" == want || got != "" && got != ending {
					t.Errorf("the history says %q", got)
				}
				r.restart()
				if got := r.inForce(e.Ban.Prefix); got != want {
					t.Errorf("in force after a restart %v, want %v", got, want)
				}
				r.Disallow(netip.MustParsePrefix(tc.allow), Order{By: "root"})
				s := statementOf(&e.Ban) // as Redis may still hold it
				s.Stamp, s.Node = r.stampOf(&e.Ban), "b-1"
				if r.TakeBan(&s, true, r.now); r.inForce(e.Ban.Prefix) != want && e.Ban.Prefix.IsSingleIP() {
					t.Error("the ban returned when the allowance ended")
				}
			})
		}
	}
}

func TestABanThatWasForcedAfterAnAllowanceStays(t *testing.T) {
	r := newRig(t)
	r.allow("203.0.113.7/32")
	e := r.entry("203.0.113.7/32", ByOperator)
	e.Ban.Since = time.Now().Add(time.Second)
	if err := r.Ban(e); err == nil || !strings.Contains(err.Error(), "never banned") {
		t.Fatalf("banned without force: %v", err)
	}
	e.Force = true
	if err := r.Ban(e); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if r.ApplyNeverBan(); !r.inForce(e.Ban.Prefix) {
			t.Error("the ban ended")
		}
		r.restart()
	}
	r.allow("203.0.113.7/32") // again
	if r.inForce(e.Ban.Prefix) {
		t.Error("the ban holds against a later allowance")
	}
}

// An order that hits somebody trusted, or very many, is doubted. Imported bans are a rule's.
func TestDoubtfulOrdersNeedForce(t *testing.T) {
	r := newRig(t, "192.0.2.0/28")
	r.engine.SetKnownGood(policy.KnownGood{Prefix: netip.MustParsePrefix("198.51.100.7/32"), Since: r.now.Add(-time.Hour), Last: r.now.Add(-time.Minute)})
	r.engine.SetKnownGood(policy.KnownGood{Prefix: netip.MustParsePrefix("198.51.100.8/32"), Since: r.now.Add(-time.Hour), Last: r.now.Add(-time.Minute)})
	r.engine.SetKnownGood(policy.KnownGood{Prefix: netip.MustParsePrefix("198.51.100.9/32"), Suspected: r.now})
	r.engine.SetKnownGood(policy.KnownGood{Prefix: netip.MustParsePrefix("2001:db8:0:7::/64"), Since: r.now.Add(-time.Hour), Last: r.now.Add(-time.Minute)})
	for prefix, want := range map[string]string{
		"203.0.113.7/32":      "",
		"203.0.113.0/24":      "",
		"198.51.100.9/32":     "", // a suspicious login is no reason to trust
		"198.51.100.7/32":     "198.51.100.7/32 is known-good, last login ",
		"198.51.100.0/24":     "198.51.100.0/24 holds 2 known-good, such as ",
		"2001:db8:0:7::1/128": "2001:db8:0:7::1/128 holds 1 known-good, such as 2001:db8:0:7::/64, last login ",
		"192.0.2.7/32":        "192.0.2.7/32 is never banned, because of 192.0.2.0/28 (ignoreip)",
		"192.0.2.0/24":        "192.0.2.0/24 is never banned, because of 192.0.2.0/28 (ignoreip)",
		"198.18.0.0/16":       "198.18.0.0/16 is very wide: 65536 addresses",
		"2001:db9::/32":       "2001:db9::/32 is very wide: 65536 networks of the size /48",
		"192.0.0.0/8":         "192.0.0.0/8 is never banned, because of 192.0.2.0/28 (ignoreip); 192.0.0.0/8 is very wide: 16777216 addresses",
	} {
		e := r.entry(prefix, ByOperator)
		refusal := (*Refusal)(nil)
		err := r.Ban(e)
		if want == "" && err != nil || want != "" && (!errors.As(err, &refusal) || refusal.Reason != Doubtful || !strings.HasPrefix(err.Error(), want)) {
			t.Errorf("%s: %v, want %s", prefix, err, want)
		}
		if e.Force = true; r.Ban(e) != nil || !r.inForce(e.Ban.Prefix) {
			t.Errorf("%s: force does not help", prefix)
		}
		if b, _ := r.disk.Get(e.Ban.Prefix); b.Forced != strings.Contains(want, "never banned") {
			t.Errorf("%s: forced %v", prefix, b.Forced)
		}
	}
	e := r.entry("198.51.100.8/32", ByRule)
	e.Origin, e.Ban.Rule = Imported, RuleImported
	if err := r.Ban(e); err != nil {
		t.Errorf("imported: %v", err)
	}
	if err := r.Allow(Allowance{Prefix: netip.MustParsePrefix("10.0.0.0/8"), Since: r.now}, false); err == nil || err.Error() != "10.0.0.0/8 is very wide: 16777216 addresses would never be banned" {
		t.Errorf("allowed: %v", err)
	}
}

func TestForceOverridesTheNeverBanListAlone(t *testing.T) {
	r := newRig(t, "203.0.113.0/24")
	e := r.entry("203.0.113.7/32", ByOperator)
	e.Force = true
	if err := r.Ban(e); err != nil || !r.inForce(e.Ban.Prefix) {
		t.Error(err)
	}
	wide := r.entry("0.0.0.0/1", ByOperator)
	wide.Force = true
	if refusal := (*Refusal)(nil); !errors.As(r.Ban(wide), &refusal) || refusal.Reason != TooWide {
		t.Errorf("half of everybody: %v", refusal)
	}
}

// No origin exceeds the limit: of one family, and of both together where the backend shares it.
func TestEachOriginRespectsTheCapacity(t *testing.T) {
	for _, capacity := range []int{0, 50} {
		for _, origin := range origins {
			for _, prefix := range []string{"203.0.113.7/32", "2001:db8:0:7::/64"} {
				t.Run(fmt.Sprintf("%d/%v/%s", capacity, origin, prefix), func(t *testing.T) {
					r := newRig(t)
					r.capacity = capacity
					limit, shared := 100, capacity > 0
					if shared {
						limit = capacity
					}
					r.fill(limit)
					e := r.entry(prefix, origin)
					room := !shared && e.Ban.Prefix.Addr().Is6()
					r.enter(e)
					if got := r.inForce(e.Ban.Prefix); got != room {
						t.Errorf("in force: %v, want %v", got, room)
					}
					if v4, v6 := r.disk.Count(); v4 > limit || shared && v4+v6 > limit {
						t.Errorf("%d and %d bans, at most %d", v4, v6, limit)
					}
				})
			}
		}
	}
}

func TestOwnBansEvictThoseOfRulesAndPeersDoNot(t *testing.T) {
	for origin, want := range map[Origin]bool{ByRule: true, ByOperator: true, Replayed: true, FromPeer: false, InKernel: false} {
		r := newRig(t)
		r.capacity = 50
		r.fill(40)
		for i := range 10 {
			e := r.entry(fmt.Sprintf("198.19.0.%d/32", i), ByRule)
			e.Ban.Until = r.now.Add(time.Duration(i+1) * time.Minute)
			if err := r.Ban(e); err != nil {
				t.Fatal(err)
			}
		}
		e := r.entry("203.0.113.7/32", origin)
		r.enter(e)
		if got := r.inForce(e.Ban.Prefix); got != want {
			t.Errorf("%v: in force %v, want %v", origin, got, want)
		}
		if v4, v6 := r.disk.Count(); v4+v6 > 50 {
			t.Errorf("%v: %d bans", origin, v4+v6)
		}
		if evicted := r.counts.unbanned[Evicted]; (evicted > 0) != want {
			t.Errorf("%v: %d evicted", origin, evicted)
		}
	}
}

// A backend that holds fewer bans than the ledger: those nearest to their end go, and the rest is in force.
func TestARestartUnderALowerLimitEvicts(t *testing.T) {
	r := newRig(t)
	for i := range 90 {
		e := r.entry(fmt.Sprintf("198.19.0.%d/32", i), ByRule)
		e.Ban.Until = r.now.Add(time.Duration(i+1) * time.Minute)
		if err := r.Ban(e); err != nil {
			t.Fatal(err)
		}
	}
	r.capacity = 50
	r.restart()
	if v4, _ := r.disk.Count(); v4 != 50 || r.counts.unbanned[Evicted] != 40 {
		t.Errorf("%d bans, %d evicted", v4, r.counts.unbanned[Evicted])
	}
	if r.inForce(netip.MustParsePrefix("198.19.0.39/32")) || !r.inForce(netip.MustParsePrefix("198.19.0.40/32")) {
		t.Error("not those nearest to their end")
	}
}

// With a limit for both families, the bans closest to expiry are evicted, from either family, and no more than necessary.
func TestBothFamiliesShareALimit(t *testing.T) {
	for name, c := range map[string]struct {
		maxBans, v4, v6 int
		add             string // a ban with the later end of v4's; "": another start
		want4, want6    int
	}{
		"a start, v6 ends first":                    {100, 10, 60, "", 10, 40},
		"a start, a family is beyond its own limit": {30, 40, 25, "", 30, 20},
		"a new v4 ban":                              {100, 10, 40, "203.0.113.7/32", 11, 37},
		"a new v6 ban":                              {100, 10, 40, "2001:db9::/64", 10, 38},
		"a new ban of a family at both limits":      {10, 10, 40, "203.0.113.7/32", 10, 40},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			add := func(p netip.Prefix, left time.Duration) {
				e := r.entry(p.String(), ByRule)
				e.Ban.Until = r.now.Add(left)
				if err := r.Ban(e); err != nil {
					t.Fatal(err)
				}
			}
			for i := range c.v4 {
				add(netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, 0, byte(i)}), 32), time.Hour+time.Duration(i)*time.Second)
			}
			for i := range c.v6 {
				add(netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 0, byte(i)}), 64), time.Minute+time.Duration(i)*time.Second)
			}
			r.capacity, r.limits.MaxBans = 50, c.maxBans
			if c.add == "" {
				r.RestoreBans()
			} else {
				add(netip.MustParsePrefix(c.add), 2*time.Hour)
			}
			if v4, v6 := r.disk.Count(); v4 != c.want4 || v6 != c.want6 {
				t.Errorf("%d and %d bans, want %d and %d", v4, v6, c.want4, c.want6)
			}
		})
	}
}

// A family full of operators' bans has no room, although the other one has bans that could go.
func TestAFamilyFullOfOperatorsBansHasNoRoom(t *testing.T) {
	r := newRig(t)
	r.capacity, r.limits.MaxBans = 50, 25
	r.fill(25)
	for i := range 25 {
		if err := r.Ban(r.entry(fmt.Sprintf("2001:db8:0:%x::/64", i), ByRule)); err != nil {
			t.Fatal(err)
		}
	}
	err := r.Ban(r.entry("203.0.113.7/32", ByRule))
	if v4, v6 := r.disk.Count(); err == nil || v4 != 25 || v6 != 25 {
		t.Errorf("%v: %d and %d bans", err, v4, v6)
	}
}

// 2,500 bans of a peer with room for 2,000: those beyond the capacity are refused, and tried again by a resync.
func TestAPeersBansBeyondTheCapacityAreRefused(t *testing.T) {
	r := newRig(t)
	r.limits.MaxBans, r.capacity = 100_000, 2000
	for i := range 2500 {
		e := r.entry(fmt.Sprintf("198.%d.%d.%d/32", 18+i/62500, i/250, i%250), FromPeer)
		if i%5 == 0 {
			e.Ban.Prefix = netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, byte(i >> 8), byte(i)}), 64)
		}
		r.enter(e)
	}
	v4, v6 := r.disk.Count()
	if v4+v6 != 2000 || len(r.kernel) != 2000 || len(r.outbox.refused) != 500 || r.outbox.refused[0] != merge.Full {
		t.Errorf("%d in the ledger, %d in the kernel, %d refused", v4+v6, len(r.kernel), len(r.outbox.refused))
	}
	if r.Tick(r.now); r.outbox.resyncs != 1 {
		t.Errorf("%d resyncs", r.outbox.resyncs)
	}
}

func TestAPeersBanIsANewBan(t *testing.T) {
	r := newRig(t)
	e := r.entry("203.0.113.7/32", FromPeer)
	e.Ban.Rule = "a rule of theirs"
	r.enter(e)
	longer := e
	longer.Ban.Until = r.now.Add(2 * time.Hour)
	r.enter(longer)
	recent := r.Recent()
	if made, _ := r.Counts(); made != 1 || len(recent) != 1 || recent[0].Node != "b-1" || fmt.Sprint(r.counts.banned) != "map[fleet:1]" {
		t.Errorf("%d made, recent %+v, counted %v", made, recent, r.counts.banned)
	}
	if b, _ := r.disk.Get(e.Ban.Prefix); !b.Until.Equal(longer.Ban.Until) {
		t.Errorf("it ends at %v", b.Until)
	}
	s := statementOf(&e.Ban)
	s.Prefix, s.Stamp, s.Node = netip.MustParsePrefix("203.0.113.8/32"), r.outbox.Stamp(), "b-1"
	r.TakeBan(&s, true, r.now)
	if made, _ := r.Counts(); made != 1 || !r.inForce(s.Prefix) {
		t.Errorf("%d made: a resync makes no new bans", made)
	}
}

// An entry of the kernel that comes back after its ban was withdrawn is removed, however it comes back: on a running host, after a
// restart, after days, or because the kernel refused the withdrawal.
func TestAWithdrawnBanDoesNotComeBackFromTheKernel(t *testing.T) {
	prefix := netip.MustParsePrefix("203.0.113.7/32")
	for name, withdraw := range map[string]func(*rig, ledger.Ban){
		"by an operator":         func(r *rig, b ledger.Ban) { r.Unban(b, Order{By: "root"}) },
		"by an operator, here":   func(r *rig, b ledger.Ban) { r.Unban(b, Order{By: "root", Local: true}) },
		"by an outage":           func(r *rig, b ledger.Ban) { r.LiftForOutage(b) },
		"by an operator, fleet":  func(r *rig, b ledger.Ban) { r.peerUnbans(b) },
		"by one without a fleet": func(r *rig, b ledger.Ban) { r.outbox = nil; r.Book.outbox = nil; r.Unban(b, Order{By: "root"}) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			if err := r.Ban(r.entry(prefix.String(), ByRule)); err != nil {
				t.Fatal(err)
			}
			b, _ := r.disk.Get(prefix)
			withdraw(r, b)
			if r.inForce(prefix) {
				t.Fatal("still in force")
			}
			for _, when := range []string{"at once", "after a restart"} {
				r.enter(r.entry(prefix.String(), InKernel))
				if r.inForce(prefix) || r.counts.removed[Withdrawn] != 1 {
					t.Errorf("%s: removed %v", when, r.counts.removed)
				}
				r.restart()
			}
			// A later ban is in force, and its entry is its own.
			if err := r.Ban(r.entry(prefix.String(), ByRule)); err != nil || !r.inForce(prefix) {
				t.Errorf("a later ban: %v", err)
			}
		})
	}
}

func (r *rig) peerUnbans(b ledger.Ban) {
	r.TakeUnban(&merge.Statement{Kind: merge.Unban, Prefix: b.Prefix, Stamp: r.outbox.Stamp() + 1, Node: "b-1", Until: b.Until}, false, r.now)
}

// A saved set brings back an entry with the time that it had when it was saved: later than its ban's end.
// The record of a withdrawal's unban was damaged, or not written before a crash, and that of its tombstone was: the ban does not
// come back. One that was made after the withdrawal stays, also if the clock was set back between the two.
func TestAWithdrawnBanDoesNotComeBackFromTheDisk(t *testing.T) {
	for _, node := range []string{"", "a-1"} {
		for name, c := range map[string]struct {
			again bool
			since time.Duration // of the second ban, after the withdrawal
		}{"withdrawn": {}, "banned again": {true, time.Minute}, "after the clock was set back": {true, -2 * time.Hour}} {
			r := newRig(t)
			if node == "" {
				r.node, r.Book.outbox = "", nil
			}
			e := r.entry("203.0.113.7/32", ByRule)
			e.Ban.Since, e.Ban.Until = r.now.Add(-time.Hour), r.now.Add(24*time.Hour)
			if err := r.Ban(e); err != nil {
				t.Fatal(err)
			}
			b, _ := r.disk.Get(e.Ban.Prefix)
			r.Unban(b, Order{By: "root"})
			if c.again {
				e.Ban.Since = time.Now().Add(c.since)
				if err := r.Ban(e); err != nil {
					t.Fatal(err)
				}
			} else {
				r.disk.Add(b)
			}
			r.RestoreBans()
			if got := r.inForce(e.Ban.Prefix); got != c.again {
				t.Errorf("node %q, %s: in force %v", node, name, got)
			}
		}
	}
}

func TestAnOperatorsWithdrawalOutlivesTheBan(t *testing.T) {
	r := newRig(t)
	prefix := netip.MustParsePrefix("203.0.113.7/32")
	if err := r.Ban(r.entry(prefix.String(), ByRule)); err != nil {
		t.Fatal(err)
	}
	b, _ := r.disk.Get(prefix)
	r.Unban(b, Order{By: "root"})
	r.now = r.now.Add(7 * 24 * time.Hour)
	r.Tick(r.now)
	r.restart()
	e := r.entry(prefix.String(), InKernel)
	e.Ban.Until = time.Time{}
	r.enter(e)
	if r.inForce(prefix) || r.counts.removed[Withdrawn] != 1 {
		t.Errorf("a week later: removed %v", r.counts.removed)
	}
}

// An allowance that was made while fsban was down on its file counts at the next start, before the kernel's entries are looked at.
func TestAnAllowanceOnDiskHoldsBeforeEntriesAreAdopted(t *testing.T) {
	r := newRig(t)
	prefix := netip.MustParsePrefix("203.0.113.7/32")
	if err := r.disk.Keep(ledger.Allowed, prefix, Allowance{Prefix: prefix, By: "root", Since: r.now}); err != nil {
		t.Fatal(err)
	}
	r.restart()
	r.enter(r.entry(prefix.String(), InKernel))
	if r.inForce(prefix) || r.counts.removed[Never] != 1 {
		t.Errorf("removed %v", r.counts.removed)
	}
}

// An adopted ban ends when its address enters the never-ban list.
func TestANeverBanListThatChangesEndsAdoptedBans(t *testing.T) {
	r := newRig(t)
	e := r.entry("203.0.113.7/32", InKernel)
	r.enter(e)
	if !r.inForce(e.Ban.Prefix) || r.counts.adopted != 1 {
		t.Fatal("not adopted")
	}
	r.SetConfigured(policy.NeverEntries("own address", e.Ban.Prefix))
	if r.inForce(e.Ban.Prefix) || r.counts.unbanned[NeverBan] != 1 {
		t.Errorf("unbanned %v", r.counts.unbanned)
	}
}

// Entries are taken some at a time, each once, however often they are found.
func TestFoundEntriesAreTakenInParts(t *testing.T) {
	r := newRig(t)
	r.limits.MaxBans = 10_000
	var entries []firewall.Entry
	for i := range 2*takeAtOnce + 10 {
		entries = append(entries, firewall.Entry{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), 32), Left: firewall.Forever})
	}
	r.Found(entries)
	r.Found(entries)
	parts := 0
	for len(r.Ready()) > 0 {
		<-r.Ready()
		r.TakeKernel(r.now)
		parts++
	}
	if v4, _ := r.disk.Count(); v4 != len(entries) || parts != 3 || r.counts.adopted != len(entries) {
		t.Errorf("%d adopted in %d parts", r.counts.adopted, parts)
	}
}

func TestAnEndThatChangedInTheKernelHolds(t *testing.T) {
	r := newRig(t)
	e := r.entry("203.0.113.7/32", ByRule)
	if err := r.Ban(e); err != nil {
		t.Fatal(err)
	}
	newer := r.entry("203.0.113.9/32", ByRule)
	if err := r.Ban(newer); err != nil {
		t.Fatal(err)
	}
	r.Amended([]firewall.Entry{
		{Prefix: e.Ban.Prefix, Left: 5 * time.Hour, Expected: e.Ban.Until}, {Prefix: netip.MustParsePrefix("203.0.113.8/32"), Left: time.Hour},
		{Prefix: newer.Ban.Prefix, Left: 5 * time.Hour, Expected: newer.Ban.Until},
	})
	newer.Ban.Until = time.Time{} // banned anew before the loop gets to it
	if err := r.Ban(newer); err != nil {
		t.Fatal(err)
	}
	<-r.Ready()
	r.TakeKernel(r.now)
	if b, _ := r.disk.Get(newer.Ban.Prefix); !b.Until.IsZero() {
		t.Errorf("a newer ban is overwritten: %+v", b)
	}
	if b, _ := r.disk.Get(e.Ban.Prefix); time.Until(b.Until) < 4*time.Hour || b.Rule != "auth" {
		t.Errorf("%+v", b)
	}
	if v4, _ := r.disk.Count(); v4 != 2 {
		t.Errorf("%d bans", v4)
	}
}

// Redis gives a statement with a fast clock an earlier stamp. Another node's later statement then takes precedence.
func TestTheStampThatRedisChoseHolds(t *testing.T) {
	const second = 1_000_000
	prefix := netip.MustParsePrefix("203.0.113.66/32")
	for said, opposite := range map[merge.Kind]merge.Kind{merge.Ban: merge.Unban, merge.Allow: merge.Disallow, merge.Disallow: merge.Allow} {
		r := newRig(t)
		switch said {
		case merge.Ban:
			if err := r.Ban(r.entry(prefix.String(), ByOperator)); err != nil {
				t.Fatal(err)
			}
		case merge.Disallow:
			r.allow(prefix.String())
			r.Disallow(prefix, Order{By: "root"})
		default:
			r.allow(prefix.String())
		}
		own := r.outbox.announced[len(r.outbox.announced)-1]
		echo, later := own, own
		echo.Proposed, echo.Stamp = own.Stamp, own.Stamp-20*second
		later.Kind, later.Stamp, later.Node = opposite, own.Stamp-10*second, "b-1"
		for _, s := range []merge.Statement{echo, later} {
			switch s.Kind {
			case merge.Ban:
				r.TakeBan(&s, false, r.now)
			case merge.Unban:
				r.TakeUnban(&s, false, r.now)
			case merge.Allow:
				r.TakeAllow(&s, false, r.now)
			default:
				r.TakeDisallow(&s, false, r.now)
			}
		}
		_, allowed := r.allowances[prefix]
		if banned := r.inForce(prefix); banned || allowed != (opposite == merge.Allow) {
			t.Errorf("%v: in the end banned %v, allowed %v", said, banned, allowed)
		}
	}
}

// Behind a translator a prefix that looks narrow is everybody, and one that looks wide is one attacker.
func TestTranslatedPrefixesPassOrFailByTheIPv4AddressesInThem(t *testing.T) {
	for _, origin := range origins {
		for prefix, want := range map[string]bool{
			"64:ff9b::/96": false, "64:ff9b::/64": false, "64:ff9b:1:7::/64": false,
			"64:ff9b::cb00:7110/128": true, "64:ff9b:1::cb00:7110/128": true, "2002:cb00:7110::/48": true, "2001:db8:1:2::/64": true,
		} {
			r := newRig(t)
			r.enter(r.entry(prefix, origin))
			if got := r.inForce(netip.MustParsePrefix(prefix)); got != want {
				t.Errorf("%s from %v: in force %v, want %v", prefix, origin, got, want)
			}
		}
	}
	r := newRig(t)
	for prefix, want := range map[string]bool{"64:ff9b::/96": false, "64:ff9b::cb00:7110/128": true} {
		if err := r.Allow(Allowance{Prefix: netip.MustParsePrefix(prefix), By: "anna", Since: r.now}, false); (err == nil) != want {
			t.Errorf("allow %s: %v", prefix, err)
		}
	}
}

func TestWiderBansOfAnAddressAreFound(t *testing.T) {
	r := newRig(t)
	for _, p := range []string{"198.51.0.0/16", "198.51.100.0/24", "198.51.100.7/32", "198.52.0.0/16", "2001:db8::/32", "2001:db8::7/128"} {
		if err := r.Ban(Entry{Ban: ledger.Ban{Prefix: netip.MustParsePrefix(p), Since: r.now, Rule: RuleOperator}, Origin: ByOperator, Force: true}); err != nil {
			t.Fatal(err)
		}
	}
	for p, want := range map[string]string{"198.51.100.7/32": "[198.51.0.0/16 198.51.100.0/24]", "198.51.100.0/24": "[198.51.0.0/16]", "198.51.0.0/16": "[]", "2001:db8::7/128": "[2001:db8::/32]"} {
		if got := fmt.Sprint(r.Wider(netip.MustParsePrefix(p))); got != want {
			t.Errorf("wider than %s: %s, want %s", p, got, want)
		}
	}
}

func TestAnAllowanceThatExpiredWhileStoppedLeavesTheDisk(t *testing.T) {
	r := newRig(t)
	p := netip.MustParsePrefix("203.0.113.5/32")
	if err := r.Allow(Allowance{Prefix: p, By: "anna", Since: r.now, Until: r.now.Add(time.Hour)}, false); err != nil {
		t.Fatal(err)
	}
	r.now = r.now.Add(2 * time.Hour)
	r.restart()
	if err := r.disk.Flush(); err != nil {
		t.Fatal(err)
	}
	if n := r.disk.Shelved(ledger.Allowed); n != 0 {
		t.Errorf("%d allowances on disk", n)
	}
}
