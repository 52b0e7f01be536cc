package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"fsban/config"
	"fsban/control"
	"fsban/decide/book"
	"fsban/fleet"
	"fsban/fleet/merge"
	"fsban/internal/redisserver"
	"fsban/policy"
)

// A chaosPeer is another node of the fleet: it publishes statements, merges received ones and keeps the newest of each prefix,
// without a firewall.
type chaosPeer struct {
	fleet *fleet.Fleet
	redis *redisserver.Server
	way   *redisserver.Proxy // from the daemon to Redis; the peer has its own
	stop  func()

	next   int          // number of the next address that it bans
	banned []netip.Addr // its active bans

	mu    sync.Mutex
	holds map[statementKey]merge.Statement // newest statement of each prefix
}

type statementKey struct {
	allowance bool
	prefix    netip.Prefix
}

const chaosPeerName = "peer"

// joinFleet makes the daemon one of two nodes.
func (c *chaos) joinFleet(shareFailures bool) {
	p := &chaosPeer{holds: make(map[statementKey]merge.Statement)}
	p.redis = redisserver.Start(c.t, "--port", "0") // a socket suffices, and avoids a port conflict
	p.way = redisserver.NewProxy(c.t, p.redis.Socket)
	c.cfg.Fleet.Redis, c.cfg.Fleet.Node, c.cfg.Fleet.Share = "redis://"+p.way.Addr(), "chaos", config.ShareBans
	if shareFailures {
		c.cfg.Fleet.Share = config.ShareFailures
	}
	p.fleet = fleet.New(fleet.Options{
		Addrs: []string{p.redis.Socket}, Name: c.cfg.Fleet.Name, Node: chaosPeerName, Take: p.take, Current: p.current,
		Self: func() fleet.Node { return fleet.Node{Version: "test", Share: c.cfg.Fleet.Share} }, Pace: brisk,
	})
	ctx, cancel := context.WithCancel(context.Background())
	var group sync.WaitGroup
	group.Go(func() { _ = p.fleet.Run(ctx) })
	p.stop = sync.OnceFunc(func() {
		cancel()
		group.Wait()
		p.redis.Kill()
	})
	c.t.Cleanup(p.stop)
	c.peer = p
}

func keyOf(s *merge.Statement) statementKey {
	return statementKey{s.Kind == merge.Allow || s.Kind == merge.Disallow, s.Prefix}
}

func (p *chaosPeer) take(_ context.Context, b merge.Batch) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range b.Statements {
		switch s.Kind {
		case merge.Ban, merge.Unban, merge.Allow, merge.Disallow:
			old, there := p.holds[keyOf(&s)]
			// Redis' stamp replaces the one of its own statements.
			if !there || s.Stamp > old.Stamp || s.Node == chaosPeerName && old.Node == s.Node && s.Kind == old.Kind && !b.Sync {
				p.holds[keyOf(&s)] = s
			}
		}
	}
	return nil
}

func (p *chaosPeer) current(_ context.Context, yield func(merge.Statement)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.holds {
		yield(s)
	}
	return nil
}

// say publishes a statement that is newer than all received ones.
func (p *chaosPeer) say(what merge.Kind, addr netip.Addr) {
	now := time.Now()
	s := merge.Statement{
		Kind: what, Prefix: netip.PrefixFrom(addr, 32), Stamp: p.fleet.Stamp(), Node: chaosPeerName, Since: now, Until: now.Add(time.Hour),
		Rule: "auth", Source: "event", Count: 5, By: "a test",
	}
	p.mu.Lock()
	p.holds[keyOf(&s)] = s
	p.mu.Unlock()
	p.fleet.Announce(s)
}

// isBanned reports whether the peer holds a ban of an address.
func (p *chaosPeer) isBanned(addr netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	prefix := netip.PrefixFrom(addr, 32)
	ban, there := p.holds[statementKey{false, prefix}]
	allowance, spared := p.holds[statementKey{true, prefix}]
	return there && ban.Kind == merge.Ban && (!spared || allowance.Kind == merge.Disallow)
}

// doings are the additional actions of sequences with a fleet.
func (p *chaosPeer) doings(c *chaos) []doing {
	list := []doing{{3, c.peerBans}, {2, c.peerUnbans}, {1, c.operatorUnbansPeers}, {4, c.redisFails}}
	if c.cfg.Fleet.Share == config.ShareFailures {
		list = append(list, doing{2, c.peerHearsFailures})
	}
	return list
}

// peerBans has the peer ban an address, now and then one that is never banned here.
func (c *chaos) peerBans() {
	p := c.peer
	addr := netip.AddrFrom4([4]byte{100, 65, byte(p.next >> 8), byte(p.next)})
	p.next++
	c.tell("the peer bans %v", addr)
	c.fates[addr], p.banned = banned, append(p.banned, addr)
	p.say(merge.Ban, addr)
	if c.rng.IntN(3) == 0 {
		p.say(merge.Ban, c.neverAddr())
	}
}

// peerUnbans has the peer withdraw a ban that this node made. The failures must be on disk first, which takes five seconds
// after a full disk: a daemon killed earlier would read and count them again after the unban.
func (c *chaos) peerUnbans() {
	if prefix, ok := c.letGo(); ok && c.peer.isBanned(prefix.Addr()) && time.Since(c.failed[prefix.Addr()]) > 6*time.Second {
		c.tell("the peer unbans %v", prefix)
		c.fates[prefix.Addr()] = free
		c.peer.say(merge.Unban, prefix.Addr())
	}
}

