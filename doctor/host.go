package doctor

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	accounts "os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"fsban/firewall"
	"fsban/firewall/saved"
)

// A Host is the state of the host that fsban runs on.
type Host struct {
	Zone     string // +0800
	SELinux  string // enforcing, permissive, or empty without it
	CTILog   *File  // mod_cti's log; nil when none is followed
	Programs []string
	Firewall []string // other rules in the firewall, in whole sentences; the caller fills it
	Saved    saved.Rules

	NoModules      []string       // of the kernel, which the tap needs
	LoginGraceTime *time.Duration // of sshd, 0 without end; nil: unknown. The caller fills it
}

// A File is mod_cti's log as the service will find it.
type File struct {
	Path   string
	Exists bool
	Err    string // why it could not be looked at
	Closed string // the first directory, or the file, that the service cannot pass or read
	Label  string // its SELinux context, or its directory's
	Reader string // name of the service's user
}

// ReadHost looks at this host. ctiLog is the path of mod_cti's log, or empty; setSize the size of the sets that fsban creates, or 0.
func ReadHost(ctiLog string, setSize int) *Host {
	programs, service := lookAround("/proc")
	h := &Host{Zone: time.Now().Format("-0700"), Programs: programs, Saved: saved.Find("/", setSize)}
	h.NoModules = missingModules("/", tapModules)
	if data, err := os.ReadFile("/sys/fs/selinux/enforce"); err == nil {
		h.SELinux = "permissive"
		if strings.TrimSpace(string(data)) == "1" {
			h.SELinux = "enforcing"
		}
	}
	if ctiLog != "" {
		h.CTILog = readFile(ctiLog, service)
	}
	return h
}

// A service is the user that fsban runs as, without root's privilege to ignore permissions.
type service struct {
	name   string
	uid    uint64
	groups []uint64
}

// installed returns the user of an installed service: the one that the packages make, or root.
func installed() service {
	s := service{name: "root", groups: []uint64{0}}
	u, err := accounts.Lookup("fsban")
	if err != nil {
		return s
	}
	ids, _ := u.GroupIds()
	s = service{name: "fsban"}
	s.uid, _ = strconv.ParseUint(u.Uid, 10, 32)
	for _, id := range ids {
		if gid, err := strconv.ParseUint(id, 10, 32); err == nil {
			s.groups = append(s.groups, gid)
		}
	}
	return s
}

// credentials reads the user and the groups of a process.
func credentials(status string) (s service, ok bool) {
	for line := range strings.Lines(status) {
		name, values, _ := strings.Cut(line, ":")
		var ids []uint64
		for v := range strings.FieldsSeq(values) {
			id, err := strconv.ParseUint(v, 10, 32)
			if err != nil {
				break
			}
			ids = append(ids, id)
		}
		switch {
		case name == "Uid" && len(ids) == 4:
			s.uid, ok = ids[1], true
		case name == "Gid" && len(ids) == 4:
			s.groups = append(s.groups, ids[1])
		case name == "Groups":
			s.groups = append(s.groups, ids...)
		}
	}
	s.name = fmt.Sprintf("uid %d", s.uid)
	if u, err := accounts.LookupId(strconv.FormatUint(s.uid, 10)); err == nil {
		s.name = u.Username
	}
	return s, ok
}

// readFile looks at a log as the service does.
func readFile(path string, as service) *File {
	f := &File{Path: path, Reader: as.name}
	at := "/"
	for part := range strings.SplitSeq(strings.Trim(filepath.Clean(path), "/"), "/") {
		at = filepath.Join(at, part)
		info, err := os.Stat(at)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) || at != path {
				f.Err = err.Error()
			}
			return f
		}
		f.Label = cmp.Or(label(at), f.Label)
		need := fs.FileMode(0o1) // to pass a directory
		if !info.IsDir() {
			need = 0o4
		} else if at == filepath.Dir(path) {
			need = 0o5 // it is also watched
		}
		if f.Closed == "" && !as.may(info, need) {
			f.Closed = at
		}
		f.Exists = at == path
	}
	return f
}

// may reports whether the service has these rights.
func (s service) may(info fs.FileInfo, need fs.FileMode) bool {
	mode := info.Mode().Perm()
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		switch {
		case uint64(st.Uid) == s.uid:
			mode >>= 6
		case slices.Contains(s.groups, uint64(st.Gid)):
			mode >>= 3
		}
	}
	return mode&need == need
}

// label returns a file's SELinux context.
func label(path string) string {
	buffer := make([]byte, 256)
	n, err := syscall.Getxattr(path, "security.selinux", buffer)
	if err != nil {
		return ""
	}
	return string(bytes.TrimRight(buffer[:n], "\x00"))
}

