package control

import (
	"errors"
	"fmt"
	"net"
	"os/user"
	"slices"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A role is a level of access.
type role int

const (
	stranger role = iota // nothing
	reader               // look
	admin                // change
	numRoles
)

// A peer is the process at the other end of a connection, as the kernel recorded it when the connection was made.
type peer struct {
	uid, gid uint32
	groups   []uint32 // in addition to gid
}

// peerOf asks the kernel for the peer of c.
func peerOf(c net.Conn) (peer, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return peer{}, errors.New("not a unix socket")
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return peer{}, err
	}
	var p peer
	controlErr := raw.Control(func(fd uintptr) {
		var cred *unix.Ucred
		if cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err != nil {
			return
		}
		p.uid, p.gid = cred.Uid, cred.Gid
		p.groups = peerGroups(fd) // of a kernel that does not say, gid alone counts
	})
	return p, errors.Join(controlErr, err)
}

// maxGroups is how many groups a process can be in (NGROUPS_MAX).
const maxGroups = 65536

// peerGroups returns the supplementary groups of the other end (SO_PEERGROUPS, since Linux 4.13), or none.
func peerGroups(fd uintptr) []uint32 {
	list := make([]uint32, 64)
	for {
		size := uint32(4 * len(list))
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(unsafe.SliceData(list))), uintptr(unsafe.Pointer(&size)), 0)
		switch n := int(size / 4); {
		case errno == 0 && n <= len(list):
			return list[:n]
		case errno == syscall.ERANGE && n > len(list) && n <= maxGroups:
			list = make([]uint32, n)
		default:
			return nil
		}
	}
}

// String names the peer, as changes are logged.
func (p *peer) String() string {
	if u, err := user.LookupId(strconv.FormatUint(uint64(p.uid), 10)); err == nil {
		return fmt.Sprintf("%.64s (uid %d)", u.Username, p.uid)
	}
	return fmt.Sprintf("uid %d", p.uid)
}

// A group is one of those that control.readers and control.admins name.
type group struct {
	name  string
	gid   uint32
	known bool
}

// findGroup looks a group up. An empty name is no group.
func findGroup(name string) group {
	g := group{name: name}
	if name == "" {
		return g
	}
	found, err := user.LookupGroup(name)
	if err != nil {
		return g
	}
	gid, err := strconv.ParseUint(found.Gid, 10, 32)
	g.gid, g.known = uint32(gid), err == nil
	return g
}

func (g *group) has(p *peer) bool {
	return g.known && (p.gid == g.gid || slices.Contains(p.groups, g.gid))
}

// access maps peers to roles.
type access struct {
	self            int // our own user
	readers, admins group
}

func (a *access) role(p *peer) role {
	switch {
	case p.uid == 0 || int(p.uid) == a.self || a.admins.has(p):
		return admin
	case a.readers.has(p):
		return reader
	}
	return stranger
}

// open reports whether users other than root and the daemon's own have access.
func (a *access) open() bool { return a.readers.known || a.admins.known }

// problems say which groups there are not.
func (a *access) problems() []string {
	var list []string
	for _, g := range []struct {
		key string
		*group
	}{{"control.readers", &a.readers}, {"control.admins", &a.admins}} {
		if g.name != "" && !g.known {
			list = append(list, fmt.Sprintf("%s: there is no group %s: make it (groupadd) and then say fsban reload, or set it to \"\"", g.key,
				g.name))
		}
	}
	return list
}

// refusal explains a refusal to a peer, with the remedy.
func (a *access) refusal(p *peer, is role) string {
	text := p.String() + " may not talk to fsban: use sudo"
	if is == reader {
		text = p.String() + " may look and not change anything: use sudo"
	}
	if a.admins.known {
		text += ", or be in the group " + a.admins.name
	}
	if a.readers.known && is == stranger {
		text += ", or be in the group " + a.readers.name + " to look"
	}
	return text
}
