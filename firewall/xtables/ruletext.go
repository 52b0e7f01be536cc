package xtables

import (
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"fsban/firewall"
)

const stopLayout = "2006-01-02T15:04:05"

// lastStop is the last end that a rule can have.
var lastStop = time.Date(2038, 1, 19, 3, 14, 7, 0, time.UTC)

// endOf rounds an end up to the precision of a rule.
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

// texts returns the rules of one ban.
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

// banRule matches the rules that texts returns in any configuration.
var banRule = regexp.MustCompile(
	`^-s (\S+) (?:-p (?:udp|tcp|sctp) -m multiport --dports \S+ )?(?:-m time --datestop (\S+) )?-j (?:DROP|REJECT --reject-with \S+)$`)

// parseBan parses a rule made by texts. It reports false for every other rule.
func parseBan(text string) (prefix netip.Prefix, until time.Time, ok bool) {
	m := banRule.FindStringSubmatch(text)
	if m == nil {
		return prefix, until, false
	}
	prefix, err := netip.ParsePrefix(m[1])
	if err != nil {
		return prefix, until, false
	}
	if m[2] != "" {
		until, err = time.Parse(stopLayout, m[2])
	}
	return prefix, until, err == nil
}

// difference returns the lines that turn the rules have into want: additions first.
func difference(have, want []string) (lines []string) {
	there := make(map[string]int)
	for _, text := range have {
		there[text]++
	}
	for _, text := range want {
		if there[text]--; there[text] < 0 {
			lines = append(lines, "-A "+firewall.ChainName+" "+text)
		}
	}
	for text, surplus := range there {
		lines = append(lines, slices.Repeat([]string{"-D " + firewall.ChainName + " " + text}, max(surplus, 0))...)
	}
	return lines
}

// rules returns the rules of fsban's chain of one family, as iptables-save prints them.
func (f *family) rules(opts *firewall.Options) []string {
	drop := "-m set --match-set " + f.set + " src " + f.target(opts.Target)
	if len(opts.Ports) == 0 {
		return []string{drop}
	}
	rules := multiports(opts.Ports)
	for i, match := range rules {
		rules[i] = match + " " + drop
	}
	return rules
}

// target returns the target of a rule, with its options.
func (f *family) target(t firewall.Target) string {
	switch {
	case t != firewall.Reject:
		return "-j DROP"
	case f.is4():
		return "-j REJECT --reject-with icmp-port-unreachable"
	default:
		return "-j REJECT --reject-with icmp6-port-unreachable"
	}
}

// slots is the number of places in one multiport match. A range takes two of them.
const slots = 15

// multiports returns the matches that together cover ports: one for each protocol and 15 places.
func multiports(ports []firewall.Ports) []string {
	var matches []string
	for _, proto := range protocols(ports) {
		var list []string
		used := 0
		flush := func() {
			if used > 0 {
				matches = append(matches, "-p "+proto+" -m multiport --dports "+strings.Join(list, ","))
			}
			list, used = nil, 0
		}
		for _, p := range ports {
			text, need := strconv.Itoa(int(p.First)), 1
			if p.Last != p.First {
				text, need = text+":"+strconv.Itoa(int(p.Last)), 2
			}
			if p.Proto != proto {
				continue
			}
			if used+need > slots {
				flush()
			}
			list, used = append(list, text), used+need
		}
		flush()
	}
	return matches
}

// protocols returns the protocols of ports, each once, in order.
func protocols(ports []firewall.Ports) []string {
	var list []string
	seen := make(map[string]bool)
	for _, p := range ports {
		if !seen[p.Proto] {
			seen[p.Proto] = true
			list = append(list, p.Proto)
		}
	}
	return list
}
