package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"fsban/config"
	"fsban/control"
	"fsban/detect"
	"fsban/policy"
	"fsban/sipwire"
	"fsban/sipwire/hep"
)

// quietTime is how long a HEP tap counts as alive after a SIP message.
const quietTime = 2 * time.Minute

// A tap turns SIP messages, as they cross the wire, into attempts, and joins failed logins that the event socket reports with their
// requests. One detect.SIP reads the messages of all readers, so that a message that two of them see counts once.
type tap struct {
	parts  sourceOptions
	wake   chan struct{} // a failed login waits
	seen   atomic.Bool   // a SIP message
	kernel *kernelTap    // nil: sip.tap is hep

	capture *capture
	hep     atomic.Pointer[hep.Listener] // nil: not listening
	problem atomic.Pointer[string]       // why it does not listen
	logged  string                       // the last problem; the listener's goroutine's own

	mu    sync.Mutex // guards the following; held for microseconds
	sip   *detect.SIP
	join  *detect.Join
	ended bool      // nothing waits any more
	past  hep.Stats // of earlier listeners
}

// newTap returns the tap of a configuration; nil: none.
func newTap(o sourceOptions) *tap {
	if o.config().SIP.Tap == config.TapOff {
		return nil
	}
	t := &tap{parts: o, wake: make(chan struct{}, 1), sip: detect.NewSIP(), join: detect.NewJoin()}
	if o.config().SIP.Tap != config.TapHEP {
		t.kernel = newKernelTap(&o, t)
	}
	t.sip.SetScanners(detect.Scanners(o.config().Policy.Rules())...)
	return t
}

// know notes a login that the event socket reported: requests of its address are no scan.
func (t *tap) know(a *policy.Attempt, now time.Time) {
	if t == nil || a.Kind != policy.AuthSuccess {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sip.Know(a.Addr, now)
}

// run reads SIP messages until ctx ends. Then it lets the failed logins that wait go.
func (t *tap) run(ctx context.Context) error {
	if t == nil {
		<-ctx.Done()
		return ctx.Err()
	}
	group, ctx := errgroup.WithContext(ctx)
	if t.kernel != nil {
		group.Go(func() error { return t.kernel.run(ctx) })
	}
	group.Go(func() error { return t.serveHEP(ctx) })
	group.Go(func() error { return t.serveWaiting(ctx) })
	group.Go(func() error { return t.capture.run(ctx) })
	return group.Wait()
}

// take takes in a SIP message. It runs in a reader's goroutine: detect, offer, never wait.
func (t *tap) take(p *sipwire.Packet) {
	now := time.Now()
	if first := !t.seen.Swap(true); first || !t.parts.loop.Alive(policy.SIP) {
		t.setAlive(true)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	a, outcome := t.sip.Packet(p, now)
	if l, ok := t.sip.Login(); ok {
		t.offerJoined(t.join.Saw(l, now), now)
	}
	t.parts.metrics.tap.messages[outcome].Inc()
	if outcome == detect.Attempt || outcome == detect.ClockAdrift {
		t.parts.metrics.attempts[a.Source][a.Kind].Inc()
		t.parts.loop.Reported(a.Source, now)
		t.parts.loop.Offer(a, now)
	}
}

// ready reports whether a failed login that the event socket reported can be decided on, and gives it its proof. If not, the tap
// offers it to the decision loop itself, within detect.JoinTime.
func (t *tap) ready(a *policy.Attempt, id detect.LoginID, read time.Time) bool {
	if t == nil || !t.parts.loop.Alive(policy.SIP) {
		return true
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return true
	}
	if t.join.Attempt(a, id, read) {
		t.parts.metrics.tap.joined.Observe(0)
		return true
	}
	select {
	case t.wake <- struct{}{}:
	default:
	}
	return false
}

// offerJoined offers failed logins that wait no more.
func (t *tap) offerJoined(joined []detect.Joined, now time.Time) {
	for i := range joined {
		t.parts.metrics.tap.joined.Observe(now.Sub(joined[i].Read).Seconds())
		t.parts.loop.Offer(joined[i].Attempt, joined[i].Read)
	}
}

// serveWaiting ends each wait when it is due, until ctx ends, and then all of them.
func (t *tap) serveWaiting(ctx context.Context) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			t.mu.Lock()
			defer t.mu.Unlock()
			t.ended = true
			now := time.Now()
			t.offerJoined(t.join.Due(now.Add(detect.JoinTime)), now)
			return ctx.Err()
		case <-t.wake:
		case <-timer.C:
		}
		t.mu.Lock()
		now := time.Now()
		t.offerJoined(t.join.Due(now), now)
		next, waits := t.join.Next()
		t.mu.Unlock()
		if waits {
			timer.Reset(next.Sub(now))
		}
	}
}

