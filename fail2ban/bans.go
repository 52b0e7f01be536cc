package fail2ban

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"

	"fsban/config"
)

// A Ban is a ban of fail2ban's that is in force.
type Ban struct {
	Jail   string       `json:"jail,omitempty"`
	Prefix netip.Prefix `json:"prefix"`
	Since  time.Time    `json:"since"`
	Until  time.Time    `json:"until,omitzero"` // zero: forever
}

const (
	answerTime  = time.Minute // bounds one call of fail2ban-client
	maxAnswer   = 64 << 20    // bytes of one answer: about 900,000 bans
	maxBanLine  = 4096        // bytes
	maxErrorTxt = 300         // bytes of an error of fail2ban-client
)

// AskBans asks the running fail2ban that is configured in dir for the bans of some jails in force at now, with
// fail2ban-client get JAIL banip --with-time, which fail2ban has from 0.10.5 on. The bans are sorted by their end, the
// earliest first. Of an address that several jails ban, the ban that ends last is returned. odd are banned identifiers that
// are no address, as jails with an <F-ID> of their own have them.
func AskBans(ctx context.Context, dir string, jails []*Jail, now time.Time) (bans []Ban, odd []string, err error) {
	var all []Ban
	for _, j := range jails {
		some, others, err := askJail(ctx, dir, j.Name, now)
		if err != nil {
			return nil, nil, fmt.Errorf("ask fail2ban for the bans of jail [%s]: %w", j.Name, err)
		}
		all, odd = append(all, some...), append(odd, others...)
	}
	slices.Sort(odd)
	return longest(all), odd, nil
}

func askJail(ctx context.Context, dir, jail string, now time.Time) ([]Ban, []string, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "fail2ban-client", "-c", dir, "get", jail, "banip", "--with-time")
	var answer, complaint firstBytes
	answer.most, complaint.most = maxAnswer, maxErrorTxt
	cmd.Stdout, cmd.Stderr = &answer, &complaint
	switch err := cmd.Run(); {
	case answer.cut:
		return nil, nil, fmt.Errorf("more than %d MiB of bans", maxAnswer>>20)
	case err != nil:
		// The client prints errors of the server on standard output.
		text := comment(complaint.kept.String() + " " + answer.kept.String())
		return nil, nil, fmt.Errorf("fail2ban-client: %w: %.*s", err, maxErrorTxt, text)
	}
	return parseBans(&answer.kept, jail, now)
}

// firstBytes is a buffer that keeps the first bytes written to it.
type firstBytes struct {
	kept bytes.Buffer
	most int
	cut  bool
}

func (b *firstBytes) Write(p []byte) (int, error) {
	room := max(0, b.most-b.kept.Len())
	b.cut = b.cut || len(p) > room
	b.kept.Write(p[:min(len(p), room)])
	return len(p), nil
}

// ParseBans reads saved output of fail2ban-client get JAIL banip --with-time. Its times are of this host's time zone.
func ParseBans(r io.Reader, jail string, now time.Time) (bans []Ban, odd []string, err error) {
	bans, odd, err = parseBans(io.LimitReader(r, maxAnswer), jail, now)
	slices.Sort(odd)
	return longest(bans), odd, err
}

// banLine is a line of get JAIL banip --with-time: identifier, begin, seconds (-1: forever), end.
var banLine = regexp.MustCompile(`^(.+) \t(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) \+ (-?\d+) = (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)$`)

// farYear stands in the output for a time that Python cannot represent.
const farYear = 9999

func parseBans(r io.Reader, jail string, now time.Time) (bans []Ban, odd []string, err error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxBanLine)
	for number := 1; lines.Scan(); number++ {
		text := strings.TrimRight(lines.Text(), " \r")
		if text == "" {
			continue
		}
		m := banLine.FindStringSubmatch(text)
		if m == nil {
			return nil, nil, fmt.Errorf("line %d: %.60q is no ban with its time: save the output of fail2ban-client get JAIL banip --with-time",
				number, text)
		}
		since, err := time.ParseInLocation(time.DateTime, m[2], time.Local)
		if err != nil {
			return nil, nil, fmt.Errorf("line %d: %w", number, err)
		}
		until, err := time.ParseInLocation(time.DateTime, m[4], time.Local)
		switch {
		case err != nil:
			return nil, nil, fmt.Errorf("line %d: %w", number, err)
		case m[3] == "-1" || until.Year() >= farYear:
			until = time.Time{}
		case !until.After(now):
			continue
		}
		prefix, err := config.ParsePrefix(m[1])
		if err != nil {
			odd = append(odd, m[1])
			continue
		}
		bans = append(bans, Ban{jail, prefix, since, until})
	}
	if errors.Is(lines.Err(), bufio.ErrTooLong) {
		return nil, nil, fmt.Errorf("a line is longer than %d bytes", maxBanLine)
	}
	return bans, odd, lines.Err()
}

// longest returns for each prefix the ban that ends last, sorted by end, those without end last.
func longest(all []Ban) []Ban {
	byEnd := func(x, y Ban) int {
		if x.Until.IsZero() != y.Until.IsZero() {
			if x.Until.IsZero() {
				return 1
			}
			return -1
		}
		return x.Until.Compare(y.Until)
	}
	kept := make(map[netip.Prefix]Ban)
	for _, b := range all {
		if old, there := kept[b.Prefix]; !there || byEnd(old, b) < 0 {
			kept[b.Prefix] = b
		}
	}
	bans := make([]Ban, 0, len(kept))
	for _, b := range kept {
		bans = append(bans, b)
	}
	slices.SortFunc(bans, func(x, y Ban) int {
		return cmp.Or(byEnd(x, y), x.Prefix.Addr().Compare(y.Prefix.Addr()), x.Prefix.Bits()-y.Prefix.Bits())
	})
	return bans
}
