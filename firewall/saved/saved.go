// Package saved finds fsban's rules and sets in the files that a host restores its firewall from at boot.
//
// A rule that matches a set makes iptables-restore refuse its whole file while the set does not exist: the host comes up
// without any of its own rules. The unit fsban-sets.service creates the empty sets before such a restore. In a ruleset that nft
// has listed the same rule is a syntax error, whether the set exists or not. Entries of sets, and rules without sets, are
// restored as they were saved, although the bans may have ended. ipset restore stops at a saved set with other options than the set
// that the unit created; without the unit, fsban refuses a restored set that it cannot have made.
package saved

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"fsban/firewall"
	"fsban/firewall/ipset"
)

// SetsUnit is the systemd unit that creates fsban's empty sets before the firewall is restored.
const SetsUnit = "fsban-sets.service"

// files are restored at boot, by iptables-persistent, iptables-services, ipset-persistent, ipset-service and nftables.
var files = []string{
	"etc/iptables/rules.v4", "etc/iptables/rules.v6", "etc/sysconfig/iptables", "etc/sysconfig/ip6tables",
	"etc/ipset.conf", "etc/iptables/ipsets", "etc/sysconfig/ipset",
	"etc/nftables.conf", "etc/nftables.d/*", "etc/nftables/*.nft", "etc/sysconfig/nftables.conf",
}

const (
	maxFiles = 200
	maxBytes = 16 << 20 // read of one file; the rest is not searched
)

// Rules are the saved firewall rules of a host that contain fsban's.
type Rules struct {
	Refused    []string // nftables files with rules that nft cannot read: their restore fails
	NeedSets   []string // files with rules that match fsban's sets: their restore fails without the sets
	Stale      []string // other files with fsban's rules or entries
	Clashes    []Clash  // saved sets that differ from those that fsban creates
	Unreadable []string // files that this user may not read
	SetsUnit   bool     // SetsUnit is enabled
}

// A Clash is a saved set with other options than fsban creates it with.
type Clash struct {
	File, Set   string
	Differences []string // the saved option, and fsban's
	Unusable    bool     // fsban cannot have made the set, and refuses it once it is restored
	Followed    bool     // sets of others follow in the file
}

// A content is the worst that a file contains of fsban's.
type content int

const (
	nothing   content = iota
	staleBans         // rules or entries that can be restored
	needsSets         // rules that need fsban's sets
	refused           // rules that nft lists and cannot read
)

// chains matches the names of fsban's chains.
const chains = firewall.ChainName + `(?:-TAP-IN|-TAP-OUT)?`

var (
	setRule = regexp.MustCompile(`--match-set (` + firewall.SetIPv4 + `|` + firewall.SetIPv6 + `) `)
	chain   = regexp.MustCompile(`\bchain ` + chains + ` \{$`)
	// A rule of iptables, a set of ipset save, the table or the jump of an nftables ruleset.
	stale = regexp.MustCompile(`-A ` + chains + ` |(-j|jump) ` + chains + `$|\b(create|add) (` +
		firewall.SetIPv4 + `|` + firewall.SetIPv6 + `) |\btable (inet|ip|ip6) fsban\b`)
)

// contentOf searches text line by line. nft lists a rule of iptables that matches a set as "xt match", which is a syntax error
// when it is read again.
func contentOf(text []byte) (worst content) {
	inChain := false
	for line := range bytes.Lines(text) {
		if inChain {
			if bytes.Contains(line, []byte("xt match")) {
				return refused
			}
			inChain = !bytes.Contains(line, []byte("}"))
		}
		if !bytes.Contains(line, []byte(firewall.ChainName)) && !bytes.Contains(line, []byte("fsban")) {
			continue // most lines, at little cost
		}
		switch line = bytes.TrimSpace(line); {
		case line[0] == '#':
		case chain.Match(line):
			inChain = true
			worst = max(worst, staleBans)
		case setRule.Match(line):
			worst = max(worst, needsSets)
		case stale.Match(line):
			worst = max(worst, staleBans)
		}
	}
	return worst
}

