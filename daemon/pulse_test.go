package daemon

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"fsban/control"
	"fsban/detect"
	"fsban/esl"
	"fsban/internal/fakeswitch"
)

func TestTheClockIsReadFromTheFreshestEvent(t *testing.T) {
	t.Parallel()
	began := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	type heard struct{ after, ahead time.Duration }
	for name, tc := range map[string]struct {
		events []heard
		want   time.Duration
	}{
		"nothing heard":            {nil, 0},
		"one event":                {[]heard{{0, -3 * time.Millisecond}}, -3 * time.Millisecond},
		"late events tell nothing": {[]heard{{0, -time.Millisecond}, {time.Second, -4 * time.Second}, {2 * time.Second, -time.Minute}}, -time.Millisecond},
		"a fresher one does":       {[]heard{{0, -time.Second}, {time.Second, -time.Millisecond}}, -time.Millisecond},
		"ahead":                    {[]heard{{0, 5 * time.Second}, {time.Second, 4 * time.Second}}, 5 * time.Second},
		"set forward":              {[]heard{{0, 0}, {time.Second, time.Hour}}, time.Hour},
		"set back, a moment ago":   {[]heard{{0, 0}, {40 * time.Second, -time.Hour}}, 0},
		"set back, a minute ago":   {[]heard{{0, 0}, {40 * time.Second, -time.Hour}, {71 * time.Second, -time.Hour}}, -time.Hour},
		"silent for an hour":       {[]heard{{0, 0}, {time.Hour, -time.Second}}, -time.Second},
		"out of all reason":        {[]heard{{0, math.MaxInt64}, {time.Minute, math.MinInt64}}, math.MinInt64},
	} {
		t.Run(name, func(t *testing.T) {
			var c clock
			for _, e := range tc.events {
				now := began.Add(e.after)
				c.add(now.Add(e.ahead), now)
			}
			if got := c.ahead(); got != tc.want {
				t.Errorf("ahead %v, want %v", got, tc.want)
			}
		})
	}
}

func TestARestartOfFreeSWITCHShowsInItsEvents(t *testing.T) {
	d := detect.New(detect.Options{})
	ev := esl.NewEvent(d.Fields())
	began := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	var p pulse
	for i, step := range []struct {
		core string
		want bool
	}{
		{"Core-UUID: a\n", false}, {"Core-UUID: a\n", false}, {"", false}, {"Core-UUID: b\n", true}, {"Core-UUID: b\n", false},
		{"Core-UUID: a\n", true}, {"Core-UUID: " + strings.Repeat("x", 65) + "\n", false},
	} {
		if err := ev.Parse([]byte("Event-Name: HEARTBEAT\n" + step.core)); err != nil {
			t.Fatal(err)
		}
		if got := p.take(d, ev, began.Add(time.Duration(i)*time.Second)); got != step.want {
			t.Errorf("event %d: restarted %v", i, got)
		}
	}
}

