package nft

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"

	"fsban/firewall"
)

// The chains that copy packets follow those that drop, and all filters of the usual priority: a packet that they drop is not copied.
// At hook input the kernel has reassembled fragments of IPv4, and addresses are those that FreeSWITCH sees.
//
//	chain tap_input  { type filter hook input priority filter + 1; udp dport 5060 log prefix "fsban" group 5060 queue-threshold 32; ... }
//	chain tap_output { type filter hook output priority filter + 1; udp sport 5060 log ...; ... }
var tapHooks = []tapHook{
	{"tap_input", nftables.ChainHookInput, []side{destination}},
	{"tap_output", nftables.ChainHookOutput, []side{source}},
	{"tap_forward", nftables.ChainHookForward, []side{destination, source}},
}

// A tapHook is a chain that copies packets.
type tapHook struct {
	name  string
	hook  *nftables.ChainHook
	sides []side // ports that are compared
}

// A side is the offset of a port in the header of UDP or TCP.
type side uint32

const (
	source      side = 0
	destination side = 2
)

func (s side) String() string {
	if s == source {
		return "from"
	}
	return "to"
}

// tapPriority is the priority of the chains that copy packets.
var tapPriority = new(*nftables.ChainPriorityFilter + 1)

// isTapName reports whether a chain has the name of one that copies packets.
func isTapName(chain string) bool {
	return slices.ContainsFunc(tapHooks, func(h tapHook) bool { return h.name == chain })
}

// tapComment begins the comments of rules that copy packets.
const tapComment = "copy "

// tapLayout returns the chains that a tap needs, each with its rules.
func (b *Backend) tapLayout(tap *firewall.Tap) (chains []*nftables.Chain, rules map[string][]tableRule) {
	rules = make(map[string][]tableRule)
	if len(tap.Ports) == 0 {
		return nil, rules
	}
	forwards := slices.ContainsFunc(b.opts.Hooks, func(h firewall.Hook) bool { _, ok := firewall.Forwards(h); return ok })
	for _, h := range tapHooks {
		if h.hook == nftables.ChainHookForward && !forwards {
			continue
		}
		accept := nftables.ChainPolicyAccept
		chains = append(chains, &nftables.Chain{
			Name: h.name, Table: fsbanTable, Type: nftables.ChainTypeFilter, Hooknum: h.hook, Priority: tapPriority, Policy: &accept,
		})
		for _, s := range h.sides {
			for _, p := range tap.Ports {
				text := fmt.Sprintf("%s%s %v group %d threshold %d", tapComment, s, p, tap.Group, tap.Threshold)
				rules[h.name] = append(rules[h.name], tableRule{text, append(portMatch(p, s), logTo(tap))})
			}
		}
		if h.hook == nftables.ChainHookInput {
			rules[h.name] = append(rules[h.name], fragmentRules(tap)...)
		}
	}
	return chains, rules
}

// fragmentRules copy the fragments of IPv6 behind the first, which have no ports. Hook input sees them unless connection tracking is in
// use.
func fragmentRules(tap *firewall.Tap) (rules []tableRule) {
	for _, proto := range []string{"udp", "tcp"} {
		if !slices.ContainsFunc(tap.Ports, func(p firewall.Ports) bool { return p.Proto == proto }) {
			continue
		}
		const fragmentHeader, offsetAt = 44, 2
		text := fmt.Sprintf("%sfragments of %s group %d threshold %d", tapComment, proto, tap.Group, tap.Threshold)
		rules = append(rules, tableRule{text, []expr.Any{
			&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.NFPROTO_IPV6}},
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocolNumbers[proto]}},
			&expr.Exthdr{DestRegister: 1, Type: fragmentHeader, Offset: offsetAt, Len: 2, Op: expr.ExthdrOpIpv6},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 2, Mask: []byte{0xff, 0xf8}, Xor: []byte{0, 0}},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{0, 0}},
			logTo(tap),
		}})
	}
	return rules
}

