package decide

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
	line := detect.Memo{Addr: netip.MustParseAddr("2001:db8::7"), User: "\x00\xff", Alias: "0044", At: at, Read: at.Add(time.Second), Kind: policy.Violation, Sources: 1 << policy.CTILog}
	held := line
	held.Held = &policy.Attempt{Addr: line.Addr, User: "1000", At: at, ReportedAt: at.Add(-time.Hour), UserAgent: "Zoiper"}
	counted := detect.Memo{Addr: netip.MustParseAddr("192.0.2.7"), At: at, Read: at, Sources: 1<<policy.NumSources - 1, Counted: true}
	return []detect.Memo{line, held, counted}
}

func marksToWrite() []detect.LineMark {
	at := time.Date(2026, 11, 23, 5, 0, 0, 123456000, time.UTC)
	return []detect.LineMark{{Addr: netip.MustParseAddr("192.0.2.7"), At: at}, {Addr: netip.MustParseAddr("2001:db8::7"), At: at.Add(time.Second)}}
}

func TestAStateIsReadAsItWasWritten(t *testing.T) {
	head := []byte(`{"log":{"at":"2026-11-23T05:00:00Z"},"fleet":{"id":"a"}}`)
	want := memosToWrite()
	data := appendState(nil, head, marksToWrite(), slices.Values(want))
	s, marks, got, err := readState(data)
	if err != nil || !reflect.DeepEqual(marks, marksToWrite()) || s.Fleet.ID != "a" || s.Log.At.Year() != 2026 || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v\n%+v\n%v", s, got, err)
	}
	for cut := range data {
		if _, _, memos, err := readState(data[:cut]); err == nil && len(memos) == len(want) {
			t.Errorf("cut at %d of %d: nothing is missing", cut, len(data))
		}
	}
	for name, bad := range map[string][]byte{"nothing": {}, "JSON": head, "a later version": append([]byte{stateVersion + 1}, data[1:]...), "an earlier version": append([]byte{stateVersion - 1}, data[1:]...), "no standing": appendState(nil, []byte("{"), nil, slices.Values(want))} {
		if _, _, _, err := readState(bad); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzState(f *testing.F) {
	f.Add(appendState(nil, []byte("{}"), marksToWrite(), slices.Values(memosToWrite())))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, marks, memos, err := readState(data)
		if err != nil {
			return
		}
		head, err := json.Marshal(s)
		if err != nil {
			return // a year that JSON has no place for
		}
		again, sameMarks, same, err := readState(appendState(nil, head, marks, slices.Values(memos)))
		if err != nil || !reflect.DeepEqual(again, s) || !reflect.DeepEqual(same, memos) || !reflect.DeepEqual(sameMarks, marks) {
			t.Errorf("%+v %+v became %+v %+v, %v", s, memos, again, same, err)
		}
	})
}

// BenchmarkSeal measures the cost to the decision loop of a second's flood that two sources report.
func BenchmarkSeal(b *testing.B) {
	now := time.Now()
	arbiter := detect.NewArbiter(policy.Event, policy.CTILog)
	arbiter.SetAlive(policy.Event, true, now)
	arbiter.SetAlive(policy.CTILog, true, now)
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
		state = appendState(make([]byte, 0, len(state)), []byte("{}"), nil, arbiter.Memos(now))
	}
	b.SetBytes(int64(len(state)))
}
