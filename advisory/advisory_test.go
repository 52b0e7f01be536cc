package advisory

import (
	"strings"
	"testing"
)

func TestSignaturesHaveAnAdvisory(t *testing.T) {
	for _, s := range signatures {
		if a := Find(s.advisory); a == nil || a.Fixed == "" || a.Source == "" {
			t.Errorf("%s: %+v", s.advisory, a)
		}
	}
	seen := make(map[string]bool)
	for _, a := range All {
		if a.ID == "" || a.Fixed == "" || a.Effect == "" || !strings.Contains(a.Source, strings.TrimPrefix(strings.TrimPrefix(a.ID, "PR-"), "release-")) || seen[a.ID] {
			t.Errorf("%+v", a)
		}
		seen[a.ID] = true
	}
	if Find("CVE-1999-1") != nil {
		t.Error("an unknown advisory was found")
	}
}

func TestUnescape(t *testing.T) {
	for text, want := range map[string]struct {
		c    byte
		rest string
	}{"a": {'a', ""}, "%61b": {'a', "b"}, "%2Bx": {'+', "x"}, "%2": {'%', "2"}, "%zzx": {'%', "zzx"}, "%": {'%', ""}} {
		if c, rest := unescape([]byte(text)); c != want.c || string(rest) != want.rest {
			t.Errorf("%q: %q, %q", text, c, rest)
		}
	}
}

// FuzzAttacked: no user makes a signature fail, and only a user with a plus sign matches one.
func FuzzAttacked(f *testing.F) {
	f.Add([]byte("api+status"))
	f.Add([]byte("%61pi%2B"))
	f.Fuzz(func(t *testing.T, user []byte) {
		if a := Attacked([]byte("MESSAGE"), user); a != nil && !strings.ContainsAny(string(user), "+%") {
			t.Fatalf("%q is %s", user, a.ID)
		}
	})
}

func BenchmarkAttacked(b *testing.B) {
	method, user := []byte("MESSAGE"), []byte("1001")
	b.ReportAllocs()
	for b.Loop() {
		if Attacked(method, user) != nil {
			b.Fatal("an attack")
		}
	}
}
