// Package neverban knows who must never be banned, and why, as of now: this host itself, its administrators, its carriers,
// and whoever the operator has named.
//
// A Watcher asks several sources and tells when the list changes. It takes no privilege. What a source cannot say any more
// stays as it was last known, and becomes a problem: a name server that is down must not expose a carrier. Nobody gets onto
// the list by sending packets: each source is something that only this host, its operator or a name server of theirs says,
// and of connections to sshd only those count that have logged in.
package neverban

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// An Entry is a prefix that must never be banned.
type Entry struct {
	Prefix netip.Prefix // masked, never IPv4-mapped
	Origin string       // why, for people: "own address eth0", "gateway carrier1 (sip.carrier.example)"
}

// Options say where a Watcher looks. The zero value looks at this host's own addresses and at the peers of its sshd.
type Options struct {
	Prefixes []Entry  // the operator's, passed on as they are
	Hosts    []string // host names of ignoreip

	// File is a list that is read again when it changes; empty: none. ParseFile returns what a content says: prefixes, and
	// host names to resolve. How many there may be is for it to say.
	File      string
	ParseFile func(data []byte) ([]netip.Prefix, []string, error)

	// API runs an api command of FreeSWITCH; it returns when ctx ends. Nil: neither gateways nor access lists are known.
	API        func(ctx context.Context, name, arguments string) ([]byte, error)
	NoGateways bool     // leave FreeSWITCH's gateways out
	NoOwn      bool     // leave this host's own addresses out
	ACLs       []string // the access lists of FreeSWITCH whose allowed prefixes are never banned

	SSHPorts []uint16      // where sshd, and nothing else, listens; nil: 22; empty: ssh's peers are left out
	SSHLogin time.Duration // 150s: a connection that sshd has kept for so long has logged in: above LoginGraceTime; negative: never
	Proc     string        // /proc/net
	Utmp     string        // /run/utmp
	Sessions string        // /run/systemd/sessions

	Resolver Resolver // net.DefaultResolver

	// Changed is called in the goroutine of Run: once as soon as the sources on this host have been read, then whenever the
	// list or the problems differ. It must return soon, and change neither slice.
	Changed func(entries []Entry, problems []string)
}

func (o Options) withDefaults() Options {
	for _, s := range []struct {
		value *string
		or    string
	}{{&o.Proc, "/proc/net"}, {&o.Utmp, "/run/utmp"}, {&o.Sessions, "/run/systemd/sessions"}} {
		if *s.value == "" {
			*s.value = s.or
		}
	}
	if o.SSHPorts == nil {
		o.SSHPorts = []uint16{22}
	}
	if o.SSHLogin == 0 {
		o.SSHLogin = 150 * time.Second
	}
	if o.Resolver == nil {
		o.Resolver = net.DefaultResolver
	}
	if o.Changed == nil {
		o.Changed = func([]Entry, []string) {}
	}
	return o
}

// A source is one place that entries come from.
type source int

const (
	static source = iota
	peer
	own
	ssh
	file
	hosts
	gateways
	acls
	sources // how many there are
)

const (
	refreshEvery = 5 * time.Minute  // names, gateways, access lists
	retryEvery   = time.Minute      // the same, when something could not be said
	refreshGap   = 5 * time.Second  // never sooner than that after the last time, however often Refresh is called
	lookEvery    = 5 * time.Second  // who is logged in over ssh, the file
	addressEvery = 30 * time.Second // own addresses, which the kernel tells of by itself
	maxProblems  = 50               // of one source
)

// A report is what a source says. It replaces what the source has said before.
type report struct {
	entries  []Entry
	problems []string
}

// A Watcher keeps the list. Run does the work; the other methods may be called from any goroutine at any time.
type Watcher struct {
	opts  Options
	names *names

	subscribe func() (subscription, error) // replaced by tests

	dirty   chan struct{}          // holds a token when a report differs from what was published
	refresh [sources]chan struct{} // each holds a token when its source is to be asked again
	updates chan update

	mu        sync.Mutex
	reports   [sources]report
	named     []string // the host names in File
	entries   []Entry  // as published
	problems  []string
	published bool
}

