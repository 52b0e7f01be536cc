package fail2ban

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"syscall"
	"time"
)

// A database reads tables of an SQLite file: https://www.sqlite.org/fileformat2.html. It reads whole tables in order of
// their rows, and nothing else: no SQL, no index, no write-ahead log (fail2ban never has one), no WITHOUT ROWID.
//
// It holds SQLite's own lock for readers, so that fail2ban, if it runs, does not write meanwhile. Damaged files give errors
// or wrong rows, never more than that.
type database struct {
	file   *os.File
	page   int   // bytes of a page
	usable int   // of them, without what is reserved
	pages  int64 // of the file
}

// A row is one row of a table, by column. Values are nil, int64, float64, string or []byte.
type row map[string]any

const (
	magic = "SQLite format 3\x00"
	// maxPayload is how much of one row is read. fail2ban's columns that matter come first.
	maxPayload = 64 << 10
	maxLevels  = 40 // of a tree
)

var errDamaged = errors.New("the file is damaged")

// openDatabase opens the file at path and waits up to patience for a writer.
func openDatabase(path string, patience time.Duration) (*database, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	d := &database{file: f}
	if err := d.start(patience); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	return d, nil
}

// Close ends the lock, too.
func (d *database) Close() error { return d.file.Close() }

func (d *database) start(patience time.Duration) error {
	if err := d.lock(patience); err != nil {
		return err
	}
	info, err := d.file.Stat()
	if err != nil {
		return err
	}
	header := make([]byte, 100)
	if _, err := d.file.ReadAt(header, 0); err != nil || string(header[:16]) != magic {
		return errors.New("this is no SQLite database")
	}
	if d.page = int(binary.BigEndian.Uint16(header[16:])); d.page == 1 {
		d.page = 65536
	}
	d.usable = d.page - int(header[20])
	switch {
	case d.page < 512 || d.page&(d.page-1) != 0 || d.usable < 480:
		return errDamaged
	case header[18] == 2 || header[19] == 2:
		return errors.New("it is in write-ahead mode, which fail2ban never uses: fsban cannot read this")
	case binary.BigEndian.Uint32(header[56:]) > 1:
		return errors.New("its text is UTF-16, which fail2ban never uses: fsban cannot read this")
	}
	d.pages = info.Size() / int64(d.page)
	return nil
}

// The bytes that SQLite locks: a writer holds the first while it waits for readers to go, readers hold the others.
const (
	pendingByte = 0x40000000
	sharedFirst = pendingByte + 2
	sharedSize  = 510
)

// lock takes the lock of a reader.
func (d *database) lock(patience time.Duration) error {
	set := func(kind int16, start, size int64) error {
		return syscall.FcntlFlock(d.file.Fd(), syscall.F_SETLK, &syscall.Flock_t{Type: kind, Whence: io.SeekStart, Start: start, Len: size})
	}
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		err := set(syscall.F_RDLCK, pendingByte, 1)
		if err == nil {
			err = errors.Join(set(syscall.F_RDLCK, sharedFirst, sharedSize), set(syscall.F_UNLCK, pendingByte, 1))
		}
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.EACCES):
			return fmt.Errorf("lock: %w", err)
		case time.Now().After(end):
			return errors.New("somebody is writing to it for a long time: try again")
		}
	}
}

// each calls f with each row of a table, in order. It returns false when there is no such table.
func (d *database) each(table string, f func(row)) (bool, error) {
	var root int64
	var columns []string
	err := d.walk(1, []string{"type", "name", "tbl_name", "rootpage", "sql"}, func(r row) {
		if r["type"] == "table" && r["name"] == table {
			root, _ = r["rootpage"].(int64)
			sql, _ := r["sql"].(string)
			columns = columnsOf(sql)
		}
	})
	if err != nil || root == 0 {
		return false, err
	}
	return true, d.walk(root, columns, f)
}

// walk calls f with each row of the tree whose root is a page. No page is read twice.
func (d *database) walk(root int64, columns []string, f func(row)) error {
	left := d.pages
	var visit func(number int64, level int) error
	visit = func(number int64, level int) error {
		if left--; left < 0 || level > maxLevels {
			return errDamaged // a circle
		}
		page, err := d.read(number)
		if err != nil {
			return err
		}
		header := page
		if number == 1 {
			header = page[100:]
		}
		cells := int(binary.BigEndian.Uint16(header[3:]))
		pointers := header[8:]
		const interior, leaf = 0x05, 0x0d
		switch header[0] {
		case interior:
			pointers = header[12:]
		case leaf:
		default:
			return errDamaged
		}
		if len(pointers) < 2*cells {
			return errDamaged
		}
		for i := range cells {
			at := int(binary.BigEndian.Uint16(pointers[2*i:]))
			if at+4 > d.usable {
				return errDamaged
			}
			if header[0] == interior {
				if err := visit(int64(binary.BigEndian.Uint32(page[at:])), level+1); err != nil {
					return err
				}
				continue
			}
			payload, err := d.payload(page[at:d.usable])
			if err != nil {
				return err
			}
			f(record(payload, columns))
		}
		if header[0] == interior {
			return visit(int64(binary.BigEndian.Uint32(header[8:])), level+1)
		}
		return nil
	}
	return visit(root, 0)
}

