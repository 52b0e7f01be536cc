package detect

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"fsban/policy"
)

const record = "ip[124.32.10.1] user[1177] at[2024-04-13T17:21:01.959347+0800] Registration failed"

// written is the time of record.
var written = time.Date(2024, 4, 13, 9, 21, 1, 959347000, time.UTC)

// consoleLine reads the record in a line of FreeSWITCH's console.
func consoleLine(d *Detector, line []byte, now time.Time) (policy.Attempt, Outcome) {
	record, ok := CTIRecord(line)
	if !ok {
		return policy.Attempt{}, NotUnderstood
	}
	return d.CTILine(record, now)
}

func TestALineOfTheFileIsAnAttempt(t *testing.T) {
	a, o := New(Options{}).CTILine([]byte(record), now)
	want := policy.Attempt{Addr: netip.MustParseAddr("124.32.10.1"), At: written, Kind: policy.AuthFailure, Source: policy.CTILog, User: "1177"}
	if o != Attempt || a != want {
		t.Errorf("%s: %+v\nwant %+v", o, a, want)
	}
}

func TestTheAddressOfALineIsTheOneItBeginsWith(t *testing.T) {
	const rest = " user[1177] at[2024-04-13T17:21:01.959347+0800] Registration failed"
	for _, tc := range []struct{ name, line, want string }{
		{"IPv4", "ip[192.0.2.7]" + rest, "192.0.2.7"},
		{"IPv6", "ip[2001:db8::7]" + rest, "2001:db8::7"},
		{"IPv6 in brackets", "ip[[2001:db8::7]]" + rest, "2001:db8::7"},
		{"IPv6 with a zone", "ip[fe80::1%eth0]" + rest, "fe80::1"},
		{"IPv6 with a zone, in brackets", "ip[[fe80::1%eth0]]" + rest, "fe80::1"},
		{"IPv4-mapped", "ip[::ffff:192.0.2.7]" + rest, "192.0.2.7"},
		{"nothing but an address", "ip[192.0.2.7]", "192.0.2.7"},
		{"another in the user", "ip[192.0.2.7] user[ip[9.9.9.9] user[x] at[2024-04-13T17:21:01+0800] Registration failed] at[2024-04-13T17:21:01+0800] Registration failed", "192.0.2.7"},
		{"a bracket in the user", "ip[192.0.2.7] user[]]ip[9.9.9.9]] at[2024-04-13T17:21:01+0800] Registration failed", "192.0.2.7"},
		{"control bytes in the user", "ip[192.0.2.7] user[\x00\x01\x1b[31m\rip[9.9.9.9]\x7f\xff] at[2024-04-13T17:21:01+0800] x", "192.0.2.7"},

		{"none", "ip[]" + rest, ""},
		{"null", "ip[(null)]" + rest, ""},
		{"unspecified", "ip[0.0.0.0]" + rest, ""},
		{"with a port", "ip[192.0.2.7:5060]" + rest, ""},
		{"a name", "ip[example.com]" + rest, ""},
		{"spaces", "ip[ 192.0.2.7 ]" + rest, ""},
		{"leading zeros", "ip[192.000.002.007]" + rest, ""},
		{"IPv4 in brackets", "ip[[192.0.2.7]]" + rest, ""},
		{"one bracket too many", "ip[[2001:db8::7]" + rest, ""},
		{"a bracket too late", "ip[192.0.2.7" + rest, ""},
		{"no bracket", "ip[192.0.2.7", ""},
		{"something behind it", "ip[192.0.2.7]x" + rest, ""},
		{"not at the start", " ip[192.0.2.7]" + rest, ""},
		{"the end of another line", "177] at[2024-04-13T17:21:01+0800] ip[192.0.2.7]" + rest, ""},
		{"the middle of an address", "2.0.2.7]" + rest, ""},
		{"upper case", "IP[192.0.2.7]" + rest, ""},
		{"empty", "", ""},
		{"only NUL bytes", "\x00\x00\x00", ""},
		{"an address of a megabyte", "ip[" + strings.Repeat("1", 1<<20) + "]" + rest, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, o := New(Options{}).CTILine([]byte(tc.line), now)
			if tc.want == "" {
				if a.Addr.IsValid() || o != NotUnderstood && o != NoAddress {
					t.Errorf("%s with address %v", o, a.Addr)
				}
				return
			}
			if o != Attempt && o != ClockAdrift || a.Addr != netip.MustParseAddr(tc.want) {
				t.Errorf("%s with address %v, want %s", o, a.Addr, tc.want)
			}
		})
	}
}

