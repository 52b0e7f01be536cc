package config

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"fsban/policy"
)

func setScalar(to any, text string) (err error) {
	switch to := to.(type) {
	case *string:
		*to = text
	case *Secret:
		*to = Secret(text)
	case *bool:
		*to, err = parseBool(text)
	case *int:
		*to, err = parseInt(text)
	case *float64:
		*to, err = parseFloat(text)
	case *Duration:
		var d time.Duration
		d, err = ParseDuration(text)
		*to = Duration(d)
	default:
		panic(fmt.Sprintf("config: no way to read a %T", to))
	}
	return err
}

func parseBool(s string) (bool, error) {
	switch s {
	case "true", "yes", "on":
		return true, nil
	case "false", "no", "off":
		return false, nil
	}
	return false, fmt.Errorf("%.60q: write true or false", s)
}

// parseInt reads a decimal number, 1_000 included. One that begins with 0 means eight to some and ten to others.
func parseInt(s string) (int, error) {
	digits := strings.TrimLeft(s, "+-")
	if len(digits) > 1 && digits[0] == '0' {
		return 0, fmt.Errorf("%.60q begins with 0: write a decimal number without it", s)
	}
	i, err := strconv.ParseInt(s, 0, 0)
	if errors.Is(err, strconv.ErrRange) {
		return 0, fmt.Errorf("%.60q is too large", s)
	} else if err != nil {
		return 0, fmt.Errorf("%.60q is not a whole number", s)
	}
	return int(i), nil
}

// parseFloat reads a decimal number.
func parseFloat(s string) (float64, error) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || strings.Trim(s, "+-.0123456789") != "" {
		return 0, fmt.Errorf("%.60q is not a number, like 2 or 0.1", s)
	}
	return f, nil
}

// ParsePrefix reads an address or a prefix. An IPv4-mapped address is the IPv4 address; bits below the prefix's length
// are dropped, so that 127.0.0.1/8 has the same meaning as in fail2ban.
func ParsePrefix(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%.60q is not an address or prefix: write 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32", s)
	}
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), nil
}

// maxDuration keeps sums of durations far from overflow.
const maxDuration = 100 * 365 * 24 * time.Hour

// ParseDuration reads a duration with a unit: s, m, h, d (24h) or w (7d). "forever", and fail2ban's -1, are
// policy.Forever.
func ParseDuration(s string) (time.Duration, error) {
	if s == "forever" || s == "-1" {
		return policy.Forever, nil
	}
	if n, err := strconv.ParseUint(s, 10, 32); err == nil {
		example := fmt.Sprintf("%ds", n)
		if longest := Duration(time.Duration(n) * time.Second).String(); longest != example {
			example += " or " + longest
		}
		return 0, fmt.Errorf("%q has no unit: write %s", s, example)
	}
	days, rest := cutDays(s)
	total := time.Duration(days) * 24 * time.Hour
	if rest != "" {
		d, err := time.ParseDuration(rest)
		if err != nil || rest[0] == '-' || rest[0] == '+' {
			days = -1
		}
		total += min(d, maxDuration+1)
	}
	if s == "" || days < 0 || total > maxDuration {
		return 0, fmt.Errorf("%.40q is not a duration: write 90s, 10m, 24h or 7d", s)
	}
	return total, nil
}

// cutDays reads the weeks and days that s begins with, and returns the rest of it. It is -1 for too many.
func cutDays(s string) (days int, rest string) {
	for _, unit := range []struct {
		name string
		days int
	}{{"w", 7}, {"d", 1}} {
		number, after, ok := strings.Cut(s, unit.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(number, 10, 16)
		if err != nil {
			return -1, ""
		}
		days += int(n) * unit.days
		s = after
	}
	if days > int(maxDuration/(24*time.Hour)) {
		return -1, ""
	}
	return days, s
}