// retryListen is the pause between two attempts to listen, checkAlive that between two looks at the last message.
const retryListen, checkAlive = 10 * time.Second, time.Second

// awaitHEP waits until HEP is to be listened for: with sip.tap auto, until SIP cannot be received from the kernel or sip.hep.enable is set.
func (t *tap) awaitHEP(ctx context.Context) error {
	ticker := time.NewTicker(checkAlive)
	defer ticker.Stop()
	for t.mode() == config.TapAuto && !t.parts.config().SIP.HEP.Enable && !t.kernel.failed() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
	return nil
}

func (t *tap) mode() string { return t.parts.config().SIP.Tap }

// serveHEP listens for HEP until ctx ends, if sip.tap wants it. That it cannot is an open problem, and it tries again.
func (t *tap) serveHEP(ctx context.Context) error {
	if t.mode() == config.TapNFLOG {
		return nil
	}
	if err := t.awaitHEP(ctx); err != nil {
		return err
	}
	for {
		err := t.listen(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		text := fmt.Sprintf("no SIP messages can be received: %v. Stop the program that has this address, or choose another one "+
			"(sip.hep.listen), or switch the tap off (sip.tap: off)", err)
		if t.problem.Store(&text); text != t.logged {
			t.logged = text
			t.parts.log.Error("not listening for HEP: trying again", "error", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(retryListen):
		}
	}
}

// listen listens for HEP until ctx ends, or it fails.
func (t *tap) listen(ctx context.Context) error {
	cfg := &t.parts.config().SIP.HEP
	addr, err := netip.ParseAddrPort(cfg.Listen)
	if err != nil {
		return err
	}
	l, err := hep.Listen(addr, hepOptions(cfg))
	if err != nil {
		return err
	}
	t.hep.Store(l)
	t.problem.Store(nil)
	t.logged = ""
	t.parts.log.Info("listening for HEP", "address", l.Addr())
	t.capture.wake()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return l.Run(ctx, t.takeHEP) })
	group.Go(func() error { return t.watchAlive(ctx, l) })
	err = group.Wait()
	t.mu.Lock()
	stats := l.Stats()
	t.past.Add(&stats)
	t.hep.Store(nil)
	t.mu.Unlock()
	t.setAlive(t.kernel.up())
	return err
}

// takeHEP takes in a SIP message that was mirrored, unless the kernel copies it, too: mod_sofia leaves out addresses of IPv6, so that the
// two are not recognised as one message.
func (t *tap) takeHEP(p *sipwire.Packet) {
	if p.From.Addr().IsUnspecified() && t.kernel.covers(p) {
		return
	}
	t.take(p)
}

func hepOptions(cfg *config.HEP) hep.Options {
	return hep.Options{From: cfg.Senders(), Forward: cfg.Collector()}
}

// connected runs in the event socket's goroutine: FreeSWITCH may have restarted.
func (t *tap) connected() {
	if t != nil {
		t.capture.wake()
	}
}

