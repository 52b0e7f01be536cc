package neverban

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"fsban/internal/netns"
)

func TestConnectionsOfATable(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Fatal("the tables below were printed by a little-endian machine")
	}
	const tcp = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 18123 1 0000000000000000 100 0 0 10 0
   1: 0A6433C6:0016 097100CB:D431 01 00000000:00000000 02:000AC6F2 00000000     0        0 29471 2 0000000000000000 20 4 29 10 -1
   2: 0A6433C6:0016 0A7100CB:D432 01 00000000:00000000 00:00000000 00000000     0        0 0 1 0000000000000000 20 4 29 10 -1
   3: 0A6433C6:0016 0B7100CB:D433 06 00000000:00000000 03:00000A2B 00000000     0        0 0 3 0000000000000000
   4: 0A6433C6:13C4 0C7100CB:D434 01 00000000:00000000 00:00000000 00000000   111        0 29475 1 0000000000000000 20 4 29 10 -1
   5: 0A6433C6:D431 0D7100CB:0016 01 00000000:00000000 00:00000000 00000000     0        0 29476 1 0000000000000000 20 4 29 10 -1
`
	const tcp6 = `  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: B80D0120000000000000000001000000:0016 B80D0120000000000000000002000000:C001 01 00000000:00000000 00:00000000 00000000     0        0 31001 1 0000000000000000 20 4 0 10 -1
   1: 0000000000000000FFFF00000A6433C6:0016 0000000000000000FFFF0000097100CB:C002 01 00000000:00000000 00:00000000 00000000     0        0 31002 1 0000000000000000 20 4 0 10 -1
