package ledger

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"fsban/policy"
)

// A story is a state file written change by change, with its contents after each change.
type story struct {
	data  []byte
	after []moment
}

// A moment is the length of the file after a change and its contents: a line for each ban, record and entry.
type moment struct {
	size  int
	lines []string
}

// holds lists all that a ledger holds, read from its file where it is only there.
func holds(t testing.TB, l *Ledger) []string {
	t.Helper()
	var lines []string
	for _, b := range l.List() {
		b, err := l.Load(b.Prefix)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, fmt.Sprintf("%v %v %v %s %d %q %v", b.Prefix, b.Since.Unix(), b.Until.Unix(), b.Rule, b.Stamp, b.Node, len(b.Evidence)))
	}
	for _, shelf := range []Shelf{Known, Offences, Allowed, Unbanned, Disallowed} {
		for r := range strings.FieldsSeq(recordsOf(t, l, shelf)) {
			lines = append(lines, string(shelf)+" "+r)
		}
	}
	entries, state, _ := strings.Cut(journalOf(t, l), " | ")
	for e := range strings.FieldsSeq(entries) {
		lines = append(lines, "entry "+e)
	}
	slices.Sort(lines)
	return append(lines, "state "+state)
}

// tell writes a story with some of each kind of change.
func tell(t testing.TB, compacted bool) story {
	t.Helper()
	path := statePath(t)
	l := open(t, path, start)
	var s story
	done := func() {
		t.Helper()
		if err := l.Flush(); err != nil {
			t.Fatal(err)
		}
		var err error
		if s.data, err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
		s.after = append(s.after, moment{len(s.data), holds(t, l)})
	}
	for i := range 6 {
		b := ban(fmt.Sprintf("10.0.0.%d/32", i), time.Hour)
		l.Add(b)
		done()
		if err := l.Keep(Offences, b.Prefix, i); err != nil {
			t.Fatal(err)
		}
		done()
		l.Note(attempt(fmt.Sprint("user-", i), start), start)
		l.Seal(fmt.Appendf(nil, "place-%d", i), start)
		done()
		switch i {
		case 2:
			l.End(netip.MustParsePrefix("10.0.0.1/32"), Ending{})
			done()
		case 3:
			l.Amend(netip.MustParsePrefix("10.0.0.2/32"), start.Add(time.Hour), start.Add(2*time.Hour))
			done()
			l.Sign(netip.MustParsePrefix("10.0.0.0/32"), "a", 7)
			done()
		case 4:
			if err := l.Keep(Offences, netip.MustParsePrefix("10.0.0.3/32"), nil); err != nil {
				t.Fatal(err)
			}
			done()
			l.Add(ban("2001:db8::/64", policy.Forever))
			done()
		}
	}
	if compacted {
		if l.tryCompact(); l.compact != nil {
			t.Fatal(l.compact)
		}
		done()
		if data, err := os.ReadFile(path); err != nil || len(data) >= len(s.data) && len(s.after) == 0 {
			t.Fatal(err)
		} else {
			s.data = data
		}
	}
	return s
}

// openBytes opens a ledger with data in its file.
func openBytes(t testing.TB, data []byte) (*Ledger, string) {
	t.Helper()
	path := statePath(t)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return open(t, path, start), path
}

// stride is the distance of two places that are damaged: every one, with -short a seventh of them.
func stride() int {
	if testing.Short() {
		return 7
	}
	return 1
}

// After a power cut the file holds everything synced, and any part of the write after it.
func TestAPowerCutLosesOnlyUnsyncedChanges(t *testing.T) {
	s := tell(t, false)
	zeros := make([]byte, 100)
	at := -1
	for n := 0; n < len(s.data); n += stride() {
		for at+1 < len(s.after) && s.after[at+1].size <= n {
			at++
		}
		want := []string{"state "}
		if at >= 0 {
			want = s.after[at].lines
		}
		for name, data := range map[string][]byte{"cut": s.data[:n], "and zeros": slices.Concat(s.data[:n], zeros)} {
			if name == "and zeros" && n < len(header) {
				continue // no header: not a state file
			}
			l, path := openBytes(t, data)
			if got := holds(t, l); !slices.Equal(got, want) || l.SetAside() != "" || l.Skipped() != 0 {
				t.Fatalf("%d bytes, %s: %q, set aside as %q; want %q", n, name, got, l.SetAside(), want)
			}
			if n%11 != 0 {
				_ = l.Close()
				continue
			}
			// The next write follows the last intact frame.
			l.Add(ban("192.0.2.1/32", time.Hour))
			flush(t, l)
			l = open(t, path, start)
			if _, banned := l.Get(netip.MustParsePrefix("192.0.2.1/32")); !banned || len(holds(t, l)) != len(want)+1 || l.Skipped() != 0 {
				t.Fatalf("%d bytes, %s, and a ban: %q; %d skipped", n, name, holds(t, l), l.Skipped())
			}
			_ = l.Close()
		}
	}
}