func TestTheUserOfALineEndsWhereTheTimeBegins(t *testing.T) {
	const forged = "x] at[2020-01-01T00:00:00+0000] Registration failed"
	for _, tc := range []struct{ user, want string }{
		{"1177", "1177"},
		{"", ""},
		{"(null)", ""},
		{forged, forged},
		{"x] at[", "x] at["},
		{"x] at[(null)] Registration failed", "x] at[(null)] Registration failed"},
		{"]]]", "]]]"},
		{"ip[9.9.9.9]", "ip[9.9.9.9]"},
		{"用户", "用户"},
		{"a\x00b\x1b", "a\x00b\x1b"},
		{strings.Repeat("ä", 100), strings.Repeat("ä", 64)},
		{strings.Repeat("x", 1<<20), strings.Repeat("x", MaxText)},
		{strings.Repeat("] at[", 1<<18), strings.Repeat("] at[", 26)[:MaxText]},
	} {
		line := "ip[192.0.2.7] user[" + tc.user + "] at[2024-04-13T17:21:01.959347+0800] Registration failed"
		a, o := New(Options{}).CTILine([]byte(line), now)
		if o != Attempt || a.User != tc.want || !a.At.Equal(written) || a.Kind != policy.AuthFailure {
			t.Errorf("user %.60q: %s, %.60q at %v, %s", tc.user, o, a.User, a.At, a.Kind)
		}
	}
}

func TestTheTimeOfALine(t *testing.T) {
	second := written.Truncate(time.Second)
	for _, tc := range []struct {
		text string
		want time.Time // zero: not understood
	}{
		{"2024-04-13T17:21:01.959347+0800", written},
		{"2024-04-13T17:21:01.959347+08:00", written},
		{"2024-04-13 17:21:01.959347+0800", written},
		{"2024-04-13T09:21:01.959347Z", written},
		{"2024-04-13T09:21:01Z", second},
		{"2024-04-13T17:21:01+0800", second},
		{"2024-04-13T17:21:01.9+0800", second.Add(900 * time.Millisecond)},
		{"2024-04-13T17:21:01.959347123456+0800", second.Add(959347123)},
		{"2024-04-13T14:51:01.959347+051800", written}, // +05:30
		{"2024-04-13T14:51:01.959347+0530", written},
		{"2024-04-13T15:06:01.959347+052700", written}, // +05:45
		{"2024-04-13T05:51:01.959347-03-1800", written},
		{"2024-04-13T05:51:01.959347-0330", written},
		{"2024-04-13T08:51:01.959347+00-1800", written}, // -00:30
		{"2024-04-13T09:21:01.959347+00000000", written},
		{"2024-02-29T00:00:00Z", time.Date(2024, 2, 29, 0, 0, 0, 0, time.UTC)},
		{"2016-12-31T23:59:60Z", time.Date(2017, 1, 1, 0, 0, 0, 0, time.UTC)},

		{"", time.Time{}},
		{"(null)", time.Time{}},
		{"yesterday", time.Time{}},
		{"2024-04-13T17:21:01.959347", time.Time{}},
		{"2024-04-13T17:21:01.959347+08", time.Time{}},
		{"2024-04-13T17:21:01.959347+080", time.Time{}},
		{"2024-04-13T17:21:01.959347+9900", time.Time{}},
		{"2024-04-13T17:21:01.959347+083600", time.Time{}},
		{"2024-04-13T17:21:01.959347+08000000000000000000000000000", time.Time{}},
		{"2024-04-13T17:21:01.959347+0800x", time.Time{}},
		{"2024-04-13T17:21:01.+", time.Time{}},
		{"2023-02-29T00:00:00Z", time.Time{}},
		{"2024-13-01T00:00:00Z", time.Time{}},
		{"2024-00-01T00:00:00Z", time.Time{}},
		{"2024-04-13T24:21:01Z", time.Time{}},
		{"2024-04-13T17:60:01Z", time.Time{}},
		{"+024-04-13T17:21:01Z", time.Time{}},
	} {
		line := []byte("ip[192.0.2.7] user[1177] at[" + tc.text + "] Registration failed")
		at, ok := CTITime(line)
		if ok == tc.want.IsZero() || !at.Equal(tc.want) {
			t.Errorf("%q: %v, %t, want %v", tc.text, at, ok, tc.want)
		}
		a, o := New(Options{}).CTILine(line, now)
		switch {
		case ok && (o != Attempt || !a.At.Equal(tc.want)):
			t.Errorf("%q: %s at %v", tc.text, o, a.At)
		case !ok && (o != ClockAdrift || !a.At.Equal(now)):
			t.Errorf("%q: %s at %v, want now", tc.text, o, a.At)
		}
	}
}