// New returns a Watcher. It starts nothing.
func New(opts Options) *Watcher {
	w := &Watcher{opts: opts.withDefaults(), subscribe: subscribe, dirty: make(chan struct{}, 1), updates: make(chan update)}
	w.names = newNames(w.opts.Resolver)
	for s := range w.refresh {
		w.refresh[s] = make(chan struct{}, 1)
	}
	return w
}

// Status returns the list and the problems as last published, sorted, as copies.
func (w *Watcher) Status() (entries []Entry, problems []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.entries), slices.Clone(w.problems)
}

// SetPeer says who is at the other end of the event socket. The zero Addr is nobody.
func (w *Watcher) SetPeer(addr netip.Addr) {
	var r report
	if addr.IsValid() {
		r.entries = []Entry{single(addr, "event socket")}
	}
	w.put(peer, r)
}

// Refresh has FreeSWITCH and the name servers asked now: the event socket has come up, or a gateway has changed.
func (w *Watcher) Refresh() {
	for _, s := range []source{gateways, acls, hosts} {
		token(w.refresh[s])
	}
}

// Local returns what can be said at once, before Run: the operator's prefixes and this host's own addresses.
func (w *Watcher) Local() []Entry {
	entries := slices.Clone(w.opts.Prefixes)
	if !w.opts.NoOwn {
		own, err := addresses()
		if err != nil { // Run says so
			return normal(entries)
		}
		entries = append(entries, own...)
	}
	return normal(entries)
}

// watches are what looks at the sources, and remembers what they last said.
type watches struct {
	own      *addressWatch
	ssh      *sshWatch
	file     *fileWatch
	hosts    *hostWatch
	gateways *gatewayWatch
	acls     *aclWatch
}

// An update is what Set asks for.
type update struct {
	opts Options
	done chan struct{}
}