// lost counts the lines of want that are missing in got, and those of got that want does not have.
func lost(want, got []string) (missing, more int) {
	for _, line := range want {
		if !slices.Contains(got, line) {
			missing++
		}
	}
	for _, line := range got {
		if !slices.Contains(want, line) {
			more++
		}
	}
	return missing, more
}

// One changed bit costs the record that it is in, and no other; the damaged file is kept, and damage is reported once.
func TestAChangedBitCostsOneRecord(t *testing.T) {
	for name, compacted := range map[string]bool{"grown": false, "compacted": true} {
		t.Run(name, func(t *testing.T) {
			s := tell(t, compacted)
			want := s.after[len(s.after)-1].lines
			for at := 0; at < len(s.data); at += stride() {
				damaged := slices.Clone(s.data)
				damaged[at] ^= 1 << (at % 8)
				l, path := openBytes(t, damaged)
				got := holds(t, l)
				missing, more := lost(want, got)
				// A damaged seal costs the entry before it, too, and its state is that of the seal before.
				if missing > 2 || more > 1 || missing == 2 && !slices.Contains(got, "entry user-4") {
					t.Fatalf("byte %d: %q instead of %q", at, got, want)
				}
				kept, err := os.ReadFile(l.SetAside())
				if err != nil || !bytes.Equal(kept, damaged) || l.Skipped() != 1 {
					t.Fatalf("byte %d: %d skipped, the damaged file is kept as %q: %v", at, l.Skipped(), l.SetAside(), err)
				}
				if _, err := l.Failures(); err != nil {
					t.Fatal(err)
				}
				flush(t, l)
				l = open(t, path, start)
				if again := holds(t, l); !slices.Equal(again, got) || l.SetAside() != "" {
					t.Fatalf("byte %d: %q after another start instead of %q; set aside as %q", at, again, got, l.SetAside())
				}
				_ = l.Close()
			}
		})
	}
}

func TestALostPageCostsItsRecords(t *testing.T) {
	path := statePath(t)
	l := open(t, path, start)
	const n = 500
	for i := range n {
		l.Add(ban(fmt.Sprintf("10.0.%d.%d/32", i/256, i%256), time.Hour))
	}
	flush(t, l)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	each := len(data) / n
	for page := range len(data) / blockLen {
		for kind, garbage := range map[string][]byte{"zeros": make([]byte, blockLen), "noise": noise(blockLen)} {
			damaged := slices.Clone(data)
			copy(damaged[page*blockLen:], garbage)
			l, _ := openBytes(t, damaged)
			if got := len(l.List()); got < n-blockLen/each-2 || got == n || l.SetAside() == "" {
				t.Errorf("page %d of %s: %d bans of %d; set aside as %q", page, kind, got, n, l.SetAside())
			}
			_ = l.Close()
		}
	}
}

// An unreadable block of the disk costs only the records in it.
func TestABlockThatCannotBeRead(t *testing.T) {
	const n, each = 500, 100
	w := frameWriter{file: nothing{}}
	for range n {
		w.copy(make([]byte, each-frameLen))
	}
	for block := range int64(n * each / blockLen) {
		frames := 0
		scan := newScanner(&badBlocks{bytes.NewReader(w.buf), block}, 0, int64(len(w.buf)))
		for payload, _ := scan.next(); payload != nil; payload, _ = scan.next() {
			frames++
		}
		if frames < n-blockLen/each-2 || frames == n || scan.err != nil || scan.damaged == 0 {
			t.Errorf("block %d: %d frames of %d, %d damaged, %v", block, frames, n, scan.damaged, scan.err)
		}
	}
	scan := newScanner(failing{}, 0, 1000)
	if payload, _ := scan.next(); payload != nil || scan.err == nil {
		t.Errorf("%v of a file that cannot be read", scan.err)
	}
}

// failing is a file that cannot be read at all.
type failing struct{}

func (failing) ReadAt([]byte, int64) (int, error) { return 0, os.ErrPermission }

// badBlocks is a file with one unreadable block.
type badBlocks struct {
	*bytes.Reader
	block int64
}

func (b *badBlocks) ReadAt(p []byte, at int64) (int, error) {
	if at < (b.block+1)*blockLen && at+int64(len(p)) > b.block*blockLen {
		return 0, syscall.EIO
	}
	return b.Reader.ReadAt(p, at)
}

