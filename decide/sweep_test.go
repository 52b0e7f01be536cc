package decide

import (
	"errors"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"fsban/ledger"
	"fsban/policy"
)

// Records that expired before the start, or in the engine's memory, leave the disk as well.
func TestForgottenRecordsLeaveTheDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fsban.db")
	now := time.Now()
	disk := openLedger(t, path, now)
	keep := func(i byte, ago time.Duration) {
		t.Helper()
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{203, 0, 113, i}), 32)
		at := now.Add(-ago)
		err := errors.Join(
			disk.Keep(ledger.Known, p, policy.KnownGood{Prefix: p, Since: at, Last: at}),
			disk.Keep(ledger.Offences, p, policy.Offence{Prefix: p, Count: 1, Since: at, Until: at.Add(time.Hour)}))
		if err != nil {
			t.Fatal(err)
		}
	}
	o := policy.DefaultOptions()
	for i := range byte(20) {
		keep(i, time.Minute)
		keep(100+i, 10*365*24*time.Hour)
	}
	if err := errors.Join(disk.Flush(), disk.Close()); err != nil {
		t.Fatal(err)
	}
	on := func(want int) {
		t.Helper()
		if err := disk.Flush(); err != nil {
			t.Fatal(err)
		}
		if known, past := disk.Shelved(ledger.Known), disk.Shelved(ledger.Offences); known != want || past != want {
			t.Errorf("%d known-good addresses and %d past bans on disk, want %d", known, past, want)
		}
	}
	disk = openLedger(t, path, now)
	defer func() { _ = disk.Close() }()
	on(40)
	l := newLoop(disk, now)
	l.Restore(nil, "")
	l.Tick(now)
	on(20)
	l.Tick(now.Add(2 * time.Hour))
	on(20)
	l.Tick(now.Add(o.KnownFor + o.OffenceFor + 3*time.Hour))
	on(0)
}

// While the never-ban list holds an address of a /64, its members count one by one. The record of the /64 stays for later.
func TestTheRecordOfAPrefixThatCountsSinglyStaysOnDisk(t *testing.T) {
	n := newNight(t, nil)
	phone, member := netip.MustParseAddr("2001:db8:1:2::7"), netip.MustParseAddr("2001:db8:1:2::1")
	n.try(policy.AuthSuccess, phone, "1000")
	n.restart()
	n.book.SetConfigured([]policy.NeverEntry{{Prefix: netip.PrefixFrom(member, 128), Origin: "ignoreip"}})
	n.pass(2 * time.Hour)
	n.book.SetConfigured(nil)
	n.restart()
	if _, known := n.engine.KnownGood(phone); !known {
		t.Error("the /64 is no longer known-good after the restart")
	}
}
