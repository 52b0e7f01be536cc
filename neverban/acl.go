package neverban

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

const (
	maxNodes    = 4_096  // of one list
	maxPrefixes = 10_000 // of one list, after its denied prefixes are cut out
	widest4     = 8      // a wider prefix is refused: a list that allows half the internet to call vouches for nobody
	widest6     = 16
)

// builtin lists the access lists that FreeSWITCH defines itself, equal on every host.
var builtin = map[string][]netip.Prefix{
	"rfc1918.auto": {
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"),
		netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("fe80::/10"),
	},
	"rfc6598.auto":  {netip.MustParsePrefix("100.64.0.0/10")},
	"loopback.auto": {netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
}

// An aclWatch watches the access lists of FreeSWITCH named by the operator, as in acl.conf.
type aclWatch struct {
	watcher *Watcher
	lists   map[string]acl // last known
}

// An acl is one access list.
type acl struct {
	name    string
	allows  bool // default: addresses without a node are allowed
	nodes   []node
	skipped []string // invalid or unsupported parts
}

// A node is a prefix that a list allows or denies. The longest prefix decides, and of equal ones the first.
type node struct {
	prefix netip.Prefix
	allow  bool
}

func (a *aclWatch) look(ctx context.Context) (complete bool) {
	var r report
	asked := slices.DeleteFunc(unique(a.watcher.opts.ACLs), func(name string) bool {
		r.addPrefixes(name, builtin[name])
		return builtin[name] != nil
	})
	complete = true
	if len(asked) > 0 {
		if err := a.update(ctx); err != nil {
			consequence := "their addresses can be banned: add them to ignoreip"
			if a.lists != nil {
				consequence = "their known addresses stay on the never-ban list"
			}
			r.problems = append(r.problems, fmt.Sprintf("access lists: %v: %s", err, consequence))
			complete = false
		}
	}
	if ctx.Err() != nil {
		return false
	}
	for _, name := range asked {
		list, known := a.lists[name]
		switch {
		case strings.HasSuffix(name, ".auto"):
			r.problems = append(r.problems, fmt.Sprintf("acl %s: FreeSWITCH makes this list up, of everybody or of what it takes for "+
				"its own network: "+
				"write the prefixes into ignoreip", printable(name)))
		case known:
			prefixes, problems := list.allowed()
			r.addPrefixes(name, prefixes)
			r.problems = append(r.problems, problems...)
		case a.lists != nil:
			r.problems = append(r.problems, fmt.Sprintf("acl %s: acl.conf.xml has no such list", printable(name)))
		}
	}
	a.watcher.put(acls, r)
	return complete
}

func (r *report) addPrefixes(list string, prefixes []netip.Prefix) {
	for _, p := range prefixes {
		r.entries = append(r.entries, Entry{p, "acl " + printable(list)})
	}
}

// update reads the lists from FreeSWITCH. On an error the known ones are kept.
func (a *aclWatch) update(ctx context.Context) error {
	if a.watcher.opts.API == nil {
		return errors.New("there is no FreeSWITCH to ask")
	}
	data, err := a.watcher.ask(ctx, "xml_locate", "configuration configuration name acl.conf")
	if err != nil {
		return err
	}
	lists, err := parseACLs(data)
	if err != nil {
		return fmt.Errorf("acl.conf: %w", err)
	}
	a.lists = lists
	return nil
}

// parseACLs parses acl.conf. Of lists with the same name the last one applies.
func parseACLs(data []byte) (map[string]acl, error) {
	lists := make(map[string]acl)
	var list acl
	err := walk(data, func(path []string, attrs map[string]string) {
		switch {
		case is(path, "configuration", "network-lists", "list"):
			standard, given := attrs["default"]
			list = acl{name: attrs["name"], allows: !given || truth(standard)}
		case is(path, "configuration", "network-lists", "list", "node"):
			list.add(attrs)
		default:
			return
		}
		lists[list.name] = list
	}, func([]string, string) {})
	return lists, err
}

// add adds one node element.
func (l *acl) add(attrs map[string]string) {
	allow := l.allows
	if kind, given := attrs["type"]; given {
		allow = truth(kind)
	}
	var prefixes []netip.Prefix
	var wrong string
	switch {
	case attrs["domain"] != "":
		wrong = fmt.Sprintf("the addresses of the users of %s are not known here; write them into ignoreip", printable(attrs["domain"]))
	case attrs["cidr"] != "":
		for text := range strings.SplitSeq(attrs["cidr"], ",") {
			p, err := netip.ParsePrefix(strings.TrimSpace(text))
			if err != nil {
				wrong = fmt.Sprintf("%q is no prefix", text[:min(len(text), 80)])
				continue
			}
			prefixes = append(prefixes, p)
		}
	case attrs["host"] != "" && attrs["mask"] != "":
		p, ok := masked(attrs["host"], attrs["mask"])
		if ok {
			prefixes = append(prefixes, p)
		} else {
			wrong = fmt.Sprintf("%s with mask %s is no prefix", printable(attrs["host"]), printable(attrs["mask"]))
		}
	}
	for _, port := range []string{"port", "ports", "port-min", "port-max"} {
		if allow && attrs[port] != "" {
			prefixes, wrong = nil, fmt.Sprintf("%s is allowed for some ports only", printable(attrs["cidr"]+attrs["host"]))
		}
	}
	if wrong != "" && allow && len(l.skipped) <= maxProblems {
		l.skipped = append(l.skipped, wrong)
	}
	for _, p := range prefixes {
		if len(l.nodes) <= maxNodes {
			l.nodes = append(l.nodes, node{plain(p), allow})
		}
	}
}

// masked returns the prefix of an IPv4 address and a mask in dotted form.
func masked(host, mask string) (netip.Prefix, bool) {
	addr, err := netip.ParseAddr(host)
	m, err2 := netip.ParseAddr(mask)
	if err != nil || err2 != nil || !addr.Is4() || !m.Is4() {
		return netip.Prefix{}, false
	}
	raw := m.As4()
	word := uint32(raw[0])<<24 | uint32(raw[1])<<16 | uint32(raw[2])<<8 | uint32(raw[3])
	ones := bits.LeadingZeros32(^word)
	return netip.PrefixFrom(addr, ones), bits.OnesCount32(word) == ones
}

// allowed returns the allowed prefixes of the list, and its problems.
func (l acl) allowed() (prefixes []netip.Prefix, problems []string) {
	who := "acl " + printable(l.name)
	switch {
	case l.allows:
		return nil, []string{who + `: its default is "allow": it allows everybody`}
	case len(l.nodes) > maxNodes:
		return nil, []string{fmt.Sprintf("%s: more than %d nodes", who, maxNodes)}
	}
	for _, text := range l.skipped {
		problems = append(problems, who+": "+text)
	}
	decides := make(map[netip.Prefix]bool, len(l.nodes))
	var denied []netip.Prefix
	for _, n := range l.nodes {
		if _, decided := decides[n.prefix]; decided {
			continue
		}
		if decides[n.prefix] = n.allow; !n.allow {
			denied = append(denied, n.prefix)
		}
	}
	for _, n := range l.nodes {
		p := n.prefix
		if !n.allow || !decides[p] {
			continue
		}
		if widest := widest(p); p.Bits() < widest {
			problems = append(problems, fmt.Sprintf("%s: %s is wider than /%d", who, p, widest))
			continue
		}
		// A longer denied prefix cuts a hole; an allowed prefix within the hole is an entry of its own.
		prefixes = without(prefixes, p, denied)
		if len(prefixes) > maxPrefixes {
			return nil, []string{fmt.Sprintf("%s: more than %d prefixes, once what it denies is cut out", who, maxPrefixes)}
		}
	}
	return prefixes, problems
}

func widest(p netip.Prefix) int {
	if p.Addr().Is4() {
		return widest4
	}
	return widest6
}

// without appends p, without the parts covered by holes, to list, in pieces. A hole around p covers nothing: p is longer.
func without(list []netip.Prefix, p netip.Prefix, holes []netip.Prefix) []netip.Prefix {
	var inside []netip.Prefix
	for _, h := range holes {
		if h.Bits() > p.Bits() && p.Contains(h.Addr()) {
			inside = append(inside, h)
		}
	}
	return cut(list, p, inside)
}

// cut appends p to list without holes, all of which lie in p.
func cut(list []netip.Prefix, p netip.Prefix, holes []netip.Prefix) []netip.Prefix {
	switch {
	case len(holes) == 0:
		return append(list, p)
	case len(list) > maxPrefixes || slices.Contains(holes, p):
		return list
	}
	low, high := halves(p)
	for _, half := range []netip.Prefix{low, high} {
		list = cut(list, half, slices.DeleteFunc(slices.Clone(holes), func(h netip.Prefix) bool { return !half.Contains(h.Addr()) }))
	}
	return list
}

// halves returns the two halves of p.
func halves(p netip.Prefix) (low, high netip.Prefix) {
	raw := p.Addr().AsSlice()
	raw[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	addr, _ := netip.AddrFromSlice(raw)
	return netip.PrefixFrom(p.Addr(), p.Bits()+1), netip.PrefixFrom(addr, p.Bits()+1)
}

// truth reports whether FreeSWITCH reads s as true.
func truth(s string) bool {
	n, err := strconv.Atoi(s)
	return err == nil && n != 0 ||
		slices.Contains([]string{"yes", "on", "true", "t", "enabled", "active", "allow"}, strings.ToLower(s))
}
