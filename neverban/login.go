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

// A layout holds the offsets in a record of utmp (struct utmp of the C library) that differ between machines.
type layout struct {
	size    int // of a record
	address int // offset of ut_addr_v6
}

var (
	layout32 = layout{384, 348} // times of 32 bits, as on x86-64
	layout64 = layout{400, 360} // times of 64 bits, as on arm64
)

// utmpLayout is the layout of this machine: 64-bit machines with a compatible 32-bit mode use the 32-bit layout.
var utmpLayout = map[string]layout{"arm64": layout64, "riscv64": layout64, "loong64": layout64}[runtime.GOARCH].or(layout32)

func (l layout) or(other layout) layout {
	if l.size == 0 {
		return other
	}
	return l
}

const (
	utmpLine    = 8 // offset of ut_line
	userProcess = 7 // ut_type of a logged-in user
)

// parseUtmp returns the remote addresses of the users logged in at a pseudo-terminal. Other terminals are those of FTP servers,
// which record their clients.
func parseUtmp(data []byte, l layout) []netip.Addr {
	var list []netip.Addr
	for ; len(data) >= l.size; data = data[l.size:] {
		if binary.NativeEndian.Uint16(data) != userProcess || !bytes.HasPrefix(data[utmpLine:], []byte("pts/")) {
			continue
		}
		raw := [16]byte(data[l.address:])
		addr := netip.AddrFrom16(raw).Unmap()
		if [12]byte(raw[4:]) == [12]byte{} { // an IPv4 address occupies only the first word
			addr = netip.AddrFrom4([4]byte(raw[:4]))
		}
		if !addr.IsUnspecified() {
			list = append(list, addr)
		}
	}
	return list
}

// readSessions returns the remote addresses of logind's ssh sessions. Closing sessions are ignored: their user has logged out,
// and they can remain for days because of a leftover program. Without logind there are none.
func readSessions(directory string) []netip.Addr {
	dir, err := os.Open(directory)
	if err != nil {
		return nil
	}
	defer func() { _ = dir.Close() }()
	files, _ := dir.ReadDir(maxSessions)
	var list []netip.Addr
	for _, file := range files {
		// Names ending in .ref are pipes. A session may end after the listing.
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

// parseSession returns the remote address of an ssh session. With UseDNS in sshd's configuration logind may have only a name,
// which the peer's name server controls: it proves nothing.
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
