package doctor

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// tapModules are the kernel's modules that copy packets: one of each group is needed. The second group is that of iptables and of
// nftables.
var tapModules = [][]string{{"nfnetlink_log"}, {"xt_NFLOG", "nft_log"}}

// missingModules returns the modules of groups that the kernel of root neither has nor can load, "a or b" for a group. It returns none if
// it cannot find out, as in a container without /lib/modules.
func missingModules(root string, groups [][]string) (missing []string) {
	release, err := os.ReadFile(filepath.Join(root, "proc/sys/kernel/osrelease"))
	if err != nil {
		return nil
	}
	dir := filepath.Join(root, "lib/modules", strings.TrimSpace(string(release)))
	installed, err := os.ReadFile(filepath.Join(dir, "modules.dep"))
	builtIn, err2 := os.ReadFile(filepath.Join(dir, "modules.builtin"))
	if err != nil || err2 != nil {
		return nil
	}
	loaded, _ := os.ReadFile(filepath.Join(root, "proc/modules")) // those of a kernel whose files have been replaced
	has := func(name string) bool {
		return bytes.Contains(installed, []byte("/"+name+".ko")) || bytes.Contains(builtIn, []byte("/"+name+".ko")) ||
			bytes.Contains(append([]byte("\n"), loaded...), []byte("\n"+name+" "))
	}
	for _, group := range groups {
		if !slices.ContainsFunc(group, has) {
			missing = append(missing, strings.Join(group, " or "))
		}
	}
	return missing
}

// tapFindings recommend a tap where there is none.
func (o *Options) tapFindings() []Finding {
	if !o.NoTap {
		return nil
	}
	return []Finding{{
		Check: "no-tap", Severity: Warning, Title: "fsban reads no SIP messages", Seen: "sip.tap is off.",
		Why: "fsban cannot tell forged failed logins from real ones, so that five packets can ban an innocent address, and does not see " +
			"passwords that are guessed with SUBSCRIBE or MESSAGE.",
		Change: "sip: {tap: auto}; docs/what-fsban-sees.md compares the taps.",
	}}
}

// tapFindings report a kernel that cannot copy SIP packets.
func (h *Host) tapFindings() []Finding {
	if len(h.NoModules) == 0 {
		return nil
	}
	return []Finding{{
		Check: "tap-modules", Severity: Warning, Title: "This kernel cannot copy SIP packets to fsban",
		Seen: "Neither loaded nor installed: " + enumerate(h.NoModules) + ".",
		Why: "Without a tap, fsban does not see passwords that are guessed with SUBSCRIBE or MESSAGE, and forged packets look like " +
			"those of the address that they name.",
		Change: "Install the rest of this kernel's modules, or another kernel, and restart fsban. " +
			"Or set sip.tap to hep, and let FreeSWITCH mirror SIP to fsban.",
	}}
}
