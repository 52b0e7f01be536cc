package daemon

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"fsban/ctilog"
	"fsban/esl"
	"fsban/policy"
)

// hostile returns a text that only a peer would send. The longer ones contain characters that could break a label.
func hostile(what string, i int) string {
	switch i % 7 {
	case 1:
		return fmt.Sprintf("hostile-%s\"%d\\n{}", what, i)
	case 2:
		return fmt.Sprintf("hostile%%0A%s_total 1%%0A#%d", what, i)
	case 3:
		return fmt.Sprintf("hostile\xff\xfe%s%d", what, i)
	case 4:
		return fmt.Sprintf("hostile%d%s", i, strings.Repeat("x", 300))
	}
	return fmt.Sprintf("hostile-%s-%d", what, i)
}

// hostileEvent returns event i, of one of many kinds, with nearly all values new.
func hostileEvent(i int, now time.Time) string {
	addr := netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)}).String()
	switch {
	case i%10 >= 8: // repeated addresses, until they are banned
		addr = fmt.Sprintf("11.100.%d.%d", byte(i>>15), byte(i>>7))
	case i%3 == 0:
		addr = fmt.Sprintf("2001:db8:%x:%x::1", i>>16, i&0xffff)
	}
	profile := fmt.Sprintf("profile-%d", i%1000) // set by FreeSWITCH, not by the peer
	if i%5 == 0 {
		profile = hostile("profile", i) // not possible for a peer; tests the limit
	}
	at := now.UnixMicro()
	if i%11 == 0 {
		at = int64(i) << 40
	}
	head := fmt.Sprintf("Event-Date-Timestamp: %d\nprofile-name: %s\nnetwork-ip: %s\nnetwork-port: %d\nto-user: %s\nto-host: %s\nuser-agent: %s\nusername: %s\nauth-result: %s\nregistration-type: %s\n",
		at, profile, addr, i&0xffff, hostile("user", i), hostile("domain", i), hostile("agent", i), hostile("name", i),
		[]string{"FORBIDDEN", "STALE", "SUCCESS", "RENEWED", hostile("result", i)}[i%5], []string{"INVITE", "REGISTER", hostile("type", i)}[i%3])
	custom := func(subclass string) string {
		return "Event-Name: CUSTOM\nEvent-Subclass: " + subclass + "\n" + head
	}
	switch i % 10 {
	case 0:
		return custom("sofia::register_attempt")
	case 1:
		return custom("sofia::pre_register")
	case 2:
		return custom("sofia::register")
	case 3:
		return custom("cti::fail2ban") + "reason: " + []string{"Registration failed", hostile("reason", i)}[i/10%2] + "\n"
	case 4:
		return custom(hostile("subclass", i))
	case 5:
		return "Event-Name: " + hostile("event", i) + "\n" + head
	case 6:
		number := []string{"NaN", "1e999", "-1", hostile("number", i), strings.Repeat("9", 400)}[i/10%5]
		return fmt.Sprintf("Event-Name: HEARTBEAT\nEvent-Date-Timestamp: %s\nSession-Count: %s\nMax-Sessions: %s\nUptime-msec: %s\nIdle-CPU: %s\n", number, number, number, number, number)
	case 7:
		return "Event-Name: CHANNEL_HANGUP_COMPLETE\n" + head + fmt.Sprintf("Call-Direction: inbound\nChannel-HIT-Dialplan: true\nCaller-Context: public\nCaller-Network-Addr: %[1]s\nCaller-Destination-Number: %[2]s\nHangup-Cause: %[3]s\nvariable_sip_hangup_disposition: send_refuse\nvariable_sip_received_ip: %[1]s\nvariable_sofia_profile_name: %[4]s\nvariable_sip_user_agent: %[5]s\n",
			addr, hostile("number", i), []string{"NORMAL_CLEARING", "NO_ROUTE_DESTINATION", hostile("cause", i)}[i/10%3], profile, hostile("agent", i))
	}
	return custom("sofia::register_failure")
}

// hostileLine passes line i of both logs, as an attacker would write them, to d.
func hostileLine(d *Daemon, i int) {
	text := fmt.Sprintf("ip[11.200.%d.%d] user[%s] at[%s] %s", byte(i>>8), byte(i), hostile("user", i), time.Now().Format("2006-01-02T15:04:05.000000-0700"), []string{"Registration failed", hostile("reason", i)}[i%2])
	d.sources.onLine(ctilog.Line{Text: []byte(text)})
	frame := func(level int, file, function, text string) {
		printed := fmt.Sprintf("2026-03-04 05:06:07.890123 98.47%% [WARNING] %s:35 %s\n", file, text)
		d.sources.onFrame(d.sources.detector.Load(), esl.Log{Level: level, File: []byte(file), Func: []byte(function), Text: []byte(printed)})
	}
	frame(4, hostile("file", i), hostile("func", i), text)
	frame(5, "cti_fail2ban.c", hostile("func", i), "write to fail2ban:"+text+" succeed!")
	frame(4, "sofia_reg.c", "sofia_reg_handle_sip_i_register", fmt.Sprintf("IP 11.201.%d.%d Rejected by register acl \"hostile-%d\"", byte(i>>8), byte(i), i))
}

