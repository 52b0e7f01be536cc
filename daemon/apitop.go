package daemon

import (
	"context"
	"time"

	"fsban/control"
)

// Top tells what happens right now, with up to n addresses and users.
func (a api) Top(ctx context.Context, n int) (control.Top, error) {
	s, err := a.Status(ctx)
	if err != nil {
		return control.Top{}, err
	}
	t := control.Top{
		At: time.Now(), Started: s.Started, Version: s.Version, Ready: s.Ready, Attempts: s.Attempts, Bans: s.Bans, Held: s.Policy.Held,
		Sources: s.Sources, Speakers: s.Speakers, Problems: s.Problems,
		Addresses: []control.Busy{}, Users: []control.BusyUser{}, NewBans: []control.Ban{},
	}
	for _, d := range s.Firewall.Dropped {
		t.Dropped.Packets += d.Packets
		t.Dropped.Bytes += d.Bytes
	}
	err = a.do(ctx, func(l *loop) { l.top(&t, n) })
	return t, err
}

// top adds to t who tries most, who is tried most, and the bans made last.
func (l *loop) top(t *control.Top, n int) {
	for _, h := range l.busiest.addresses.busy(n, t.At) {
		b, banned := l.ledger.Get(h.key)
		_, known := l.engine.KnownGood(h.key.Addr())
		t.Addresses = append(t.Addresses, control.Busy{
			Prefix: h.key, Attempts: uint64(h.count()), Users: h.others.n, Last: h.last, LastUser: h.user, UserAgent: h.agent,
			Banned: banned && !b.Over(t.At), Known: known,
		})
	}
	for _, h := range l.busiest.users.busy(n, t.At) {
		t.Users = append(t.Users, control.BusyUser{
			User: h.key.user, Domain: h.key.domain, Attempts: uint64(h.count()), Addresses: h.others.n, Last: h.last,
		})
	}
	for _, b := range l.newBans.newest() {
		t.NewBans = append(t.NewBans, wire(&b))
	}
}