// operatorUnbansPeers withdraws a ban that the peer made.
func (c *chaos) operatorUnbansPeers() {
	p := c.peer
	if len(p.banned) == 0 {
		return
	}
	i := c.rng.IntN(len(p.banned))
	addr := p.banned[i]
	if standing, err := c.client.Why(c.t.Context(), addr); err != nil || standing.Ban == nil {
		return
	}
	p.banned = slices.Delete(p.banned, i, i+1)
	_, err := c.client.Unban(c.t.Context(), netip.PrefixFrom(addr, 32))
	c.tell("an operator unbans %v: %v", addr, err)
	if c.fates[addr] = free; err != nil {
		c.fates[addr] = unknown
	}
}

// peerHearsFailures reports a part of an attack, and failures of honest addresses, at the peer.
func (c *chaos) peerHearsFailures() {
	hears := func(addr netip.Addr) {
		c.failures[addr]++
		c.failed[addr] = time.Now()
		c.peer.fleet.Announce(merge.Statement{
			Kind: merge.Attempt, Prefix: netip.PrefixFrom(addr, 32), Stamp: c.peer.fleet.Stamp(), Node: chaosPeerName, Attempt: policy.Attempt{
				Addr: addr, At: time.Now(), Kind: policy.AuthFailure, Method: policy.Register, User: "1000",
			},
		})
	}
	for range c.rng.IntN(10) {
		if addr := c.honestAddr(); c.failures[addr] < honestLimit {
			hears(addr)
		}
	}
	addr := netip.AddrFrom4([4]byte{203, 0, 113, byte(c.next)})
	c.next++
	there := 1 + c.rng.IntN(c.cfg.Policy.MaxRetry)
	c.tell("%v fails %d times, %d of them at the peer", addr, c.cfg.Policy.MaxRetry, there)
	c.attackers, c.fates[addr] = append(c.attackers, addr), banned
	for i := range c.cfg.Policy.MaxRetry {
		if i < there {
			hears(addr)
		} else {
			c.fail(addr)
		}
	}
}

// redisFails breaks Redis, or the connection to it, and bans meanwhile.
func (c *chaos) redisFails() {
	p := c.peer
	meanwhile := func() {
		for range c.rng.IntN(3) {
			c.peerBans()
		}
		c.peerUnbans()
		c.meanwhile()
	}
	switch c.rng.IntN(7) {
	case 0:
		c.tell("Redis is killed")
		p.redis.Kill()
		meanwhile()
		p.redis.Restart()
		c.tell("it begins again, empty")
	case 1:
		c.tell("Redis is restarted, empty")
		p.redis.Kill()
		p.redis.Restart()
	case 2:
		c.tell("Redis is flushed")
		c.redis("FLUSHALL")
	case 3:
		c.tell("the way to Redis is cut")
		p.way.Cut()
		meanwhile()
		p.way.Heal()
		c.tell("it is whole again")
	case 4:
		c.tell("Redis stands still")
		p.redis.Pause()
		meanwhile()
		p.redis.Resume()
		c.tell("it goes on")
	case 5:
		c.tell("the way to Redis is slow")
		p.way.Slow(time.Duration(1+c.rng.IntN(60)) * time.Millisecond)
		meanwhile()
		p.way.Slow(0)
		c.tell("it is as it was")
	default:
		noise := make([]byte, c.rng.IntN(200))
		for i := range noise {
			noise[i] = byte(' ' + c.rng.IntN(95))
		}
		c.tell("somebody writes %d bytes of nonsense into Redis", len(noise))
		key := "{fsban:" + c.cfg.Fleet.Name + "}:"
		c.redis("HSET", key+"bans", "203.0.113.300/32", string(noise))
		c.redis("HSET", key+"bans", "10.255.255.1/32", string(noise))
		if c.rng.IntN(2) == 0 {
			c.redis("XADD", key+"log", "*", "d", string(noise))
		}
	}
}

func (c *chaos) redis(args ...string) {
	c.t.Helper()
	out, err := exec.CommandContext(c.t.Context(), "redis-cli", append([]string{"-s", c.peer.redis.Socket}, args...)...).CombinedOutput()
	if err != nil || strings.Contains(string(out), "ERR") {
		c.t.Fatalf("redis-cli %q: %v %s", args, err, out)
	}
}

// inStep waits until neither node has statements to publish or to merge.
func (c *chaos) inStep() {
	c.t.Helper()
	c.eventually("both are in step", func() error {
		s, err := c.client.Status(c.t.Context())
		if err == nil && (s.Fleet == nil || !s.Fleet.InStep || !c.peer.fleet.Status().InStep) {
			err = fmt.Errorf("here %+v, the peer %+v", s.Fleet, c.peer.fleet.Status())
		}
		return err
	})
}

// peerAgrees compares the peer's bans with the expected ones. Bans adopted from the kernel stay on this node.
func (c *chaos) peerAgrees() error {
	bans, err := c.client.Bans(c.t.Context(), control.Pick{})
	if err != nil {
		return err
	}
	there := make(map[netip.Addr]bool)
	c.peer.mu.Lock()
	for key := range c.peer.holds {
		if addr := key.prefix.Addr(); !chaosNever.Contains(addr) {
			there[addr] = true
		}
	}
	c.peer.mu.Unlock()
	for addr := range there {
		if !c.peer.isBanned(addr) {
			delete(there, addr)
		}
	}
	for _, b := range bans {
		if b.Rule == book.RuleKernel {
			there[b.Prefix.Addr()] = true
		}
	}
	return c.judge(there)
}
