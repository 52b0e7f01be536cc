package daemon

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fsban/config"
	"fsban/control"
	"fsban/internal/fakeswitch"
	"fsban/internal/netns"
	"fsban/ledger"
)

// Set by make chaos. `go test -run TestChaos ./daemon -chaos.seed N` repeats one sequence.
var (
	chaosSeed = flag.Uint64("chaos.seed", 0, "play this sequence; 0: with -chaos.for another one each time, else always the same two")
	chaosLong = flag.Duration("chaos.for", 0, "play long sequences for so long; 0: short ones")
)

// TestChaos runs seeded random sequences of attacks, operator commands and faults against a daemon in its own process and a
// real kernel. Each failure is reported by three sources. Half of the sequences have a fleet: a peer and a real Redis.
// Throughout: the kernel holds no address without failures. At the end: kernel, ledger and peer hold exactly the expected bans,
// the never-ban list holds, and the daemon is up and counts attempts.
func TestChaos(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		seed, steps, sequences := *chaosSeed, 25, uint64(1)
		switch {
		case *chaosLong > 0:
			steps = 200
			if seed == 0 {
				seed = uint64(time.Now().UnixNano())
			}
		case seed == 0: // without -chaos flags every run repeats the same sequences: with a fleet that shares failures, and without one
			seed, sequences = 3, 2
		}
		begun, n := time.Now(), uint64(0)
		for ; n < sequences || time.Since(begun) < *chaosLong; n++ {
			t.Logf("seed %d: play it again with -chaos.seed %d", seed+n, seed+n)
			c := newChaos(t, seed+n)
			for range steps {
				c.step()
			}
			c.settle()
			if t.Failed() {
				t.Fatalf("seed %d:\n%s", seed+n, c.whatHappened())
			}
			c.end()
		}
		t.Logf("%d sequences of %d steps in %v", n, steps, time.Since(begun).Round(time.Second))
	}, "iptables", "ip6tables", "ipset")
}

// A fate is the expected final state of an address.
type fate int

const (
	free    fate = iota // not banned: too few failures, or unbanned
	banned              // banned
	unknown             // undecidable: a fault has destroyed evidence of its failures
)

// chaos is one sequence: its random source, its environment and the expected result.
type chaos struct {
	t      *testing.T
	rng    *rand.Rand
	fs     *fakeswitch.Switch
	cfg    config.Config
	log    *ctiWriter
	daemon process
	client *control.Client
	peer   *chaosPeer // nil: there is no fleet

	story     []string
	logs      []*syncBuffer // of all daemons started, oldest first
	fates     map[netip.Addr]fate
	failures  map[netip.Addr]int
	failed    map[netip.Addr]time.Time // time of the last failure
	attackers []netip.Addr
	next      int // number of the next attacker
	skew      time.Duration
	rotated   time.Time
	flushed   time.Time
	alone     bool // the kernel may hold bans that the daemon does not know yet
	address   string
}

// honestLimit is the number of failures of an honest address: one more would ban it.
const honestLimit = 4

func newChaos(t *testing.T, seed uint64) *chaos {
	fs := newSwitch(t, fakeswitch.Options{Heartbeat: 200 * time.Millisecond})
	// The port is outside the ephemeral range, so that it is free whenever FreeSWITCH restarts.
	fs.CloseListener()
	if err := fs.Listen("127.0.0.1:8021"); err != nil {
		t.Fatal(err)
	}
	cfg := kernelConfig(t, fs)
	cfg.HTTP.Listen = config.Default().HTTP.Listen
	cfg.Policy.IgnoreIP = append(cfg.Policy.IgnoreIP, chaosNever.String())
	cfg.Policy.BanRate = 0
	cfg.CTILog.Path = filepath.Join(cfg.State.Directory, "log", "cti_fail2ban.log")
	if err := os.Mkdir(filepath.Dir(cfg.CTILog.Path), 0o755); err != nil {
		t.Fatal(err)
	}
	c := &chaos{
		t: t, rng: rand.New(rand.NewPCG(seed, seed)), fs: fs, cfg: cfg, address: fs.Addr(),
		client: control.NewClient(cfg.Control.Socket),
		fates:  make(map[netip.Addr]fate), failures: make(map[netip.Addr]int), failed: make(map[netip.Addr]time.Time),
	}
	c.log = &ctiWriter{t: t, path: cfg.CTILog.Path, client: c.client}
	c.log.open()
	if seed%2 == 1 {
		c.joinFleet(seed%4 == 3)
	}
	c.start()
	c.ready()
	return c
}

