// Package ipset implements the kernel's ipset protocol (linux/netfilter/ipset/ip_set.h) over netlink: many bans in one message,
// without a process.
package ipset

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"fsban/firewall"
)

const (
	cmdCreate  = 2
	cmdDestroy = 3
	cmdSwap    = 6
	cmdList    = 7
	cmdAdd     = 9
	cmdDel     = 10

	attrProtocol = 1
	attrSetName  = 2
	attrTypeName = 3 // and the second set's name in a swap
	attrRevision = 4
	attrFamily   = 5
	attrFlags    = 6
	attrData     = 7
	attrADT      = 8
	attrLineNo   = 9

	dataIP       = 1
	dataCIDR     = 3
	dataTimeout  = 6
	dataFlags    = 8
	dataMaxElem  = 19
	dataElements = 24 // in a set's header
	dataBytes    = 24 // in an entry
	dataPackets  = 25

	protocolVersion  = 6 // of every kernel with ipset 6 or 7
	flagListHeader   = 1 << 2
	flagWithCounters = 1 << 3
	flagNoMatch      = 1 << 2 // of an entry

	// Type is the type of fsban's sets.
	Type        = "hash:net"
	setRevision = 3 // the first with counters
)

// listBuffer holds the longest message in which the kernel lists anything.
const listBuffer = 64 << 10

// A Conn is a connection to the kernel's ipset. It is not safe for concurrent use.
type Conn struct {
	conn *netlink.Conn
}

// Dial connects to the kernel. The error wraps ErrUnsupported if the kernel has no netfilter sockets.
func Dial() (*Conn, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{MessageBufferSize: listBuffer})
	if err != nil {
		return nil, setError("open", "netlink", err)
	}
	return NewConn(conn), nil
}

// NewConn returns a Conn that uses an open netlink connection, which it owns from then on.
func NewConn(conn *netlink.Conn) *Conn { return &Conn{conn} }

// Close closes the connection to the kernel.
func (s *Conn) Close() error { return s.conn.Close() }

// An Info is the header of a set.
type Info struct {
	Type     string
	Family   uint8
	Timeouts bool
	Timeout  uint32 // of entries that are added without one, in seconds; 0: without end
	Flags    uint32 // extensions that fsban's sets have, or not
	MaxElem  uint32
	Elements uint32
}

// options are the extensions of a set, as the ipset program names them.
var options = []struct {
	flag uint32
	name string
}{{flagWithCounters, "counters"}, {1 << 4, "comment"}, {1 << 5, "forceadd"}, {1 << 6, "skbinfo"}}

// Check returns an error that wraps firewall.ErrForeign and names the difference if Create cannot have made the set.
func (i *Info) Check(name string, family uint8) error {
	differences := i.Differences(family)
	if differences == nil {
		return nil
	}
	return fmt.Errorf("ipset %s (%s): %w", name, strings.Join(differences, ", "), firewall.ErrForeign)
}

// Differences describes how a set differs from one that Create makes for a family, other than in size. It is empty if Create can
// have made the set.
func (i *Info) Differences(family uint8) (list []string) {
	if i.Type != Type {
		return []string{fmt.Sprintf("type %s instead of %s", i.Type, Type)}
	}
	if i.Family != family {
		list = append(list, fmt.Sprintf("%s instead of %s", families[i.Family], families[family]))
	}
	if !i.Timeouts {
		list = append(list, "no timeouts")
	}
	for _, o := range options {
		switch has, want := i.Flags&o.flag != 0, o.flag == flagWithCounters; {
		case has && !want:
			list = append(list, "option "+o.name)
		case want && !has:
			list = append(list, "no "+o.name)
		}
	}
	return list
}

// defaultMaxElem is the size of a set that is created without maxelem.
const defaultMaxElem = 65536

