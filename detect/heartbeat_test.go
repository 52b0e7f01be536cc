package detect

import (
	"strings"
	"testing"
	"time"

	"fsban/esl"
	"fsban/internal/captures"
)

func TestARecordedHeartbeat(t *testing.T) {
	d := New(Options{Calls: Calls{Contexts: []string{"public"}}, CTIEvents: []CTIEvent{{Subclass: "cti::x", Addr: "ip", User: "Session-Count"}}})
	ev := esl.NewEvent(d.Fields())
	var beats []Heartbeat
	for _, body := range bodies(t, captures.Read(t, "external-invite-no-match.plain-all.esl")) {
		if err := ev.Parse(body); err != nil {
			t.Fatal(err)
		}
		if beat, ok := d.Heartbeat(ev); ok {
			beats = append(beats, beat)
		}
	}
	want := Heartbeat{Uptime: 380136 * time.Millisecond, SessionsLimit: 1000, IdleCPU: 0.00233333}
	if len(beats) != 1 || beats[0] != want {
		t.Errorf("heartbeats %+v, want %+v", beats, want)
	}
}

func TestAHeartbeatOfHostileNumbersIsZero(t *testing.T) {
	d := New(Options{})
	ev := esl.NewEvent(d.Fields())
	read := func(value string) Heartbeat {
		t.Helper()
		body := "Event-Name: HEARTBEAT\n"
		for _, name := range heartbeatHeaders {
			body += name + ": " + value + "\n"
		}
		if err := ev.Parse([]byte(body)); err != nil {
			t.Fatal(err)
		}
		beat, ok := d.Heartbeat(ev)
		if !ok {
			t.Fatal("not a heartbeat")
		}
		return beat
	}
	for _, value := range []string{
		"", "_undef_", "many", "-1", "NaN", "+Inf", "-Inf", "1e999", "1e300", "0x1p400", "%31%30%30%20", strings.Repeat("9", 1<<16), "1 2", "1,5",
	} {
		if got := read(value); got != (Heartbeat{}) {
			t.Errorf("%.20q is read as %+v", value, got)
		}
	}
	if got, want := read("50"), (Heartbeat{50 * time.Millisecond, 50, 50, 50, 0.5}); got != want {
		t.Errorf("50 is read as %+v, want %+v", got, want)
	}
	if err := ev.Parse([]byte("Event-Name: CUSTOM\nEvent-Subclass: HEARTBEAT\nSession-Count: 5\n")); err != nil {
		t.Fatal(err)
	}
	if _, ok := d.Heartbeat(ev); ok {
		t.Error("another event is taken for a heartbeat")
	}
}
