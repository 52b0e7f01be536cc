package daemon

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"fsban/config"
	"fsban/internal/fakeswitch"
	"fsban/policy"
)

// A rewriting is a way in which mod_cti's log changes other than by appending to it. file holds data, whole lines.
type rewriting struct {
	name string
	do   func(t *testing.T, file string, data []byte)
}

// lastLines returns the last n lines of data.
func lastLines(data []byte, n int) []byte {
	lines := slices.Collect(bytes.Lines(data))
	return bytes.Join(lines[max(0, len(lines)-n):], nil)
}

func put(t *testing.T, file string, data []byte) {
	t.Helper()
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func check(t testing.TB, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// putOver replaces file by another of that content, as sed -i, mv and rsync do.
func putOver(t *testing.T, file string, data []byte) {
	t.Helper()
	put(t, file+".new", data)
	check(t, os.Rename(file+".new", file))
}

// putInto overwrites file from its beginning, in pieces, and truncates it, as rsync --inplace does.
func putInto(t *testing.T, file string, data []byte) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	check(t, err)
	for offset := 0; offset < len(data); offset += 100 {
		_, err := f.WriteAt(data[offset:min(offset+100, len(data))], int64(offset))
		check(t, err)
		time.Sleep(time.Millisecond) // give the daemon time to notice
	}
	check(t, f.Truncate(int64(len(data))), f.Close())
}

var rewritings = []rewriting{
	{"appended to by old lines of its own", func(t *testing.T, file string, data []byte) { // the first three are from before the start
		old := bytes.Join(slices.Collect(bytes.Lines(data))[:3], nil)
		put(t, file, slices.Concat(data, old, old))
	}},
	{"replaced by itself: sed -i, mv, rsync", putOver},
	{"replaced by its end", func(t *testing.T, file string, data []byte) { putOver(t, file, lastLines(data, 4)) }},
	{"replaced by an older copy", func(t *testing.T, file string, data []byte) {
		putOver(t, file, data[:len(data)-len(lastLines(data, 3))])
	}},
	{"replaced with other users: sed -i", func(t *testing.T, file string, data []byte) {
		putOver(t, file, bytes.ReplaceAll(data, []byte("user[1000]"), []byte("user[anonymous]")))
	}},
	{"written over: cp, an editor", put},
	{"its end written over it: tail and cat", func(t *testing.T, file string, data []byte) { put(t, file, lastLines(data, 4)) }},
	{"an older copy written over it", func(t *testing.T, file string, data []byte) { put(t, file, data[:len(data)-len(lastLines(data, 3))]) }},
	{"written over piece by piece", func(t *testing.T, file string, data []byte) {
		check(t, os.Truncate(file, 0))
		time.Sleep(5 * time.Millisecond) // give the daemon time to notice
		putInto(t, file, data)
	}},
	{"written in place: rsync --inplace", putInto},
	{"written in place without a line in its midst", func(t *testing.T, file string, data []byte) {
		lines := slices.Collect(bytes.Lines(data))
		putInto(t, file, bytes.Join(slices.Delete(lines, len(lines)/2, len(lines)/2+1), nil))
	}},
	{"copied, and cut to its end", func(t *testing.T, file string, data []byte) {
		put(t, file+".1", data)
		put(t, file, lastLines(data, 4))
	}},
	{"rotated, its end kept", func(t *testing.T, file string, data []byte) {
		check(t, os.Rename(file, file+".1"))
		put(t, file, lastLines(data, 4))
	}},
	{"removed, and back after a while", func(t *testing.T, file string, data []byte) {
		check(t, os.Remove(file))
		time.Sleep(5 * time.Millisecond) // give the daemon time to notice
		put(t, file, data)
	}},
	{"cut in a line, and written whole", func(t *testing.T, file string, data []byte) {
		check(t, os.Truncate(file, int64(len(data)-10)))
		time.Sleep(5 * time.Millisecond) // give the daemon time to notice
		put(t, file, data)
	}},
}

// A rewrites plays rewritings against a daemon, with failures before and after each.
type rewrites struct {
	*rig
	fs     *fakeswitch.Switch
	cfg    config.Config
	socket bool
	number byte
	want   [policy.NumKinds]uint64
}

// happens reports a failed login and a forbidden call of an address.
func (r *rewrites) happens() {
	r.t.Helper()
	r.number++
	addr := netip.AddrFrom4([4]byte{203, 0, 113, r.number})
	at := time.Now()
	if r.socket {
		r.fs.Emit(fakeswitch.WrongPassword, fakeswitch.Caller{Addr: addr, User: "1000"}, at)
	}
	stamp := at.Format("2006-01-02T15:04:05.000000-0700")
	f, err := os.OpenFile(r.cfg.CTILog.Path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	check(r.t, err)
	_, err = fmt.Fprintf(f, "ip[%s] user[1000] at[%s] Registration failed\nip[%s] user[1000] at[%s] Called number not allowed\n", addr, stamp, addr, stamp)
	check(r.t, err, f.Close())
	r.want[policy.AuthFailure]++
	r.want[policy.Violation]++
}

// right waits until the last reports are counted, and compares the counts.
func (r *rewrites) right(where string) {
	r.t.Helper()
	r.eventually(where, func() bool {
		info, err := os.Stat(r.cfg.CTILog.Path)
		return err == nil && r.sources.follower.Load().Status().Position.File.Offset == info.Size() && r.loop.Queued() == 0 && r.loop.Counted(policy.Violation) >= r.want[policy.Violation]
	})
	check(r.t, r.loop.Do(context.Background(), func() {}))
	if r.socket {
		r.settled()
	}
	for _, k := range []policy.Kind{policy.AuthFailure, policy.Violation} {
		if got := r.loop.Counted(k); got != r.want[k] {
			r.t.Fatalf("%s: %d of kind %v counted, want %d", where, got, k, r.want[k])
		}
	}
}

func newRewrites(t *testing.T, socket bool) *rewrites {
	fs := newSwitch(t, fakeswitch.Options{})
	cfg := configFor(t, fs)
	cfg.CTILog.Path = filepath.Join(cfg.State.Directory, "cti_fail2ban.log")
	cfg.Policy.MaxRetry = 1000 // a ban would end the counting
	for i := range cfg.Policy.Ruleset {
		cfg.Policy.Ruleset[i].Enabled = cfg.Policy.Ruleset[i].Name == "auth"
	}
	cfg.Policy.FindTime = config.Duration(24 * time.Hour)
	for _, age := range []time.Duration{30 * time.Hour, 3 * time.Hour, time.Hour} { // before the start
		writeLine(t, cfg.CTILog.Path, "203.0.113.250", time.Now().Add(-age))
	}
	if !socket {
		fs.CloseListener()
	}
	r := &rewrites{rig: start(t, fs, cfg), fs: fs, cfg: cfg, socket: socket}
	r.want[policy.AuthFailure] = 2
	r.up()
	r.eventually("old lines count", func() bool { return r.loop.Counted(policy.AuthFailure) == 2 })
	return r
}

func (r *rewrites) up() {
	r.ready()
	r.eventually("the log is followed", r.sources.followsLog)
	if r.socket {
		r.eventually("the socket is up", r.connected)
	}
}

func TestARewrittenLogCountsNothingTwice(t *testing.T) {
	t.Parallel()
	for _, socket := range []bool{true, false} {
		t.Run(fmt.Sprintf("socket %t", socket), func(t *testing.T) {
			r := newRewrites(t, socket)
			for _, w := range rewritings {
				r.happens()
				r.right("before it is " + w.name)
				data, err := os.ReadFile(r.cfg.CTILog.Path)
				check(t, err)
				w.do(t, r.cfg.CTILog.Path, data)
				r.happens()
				r.right("after it was " + w.name)
			}
		})
	}
}

// The same while fsban is down: only lines of failures since the stop are new.
func TestALogRewrittenBetweenTwoRunsCountsNothingTwice(t *testing.T) {
	t.Parallel()
	for _, socket := range []bool{true, false} {
		t.Run(fmt.Sprintf("socket %t", socket), func(t *testing.T) {
			r := newRewrites(t, socket)
			for _, w := range rewritings {
				r.happens()
				r.right("before it is " + w.name)
				check(t, r.stop())
				data, err := os.ReadFile(r.cfg.CTILog.Path)
				check(t, err)
				w.do(t, r.cfg.CTILog.Path, data)
				r.socket, socket = false, r.socket
				r.want = [policy.NumKinds]uint64{}
				r.happens()
				r.socket = socket
				r.rig = start(t, r.fs, r.cfg)
				r.up()
				r.happens()
				r.right("after it was " + w.name)
			}
		})
	}
}