// end removes everything that the next sequence must not find.
func (c *chaos) end() {
	c.client.Close()
	c.fs.CloseListener()
	c.fs.End(fakeswitch.Kill)
	if c.peer != nil {
		c.peer.stop()
	}
	command := exec.Command("sh", "-c", "iptables -t raw -F; iptables -t raw -X; ip6tables -t raw -F; ip6tables -t raw -X; ipset destroy")
	if out, err := command.CombinedOutput(); err != nil {
		c.t.Fatalf("%v: %s", err, out)
	}
}

// step draws and performs one action.
func (c *chaos) step() {
	for range c.rng.IntN(4) {
		c.honest()
	}
	doings := []doing{
		{8, c.attack},
		{3, c.neverBanned},
		{2, c.operatorBans},
		{2, c.operatorUnbans},
		{1, c.operatorAllows},
		{3, c.socketDies},
		{2, c.socketSaysNonsense},
		{2, c.logRotates},
		{3, c.firewallIsFlushed},
		{2, c.killed},
		{1, c.stopped},
		{2, c.reconfigured},
		{1, c.stateIsDamaged},
		{1, c.diskIsFull},
		{1, c.standsStill},
		{1, c.noFiles},
		{1, c.setIsAnothers},
		{1, c.clockJumps},
		{1, c.flood},
	}
	if c.peer != nil {
		doings = append(doings, c.peer.doings(c)...)
	}
	all := 0
	for _, d := range doings {
		all += d.often
	}
	draw := c.rng.IntN(all)
	for _, d := range doings {
		if draw -= d.often; draw < 0 {
			d.do()
			break
		}
	}
	c.nobodyElse()
	time.Sleep(time.Duration(c.rng.IntN(120)) * time.Millisecond)
}

// A doing is an action with its relative frequency.
type doing struct {
	often int
	do    func()
}

// nobodyElse asserts that the kernel holds no address without enough failures and no never-banned one.
func (c *chaos) nobodyElse() {
	members, err := c.kernel()
	if err != nil {
		return // the set was destroyed
	}
	for addr := range members {
		if _, known := c.fates[addr]; !known {
			c.t.Fatalf("%v is in the kernel after %d failures\n%s", addr, c.failures[addr], c.whatHappened())
		}
	}
}

