package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"fsban/config"
	"fsban/firewall"
	"fsban/sipwire"
	"fsban/sipwire/nflog"
)

// tapGroup is the group of NFLOG to which the kernel copies SIP.
const tapGroup = 5060

const (
	retryKernelTap = 10 * time.Second // pause between two attempts to receive from the kernel
	askForPorts    = time.Minute      // pause between two questions to FreeSWITCH about its ports
	portsPatience  = 5 * time.Second  // for FreeSWITCH's answer
)

// vanillaPorts are the ports of FreeSWITCH's own configuration, used until FreeSWITCH has named its ports.
var vanillaPorts = []firewall.Ports{{Proto: "udp", First: 5060, Last: 5060}, {Proto: "tcp", First: 5060, Last: 5060},
	{Proto: "udp", First: 5080, Last: 5080}, {Proto: "tcp", First: 5080, Last: 5080}}

// A kernelTap receives the SIP packets that the firewall's rules copy to NFLOG. Only an fsban that enforces makes rules.
type kernelTap struct {
	config   func() *config.Config
	log      *slog.Logger
	take     func(*sipwire.Packet)
	changed  func() // it is up, or is not any more
	setRules func(context.Context, firewall.Tap) error
	api      func(ctx context.Context, name, arguments string) ([]byte, error)

	enforces <-chan struct{} // closed once fsban enforces
	asks     chan struct{}   // FreeSWITCH may have other ports
	settings chan struct{}   // sip.ports has changed
	rules    atomic.Pointer[firewall.TapStatus]
	failure  atomic.Pointer[string] // why nothing is received
	logged   string                 // the last failure; run's goroutine's own

	mu     sync.Mutex // guards the following
	reader *nflog.Reader
	ports  []firewall.Ports // whose packets are copied
	past   nflog.Stats      // of earlier readers
}

// newKernelTap returns the tap's receiver from the kernel. It starts nothing.
func newKernelTap(o *sourceOptions, t *tap) *kernelTap {
	return &kernelTap{
		config: o.config, log: o.log, take: t.take, setRules: o.setTap, api: o.api, enforces: o.enforces,
		asks: make(chan struct{}, 1), settings: make(chan struct{}, 1),
		changed: func() { t.kernelChanged() },
	}
}

// kernelChanged runs in the enforcer's goroutine or the receiver's.
func (t *tap) kernelChanged() {
	l := t.hep.Load()
	t.setAlive(t.kernel.up() || l != nil && time.Since(l.Stats().Last) < quietTime)
}

// up reports whether SIP is received from the kernel.
func (k *kernelTap) up() bool {
	if k == nil {
		return false
	}
	rules := k.rules.Load()
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.reader != nil && rules != nil && rules.On
}

// enforcing reports whether fsban enforces.
func (k *kernelTap) enforcing() bool {
	select {
	case <-k.enforces:
		return true
	default:
		return false
	}
}

// failed reports whether SIP cannot be received from the kernel at present.
func (k *kernelTap) failed() bool { return !k.enforcing() || k.problem() != "" }

// covers reports whether the kernel copies the packets of a port, so that others need not report them.
func (k *kernelTap) covers(p *sipwire.Packet) bool {
	if !k.up() {
		return false
	}
	proto := "udp"
	switch p.Transport {
	case sipwire.TCP:
		proto = "tcp"
	case sipwire.TLS:
		return false
	case sipwire.UDP:
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.ContainsFunc(k.ports, func(ports firewall.Ports) bool {
		in := func(port uint16) bool { return port >= ports.First && port <= ports.Last }
		return ports.Proto == proto && (in(p.From.Port()) || in(p.To.Port()))
	})
}

// run receives until ctx ends. That it cannot is an open problem, and it tries again.
func (k *kernelTap) run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-k.enforces:
	}
	for {
		err := k.receive(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		text := err.Error()
		if k.failure.Store(&text); text != k.logged {
			k.logged = text
			k.log.Error("SIP is not received from the kernel: trying again", "error", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(retryKernelTap):
		}
	}
}

// receive receives until ctx ends, or it fails. Without a reader the rules are removed.
func (k *kernelTap) receive(ctx context.Context) error {
	r, err := nflog.Open(nflog.Options{Group: tapGroup})
	if err != nil {
		return errors.Join(err, k.setRules(ctx, firewall.Tap{}))
	}
	k.mu.Lock()
	k.reader = r
	k.mu.Unlock()
	k.failure.Store(nil)
	k.logged = ""
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return r.Run(ctx, k.take) })
	group.Go(func() error { return k.followPorts(ctx) })
	err = errors.Join(group.Wait(), r.Close())
	k.mu.Lock()
	stats := r.Stats()
	k.past.Add(&stats)
	k.reader = nil
	k.mu.Unlock()
	k.changed()
	return err
}