func TestAHostileFloodMakesNoSeries(t *testing.T) {
	t.Parallel()
	d := everything(t)
	before := series(t, d)
	const events, lines = 100_000, 5_000
	ev := esl.NewEvent(d.sources.detector.Load().Fields())
	d.loop.SetAlive(policy.Event, true)
	d.loop.SetAlive(policy.ESLLog, true)
	for i := range events {
		if err := ev.Parse([]byte(hostileEvent(i, time.Now()))); err != nil {
			t.Fatal(err)
		}
		d.sources.onEvent(d.sources.detector.Load(), ev)
		d.loop.Drain()
		if i%10_000 == 0 {
			d.loop.Tick(time.Now())
		}
	}
	for i := range lines {
		hostileLine(d, i)
		d.loop.Drain()
	}
	d.loop.Tick(time.Now().Add(time.Minute))
	if d.loop.Dropped() != 0 {
		t.Fatalf("%d attempts were dropped", d.loop.Dropped())
	}

	after := series(t, d)
	names := 0
	for s := range after {
		if strings.Contains(s, "hostile") || strings.Contains(s, "11.") || strings.Contains(s, "2001:db8") {
			t.Errorf("a peer's word is a label: %s", s)
		}
		if _, known := before[s]; known {
			continue
		}
		if !strings.HasPrefix(s, "fsban_profile_attempts_total kind=") || !strings.Contains(s, " profile=profile-") {
			t.Errorf("new: %s", s)
		}
		names++
	}
	if want := maxProfiles * len(policy.Kinds()); names != want {
		t.Errorf("%d series of profiles were added, want %d: %d names, and no more", names, want, maxProfiles)
	}
	if len(after) > 480 {
		t.Errorf("%d series in all", len(after))
	}
	sum := func(name string) (n float64) {
		for s, v := range after {
			if strings.HasPrefix(s+" ", name+" ") {
				n += v
			}
		}
		return n
	}
	if n := sum("fsban_events_total"); n != events {
		t.Errorf("%v events were counted, want %d", n, events)
	}
	decided := uint64(0)
	for k := range policy.NumKinds {
		decided += d.loop.Counted(k)
	}
	if n := sum("fsban_profile_attempts_total"); decided < 50_000 || n != float64(decided) {
		t.Errorf("%v attempts by profile, %d were decided on", n, decided)
	}
	for name, least := range map[string]float64{
		"fsban_attempts_total kind=acl_reject source=esl_log":               lines,
		"fsban_attempts_total kind=auth_failure source=cti_event":           1000,
		"fsban_attempts_total kind=call_reject source=event":                1000,
		"fsban_cti_log_lines_total outcome=attempt":                         lines / 2,
		"fsban_profile_attempts_total kind=auth_failure profile=other":      1000,
		"fsban_profile_attempts_total kind=auth_failure profile=profile-18": 1,
		"fsban_bans_total": 10,
	} {
		if n := sum(name); n < least {
			t.Errorf("%s is %v: what the flood is made of did not arrive (%v at least)", name, n, least)
		}
	}
}

func TestWhatIsNoProfilesNameIsNoLabel(t *testing.T) {
	t.Parallel()
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "x", Help: "x"}, []string{"profile", "kind"})
	p := newProfiles(vec)
	for i := range 1000 {
		p.count(hostile("profile name", i), policy.AuthFailure)
	}
	for _, name := range []string{"", "internal", "external-ipv6", "internal", "10.0.0.1_x", "other", strings.Repeat("y", 41), "naïve"} {
		p.count(name, policy.Challenge)
	}
	if got := slices.Sorted(maps.Keys(p.known)); !slices.Equal(got, []string{"10.0.0.1_x", "external-ipv6", "internal", profileOther, profileUnknown}) {
		t.Errorf("profiles %q", got)
	}
	for name, want := range map[string]float64{profileOther: 1003, profileUnknown: 1, "internal": 2, "external-ipv6": 1} {
		if got := testutil.ToFloat64(vec.WithLabelValues(name, "auth_failure")) + testutil.ToFloat64(vec.WithLabelValues(name, "challenge")); got != want {
			t.Errorf("%s counts %v, want %v", name, got, want)
		}
	}
}

// series are fsban's, with their values; a histogram is one.
func series(t *testing.T, d *Daemon) map[string]float64 {
	t.Helper()
	list := make(map[string]float64)
	for _, f := range ours(t, d) {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				if l.GetName() != "goversion" {
					name += " " + l.GetName() + "=" + l.GetValue()
				}
			}
			list[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return list
}