func TestThePulseOfAnEventCostsNoAllocation(t *testing.T) {
	d := detect.New(detect.Options{})
	ev := esl.NewEvent(d.Fields())
	if err := ev.Parse([]byte("Event-Name: CUSTOM\nEvent-Subclass: sofia::register_failure\nEvent-Date-Timestamp: 1795364145318062\n")); err != nil {
		t.Fatal(err)
	}
	var p pulse
	now := time.Now()
	if n := testing.AllocsPerRun(1000, func() { p.take(d, ev, now) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// beats returns a heartbeat with additional or broken headers.
func beats(at time.Time, headers string) []byte {
	body := fmt.Sprintf("Event-Name: HEARTBEAT\nEvent-Date-Timestamp: %d\n%s\n", at.UnixMicro(), headers)
	return fmt.Appendf(nil, "Content-Length: %d\nContent-Type: text/event-plain\n\n%s", len(body), body)
}

func TestFreeSWITCHsPulseIsShown(t *testing.T) {
	t.Parallel()
	fs := newSwitch(t, fakeswitch.Options{})
	r := start(t, fs, configFor(t, fs))
	r.ready()
	for name, want := range map[string]string{
		"fsban_freeswitch_heartbeat_timestamp_seconds": "0\n", "fsban_freeswitch_sessions": "0\n", "fsban_freeswitch_clock_offset_seconds": "0\n",
	} {
		r.metricIs(name, want)
	}
	fs.EmitRaw(beats(time.Now().Add(-10*time.Second), "Uptime-msec: 90500\nSession-Count: 12\nMax-Sessions: 1000\nSession-Per-Sec: 30\nSession-Per-Sec-Last: 4\nIdle-CPU: 87.500000"))
	for name, want := range map[string]string{
		"fsban_freeswitch_sessions": "12\n", "fsban_freeswitch_uptime_seconds": "90.5\n", "fsban_freeswitch_sessions_limit": "1000\n", "fsban_freeswitch_sessions_per_second": "4\n",
		"fsban_freeswitch_idle_cpu_ratio": "0.875\n",
	} {
		r.metricIs(name, want)
	}
	r.eventually("the time of the heartbeat", func() bool { return r.metric("fsban_freeswitch_heartbeat_timestamp_seconds") != "0\n" })
	r.problem("FreeSWITCH's clock is ", "behind ours")
	offset := r.metric("fsban_freeswitch_clock_offset_seconds")
	if s, err := strconv.ParseFloat(strings.TrimSpace(offset), 64); err != nil || s > -10 {
		t.Errorf("the offset of a clock that is 10 s behind is %q", offset)
	}
	fs.EmitRaw(beats(time.Now(), "Session-Count: NaN\nMax-Sessions: -5\nIdle-CPU: 1e300"))
	for _, name := range []string{"fsban_freeswitch_sessions_limit", "fsban_freeswitch_uptime_seconds", "fsban_freeswitch_sessions", "fsban_freeswitch_idle_cpu_ratio"} {
		r.metricIs(name, "0\n")
	}
	r.eventually("an event comes fresh enough to show that the clocks agree", func() bool {
		fs.EmitRaw(beats(time.Now(), ""))
		return len(r.status().Problems) == 0
	})
	fs.EmitRaw(beats(time.Now().Add(30*time.Second), ""))
	r.problem("ahead of ours")
}

func TestALoginWithoutHeartbeatIsNoTrouble(t *testing.T) {
	t.Parallel()
	fs := newSwitch(t, fakeswitch.Options{User: "guard@example.org", Password: "secret", AllowedAPI: []string{"sofia", "xml_locate"}, AllowedLog: true,
		AllowedEvents: append([]string{detect.CallEvent}, everySubclass...)})
	cfg := configFor(t, fs)
	cfg.FreeSWITCH.User, cfg.FreeSWITCH.Password = "guard@example.org", "secret"
	r := start(t, fs, cfg)
	r.ready()
	if denied := r.sources.client.State().Denied; fmt.Sprint(denied) != "[HEARTBEAT]" {
		t.Fatalf("denied: %v", denied)
	}
	r.eventually("there is no problem", func() bool { return len(r.status().Problems) == 0 })
	if strings.Contains(r.log.String(), "may not see") {
		t.Error("the log complains")
	}
	r.fail("192.0.2.7", 5)
	r.settled()
	if got := fmt.Sprint(r.banned()); got != "[192.0.2.7/32]" {
		t.Errorf("banned %s", got)
	}
}

var everySubclass = detect.New(detect.Options{Gateways: true}).Subclasses()

func TestBanDelayIsMeasuredFromFreeSWITCHsEvent(t *testing.T) {
	t.Parallel()
	fs := newSwitch(t, fakeswitch.Options{})
	r := start(t, fs, configFor(t, fs))
	r.ready()
	for range 5 {
		fs.Emit(fakeswitch.WrongPassword, fakeswitch.Caller{Addr: netip.MustParseAddr("192.0.2.7"), User: "1000"}, time.Now().Add(-5*time.Second))
	}
	var delay, latency float64
	r.eventually("both are measured", func() bool {
		var delays, latencies uint64
		delays, delay = r.histogram("fsban_ban_delay_seconds")
		latencies, latency = r.histogram("fsban_ban_latency_seconds")
		return delays == 1 && latencies == 1
	})
	if delay < 5 || latency < 0 || latency > delay-5 {
		t.Errorf("the delay of a ban whose cause was 5 s old is %v s, its latency %v s", delay, latency)
	}
	if _, err := r.client.Ban(t.Context(), control.BanRequest{Prefix: netip.MustParsePrefix("192.0.2.8/32")}); err != nil {
		t.Fatal(err)
	}
	r.eventually("the latency of an operator's ban is measured", func() bool {
		n, _ := r.histogram("fsban_ban_latency_seconds")
		return n == 2
	})
	if n, _ := r.histogram("fsban_ban_delay_seconds"); n != 1 {
		t.Errorf("%d delays, but an operator's ban has no event", n)
	}
	r.eventually("five operations: a set-up, a look at the rules, a listing and two bans", func() bool {
		n, _ := r.histogram("fsban_firewall_operation_seconds")
		return n >= 5
	})
}

// histogram returns the count and sum of a histogram over all its label values.
func (r *rig) histogram(name string) (count uint64, sum float64) {
	r.t.Helper()
	for _, f := range ours(r.t, r.Daemon) {
		for _, m := range f.GetMetric() {
			if f.GetName() == name {
				count += m.GetHistogram().GetSampleCount()
				sum += m.GetHistogram().GetSampleSum()
			}
		}
	}
	return count, sum
}