// Set has Run look where opts say from now on. Changed, API, ParseFile and whatever says where things are on this host stay,
// unless opts have them. What a source has said so far stays in force until it says something else; one that is not asked any
// more says nothing. Set returns once the list has been told that comes of it and of what can be said at once, or when ctx
// ends.
func (w *Watcher) Set(ctx context.Context, opts Options) error {
	u := update{opts, make(chan struct{})}
	select {
	case w.updates <- u:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-u.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Run watches until ctx ends. It returns ctx's error, after every goroutine that it started.
func (w *Watcher) Run(ctx context.Context) error {
	all := &watches{
		&addressWatch{Watcher: w}, newSSHWatch(w), &fileWatch{Watcher: w}, newHostWatch(w), newGatewayWatch(w), &aclWatch{Watcher: w},
	}
	var u update
	for {
		w.look(all)
		w.publish()
		if u.done != nil {
			close(u.done)
		}
		var err error
		if u, err = w.watch(ctx, all); err != nil {
			return err
		}
		w.take(&u.opts, all)
	}
}

// look asks the sources on this host, and has those say nothing that are not asked.
func (w *Watcher) look(all *watches) {
	w.put(static, report{entries: w.opts.Prefixes})
	for _, s := range []struct {
		source source
		asked  bool
		look   func() // nil: it may take its time
	}{
		{own, !w.opts.NoOwn, all.own.look},
		{ssh, len(w.opts.SSHPorts) > 0, all.ssh.look},
		{file, w.opts.File != "", all.file.look},
		{hosts, w.asksHosts(), nil},
		{gateways, w.asksGateways(), nil},
		{acls, len(w.opts.ACLs) > 0, nil},
	} {
		switch {
		case !s.asked:
			w.put(s.source, report{})
		case s.look != nil:
			s.look()
		}
	}
}

func (w *Watcher) asksHosts() bool { return len(w.opts.Hosts) > 0 || w.opts.File != "" }

func (w *Watcher) asksGateways() bool { return w.opts.API != nil && !w.opts.NoGateways }

// watch watches until Set says otherwise, or until ctx ends.
func (w *Watcher) watch(ctx context.Context, all *watches) (update, error) {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if !w.opts.NoOwn {
		wg.Go(func() { all.own.run(ctx) })
	}
	if len(w.opts.SSHPorts) > 0 {
		wg.Go(func() { tick(ctx, lookEvery, all.ssh.look) })
	}
	if w.opts.File != "" {
		wg.Go(func() { tick(ctx, lookEvery, all.file.look) })
	}
	if w.asksHosts() {
		wg.Go(func() { w.every(ctx, hosts, all.hosts.look) })
	}
	if w.asksGateways() {
		wg.Go(func() { w.every(ctx, gateways, all.gateways.look) })
	}
	if len(w.opts.ACLs) > 0 {
		wg.Go(func() { w.every(ctx, acls, all.acls.look) })
	}
	for {
		select {
		case <-ctx.Done():
			return update{}, ctx.Err()
		case <-w.dirty:
			w.publish()
		case u := <-w.updates:
			return u, nil
		}
	}
}

// take puts other options into force, while nobody looks.
func (w *Watcher) take(opts *Options, all *watches) {
	was := w.opts
	for _, s := range []struct{ to, or *string }{{&opts.Proc, &was.Proc}, {&opts.Utmp, &was.Utmp}, {&opts.Sessions, &was.Sessions}} {
		*s.to = cmp.Or(*s.to, *s.or)
	}
	if opts.API == nil {
		opts.API = was.API
	}
	if opts.ParseFile == nil {
		opts.ParseFile = was.ParseFile
	}
	if opts.Changed == nil {
		opts.Changed = was.Changed
	}
	opts.SSHLogin, opts.Resolver = was.SSHLogin, was.Resolver // theirs from the beginning
	w.opts = opts.withDefaults()
	if was.File != w.opts.File {
		all.file.seen, all.file.known = identity{}, nil
		w.mu.Lock()
		w.named = nil
		w.mu.Unlock()
	}
}

// put replaces what s says.
func (w *Watcher) put(s source, r report) {
	r.entries = normal(r.entries)
	if n := len(r.problems); n > maxProblems {
		r.problems = append(slices.Clone(r.problems[:maxProblems]), fmt.Sprintf("%d more problems of this kind", n-maxProblems))
	}
	w.mu.Lock()
	was := w.reports[s]
	w.reports[s] = r
	w.mu.Unlock()
	if !slices.Equal(was.entries, r.entries) || !slices.Equal(was.problems, r.problems) {
		token(w.dirty)
	}
}

// publish puts the reports together, and tells when the result is new.
func (w *Watcher) publish() {
	w.mu.Lock()
	var entries []Entry
	var problems []string
	for _, r := range w.reports {
		entries = append(entries, r.entries...)
		problems = append(problems, r.problems...)
	}
	slices.SortFunc(entries, compare)
	entries = slices.Compact(entries)
	same := w.published && slices.Equal(entries, w.entries) && slices.Equal(problems, w.problems)
	w.entries, w.problems, w.published = entries, problems, true
	w.mu.Unlock()
	if !same {
		w.opts.Changed(entries, problems)
	}
}

// every calls look now, every refreshEvery, sooner when it says that something is missing, and when s is to be refreshed.
func (w *Watcher) every(ctx context.Context, s source, look func(context.Context) (complete bool)) {
	for {
		wait := retryEvery
		if look(ctx) {
			wait = refreshEvery
		}
		if !sleep(ctx, refreshGap, nil) || !sleep(ctx, wait-refreshGap, w.refresh[s]) {
			return
		}
	}
}

// tick calls look every d until ctx ends.
func tick(ctx context.Context, d time.Duration, look func()) {
	for sleep(ctx, d, nil) {
		look()
	}
}

// sleep waits for d, or for early. It is false when ctx has ended.
func sleep(ctx context.Context, d time.Duration, early <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-early:
	case <-timer.C:
	}
	return true
}

// token leaves a token in c, unless one is there.
func token(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// single is the entry of one address. Whatever named it, it is never wider than that.
func single(addr netip.Addr, origin string) Entry {
	addr = addr.Unmap().WithZone("")
	return Entry{netip.PrefixFrom(addr, addr.BitLen()), origin}
}

// normal returns entries in plain form, without those that are nothing, sorted, and each once.
func normal(entries []Entry) []Entry {
	list := make([]Entry, 0, len(entries))
	for _, e := range entries {
		if e.Prefix = plain(e.Prefix); e.Prefix.IsValid() {
			list = append(list, e)
		}
	}
	slices.SortFunc(list, compare)
	return slices.Compact(list)
}

// plain returns p masked, and not IPv4-mapped.
func plain(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked()
}

func compare(a, b Entry) int {
	if c := a.Prefix.Compare(b.Prefix); c != 0 {
		return c
	}
	return strings.Compare(a.Origin, b.Origin)
}
