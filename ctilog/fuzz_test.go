package ctilog

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// FuzzLines: however a file grows, its lines are the texts between newlines, cut at MaxLine, without leading NUL bytes.
func FuzzLines(f *testing.F) {
	f.Add([]byte("one\ntwo\r\n\nthree"), []byte{1, 3})
	f.Add([]byte("0123456789abcdef0\n0123456789abcdef\nx"), []byte{200})
	f.Add([]byte("\x00\x00one\n\x00\ntw\x00o\n\x00"), []byte{0})
	f.Add(bytes.Repeat([]byte("x"), 100), []byte{17, 1})
	path := filepath.Join(f.TempDir(), "cti_fail2ban.log")
	f.Fuzz(func(t *testing.T, data, cuts []byte) {
		const maxLine = 16
		file, err := os.Create(path)
		do(t, err)
		var got [][]byte
		r := NewFollower(path, Options{MaxLine: maxLine, OnLine: func(l Line) {
			if len(l.Text) > maxLine || (l.Unfinished || l.Cut) && len(l.Text) < maxLine {
				t.Fatalf("%q, unfinished: %t", l.Text, l.Unfinished)
			}
			got = append(got, bytes.Clone(l.Text))
		}})
		x, err := openFile(path)
		do(t, err)
		r.follow(x)
		for i, rest := 0, data; len(rest) > 0; i++ {
			n := len(rest)
			if len(cuts) > 0 {
				n = min(n, 1+int(cuts[i%len(cuts)]))
			}
			_, err := file.Write(rest[:n])
			do(t, err)
			rest = rest[n:]
			r.read(t.Context(), time.Now())
		}
		var want [][]byte
		for rest := data; ; {
			line, more, ok := bytes.Cut(rest, []byte("\n"))
			rest = more
			line = bytes.TrimLeft(line, "\x00")
			if !ok && len(line) <= maxLine {
				break
			}
			want = append(want, line[:min(len(line), maxLine)])
			if !ok {
				break
			}
		}
		if string(bytes.Join(got, []byte("\n"))) != string(bytes.Join(want, []byte("\n"))) || len(got) != len(want) {
			t.Fatalf("%q\ngave %q\nwant %q", data, got, want)
		}
		x.close(nil)
		do(t, file.Close())
	})
}
