package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// The database trusts its file: with a wrong number in the header of a page it can be busy for minutes, or ask for more
// memory than there is, which nothing can recover from. So before it opens the file, every page that it would use is looked
// at: that it is what it says, lies inside the file, and is used once. The format is bbolt's, internal/common, version 2.
const (
	pageHead  = 16 // id uint64, flags, count uint16, overflow uint32
	element   = 16
	metaSize  = 64 // magic … checksum
	metaMagic = 0xED0CDAED
	metaV2    = 2
	noList    = ^uint64(0) // as the page of free pages: there is none

	flagBranch   = 1
	flagLeaf     = 2
	flagFreelist = 16
	flagBucket   = 1 // of a leaf's element

	maxPages = 1 << 28 // 1 TiB of the usual size
)

// intact returns what is wrong with the file at path; nothing where there is none, or another process holds it.
func intact(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if errors.Is(syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB), syscall.EWOULDBLOCK) {
		return nil // it is being written; opening it will say who has it
	}
	info, err := f.Stat()
	if err != nil || info.Size() == 0 || !info.Mode().IsRegular() {
		return err // whatever else it is, opening it will say so
	}
	p := pages{file: f, size: info.Size()}
	if err := p.begin(); err != nil {
		return fmt.Errorf("damaged: %w", err)
	}
	for len(p.todo) > 0 {
		id := p.todo[len(p.todo)-1]
		p.todo = p.todo[:len(p.todo)-1]
		if err := p.page(id); err != nil {
			return fmt.Errorf("damaged: page %d: %w", id, err)
		}
	}
	return nil
}

// pages are those of a file.
type pages struct {
	file  *os.File
	size  int64
	each  uint64 // bytes of a page
	end   uint64 // the first page that is not in use
	seen  []bool
	todo  []uint64
	bytes []byte
}

// begin finds the newer of the two headers, and the pages that it names.
func (p *pages) begin() error {
	var head []byte
	at := []int64{0}
	for size := int64(1 << 10); size <= 64<<10; size <<= 1 { // the second header is one page further, of whatever size
		at = append(at, size)
	}
	for _, offset := range at {
		buf := make([]byte, metaSize)
		if _, err := p.file.ReadAt(buf, offset+pageHead); err != nil {
			break
		}
		sum := fnv.New64a()
		_, _ = sum.Write(buf[:metaSize-8])
		valid := le32(buf) == metaMagic && le32(buf[4:]) == metaV2 && le64(buf[metaSize-8:]) == sum.Sum64()
		if valid && (offset == 0 || int64(le32(buf[8:])) == offset) && (head == nil || txid(buf) > txid(head)) {
			head = buf
		}
	}
	if head == nil {
		return errors.New("it has no valid header")
	}
	p.each, p.end = uint64(le32(head[8:])), le64(head[40:])
	if p.each < 1<<10 || p.each > 64<<10 || p.end < 2 || p.end > maxPages || p.end*p.each > uint64(p.size) {
		return fmt.Errorf("%d pages of %d bytes do not fit into %d", p.end, p.each, p.size)
	}
	p.seen = make([]bool, p.end)
	p.seen[0], p.seen[1] = true, true
	p.todo = append(p.todo, le64(head[16:]))
	if list := le64(head[32:]); list != noList {
		p.todo = append(p.todo, list)
	}
	return nil
}

func txid(head []byte) uint64 { return le64(head[48:]) }

// page looks at one page, with those that overflow from it, and notes the pages that it names.
func (p *pages) page(id uint64) error {
	if id < 2 || id >= p.end {
		return fmt.Errorf("is not one of %d", p.end)
	}
	var head [pageHead]byte
	if _, err := p.file.ReadAt(head[:], int64(id*p.each)); err != nil {
		return err
	}
	more := uint64(le32(head[12:]))
	if le64(head[:]) != id || more >= p.end-id {
		return errors.New("its header is wrong")
	}
	for i := id; i <= id+more; i++ {
		if p.seen[i] {
			return errors.New("is used twice")
		}
		p.seen[i] = true
	}
	length := int((1 + more) * p.each)
	if cap(p.bytes) < length {
		p.bytes = make([]byte, length)
	}
	buf := p.bytes[:length]
	if _, err := p.file.ReadAt(buf, int64(id*p.each)); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if le16(buf[8:]) == flagFreelist {
		return p.freelist(buf)
	}
	return p.elements(buf)
}

// elements looks at those of a branch or a leaf.
func (p *pages) elements(buf []byte) error {
	if len(buf) < pageHead {
		return errors.New("is too short")
	}
	flags, count := le16(buf[8:]), int(le16(buf[10:]))
	if flags != flagBranch && flags != flagLeaf || flags == flagBranch && count == 0 {
		return fmt.Errorf("%d elements of kind %d", count, flags)
	}
	if pageHead+count*element > len(buf) {
		return fmt.Errorf("%d elements do not fit", count)
	}
	for i := range count {
		at := pageHead + i*element
		e := buf[at : at+element]
		if flags == flagBranch {
			if !fits(at, le32(e), le32(e[4:]), 0, len(buf)) {
				return fmt.Errorf("element %d lies outside", i)
			}
			p.todo = append(p.todo, le64(e[8:]))
			continue
		}
		pos, key, value := le32(e[4:]), le32(e[8:]), le32(e[12:])
		if !fits(at, pos, key, value, len(buf)) {
			return fmt.Errorf("element %d lies outside", i)
		}
		if le32(e)&flagBucket != 0 {
			start := at + int(pos) + int(key)
			if err := p.bucket(buf[start : start+int(value)]); err != nil {
				return fmt.Errorf("element %d: %w", i, err)
			}
		}
	}
	return nil
}

// fits tells whether a key and a value that begin pos after at lie inside length bytes.
func fits(at int, pos, key, value uint32, length int) bool {
	return uint64(at)+uint64(pos)+uint64(key)+uint64(value) <= uint64(length)
}

// bucket looks at one that a leaf holds: the number of its first page or, with 0, that page itself, which is small.
func (p *pages) bucket(value []byte) error {
	if len(value) < 16 {
		return errors.New("a bucket is too short")
	}
	if root := le64(value); root != 0 {
		p.todo = append(p.todo, root)
		return nil
	}
	inside := value[16:]
	if len(inside) < pageHead || le16(inside[8:]) != flagLeaf {
		return errors.New("a bucket is none")
	}
	for i := range int(le16(inside[10:])) { // one inside one that is inside has pages of its own
		if at := pageHead + i*element; at+element > len(inside) || le32(inside[at:])&flagBucket != 0 {
			return errors.New("a bucket is none")
		}
	}
	return p.elements(inside)
}

// freelist looks at the numbers of the pages that are free.
func (p *pages) freelist(buf []byte) error {
	count, list := uint64(le16(buf[10:])), buf[pageHead:]
	if count == 0xFFFF {
		count, list = le64(list), list[8:]
	}
	if count > uint64(len(list))/8 {
		return fmt.Errorf("%d free pages do not fit", count)
	}
	for i := range count {
		id := le64(list[8*i:])
		if id < 2 || id >= p.end {
			return fmt.Errorf("free page %d is not one of %d", id, p.end)
		}
		if p.seen[id] {
			return fmt.Errorf("free page %d is used", id)
		}
		p.seen[id] = true
	}
	return nil
}

func le16(b []byte) uint16 { return binary.LittleEndian.Uint16(b) }
func le32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }
func le64(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }
