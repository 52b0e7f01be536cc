package neverban

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

const (
	maxUtmp        = 4 << 20 // bytes: some 10,000 records
	maxSessions    = 4_096   // files
	maxSessionFile = 64 << 10
)

// A layout says where in a record of utmp (struct utmp of the C library) the things stand that differ between machines.
type layout struct {
	size    int // of a record
	address int // where ut_addr_v6 begins
}

var (
	layout32 = layout{384, 348} // times of 32 bits, as on x86-64
	layout64 = layout{400, 360} // times of 64 bits, as on arm64
)

// utmpLayout is this machine's: 64-bit machines that have 32-bit kin write as these do.
var utmpLayout = map[string]layout{"arm64": layout64, "riscv64": layout64, "loong64": layout64}[runtime.GOARCH].or(layout32)

func (l layout) or(other layout) layout {
	if l.size == 0 {
		return other
	}
	return l
}

const (
	utmpLine    = 8 // where ut_line begins
	userProcess = 7 // the ut_type of somebody logged in
)

// parseUtmp returns where the users who are logged in at a pseudo-terminal come from. Terminals of another kind are what an
// FTP server writes of its customers.
func parseUtmp(data []byte, l layout) []netip.Addr {
	var list []netip.Addr
	for ; len(data) >= l.size; data = data[l.size:] {
		if binary.NativeEndian.Uint16(data) != userProcess || !bytes.HasPrefix(data[utmpLine:], []byte("pts/")) {
			continue
		}
		raw := [16]byte(data[l.address:])
		addr := netip.AddrFrom16(raw).Unmap()
		if [12]byte(raw[4:]) == [12]byte{} { // IPv4 stands alone in the first word
			addr = netip.AddrFrom4([4]byte(raw[:4]))
		}
		if !addr.IsUnspecified() {
			list = append(list, addr)
		}
	}
	return list
}

// readSessions returns where the ssh sessions that logind knows come from. A session that is closing has lost its user: it
// can stay for days, for a program that was left behind. Without logind there are none.
func readSessions(directory string) []netip.Addr {
	dir, err := os.Open(directory)
	if err != nil {
		return nil
	}
	defer func() { _ = dir.Close() }()
	files, _ := dir.ReadDir(maxSessions)
	var list []netip.Addr
	for _, file := range files {
		// What ends in .ref is a pipe. A session may end between the listing and here.
		data, err := readRegular(filepath.Join(directory, file.Name()), file.Type(), maxSessionFile)
		if err != nil {
			continue
		}
		if addr := parseSession(data); addr.IsValid() {
			list = append(list, addr)
		}
	}
	return list
}

// parseSession returns where an ssh session comes from. With UseDNS in sshd's configuration logind may know a name only: a
// name is what the peer's name server says, and no proof.
func parseSession(data []byte) netip.Addr {
	value := make(map[string]string)
	for line := range strings.Lines(string(data)) {
		if key, v, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			value[key] = strings.Trim(v, `"`)
		}
	}
	if value["SERVICE"] != "sshd" || value["STATE"] == "closing" {
		return netip.Addr{}
	}
	addr, err := netip.ParseAddr(value["REMOTE_HOST"])
	if err != nil {
		return netip.Addr{}
	}
	return addr.WithZone("").Unmap()
}
