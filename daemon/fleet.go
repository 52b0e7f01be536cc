package daemon

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"fsban/config"
	"fsban/decide"
	"fsban/fleet"
	"fsban/policy"
)

// maxSkew is the difference between Redis' clock and ours that is logged.
const maxSkew = 2 * time.Second

// fleetName returns this node's name without the part that keeps it unique, or "" without a fleet.
func fleetName(cfg *config.Config) (string, error) {
	c := &cfg.Fleet
	if !c.On() {
		return "", nil
	}
	if _, _, _, err := c.Addresses(); err != nil {
		return "", fmt.Errorf("fleet.redis: %w", err)
	}
	if c.Node != "" {
		return c.Node, nil
	}
	host, _ := os.Hostname()
	return nodeName(host), nil
}

// joinFleet makes this node's part of the fleet. It starts nothing.
func (d *Daemon) joinFleet(r *decide.Restored) error {
	c := &d.cfg().Fleet
	addrs, db, _, err := c.Addresses()
	if err != nil {
		return fmt.Errorf("fleet.redis: %w", err)
	}
	secure, err := c.TLSConfig()
	if err != nil {
		return err
	}
	d.fleet = fleet.New(fleet.Options{
		Addrs: addrs, DB: db, Username: c.Username, Password: string(c.Password), TLS: secure, Sentinel: c.Sentinel, Cluster: c.Cluster,
		Name: c.Name, Node: r.Node, From: r.Fleet.Place, FromEnd: r.Fleet.Lost,
		Take: d.loop.TakeBatch, Now: d.loop.Now, Current: d.loop.Current, Self: d.self, Changed: d.onFleet, Pace: d.opts.pace,
	})
	d.loop.Join(d.fleet)
	d.metrics.ofFleet(table{d.registry}, d)
	return nil
}

// nodeName returns a host's name as it can stand in Redis.
func nodeName(host string) string {
	host, _, _ = strings.Cut(host, ".")
	host = strings.Map(func(r rune) rune {
		if r < 0x80 && (r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z') {
			return r
		}
		return -1
	}, host)
	host = strings.TrimLeft(host[:min(len(host), 60)], "-_")
	if host == "" {
		return "node"
	}
	return host
}

// self is the state of this node that the others see.
func (d *Daemon) self() fleet.Node {
	v4, v6 := d.ledger.Count()
	n := fleet.Node{Version: d.opts.Version, Started: d.started, Ready: len(d.unready()) == 0, Watching: d.watch.on.Load(),
		Bans: v4 + v6, Share: d.cfg().Fleet.Share}
	o := d.loop.Observed()
	for k := range policy.NumKinds {
		if active := &o.Active[k]; active.OK && !slices.Contains(n.ActiveSources, active.Source.String()) {
			n.ActiveSources = append(n.ActiveSources, active.Source.String())
		}
	}
	return n
}

// onFleet logs that the fleet has become reachable or unreachable.
func (d *Daemon) onFleet(s fleet.Status) {
	switch {
	case s.Up:
		d.log.Info("fleet connected", "name", d.cfg().Fleet.Name, "redis", d.cfg().Fleet.Redis, "nodes", s.Nodes)
		if s.Skew.Abs() > maxSkew {
			d.log.Warn("Redis' clock and ours differ", "skew", s.Skew.Round(time.Millisecond))
		}
	case errors.Is(s.Err, fleet.ErrEmpty): // the first node begins the fleet: that is no failure
		d.log.Info("fleet has no state yet", "name", d.cfg().Fleet.Name)
	case s.Err != nil:
		d.log.Warn("fleet unreachable: running standalone, queueing updates", "error", s.Err, "queued", s.Queue)
	}
}
