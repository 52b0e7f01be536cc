package ledger

import (
	"encoding/binary"
	"errors"
	"hash/crc32"

	"go.etcd.io/bbolt"
)

// Every value in the file ends with a checksum of its key and itself: a changed byte must not become another address, another
// end, or another place in a log.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const sumLen = 4

var errSum = errors.New("damaged: its checksum is wrong")

func sumOf(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
}

// put stores value, which it may append to, under key.
func put(b *bbolt.Bucket, key, value []byte) error {
	return b.Put(key, binary.LittleEndian.AppendUint32(value, sumOf(key, value)))
}

// whole returns what put stored.
func whole(key, stored []byte) ([]byte, error) {
	n := len(stored) - sumLen
	if n < 0 || binary.LittleEndian.Uint32(stored[n:]) != sumOf(key, stored[:n]) {
		return nil, errSum
	}
	return stored[:n:n], nil
}
