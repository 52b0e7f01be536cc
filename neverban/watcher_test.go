package neverban

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

func TestTheFirstListDoesNotWaitForNameServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		z := &zone{hosts: map[string][]string{"pbx.example.com": {"192.0.2.9"}}, slow: 2 * time.Second}
		r := start(t, Options{
			Prefixes: []Entry{
				{netip.MustParsePrefix("198.51.100.7/24"), "ignoreip"}, {netip.MustParsePrefix("::ffff:203.0.113.0/120"), "ignoreip"},
				{netip.MustParsePrefix("198.51.100.0/24"), "ignoreip"}, {netip.Prefix{}, "nothing"},
			},
			Hosts: []string{"pbx.example.com"}, Resolver: z,
		})
		synctest.Wait()
		r.want(t, "198.51.100.0/24 ignoreip", "203.0.113.0/24 ignoreip")
		if entries, _, _ := r.last(); !slices.Contains(entries, "127.0.0.1/32 own address lo") || time.Since(began) != 0 {
			t.Errorf("%v after %v, want loopback's address at once", entries, time.Since(began))
		}
		time.Sleep(3 * time.Second)
		synctest.Wait()
		r.want(t, "192.0.2.9/32 ignoreip pbx.example.com", "198.51.100.0/24 ignoreip", "203.0.113.0/24 ignoreip")
		r.wantProblems(t)
		time.Sleep(time.Hour)
		synctest.Wait()
		last, _, told := r.last()
		if told != 2 {
			t.Errorf("told %d times, want 2", told)
		}
		entries, problems := r.Status()
		if !slices.Equal(lines(entries), last) || len(problems) != 0 {
			t.Errorf("status %v %v, want what was told", entries, problems)
		}
	})
}

func TestPeerOfTheEventSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, Options{})
		for _, step := range []struct {
			addr netip.Addr
			want []string
		}{
			{netip.MustParseAddr("::ffff:192.0.2.1"), []string{"192.0.2.1/32 event socket"}},
			{netip.MustParseAddr("fe80::1%eth0"), []string{"fe80::1/128 event socket"}},
			{netip.Addr{}, nil},
		} {
			r.SetPeer(step.addr)
			synctest.Wait()
			r.want(t, step.want...)
		}
	})
}

func TestNamesAreAskedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := &zone{hosts: map[string][]string{"a.example": {"192.0.2.1"}}}
		r := start(t, Options{Hosts: []string{"a.example", "b.example"}, Resolver: z})
		synctest.Wait()
		r.want(t, "192.0.2.1/32 ignoreip a.example")
		r.wantProblems(t, "ignoreip b.example does not resolve: no such host: it can be banned")

		z.set(func() { z.hosts["b.example"] = []string{"192.0.2.2"} })
		time.Sleep(retryEvery)
		synctest.Wait()
		r.want(t, "192.0.2.1/32 ignoreip a.example", "192.0.2.2/32 ignoreip b.example")
		r.wantProblems(t)

		z.set(func() { z.hosts["b.example"] = []string{"192.0.2.3"} })
		time.Sleep(refreshEvery - time.Second)
		synctest.Wait()
		r.want(t, "192.0.2.1/32 ignoreip a.example", "192.0.2.2/32 ignoreip b.example")
		time.Sleep(time.Second)
		synctest.Wait()
		r.want(t, "192.0.2.1/32 ignoreip a.example", "192.0.2.3/32 ignoreip b.example")

		// A name server that is down exposes nobody.
		z.set(func() { z.broken = map[string]error{"b.example": errors.New("server misbehaving")} })
		time.Sleep(refreshEvery)
		synctest.Wait()
		r.want(t, "192.0.2.1/32 ignoreip a.example", "192.0.2.3/32 ignoreip b.example")
		r.wantProblems(t, "ignoreip b.example does not resolve: server misbehaving: its known addresses stay on the never-ban list")
	})
}

func TestRefreshAsksAtOnceButNotTooOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := &zone{hosts: map[string][]string{"a.example": {"192.0.2.1"}}}
		r := start(t, Options{Hosts: []string{"a.example"}, Resolver: z})
		asked := func() int { synctest.Wait(); z.mu.Lock(); defer z.mu.Unlock(); return z.asked["a.example"] }
		time.Sleep(time.Minute)
		if n := asked(); n != 1 {
			t.Fatalf("asked %d times, want 1", n)
		}
		for range 100 {
			r.Refresh()
		}
		if n := asked(); n != 2 {
			t.Errorf("asked %d times after Refresh, want 2", n)
		}
		for range 1000 {
			r.Refresh()
			time.Sleep(10 * time.Millisecond)
		}
		if n := asked(); n > 5 {
			t.Errorf("asked %d times in 10 s of refreshing, want one in %v", n, refreshGap)
		}
	})
}

func TestRefreshAsksSoonAfterAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := &zone{broken: map[string]error{"a.example": errors.New("server misbehaving")}}
		r := start(t, Options{Hosts: []string{"a.example"}, Resolver: z})
		synctest.Wait()
		r.wantProblems(t, "ignoreip a.example does not resolve: server misbehaving: it can be banned")
		z.set(func() { z.broken, z.hosts = nil, map[string][]string{"a.example": {"192.0.2.1"}} })
		r.Refresh()
		time.Sleep(failedGap)
		synctest.Wait()
		r.want(t, "192.0.2.1/32 ignoreip a.example")
		r.wantProblems(t)
	})
}

func TestRefreshDuringFailuresAsksAtMostOncePerGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := &zone{hosts: map[string][]string{}, broken: map[string]error{"a.example": errors.New("server misbehaving")}}
		r := start(t, Options{Hosts: []string{"a.example"}, Resolver: z})
		for range 1000 {
			r.Refresh()
			time.Sleep(10 * time.Millisecond)
		}
		synctest.Wait()
		z.mu.Lock()
		defer z.mu.Unlock()
		if n, most := z.asked["a.example"], int(10*time.Second/failedGap)+1; n > most {
			t.Errorf("asked %d times in 10 s of refreshing, want at most %d", n, most)
		}
	})
}

func TestFileIsReadAgainWhenItChanges(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ignore")
	parse := func(data []byte) (prefixes []netip.Prefix, named []string, err error) {
		for word := range strings.FieldsSeq(string(data)) {
			if p, err := netip.ParsePrefix(word); err == nil {
				prefixes = append(prefixes, p)
			} else if strings.HasSuffix(word, ".example") {
				named = append(named, word)
			} else {
				return nil, nil, fmt.Errorf("line 1: %q is no address", word)
			}
		}
		return prefixes, named, nil
	}
	write := func(content string) {
		if err := os.WriteFile(path+".new", []byte(content), 0o600); err == nil {
			err = os.Rename(path+".new", path)
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	origin := " ignore_file " + path
	synctest.Test(t, func(t *testing.T) {
		z := &zone{hosts: map[string][]string{"a.example": {"192.0.2.1"}}}
		r := start(t, Options{File: path, ParseFile: parse, Resolver: z})
		const correct = "; correct it, fsban check shows all errors"
		const kept = ": its last valid content stays in force" + correct
		for _, step := range []struct {
			name     string
			do       func()
			want     []string
			problems []string
		}{
			{"missing", func() {}, nil, []string{"ignore_file " + path + ": no such file or directory: its addresses can be banned" + correct}},
			{"written", func() { write("198.51.100.0/24 a.example") }, []string{"192.0.2.1/32" + origin + " (a.example)", "198.51.100.0/24" + origin}, nil},
			{"wrong", func() { write("rubbish") }, []string{"192.0.2.1/32" + origin + " (a.example)", "198.51.100.0/24" + origin},
				[]string{"ignore_file " + path + `: line 1: "rubbish" is no address` + kept}},
			{"right again", func() { write("203.0.113.0/25 b.example") }, []string{"203.0.113.0/25" + origin},
				[]string{"ignore_file " + path + ": b.example does not resolve: no such host: it can be banned"}},
			{"too large", func() { write(strings.Repeat("203.0.113.0/24 ", maxFile/10)) }, []string{"203.0.113.0/25" + origin},
				[]string{"ignore_file " + path + ": larger than 4194304 bytes" + kept, "ignore_file " + path + ": b.example does not resolve: no such host: it can be banned"}},
			{"empty", func() { write("") }, nil, nil},
			{"same size, in place", func() { write("192.0.2.5/32") }, []string{"192.0.2.5/32" + origin}, nil},
			{"gone", func() { _ = os.Remove(path) }, []string{"192.0.2.5/32" + origin}, []string{"ignore_file " + path + ": no such file or directory" + kept}},
			{"a pipe", func() { _ = unix.Mkfifo(path, 0o600) }, []string{"192.0.2.5/32" + origin}, []string{"ignore_file " + path + ": not a regular file" + kept}},
		} {
			step.do()
			time.Sleep(2*refreshGap + time.Second)
			synctest.Wait()
			t.Log(step.name)
			r.want(t, step.want...)
			r.wantProblems(t, step.problems...)
		}
	})
}

func TestProblemsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var names []string
		for i := range 500 {
			names = append(names, fmt.Sprintf("h%d.example", i))
		}
		r := start(t, Options{Hosts: names, Resolver: &zone{}})
		synctest.Wait()
		if _, got, _ := r.last(); len(got) != maxProblems+1 || got[maxProblems] != "450 more problems of this kind" {
			t.Errorf("%d problems: %q", len(got), got)
		}
	})
}

func TestEverybodyMayCallAtAnyTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, Options{Hosts: []string{"a.example"}, Resolver: &zone{hosts: map[string][]string{"a.example": {"192.0.2.1"}}}})
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				for j := range 100 {
					r.SetPeer(netip.AddrFrom4([4]byte{198, 51, byte(i), byte(j)}))
					r.Refresh()
					r.Status()
				}
			})
		}
		wg.Wait()
		r.SetPeer(netip.MustParseAddr("203.0.113.9"))
		synctest.Wait()
		r.want(t, "192.0.2.1/32 ignoreip a.example", "203.0.113.9/32 event socket")
	})
}

func TestRunEndsWithItsContextWhileFreeSWITCHIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silent := func(ctx context.Context, _, _ string) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() }
		r := start(t, Options{API: silent, ACLs: []string{"lan"}, Hosts: []string{"a.example"}, Resolver: &zone{slow: time.Hour}})
		time.Sleep(time.Second)
		synctest.Wait()
		r.want(t)
		r.wantProblems(t)
		time.Sleep(11 * time.Second)
		synctest.Wait()
		r.wantProblems(t, "ignoreip a.example does not resolve: the name server does not answer: it can be banned",
			"gateways: FreeSWITCH does not answer to sofia xmlstatus gateway: no gateway is known, so carriers can be banned: add their addresses to ignoreip",
			"access lists: FreeSWITCH does not answer to xml_locate configuration configuration name acl.conf: their addresses can be banned: add them to ignoreip")
	})
}

func TestSetLooksElsewhereWithoutForgetting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "ignored")
		if err := os.WriteFile(path, []byte("203.0.113.9"), 0o600); err != nil {
			t.Fatal(err)
		}
		z := &zone{hosts: map[string][]string{"a.example": {"192.0.2.1"}, "b.example": {"192.0.2.2"}}}
		parse := func(data []byte) ([]netip.Prefix, []string, error) {
			p, err := netip.ParsePrefix(string(data) + "/32")
			return []netip.Prefix{p}, nil, err
		}
		prefix := func(s string) []Entry { return []Entry{{netip.MustParsePrefix(s), "ignoreip"}} }
		r := start(t, Options{Prefixes: prefix("198.51.100.0/24"), Hosts: []string{"a.example"}, Resolver: z, ParseFile: parse})
		synctest.Wait()
		r.want(t, "192.0.2.1/32 ignoreip a.example", "198.51.100.0/24 ignoreip")

		// The name server is down: the known addresses of the name stay, and the sources on this host are read at once.
		z.set(func() { z.broken = map[string]error{"a.example": errors.New("down"), "b.example": errors.New("down")} })
		set := func(o Options) {
			t.Helper()
			if err := r.Reconfigure(t.Context(), o); err != nil {
				t.Fatal(err)
			}
		}
		set(Options{Prefixes: prefix("198.51.100.128/25"), Hosts: []string{"a.example", "b.example"}, File: path, SSHPorts: []uint16{}})
		r.want(t, "192.0.2.1/32 ignoreip a.example", "198.51.100.128/25 ignoreip", "203.0.113.9/32 ignore_file "+path)
		synctest.Wait()
		r.want(t, "192.0.2.1/32 ignoreip a.example", "198.51.100.128/25 ignoreip", "203.0.113.9/32 ignore_file "+path)
		r.wantProblems(t, "ignoreip a.example does not resolve: down: its known addresses stay on the never-ban list", "ignoreip b.example does not resolve: down: it can be banned")
		z.set(func() { z.broken = nil })
		time.Sleep(retryEvery)
		synctest.Wait()
		r.want(t, "192.0.2.1/32 ignoreip a.example", "192.0.2.2/32 ignoreip b.example", "198.51.100.128/25 ignoreip", "203.0.113.9/32 ignore_file "+path)

		// A disabled source has no entries, the host itself included.
		set(Options{Prefixes: prefix("198.51.100.0/24"), NoOwn: true, SSHPorts: []uint16{}})
		if entries, _, _ := r.last(); !slices.Equal(entries, []string{"198.51.100.0/24 ignoreip"}) {
			t.Errorf("entries %q", entries)
		}
		r.wantProblems(t)
		// And a source that is enabled again starts anew.
		set(Options{File: path, SSHPorts: []uint16{}})
		r.want(t, "203.0.113.9/32 ignore_file "+path)
		time.Sleep(time.Hour)
		synctest.Wait()
		r.want(t, "203.0.113.9/32 ignore_file "+path)
	})
}
