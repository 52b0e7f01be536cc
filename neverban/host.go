package neverban

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
)

// A hostWatch resolves the host names that the operator has written, in ignoreip and in the file.
type hostWatch struct {
	*Watcher
	lookup *lookup
}

func newHostWatch(w *Watcher) *hostWatch { return &hostWatch{w, &lookup{names: w.names}} }

func (h *hostWatch) look(ctx context.Context) (complete bool) {
	h.mu.Lock()
	named := h.named
	h.mu.Unlock()

	answers := h.lookup.resolve(ctx, slices.Concat(h.opts.Hosts, named))
	if ctx.Err() != nil {
		return false
	}
	var r report
	for _, host := range unique(h.opts.Hosts) {
		r.add("ignoreip "+printable(host), answers[host].addrs)
		r.unresolved("ignoreip "+printable(host), answers[host].err)
	}
	for _, host := range unique(named) {
		r.add("ignore_file "+h.opts.File+" ("+printable(host)+")", answers[host].addrs)
		r.unresolved("ignore_file "+h.opts.File+": "+printable(host), answers[host].err)
	}
	h.put(hosts, r)
	return len(r.problems) == 0
}

// add adds what a name stands for.
func (r *report) add(origin string, addrs []netip.Addr) {
	for _, addr := range addrs {
		r.entries = append(r.entries, single(addr, origin))
	}
}

// unresolved adds what is wrong with a name, if anything is.
func (r *report) unresolved(who string, err error) {
	if err != nil {
		r.problems = append(r.problems, fmt.Sprintf("%s does not resolve: %s", who, reason(err)))
	}
}
