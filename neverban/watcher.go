// Package neverban collects the addresses that must never be banned, with the reason of each: this host itself, its administrators,
// its carriers, and addresses named by the operator.
//
// A Watcher reads several sources and reports changes of the list. It needs no privilege. If a source fails, its last known
// entries are kept and a problem is reported: a name server that is down must not expose a carrier. Sending packets cannot add
// an address to the list: each source is controlled by this host, its operator or their name servers, and connections to sshd
// count only after a login.
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
	Origin string       // reason for display: "own address eth0", "gateway carrier1 (sip.carrier.example)"
}

// Origins of FreeSWITCH's own addresses.
const (
	ownOrigin  = "own address"
	peerOrigin = "event socket"
)

// Own reports whether e is an address of FreeSWITCH: of this host, or the peer of the event socket.
func (e Entry) Own() bool { return e.Origin == peerOrigin || strings.HasPrefix(e.Origin, ownOrigin) }

// Options select the sources of a Watcher. The zero value selects this host's own addresses and the peers of its sshd.
type Options struct {
	Prefixes []Entry  // the operator's, passed on unchanged
	Hosts    []string // host names of ignoreip

	// File is a list that is read again when it changes; empty: none. ParseFile returns the prefixes in its content and the
	// host names to resolve, and bounds their number.
	File      string
	ParseFile func(data []byte) ([]netip.Prefix, []string, error)

	// API runs an api command of FreeSWITCH; it returns when ctx ends. Nil: gateways and access lists are not read.
	API        func(ctx context.Context, name, arguments string) ([]byte, error)
	NoGateways bool     // ignore FreeSWITCH's gateways
	NoOwn      bool     // ignore this host's own addresses
	ACLs       []string // access lists of FreeSWITCH whose allowed prefixes are never banned

	SSHPorts []uint16      // ports on which only sshd listens; nil: 22; empty: ssh's peers are ignored
	SSHLogin time.Duration // 150s: without records of logins, a connection that sshd keeps longer proves one; negative: never
	Proc     string        // /proc/net
	Utmp     string        // /run/utmp
	Sessions string        // /run/systemd/sessions

	SSHDConfig string // /etc/ssh/sshd_config

	Resolver Resolver // net.DefaultResolver

	// Changed is called in the goroutine of Run: once as soon as the sources on this host have been read, then whenever the
	// list or the problems differ. It must return soon, and modify neither slice.
	Changed func(entries []Entry, problems []string)
}

func (o Options) withDefaults() Options {
	for _, s := range []struct {
		value *string
		or    string
	}{{&o.Proc, "/proc/net"}, {&o.Utmp, "/run/utmp"}, {&o.Sessions, "/run/systemd/sessions"},
		{&o.SSHDConfig, SSHDConfig}} {
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

// A source is one origin of entries.
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
	sources // number of sources
)

const (
	refreshEvery = 5 * time.Minute  // names, gateways, access lists
	retryEvery   = time.Minute      // the same, if a part failed
	refreshGap   = 5 * time.Second  // minimum interval, however often Refresh is called
	failedGap    = time.Second / 4  // the same after a failure: the first query may come just before the event socket is up
	lookEvery    = 5 * time.Second  // ssh logins, the file
	addressEvery = 30 * time.Second // own addresses, in addition to the kernel's reports
	maxProblems  = 50               // of one source
)

// A report is the current entries and problems of a source. It replaces the one before.
type report struct {
	entries  []Entry
	problems []string
}

// A Watcher keeps the list. Run does the work; the other methods may be called from any goroutine at any time.
type Watcher struct {
	opts  Options
	names *names

	subscribe func() (subscription, error) // replaced by tests

	dirty   chan struct{}          // holds a token if a report differs from the published one
	refresh [sources]chan struct{} // each holds a token if its source is due for a refresh
	updates chan update

	mu        sync.Mutex
	reports   [sources]report
	named     []string // the host names in File
	entries   []Entry  // as published
	problems  []string
	published bool
}

// New returns a Watcher. It starts no goroutine.
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

// SetPeer sets the peer address of the event socket. The zero Addr removes it.
func (w *Watcher) SetPeer(addr netip.Addr) {
	var r report
	if addr.IsValid() {
		r.entries = []Entry{single(addr, peerOrigin)}
	}
	w.put(peer, r)
}

// Refresh queries FreeSWITCH and the name servers now, after the event socket has come up or a gateway has changed.
func (w *Watcher) Refresh() {
	for _, s := range []source{gateways, acls, hosts} {
		token(w.refresh[s])
	}
}

// Local returns the entries known before Run: the prefixes of the operator and the addresses of this host.
func (w *Watcher) Local() []Entry {
	entries := slices.Clone(w.opts.Prefixes)
	if !w.opts.NoOwn {
		own, err := addresses()
		if err != nil { // Run reports it
			return normal(entries)
		}
		entries = append(entries, own...)
	}
	return normal(entries)
}

// watches are the watchers of all sources, each with its last known entries.
type watches struct {
	own      *addressWatch
	ssh      *sshWatch
	file     *fileWatch
	hosts    *hostWatch
	gateways *gatewayWatch
	acls     *aclWatch
}

// An update is a request of Reconfigure.
type update struct {
	opts Options
	done chan struct{}
}

// Reconfigure makes Run apply opts. Changed, API, ParseFile and the paths on this host stay, unless opts sets them. The last
// report of a source stays in force until its next one; the report of a disabled source is removed. Reconfigure returns after
// Changed was called with the results available at once, or when ctx ends.
func (w *Watcher) Reconfigure(ctx context.Context, opts Options) error {
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

// Run watches until ctx ends. It returns ctx's error, after every goroutine that it started has ended.
func (w *Watcher) Run(ctx context.Context) error {
	all := &watches{
		&addressWatch{watcher: w}, newSSHWatch(w), &fileWatch{watcher: w}, newHostWatch(w), newGatewayWatch(w), &aclWatch{watcher: w},
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

// look reads the sources on this host, and clears the reports of disabled ones.
func (w *Watcher) look(all *watches) {
	w.put(static, report{entries: w.opts.Prefixes})
	for _, s := range []struct {
		source source
		asked  bool
		look   func() // nil: the source may be slow
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

// watch watches until Reconfigure is called or ctx ends.
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

// take applies other options, while no source is being read.
func (w *Watcher) take(opts *Options, all *watches) {
	was := w.opts
	for _, s := range []struct{ to, or *string }{{&opts.Proc, &was.Proc}, {&opts.Utmp, &was.Utmp}, {&opts.Sessions, &was.Sessions},
		{&opts.SSHDConfig, &was.SSHDConfig}} {
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

// put replaces the report of s.
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

// publish merges the reports, and calls Changed if the result is new.
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

// every calls look now, every refreshEvery, sooner after an incomplete result, and if a refresh of s is requested.
func (w *Watcher) every(ctx context.Context, s source, look func(context.Context) (complete bool)) {
	for {
		wait, gap := retryEvery, failedGap
		if look(ctx) {
			wait, gap = refreshEvery, refreshGap
		}
		if !sleep(ctx, gap, nil) || !sleep(ctx, wait-gap, w.refresh[s]) {
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

// sleep waits for d, or for early. It returns false if ctx has ended.
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

// token puts a token in c, unless it holds one.
func token(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// single returns the entry of one address: never a wider prefix.
func single(addr netip.Addr, origin string) Entry {
	addr = addr.Unmap().WithZone("")
	return Entry{netip.PrefixFrom(addr, addr.BitLen()), origin}
}

// normal returns valid entries in plain form, sorted, without duplicates.
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
