package neverban

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
)

// maxTable bounds the bytes read of a table of connections: some 200,000 connections.
const maxTable = 32 << 20

// A connection is an established one. The inode distinguishes it from another one between the same ends.
type connection struct {
	local, remote netip.AddrPort // not IPv4-mapped
	inode         uint64
}

// appendConnections appends to list the established connections to one of ports that a process has accepted, from a table in
// the format of /proc/net/tcp.
func appendConnections(list []connection, table io.Reader, ports []uint16) ([]connection, error) {
	limited := &io.LimitedReader{R: table, N: maxTable}
	lines := bufio.NewScanner(limited)
	lines.Scan() // the header
	for lines.Scan() {
		c, state, err := parseConnection(lines.Bytes(), ports)
		if err != nil {
			return nil, fmt.Errorf("%w: %q", err, lines.Bytes())
		}
		if state == established && c.inode != 0 {
			list = append(list, c)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if limited.N == 0 {
		return nil, fmt.Errorf("more than %d bytes", maxTable)
	}
	return list, nil
}

// established is the kernel's number of the state. Other lines have state none.
const (
	none        = 0
	established = 1
)

// parseConnection parses one line: "0: 0100007F:0016 0200007F:D431 01 ...", the inode being field 9. The connection is zero, in
// state none, if the line has another port or a state other than established.
func parseConnection(line []byte, ports []uint16) (c connection, state uint64, err error) {
	n := 0
	for field := range bytes.FieldsSeq(line) {
		switch n {
		case 1:
			if c.local, err = parseAddrPort(field); err == nil && !slices.Contains(ports, c.local.Port()) {
				return connection{}, none, nil
			}
		case 2:
			c.remote, err = parseAddrPort(field)
		case 3:
			if state, err = strconv.ParseUint(string(field), 16, 8); err == nil && state != established {
				return connection{}, none, nil
			}
		case 9:
			c.inode, err = strconv.ParseUint(string(field), 10, 64)
			return c, state, err
		}
		if err != nil {
			return connection{}, none, err
		}
		n++
	}
	return connection{}, none, fmt.Errorf("%d fields", n)
}

// parseAddrPort parses an address as the kernel prints it: 32-bit words in memory order, a colon and the port, all in
// hexadecimal.
func parseAddrPort(text []byte) (netip.AddrPort, error) {
	words, port, _ := bytes.Cut(text, []byte(":"))
	var raw [16]byte
	if len(words) != 8 && len(words) != 32 {
		return netip.AddrPort{}, fmt.Errorf("address of %d digits", len(words))
	}
	n, err := hex.Decode(raw[:], words)
	if err != nil {
		return netip.AddrPort{}, err
	}
	for i := 0; i < n; i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	number, err := strconv.ParseUint(string(port), 16, 16)
	if err != nil {
		return netip.AddrPort{}, err
	}
	addr, _ := netip.AddrFromSlice(raw[:n])
	return netip.AddrPortFrom(addr.Unmap(), uint16(number)), nil
}
