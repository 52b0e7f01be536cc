package detect

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"fsban/policy"
)

var ctiOptions = Options{CTIEvents: []CTIEvent{
	{Subclass: "cti::fail2ban", Addr: "ip", User: "user", Reason: "reason"},
	{Subclass: "cti::violation", Addr: "ip", User: "number"},
	{Subclass: "cti::sip", Addr: "network-ip", User: "user-agent", Reason: "reason"}, // sofia has such headers too
	{Subclass: "sofia::register_failure", Addr: "user-agent", User: "ip"},
	{Subclass: "cti::nothing"},
}}

func TestAnEventOfModCTIIsAnAttempt(t *testing.T) {
	for _, tc := range []struct {
		name, subclass string
		lines          []string
		kind           policy.Kind
		user           string
	}{
		{"a failed registration", "cti::fail2ban", []string{"ip: 192.0.2.7", "user: 1177", "reason: Registration failed"}, policy.AuthFailure, "1177"},
		{"told at length", "cti::fail2ban", []string{"ip: 192.0.2.7", "user: 1177", "reason: Registration%20failed%20(3%20times)"}, policy.AuthFailure, "1177"},
		{"another reason", "cti::fail2ban", []string{"ip: 192.0.2.7", "user: 1177", "reason: irregular message"}, policy.Violation, "1177"},
		{"no reason", "cti::fail2ban", []string{"ip: 192.0.2.7", "user: 1177"}, policy.Violation, "1177"},
		{"no user", "cti::fail2ban", []string{"ip: 192.0.2.7", "user: (null)", "reason: Registration failed"}, policy.AuthFailure, ""},
		{"no header for the reason", "cti::violation", []string{"ip: 192.0.2.7", "number: 00441234", "reason: Registration failed"}, policy.Violation, "00441234"},
		{"sofia's header names", "cti::sip", []string{"network-ip: 192.0.2.7", "user-agent: x", "reason: Registration failed"}, policy.AuthFailure, "x"},
	} {
		a, o := heard(t, New(ctiOptions), "CUSTOM", tc.subclass, tc.lines...)
		want := policy.Attempt{Addr: netip.MustParseAddr("192.0.2.7"), At: now, Kind: tc.kind, Source: policy.CTIEvent, User: tc.user}
		if o != Attempt || a != want {
			t.Errorf("%s: %s, %+v", tc.name, o, a)
		}
	}
}

func TestAnEventOfModCTIWithoutAnAddress(t *testing.T) {
	for _, tc := range []struct {
		subclass, line string
		want           Outcome
	}{
		{"cti::fail2ban", "user: 1177", NoAddress},
		{"cti::fail2ban", "ip: (null)", NoAddress},
		{"cti::fail2ban", "ip: 192.0.2.7:5060", NoAddress},
		{"cti::fail2ban", "ip: ip[192.0.2.7]", NoAddress},
		{"cti::fail2ban", "network-ip: 192.0.2.7", NoAddress},
		{"cti::nothing", "ip: 192.0.2.7", NoAddress},
		{"cti::other", "ip: 192.0.2.7", NotForUs},
	} {
		if a, o := heard(t, New(ctiOptions), "CUSTOM", tc.subclass, tc.line); o != tc.want || a.Addr.IsValid() {
			t.Errorf("%s %s: %s, %v", tc.subclass, tc.line, o, a.Addr)
		}
	}
	if _, o := heard(t, New(Options{}), "CUSTOM", "cti::fail2ban", "ip: 192.0.2.7"); o != NotForUs {
		t.Errorf("not asked for: %s", o)
	}
}

func TestAnEventOfModCTIHasATime(t *testing.T) {
	d := New(ctiOptions)
	later := now.Add(time.Hour)
	a, o := d.Event(event(t, d, "CUSTOM", "cti::fail2ban", "ip: 192.0.2.7"), later)
	if o != ClockAdrift || !a.At.Equal(later) {
		t.Errorf("%s at %v", o, a.At)
	}
}

func TestNoConfigurationHidesSofiasEvents(t *testing.T) {
	d := New(ctiOptions)
	a, o := heard(t, d, "CUSTOM", "sofia::register_failure", "network-ip: 192.0.2.7", "user-agent: 9.9.9.9", "to-user: 1000")
	if o != Attempt || a.Addr != netip.MustParseAddr("192.0.2.7") || a.Source != policy.Event || a.User != "1000" {
		t.Errorf("%s, %+v", o, a)
	}
	want := []string{
		"sofia::register_failure", "sofia::register_attempt", "sofia::pre_register", "sofia::register",
		"cti::fail2ban", "cti::violation", "cti::sip", "cti::nothing",
	}
	if got := d.Subclasses(); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