func (c *chaos) tell(format string, args ...any) {
	c.story = append(c.story, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
}

// fail reports one failure through every connected source.
func (c *chaos) fail(addr netip.Addr) {
	caller := fakeswitch.Caller{Addr: addr, User: "1000"}
	at := time.Now().Add(c.skew)
	c.failures[addr]++
	c.failed[addr] = time.Now()
	tellings := []func(){
		func() { c.fs.Emit(fakeswitch.WrongPassword, caller, at) },
		func() { c.fs.Emit(fakeswitch.CTILine, caller, at) },
		func() { c.log.failure(caller, at) },
	}
	c.rng.Shuffle(len(tellings), func(i, j int) { tellings[i], tellings[j] = tellings[j], tellings[i] })
	for _, tell := range tellings {
		tell()
	}
}

// honest has an honest address fail, within honestLimit.
func (c *chaos) honest() {
	if addr := c.honestAddr(); c.failures[addr] < honestLimit {
		c.fail(addr)
	}
}

func (c *chaos) honestAddr() netip.Addr {
	return netip.AddrFrom4([4]byte{198, 51, 100, byte(c.rng.IntN(40))})
}

func (c *chaos) attack() {
	addr := netip.AddrFrom4([4]byte{203, 0, 113, byte(c.next)})
	c.next++
	n := c.cfg.Policy.MaxRetry + c.rng.IntN(3)
	c.tell("%v fails %d times", addr, n)
	c.attackers, c.fates[addr] = append(c.attackers, addr), banned
	for range n {
		c.fail(addr)
	}
}

func (c *chaos) neverBanned() {
	for range 1 + c.rng.IntN(20) {
		c.fail(c.neverAddr())
	}
}

// chaosNever is a never-banned prefix.
var chaosNever = netip.MustParsePrefix("192.0.2.0/24")

func (c *chaos) neverAddr() netip.Addr {
	return netip.AddrFrom4([4]byte{192, 0, 2, byte(1 + c.rng.IntN(3))})
}

// flood has 2,000 addresses fail once each.
func (c *chaos) flood() {
	c.tell("a flood of 2,000 addresses")
	for range 2000 {
		c.fail(netip.AddrFrom4([4]byte{10, byte(c.rng.IntN(250)), byte(c.rng.IntN(250)), byte(c.rng.IntN(250))}))
	}
}

func (c *chaos) operatorBans() {
	addr := netip.AddrFrom4([4]byte{100, 64, 0, byte(c.rng.IntN(250))})
	_, err := c.client.Ban(c.t.Context(), control.BanRequest{Prefix: netip.PrefixFrom(addr, 32), Time: time.Hour})
	c.tell("an operator bans %v: %v", addr, err)
	if c.fates[addr] = banned; err != nil {
		c.fates[addr] = unknown
	}
}

// letGo picks a banned attacker to be released. The attacker never fails again.
func (c *chaos) letGo() (netip.Prefix, bool) {
	if len(c.attackers) == 0 {
		return netip.Prefix{}, false
	}
	i := c.rng.IntN(len(c.attackers))
	addr := c.attackers[i]
	prefix := netip.PrefixFrom(addr, 32)
	standing, err := c.client.Why(c.t.Context(), addr)
	if err != nil || standing.Ban == nil {
		return prefix, false
	}
	c.attackers = slices.Delete(c.attackers, i, i+1)
	return prefix, true
}

func (c *chaos) operatorUnbans() {
	prefix, ok := c.letGo()
	if !ok {
		return
	}
	_, err := c.client.Unban(c.t.Context(), prefix)
	c.tell("an operator unbans %v: %v", prefix, err)
	if c.fates[prefix.Addr()] = free; err != nil {
		c.fates[prefix.Addr()] = unknown
	}
}

func (c *chaos) operatorAllows() {
	prefix, ok := c.letGo()
	if !ok {
		return
	}
	_, err := c.client.Allow(c.t.Context(), control.AllowRequest{Prefix: prefix})
	c.tell("an operator allows %v: %v", prefix, err)
	if c.fates[prefix.Addr()] = free; err != nil {
		c.fates[prefix.Addr()] = unknown
	}
}

func (c *chaos) socketDies() {
	how := []fakeswitch.Ending{fakeswitch.Shutdown, fakeswitch.Reload, fakeswitch.Kill, fakeswitch.HalfFrame, fakeswitch.Reset}[c.rng.IntN(5)]
	c.tell("the event socket ends: %s", how)
	if c.rng.IntN(2) == 0 {
		c.fs.End(how)
		return
	}
	c.fs.CloseListener()
	c.fs.End(how)
	for range c.rng.IntN(5) { // failures while the socket is down reach the daemon only through the file
		c.attack()
		c.honest()
	}
	time.Sleep(time.Duration(c.rng.IntN(600)) * time.Millisecond)
	c.listen()
	c.tell("it is back")
}

func (c *chaos) listen() {
	if err := c.fs.Listen(c.address); err != nil {
		c.t.Fatal(err)
	}
}

// socketSaysNonsense writes noise or a truncated event into the stream and closes it.
func (c *chaos) socketSaysNonsense() {
	noise := fakeswitch.Frames(fakeswitch.WrongPassword, fakeswitch.Caller{Addr: netip.MustParseAddr("198.51.100.200"), User: "1000"}, time.Now())
	noise = noise[:c.rng.IntN(len(noise))]
	if c.rng.IntN(2) == 0 {
		for i := range noise {
			noise[i] = byte(c.rng.Uint32())
		}
	}
	c.tell("the event socket says %d bytes of nonsense", len(noise))
	c.fs.EmitRaw(noise)
	c.fs.End(fakeswitch.Kill)
}

// logRotates rotates the log, but not again at once: a reader that polls once a second could not tell a copy from a renamed
// file. It takes a file for new if that is a second newer than its last poll.
func (c *chaos) logRotates() {
	if time.Since(c.rotated) < 3*time.Second {
		return
	}
	c.rotated = time.Now()
	switch c.rng.IntN(3) {
	case 0:
		c.tell("the log is renamed")
		c.log.rotate()
	case 1:
		c.log.removeAndCreate()
		c.tell("the log is removed and made again")
	default:
		c.log.copyTruncate()
		c.tell("the log is copied and truncated")
	}
}

// kernelIsNotAlone waits, after a kill, until the daemon has adopted the kernel's bans: the last ones may exist only there.
func (c *chaos) kernelIsNotAlone() {
	if c.alone {
		c.ready()
	}
}

func (c *chaos) firewallIsFlushed() {
	c.kernelIsNotAlone()
	commands := []string{
		"iptables -t raw -F", "iptables -t raw -F FSBAN", "ipset flush fsban4", "ipset flush",
		"iptables -t raw -I PREROUTING -j ACCEPT", "iptables -t raw -F; iptables -t raw -X; ipset destroy fsban4",
	}
	c.shell(commands[c.rng.IntN(len(commands))])
}

// shell runs a command against the firewall.
func (c *chaos) shell(what string) {
	out, err := exec.CommandContext(c.t.Context(), "sh", "-c", what).CombinedOutput()
	c.flushed = time.Now()
	c.tell("somebody runs %s: %v %s", what, err, bytes.TrimSpace(out))
}

func (c *chaos) start() {
	c.daemon = spawn(c.t, &c.cfg)
	c.logs = append(c.logs, c.daemon.log)
}

func (c *chaos) kill() {
	if err := c.daemon.cmd.Process.Kill(); err != nil {
		c.t.Fatal(err)
	}
	_ = c.daemon.cmd.Wait()
	c.client.Close()
}

func (c *chaos) killed() {
	if time.Since(c.flushed) < 10*time.Second {
		// A new ban is in the kernel at once and on disk 100 ms later, or when the disk accepts it. A flush and a kill before
		// that lose it.
		c.inKernel()
	}
	c.tell("kill -9")
	c.kill()
	c.alone = true
	c.meanwhile()
	c.start()
	if c.rng.IntN(2) == 0 {
		c.ready()
	}
}

func (c *chaos) stopped() {
	c.answers()
	if c.rng.IntN(2) == 0 {
		c.attack()
	}
	c.tell("it is stopped")
	c.terminate()
	c.meanwhile()
	c.start()
}

// reconfigured reloads the configuration, changed or broken.
func (c *chaos) reconfigured() {
	c.answers()
	if c.rng.IntN(2) == 0 {
		c.attack()
	}
	if c.rng.IntN(3) == 0 {
		c.tell("SIGHUP, and the configuration is broken")
		if err := os.WriteFile(configure(c.t, &c.cfg), []byte("{"), 0o600); err != nil {
			c.t.Fatal(err)
		}
	} else {
		c.cfg.Firewall.Check = config.Duration(200+c.rng.IntN(200)) * config.Duration(time.Millisecond)
		c.cfg.Policy.ChallengeWait = config.Duration(1+c.rng.IntN(9)) * config.Duration(time.Second)
		for i := range c.cfg.Policy.Ruleset {
			if r := &c.cfg.Policy.Ruleset[i]; r.Name == "toll" || r.Name == "challenge" {
				r.Enabled = c.rng.IntN(2) == 0
			}
		}
		c.tell("SIGHUP, with another configuration")
		configure(c.t, &c.cfg)
	}
	if err := c.daemon.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		c.t.Fatal(err)
	}
}

