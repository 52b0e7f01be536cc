package nft

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"fsban/firewall"
)

// This file lists sets of nftables without google/nftables: the kernel searches its place in a set again for each message of a
// listing, and with the small messages that google/nftables asks for, 100,000 entries take 9 seconds.

// listBuffer holds the longest message in which the kernel lists anything.
const listBuffer = 64 << 10

// listEntries lists all sets, on connections of its own.
func (b *Backend) listEntries() ([]firewall.Entry, error) {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.CloseLasting() }()
	if table, err := findTable(conn); table == nil || err != nil {
		return nil, err
	}
	sets, err := ownSets(conn)
	if err != nil {
		return nil, err
	}
	list, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{MessageBufferSize: listBuffer})
	if err != nil {
		return nil, err
	}
	defer func() { _ = list.Close() }()
	var all []firewall.Entry
	for _, s := range sets {
		for _, f := range b.families {
			length, named := f.length(s.Name)
			if !named || b.difference(s) != "" {
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

// size returns the number of entries in fsban's sets, if the kernel counts them.
func (b *Backend) size() (size int, counted bool, err error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{MessageBufferSize: listBuffer})
	if err != nil {
		return 0, false, err
	}
	defer func() { _ = conn.Close() }()
	messages, err := dump(conn, unix.NFT_MSG_GETSET, func(ae *netlink.AttributeEncoder) { ae.String(unix.NFTA_SET_TABLE, TableName) })
	if err != nil {
		return 0, false, err
	}
	counted = true
	for _, m := range messages {
		if len(m.Data) < 4 {
			continue
		}
		ad, err := netlink.NewAttributeDecoder(m.Data[4:])
		if err != nil {
			return 0, false, err
		}
		ad.ByteOrder = binary.BigEndian
		name, count, has := "", 0, false
		for ad.Next() {
			switch ad.Type() {
			case unix.NFTA_SET_NAME:
				name = ad.String()
			case attrSetCount:
				count, has = int(ad.Uint32()), true
			}
		}
		if err := ad.Err(); err != nil {
			return 0, false, err
		}
		for _, f := range b.families {
			if _, own := f.length(name); own {
				size += count
				counted = counted && has
			}
		}
	}
	return size, counted, nil
}

// attrSetCount is NFTA_SET_COUNT of linux/netfilter/nf_tables.h, which older kernels do not send.
const attrSetCount = 20

// Chains lists the chains of a family in all tables. A kernel without nftables has none.
func Chains(family nftables.TableFamily) ([]*nftables.Chain, error) {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, supported(nftError("open", "netlink", err))
	}
	defer func() { _ = conn.CloseLasting() }()
	chains, err := steady(func() ([]*nftables.Chain, error) { return conn.ListChainsOfTableFamily(family) })
	if err != nil {
		return nil, supported(nftError("list", "chains", err))
	}
	return chains, nil
}

// supported returns err, unless it says that the kernel has no nftables.
func supported(err error) error {
	if errors.Is(err, ErrUnsupported) {
		return nil
	}
	return err
}

// listings is how often a set is listed at most, while it changes under the listing.
const listings = 3

// steadyAttempts is how often other objects are listed at most, while nftables changes under the listing.
const steadyAttempts = 10

// errUnsteady is returned if nftables changed during every attempt.
var errUnsteady = fmt.Errorf("nftables changed during each of %d listings", steadyAttempts)

// steady returns a result of list during which nftables did not change. A change makes the kernel lose its place in a listing and
// pass over objects that existed all the time: it marks the listing as interrupted (NLM_F_DUMP_INTR), which google/nftables ignores.
func steady[T any](list func() (T, error)) (T, error) {
	var none T
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return none, err
	}
	defer func() { _ = conn.Close() }()
	return unchanged(func() (uint32, error) { return generation(conn) }, list)
}

// unchanged is steady with a source of the number that each change increments.
func unchanged[T any](generation func() (uint32, error), list func() (T, error)) (result T, err error) {
	before, err := generation()
	for range steadyAttempts {
		if err == nil {
			result, err = list()
		}
		if err != nil {
			return result, err
		}
		var after uint32
		if after, err = generation(); err == nil && after == before {
			return result, nil
		}
		before = after
	}
	return result, cmp.Or(err, errUnsteady)
}

// elements lists one set; its entries are prefixes of the given length. Changes during the listing make the kernel lose its place
// and pass over entries that existed all the time. So does the rehashing of a set that has grown, which also lists entries twice.
// If the generation of nftables has changed afterwards, or an entry was listed twice, the set is listed again, up to listings
// times. The result is the union of these listings.
func elements(conn *netlink.Conn, set string, length int) ([]firewall.Entry, error) {
	var newest map[netip.Prefix]firewall.Entry
	before, err := generation(conn)
	if err != nil {
		return nil, err
	}
	for range listings {
		list, err := appendElements(nil, conn, set, length)
		if err != nil {
			return nil, err
		}
		distinct := make(map[netip.Prefix]firewall.Entry, len(list))
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

// generation returns the number of the last change of nftables in this network namespace.
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
func appendElements(all []firewall.Entry, conn *netlink.Conn, set string, length int) ([]firewall.Entry, error) {
	messages, err := dump(conn, unix.NFT_MSG_GETSETELEM, func(ae *netlink.AttributeEncoder) {
		ae.String(unix.NFTA_SET_ELEM_LIST_TABLE, TableName)
		ae.String(unix.NFTA_SET_ELEM_LIST_SET, set)
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

// dump asks for all objects of a kind, up to listings times if others change meanwhile. Then it returns the last answer.
func dump(conn *netlink.Conn, kind uint16, attrs func(*netlink.AttributeEncoder)) ([]netlink.Message, error) {
	ae := netlink.NewAttributeEncoder()
	attrs(ae)
	data, err := ae.Encode()
	if err != nil {
		return nil, err
	}
	request := netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: netlink.Request | netlink.Dump},
		Data:   append([]byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}, data...),
	}
	var messages []netlink.Message
	for range listings {
		messages, err = conn.Execute(request)
		if err != nil || !slices.ContainsFunc(messages, interrupted) {
			break
		}
	}
	return messages, err
}

// interrupted reports whether objects changed before the kernel listed m, so that others may be missing or listed twice.
func interrupted(m netlink.Message) bool { return m.Header.Flags&netlink.DumpInterrupted != 0 }

func decodeElement(attrs *netlink.AttributeDecoder, length int) firewall.Entry {
	entry := firewall.Entry{Left: firewall.Forever}
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
func decodeCounter(attrs *netlink.AttributeDecoder, entry *firewall.Entry) {
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
