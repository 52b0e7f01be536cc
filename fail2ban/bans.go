package fail2ban

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"fsban/config"
)

// A Ban is one that was in force when the database was read.
type Ban struct {
	Jail   string       `json:"jail"`
	Prefix netip.Prefix `json:"prefix"`
	Until  time.Time    `json:"until,omitzero"` // zero: for ever
}

// lockPatience is how long fail2ban may take to write what it writes.
const lockPatience = 2 * time.Second

// ReadBans reads the bans of some jails that are in force at a time, oldest end first, from fail2ban's database. It knows
// that of fail2ban 0.9 and later, and reads it whether fail2ban runs or not. Of an address that several jails ban, the
// ban that ends last is returned. odd are those that are no address, as jails with an <F-ID> of their own have them.
func ReadBans(path string, jails []*Jail, now time.Time) (bans []Ban, odd []string, err error) {
	d, err := openDatabase(path, lockPatience)
	if err != nil {
		return nil, nil, fmt.Errorf("fail2ban's database: %w", err)
	}
	defer func() { _ = d.Close() }()
	b := banReader{now: now, jails: make(map[string]*Jail), latest: make(map[banKey]row)}
	for _, j := range jails {
		b.jails[j.Name] = j
	}
	// Before 0.11 there was no table of the latest bans.
	found, err := d.each("bips", b.add)
	if err == nil && !found {
		found, err = d.each("bans", b.add)
	}
	if err == nil && !found {
		err = errors.New("it has no table of bans: is it fail2ban's?")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("fail2ban's database: %s: %w", path, err)
	}
	bans, odd = b.inForce()
	return bans, odd, nil
}

type banKey struct{ jail, ip string }

// A banReader collects the latest ban of each address.
type banReader struct {
	now    time.Time
	jails  map[string]*Jail
	latest map[banKey]row
}

func (b *banReader) add(r row) {
	jail, _ := r["jail"].(string)
	ip, _ := r["ip"].(string)
	key := banKey{jail, ip}
	if _, wanted := b.jails[jail]; !wanted || ip == "" {
		return
	}
	if old, there := b.latest[key]; !there || seconds(old["timeofban"]) <= seconds(r["timeofban"]) {
		delete(r, "data")
		b.latest[key] = r
	}
}

func (b *banReader) inForce() (bans []Ban, odd []string) {
	longest := make(map[netip.Prefix]Ban)
	for key, r := range b.latest {
		until, ok := b.until(key.jail, r)
		if !ok {
			continue
		}
		prefix, err := config.ParsePrefix(key.ip)
		if err != nil {
			odd = append(odd, key.ip)
			continue
		}
		old, there := longest[prefix]
		if !there || !old.Until.IsZero() && (until.IsZero() || until.After(old.Until)) || old.Until.Equal(until) && key.jail < old.Jail {
			longest[prefix] = Ban{key.jail, prefix, until}
		}
	}
	for _, ban := range longest {
		bans = append(bans, ban)
	}
	slices.SortFunc(bans, func(x, y Ban) int {
		if x.Until.IsZero() != y.Until.IsZero() {
			if x.Until.IsZero() {
				return 1
			}
			return -1
		}
		return cmp.Or(x.Until.Compare(y.Until), x.Prefix.Addr().Compare(y.Prefix.Addr()), x.Prefix.Bits()-y.Prefix.Bits())
	})
	slices.Sort(odd)
	return bans, odd
}

// bantimeUnknown stands in the database for a ban of a fail2ban that did not write how long it lasts.
const bantimeUnknown = -2

// until returns the end of a ban, and false when it is over.
func (b *banReader) until(jail string, r row) (time.Time, bool) {
	began, lasts := seconds(r["timeofban"]), float64(bantimeUnknown)
	if v, set := r["bantime"]; set {
		lasts = seconds(v)
	}
	if lasts == bantimeUnknown {
		var err error
		if lasts, _, err = b.jails[jail].Seconds("bantime", builtinBanTime); err != nil {
			lasts = builtinBanTime
		}
	}
	if lasts <= -1 {
		return time.Time{}, true
	}
	if end := began + lasts; end < 1<<40 { // else the time is none
		until := time.Unix(int64(end), 0)
		return until, until.After(b.now)
	}
	return time.Time{}, true
}

func seconds(v any) float64 {
	switch v := v.(type) {
	case int64:
		return float64(v)
	case float64:
		return v
	}
	return 0
}