func (c *chaos) terminate() {
	if err := c.daemon.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		c.t.Fatal(err)
	}
	if err := c.daemon.cmd.Wait(); err != nil {
		c.t.Fatalf("stopped: %v\n%s", err, c.whatHappened())
	}
	c.client.Close()
}

// meanwhile performs an action while no daemon is up.
func (c *chaos) meanwhile() {
	for range c.rng.IntN(3) {
		c.attack()
		c.honest()
	}
	time.Sleep(time.Duration(c.rng.IntN(300)) * time.Millisecond)
}

// stateIsDamaged truncates the state file or changes bytes of it while no daemon is up. That loses the unbans too: the log is
// read again from findtime ago.
func (c *chaos) stateIsDamaged() {
	c.inKernel()
	c.kill()
	path := filepath.Join(c.cfg.State.Directory, "fsban.db")
	data, err := os.ReadFile(path)
	if err != nil {
		c.t.Fatal(err)
	}
	switch {
	case len(data) == 0: // killed before the first write
	case c.rng.IntN(2) == 0:
		data = data[:c.rng.IntN(len(data))]
		c.tell("kill -9, and the state file is cut at %d", len(data))
	default:
		for range 1 + c.rng.IntN(50) {
			data[c.rng.IntN(len(data))] = byte(c.rng.Uint32())
		}
		c.tell("kill -9, and the state file is damaged")
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		c.t.Fatal(err)
	}
	for addr, f := range c.fates {
		if f == free {
			c.fates[addr] = unknown
		}
	}
	c.start()
	c.ready()
}

