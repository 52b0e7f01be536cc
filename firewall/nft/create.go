package nft

import (
	"cmp"
	"encoding/binary"
	"errors"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// add puts elements into a set, or renews their ends, in one transaction. Most bans are new. Adding an element that exists has no effect
// in older kernels, and none in newer ones if the timeout is the same. So if one exists, all elements are added, which makes the deletion
// succeed, deleted and added again: that costs three times as much.
func (b *Backend) add(set *nftables.Set, elements []nftables.SetElement) error {
	err := b.create(set, elements)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	return cmp.Or(b.conn.SetAddElements(set, elements), b.conn.SetDeleteElements(set, elements), b.conn.SetAddElements(set, elements),
		b.conn.Flush())
}

// create adds elements to a set in one transaction of b.conn's socket. If one of them exists, it adds none and the error is EEXIST.
// google/nftables cannot ask for that.
func (b *Backend) create(set *nftables.Set, elements []nftables.SetElement) error {
	ae := netlink.NewAttributeEncoder()
	ae.String(unix.NFTA_SET_ELEM_LIST_TABLE, set.Table.Name)
	ae.String(unix.NFTA_SET_ELEM_LIST_SET, set.Name)
	ae.Nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func(list *netlink.AttributeEncoder) error {
		for i := range elements {
			list.Nested(unix.NFTA_LIST_ELEM, elementOf(&elements[i]))
		}
		return nil
	})
	data, err := ae.Encode()
	if err != nil {
		return err
	}
	subsystem := uint8(unix.NFNL_SUBSYS_NFTABLES)
	boundary := func(kind uint16) netlink.Message {
		return netlink.Message{
			Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request}, Data: []byte{0, unix.NFNETLINK_V0, 0, subsystem},
		}
	}
	_, err = b.socket.SendMessages([]netlink.Message{
		boundary(unix.NFNL_MSG_BATCH_BEGIN),
		{
			Header: netlink.Header{
				Type:  netlink.HeaderType(uint16(subsystem)<<8 | unix.NFT_MSG_NEWSETELEM),
				Flags: netlink.Request | netlink.Acknowledge | netlink.Create | netlink.Excl,
			},
			Data: append([]byte{byte(set.Table.Family), unix.NFNETLINK_V0, 0, 0}, data...),
		},
		boundary(unix.NFNL_MSG_BATCH_END),
	})
	if err != nil {
		return err
	}
	_, err = b.socket.Receive()
	return err
}

// elementOf encodes the key and the timeout of an element.
func elementOf(e *nftables.SetElement) func(*netlink.AttributeEncoder) error {
	return func(ae *netlink.AttributeEncoder) error {
		ae.Nested(unix.NFTA_SET_ELEM_KEY, func(key *netlink.AttributeEncoder) error {
			key.Bytes(unix.NFTA_DATA_VALUE, e.Key)
			return nil
		})
		if e.Timeout != 0 {
			ae.ByteOrder = binary.BigEndian
			ae.Uint64(unix.NFTA_SET_ELEM_TIMEOUT, uint64(e.Timeout.Milliseconds()))
		}
		return nil
	}
}