// configure takes over the settings that a reload changes.
func (t *tap) configure(cfg *config.Config) {
	if t == nil {
		return
	}
	if l := t.hep.Load(); l != nil {
		l.Set(hepOptions(&cfg.SIP.HEP))
	}
	t.mu.Lock()
	t.sip.SetScanners(detect.Scanners(cfg.Policy.Rules())...)
	t.mu.Unlock()
	t.capture.wake()
	t.kernel.configure()
}

// watchAlive notices that messages have stopped coming.
func (t *tap) watchAlive(ctx context.Context, l *hep.Listener) error {
	ticker := time.NewTicker(checkAlive)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case now := <-ticker.C:
			if t.parts.loop.Alive(policy.SIP) && now.Sub(l.Stats().Last) > quietTime && !t.kernel.up() {
				t.setAlive(false)
			}
		}
	}
}

func (t *tap) setAlive(alive bool) {
	t.parts.loop.SetAlive(policy.SIP, alive)
	t.parts.changed()
}

// reads reports whether the tap is alive and has read a SIP message: rules of the kernel alone do not show that FreeSWITCH is behind them.
func (t *tap) reads() bool {
	return t != nil && t.seen.Load() && t.parts.loop.Alive(policy.SIP)
}

// status completes the state of the tap.
func (t *tap) status(st *control.Source) {
	if t == nil {
		return
	}
	l := t.hep.Load()
	if t.kernel != nil {
		s := t.kernel.stats()
		st.Address, st.Messages, st.Lost, st.LastEvent, st.Error = t.kernel.address(), s.Packets, s.Lost, s.Last, t.kernel.problem()
		if l == nil && t.problem.Load() == nil {
			return
		}
		st.Address += ", "
	}
	st.Address += "hep " + t.parts.config().SIP.HEP.Listen
	if l == nil {
		if problem := t.problem.Load(); problem != nil {
			st.Error = strings.TrimPrefix(st.Error+"; "+*problem, "; ")
		}
		return
	}
	s := l.Stats()
	st.Messages, st.Lost = st.Messages+s.Datagrams, st.Lost+s.Lost
	if s.Last.After(st.LastEvent) {
		st.LastEvent = s.Last
	}
	switch {
	case st.Up:
	case s.Last.IsZero():
		st.Waiting = "no SIP message has come yet: switch FreeSWITCH's capture on (sip.hep.enable)"
	default:
		st.Waiting = fmt.Sprintf("no SIP message for %v: perhaps FreeSWITCH's capture is off", quietTime)
	}
}

// problems are the open problems of the tap.
func (t *tap) problems() []string {
	if t == nil {
		return nil
	}
	var list []string
	for _, problem := range []*string{t.problem.Load(), t.capture.problem.Load()} {
		if problem != nil {
			list = append(list, *problem)
		}
	}
	mode, failure := t.mode(), t.kernel.problem()
	switch {
	case t.kernel == nil, mode == config.TapAuto && t.parts.loop.Alive(policy.SIP): // one tap is enough
	case failure != "":
		list = append(list, "SIP is not read from the kernel: "+failure+" (trying again)")
	case mode != config.TapAuto && !t.kernel.enforcing():
		list = append(list, fmt.Sprintf("sip.tap is %s, and an fsban that watches makes no rules, so the kernel copies no SIP: set it to auto "+
			"or hep, or run fsban enforce", mode))
	}
	return list
}

// hepStats are the counts of all listeners for HEP so far.
func (t *tap) hepStats() (s hep.Stats) {
	if t == nil {
		return s
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.hep.Load(); l != nil {
		s = l.Stats()
	}
	s.Add(&t.past)
	return s
}

// joinStats are the counts of the join.
func (t *tap) joinStats() detect.JoinStats {
	if t == nil {
		return detect.JoinStats{}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.join.Stats()
}

// wireStats are the counts of the transactions and nonces.
func (t *tap) wireStats() detect.WireStats {
	if t == nil {
		return detect.WireStats{}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sip.Stats()
}