// ParseCreate parses a line of "ipset save" that creates a set. It reports false for every other line. Options that have no effect
// on whether the kernel takes the set for an existing one, such as hashsize, are ignored.
func ParseCreate(line string) (name string, info Info, ok bool) {
	words := strings.Fields(line)
	if len(words) < 3 || words[0] != "create" {
		return "", Info{}, false
	}
	name, info = words[1], Info{Type: words[2], Family: unix.AF_INET, MaxElem: defaultMaxElem}
	number := func(i int) uint32 {
		n, _ := strconv.ParseUint(words[i], 10, 32)
		return uint32(n)
	}
	for i := 3; i < len(words); i++ {
		for _, o := range options {
			if words[i] == o.name {
				info.Flags |= o.flag
			}
		}
		if i+1 == len(words) {
			break
		}
		switch words[i] {
		case "family":
			if i++; words[i] == "inet6" {
				info.Family = unix.AF_INET6
			}
		case "maxelem":
			i++
			info.MaxElem = number(i)
		case "timeout":
			i++
			info.Timeouts, info.Timeout = true, number(i)
		}
	}
	return name, info, true
}

var families = map[uint8]string{unix.AF_INET: "IPv4", unix.AF_INET6: "IPv6"}

// Info reads the header of a set, which costs the same however many entries it has.
func (s *Conn) Info(name string) (Info, error) {
	var info Info
	err := s.list(name, flagListHeader, func(ad *netlink.AttributeDecoder) error {
		for ad.Next() {
			switch ad.Type() {
			case attrTypeName:
				info.Type = ad.String()
			case attrFamily:
				info.Family = ad.Uint8()
			case attrData:
				ad.Nested(func(nad *netlink.AttributeDecoder) error {
					for nad.Next() {
						switch nad.Type() {
						case dataMaxElem:
							info.MaxElem = nad.Uint32()
						case dataTimeout:
							info.Timeouts, info.Timeout = true, nad.Uint32()
						case dataFlags:
							info.Flags = nad.Uint32()
						case dataElements:
							info.Elements = nad.Uint32()
						}
					}
					return nil
				})
			}
		}
		return nil
	})
	return info, err
}

// Entries lists a set. It takes about 2 µs an entry.
func (s *Conn) Entries(name string) ([]firewall.Entry, error) {
	var entries []firewall.Entry
	err := s.list(name, 0, func(ad *netlink.AttributeDecoder) error {
		for ad.Next() {
			if ad.Type() != attrADT {
				continue
			}
			ad.Nested(func(list *netlink.AttributeDecoder) error {
				for list.Next() {
					if list.Type() != attrData {
						continue
					}
					list.Nested(func(data *netlink.AttributeDecoder) error {
						e, err := decodeEntry(data)
						if err == nil {
							entries = append(entries, e)
						}
						return err
					})
				}
				return nil
			})
		}
		return nil
	})
	return entries, err
}

func decodeEntry(data *netlink.AttributeDecoder) (firewall.Entry, error) {
	e := firewall.Entry{Left: firewall.Forever}
	var addr netip.Addr
	bits := -1
	for data.Next() {
		switch data.Type() {
		case dataIP:
			data.Nested(func(ip *netlink.AttributeDecoder) error {
				for ip.Next() {
					addr, _ = netip.AddrFromSlice(ip.Bytes())
				}
				return nil
			})
		case dataCIDR:
			bits = int(data.Uint8())
		case dataTimeout:
			if seconds := data.Uint32(); seconds > 0 {
				e.Left = time.Duration(seconds) * time.Second
			}
		case dataBytes:
			e.Bytes = data.Uint64()
		case dataPackets:
			e.Packets = data.Uint64()
		case dataFlags:
			e.Exception = data.Uint32()&flagNoMatch != 0
		}
	}
	if bits < 0 {
		bits = addr.BitLen()
	}
	e.Prefix = netip.PrefixFrom(addr, bits)
	if !e.Prefix.IsValid() {
		return e, fmt.Errorf("the kernel lists %v/%d", addr, bits)
	}
	return e, data.Err()
}

