package nft

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"fsban/firewall"
)

// This file describes fsban's table of nftables. A later run recognises each rule by its comment.

// hooked are the hooks and priorities of nftables that correspond to the chains of iptables.
var hooked = map[string]struct {
	hook     *nftables.ChainHook
	priority *nftables.ChainPriority
}{
	"raw/PREROUTING":    {nftables.ChainHookPrerouting, nftables.ChainPriorityRaw},
	"mangle/PREROUTING": {nftables.ChainHookPrerouting, nftables.ChainPriorityMangle},
	"mangle/INPUT":      {nftables.ChainHookInput, nftables.ChainPriorityMangle},
	"mangle/FORWARD":    {nftables.ChainHookForward, nftables.ChainPriorityMangle},
	"filter/INPUT":      {nftables.ChainHookInput, nftables.ChainPriorityFilter},
	"filter/FORWARD":    {nftables.ChainHookForward, nftables.ChainPriorityFilter},
}

// baseChain returns the base chain for a hook.
func baseChain(h firewall.Hook) (*nftables.Chain, error) {
	at, ok := hooked[h.String()]
	if !ok {
		return nil, fmt.Errorf("firewall.chains: %v is a chain of iptables: with nftables write filter/FORWARD, or another built-in one", h)
	}
	accept := nftables.ChainPolicyAccept
	return &nftables.Chain{
		Name: baseName(h.String()), Table: fsbanTable,
		Type: nftables.ChainTypeFilter, Hooknum: at.hook, Priority: at.priority, Policy: &accept,
	}, nil
}

// baseName returns the name of the base chain for a hook.
func baseName(hook string) string { return strings.ToLower(strings.ReplaceAll(hook, "/", "_")) }

// everything is the comment of a jump without condition.
const everything = "everything"

// A tableRule is a rule, with its comment.
type tableRule struct {
	text  string
	exprs []expr.Any
}

// layout returns the chains, each with its rules. FSBAN, the target of the jumps, is the first.
func (b *Backend) layout() (chains []*nftables.Chain, rules map[string][]tableRule) {
	own := &nftables.Chain{Name: firewall.ChainName, Table: fsbanTable}
	chains, rules = append(chains, own), make(map[string][]tableRule)
	for _, f := range b.families {
		if f.unfit != nil {
			continue
		}
		for _, length := range slices.Backward(slices.Sorted(maps.Keys(f.lengths))) {
			rules[firewall.ChainName] = append(rules[firewall.ChainName], f.rule(length, b.opts.Target))
		}
	}
	for _, h := range b.opts.Hooks {
		chain, err := baseChain(h)
		if err != nil {
			continue // New has refused it
		}
		chains = append(chains, chain)
		rules[chain.Name] = jumps(b.opts.Ports)
	}
	return chains, rules
}

// setOf returns the set of all prefixes of one length.
func (f *family) setOf(length int) *nftables.Set {
	name := f.set
	if length != f.bits {
		name += "_" + strconv.Itoa(length)
	}
	return &nftables.Set{Table: fsbanTable, Name: name, KeyType: f.key, HasTimeout: true, Counter: true, KeyByteOrder: binaryutil.BigEndian}
}

// length returns the length of the prefixes in a set, by the set's name. It reports false if the name is not one of f's.
func (f *family) length(set string) (int, bool) {
	if set == f.set {
		return f.bits, true
	}
	suffix, ok := strings.CutPrefix(set, f.set+"_")
	length, err := strconv.Atoi(suffix)
	return length, ok && err == nil && length > 0 && length < f.bits
}

// rule drops packets from the prefixes of one length.
func (f *family) rule(length int, target firewall.Target) tableRule {
	set := f.setOf(length).Name
	proto, offset := byte(unix.NFPROTO_IPV4), uint32(12)
	if f.bits == 128 {
		proto, offset = unix.NFPROTO_IPV6, 8
	}
	size := uint32(f.bits / 8)
	exprs := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
	}
	if length < f.bits {
		exprs = append(exprs, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: net.CIDRMask(length, f.bits),
			Xor: make([]byte, size)})
	}
	exprs = append(exprs, &expr.Lookup{SourceRegister: 1, SetName: set}, &expr.Counter{})
	if target == firewall.Reject {
		exprs = append(exprs, &expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH})
	} else {
		exprs = append(exprs, &expr.Verdict{Kind: expr.VerdictDrop})
	}
	return tableRule{string(target) + " from @" + set, exprs}
}

// jumps returns the rules of a base chain that jump to FSBAN: for all packets, or for some ports.
func jumps(ports []firewall.Ports) (rules []tableRule) {
	jump := &expr.Verdict{Kind: expr.VerdictJump, Chain: firewall.ChainName}
	for _, p := range ports {
		rules = append(rules, tableRule{"to " + p.String(), append(portMatch(p, destination), jump)})
	}
	if len(ports) == 0 {
		rules = []tableRule{{everything, []expr.Any{jump}}}
	}
	return rules
}

var protocolNumbers = map[string]byte{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "sctp": unix.IPPROTO_SCTP}