// clashes returns the sets of fsban's that text creates with other options than fsban, with room for maxBans entries.
func clashes(file string, text []byte, maxBans int) (list []Clash) {
	for line := range bytes.Lines(text) {
		if !bytes.HasPrefix(line, []byte("create ")) {
			continue
		}
		set, info, ok := ipset.ParseCreate(string(line))
		family, own := families[set]
		switch {
		case ok && !own:
			for i := range list {
				list[i].Followed = true
			}
			continue
		case !ok:
			continue
		}
		c := Clash{File: file, Set: set, Differences: info.Differences(family)}
		c.Unusable = len(c.Differences) > 0
		if info.Timeout != 0 {
			c.Differences = append(c.Differences, fmt.Sprintf("timeout %d instead of 0", info.Timeout))
		}
		if int(info.MaxElem) != maxBans {
			c.Differences = append(c.Differences, fmt.Sprintf("maxelem %d instead of %d (firewall.max_bans)", info.MaxElem, maxBans))
		}
		if len(c.Differences) > 0 {
			list = append(list, c)
		}
	}
	return list
}

var families = map[string]uint8{firewall.SetIPv4: unix.AF_INET, firewall.SetIPv6: unix.AF_INET6}

// Find looks for fsban's rules in the files below root, which is / but for tests. It reads at most 200 regular files and
// 16 MiB of each. maxBans is the size of the sets that fsban creates; 0 if it creates none or the size is unknown: then saved sets
// are not compared with it.
func Find(root string, maxBans int) Rules {
	var r Rules
	for _, pattern := range files {
		paths, _ := filepath.Glob(filepath.Join(root, pattern)) // the patterns are valid
		for _, path := range paths[:min(len(paths), maxFiles)] {
			shown := "/" + strings.TrimPrefix(strings.TrimPrefix(path, root), "/")
			text, err := read(path)
			if errors.Is(err, fs.ErrPermission) {
				r.Unreadable = append(r.Unreadable, shown)
			}
			if err != nil {
				continue // it is no file, or was removed
			}
			if maxBans > 0 {
				r.Clashes = append(r.Clashes, clashes(shown, text, maxBans)...)
			}
			switch contentOf(text) {
			case refused:
				r.Refused = append(r.Refused, shown)
			case needsSets:
				r.NeedSets = append(r.NeedSets, shown)
			case staleBans:
				r.Stale = append(r.Stale, shown)
			case nothing:
			}
		}
	}
	for _, dir := range []string{"etc/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"} {
		for _, kind := range []string{"*.wants", "*.requires"} {
			links, _ := filepath.Glob(filepath.Join(root, dir, kind, SetsUnit))
			r.SetsUnit = r.SetsUnit || len(links) > 0
		}
	}
	return r
}

// read returns the first bytes of a regular file. It never waits for a writer of a pipe.
func read(path string) (text []byte, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fs.ErrInvalid
	}
	return io.ReadAll(io.LimitReader(f, maxBytes))
}

// Problems returns the open problems for status: none if the host boots with its rules, and fsban with its sets.
func (r *Rules) Problems() (list []string) {
	for i := range r.Clashes {
		switch c := &r.Clashes[i]; {
		case r.SetsUnit && c.Followed:
			list = append(list,
				fmt.Sprintf("%s: the next boot restores no set that follows %s there, because %s: save the sets again (fsban doctor)",
					c.File, c.Set, c.reason()))
		case !r.SetsUnit && c.Unusable:
			list = append(list, fmt.Sprintf("%s: after the next boot fsban enforces no bans, because %s: remove the set's lines (fsban doctor)",
				c.File, c.reason()))
		}
	}
	if p := r.rulesProblem(); p != "" {
		list = append(list, p)
	}
	return list
}

// reason states the difference of a clash.
func (c *Clash) reason() string {
	return c.Set + " is saved with " + strings.Join(c.Differences, ", ")
}

// String returns the file, the set and the differences.
func (c *Clash) String() string { return c.File + ": " + c.reason() }

// rulesProblem returns the open problem of saved rules, or "".
func (r *Rules) rulesProblem() string {
	files, remedy := r.Refused, ""
	if !r.SetsUnit && len(r.NeedSets) > 0 {
		files, remedy = slices.Concat(files, r.NeedSets), "systemctl enable "+SetsUnit+", or "
	}
	if len(files) == 0 {
		return ""
	}
	if len(r.Refused) > 0 {
		remedy = ""
	}
	return fmt.Sprintf("%s: the next boot cannot restore the firewall rules saved there, because fsban's are among them: %sremove the lines "+
		"with %s, %s and %s (fsban doctor)",
		strings.Join(files, ", "), remedy, firewall.ChainName, firewall.SetIPv4, firewall.SetIPv6)
}
