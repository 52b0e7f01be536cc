package daemon

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"fsban/detect"
	"fsban/policy"
)

func memosToWrite() []detect.Memo {
	at := time.Date(2026, 11, 23, 5, 0, 0, 123456000, time.UTC)
	line := detect.Memo{Addr: netip.MustParseAddr("2001:db8::7"), User: "\x00\xff", At: at, Read: at.Add(time.Second), Line: at.Add(time.Millisecond), Kind: policy.Violation, Told: 1 << policy.CTILog}
	held := line
	held.Line, held.Held = time.Time{}, &policy.Attempt{Addr: line.Addr, User: "1000", At: at, Clock: at.Add(-time.Hour), UserAgent: "Zoiper"}
	counted := detect.Memo{Addr: netip.MustParseAddr("192.0.2.7"), At: at, Read: at, Told: 1<<policy.NumSources - 1, Counted: true}
	return []detect.Memo{line, held, counted}
}

func TestAStandingIsReadAsItWasWritten(t *testing.T) {
	head := []byte(`{"log":{"at":"2026-11-23T05:00:00Z"},"fleet":{"id":"a"}}`)
	want := memosToWrite()
	data := appendStanding(nil, head, slices.Values(want))
	s, got, err := readStanding(data)
	if err != nil || s.Fleet.ID != "a" || s.Log.At.Year() != 2026 || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v\n%+v\n%v", s, got, err)
	}
	for cut := range data {
		if _, memos, err := readStanding(data[:cut]); err == nil && len(memos) == len(want) {
			t.Errorf("cut at %d of %d: nothing is missing", cut, len(data))
		}
	}
	for name, bad := range map[string][]byte{"nothing": {}, "JSON": head, "another version": append([]byte{2}, data[1:]...), "no standing": appendStanding(nil, []byte("{"), slices.Values(want))} {
		if _, _, err := readStanding(bad); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzStanding(f *testing.F) {
	f.Add(appendStanding(nil, []byte("{}"), slices.Values(memosToWrite())))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, memos, err := readStanding(data)
		if err != nil {
			return
		}
		head, err := json.Marshal(s)
		if err != nil {
			return // a year that JSON has no place for
		}
		again, same, err := readStanding(appendStanding(nil, head, slices.Values(memos)))
		if err != nil || !reflect.DeepEqual(again, s) || !reflect.DeepEqual(same, memos) {
			t.Errorf("%+v %+v became %+v %+v, %v", s, memos, again, same, err)
		}
	})
}

// BenchmarkSeal is what a second costs the decision loop under a flood that two sources tell of.
func BenchmarkSeal(b *testing.B) {
	now := time.Now()
	arbiter := detect.NewArbiter(policy.Event, policy.CTILog)
	arbiter.Alive(policy.Event, true, now)
	arbiter.Alive(policy.CTILog, true, now)
	for i := range 16384 {
		a := policy.Attempt{Addr: netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), User: "1000", At: now, Kind: policy.AuthFailure, Profile: "internal", UserAgent: "friendly-scanner"}
		if i%4 == 0 { // of which the event tells nothing
			a.Source = policy.CTILog
		}
		arbiter.Counts(&a, now)
	}
	b.ReportAllocs()
	var state []byte
	for b.Loop() {
		state = appendStanding(make([]byte, 0, len(state)), []byte("{}"), arbiter.Recent(now, now))
	}
	b.SetBytes(int64(len(state)))
}