// followPorts keeps the rules at FreeSWITCH's ports until ctx ends.
func (k *kernelTap) followPorts(ctx context.Context) error {
	var known []firewall.Ports // that FreeSWITCH has named
	first := true
	for {
		ports := k.config().SIP.TapPorts()
		if len(ports) == 0 {
			if named := k.askPorts(ctx); len(named) > 0 {
				known = named
			}
			if ports = known; len(ports) == 0 {
				ports = vanillaPorts
			}
		}
		k.mu.Lock()
		same := !first && slices.Equal(ports, k.ports)
		k.ports = ports
		k.mu.Unlock()
		if !same {
			if err := k.setRules(ctx, firewall.Tap{Group: tapGroup, Threshold: nflog.Threshold, Ports: ports}); err != nil {
				return err
			}
			k.log.Info("SIP is copied from the kernel", "ports", fmt.Sprint(ports))
		}
		first = false
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-k.asks:
		case <-k.settings:
		case <-time.After(askForPorts):
		}
	}
}

// askPorts asks FreeSWITCH for the ports of its profiles. It returns none if there is no answer, or none that it understands.
func (k *kernelTap) askPorts(ctx context.Context) []firewall.Ports {
	ctx, cancel := context.WithTimeout(ctx, portsPatience)
	defer cancel()
	reply, err := k.api(ctx, "sofia", "xmlstatus")
	if err != nil {
		k.log.Debug("FreeSWITCH does not name its SIP ports", "error", err)
		return nil
	}
	return profilePorts(reply)
}

// A running profile in the answer to sofia xmlstatus. That of a TLS port ends in (TLS): its packets are encrypted.
var runningProfile = regexp.MustCompile(`<type>profile</type>\s*<data>sips?:[^<]*?(?::(\d{1,5}))?</data>\s*` +
	`<state>RUNNING \(\d+\)( \(TLS\))?</state>`)

// profilePorts returns the ports of the running profiles in the answer to sofia xmlstatus, of UDP and TCP, in order. Those beyond
// firewall.MaxTapPorts are left out.
func profilePorts(reply []byte) (ports []firewall.Ports) {
	var numbers []uint16
	for _, m := range runningProfile.FindAllSubmatch(reply, -1) {
		number, err := uint64(5060), error(nil)
		if len(m[1]) > 0 {
			number, err = strconv.ParseUint(string(m[1]), 10, 16)
		}
		if err == nil && number > 0 && len(m[2]) == 0 {
			numbers = append(numbers, uint16(number))
		}
	}
	slices.Sort(numbers)
	for _, n := range slices.Compact(numbers) {
		if len(ports)+2 > firewall.MaxTapPorts {
			break
		}
		ports = append(ports, firewall.Ports{Proto: "udp", First: n, Last: n}, firewall.Ports{Proto: "tcp", First: n, Last: n})
	}
	return ports
}

// onRules runs in the enforcer's goroutine.
func (k *kernelTap) onRules(s firewall.TapStatus) {
	if k == nil {
		return
	}
	before := k.rules.Swap(&s)
	if s.Err != nil && (before == nil || before.Err == nil || before.Err.Error() != s.Err.Error()) {
		k.log.Error("SIP is not copied by the kernel: trying again", "error", s.Err)
	}
	k.changed()
}

// onRules runs in the enforcer's goroutine.
func (t *tap) onRules(s firewall.TapStatus) {
	if t != nil {
		t.kernel.onRules(s)
	}
}

// ask has FreeSWITCH asked for its ports again.
func (t *tap) ask() {
	if t != nil {
		t.kernel.ask()
	}
}

// ask has FreeSWITCH asked for its ports again.
func (k *kernelTap) ask() { nudge(k, func(k *kernelTap) chan struct{} { return k.asks }) }

// configure takes over sip.ports.
func (k *kernelTap) configure() { nudge(k, func(k *kernelTap) chan struct{} { return k.settings }) }

// nudge leaves a value in a channel of capacity one of k, if there is a k.
func nudge(k *kernelTap, of func(*kernelTap) chan struct{}) {
	if k == nil {
		return
	}
	select {
	case of(k) <- struct{}{}:
	default:
	}
}

// problem returns why SIP is not received from the kernel; empty: it is, or will be in a moment.
func (k *kernelTap) problem() string {
	if k == nil {
		return ""
	}
	if failure := k.failure.Load(); failure != nil {
		return *failure
	}
	if rules := k.rules.Load(); rules != nil && rules.Err != nil {
		return rules.Err.Error()
	}
	return ""
}

// stats are the counts of all readers so far.
func (k *kernelTap) stats() (s nflog.Stats) {
	if k == nil {
		return s
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.reader != nil {
		s = k.reader.Stats()
	}
	s.Add(&k.past)
	return s
}

// address describes the source for status.
func (k *kernelTap) address() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	words := make([]string, len(k.ports))
	for i, p := range k.ports {
		words[i] = p.String()
	}
	return strings.TrimSpace("nflog " + strings.Join(words, " "))
}
