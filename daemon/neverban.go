package daemon

import (
	"context"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"fsban/config"
	"fsban/decide"
	"fsban/esl"
	"fsban/neverban"
	"fsban/policy"
)

// neverBan passes the never-ban list to the decision loop whenever it changes.
type neverBan struct {
	watcher *neverban.Watcher
	client  *esl.Client
	loop    *decide.Loop
	tap     *tap // nil: none
	log     *slog.Logger
	logged  []string // problems; the watcher's goroutine's own
}

func newNeverBan(cfg *config.Config, s *sources, loop *decide.Loop, log *slog.Logger) *neverBan {
	n := &neverBan{client: s.client, loop: loop, tap: s.tap, log: log}
	n.watcher = neverban.New(n.options(cfg))
	n.tap.setOwn(n.watcher.Local())
	return n
}

// options are the never-ban list's part of a configuration.
func (n *neverBan) options(cfg *config.Config) neverban.Options {
	p := &cfg.Policy
	opts := neverban.Options{
		Hosts: p.IgnoreHosts(), File: p.IgnoreFile, NoGateways: !p.IgnoreGateways, ACLs: p.IgnoreACLs, NoOwn: !p.IgnoreSelf,
		API: n.client.API, Changed: n.changed, SSHPorts: []uint16{},
		ParseFile: func(data []byte) ([]netip.Prefix, []string, error) {
			return config.ParseIgnoreFile(filepath.Base(p.IgnoreFile), data)
		},
	}
	for _, prefix := range p.IgnorePrefixes() {
		opts.Prefixes = append(opts.Prefixes, neverban.Entry{Prefix: prefix, Origin: "ignoreip"})
	}
	if p.IgnoreSSH {
		for _, port := range p.SSHPorts {
			opts.SSHPorts = append(opts.SSHPorts, uint16(port))
		}
	}
	return opts
}

// local is the list as far as it is known before the watcher runs.
func (n *neverBan) local() []policy.NeverEntry { return entriesOf(n.watcher.Local()) }

// changed runs in the watcher's goroutine. The loop runs for as long as the watcher does.
func (n *neverBan) changed(entries []neverban.Entry, problems []string) {
	n.logProblems(problems)
	n.tap.setOwn(entries)
	_ = n.loop.SetNeverBan(context.Background(), entriesOf(entries))
}

// logProblems logs new problems, except that the event socket is down: its client logs that.
func (n *neverBan) logProblems(problems []string) {
	for _, p := range problems {
		if !slices.Contains(n.logged, p) && !strings.Contains(p, esl.ErrDown.Error()) {
			n.log.Warn("never-ban list incomplete", "error", p)
		}
	}
	n.logged = problems
}

func entriesOf(entries []neverban.Entry) []policy.NeverEntry {
	list := make([]policy.NeverEntry, len(entries))
	for i, e := range entries {
		list[i] = policy.NeverEntry(e)
	}
	return list
}
