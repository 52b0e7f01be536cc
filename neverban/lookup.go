package neverban

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Resolver resolves names, as *net.Resolver does.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
	LookupSRV(ctx context.Context, service, proto, name string) (cname string, records []*net.SRV, err error)
}

const (
	lookupTimeout = 5 * time.Second  // of one query
	nameTimeout   = 10 * time.Second // of all queries for one name
	maxLookups    = 8                // concurrent names
	maxTargets    = 16               // hosts of one service
	maxPerName    = 64               // addresses
)

// names queries the name servers for all sources.
type names struct {
	resolver Resolver
	slots    chan struct{}
}

func newNames(r Resolver) *names { return &names{r, make(chan struct{}, maxLookups)} }

// An answer is the result of resolving a name. With an error its addresses are, in part or all, earlier ones.
type answer struct {
	addrs []netip.Addr
	err   error
}

// A lookup resolves the names of one source, and keeps their last answers.
type lookup struct {
	names    *names
	services bool // resolve the SIP services of a name too
	known    map[string]answer
}

// resolve resolves hosts, and forgets all others. It returns soon after the end of ctx.
func (l *lookup) resolve(ctx context.Context, hosts []string) map[string]answer {
	ctx, cancel := context.WithTimeout(ctx, refreshEvery)
	defer cancel()
	answers := make(map[string]answer, len(hosts))
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, host := range unique(hosts) {
		l.names.slots <- struct{}{} // every holder returns its slot within nameTimeout
		wg.Go(func() {
			defer func() { <-l.names.slots }()
			a := l.one(ctx, host)
			mu.Lock()
			answers[host] = a
			mu.Unlock()
		})
	}
	wg.Wait()
	l.known = answers
	return answers
}

// one resolves one name. If a query failed, the last known addresses are added.
func (l *lookup) one(ctx context.Context, host string) answer {
	ctx, cancel := context.WithTimeout(ctx, nameTimeout)
	defer cancel()
	addrs, err := l.addresses(ctx, host)
	lost := err != nil && !notFound(err)
	if l.services {
		for _, s := range [][2]string{{"sip", "udp"}, {"sip", "tcp"}, {"sips", "tcp"}} {
			targets, failed := l.targets(ctx, s[0], s[1], host)
			for _, target := range targets {
				more, unresolved := l.addresses(ctx, target)
				addrs = append(addrs, more...)
				failed = failed || unresolved != nil
			}
			lost = lost || failed
		}
	}
	if err != nil && notFound(err) {
		if len(addrs) > 0 {
			err = nil // a name with services only
		} else {
			lost = true
		}
	}
	slices.SortFunc(addrs, netip.Addr.Compare) // servers rotate the order
	addrs = usable(addrs)
	if err == nil && len(addrs) == 0 {
		err, lost = errors.New("no usable address"), true
	}
	if lost {
		addrs = usable(append(addrs, l.known[host].addrs...))
	}
	return answer{addrs, err}
}

func (l *lookup) addresses(ctx context.Context, host string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	addrs, err := l.names.resolver.LookupNetIP(ctx, "ip", host)
	for i, a := range addrs {
		addrs[i] = a.Unmap().WithZone("")
	}
	return addrs, err
}

// targets returns the hosts of a service; failed reports that there may be others.
func (l *lookup) targets(ctx context.Context, service, proto, host string) (hosts []string, failed bool) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	_, records, err := l.names.resolver.LookupSRV(ctx, service, proto, host)
	for _, r := range records[:min(len(records), maxTargets)] {
		if target := strings.TrimSuffix(r.Target, "."); isHostName(target) { // "." alone: no such service
			hosts = append(hosts, target)
		}
	}
	return hosts, err != nil && !notFound(err)
}

// usable returns the first maxPerName unique addrs, without those that belong to no host.
func usable(addrs []netip.Addr) []netip.Addr {
	list := make([]netip.Addr, 0, min(len(addrs), maxPerName))
	for _, a := range addrs {
		if a = a.Unmap().WithZone(""); !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || slices.Contains(list, a) {
			continue
		}
		if list = append(list, a); len(list) == maxPerName {
			break
		}
	}
	return list
}

// notFound reports whether err is an answer without records, not a failed query.
func notFound(err error) bool {
	dns := (*net.DNSError)(nil)
	return errors.As(err, &dns) && dns.IsNotFound
}

// reason returns the cause of err without the name, which the caller adds.
func reason(err error) string {
	dns := (*net.DNSError)(nil)
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &dns) && dns.IsTimeout:
		return "the name server does not answer"
	case dns != nil:
		return dns.Err
	}
	return err.Error()
}

// isHostName reports whether s is a valid host name.
func isHostName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(s, "."), ".") {
		if label == "" || len(label) > 63 {
			return false
		}
	}
	return strings.IndexFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_' && r != '.'
	}) < 0
}

// unique returns a sorted copy of list without duplicates.
func unique(list []string) []string {
	list = slices.Clone(list)
	slices.Sort(list)
	return slices.Compact(list)
}