// guards are programs that ban too, by the name of the file that runs.
var guards = map[string]string{
	"fail2ban-server": "fail2ban", "crowdsec": "crowdsec", "crowdsec-firewall-bouncer": "crowdsec", "cs-firewall-bouncer": "crowdsec",
	"event_guard": "event_guard", "event_guard.php": "event_guard", "sshguard": "sshguard", "denyhosts": "denyhosts",
	"denyhosts.py":           "denyhosts",
	"apiban-iptables-client": "apiban", "apiban-iptables": "apiban", "lfd": "csf/lfd",
}

// maxProcesses bounds how many processes are looked at.
const maxProcesses = 100_000

// lookAround names the other running guards, and returns the user of fsban, running or installed.
func lookAround(proc string) (found []string, fsban service) {
	fsban = installed()
	dir, err := os.Open(proc)
	if err != nil {
		return nil, fsban
	}
	defer dir.Close()
	pids, _ := dir.Readdirnames(maxProcesses)
	for _, pid := range pids {
		if _, err := strconv.Atoi(pid); err != nil {
			continue
		}
		data, err := os.ReadFile(filepath.Join(proc, pid, "cmdline"))
		if err != nil {
			continue
		}
		arguments := strings.Split(string(data[:min(len(data), 4096)]), "\x00")
		name := program(arguments)
		if guard := guards[name]; guard != "" && !slices.Contains(found, guard) {
			found = append(found, guard)
		}
		if name == "fsban" && slices.Contains(arguments, "run") {
			if status, err := os.ReadFile(filepath.Join(proc, pid, "status")); err == nil {
				if running, ok := credentials(string(status)); ok {
					fsban = running
				}
			}
		}
	}
	slices.Sort(found)
	return found, fsban
}

// program is the file that a command line runs: of an interpreter's, the script.
func program(arguments []string) string {
	name, _, _ := strings.Cut(filepath.Base(arguments[0]), " ")
	for _, interpreter := range []string{"python", "php", "perl", "ruby", "sh", "bash"} {
		if !strings.HasPrefix(name, interpreter) {
			continue
		}
		for _, a := range arguments[1:] {
			if !strings.HasPrefix(a, "-") {
				return filepath.Base(a)
			}
		}
	}
	return name
}

func (h *Host) findings() []Finding {
	var all []Finding
	if len(h.Programs) > 0 {
		all = append(all, Finding{
			Check: "other-guards", Severity: Note,
			Title:  "Other programs ban on this host: " + enumerate(h.Programs),
			Seen:   "Running: " + enumerate(h.Programs) + ".",
			Why:    "An address can be banned by both, and stays blocked until it is unbanned in both.",
			Change: "Disable their rules for FreeSWITCH (in fail2ban the jails freeswitch and cti), and keep the others.",
		})
	}
	if len(h.Firewall) > 0 {
		all = append(all, Finding{
			Check: "firewall", Severity: Note, Title: "Other rules in this host's firewall", Seen: strings.Join(h.Firewall, " "),
			Why:    "Their rules can accept packets before fsban's drop them.",
			Change: "Check fsban status: it reports rules that precede fsban's.",
		})
	}
	all = append(all, h.sshFindings()...)
	all = append(all, h.savedFindings()...)
	all = append(all, h.tapFindings()...)
	return append(all, h.logFindings()...)
}

// savedFindings report firewall rules that were saved with fsban's among them.
func (h *Host) savedFindings() (all []Finding) {
	r := &h.Saved
	remove := fmt.Sprintf("remove the lines with %s, %s and %s from the file. Save the firewall without them from now on: stop fsban, fsban "+
		"teardown, save, start fsban",
		firewall.ChainName, firewall.SetIPv4, firewall.SetIPv6)
	if len(r.Refused) > 0 {
		all = append(all, Finding{
			Check: "saved-ruleset", Severity: Critical,
			Title:  "After the next boot this host has none of its own nftables rules",
			Seen:   list(words(r.Refused)) + ": contains fsban's chain of iptables, as nft lists it.",
			Why:    "nft lists a rule of iptables that matches a set as \"xt match\", and refuses a whole file with it as a syntax error.",
			Change: capital(remove) + ".",
		})
	}
	switch {
	case len(r.NeedSets) > 0 && !r.SetsUnit:
		all = append(all, Finding{
			Check: "saved-rules", Severity: Critical,
			Title:  "After the next boot this host has none of its own firewall rules",
			Seen:   list(words(r.NeedSets)) + ": rules match fsban's sets, and " + saved.SetsUnit + " is not enabled.",
			Why:    "iptables-restore refuses a whole file if one of its sets does not exist, and fsban creates its sets later.",
			Change: "systemctl enable " + saved.SetsUnit + ", which creates the empty sets before the restore; or " + remove + ".",
		})
	case len(r.NeedSets) > 0:
		all = append(all, Finding{
			Check: "saved-rules", Severity: Note,
			Title:  "Saved firewall rules depend on fsban's sets",
			Seen:   list(words(r.NeedSets)) + ": rules match fsban's sets. " + saved.SetsUnit + " is enabled and creates them before the restore.",
			Why:    "Without that unit iptables-restore refuses the whole file.",
			Change: "Nothing, until fsban is removed: before that, " + remove + ".",
		})
	}
	if len(r.Stale) > 0 {
		all = append(all, Finding{
			Check: "saved-bans", Severity: Note,
			Title: "Saved firewall rules contain fsban's bans",
			Seen:  list(words(r.Stale)) + ".",
			Why: "A boot restores them as they were saved, including bans that have ended. " +
				"They stay until fsban starts; without fsban, for ever.",
			Change: capital(remove) + ".",
		})
	}
	all = append(all, clashFindings(r, remove)...)
	if len(r.Unreadable) > 0 {
		all = append(all, Finding{
			Check: "saved-rules-unread", Severity: Note,
			Title:  "Saved firewall rules could not be read",
			Seen:   list(words(r.Unreadable)) + ": permission denied.",
			Why:    "If they contain fsban's rules, the next boot may restore none of the host's rules.",
			Change: "Run fsban doctor as root.",
		})
	}
	return all
}

