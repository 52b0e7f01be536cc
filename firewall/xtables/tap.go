package xtables

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"fsban/firewall"
)

// The rules that copy packets are in chains of their own, which INPUT and OUTPUT of table filter jump to. There the kernel has
// reassembled fragments of IPv4, and addresses are those that FreeSWITCH sees. fsban's drop comes before: in raw or mangle, or by the
// jump to FSBAN, which precedes these jumps.
const (
	tapTable = "filter"
	tapIn    = firewall.ChainName + "-TAP-IN"
	tapOut   = firewall.ChainName + "-TAP-OUT"
	tapJump  = "-j " + firewall.ChainName + "-TAP-" // how the jumps begin
)

// A tapped is the state of a family's rules that copy packets, as the last verification left it.
type tapped struct {
	on      bool                // they are in force
	absent  bool                // there are none, and none are wanted
	given   map[string][]string // the rules of each chain, as iptables got them
	printed map[string][]string // and as it prints them
	moved   time.Time           // when jumps were last put first
}

// tapChains returns the rules of each chain for a tap.
func (f *family) tapChains(tap *firewall.Tap) map[string][]string {
	target := fmt.Sprintf("-j NFLOG --nflog-prefix %s --nflog-group %d --nflog-threshold %d", firewall.TapPrefix, tap.Group, tap.Threshold)
	chains := make(map[string][]string)
	for chain, side := range map[string]string{tapIn: "d", tapOut: "s"} {
		for _, p := range tap.Ports {
			ports := strconv.Itoa(int(p.First))
			if p.Last != p.First {
				ports += ":" + strconv.Itoa(int(p.Last))
			}
			chains[chain] = append(chains[chain], fmt.Sprintf("-p %s -m %s --%sport %s %s", p.Proto, p.Proto, side, ports, target))
		}
	}
	if f.is4() || len(tap.Ports) == 0 {
		return chains
	}
	// INPUT of IPv6 sees fragments, unless connection tracking is in use. Those behind the first have no ports.
	chains[tapIn] = append(chains[tapIn], "-m frag --fragid 0:4294967295 --fragfirst -j RETURN")
	for _, proto := range protocols(tap.Ports) {
		chains[tapIn] = append(chains[tapIn], fmt.Sprintf("-p %s -m frag --fragid 0:4294967295 %s", proto, target))
	}
	return chains
}

// tapJumps returns the chains of table filter that jump to chains of a tap, each with the targets in order.
func tapJumps(hooks []firewall.Hook) map[string][]string {
	jumps := map[string][]string{"INPUT": {tapIn}, "OUTPUT": {tapOut}}
	for _, h := range hooks {
		if chain, ok := firewall.Forwards(h); ok {
			jumps[chain] = []string{tapIn, tapOut}
		}
	}
	return jumps
}

// verifyTap repairs the rules that copy packets, or removes them if tap has no ports. It returns what it repaired: rules that are made
// for the first time are no repair.
func (f *family) verifyTap(ctx context.Context, tap *firewall.Tap, hooks []firewall.Hook) (v firewall.Verification) {
	if f.ipt == nil {
		return v
	}
	wanted := len(tap.Ports) > 0
	if !wanted && (f.tap.absent || f.ipt.lacks(tapTable)) {
		f.tap = tapped{absent: true}
		return v
	}
	now, err := f.ipt.save(ctx, tapTable)
	if !wanted && isMissing(err) {
		return v
	}
	if err == nil {
		err = f.foreignTap(now)
	}
	if err != nil {
		v.Tap = f.failed("list", tapTable, tapIn, err)
		return v
	}
	var lines, made []string
	if wanted {
		lines, made = f.planTap(&v, now, tap, hooks)
	} else {
		lines = removeTap(now)
	}
	if len(lines) > 0 {
		if err := f.ipt.restore(ctx, tapTable, lines); err != nil {
			f.tap = tapped{}
			v.Tap = f.failed("copy packets in", tapTable, tapIn, tapError(err))
			return v
		}
		if f.tap.on {
			v.Made = made
		}
		if now, err = f.ipt.save(ctx, tapTable); err != nil {
			v.Tap = f.failed("list", tapTable, tapIn, err)
			return v
		}
	}
	f.tap = tapped{
		on: wanted, absent: !wanted, moved: f.tap.moved,
		given: f.tapChains(tap), printed: map[string][]string{tapIn: now.texts(tapIn), tapOut: now.texts(tapOut)},
	}
	return v
}

// errNoTarget is wrapped if iptables cannot make a rule that copies packets.
var errNoTarget = errors.New("this host's iptables or kernel cannot copy packets (modules nfnetlink_log, xt_NFLOG, ip6t_frag): " +
	"load them, or set sip.tap to hep")

func tapError(err error) error {
	text := err.Error()
	for _, missing := range []string{"NFLOG", "frag", "RULE_APPEND failed", "No chain/target/match"} {
		if strings.Contains(text, missing) && !strings.Contains(text, "Permission denied") && !strings.Contains(text, "xtables lock") {
			return fmt.Errorf("%w: %w", errNoTarget, err)
		}
	}
	return err
}