// diskIsFull prevents the state file from growing for a while.
func (c *chaos) diskIsFull() {
	c.tell("the disk is full")
	var before unix.Rlimit
	pid := c.daemon.cmd.Process.Pid
	if err := unix.Prlimit(pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 4096, Max: unix.RLIM_INFINITY}, &before); err != nil {
		c.t.Fatal(err)
	}
	for range 1 + c.rng.IntN(4) {
		c.attack()
	}
	time.Sleep(time.Duration(c.rng.IntN(400)) * time.Millisecond)
	if err := unix.Prlimit(pid, unix.RLIMIT_FSIZE, &before, nil); err != nil {
		c.t.Fatal(err)
	}
	c.tell("it has room again")
}

// standsStill suspends the daemon for a while.
func (c *chaos) standsStill() {
	c.tell("it stands still")
	if err := c.daemon.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		c.t.Fatal(err)
	}
	c.attack()
	time.Sleep(time.Duration(c.rng.IntN(700)) * time.Millisecond)
	if err := c.daemon.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		c.t.Fatal(err)
	}
	c.tell("it goes on")
}

// noFiles prevents the daemon from opening files, sockets and pipes to iptables for a while. It waits for the daemon's start first,
// because a starting daemon would exit.
func (c *chaos) noFiles() {
	c.answers()
	c.kernelIsNotAlone()
	c.tell("it may not open files")
	var before unix.Rlimit
	pid := c.daemon.cmd.Process.Pid
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &before); err != nil {
		c.t.Fatal(err)
	}
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: before.Max}, nil); err != nil {
		c.t.Fatal(err)
	}
	c.attack()
	c.fs.End(fakeswitch.Kill)
	c.firewallIsFlushed()
	c.attack()
	time.Sleep(time.Duration(c.rng.IntN(500)) * time.Millisecond)
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &before, nil); err != nil {
		c.t.Fatal(err)
	}
	c.tell("it may again")
}

// setIsAnothers replaces the set by one of another type or without room, so that the kernel refuses bans.
func (c *chaos) setIsAnothers() {
	c.kernelIsNotAlone()
	const away = "iptables -t raw -F; iptables -t raw -X; ipset destroy fsban4"
	kind := []string{"hash:ip", "hash:net,port", "hash:net maxelem 1", "hash:net family inet6", "list:set"}[c.rng.IntN(5)]
	c.shell(away + "; ipset create fsban4 " + kind)
	c.attack()
	time.Sleep(time.Duration(c.rng.IntN(500)) * time.Millisecond)
	c.shell(away)
}

func (c *chaos) clockJumps() {
	c.skew = []time.Duration{0, 10 * time.Second, -30 * time.Second, time.Hour, -time.Hour}[c.rng.IntN(5)]
	c.tell("FreeSWITCH's clock is off by %v", c.skew)
}

// inKernel waits until the kernel holds every active ban.
func (c *chaos) inKernel() {
	c.t.Helper()
	c.eventually("the kernel holds every ban", func() error {
		bans, err := c.client.Bans(c.t.Context(), control.Pick{})
		for _, b := range bans {
			if !b.InKernel {
				err = fmt.Errorf("%v is not in the kernel", b.Prefix)
			}
		}
		return err
	})
}

// answers waits until the daemon answers on its socket: before it handles signals, a signal would end it.
func (c *chaos) answers() {
	c.t.Helper()
	c.eventually("it answers", func() error {
		_, err := c.client.Status(c.t.Context())
		return err
	})
}

// ready waits until the daemon reports ready and the kernel holds every ban.
func (c *chaos) ready() {
	c.t.Helper()
	c.eventually("it is ready", func() error {
		s, err := c.client.Status(c.t.Context())
		switch {
		case err != nil:
			return err
		case !s.Ready || !s.Firewall.Enforcing || s.Firewall.Pending > 0:
			return fmt.Errorf("ready: %t, %+v, %q", s.Ready, s.Firewall, s.Problems)
		}
		c.alone = false
		return nil
	})
}

