package detect

import (
	"net/netip"
	"testing"
	"time"

	"fsban/esl"
	"fsban/internal/captures"
	"fsban/policy"
)

// allOptions enable every source of a Detector.
var allOptions = Options{CTIEvents: ctiOptions.CTIEvents, Calls: Calls{Contexts: []string{"public"}, DenyPrefix: []string{"00", "+"}, MaxLength: 12}}

// allocations returns the number of allocations of what. Two texts may share a slot of a Detector's string cache, depending on
// its random seed: the result is the best of a few Detectors.
func allocations(o Options, what func(*Detector) func()) float64 {
	least := testing.AllocsPerRun(1000, what(New(o)))
	for range 5 {
		least = min(least, testing.AllocsPerRun(1000, what(New(o))))
	}
	return least
}

func TestAKnownAddressCostsNoAllocation(t *testing.T) {
	failed := bodies(t, captures.Read(t, "register-wrong-password.plain.esl"))
	cti := []byte("Event-Name: CUSTOM\nEvent-Subclass: cti::fail2ban\nEvent-Date-Timestamp: 1795363923618017\nip: 192.0.2.7\nuser: 1177\nreason: Registration%20failed\n\n")
	for name, all := range map[string][][]byte{"a wrong password": failed, "mod_cti": {cti}, "a call": calls(t)[:1]} {
		n := allocations(allOptions, func(d *Detector) func() {
			ev := esl.NewEvent(d.Fields())
			return func() {
				for _, b := range all {
					if err := ev.Parse(b); err != nil {
						t.Fatal(err)
					}
					d.Event(ev, now)
				}
			}
		})
		if n != 0 {
			t.Errorf("%s: %v allocations for %d events", name, n, len(all))
		}
	}
	for _, l := range []*esl.Log{&registerRefused, &inviteRefused, &clientRefused, &ctiRecord, {File: []byte("switch_channel.c"), Text: inviteRefused.Text}} {
		if n := allocations(Options{}, func(d *Detector) func() { return func() { d.Log(l, now) } }); n != 0 {
			t.Errorf("%v allocations for %q", n, l.Text)
		}
	}
}

// BenchmarkEvent measures parsing and detecting an event, with and without all options.
func BenchmarkEvent(b *testing.B) {
	failed := bodies(b, captures.Read(b, "register-wrong-password.plain.esl"))
	for _, bench := range []struct {
		name    string
		options Options
		events  [][]byte
	}{
		{"sofia", Options{}, failed},
		{"sofia, all else looked at too", allOptions, failed},
		{"calls", allOptions, calls(b)},
	} {
		b.Run(bench.name, func(b *testing.B) {
			d := New(bench.options)
			ev := esl.NewEvent(d.Fields())
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if err := ev.Parse(bench.events[i%len(bench.events)]); err != nil {
					b.Fatal(err)
				}
				d.Event(ev, now)
			}
		})
	}
}

func BenchmarkLog(b *testing.B) {
	others := esl.Log{
		Level: 4, File: []byte("sofia_reg.c"), Func: []byte("sofia_reg_handle_register_token"),
		Text: []byte("2026-11-22 16:19:21.138015 36.53% [WARNING] sofia_reg.c:1842 SIP auth challenge (REGISTER) on sofia profile 'internal' for [1000@10.77.0.1] from ip 10.77.0.14\n"),
	}
	for name, l := range map[string]*esl.Log{"refused": &inviteRefused, "mod_cti": &ctiRecord, "others": &others} {
		b.Run(name, func(b *testing.B) {
			d := New(Options{})
			b.ReportAllocs()
			for b.Loop() {
				d.Log(l, now)
			}
		})
	}
}

// BenchmarkArbiter measures a failure reported by the log stream and then by an event, with an empty and with a full list of
// held reports.
func BenchmarkArbiter(b *testing.B) {
	for name, alone := range map[string]int{"told twice": 0, "beside what nobody confirms": maxHeld - 1} {
		b.Run(name, func(b *testing.B) {
			r := NewArbiter(policy.Event, policy.ESLLog)
			r.SetAlive(policy.Event, true, now)
			r.SetAlive(policy.ESLLog, true, now)
			at := now.Add(time.Minute)
			a := policy.Attempt{Addr: netip.MustParseAddr("192.0.2.7"), At: at, Kind: policy.AuthFailure, User: "1000", Source: policy.ESLLog}
			for i := range alone {
				a.Addr = netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
				r.Counts(&a, at)
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				a.Addr = netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
				for _, a.Source = range []policy.Source{policy.ESLLog, policy.Event} {
					r.Counts(&a, at)
				}
			}
		})
	}
}