func TestEveryDayIsTheCalendarsDay(t *testing.T) {
	for year := range 10_000 {
		for month := range 14 {
			for _, day := range []int{0, 1, 28, 29, 30, 31, 32} {
				text := fmt.Sprintf("%04d-%02d-%02dT17:21:01.959347+08:00", year, month, day)
				want, err := time.Parse(time.RFC3339Nano, text)
				if got, ok := parseTime([]byte(text)); ok != (err == nil) || ok && !got.Equal(want) {
					t.Fatalf("%s: %v %t, want %v %v", text, got, ok, want, err)
				}
			}
		}
	}
}

func TestAnOldLineKeepsItsTime(t *testing.T) {
	a, o := New(Options{}).CTILine([]byte(record), written.Add(24*time.Hour))
	if o != Attempt || !a.At.Equal(written) {
		t.Errorf("%s at %v", o, a.At)
	}
	for skew, want := range map[time.Duration]bool{0: false, time.Minute: false, -time.Minute: false, 61 * time.Second: true, -8 * time.Hour: true} {
		if got := ExceedsSkew(written, written.Add(skew)); got != want {
			t.Errorf("%v apart: adrift %t", skew, got)
		}
	}
}

func TestEveryReasonButAFailedRegistrationIsAViolation(t *testing.T) {
	for reason, want := range map[string]policy.Kind{
		"Registration failed":           policy.AuthFailure,
		"Registration failed.":          policy.AuthFailure,
		"Registration failed (3 times)": policy.AuthFailure,
		"  Registration failed":         policy.AuthFailure,
		"Registration failedness":       policy.Violation,
		"registration failed":           policy.Violation,
		"No Registration failed":        policy.Violation,
		"irregular SIP message":         policy.Violation,
		"":                              policy.Violation,
	} {
		a, o := New(Options{}).CTILine([]byte("ip[192.0.2.7] user[0086] at[2024-04-13T17:21:01+0800] "+reason), now)
		if o != Attempt || a.Kind != want {
			t.Errorf("%q: %s, %s, want %s", reason, o, a.Kind, want)
		}
	}
}

func TestRecordsInTheConsoleLog(t *testing.T) {
	const said = "2024-04-13 17:21:01.959347 98.47% [NOTICE] cti_fail2ban.c:35 write to fail2ban:" + record + " succeed!"
	want, _ := New(Options{}).CTILine([]byte(record), now)
	for _, line := range []string{
		said, said + "\n", said + "\r\n",
		strings.Replace(said, " 98.47%", "", 1),
		strings.Replace(said, "98.47%", "100.00%", 1),
		strings.Replace(said, "NOTICE", "WARNING", 1),
		strings.Replace(said, ":35 ", ":1035 ", 1),
		"9a3f6c1e-0f4e-4a53-9a10-8d4f2a6b7c8d " + said,
		strings.TrimSuffix(said, " succeed!"),
	} {
		if a, o := consoleLine(New(Options{}), []byte(line), now); o != Attempt || a != want {
			t.Errorf("%q: %s, %+v", line, o, a)
		}
	}
	for _, line := range []string{
		"", record, "2024-04-13", said[1:], "x" + said, " " + said,
		strings.Replace(said, "cti_fail2ban.c:35", "sofia_reg.c:35", 1),
		strings.Replace(said, "cti_fail2ban.c:35", "cti_fail2ban.c:", 1),
		strings.Replace(said, "cti_fail2ban.c:35", "xcti_fail2ban.c:35", 1),
		"2024-04-13 17:21:01.959347 98.47% [WARNING] sofia_reg.c:1792 SIP auth failure (REGISTER) for [" + said + "] from ip 192.0.2.7",
		"2024-04-13 17:21:01.959347 98.47% [] x cti_fail2ban.c:35 write to fail2ban:" + record,
		"2024-04-13 17:21:01.959347 98.47% ",
	} {
		if a, o := consoleLine(New(Options{}), []byte(line), now); o != NotUnderstood || a.Addr.IsValid() {
			t.Errorf("%q: %s, %v", line, o, a.Addr)
		}
	}
	a, o := consoleLine(New(Options{}), []byte(strings.Replace(said, "1177", "a succeed!\nip[9.9.9.9] user[b", 1)), now)
	if o != Attempt || a.Addr != want.Addr || a.User != "a succeed!\nip[9.9.9.9] user[b" {
		t.Errorf("%s, %+v", o, a)
	}
}