`
	var list []connection
	for _, table := range []string{tcp, tcp6} {
		var err error
		if list, err = appendConnections(list, strings.NewReader(table), []uint16{22}); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, c := range list {
		got = append(got, fmt.Sprint(c.local, c.remote, c.inode))
	}
	want := []string{
		"198.51.100.10:22 203.0.113.9:54321 29471",
		"[2001:db8::1]:22 [2001:db8::2]:49153 31001",
		"198.51.100.10:22 203.0.113.9:49154 31002",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want the established and accepted ones alone: %q", got, want)
	}
}

func TestAnInvalidTableIsAnError(t *testing.T) {
	for _, line := range []string{
		"0: 0100007F:0016", "0: 0100007F 0100007F:D431 01", "0: 0100007:0016 0100007F:D431 01", "0: 0100007F:0016 x 01",
		"0: 0100007F:0016 0100007F:D431 zz", "0: 0100007F:0016 0100007F:D431 01 0 0 0 0 0 x 1", "0: 0100007F:0016 0100007F:D431 01 0 0 0 0 0 -1 1",
		strings.Repeat("0", 100_000), "0: " + strings.Repeat("Z", 32) + ":0016 0100007F:D431 01",
	} {
		if list, err := appendConnections(nil, strings.NewReader("heading\n"+line+"\n"), []uint16{22}); err == nil {
			t.Errorf("%.60q: no error, but %v", line, list)
		}
	}
	endless := strings.Repeat("   0: 00000000:13C4 00000000:0000 0A 00000000:00000000\n", maxTable/50)
	if _, err := appendConnections(nil, strings.NewReader(endless), []uint16{22}); err == nil {
		t.Error("a table without bound is read to its end")
	}
}

func FuzzConnection(f *testing.F) {
	f.Add("1: 0A6433C6:0016 097100CB:D431 01 00000000:00000000 02:000AC6F2 00000000     0        0 29471 2")
	f.Fuzz(func(t *testing.T, line string) {
		c, state, err := parseConnection([]byte(line), []uint16{22})
		if err == nil && state == established && (!c.remote.IsValid() || c.remote.Addr().Is4In6() || c.local.Port() != 22) {
			t.Errorf("%v from %q", c, line)
		}
	})
}

func TestSSHPeers(t *testing.T) {
	a, b := netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("203.0.113.10")
	conn := func(addr netip.Addr, port uint16, inode uint64) connection {
		return connection{netip.MustParseAddrPort("198.51.100.10:22"), netip.AddrPortFrom(addr, port), inode}
	}
	type look struct {
		at          time.Duration
		connections []connection
		logins      []netip.Addr
		want        []netip.Addr
	}
	for name, test := range map[string]struct {
		ripe  time.Duration
		looks []look
	}{
		"a connection as old as no stranger's": {150 * time.Second, []look{
			{0, []connection{conn(a, 1, 1)}, nil, nil},
			{149 * time.Second, []connection{conn(a, 1, 1)}, nil, nil},
			{150 * time.Second, []connection{conn(a, 1, 1)}, nil, []netip.Addr{a}},
		}},
		"many connections, none of them old": {150 * time.Second, []look{
			{0, []connection{conn(a, 1, 1)}, nil, nil},
			{100 * time.Second, []connection{conn(a, 2, 2)}, nil, nil},
			{200 * time.Second, []connection{conn(a, 3, 3)}, nil, nil},
		}},
		"reconnecting from the same port": {150 * time.Second, []look{
			{0, []connection{conn(a, 1, 1)}, nil, nil},
			{100 * time.Second, []connection{conn(a, 1, 2)}, nil, nil},
			{200 * time.Second, []connection{conn(a, 1, 3)}, nil, nil},
		}},
		"gone for one look": {150 * time.Second, []look{
			{0, []connection{conn(a, 1, 1)}, nil, nil},
			{100 * time.Second, nil, nil, nil},
			{200 * time.Second, []connection{conn(a, 1, 1)}, nil, nil},
		}},
		"age proves nothing": {-1, []look{
			{0, []connection{conn(a, 1, 1)}, nil, nil},
			{time.Hour, []connection{conn(a, 1, 1)}, nil, nil},
		}},
		"a login at once, and for a while after": {150 * time.Second, []look{
			{0, []connection{conn(a, 1, 1), conn(b, 1, 2)}, []netip.Addr{a}, []netip.Addr{a}},
			{time.Minute, nil, nil, []netip.Addr{a}},
			{peerStays, nil, []netip.Addr{b}, []netip.Addr{a, b}},
			{peerStays + time.Second, nil, []netip.Addr{b}, []netip.Addr{b}},
			{3 * peerStays, nil, nil, nil},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			p, began := newPeers(test.ripe), time.Now()
			for _, l := range test.looks {
				now := began.Add(l.at)
				p.forget(now)
				p.loggedIn(now, l.logins)
				p.observe(now, l.connections)
				var got []netip.Addr
				for addr := range p.proven {
					got = append(got, addr)
				}
				slices.SortFunc(got, netip.Addr.Compare)
				if !slices.Equal(got, l.want) {
					t.Errorf("after %v: %v, want %v", l.at, got, l.want)
				}
			}
		})
	}
}

// sshdHost is a host with a connection to sshd that its peer holds open, and the records given.
func sshdHost(t *testing.T, config string, files map[string]string) Options {
	t.Helper()
	dir := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("tcp", "heading\n   1: 0A6433C6:0016 097100CB:D431 01 00000000:00000000 02:000AC6F2 00000000     0        0 29471 2\n")
	for name, content := range files {
		write(name, content)
	}
	if config != "" {
		write("sshd_config", config)
	}
	return Options{SSHPorts: []uint16{22}, Proc: dir, Utmp: dir + "/utmp", Sessions: dir + "/sessions", SSHDConfig: dir + "/sshd_config"}
}

// A stranger holds a connection to sshd open, for as long as sshd lets it, and becomes never-banned by that only where nothing records
// logins and sshd is known to close such connections before.
func TestAConnectionHeldOpenProvesNoLogin(t *testing.T) {
	const stranger = "203.0.113.9/32 ssh peer"
	for name, c := range map[string]struct {
		config string
		files  map[string]string
		want   []string
	}{
		"LoginGraceTime 0":                       {"LoginGraceTime 0\n", nil, nil},
		"LoginGraceTime 0, with utmp":            {"LoginGraceTime 0\n", map[string]string{"utmp": ""}, nil},
		"the default, with utmp":                 {"Port 22\n", map[string]string{"utmp": ""}, nil},
		"the default, with logind":               {"Port 22\n", map[string]string{"sessions": ""}, nil},
		"in an included file":                    {"Include extra*\n", map[string]string{"extra.conf": "logingracetime=0\n"}, nil},
		"after another value":                    {"LoginGraceTime 30\nLoginGraceTime\t0\n", nil, nil},
		"longer than the age that proves":        {"LoginGraceTime 10m\n", nil, nil},
		"a configuration that cannot be read":    {"", nil, nil},
		"a value that is none":                   {"LoginGraceTime none\n", nil, nil},
		"the default, and no records":            {"Port 22\n", nil, []string{stranger}},
		"a short time, and no records":           {"LoginGraceTime 1m30s\n", nil, []string{stranger}},
		"a comment that is no setting":           {"#LoginGraceTime 0\n", nil, []string{stranger}},
		"an include of nothing, and no records ": {"Include none/*.conf\n", nil, []string{stranger}},
	} {
		t.Run(name, func(t *testing.T) {
			opts := sshdHost(t, c.config, c.files)
			synctest.Test(t, func(t *testing.T) {
				r := start(t, opts)
				for range 10 {
					time.Sleep(time.Minute)
					synctest.Wait()
				}
				r.want(t, c.want...)
			})
		})
	}
}

func TestLoginGraceTime(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "120": 2 * time.Minute, "2m": 2 * time.Minute, "1h30M": 90 * time.Minute, "1w": 7 * 24 * time.Hour, "2147483647w": 875952 * time.Hour,
		"": -1, "x": -1, "-1": -1, "1x": -1, "99999999999": -1, "m": -1, "1mm": -1,
	} {
		if got, err := sshdTime(text); err == nil && got != want || err != nil && want >= 0 {
			t.Errorf("%q: %v, %v, want %v", text, got, err, want)
		}
	}
	loop := filepath.Join(t.TempDir(), "sshd_config")
	if err := os.WriteFile(loop, []byte("Include sshd_config\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoginGraceTime(loop); err == nil {
		t.Error("a file that includes itself")
	}
}

// FuzzSSHD: any configuration is read, with a grace that is not negative.
func FuzzSSHD(f *testing.F) {
	f.Add("LoginGraceTime 2m\nInclude *\n")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "/") {
			return // files of this machine
		}
		c := sshdConfig{}
		if grace, err := sshdTime(text); err == nil && grace < 0 {
			t.Errorf("%q: %v", text, grace)
		}
		path := filepath.Join(t.TempDir(), "sshd_config")
		c.directory = filepath.Dir(path)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := c.read(path); err == nil && c.longest < 0 {
			t.Errorf("%q: %v", text, c.longest)
		}
	})
}

func TestSSHPeersAreBounded(t *testing.T) {
	p, began := newPeers(time.Minute), time.Now()
	at := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}) }
	old := connection{remote: netip.MustParseAddrPort("203.0.113.9:1"), inode: 1}
	p.observe(began, []connection{old})
	var flood []connection
	for i := range 3 * maxConnections {
		flood = append(flood, connection{remote: netip.AddrPortFrom(at(i), 1), inode: 2})
	}
	p.observe(began.Add(time.Second), append(flood, old))
	if len(p.since) != maxConnections {
		t.Errorf("%d connections remembered, want %d", len(p.since), maxConnections)
	}
	p.observe(began.Add(time.Minute), append(flood, old))
	if _, ok := p.proven[old.remote.Addr()]; !ok || len(p.proven) != 1 || p.full {
		t.Errorf("%d peers, want the old connection's alone", len(p.proven))
	}
	p.observe(began.Add(time.Hour), append(flood, old))
	if len(p.proven) != maxPeers || !p.full {
		t.Errorf("%d peers, full %v, want %d", len(p.proven), p.full, maxPeers)
	}
}

// record is one record of utmp.
func record(l layout, kind uint16, line string, addr netip.Addr) []byte {
	r := make([]byte, l.size)
	binary.NativeEndian.PutUint16(r, kind)
	copy(r[utmpLine:], line)
	copy(r[l.address:], addr.AsSlice())
	return r
}

func TestUtmp(t *testing.T) {
	for name, l := range map[string]layout{"x86-64": layout32, "arm64": layout64} {
		t.Run(name, func(t *testing.T) {
			data := slices.Concat(
				record(l, 2, "~", netip.Addr{}),
				record(l, userProcess, "pts/0", netip.MustParseAddr("203.0.113.9")),
				record(l, userProcess, "pts/1", netip.MustParseAddr("2001:db8::9")),
				record(l, userProcess, "pts/2", netip.MustParseAddr("::ffff:203.0.113.10")),
				record(l, userProcess, "tty1", netip.Addr{}),
				record(l, userProcess, "pts/3", netip.Addr{}), // a terminal multiplexer's
				record(l, 8, "pts/4", netip.MustParseAddr("203.0.113.66")),
				record(l, 6, "pts/5", netip.MustParseAddr("203.0.113.67")),
				record(l, userProcess, "ftpd99", netip.MustParseAddr("203.0.113.68")),
				record(l, userProcess, "pts/6", netip.MustParseAddr("203.0.113.69"))[:l.size-1], // being written
			)
			want := []netip.Addr{netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("2001:db8::9"), netip.MustParseAddr("203.0.113.10")}
			if got := parseUtmp(data, l); !slices.Equal(got, want) {
				t.Errorf("%v, want %v", got, want)
			}
		})
	}
}

func TestSessions(t *testing.T) {
	const session = "# This is private data. Do not parse.\nUID=0\nUSER=root\nACTIVE=1\nSTATE=%s\nREMOTE=1\nTYPE=tty\nCLASS=user\n" +
		"REMOTE_HOST=%s\nSERVICE=%s\nLEADER=4711\n"
	dir := t.TempDir()
	for name, content := range map[string]string{
		"1": fmt.Sprintf(session, "active", "203.0.113.9", "sshd"),
		"2": fmt.Sprintf(session, "closing", "203.0.113.66", "sshd"),
		"3": fmt.Sprintf(session, "online", `"2001:db8::9"`, "sshd"),
		"4": fmt.Sprintf(session, "active", "203.0.113.67", "vsftpd"),
		"5": fmt.Sprintf(session, "active", "host.attacker.example", "sshd"),
		"6": "STATE=active\nSERVICE=login\n",
		"7": "",
		"8": fmt.Sprintf(session, "active", "203.0.113.68", "sshd") + strings.Repeat("#", maxSessionFile),
		"9": "\xff\xfe=\x00\n====\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(dir, "1.ref"), 0o600); err != nil {
		t.Fatal(err)
	}
	got := readSessions(dir)
	slices.SortFunc(got, netip.Addr.Compare)
	if want := []netip.Addr{netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("2001:db8::9")}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

func TestALoginIsSeenAtTheNextLook(t *testing.T) {
	dir := t.TempDir()
	utmp := filepath.Join(dir, "utmp")
	// No connections: this machine's own table may contain those of its users.
	if err := os.WriteFile(filepath.Join(dir, "tcp"), []byte("heading\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		r := start(t, Options{SSHPorts: []uint16{22}, Utmp: utmp, Proc: dir})
		synctest.Wait()
		r.want(t)
		if err := os.WriteFile(utmp, record(utmpLayout, userProcess, "pts/0", netip.MustParseAddr("203.0.113.9")), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(lookEvery)
		synctest.Wait()
		r.want(t, "203.0.113.9/32 ssh peer")
		if err := os.Truncate(utmp, 0); err != nil {
			t.Fatal(err)
		}
		time.Sleep(peerStays)
		synctest.Wait()
		r.want(t, "203.0.113.9/32 ssh peer")
		time.Sleep(2 * lookEvery)
		synctest.Wait()
		r.want(t)
		r.wantProblems(t)
	})
}

func TestTablesThatCannotBeReadAreAProblem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		r := start(t, Options{SSHPorts: []uint16{22}, Proc: dir, Utmp: dir})
		synctest.Wait()
		r.wantProblems(t, "ssh peers: "+dir+": not a regular file", "ssh peers: open "+dir+"/tcp: no such file or directory")
		if err := os.WriteFile(filepath.Join(dir, "tcp"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(tablesEvery)
		synctest.Wait()
		r.wantProblems(t, "ssh peers: "+dir+": not a regular file")
	})
}

func TestRealConnections(t *testing.T) {
	netns.Run(t, func(t *testing.T) {
		if err := netns.Assign(netip.MustParsePrefix("203.0.113.1/24"), netip.MustParsePrefix("2001:db8::1/128"), netip.MustParsePrefix("2001:db8::2/128")); err != nil {
			t.Fatal(err)
		}
		// Dual-stack, as sshd: IPv4 peers are in the table of IPv6.
		listener, err := net.Listen("tcp", "[::]:22")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = listener.Close() }()
		s := newSSHWatch(New(Options{}))
		seen := func(want ...string) {
			t.Helper()
			list, err := s.connections()
			if err != nil {
				t.Fatal(err)
			}
			got := []string{}
			for _, c := range list {
				got = append(got, c.remote.Addr().String())
			}
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Errorf("connections from %q, want %q", got, want)
			}
		}
		for _, ends := range [][2]string{{"203.0.113.9", "203.0.113.1"}, {"2001:db8::2", "2001:db8::1"}} {
			dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ends[0])}}
			client, err := dialer.DialContext(t.Context(), "tcp", net.JoinHostPort(ends[1], "22"))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = client.Close() }()
		}
		seen() // nobody has accepted them
		var accepted []net.Conn
		for range 2 {
			conn, err := listener.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			accepted = append(accepted, conn)
		}
		seen("2001:db8::2", "203.0.113.9")
		for _, conn := range accepted {
			_ = conn.Close()
		}
		seen()
	})
}
