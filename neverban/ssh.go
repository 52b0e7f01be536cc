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
	peerStays      = 10 * time.Minute // after the last sign of it: an administrator who reconnects

	// tablesEvery is how often the tables of connections are read. For that the kernel walks over its whole hash table, some
	// 10 ms of CPU time on a machine with much memory, however few connections there are.
	tablesEvery = 30 * time.Second
)

// An sshWatch watches who is logged in over ssh.
//
// A connection to sshd proves nothing by itself: anybody can open one, and until sshd gives up on him he looks the same to
// the kernel, down to the socket's owner, as an administrator at work. So an address counts
//   - at once, when utmp or logind names it as the origin of a session: sshd writes there after the login;
//   - once sshd has kept a connection from it for Options.SSHLogin, longer than sshd bears with a stranger (LoginGraceTime,
//     120 s unless configured), as far as this process has seen itself. A connection is its four-tuple and the inode of its
//     socket, so that reconnecting from the same port starts anew; a connection without inode waits in the kernel, and sshd
//     has not even seen it.
//
// The second is no proof where sshd has LoginGraceTime 0, or where something else (a tarpit) listens on one of
// Options.SSHPorts. In a network namespace of its own, a container's, a process sees only connections to that namespace.
type sshWatch struct {
	*Watcher
	peers  peers
	tables time.Time // when the tables of connections are to be read again
	failed error     // reading them, the last time
}

func newSSHWatch(w *Watcher) *sshWatch {
	return &sshWatch{Watcher: w, peers: newPeers(w.opts.SSHLogin)}
}

// look reads who is connected and who is logged in.
func (s *sshWatch) look() {
	if len(s.opts.SSHPorts) == 0 {
		return
	}
	var r report
	now := time.Now()
	s.peers.forget(now)
	logins := readSessions(s.opts.Sessions)
	utmp, err := os.Stat(s.opts.Utmp)
	if err == nil {
		var data []byte
		if data, err = readRegular(s.opts.Utmp, utmp.Mode(), maxUtmp); err == nil {
			logins = append(logins, parseUtmp(data, utmpLayout)...)
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.problems = append(r.problems, fmt.Sprintf("ssh peers: %s: %v", s.opts.Utmp, err))
	}
	s.peers.loggedIn(now, logins)
	if !now.Before(s.tables) {
		s.tables = now.Add(tablesEvery)
		var connections []connection
		connections, s.failed = s.connections()
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
	s.put(ssh, r)
}

// connections returns the established connections to sshd. IPv6 may be missing from a kernel.
func (s *sshWatch) connections() ([]connection, error) {
	var list []connection
	for _, table := range []string{"tcp", "tcp6"} {
		file, err := os.Open(filepath.Join(s.opts.Proc, table))
		if errors.Is(err, fs.ErrNotExist) && table == "tcp6" {
			continue
		}
		if err != nil {
			return nil, err
		}
		list, err = appendConnections(list, file, s.opts.SSHPorts)
		_ = file.Close()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file.Name(), err)
		}
	}
	return list, nil
}

// peers remembers how long connections have stood, and who has logged in.
type peers struct {
	ripe   time.Duration            // negative: the age of a connection proves nothing
	since  map[connection]time.Time // the connections of now, when they were first seen
	proven map[netip.Addr]time.Time // who has logged in, when there was last a sign of it
	full   bool                     // somebody was left out
}

func newPeers(ripe time.Duration) peers {
	return peers{ripe: ripe, since: make(map[connection]time.Time), proven: make(map[netip.Addr]time.Time)}
}

// forget forgets those of whom there was no sign for long.
func (p *peers) forget(now time.Time) {
	for addr, last := range p.proven {
		if now.Sub(last) > peerStays {
			delete(p.proven, addr)
		}
	}
	p.full = false
}

// loggedIn takes note of who is logged in now.
func (p *peers) loggedIn(now time.Time, logins []netip.Addr) {
	for _, addr := range logins {
		p.prove(addr, now)
	}
}

// observe takes note of who is connected now.
func (p *peers) observe(now time.Time, connections []connection) {
	since := make(map[connection]time.Time, min(len(connections), maxConnections))
	for _, c := range connections { // those known go first: newcomers cannot push them out
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
