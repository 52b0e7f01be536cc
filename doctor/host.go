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
)

// A Host is what is to be known of the host that fsban runs on.
type Host struct {
	Zone     string // +0800
	SELinux  string // enforcing, permissive, or empty without it
	CTILog   *File  // mod_cti's log; nil when none is followed
	Programs []string
	Firewall []string // what else is in the firewall, in whole sentences: whoever knows it puts it here
}

// A File is mod_cti's log as the service will find it.
type File struct {
	Path   string
	Exists bool
	Err    string // why it could not be looked at
	Closed string // the first directory, or the file, that the service cannot pass or read
	Label  string // its SELinux context, or its directory's
	Reader string // who the service is
}

// ReadHost looks at this host. ctiLog is the path of mod_cti's log, or empty.
func ReadHost(ctiLog string) *Host {
	programs, service := lookAround("/proc")
	h := &Host{Zone: time.Now().Format("-0700"), Programs: programs}
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

// A service is who fsban is, without root's privilege to pass over permissions.
type service struct {
	name   string
	uid    uint64
	groups []uint64
}

// installed is who the service will be: the user that the packages make, or else root.
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

// credentials reads who a process is, with the groups that its unit gave it.
func credentials(status string) (s service, ok bool) {
	for line := range strings.Lines(status) {
		name, values, _ := strings.Cut(line, ":")
		var ids []uint64
		for _, v := range strings.Fields(values) {
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
	for _, part := range strings.Split(strings.Trim(filepath.Clean(path), "/"), "/") {
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

// may says whether the service has these rights.
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
	"event_guard": "event_guard", "event_guard.php": "event_guard", "sshguard": "sshguard", "denyhosts": "denyhosts", "denyhosts.py": "denyhosts",
	"apiban-iptables-client": "apiban", "apiban-iptables": "apiban", "lfd": "csf/lfd",
}

// maxProcesses bounds how many processes are looked at.
const maxProcesses = 100_000

// lookAround names the guards that run, and says who fsban is: as it runs, or as it would.
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
			Title:  "Others ban on this host too: " + enumerate(h.Programs),
			Seen:   "Running: " + enumerate(h.Programs) + ".",
			Why:    "Beside fsban they may ban the same addresses, for other times. Who lifts a ban has to lift both.",
			Change: "Turn their part for FreeSWITCH off (jail freeswitch or cti of fail2ban), and keep the rest.",
		})
	}
	if len(h.Firewall) > 0 {
		all = append(all, Finding{
			Check: "firewall", Severity: Note, Title: "What else is in this host's firewall", Seen: strings.Join(h.Firewall, " "),
			Why: "It may let pass, or refuse, before fsban does.",
		})
	}
	return append(all, h.logFindings()...)
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
			Why: "When the event socket is gone the log is what fsban has left.", Change: "cti_log.path in fsban's configuration: what fail2ban.filename in cti.json says, or off.",
		})
	case f.Closed != "":
		all = append(all, Finding{
			Check: "cti-log-permissions", Severity: Warning, Title: "fsban's service may not read mod_cti's log",
			Seen:   fmt.Sprintf("%s is closed to %s, who the service is.", word(f.Closed), word(f.Reader)),
			Why:    "The service has no right to pass over permissions, whoever it is.",
			Change: fmt.Sprintf("chmod o+rX %s, or SupplementaryGroups= with its group in the unit.", word(f.Closed)),
		})
	case !f.Exists:
		all = append(all, Finding{
			Check: "cti-log", Severity: Note, Title: "mod_cti has written no log yet", Seen: word(f.Path) + " does not exist.",
			Why: "mod_cti makes it with its first record; fsban takes it up then, without a restart.",
		})
	}
	if h.SELinux == "enforcing" {
		all = append(all, Finding{
			Check: "selinux", Severity: Note, Title: "SELinux is enforcing, and may stay so",
			Seen: fmt.Sprintf("%s has the context %s.", word(f.Path), word(f.Label)),
			Why:  "fail2ban needed another context for this log (chcon -t var_log_t) or SELinux off. fsban runs unconfined, and needs neither.",
		})
	}
	return all
}
