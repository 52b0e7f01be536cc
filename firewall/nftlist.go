package firewall

import (
	"cmp"
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// This file lists sets of nftables. It is written here because the kernel looks for its place in a set anew for each
// message of a listing: with the small messages that google/nftables asks for, 100,000 entries take 9 seconds.

// listBuffer holds the longest message in which the kernel lists anything.
const listBuffer = 64 << 10

// listEntries lists all sets, on connections of its own.
func (b *NFTables) listEntries() ([]Entry, error) {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.CloseLasting() }()
	if table, err := findTable(conn); table == nil || err != nil {
		return nil, err
	}
	sets, err := conn.GetSets(fsbanTable)
	if err != nil {
		return nil, err
	}
	list, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{MessageBufferSize: listBuffer})
	if err != nil {
		return nil, err
	}
	defer func() { _ = list.Close() }()
	var all []Entry
	for _, s := range sets {
		for _, f := range b.families {
			length, ours := f.length(s.Name)
			if !ours || s.KeyType.Bytes != f.key.Bytes || s.Interval {
				continue
			}
			entries, err := elements(list, s.Name, length)
			if err != nil {
				return nil, err
			}
			all = append(all, entries...)
		}
	}
	return all, nil
}

// listings is how often a set is listed at most, while it changes under the listing.
const listings = 3

// elements lists one set, whose entries are prefixes of one length. What comes and goes meanwhile makes the kernel lose its
// place, and pass over entries that were there all the time, and so does the moment in which a set that has grown is sorted
// anew, when as many are named twice. It numbers the changes of nftables: where that number is another one afterwards, or
// something is named twice, the set is listed again, and holds what any of the listings has.
func elements(conn *netlink.Conn, set string, length int) ([]Entry, error) {
	var newest map[netip.Prefix]Entry
	before, err := generation(conn)
	if err != nil {
		return nil, err
	}
	for range listings {
		list, err := appendElements(nil, conn, set, length)
		if err != nil {
			return nil, err
		}
		distinct := make(map[netip.Prefix]Entry, len(list))
		for _, e := range list {
			distinct[e.Prefix] = e
		}
		if len(newest) == 0 {
			newest = distinct
		} else {
			maps.Copy(newest, distinct)
		}
		now, err := generation(conn)
		if err != nil {
			return nil, err
		}
		if now == before && len(distinct) == len(list) {
			break
		}
		before = now
	}
	return slices.Collect(maps.Values(newest)), nil
}

// generation is the number of the last change of nftables in this network namespace.
func generation(conn *netlink.Conn) (id uint32, err error) {
	messages, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN), Flags: netlink.Request},
		Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0},
	})
	for _, m := range messages {
		if len(m.Data) < 4 {
			continue
		}
		ad, e := netlink.NewAttributeDecoder(m.Data[4:])
		if e != nil {
			return 0, e
		}
		ad.ByteOrder = binary.BigEndian
		for ad.Next() {
			if ad.Type() == unix.NFTA_GEN_ID {
				id = ad.Uint32()
			}
		}
		err = cmp.Or(err, ad.Err())
	}
	return id, err
}

// appendElements appends the entries of one set as the kernel lists them.
func appendElements(all []Entry, conn *netlink.Conn, set string, length int) ([]Entry, error) {
	ae := netlink.NewAttributeEncoder()
	ae.String(unix.NFTA_SET_ELEM_LIST_TABLE, TableName)
	ae.String(unix.NFTA_SET_ELEM_LIST_SET, set)
	attrs, err := ae.Encode()
	if err != nil {
		return nil, err
	}
	messages, err := conn.Execute(netlink.Message{
		Header: netlink.Header{
			Type:  netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETSETELEM),
			Flags: netlink.Request | netlink.Dump,
		},
		Data: append([]byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}, attrs...),
	})
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		if len(m.Data) < 4 {
			continue
		}
		ad, err := netlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return nil, err
		}
		for ad.Next() {
			if ad.Type() != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
				continue
			}
			ad.Nested(func(elements *netlink.AttributeDecoder) error {
				elements.ByteOrder = binary.BigEndian
				for elements.Next() {
					elements.Nested(func(e *netlink.AttributeDecoder) error {
						all = append(all, decodeElement(e, length))
						return nil
					})
				}
				return nil
			})
		}
		if err := ad.Err(); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func decodeElement(attrs *netlink.AttributeDecoder, length int) Entry {
	entry := Entry{Left: Forever}
	ends := false
	for attrs.Next() {
		switch attrs.Type() {
		case unix.NFTA_SET_ELEM_KEY:
			attrs.Nested(func(key *netlink.AttributeDecoder) error {
				for key.Next() {
					addr, _ := netip.AddrFromSlice(key.Bytes())
					entry.Prefix = netip.PrefixFrom(addr, length)
				}
				return nil
			})
		case unix.NFTA_SET_ELEM_TIMEOUT:
			ends = attrs.Uint64() > 0
		case unix.NFTA_SET_ELEM_EXPIRATION:
			if ms := attrs.Uint64(); ends {
				entry.Left = max(time.Duration(ms)*time.Millisecond, 1)
			}
		case unix.NFTA_SET_ELEM_EXPR:
			attrs.Nested(func(e *netlink.AttributeDecoder) error {
				decodeCounter(e, &entry)
				return nil
			})
		}
	}
	return entry
}

// decodeCounter reads the only kind of expression that fsban's sets have.
func decodeCounter(attrs *netlink.AttributeDecoder, entry *Entry) {
	for attrs.Next() {
		if attrs.Type() != unix.NFTA_EXPR_DATA {
			continue
		}
		attrs.Nested(func(counter *netlink.AttributeDecoder) error {
			for counter.Next() {
				switch counter.Type() {
				case unix.NFTA_COUNTER_PACKETS:
					entry.Packets = counter.Uint64()
				case unix.NFTA_COUNTER_BYTES:
					entry.Bytes = counter.Uint64()
				}
			}
			return nil
		})
	}
}
