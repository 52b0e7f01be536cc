package decide

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"fsban/detect"
	"fsban/ledger"
	"fsban/policy"
)

// FuzzRestart: with any state file of valid checksums, fsban starts and bans a guesser.
func FuzzRestart(f *testing.F) {
	end := time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	odd := detect.Memo{Addr: netip.MustParseAddr("192.0.2.7"), User: "a", At: end, Kind: policy.Challenge, Sources: 1<<policy.NumSources - 1, Held: &policy.Attempt{At: end}}
	sealed := func(head string, memos ...detect.Memo) []byte {
		return appendState(nil, []byte(head), nil, slices.Values(memos))
	}
	f.Add(sealed(`{"log":{"at":"2026-11-22T12:00:00Z"}}`, memosToWrite()...), []byte(`{"prefix":"192.0.2.7/32"}`), []byte(`{"prefix":"192.0.2.7/32","count":3}`), "1000", int64(0), uint8(0))
	f.Add(sealed(`{}`, odd), []byte(`{"prefix":"::/0","last":"9999-12-31T23:59:59Z"}`), []byte(`{"prefix":"192.0.2.7/33"}`), "\xff\x00", int64(1)<<62, uint8(255))
	f.Add(sealed(`{"log":{"file":{"dev":-1},"offset":-1}}`), []byte(`[]`), []byte(`{"count":-1,"since":"0001-01-01T00:00:00Z"}`), "", int64(-1)<<62, uint8(3))
	f.Add([]byte(`{}`), []byte(`{}`), []byte(`{}`), "", int64(0), uint8(0))
	path := filepath.Join(f.TempDir(), "fsban.db")
	guesser := netip.AddrFrom4([4]byte{203, 0, 113, 9})
	f.Fuzz(func(t *testing.T, state, known, offence []byte, user string, ms int64, kind uint8) {
		now := time.Now()
		_ = os.Remove(path) // of the one before
		l, err := ledger.Open(path, now)
		if err != nil {
			t.Fatal(err)
		}
		prefix := netip.MustParsePrefix("192.0.2.7/32")
		_, _ = l.Keep(ledger.Known, prefix, json.RawMessage(known)), l.Keep(ledger.Offences, prefix, json.RawMessage(offence)) // no JSON is not kept
		a := policy.Attempt{Addr: prefix.Addr(), At: now.Add(time.Duration(ms)), Kind: policy.Kind(kind), User: user}
		for range 7 {
			l.Note(ledger.Entry{Attempt: a}, a.At)
		}
		l.Seal(state, now.Add(-time.Hour))
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		l, err = ledger.Open(path, now)
		if err != nil {
			t.Fatal(err)
		}
		loop := newLoop(l, now)
		loop.Restore(nil, "a")
		loop.SetAlive(policy.Event, true)
		for range 5 {
			loop.Offer(policy.Attempt{Addr: guesser, At: now, Kind: policy.AuthFailure, User: "1000"}, now)
		}
		loop.Drain()
		if _, banned := l.Get(netip.PrefixFrom(guesser, 32)); !banned {
			t.Error("the guesser is not banned")
		}
		loop.Tick(now)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
