package nflog

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// packetMessage returns the kernel's message about a packet, as nfnetlink_log builds it.
func packetMessage(t testing.TB, sequence uint32, packet []byte) []byte {
	t.Helper()
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	ae.Bytes(1, []byte{8, 0, 1, 0}) // packet header
	ae.String(10, "fsban")
	ae.Uint32(attrSequence, sequence)
	if packet != nil {
		ae.Bytes(attrPayload, packet)
	}
	data, err := ae.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return netlinkMessage(unix.NFNL_SUBSYS_ULOG<<8|msgPacket, append([]byte{unix.AF_INET, 0, 0x13, 0xc4}, data...))
}

func netlinkMessage(kind uint16, data []byte) []byte {
	b := binary.NativeEndian.AppendUint32(nil, uint32(headerSize+len(data)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, make([]byte, headerSize-6)...)
	b = append(b, data...)
	return append(b, make([]byte, align(len(b))-len(b))...)
}

func TestABatchGivesItsPackets(t *testing.T) {
	var p parser
	var got []string
	b := packetMessage(t, 0, []byte("one"))
	b = append(b, packetMessage(t, 1, []byte("second"))...)
	b = append(b, packetMessage(t, 2, nil)...) // a rule may copy nothing
	b = append(b, netlinkMessage(unix.NLMSG_DONE, make([]byte, 4))...)
	b = append(b, packetMessage(t, 5, []byte("six"))...)
	p.batch(b, func(packet []byte) { got = append(got, string(packet)) })
	want := parser{next: 6, packets: 4, lost: 2}
	if len(got) != 3 || got[0] != "one" || got[1] != "second" || got[2] != "six" || p != want {
		t.Errorf("%q, %+v, want %+v", got, p, want)
	}
	for n := range len(b) {
		part := parser{}
		part.batch(b[:n], func(packet []byte) {
			if !bytes.Contains(b, packet) {
				t.Errorf("%d bytes: %q", n, packet)
			}
		})
	}
}

func TestSequenceNumbersWrap(t *testing.T) {
	p := parser{next: 1<<32 - 2}
	for _, sequence := range []uint32{1<<32 - 2, 1<<32 - 1, 0, 1} {
		p.batch(packetMessage(t, sequence, []byte("x")), func([]byte) {})
	}
	if p.lost != 0 || p.next != 2 {
		t.Errorf("%+v", p)
	}
}

// FuzzBatch: any bytes are parsed, packets are parts of the input that do not overlap, and what is left over is counted.
func FuzzBatch(f *testing.F) {
	f.Add(packetMessage(f, 0, []byte("one")))
	f.Add(append(packetMessage(f, 3, bytes.Repeat([]byte("x"), 100)), netlinkMessage(unix.NLMSG_DONE, make([]byte, 4))...))
	f.Add(netlinkMessage(unix.NLMSG_ERROR, make([]byte, 20)))
	f.Fuzz(func(t *testing.T, data []byte) {
		var p parser
		total, calls := 0, uint64(0)
		p.batch(data, func(packet []byte) {
			total += len(packet)
			calls++
			if len(packet) == 0 || cap(packet) > cap(data) {
				t.Fatalf("%d bytes", len(packet))
			}
		})
		if total > len(data) || calls > p.packets || p.packets > uint64(len(data))/headerSize || p.malformed > uint64(len(data))/headerSize+1 {
			t.Fatalf("%d bytes of %d in %d calls, %+v", total, len(data), calls, p)
		}
	})
}

func TestABatchIsParsedWithoutAllocation(t *testing.T) {
	b := append(packetMessage(t, 0, make([]byte, 600)), packetMessage(t, 1, make([]byte, 600))...)
	var p parser
	n := 0
	take := func(packet []byte) { n += len(packet) }
	if allocations := testing.AllocsPerRun(100, func() { p.batch(b, take) }); allocations > 0 || n == 0 {
		t.Errorf("%v allocations, %d bytes", allocations, n)
	}
}