// clashFindings report saved sets that differ from those that fsban creates. remove is the remedy for all saved rules.
func clashFindings(r *saved.Rules, remove string) (all []Finding) {
	var unusable, stopping, harmless []string
	for i := range r.Clashes {
		switch c := &r.Clashes[i]; {
		case !r.SetsUnit && c.Unusable:
			unusable = append(unusable, c.String())
		case r.SetsUnit && c.Followed:
			stopping = append(stopping, c.String())
		case r.SetsUnit:
			harmless = append(harmless, c.String())
		}
	}
	if len(unusable) > 0 {
		all = append(all, Finding{
			Check: "saved-sets", Severity: Critical,
			Title: "After the next boot fsban enforces no bans", Seen: list(unusable) + ".",
			Why:    "fsban refuses a set of its name that it cannot have made, and a restored set exists before fsban starts.",
			Change: capital(remove) + ".",
		})
	}
	refuses := saved.SetsUnit + " creates the set before the restore, and ipset restore stops at a set that exists with other options: "
	again := "Save the sets again while fsban runs, after each change of firewall.max_bans; or " + remove + "."
	if len(stopping) > 0 {
		all = append(all, Finding{
			Check: "saved-sets", Severity: Critical,
			Title: "After the next boot sets of this host's firewall are missing", Seen: list(stopping) + ".",
			Why:    refuses + "sets that follow in the file are not restored, and rules that match them are refused.",
			Change: again,
		})
	}
	if len(harmless) > 0 {
		all = append(all, Finding{
			Check: "saved-sets", Severity: Note,
			Title: "ipset restore reports an error at the next boot", Seen: list(harmless) + ".",
			Why:    refuses + "no set of others follows in the file, and fsban restores its own bans.",
			Change: again,
		})
	}
	return all
}

func (h *Host) logFindings() []Finding {
	f := h.CTILog
	if f == nil {
		return nil
	}
	var all []Finding
	switch {
	case f.Err != "":
		all = append(all, Finding{
			Check: "cti-log", Severity: Warning, Title: "mod_cti's log cannot be followed", Seen: word(f.Path) + ": " + f.Err + ".",
			Why:    "While the event socket is down, fsban counts nothing: this log is its only other source.",
			Change: "Set cti_log.path in fsban's configuration to the value of fail2ban.filename in cti.json, or to off.",
		})
	case f.Closed != "":
		all = append(all, Finding{
			Check: "cti-log-permissions", Severity: Warning, Title: "fsban's service may not read mod_cti's log",
			Seen:   fmt.Sprintf("The user of the service, %[2]s, has no access to %[1]s.", word(f.Closed), word(f.Reader)),
			Why:    "fsban does not count the attempts in this log: the service has no capability that ignores permissions, even as root.",
			Change: fmt.Sprintf("Run chmod o+rX %s, or add SupplementaryGroups= with its group to the unit.", word(f.Closed)),
		})
	case !f.Exists:
		all = append(all, Finding{
			Check: "cti-log", Severity: Note, Title: "mod_cti has written no log yet", Seen: word(f.Path) + " does not exist.",
			Why:    "mod_cti creates it with its first record. fsban then follows it, without a restart.",
			Change: "Nothing, if cti_log.path is the value of fail2ban.filename in cti.json.",
		})
	}
	if h.SELinux == "enforcing" {
		all = append(all, Finding{
			Check: "selinux", Severity: Note, Title: "SELinux is enforcing",
			Seen:   fmt.Sprintf("%s has the context %s.", word(f.Path), word(f.Label)),
			Why:    "fail2ban needs another context for this log (chcon -t var_log_t), or SELinux off. fsban runs unconfined and needs neither.",
			Change: "Leave SELinux enforcing.",
		})
	}
	return all
}
