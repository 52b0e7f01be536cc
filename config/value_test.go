package config

import (
	"testing"
	"time"

	"fsban/policy"
)

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"90s": 90 * time.Second, "10m": 10 * time.Minute, "24h": 24 * time.Hour, "1d": 24 * time.Hour, "7d": 7 * 24 * time.Hour,
		"1w": 7 * 24 * time.Hour, "1w1d1h1m1s": (8*24+1)*time.Hour + 61*time.Second, "1.5h": 90 * time.Minute, "0s": 0,
		"36500d": 36500 * 24 * time.Hour, "forever": policy.Forever, "-1": policy.Forever,
	} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("%s: %v, %v, want %v", text, got, err, want)
		}
	}
	for want, d := range map[string]time.Duration{
		"0s": 0, "1ns": 1, "1m30s": 90 * time.Second, "10m": 10 * time.Minute, "1h": time.Hour, "1h10m": 70 * time.Minute,
		"20h": 20 * time.Hour, "1d": 24 * time.Hour, "25h": 25 * time.Hour, "30d": 30 * 24 * time.Hour, "forever": policy.Forever,
	} {
		if got := Duration(d).String(); got != want {
			t.Errorf("%v is written %s, want %s", d, got, want)
		}
	}
	for _, text := range []string{"", " ", "d", "w", "1", "1x", "1h1d", "1d1w", "1d1d", "-1h", "1d-1h", "+1h", "1d+1h", "1.5d", "36501d", "100000000h", "99999999999999999999d", "forever1", "Forever", "1 h", "١h"} {
		if d, err := ParseDuration(text); err == nil {
			t.Errorf("%q is taken for %v", text, d)
		}
	}
}

func TestPrefixes(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.7": "192.0.2.7/32", "192.0.2.7/24": "192.0.2.0/24", "127.0.0.1/8": "127.0.0.0/8", "0.0.0.0/0": "0.0.0.0/0",
		"2001:db8::1": "2001:db8::1/128", "2001:DB8::1/64": "2001:db8::/64", "::ffff:192.0.2.7": "192.0.2.7/32",
		"::ffff:192.0.2.7/120": "192.0.2.0/24", "::ffff:0:0/96": "0.0.0.0/0", "::ffff:192.0.2.7/80": "::/80", "::1": "::1/128",
	} {
		if got, err := ParsePrefix(text); err != nil || got.String() != want {
			t.Errorf("%s: %v, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "carrier.example", "192.0.2", "192.0.2.07", "192.0.2.7/33", "192.0.2.7/", "192.0.2.7/08", "fe80::1%eth0", "fe80::%eth0/64", "2001:db8::/129", "192.0.2.1-192.0.2.9", "[::1]"} {
		if p, err := ParsePrefix(text); err == nil {
			t.Errorf("%q is taken for %v", text, p)
		}
	}
}

func FuzzDurationReadsWhatItWrites(f *testing.F) {
	for _, n := range []int64{0, 1, -1, int64(time.Second), int64(90 * time.Minute), int64(24 * time.Hour), int64(5000 * 24 * time.Hour), int64(maxDuration)} {
		f.Add(n)
	}
	f.Fuzz(func(t *testing.T, n int64) {
		d := time.Duration(n)
		if d != policy.Forever && (d < 0 || d > maxDuration) {
			return
		}
		if got, err := ParseDuration(Duration(d).String()); err != nil || got != d {
			t.Errorf("%d is written %v and read %d, %v", d, Duration(d), got, err)
		}
	})
}

func FuzzParseDuration(f *testing.F) {
	for _, s := range []string{"5m", "1w2d3h", "forever", "-1", "600", "1d-1h", "99999w", "1e9h"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDuration(s)
		if err == nil && d != policy.Forever && (d < 0 || d > maxDuration) || err != nil && d != 0 {
			t.Errorf("%q is %v, %v", s, d, err)
		}
	})
}

func FuzzParsePrefix(f *testing.F) {
	for _, s := range []string{"192.0.2.7", "192.0.2.7/24", "::ffff:192.0.2.7/120", "::ffff:192.0.2.7/95", "2001:db8::/32", "fe80::1%eth0", "::/0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePrefix(s)
		if err != nil {
			return
		}
		if !p.IsValid() || p.Addr().Is4In6() || p.Addr().Zone() != "" || p != p.Masked() {
			t.Errorf("%q is %v", s, p)
		}
		if again, err := ParsePrefix(p.String()); err != nil || again != p {
			t.Errorf("%v is read as %v, %v", p, again, err)
		}
	})
}