// list dumps a set and gives the attributes of each message to take.
func (s *Conn) list(name string, flags uint32, take func(*netlink.AttributeDecoder) error) error {
	msgs, err := s.do(cmdList, netlink.Dump, unix.AF_UNSPEC, func(ae *netlink.AttributeEncoder) {
		ae.String(attrSetName, name)
		if flags != 0 {
			ae.Uint32(attrFlags|netlink.NetByteOrder, flags)
		}
	})
	if err != nil {
		return setError("list", name, err)
	}
	for _, m := range msgs {
		if len(m.Data) < 4 {
			continue
		}
		ad, err := netlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return setError("list", name, err)
		}
		ad.ByteOrder = binary.BigEndian
		if err := errors.Join(take(ad), ad.Err()); err != nil {
			return setError("list", name, err)
		}
	}
	return nil
}

// Create makes an empty set.
func (s *Conn) Create(name string, family uint8, maxElem uint32) error {
	_, err := s.do(cmdCreate, netlink.Acknowledge|netlink.Excl, family, func(ae *netlink.AttributeEncoder) {
		ae.String(attrSetName, name)
		ae.String(attrTypeName, Type)
		ae.Uint8(attrRevision, setRevision)
		ae.Uint8(attrFamily, family)
		ae.Nested(attrData, func(nae *netlink.AttributeEncoder) error {
			nae.ByteOrder = binary.BigEndian
			nae.Uint32(dataTimeout|netlink.NetByteOrder, 0)
			nae.Uint32(dataMaxElem|netlink.NetByteOrder, maxElem)
			nae.Uint32(dataFlags|netlink.NetByteOrder, flagWithCounters)
			return nil
		})
	})
	return setError("create", name, err)
}

// Destroy destroys a set. The error wraps ErrNoSet or ErrInUse.
func (s *Conn) Destroy(name string) error {
	// Without NLM_F_EXCL, destroying a set that does not exist is no error.
	_, err := s.do(cmdDestroy, netlink.Acknowledge|netlink.Excl, unix.AF_UNSPEC,
		func(ae *netlink.AttributeEncoder) { ae.String(attrSetName, name) })
	return setError("destroy", name, err)
}

// Remove destroys a set that Create has made, after its rules have been removed: the kernel may release them a moment later.
// It reports whether there was one. The error wraps firewall.ErrForeign if it is another kind of set, which stays, and ErrInUse
// if a rule uses it. Family 0 stands for either.
func (s *Conn) Remove(name string, family uint8) (removed bool, err error) {
	for end := time.Now().Add(letGo); ; time.Sleep(10 * time.Millisecond) {
		info, err := s.Info(name)
		if errors.Is(err, ErrNoSet) {
			return false, nil
		} else if err == nil {
			err = info.Check(name, cmp.Or(family, info.Family))
		}
		if err != nil {
			return false, err
		}
		if err = s.Destroy(name); !errors.Is(err, ErrInUse) || time.Now().After(end) {
			return err == nil, err
		}
	}
}

// letGo is the time that the kernel may take to release a set after a rule was removed.
const letGo = 2 * time.Second

// Swap exchanges the contents of two sets, in one moment for the rules that use them.
func (s *Conn) Swap(a, b string) error {
	_, err := s.do(cmdSwap, netlink.Acknowledge, unix.AF_UNSPEC, func(ae *netlink.AttributeEncoder) {
		ae.String(attrSetName, a)
		ae.String(attrTypeName, b)
	})
	return setError("swap", a, err)
}

// Add puts up to firewall.BatchSize entries into a set. An entry that is there already gets the new timeout.
func (s *Conn) Add(name string, entries []firewall.Entry) error {
	return s.change(cmdAdd, name, entries, "add")
}

// Delete removes up to firewall.BatchSize entries from a set. A missing entry is no error, nor is a missing set.
func (s *Conn) Delete(name string, entries []firewall.Entry) error {
	if err := s.change(cmdDel, name, entries, "delete"); !errors.Is(err, ErrNoSet) {
		return err
	}
	return nil
}