func TestALineOfAKnownAddressCostsNoAllocation(t *testing.T) {
	for _, line := range []string{
		record,
		"ip[2001:db8::7] user[1177] at[2024-04-13T14:51:01.959347+051800] irregular SIP message",
		"ip[192.0.2.7] user[x] at[2020-01-01T00:00:00Z] y] at[(null)] Registration failed",
	} {
		text := []byte(line)
		if n := allocations(Options{}, func(d *Detector) func() { return func() { d.CTILine(text, now) } }); n != 0 {
			t.Errorf("%v allocations for %q", n, line)
		}
	}
}

// FuzzNoAddressButTheFirst: an address is always the text between "ip[" at the start and the first "]" behind it.
func FuzzNoAddressButTheFirst(f *testing.F) {
	for _, line := range []string{
		record, "", "ip[", "ip[]", "ip[192.0.2.7]", "ip[[2001:db8::7]] user[] at[(null)] x", "ip[fe80::1%]x] user[",
		"ip[192.0.2.7] user[ip[9.9.9.9] user[x] at[2024-04-13T17:21:01Z] a] at[2024-04-13T05:51:01-03-1800] Registration failed",
		"2024-04-13 17:21:01.959347 98.47% [NOTICE] cti_fail2ban.c:35 write to fail2ban:" + record + " succeed!",
	} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		d := New(Options{})
		check := func(record []byte, a policy.Attempt, o Outcome) {
			if o != Attempt && o != ClockAdrift {
				if a != (policy.Attempt{}) {
					t.Fatalf("%s with %+v", o, a)
				}
				return
			}
			text, ok := bytes.CutPrefix(record, []byte("ip["))
			text, rest, found := bytes.Cut(text, []byte("]"))
			if bytes.HasPrefix(text, []byte("[")) {
				text, found = text[1:], bytes.HasPrefix(rest, []byte("]"))
			}
			want, err := netip.ParseAddr(string(text))
			if !ok || !found || err != nil || a.Addr != want.WithZone("").Unmap() || a.Addr.Is4In6() || a.Addr.IsUnspecified() {
				t.Fatalf("address %v from %q", a.Addr, record)
			}
			if len(a.User) > MaxText || a.At.IsZero() || a.Source != policy.CTILog || o == ClockAdrift && !a.At.Equal(now) {
				t.Fatalf("%s, %+v", o, a)
			}
			// The line contains the user.
			if !strings.Contains(string(bytes.ToValidUTF8(record, nil)), string(bytes.ToValidUTF8([]byte(a.User), nil))) {
				t.Fatalf("user %q is not in %q", a.User, record)
			}
		}
		a, o := d.CTILine(line, now)
		check(line, a, o)
		a, o = consoleLine(d, line, now)
		if o == NotUnderstood {
			return
		}
		// The first occurrence of the words is mod_cti's own: text of a peer comes later.
		_, record, ok := bytes.Cut(line, []byte("write to fail2ban:"))
		if !ok {
			t.Fatalf("%s from %q", o, line)
		}
		check(record, a, o)
	})
}

func BenchmarkCTILine(b *testing.B) {
	lines := [][]byte{
		[]byte(record),
		[]byte("ip[203.0.113.250] user[1000] at[2026-11-22T18:04:03.970956+0800] Registration failed"),
		[]byte("ip[2001:db8::7] user[900442071234567] at[2026-11-22T18:04:03.970956+0800] irregular SIP message"),
	}
	d := New(Options{})
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, o := d.CTILine(lines[i%len(lines)], now); o != Attempt {
			b.Fatal(o)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "lines/s")
}
