package neverban

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mdlayher/netlink"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A rig is a running Watcher with the lists it has published.
type rig struct {
	*Watcher
	mu    sync.Mutex
	told  int
	lines []string
	trial []string // the problems
}

// start runs a Watcher on directories that hold nothing, and without the kernel's word, unless opts say otherwise.
func start(t *testing.T, opts Options) *rig {
	t.Helper()
	r := &rig{}
	empty := t.TempDir()
	for _, path := range []*string{&opts.Proc, &opts.Utmp, &opts.Sessions, &opts.SSHDConfig} {
		if *path == "" {
			*path = empty + "/none"
		}
	}
	if opts.SSHPorts == nil {
		opts.SSHPorts = []uint16{}
	}
	opts.Changed = func(entries []Entry, problems []string) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.told++
		r.lines, r.trial = lines(entries), slices.Clone(problems)
	}
	r.Watcher = New(opts)
	r.subscribe = func() (subscription, error) { return nil, fmt.Errorf("not here") }
	r.run(t)
	return r
}

func (r *rig) run(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err == nil {
			t.Error("Run ended without an error")
		}
	})
}

// last returns the last published list and the number of calls.
func (r *rig) last() (entries, problems []string, told int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lines, r.trial, r.told
}

// want compares the published list, without own addresses.
func (r *rig) want(t *testing.T, want ...string) {
	t.Helper()
	entries, _, _ := r.last()
	got := slices.DeleteFunc(slices.Clone(entries), func(s string) bool { return strings.Contains(s, " own address ") })
	if !slices.Equal(got, want) {
		t.Errorf("entries\n%q, want\n%q", got, want)
	}
}

func (r *rig) wantProblems(t *testing.T, want ...string) {
	t.Helper()
	if _, got, _ := r.last(); !slices.Equal(got, want) {
		t.Errorf("problems\n%q, want\n%q", got, want)
	}
}

func lines(entries []Entry) []string {
	list := []string{}
	for _, e := range entries {
		list = append(list, e.Prefix.String()+" "+e.Origin)
	}
	return list
}

// A zone answers questions about names. A name that it does not have does not exist.
type zone struct {
	mu      sync.Mutex
	hosts   map[string][]string
	srv     map[string][]string // "_sip._udp.name"
	broken  map[string]error
	slow    time.Duration
	asked   map[string]int
	now     int // questions at this moment
	mostNow int
}

func (z *zone) begin(ctx context.Context, question string) error {
	z.mu.Lock()
	if z.asked == nil {
		z.asked = make(map[string]int)
	}
	z.asked[question]++
	z.now++
	z.mostNow = max(z.mostNow, z.now)
	slow, err := z.slow, z.broken[question]
	z.mu.Unlock()
	defer func() { z.mu.Lock(); z.now--; z.mu.Unlock() }()
	if slow > 0 && !sleep(ctx, slow, nil) {
		return &net.DNSError{Err: "i/o timeout", Name: question, IsTimeout: true}
	}
	return err
}

func (z *zone) LookupNetIP(ctx context.Context, _, host string) ([]netip.Addr, error) {
	if err := z.begin(ctx, host); err != nil {
		return nil, err
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	var list []netip.Addr
	for _, a := range z.hosts[host] {
		list = append(list, netip.MustParseAddr(a))
	}
	if list == nil {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return list, nil
}

func (z *zone) LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error) {
	question := "_" + service + "._" + proto + "." + name
	if err := z.begin(ctx, question); err != nil {
		return "", nil, err
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	var list []*net.SRV
	for _, target := range z.srv[question] {
		list = append(list, &net.SRV{Target: target})
	}
	if list == nil {
		return "", nil, &net.DNSError{Err: "no such host", Name: question, IsNotFound: true}
	}
	return "", list, nil
}

func (z *zone) set(f func()) {
	z.mu.Lock()
	defer z.mu.Unlock()
	f()
}

// A quiet subscription says nothing until it is closed, or is told to.
type quiet struct{ c chan error }

func (q quiet) Receive() ([]netlink.Message, error) {
	err, open := <-q.c
	if !open {
		return nil, net.ErrClosed
	}
	return nil, err
}

func (q quiet) Close() error { close(q.c); return nil }
