package ledger

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

const pageSize = 4096

// contents is a state file of n bans, with free pages in it.
func contents(t testing.TB, n int) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fsban.db")
	l := open(t, path, start)
	for round := range 3 {
		for i := range n + 20*round {
			l.Add(ban(fmt.Sprintf("10.0.%d.%d/32", i/256, i%256), time.Hour))
		}
		if err := l.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	for i := n; i < n+40; i++ {
		l.Remove(netip.MustParsePrefix(fmt.Sprintf("10.0.%d.%d/32", i/256, i%256)))
	}
	flush(t, l)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// survive opens a ledger with data in its file, and uses it. It returns how many bans were found, and whether the file
// was set aside. In that case the ledger must be as good as new.
func survive(t *testing.T, data []byte) (bans int, aside bool) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fsban.db")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := Open(path, start)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	bans, aside = len(l.List()), l.SetAside() != ""
	for _, b := range l.List() {
		_, _ = l.Load(b.Prefix)
	}
	for i := range 50 {
		l.Add(ban(fmt.Sprintf("192.0.2.%d/32", i), time.Hour))
	}
	err = l.Flush()
	if !aside {
		return bans, aside
	}
	if err != nil {
		t.Errorf("the ledger begun anew cannot be written: %v", err)
	}
	if kept, err := os.ReadFile(l.SetAside()); err != nil || !bytes.HasPrefix(kept, data) {
		t.Errorf("the damaged file is not kept: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	l = open(t, path, start)
	if n := len(l.List()); n != 50 || l.SetAside() != "" {
		t.Errorf("the ledger begun anew has %d bans, want 50; set aside as %q", n, l.SetAside())
	}
	return bans, aside
}

func TestFileThatIsNoneIsSetAside(t *testing.T) {
	for name, data := range map[string][]byte{
		"text":        []byte("127.0.0.1 localhost\n"),
		"one byte":    {0},
		"zeros":       make([]byte, 8*pageSize),
		"random":      noise(8 * pageSize),
		"short":       noise(100),
		"half a page": noise(pageSize / 2),
	} {
		t.Run(name, func(t *testing.T) {
			if bans, aside := survive(t, data); bans != 0 || !aside {
				t.Errorf("%d bans, set aside: %t", bans, aside)
			}
		})
	}
}

// A file of no bytes at all is what a first start leaves that was cut short: there is nothing in it to keep.
func TestEmptyFileIsANewOne(t *testing.T) {
	if bans, aside := survive(t, nil); bans != 0 || aside {
		t.Errorf("%d bans, set aside: %t", bans, aside)
	}
}

func TestTruncatedFileIsSetAsideOrWhole(t *testing.T) {
	const n = 100
	data := contents(t, n)
	cuts := []int{1, 100}
	for page := 1; page*pageSize < len(data); page++ {
		if page < 6 || page%5 == 0 {
			cuts = append(cuts, page*pageSize-1, page*pageSize, page*pageSize+1)
		}
	}
	for _, cut := range cuts {
		if bans, aside := survive(t, data[:cut]); !aside && bans != n || aside && bans != 0 {
			t.Errorf("cut at %d of %d: %d bans of %d, set aside: %t", cut, len(data), bans, n, aside)
		}
	}
}

// A page that the disk has lost is found at the start or when it is used, and ends nothing but the writing of the file.
func TestDamagedPagesCrashNothing(t *testing.T) {
	data := contents(t, 60)
	found := 0
	for page := range len(data) / pageSize {
		for kind, garbage := range map[string][]byte{"zeros": make([]byte, pageSize), "noise": noise(pageSize)} {
			damaged := slices.Clone(data)
			copy(damaged[page*pageSize:], garbage)
			bans, aside := survive(t, damaged)
			if aside {
				found++
			}
			if aside && bans != 0 {
				t.Errorf("page %d of %s: %d bans of a file that was set aside", page, kind, bans)
			}
		}
	}
	if found == 0 {
		t.Error("no damage was found")
	}
}

func TestDamagedBytesCrashNothing(t *testing.T) {
	data := contents(t, 50)
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		damaged := slices.Clone(data)
		for range 1 + rnd.IntN(20) {
			damaged[rnd.IntN(len(damaged))] = byte(rnd.Uint32())
		}
		survive(t, damaged)
	}
}

// With a wrong length in it, a page header once kept the database busy for minutes, and filled the memory.
func TestDamagedPageHeadersCostNothing(t *testing.T) {
	data := contents(t, 50)
	found := 0
	for page := range len(data) / pageSize {
		for _, at := range []int{0, 8, 10, 12, 15} { // its number, kind, elements, and how many pages it goes on for
			damaged := slices.Clone(data)
			damaged[page*pageSize+at] ^= 0xFF
			bans, aside := survive(t, damaged)
			if aside {
				found++
			}
			if !aside && bans != 50 {
				t.Errorf("page %d, byte %d: %d bans of 50, and it was not set aside", page, at, bans)
			}
		}
	}
	if found == 0 {
		t.Error("no damage was found")
	}
}

// Whatever the bytes are, looking at them ends, and what is found intact can be opened.
func FuzzIntact(f *testing.F) {
	data := contents(f, 5)
	f.Add(uint16(0), []byte{1}, uint16(3*pageSize), []byte{0xFF, 0xFF})
	f.Add(uint16(2*pageSize+12), []byte{0xFF, 0xFF, 0xFF, 0x7F}, uint16(4*pageSize+8), []byte{16})
	f.Fuzz(func(t *testing.T, at uint16, some []byte, then uint16, more []byte) {
		damaged := slices.Clone(data)
		copy(damaged[int(at)%len(damaged):], some)
		copy(damaged[int(then)%len(damaged):], more)
		survive(t, damaged)
	})
}

func TestBanThatMakesNoSenseIsDamage(t *testing.T) {
	good := ban("192.0.2.7/32", time.Hour)
	whole := string(appendBan(nil, &good))
	for name, value := range map[string]string{
		"empty":           "",
		"another version": "{" + whole[1:],
		"unknown source":  whole[:1] + "\xff" + whole[2:],
		"cut":             whole[:20],
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "fsban.db")
			db, err := bbolt.Open(path, 0o600, nil)
			if err != nil {
				t.Fatal(err)
			}
			err = db.Update(func(tx *bbolt.Tx) error {
				for _, name := range [][]byte{bucket, journalBucket, metaBucket} {
					if _, err := tx.CreateBucket(name); err != nil {
						return err
					}
				}
				return put(tx.Bucket(bucket), fileKey(netip.MustParsePrefix("192.0.2.7/32")), []byte(value))
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if bans, aside := survive(t, data); bans != 0 || !aside {
				t.Errorf("%d bans, set aside: %t", bans, aside)
			}
		})
	}
}