func logTo(tap *firewall.Tap) *expr.Log {
	return &expr.Log{
		Key:   1<<unix.NFTA_LOG_GROUP | 1<<unix.NFTA_LOG_PREFIX | 1<<unix.NFTA_LOG_QTHRESHOLD,
		Group: tap.Group, QThreshold: tap.Threshold, Data: []byte(firewall.TapPrefix),
	}
}

// portMatch matches a protocol and one of its ports.
func portMatch(p firewall.Ports, s side) []expr.Any {
	exprs := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocolNumbers[p.Proto]}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: uint32(s), Len: 2},
	}
	first, last := binary.BigEndian.AppendUint16(nil, p.First), binary.BigEndian.AppendUint16(nil, p.Last)
	if p.First == p.Last {
		return append(exprs, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: first})
	}
	return append(exprs, &expr.Cmp{Op: expr.CmpOpGte, Register: 1, Data: first}, &expr.Cmp{Op: expr.CmpOpLte, Register: 1, Data: last})
}

// SetTap implements firewall.Backend.
func (b *Backend) SetTap(tap firewall.Tap) { b.tap.Store(&tap) }

// arrangeTap makes missing chains and rules that copy packets, and removes surplus ones, in a transaction of its own: a kernel that
// cannot copy packets still drops them. It returns what it repaired: rules that are made for the first time are no repair.
func (b *Backend) arrangeTap() (repaired []string, err error) {
	tap := b.tap.Load()
	if tap == nil {
		tap = new(firewall.Tap)
	}
	wanted := len(tap.Ports) > 0
	if !wanted && b.untapped {
		return nil, nil
	}
	conn, _, err := b.dial(b.watcher.Mine)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.CloseLasting() }()
	all, err := tableChains(conn)
	if err != nil {
		return nil, tapError(err)
	}
	there := make(map[string]*nftables.Chain)
	for _, c := range all {
		if isTapName(c.Name) {
			there[c.Name] = c
		}
	}
	chains, rules := b.tapLayout(tap)
	made := b.changeChains(conn, there, chains, rules)
	if len(made) > 0 {
		if err := conn.Flush(); err != nil {
			b.tapped = false
			return nil, tapError(err)
		}
	}
	if b.tapped {
		repaired = made
	}
	b.tapped, b.untapped = wanted, !wanted
	return repaired, nil
}

// changeChains queues the changes that turn the chains there into those of a layout without jumps.
func (b *Backend) changeChains(conn *nftables.Conn, there map[string]*nftables.Chain, chains []*nftables.Chain,
	rules map[string][]tableRule) (made []string) {
	for _, c := range chains {
		old := there[c.Name]
		delete(there, c.Name)
		alike := old != nil && sameHook(old, c)
		if alike && slices.EqualFunc(b.ruleTexts(conn, c), rules[c.Name], func(text string, r tableRule) bool { return text == r.text }) {
			continue
		}
		if old != nil && !alike {
			conn.FlushChain(old)
			conn.DelChain(old)
		}
		made = append(made, "rules of chain "+c.Name)
		conn.AddChain(c)
		conn.FlushChain(c)
		for _, r := range rules[c.Name] {
			conn.AddRule(&nftables.Rule{Table: fsbanTable, Chain: c, Exprs: r.exprs,
				UserData: userdata.AppendString(nil, userdata.TypeComment, r.text)})
		}
	}
	for _, h := range tapHooks {
		if c := there[h.name]; c != nil {
			made = append(made, "end of chain "+h.name)
			conn.FlushChain(c)
			conn.DelChain(c)
		}
	}
	return made
}

// tapError returns an error with the operation, the cause and the remedy.
func tapError(err error) error {
	errno, ok := errors.AsType[syscall.Errno](err)
	if ok && slices.Contains([]syscall.Errno{syscall.ENOENT, syscall.EOPNOTSUPP, syscall.EINVAL}, errno) {
		err = fmt.Errorf("this kernel cannot copy packets (modules nfnetlink_log, nft_log): load them, or set sip.tap to hep (%w)", errno)
		return fmt.Errorf("nft copy packets in table inet %s: %w", TableName, err)
	}
	return nftError("copy packets in", "table inet "+TableName, err)
}