func TestAFileOfAnotherFormatIsSetAside(t *testing.T) {
	database := make([]byte, 4*blockLen) // of bbolt, as versions before had it
	copy(database[16:], []byte{0xED, 0xDA, 0x0C, 0xED, 2, 0, 0, 0, 0, 16, 0, 0})
	for name, data := range map[string][]byte{
		"text":            []byte("127.0.0.1 localhost\n"),
		"one byte":        {0},
		"zeros":           make([]byte, 8*blockLen),
		"random":          noise(8 * blockLen),
		"short":           noise(100),
		"half a page":     noise(blockLen / 2),
		"bbolt":           database,
		"a later version": append([]byte("fsban state 2\n\x00\x00"), noise(1000)...),
	} {
		t.Run(name, func(t *testing.T) {
			l, path := openBytes(t, data)
			if n := len(l.List()); n != 0 || l.SetAside() == "" {
				t.Errorf("%d bans, set aside as %q", n, l.SetAside())
			}
			if kept, err := os.ReadFile(l.SetAside()); err != nil || !bytes.Equal(kept, data) {
				t.Errorf("the file is not kept: %v", err)
			}
			l.Add(ban("192.0.2.1/32", time.Hour))
			flush(t, l)
			l = open(t, path, start)
			if got := prefixes(l); got != "192.0.2.1/32" || l.SetAside() != "" {
				t.Errorf("begun anew, it has %s; set aside as %q", got, l.SetAside())
			}
		})
	}
}

// Nothing that was set aside is overwritten.
func TestEachDamagedFileIsKept(t *testing.T) {
	path := statePath(t)
	seen := make(map[string]bool)
	for i := range 4 {
		if err := os.WriteFile(path, fmt.Appendf(nil, "this is file %d", i), 0o600); err != nil {
			t.Fatal(err)
		}
		l := open(t, path, start)
		seen[l.SetAside()] = true
		_ = l.Close()
	}
	if len(seen) != 4 {
		t.Errorf("kept as %q", slices.Collect(maps.Keys(seen)))
	}
}

// An interrupted first start leaves an empty file: there is nothing in it to keep.
func TestEmptyFileIsANewOne(t *testing.T) {
	if l, _ := openBytes(t, nil); len(l.List()) != 0 || l.SetAside() != "" {
		t.Errorf("%d bans, set aside as %q", len(l.List()), l.SetAside())
	}
}

// A record with a valid checksum and invalid contents is skipped.
func TestRecordsThatMakeNoSenseAreSkipped(t *testing.T) {
	good := ban("192.0.2.7/32", time.Hour)
	key := keyOf(good.Prefix)
	whole := string(appendBan(key[:], &good))
	bad := map[string]string{
		"empty ban":              "\x01",
		"a ban's version":        "\x01" + string(key[:]) + "{" + whole[18:],
		"a ban's source":         "\x01" + whole[:18] + "\xff" + whole[19:],
		"half a ban":             "\x01" + whole[:30],
		"a ban of no prefix":     "\x01" + strings.Repeat("\xff", 17) + whole[17:],
		"an unban of no prefix":  "\x02" + strings.Repeat("\xff", 17),
		"a record of no prefix":  "\x05\x01a" + strings.Repeat("\xff", 17),
		"a record of no shelf":   "\x05\xff\xff\xff\xff\xff\x01",
		"a kind that is unknown": "\x63abc",
	}
	for name, payload := range bad {
		t.Run(name, func(t *testing.T) {
			data := []byte(header)
			w := frameWriter{file: nothing{}, at: 0, buf: data}
			w.begin(frameBan)
			other := ban("192.0.2.8/32", time.Hour)
			otherKey := keyOf(other.Prefix)
			w.buf = appendEvidence(appendBan(append(w.buf, otherKey[:]...), &other), other.Evidence)
			w.end()
			w.copy([]byte(payload))
			l, _ := openBytes(t, w.buf)
			if got := prefixes(l); got != "192.0.2.8/32" || l.Skipped() != 1 || l.SetAside() == "" {
				t.Errorf("%s; %d skipped, set aside as %q", got, l.Skipped(), l.SetAside())
			}
		})
	}
}

type nothing struct{}

func (nothing) WriteAt(b []byte, _ int64) (int, error) { return len(b), nil }

// A frame that a peer puts into a user agent is not taken for one, even in a search after damage.
func TestAFrameInATextIsNotRead(t *testing.T) {
	path := statePath(t)
	l := open(t, path, start)
	for i := range 20 { // each is valid at another place of the file
		w := frameWriter{file: nothing{}, at: int64(i * 100)}
		w.begin(frameKeep)
		key := keyOf(netip.MustParsePrefix("203.0.113.66/32"))
		w.buf = append(append(AppendTexts(w.buf, string(Allowed)), key[:]...), "true"...)
		w.end()
		b := ban(fmt.Sprintf("192.0.2.%d/32", i), time.Hour)
		b.Evidence[1].UserAgent = string(w.buf)
		l.Add(b)
	}
	flush(t, l)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(header)+5] ^= 1 // the first length
	l, _ = openBytes(t, data)
	if got := recordsOf(t, l, Allowed); got != "" || len(l.List()) != 19 {
		t.Errorf("%d bans, allowed: %s", len(l.List()), got)
	}
}

