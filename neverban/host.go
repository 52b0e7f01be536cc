package neverban

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
)

// A hostWatch resolves the host names that the operator has written, in ignoreip and in the file.
type hostWatch struct {
	watcher *Watcher
	lookup  *lookup
}

func newHostWatch(w *Watcher) *hostWatch { return &hostWatch{w, &lookup{names: w.names}} }

func (h *hostWatch) look(ctx context.Context) (complete bool) {
	h.watcher.mu.Lock()
	named := h.watcher.named
	h.watcher.mu.Unlock()

	answers := h.lookup.resolve(ctx, slices.Concat(h.watcher.opts.Hosts, named))
	if ctx.Err() != nil {
		return false
	}
	var r report
	for _, host := range unique(h.watcher.opts.Hosts) {
		r.add("ignoreip "+printable(host), answers[host].addrs)
		r.unresolved("ignoreip "+printable(host), answers[host])
	}
	for _, host := range unique(named) {
		r.add("ignore_file "+h.watcher.opts.File+" ("+printable(host)+")", answers[host].addrs)
		r.unresolved("ignore_file "+h.watcher.opts.File+": "+printable(host), answers[host])
	}
	h.watcher.put(hosts, r)
	return len(r.problems) == 0
}

// add adds the addresses of a name.
func (r *report) add(origin string, addrs []netip.Addr) {
	for _, addr := range addrs {
		r.entries = append(r.entries, single(addr, origin))
	}
}

// unresolved adds the problem of a name without a current answer, if there is one.
func (r *report) unresolved(origin string, a answer) {
	if a.err == nil {
		return
	}
	consequence := "it can be banned"
	if len(a.addrs) > 0 {
		consequence = "its known addresses stay on the never-ban list"
	}
	r.problems = append(r.problems, fmt.Sprintf("%s does not resolve: %s: %s", origin, reason(a.err), consequence))
}
