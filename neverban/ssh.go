package neverban

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

const (
	maxPeers       = 1_000            // addresses that have logged in
	maxConnections = 10_000           // connections whose age is known
	peerStays      = 10 * time.Minute // after the last sign of a login: an administrator may reconnect

	// tablesEvery is the interval of reading the tables of connections. For each read the kernel walks over its whole hash
	// table, some 10 ms of CPU time on a machine with much memory, however few connections there are.
	tablesEvery = 30 * time.Second
)

// An sshWatch watches the remote addresses of ssh logins.
//
// A connection to sshd proves nothing by itself: any host can open one, and until sshd closes it, the kernel shows it like an
// administrator's, including the socket's owner. So an address counts when utmp or logind names it as the origin of a session: sshd
// writes there after the login.
//
// On a host without either, an address counts once sshd has kept a connection from it for Options.SSHLogin, as far as this process has
// seen itself, if sshd's configuration can be read and closes the connections of strangers earlier. A connection is its four-tuple and
// the inode of its socket, so that reconnecting from the same port starts anew; a connection without inode waits in the kernel, and sshd
// has not even seen it. In a network namespace of its own, such as a container's, a process sees only connections to that namespace.
type sshWatch struct {
	watcher *Watcher
	peers   peers
	tables  time.Time // when the tables of connections are due to be read
	failed  error     // error of the last read of the tables
}

func newSSHWatch(w *Watcher) *sshWatch {
	return &sshWatch{watcher: w, peers: newPeers(w.opts.SSHLogin)}
}

// look reads the established connections and the logins.
func (s *sshWatch) look() {
	if len(s.watcher.opts.SSHPorts) == 0 {
		return
	}
	var r report
	now := time.Now()
	s.peers.forget(now)
	logins := readSessions(s.watcher.opts.Sessions)
	_, records := os.Stat(s.watcher.opts.Sessions)
	utmp, err := os.Stat(s.watcher.opts.Utmp)
	if err == nil {
		var data []byte
		if data, err = readRegular(s.watcher.opts.Utmp, utmp.Mode(), maxUtmp); err == nil {
			logins = append(logins, parseUtmp(data, utmpLayout)...)
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.problems = append(r.problems, fmt.Sprintf("ssh peers: %s: %v", s.watcher.opts.Utmp, err))
	}
	s.peers.loggedIn(now, logins)
	if records == nil || err == nil || s.watcher.opts.SSHLogin < 0 {
		clear(s.peers.since) // logins are known: the age of a connection proves nothing more
		s.failed = nil
	} else if !now.Before(s.tables) {
		s.tables = now.Add(tablesEvery)
		var connections []connection
		connections, s.failed = s.connections()
		s.peers.ripe = s.ripe()
		s.peers.observe(now, connections)
	}
	if s.failed != nil {
		r.problems = append(r.problems, fmt.Sprintf("ssh peers: %v", s.failed))
	}
	for addr := range s.peers.proven {
		r.entries = append(r.entries, single(addr, "ssh peer"))
	}
	if s.peers.full {
		r.problems = append(r.problems, fmt.Sprintf("ssh peers: more than %d; new ones are left out", maxPeers))
	}
	s.watcher.put(ssh, r)
}

// ripe returns the age at which a connection to sshd proves a login; negative: none does.
func (s *sshWatch) ripe() time.Duration {
	if grace, err := LoginGraceTime(s.watcher.opts.SSHDConfig); err == nil && grace > 0 && grace < s.watcher.opts.SSHLogin {
		return s.watcher.opts.SSHLogin
	}
	return -1
}

// connections returns the established connections to sshd. IPv6 may be missing from a kernel.
func (s *sshWatch) connections() ([]connection, error) {
	var list []connection
	for _, table := range []string{"tcp", "tcp6"} {
		file, err := os.Open(filepath.Join(s.watcher.opts.Proc, table))
		if errors.Is(err, fs.ErrNotExist) && table == "tcp6" {
			continue
		}
		if err != nil {
			return nil, err
		}
		list, err = appendConnections(list, file, s.watcher.opts.SSHPorts)
		_ = file.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file.Name(), err)
		}
	}
	return list, nil
}

// peers records the age of connections, and the addresses that have logged in.
type peers struct {
	ripe   time.Duration            // negative: the age of a connection proves nothing
	since  map[connection]time.Time // current connections, and when each was first seen
	proven map[netip.Addr]time.Time // addresses that have logged in, and the last sign of it
	full   bool                     // an address or connection was dropped
}

func newPeers(ripe time.Duration) peers {
	return peers{ripe: ripe, since: make(map[connection]time.Time), proven: make(map[netip.Addr]time.Time)}
}

// forget removes addresses without a sign of a login for peerStays.
func (p *peers) forget(now time.Time) {
	for addr, last := range p.proven {
		if now.Sub(last) > peerStays {
			delete(p.proven, addr)
		}
	}
	p.full = false
}

// loggedIn records the current logins.
func (p *peers) loggedIn(now time.Time, logins []netip.Addr) {
	for _, addr := range logins {
		p.prove(addr, now)
	}
}

// observe records the established connections.
func (p *peers) observe(now time.Time, connections []connection) {
	since := make(map[connection]time.Time, min(len(connections), maxConnections))
	for _, c := range connections { // known ones first: new ones cannot displace them
		if first, known := p.since[c]; known {
			since[c] = first
		}
	}
	for _, c := range connections {
		if first, known := since[c]; known {
			if p.ripe > 0 && now.Sub(first) >= p.ripe {
				p.prove(c.remote.Addr(), now)
			}
		} else if len(since) < maxConnections {
			since[c] = now
		}
	}
	p.since = since
}

func (p *peers) prove(addr netip.Addr, now time.Time) {
	if _, known := p.proven[addr]; !known && len(p.proven) >= maxPeers {
		p.full = true
		return
	}
	p.proven[addr] = now
}