func (c *chaos) eventually(what string, f func() error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	for err := f(); err != nil; err = f() {
		select {
		case <-ctx.Done():
			c.t.Fatalf("timed out waiting until %s: %v\n%s", what, err, c.whatHappened())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// settle waits until everything is at rest, has the attackers that are not banned fail again, since a fault may have lost failures,
// and asserts the fate of every address.
func (c *chaos) settle() {
	c.tell("waiting for rest")
	c.skew = 0
	c.ready()
	if c.peer != nil {
		c.inStep()
	}
	if err := c.fs.WaitSubscribed(c.t.Context(), "sofia::register_failure"); err != nil {
		c.t.Fatal(err)
	}
	var missed []netip.Addr
	for _, addr := range c.attackers {
		if s, err := c.client.Why(c.t.Context(), addr); err != nil || s.Ban == nil {
			missed = append(missed, addr)
		}
	}
	c.tell("not banned yet, of %d: %v", len(c.attackers), missed)
	for _, addr := range missed {
		for range c.cfg.Policy.MaxRetry {
			c.fail(addr)
		}
	}
	c.counts()
	c.eventually("the expected addresses are banned", func() error {
		bans, err := c.client.Bans(c.t.Context(), control.Pick{Evidence: control.All})
		if err != nil {
			return err
		}
		inLedger := make(map[netip.Addr]bool)
		for _, b := range bans {
			if inLedger[b.Prefix.Addr()] = true; !b.InKernel {
				return fmt.Errorf("%v is not in the kernel", b.Prefix)
			}
		}
		return c.judge(inLedger)
	})
	c.ready()
	if members, err := c.kernel(); err != nil {
		c.t.Error(err)
	} else if err := c.judge(members); err != nil {
		c.t.Errorf("in the kernel: %v", err)
	}
	if c.peer != nil {
		c.eventually("the peer has the same bans", c.peerAgrees)
	}
	c.terminate()
	l, err := ledger.Open(filepath.Join(c.cfg.State.Directory, "fsban.db"), time.Now())
	if err != nil {
		c.t.Fatal(err)
	}
	onDisk := make(map[netip.Addr]bool)
	for _, b := range l.List() {
		onDisk[b.Prefix.Addr()] = true
	}
	if err := errors.Join(c.judge(onDisk), l.Close()); err != nil || l.SetAside() != "" {
		c.t.Errorf("on disk: %v; set aside: %q", err, l.SetAside())
	}
}

// counts has a new attacker and a never-banned address fail, and asserts that every source reports each failure, that the
// policy counts it once, and that metrics and kernel agree after any faults.
func (c *chaos) counts() {
	c.t.Helper()
	c.log.nothing() // the first line after a truncation is discarded as possibly partial
	var before metricValues
	busy := func(m metricValues) float64 {
		return m.sum("fsban_log_frames_total") + m.sum("fsban_cti_log_lines_total") + m.sum("fsban_decisions_total") + m.sum("fsban_attempts_while_banned_total") +
			m.sum("fsban_bans_total") + m.sum("fsban_unbans_total") + m.sum("fsban_attempts_total")
	}
	same := 0
	c.eventually("the metrics are at rest", func() error {
		now := c.scrape()
		if same++; before == nil || busy(now) != busy(before) {
			same = 0
		}
		if before = now; same < 2 {
			time.Sleep(time.Second) // the daemon refreshes these once a second
			return errors.New("metrics still change")
		}
		return nil
	})
	n := c.cfg.Policy.MaxRetry
	// Both addresses are new: after FreeSWITCH's clock was set back, its times repeat.
	attacker, spared := netip.AddrFrom4([4]byte{203, 0, 113, byte(c.next)}), netip.AddrFrom4([4]byte{192, 0, 2, 99})
	c.tell("%v and %v fail %d times, and are counted", attacker, spared, n)
	c.next++
	c.fates[attacker] = banned
	for range n {
		c.fail(attacker)
		c.fail(spared)
	}
	c.eventually("the numbers agree", func() error {
		now := c.scrape()
		bans, err := c.client.Bans(c.t.Context(), control.Pick{})
		if err != nil {
			return err
		}
		members, err := c.kernel()
		if err != nil {
			return err
		}
		var wrong []error
		is := func(what string, got, want float64) {
			if got != want {
				wrong = append(wrong, fmt.Errorf("%s: %v, not %v", what, got, want))
			}
		}
		more := func(want int, name string, labels ...string) {
			is(fmt.Sprint(name, labels), now.sum(name, labels...)-before.sum(name, labels...), float64(want))
		}
		for _, source := range []string{"event", "esl_log", "cti_log"} {
			more(2*n, "fsban_attempts_total", `source="`+source+`"`, `kind="auth_failure"`)
		}
		more(2*n, "fsban_profile_attempts_total", `kind="auth_failure"`)
		more(n-1, "fsban_decisions_total", `verdict="counted"`)
		more(1, "fsban_decisions_total", `verdict="ban"`)
		is("spared", now.sum("fsban_decisions_total", `verdict="spared`)-before.sum("fsban_decisions_total", `verdict="spared`), float64(n))
		more(1, "fsban_bans_total")
		more(0, "fsban_attempts_dropped_total")
		is("fsban_banned_prefixes", now.sum("fsban_banned_prefixes"), float64(len(bans)))
		is("the kernel's set", float64(len(members)), float64(len(bans)))
		is("fsban_firewall_set_entries", now.sum("fsban_firewall_set_entries"), float64(len(members)))
		is("fsban_firewall_pending_orders", now.sum("fsban_firewall_pending_orders"), 0)
		return errors.Join(wrong...)
	})
	status, err := c.client.Status(c.t.Context())
	if err != nil {
		c.t.Fatal(err)
	}
	for _, entry := range c.cfg.Policy.IgnoreIP {
		if !slices.ContainsFunc(status.Policy.NeverBan, func(n control.NeverBan) bool { return strings.HasPrefix(n.Prefix.String(), entry) }) {
			c.t.Errorf("%s is not on the never-ban list any more: %v", entry, status.Policy.NeverBan)
		}
	}
}

func (c *chaos) scrape() metricValues {
	c.t.Helper()
	m, err := (&program{metrics: "http://" + c.cfg.HTTP.Listen + "/metrics"}).scrape(c.t.Context())
	if err != nil {
		c.t.Fatalf("%v\n%s", err, c.whatHappened())
	}
	return m
}

func (c *chaos) whatHappened() string {
	var b strings.Builder
	b.WriteString(strings.Join(c.story, "\n"))
	for i, log := range c.logs {
		fmt.Fprintf(&b, "\nthe log of daemon %d:\n%s", i+1, log)
	}
	return b.String()
}

// judge compares the banned addresses with the expected ones.
func (c *chaos) judge(isBanned map[netip.Addr]bool) error {
	var wrong []string
	for addr := range isBanned {
		if f, known := c.fates[addr]; !known || f == free {
			wrong = append(wrong, fmt.Sprintf("%v is banned after %d failures, %s", addr, c.failures[addr], c.why(addr)))
		}
	}
	for _, addr := range slices.SortedFunc(maps.Keys(c.fates), netip.Addr.Compare) {
		if c.fates[addr] == banned && !isBanned[addr] {
			wrong = append(wrong, fmt.Sprintf("%v is not banned after %d failures", addr, c.failures[addr]))
		}
	}
	if wrong != nil {
		return errors.New(strings.Join(wrong, "; "))
	}
	return nil
}

// why returns the daemon's explanation of an address, as in fsban why.
func (c *chaos) why(addr netip.Addr) string {
	standing, err := c.client.Why(c.t.Context(), addr)
	if err != nil || standing.Ban == nil {
		return fmt.Sprint("nobody says why: ", err)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "by rule %s:", standing.Ban.Rule)
	for _, a := range standing.Ban.Evidence {
		fmt.Fprintf(&b, " %s %s", a.Source, a.At.Format("15:04:05.000000"))
	}
	return b.String()
}

// kernel lists the entries of the set, as printed by ipset save.
func (c *chaos) kernel() (map[netip.Addr]bool, error) {
	out, err := exec.CommandContext(c.t.Context(), "ipset", "save", "fsban4").Output()
	if err != nil {
		return nil, fmt.Errorf("ipset save: %w", err)
	}
	members := make(map[netip.Addr]bool)
	for line := range strings.Lines(string(out)) {
		var addr string
		if _, err := fmt.Fscanf(strings.NewReader(line), "add fsban4 %s", &addr); err == nil {
			members[netip.MustParseAddr(addr)] = true
		} else if errors.Is(err, io.EOF) {
			c.t.Fatal(line)
		}
	}
	return members, nil
}
