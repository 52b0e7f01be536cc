package firewall

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// This file speaks the kernel's ipset protocol (linux/netfilter/ipset/ip_set.h) over netlink. It is written here because
// bans must go into the kernel many to a message, and without a process.

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

	protocolVersion  = 6 // spoken by every kernel with ipset 6 or 7
	flagListHeader   = 1 << 2
	flagWithCounters = 1 << 3

	setType     = "hash:net"
	setRevision = 3 // the first with counters
)

// maxTimeout is the longest timeout that the kernel takes. A longer ban is renewed before that.
const maxTimeout = 2147483 * time.Second

// batch is how many entries go into one message; an entry has at most 68 bytes, a message's list at most 65,535.
const batch = 900

// ipsets is a connection to the kernel's ipset.
type ipsets struct {
	conn *netlink.Conn
}

func dialIPSet() (*ipsets, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{MessageBufferSize: listBuffer})
	if err != nil {
		return nil, setError("open", "netlink", err)
	}
	return &ipsets{conn}, nil
}

func (s *ipsets) close() error { return s.conn.Close() }

// setInfo is what a set's header says.
type setInfo struct {
	typeName string
	family   uint8
	timeouts bool
	counters bool
	maxElem  uint32
	elements uint32
}

// errNoSet says that there is no set of that name.
var errNoSet = errors.New("no such set")

// info reads the header of a set, which costs the same however many entries it has.
func (s *ipsets) info(name string) (setInfo, error) {
	var info setInfo
	err := s.list(name, flagListHeader, func(ad *netlink.AttributeDecoder) error {
		for ad.Next() {
			switch ad.Type() {
			case attrTypeName:
				info.typeName = ad.String()
			case attrFamily:
				info.family = ad.Uint8()
			case attrData:
				ad.Nested(func(nad *netlink.AttributeDecoder) error {
					for nad.Next() {
						switch nad.Type() {
						case dataMaxElem:
							info.maxElem = nad.Uint32()
						case dataTimeout:
							info.timeouts = true
						case dataFlags:
							info.counters = nad.Uint32()&flagWithCounters != 0
						case dataElements:
							info.elements = nad.Uint32()
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

// entries lists a set. It takes about 2 µs an entry.
func (s *ipsets) entries(name string) ([]Entry, error) {
	var entries []Entry
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

func decodeEntry(data *netlink.AttributeDecoder) (Entry, error) {
	e := Entry{Left: Forever}
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
func (s *ipsets) list(name string, flags uint32, take func(*netlink.AttributeDecoder) error) error {
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

// create makes an empty set.
func (s *ipsets) create(name string, family uint8, maxElem uint32) error {
	_, err := s.do(cmdCreate, netlink.Acknowledge|netlink.Excl, family, func(ae *netlink.AttributeEncoder) {
		ae.String(attrSetName, name)
		ae.String(attrTypeName, setType)
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

func (s *ipsets) destroy(name string) error {
	// Without NLM_F_EXCL the kernel takes a set that is not there for success.
	_, err := s.do(cmdDestroy, netlink.Acknowledge|netlink.Excl, unix.AF_UNSPEC, func(ae *netlink.AttributeEncoder) { ae.String(attrSetName, name) })
	return setError("destroy", name, err)
}

// destroyUnused destroys a set whose rules have just been removed. The kernel may let go of them a moment later.
func (s *ipsets) destroyUnused(name string) error {
	for end := time.Now().Add(letGo); ; time.Sleep(10 * time.Millisecond) {
		if err := s.destroy(name); !errors.Is(err, errInUse) || time.Now().After(end) {
			return err
		}
	}
}

// letGo is how long the kernel may take to let go of a rule that was removed.
const letGo = 2 * time.Second

// swap exchanges the contents of two sets, in one moment for the rules that use them.
func (s *ipsets) swap(a, b string) error {
	_, err := s.do(cmdSwap, netlink.Acknowledge, unix.AF_UNSPEC, func(ae *netlink.AttributeEncoder) {
		ae.String(attrSetName, a)
		ae.String(attrTypeName, b)
	})
	return setError("swap", a, err)
}

// add puts up to batch entries into a set. An entry that is there already gets the new timeout.
func (s *ipsets) add(name string, entries []Entry) error {
	return s.change(cmdAdd, name, entries, "add")
}

// del takes up to batch entries out of a set. One that is not there is no error.
func (s *ipsets) del(name string, entries []Entry) error {
	return s.change(cmdDel, name, entries, "delete")
}

func (s *ipsets) change(cmd uint8, name string, entries []Entry, verb string) error {
	if len(entries) == 0 {
		return nil
	}
	list := make([]byte, 0, 48*len(entries))
	for i := range entries {
		list = appendEntry(list, &entries[i], cmd == cmdAdd)
	}
	// Without NLM_F_EXCL the kernel takes an entry that is there, or for a delete one that is not, for success.
	_, err := s.do(cmd, netlink.Acknowledge, unix.AF_UNSPEC, func(ae *netlink.AttributeEncoder) {
		ae.String(attrSetName, name)
		// The line number is what makes the kernel take a list; it is zero, because nobody reads it.
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
func appendEntry(b []byte, e *Entry, timeout bool) []byte {
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
	if d == Forever {
		return 0
	}
	d = min(max(d, time.Second), maxTimeout)
	return uint32((d + time.Second - 1) / time.Second)
}

func (s *ipsets) do(cmd uint8, flags netlink.HeaderFlags, family uint8, attrs func(*netlink.AttributeEncoder)) ([]netlink.Message, error) {
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
