package firewall

import (
	"encoding/binary"
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
)

// This file says what fsban's table of nftables consists of. Each rule carries a comment that says what it does: by that
// it is known again.

// hooked are the places of nftables that correspond to the chains of iptables.
var hooked = map[Hook]struct {
	hook     *nftables.ChainHook
	priority *nftables.ChainPriority
}{
	{"raw", "PREROUTING"}:    {nftables.ChainHookPrerouting, nftables.ChainPriorityRaw},
	{"mangle", "PREROUTING"}: {nftables.ChainHookPrerouting, nftables.ChainPriorityMangle},
	{"mangle", "INPUT"}:      {nftables.ChainHookInput, nftables.ChainPriorityMangle},
	{"mangle", "FORWARD"}:    {nftables.ChainHookForward, nftables.ChainPriorityMangle},
	{"filter", "INPUT"}:      {nftables.ChainHookInput, nftables.ChainPriorityFilter},
	{"filter", "FORWARD"}:    {nftables.ChainHookForward, nftables.ChainPriorityFilter},
}

// baseChain is the chain that stands for a hook.
func baseChain(h Hook) (*nftables.Chain, error) {
	at, ok := hooked[h]
	if !ok {
		return nil, fmt.Errorf("firewall.chains: %v is a chain of iptables: with nftables write filter/FORWARD, or another built-in one", h)
	}
	accept := nftables.ChainPolicyAccept
	return &nftables.Chain{
		Name: strings.ToLower(h.Table + "_" + h.Chain), Table: fsbanTable,
		Type: nftables.ChainTypeFilter, Hooknum: at.hook, Priority: at.priority, Policy: &accept,
	}, nil
}

// An nftRule is a rule, and what it does in words.
type nftRule struct {
	text  string
	exprs []expr.Any
}

// layout are the chains that should be, each with its rules, the one that others jump to first.
func (b *NFTables) layout() (chains []*nftables.Chain, rules map[string][]nftRule) {
	own := &nftables.Chain{Name: ChainName, Table: fsbanTable}
	chains, rules = append(chains, own), make(map[string][]nftRule)
	for _, f := range b.families {
		if f.unfit != nil {
			continue
		}
		for _, length := range slices.Backward(slices.Sorted(maps.Keys(f.lengths))) {
			rules[ChainName] = append(rules[ChainName], f.rule(length, b.opts.Target))
		}
	}
	for _, h := range b.opts.Hooks {
		chain, err := baseChain(h)
		if err != nil {
			continue // NewNFTables has refused it
		}
		chains = append(chains, chain)
		rules[chain.Name] = jumps(b.opts.Ports)
	}
	return chains, rules
}

// setOf is the set of all prefixes of one length.
func (f *nftFamily) setOf(length int) *nftables.Set {
	name := f.set
	if length != f.bits {
		name += "_" + strconv.Itoa(length)
	}
	return &nftables.Set{Table: fsbanTable, Name: name, KeyType: f.key, HasTimeout: true, Counter: true, KeyByteOrder: binaryutil.BigEndian}
}

// length is that of the prefixes in the set of a name, if it is one of f's.
func (f *nftFamily) length(set string) (int, bool) {
	if set == f.set {
		return f.bits, true
	}
	suffix, ok := strings.CutPrefix(set, f.set+"_")
	length, err := strconv.Atoi(suffix)
	return length, ok && err == nil && length > 0 && length < f.bits
}

// rule stops what comes from a prefix of one length.
func (f *nftFamily) rule(length int, target Target) nftRule {
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
		exprs = append(exprs, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: net.CIDRMask(length, f.bits), Xor: make([]byte, size)})
	}
	exprs = append(exprs, &expr.Lookup{SourceRegister: 1, SetName: set}, &expr.Counter{})
	if target == Reject {
		exprs = append(exprs, &expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH})
	} else {
		exprs = append(exprs, &expr.Verdict{Kind: expr.VerdictDrop})
	}
	return nftRule{string(target) + " from @" + set, exprs}
}

// jumps lead from a base chain to fsban's own: with everything, or with some ports.
func jumps(ports []Ports) (rules []nftRule) {
	jump := &expr.Verdict{Kind: expr.VerdictJump, Chain: ChainName}
	for _, p := range ports {
		exprs := []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocolNumbers[p.Proto]}},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		}
		first, last := binary.BigEndian.AppendUint16(nil, p.First), binary.BigEndian.AppendUint16(nil, p.Last)
		if p.First == p.Last {
			exprs = append(exprs, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: first})
		} else {
			exprs = append(exprs, &expr.Cmp{Op: expr.CmpOpGte, Register: 1, Data: first}, &expr.Cmp{Op: expr.CmpOpLte, Register: 1, Data: last})
		}
		rules = append(rules, nftRule{"to " + p.String(), append(exprs, jump)})
	}
	if len(ports) == 0 {
		rules = []nftRule{{"everything", []expr.Any{jump}}}
	}
	return rules
}

var protocolNumbers = map[string]byte{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "sctp": unix.IPPROTO_SCTP}