func (s *Conn) change(cmd uint8, name string, entries []firewall.Entry, verb string) error {
	if len(entries) == 0 {
		return nil
	}
	list := make([]byte, 0, 48*len(entries))
	for i := range entries {
		list = appendEntry(list, &entries[i], cmd == cmdAdd)
	}
	// Without NLM_F_EXCL, adding an entry that exists and deleting one that does not are no errors.
	_, err := s.do(cmd, netlink.Acknowledge, unix.AF_UNSPEC, func(ae *netlink.AttributeEncoder) {
		ae.String(attrSetName, name)
		// The kernel accepts no list without a line number. Its value does not matter.
		ae.Uint32(attrLineNo|netlink.NetByteOrder, 0)
		ae.Bytes(attrADT|netlink.Nested, list)
	})
	what := name
	if len(entries) == 1 {
		what += " " + entries[0].Prefix.String()
	}
	return setError(verb, what, err)
}

// appendEntry appends one entry of a list: the nested attributes of its address, length and timeout.
func appendEntry(b []byte, e *firewall.Entry, timeout bool) []byte {
	start := len(b)
	b = appendAttr(b, attrData|netlink.Nested, 0)
	ip := len(b)
	b = appendAttr(b, dataIP|netlink.Nested, 0)
	addr := e.Prefix.Addr()
	if addr.Is4() {
		a := addr.As4()
		b = appendAttr(b, 1|netlink.NetByteOrder, len(a))
		b = append(b, a[:]...)
	} else {
		a := addr.As16()
		b = appendAttr(b, 2|netlink.NetByteOrder, len(a))
		b = append(b, a[:]...)
	}
	closeAttr(b, ip)
	b = appendAttr(b, dataCIDR, 1)
	b = append(b, byte(e.Prefix.Bits()), 0, 0, 0)
	if timeout {
		b = appendAttr(b, dataTimeout|netlink.NetByteOrder, 4)
		b = binary.BigEndian.AppendUint32(b, kernelSeconds(e.Left))
		if e.Packets > 0 {
			b = appendAttr(b, dataBytes|netlink.NetByteOrder, 8)
			b = binary.BigEndian.AppendUint64(b, e.Bytes)
			b = appendAttr(b, dataPackets|netlink.NetByteOrder, 8)
			b = binary.BigEndian.AppendUint64(b, e.Packets)
		}
		if e.Exception {
			b = appendAttr(b, dataFlags|netlink.NetByteOrder, 4)
			b = binary.BigEndian.AppendUint32(b, flagNoMatch)
		}
	}
	closeAttr(b, start)
	return b
}

// appendAttr appends an attribute's header for size bytes of value.
func appendAttr(b []byte, typ uint16, size int) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+size))
	return binary.NativeEndian.AppendUint16(b, typ)
}

// closeAttr gives the nested attribute that starts at from the length that it got.
func closeAttr(b []byte, from int) {
	binary.NativeEndian.PutUint16(b[from:], uint16(len(b)-from))
}

// kernelSeconds rounds up, because 0 is for ever, and stays under the kernel's maximum.
func kernelSeconds(d time.Duration) uint32 {
	if d == firewall.Forever {
		return 0
	}
	d = min(max(d, time.Second), firewall.MaxTimeout)
	return uint32((d + time.Second - 1) / time.Second)
}

func (s *Conn) do(cmd uint8, flags netlink.HeaderFlags, family uint8, attrs func(*netlink.AttributeEncoder)) ([]netlink.Message, error) {
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	ae.Uint8(attrProtocol, protocolVersion)
	attrs(ae)
	data, err := ae.Encode()
	if err != nil {
		return nil, err
	}
	m := netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_IPSET)<<8 | netlink.HeaderType(cmd), Flags: netlink.Request | flags},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, data...),
	}
	return s.conn.Execute(m)
}