// A file that is cut or removed while in use is written again from memory.
func TestFileTruncatedInUseIsWrittenAnew(t *testing.T) {
	for name, harm := range map[string]func(path string) error{
		"cut":     func(path string) error { return os.Truncate(path, 3000) },
		"emptied": func(path string) error { return os.Truncate(path, 0) },
		"removed": os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			path := statePath(t)
			l := open(t, path, start)
			for i := range 200 {
				l.Add(ban(fmt.Sprintf("10.0.0.%d/32", i), time.Hour))
			}
			if err := l.Flush(); err != nil {
				t.Fatal(err)
			}
			if err := harm(path); err != nil {
				t.Fatal(err)
			}
			l.Add(ban("192.0.2.7/32", time.Hour))
			for range 2 { // the first makes damaged bans pending again
				if err := l.Flush(); err != nil {
					t.Error(err)
				}
			}
			flush(t, l)
			l = open(t, path, start)
			if n := len(l.List()); n != 201 || l.SetAside() != "" {
				t.Errorf("%d bans, want 201; set aside as %q", n, l.SetAside())
			}
		})
	}
}

// A ban outlives its evidence when the disk loses it.
func TestEvidenceThatIsDamagedLeavesTheBan(t *testing.T) {
	path := statePath(t)
	l := open(t, path, start)
	l.Add(ban("192.0.2.7/32", time.Hour))
	if err := l.Flush(); err != nil {
		t.Fatal(err)
	}
	change(t, path, "pbx.example", "pbx.exampla")
	p := netip.MustParsePrefix("192.0.2.7/32")
	if b, err := l.Load(p); err == nil || b.Rule != "auth" || !strings.HasSuffix(err.Error(), "the record is damaged") {
		t.Errorf("%+v, %v", b, err)
	}
	if l.tryCompact(); l.compact != nil || l.SetAside() == "" {
		t.Errorf("%v; set aside as %q", l.compact, l.SetAside())
	}
	flush(t, l)
	l = open(t, path, start)
	if b, err := l.Load(p); err != nil || b.Rule != "auth" || l.Skipped() != 0 {
		t.Errorf("%+v, %v", b, err)
	}
}

// FuzzOpen: with any bytes of the file changed, Open ends, restores nothing that was never written, reports each loss, and
// another start finds the same.
func FuzzOpen(f *testing.F) {
	s := tell(f, false)
	once := make(map[string]bool)
	for _, m := range s.after {
		for _, line := range m.lines {
			once[line] = true
		}
	}
	once["state "] = true
	f.Add(uint16(0), []byte{1}, uint16(300), []byte{0xFF, 0xFF})
	f.Add(uint16(16), []byte{0xFF, 0xFF, 0xFF, 0}, uint16(1000), []byte{16})
	f.Add(uint16(100), s.data[16:200], uint16(1500), s.data[16:400])
	f.Add(uint16(200), make([]byte, 1000), uint16(0), []byte(header))
	f.Fuzz(func(t *testing.T, at uint16, some []byte, then uint16, more []byte) {
		damaged := slices.Clone(s.data)
		copy(damaged[int(at)%len(damaged):], some)
		copy(damaged[int(then)%len(damaged):], more)
		l, path := openBytes(t, damaged)
		got := holds(t, l)
		for _, line := range got {
			if !once[line] {
				t.Errorf("%q was never in it", line)
			}
		}
		if missing, _ := lost(s.after[len(s.after)-1].lines, got); missing > 0 && l.SetAside() == "" && !bytes.HasSuffix(damaged, make([]byte, 4)) {
			t.Errorf("%d lines are lost without a word", missing)
		}
		flush(t, l)
		if again := holds(t, open(t, path, start)); !slices.Equal(again, got) {
			t.Errorf("%q after another start, instead of %q", again, got)
		}
	})
}

func TestRandomDamage(t *testing.T) {
	s := tell(t, true)
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		damaged := slices.Clone(s.data)
		for range 1 + rnd.IntN(20) {
			damaged[rnd.IntN(len(damaged))] = byte(rnd.Uint32())
		}
		l, _ := openBytes(t, damaged)
		if _, more := lost(s.after[len(s.after)-1].lines, holds(t, l)); more > 1 { // state is empty where its seal is damaged
			t.Fatalf("%q", holds(t, l))
		}
		_ = l.Close()
	}
}

func noise(n int) []byte {
	rnd := rand.New(rand.NewPCG(7, 7))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	return b
}