// planTap returns the lines that turn the table into the one with a tap, and the repairs in words.
func (f *family) planTap(v *firewall.Verification, now table, tap *firewall.Tap, hooks []firewall.Hook) (lines, made []string) {
	chains := f.tapChains(tap)
	for _, chain := range slices.Sorted(maps.Keys(chains)) {
		have := now.texts(chain)
		known := f.tap.on && slices.Equal(chains[chain], f.tap.given[chain]) && slices.Equal(have, f.tap.printed[chain])
		if known || slices.Equal(have, chains[chain]) {
			continue
		}
		made = append(made, fmt.Sprintf("rules of %s chain %s/%s", f.name, tapTable, chain))
		lines = append(lines, ":"+chain+" - [0:0]") // made, or emptied
		for _, r := range chains[chain] {
			lines = append(lines, "-A "+chain+" "+r)
		}
	}
	jumps := tapJumps(hooks)
	for chain := range now {
		if _, ok := jumps[chain]; !ok {
			lines = append(lines, unjump(now, chain)...)
		}
	}
	for _, chain := range slices.Sorted(maps.Keys(jumps)) {
		l, m := f.planTapJumps(v, now, chain, jumps[chain])
		lines, made = append(lines, l...), append(made, m...)
	}
	return lines, made
}

// planTapJumps puts the jumps to targets before all rules of a chain but the jump to FSBAN: a rule before them could accept packets.
func (f *family) planTapJumps(v *firewall.Verification, now table, chain string, targets []string) (lines, made []string) {
	rules, there := now[chain]
	if !there && !firewall.BuiltIn(chain) {
		return nil, nil // another program's, of the other family alone
	}
	var want []string
	at := 0
	for len(rules) > at && rules[at].text == jump {
		at++
	}
	for _, target := range targets {
		want = append(want, "-j "+target)
	}
	var have []string
	for _, r := range rules {
		if strings.HasPrefix(r.text, tapJump) {
			have = append(have, r.text)
		}
	}
	if slices.Equal(have, want) && len(rules) >= at+len(want) && rules[at+len(want)-1].text == want[len(want)-1] {
		return nil, nil
	}
	if slices.Equal(have, want) {
		if time.Since(f.tap.moved) < moveEvery {
			v.Notes = append(v.Notes, fmt.Sprintf("%s: another program keeps moving its rules before the tap's in %s/%s: SIP that they accept is "+
				"not seen (fsban moves its jump back once a minute)", f.name, tapTable, chain))
			return nil, nil
		}
		f.tap.moved = time.Now()
	}
	lines = unjump(now, chain)
	for i, j := range want {
		lines = append(lines, fmt.Sprintf("-I %s %d %s", chain, at+i+1, j))
	}
	return lines, []string{"jump from " + f.name + " " + tapTable + "/" + chain + " to the tap"}
}

// unjump returns the lines that remove the jumps of a chain to chains of the tap.
func unjump(now table, chain string) (lines []string) {
	for _, r := range now[chain] {
		if strings.HasPrefix(r.text, tapJump) {
			lines = append(lines, "-D "+chain+" "+r.text)
		}
	}
	return lines
}

// removeTap returns the lines that remove the tap's jumps and chains.
func removeTap(now table) (lines []string) {
	for _, chain := range slices.Sorted(maps.Keys(now)) {
		lines = append(lines, unjump(now, chain)...)
	}
	for _, chain := range []string{tapIn, tapOut} {
		if _, there := now[chain]; there {
			lines = append(lines, ":"+chain+" - [0:0]", "-X "+chain)
		}
	}
	return lines
}

// hasTap reports whether a table has a chain of the tap's name.
func hasTap(now table) bool {
	_, in := now[tapIn]
	_, out := now[tapOut]
	return in || out
}

// foreignTap returns an error that wraps firewall.ErrForeign if a chain of the tap's name holds rules, none of which copies packets as
// fsban's do.
func (f *family) foreignTap(now table) error {
	for _, chain := range []string{tapIn, tapOut} {
		texts := now.texts(chain)
		if len(texts) > 0 && !slices.ContainsFunc(texts, func(text string) bool { return strings.Contains(text, "-j NFLOG --nflog-prefix") }) {
			return fmt.Errorf("chain %s holds other rules, such as %q: %w", chain, texts[0], firewall.ErrForeign)
		}
	}
	return nil
}

// teardownTap removes the tap's chains, and the jumps to them.
func (f *family) teardownTap() (removed []string, err error) {
	if f.ipt.lacks(tapTable) {
		return nil, nil
	}
	now, err := f.ipt.save(context.Background(), tapTable)
	if f.ipt.legacy != "" && isMissing(err) {
		return nil, nil // a kernel without this table
	} else if err == nil {
		err = f.foreignTap(now)
	}
	if err != nil {
		return nil, f.failed("list", tapTable, tapIn, err)
	}
	lines := removeTap(now)
	if len(lines) == 0 {
		return nil, nil
	}
	if err := f.ipt.restore(context.Background(), tapTable, lines); err != nil {
		return nil, f.failed("delete", tapTable, tapIn, err)
	}
	f.tap = tapped{absent: true}
	for _, line := range lines {
		if words := strings.Fields(line); words[0] == "-D" {
			removed = append(removed, "jump from "+f.name+" "+tapTable+"/"+words[1]+" to "+words[3])
		} else if words[0] == "-X" {
			removed = append(removed, f.name+" chain "+tapTable+"/"+words[1])
		}
	}
	return removed, nil
}

// currentTap returns the tap of a backend, without ports if none was set.
func currentTap(p *atomic.Pointer[firewall.Tap]) *firewall.Tap {
	if tap := p.Load(); tap != nil {
		return tap
	}
	return new(firewall.Tap)
}

// verifyTaps verifies the rules that copy packets of all families. A family that fails does not hold up the other one.
func verifyTaps(ctx context.Context, families []*family, tap *firewall.Tap, hooks []firewall.Hook) (v firewall.Verification) {
	for _, f := range families {
		one := f.verifyTap(ctx, tap, hooks)
		v.Made, v.Notes, v.Tap = append(v.Made, one.Made...), append(v.Notes, one.Notes...), errors.Join(v.Tap, one.Tap)
	}
	return v
}