func (d *database) read(number int64) ([]byte, error) {
	if number < 1 || number > d.pages {
		return nil, errDamaged
	}
	page := make([]byte, d.page)
	_, err := d.file.ReadAt(page, (number-1)*int64(d.page))
	return page, err
}

// payload returns the content of a cell of a leaf, up to maxPayload: what is in the page, and what overflows into others.
func (d *database) payload(cell []byte) ([]byte, error) {
	size, n := varint(cell)
	_, m := varint(cell[n:]) // the row's number
	cell = cell[n+m:]
	if n == 0 || m == 0 || size < 0 || size > math.MaxInt32 {
		return nil, errDamaged
	}
	local := int(size)
	if most := d.usable - 35; local > most {
		least := (d.usable-12)*32/255 - 23
		if local = least + (int(size)-least)%(d.usable-4); local > most {
			local = least
		}
	}
	if local > len(cell) {
		return nil, errDamaged
	}
	payload := bytes.Clone(cell[:local])
	if local == int(size) {
		return payload, nil
	}
	if len(cell) < local+4 {
		return nil, errDamaged
	}
	next := int64(binary.BigEndian.Uint32(cell[local:]))
	for want := min(int(size), maxPayload); len(payload) < want; {
		page, err := d.read(next)
		if err != nil {
			return nil, err
		}
		payload = append(payload, page[4:d.usable]...)
		next = int64(binary.BigEndian.Uint32(page))
	}
	return payload[:min(len(payload), int(size))], nil
}

// record reads a row. A column that the payload does not hold in whole is missing.
func record(payload []byte, columns []string) row {
	size, n := varint(payload)
	if n == 0 || size < int64(n) || size > int64(len(payload)) {
		return row{}
	}
	types, values := payload[n:size], payload[size:]
	r := make(row, len(columns))
	for _, name := range columns {
		kind, n := varint(types)
		if n == 0 {
			break
		}
		types = types[n:]
		value, length, ok := column(kind, values)
		if !ok {
			break
		}
		r[name], values = value, values[length:]
	}
	return r
}

// column reads one value of a row.
func column(kind int64, data []byte) (value any, length int, ok bool) {
	lengths := [...]int{0, 1, 2, 3, 4, 6, 8, 8, 0, 0}
	switch {
	case kind >= 0 && kind < int64(len(lengths)):
		length = lengths[kind]
	case kind >= 12 && (kind-12)/2 <= int64(len(data)):
		length = int((kind - 12) / 2)
	default:
		return nil, 0, false
	}
	if length > len(data) {
		return nil, 0, false
	}
	data = data[:length]
	switch {
	case kind == 0:
		return nil, 0, true
	case kind == 7:
		return math.Float64frombits(binary.BigEndian.Uint64(data)), length, true
	case kind == 8 || kind == 9:
		return kind - 8, 0, true
	case kind >= 12 && kind%2 == 1:
		return string(data), length, true
	case kind >= 12:
		return bytes.Clone(data), length, true
	}
	i := int64(int8(data[0])) // with its sign
	for _, b := range data[1:] {
		i = i<<8 | int64(b)
	}
	return i, length, true
}

// varint reads a number of SQLite's: up to nine bytes, the highest seven bits first. n is 0 when there is none.
func varint(data []byte) (v int64, n int) {
	for n < len(data) {
		b := data[n]
		n++
		if n == 9 {
			return v<<8 | int64(b), n
		}
		v = v<<7 | int64(b&0x7f)
		if b < 0x80 {
			return v, n
		}
	}
	return 0, 0
}

// columnsOf returns the names of the columns in a CREATE TABLE.
func columnsOf(sql string) []string {
	_, list, _ := strings.Cut(sql, "(")
	var columns []string
	for depth := 0; list != ""; {
		end := strings.IndexFunc(list, func(r rune) bool {
			switch r {
			case '(':
				depth++
			case ')':
				depth--
			}
			return r == ',' && depth == 0 || depth < 0
		})
		definition := list
		if list = ""; end >= 0 {
			definition, list = definition[:end], definition[end+1:]
		}
		if words := strings.Fields(definition); len(words) > 0 {
			switch strings.ToUpper(words[0]) {
			case "FOREIGN", "UNIQUE", "PRIMARY", "CHECK", "CONSTRAINT":
				return columns // constraints come last
			}
			columns = append(columns, strings.Trim(words[0], "\"`[]"))
		}
		if depth < 0 {
			break
		}
	}
	return columns
}