// A digit that has become another one is found, too.
func TestChangedValueIsDamage(t *testing.T) {
	data := contents(t, 5)
	was, is := []byte("\x04auth"), []byte("\x04euth")
	if !bytes.Contains(data, was) {
		t.Fatal("no ban is in the file as it was thought to be")
	}
	if bans, aside := survive(t, bytes.ReplaceAll(data, was, is)); bans != 0 || !aside {
		t.Errorf("%d bans, set aside: %t", bans, aside)
	}
}

// A file that loses its pages while it is in use stops being written, and stops nothing else.
func TestFileTruncatedInUseCrashesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fsban.db")
	if err := os.WriteFile(path, contents(t, 200), 0o600); err != nil {
		t.Fatal(err)
	}
	l := open(t, path, start)
	if err := os.Truncate(path, 0); err != nil {
		t.Fatal(err)
	}
	l.Add(ban("192.0.2.7/32", time.Hour))
	for range 2 {
		if err := l.Flush(); err == nil {
			t.Error("it could be written")
		}
	}
	if _, err := l.Load(netip.MustParsePrefix("10.0.0.1/32")); err == nil {
		t.Error("it could be read")
	}
	if failed, err := l.Failures(); err == nil || failed != 2 {
		t.Errorf("%v after %d failures", err, failed)
	}
	if n := len(l.List()); n != 201 {
		t.Errorf("%d bans in memory, want 201", n)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
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
