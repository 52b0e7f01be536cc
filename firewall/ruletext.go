package firewall

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// This file says what the rules of single bans look like, for the backend Rules.

const stopLayout = "2006-01-02T15:04:05"

// lastStop is the last end that a rule can have.
var lastStop = time.Date(2038, 1, 19, 3, 14, 7, 0, time.UTC)

// endOf rounds up to what a rule can say.
func endOf(until time.Time) time.Time {
	if until.IsZero() {
		return until
	}
	end := until.UTC().Add(time.Second - 1).Truncate(time.Second)
	if end.After(lastStop) {
		return lastStop
	}
	return end
}

// texts are the rules of one ban.
func (b *Rules) texts(f *family, prefix netip.Prefix, until time.Time) []string {
	var end string
	if !until.IsZero() {
		end = "-m time --datestop " + until.UTC().Format(stopLayout) + " "
	}
	matches := multiports(b.opts.Ports)
	if len(matches) == 0 {
		matches = []string{""}
	}
	for i, match := range matches {
		if match != "" {
			match += " "
		}
		matches[i] = "-s " + prefix.String() + " " + match + end + f.target(b.opts.Target)
	}
	return matches
}

// parseBan reads a rule that texts has written, of whatever configuration.
func parseBan(text string) (prefix netip.Prefix, until time.Time, ok bool) {
	words := strings.Fields(text)
	for i := 0; i+1 < len(words); i++ {
		var err error
		switch words[i] {
		case "-s":
			prefix, err = netip.ParsePrefix(words[i+1])
			ok = err == nil
		case "--datestop":
			until, err = time.Parse(stopLayout, words[i+1])
			if err != nil {
				return prefix, until, false
			}
		}
	}
	return prefix, until, ok
}

// difference are the lines that make want of have: new rules first.
func difference(have, want []string) (lines []string) {
	there := make(map[string]int)
	for _, text := range have {
		there[text]++
	}
	for _, text := range want {
		if there[text]--; there[text] < 0 {
			lines = append(lines, "-A "+ChainName+" "+text)
		}
	}
	for text, surplus := range there {
		lines = append(lines, slices.Repeat([]string{"-D " + ChainName + " " + text}, max(surplus, 0))...)
	}
	return lines
}
