package decide

import (
	"log/slog"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"fsban/ctilog"
	"fsban/decide/book"
	"fsban/firewall"
	"fsban/ledger"
	"fsban/policy"
)

// kernel is a firewall that forgets its orders.
type kernel struct{}

func (kernel) Ban(netip.Prefix, time.Time, firewall.Cause) {}
func (kernel) Unban(netip.Prefix, time.Time)               {}
func (kernel) Packets() map[netip.Prefix]uint64            { return nil }

// uncounted is a Recorder that counts nothing.
type uncounted struct{}

func (uncounted) Banned(string)                  {}
func (uncounted) Unbanned(book.Cause)            {}
func (uncounted) BanRefused()                    {}
func (uncounted) Adopted()                       {}
func (uncounted) Removed(book.Reason)            {}
func (uncounted) Counted(string, policy.Kind)    {}
func (uncounted) CountedRemote(policy.Kind, int) {}
func (uncounted) CountedBanned()                 {}
func (uncounted) Detailed(policy.Kind, string)   {}
func (uncounted) Decided(policy.Verdict)         {}
func (uncounted) Reported(policy.Report)         {}

// newLoop returns a loop with the default policy on a ledger of the test's own.
func newLoop(l *ledger.Ledger, now time.Time) *Loop { return New(testOptions(l, now)) }

func testOptions(l *ledger.Ledger, now time.Time) Options {
	o := policy.DefaultOptions()
	return Options{
		Log: slog.New(slog.DiscardHandler), Ledger: l, Firewall: kernel{}, Capacity: func() (int, bool) { return 0, false }, Recorder: uncounted{},
		Started: now,
		Settings: Settings{
			Rules: policy.DefaultRules(), Policy: o, Sources: []policy.Source{policy.Event, policy.CTILog}, Memory: 24 * time.Hour,
			Limits: book.Limits{MaxBans: 1000, BanRate: o.BanRate},
		},
	}
}

func openLedger(t *testing.T, path string, now time.Time) *ledger.Ledger {
	t.Helper()
	l, err := ledger.Open(path, now)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// FreeSWITCH's clock is put back by half a minute. Should mod_cti's log be gone at the next start, the lines read before that still
// count as read.
func TestAClockThatIsPutBackTakesNothingReadAway(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fsban.db")
	now := time.Now()
	for range 2 { // and over a restart
		disk := openLedger(t, path, now)
		l := newLoop(disk, now)
		l.Restore(nil, "")
		for i, at := range []time.Time{now, now.Add(-30 * time.Second)} {
			a := policy.Attempt{Addr: netip.MustParseAddr("203.0.113.5"), At: at, Source: policy.CTILog}
			l.OfferLine(Line{Attempt: a, Read: now, Next: ctilog.Position{File: ctilog.Mark{Ino: 1, Offset: int64(100 * i)}}}, nil)
		}
		l.Drain()
		if p := l.resume.log; !p.At.Equal(now) || !p.Clock.Equal(now) || p.File.Offset != 100 {
			t.Errorf("the log counts up to %+v, want %v and offset 100", p, now)
		}
		l.seal(now)
		if err := disk.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestARuleTakesNothingAwayFromAnOperatorsBan(t *testing.T) {
	now := time.Now()
	disk := openLedger(t, filepath.Join(t.TempDir(), "fsban.db"), now)
	t.Cleanup(func() { _ = disk.Close() })
	l := newLoop(disk, now)
	p := netip.MustParsePrefix("203.0.113.66/32")
	if err := l.book.Ban(book.Entry{Ban: ledger.Ban{Prefix: p, Since: now, Rule: book.RuleOperator, Source: policy.Operator}, Origin: book.ByOperator}); err != nil {
		t.Fatal(err)
	}
	for _, d := range []policy.Decision{
		{Verdict: policy.BanNow, Prefix: p, Rule: &policy.Rule{Name: "challenge"}, Since: now, Until: now.Add(time.Hour)},
		{Verdict: policy.Lift, Prefix: p},
	} {
		l.act(&d, policy.Event, firewall.Cause{Read: now})
		if b, ok := disk.Get(p); !ok || b.Rule != book.RuleOperator || !b.Until.IsZero() {
			t.Errorf("after %v: %+v, %v", d.Verdict, b, ok)
		}
	}
}
