package ledger

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"fsban/policy"
)

// Every field comes back, whatever is in it.
func TestAnEntryIsReadAsItWasWritten(t *testing.T) {
	entries := []Entry{
		{Attempt: policy.Attempt{Addr: netip.MustParseAddr("192.0.2.7"), At: start}},
		{Attempt: policy.Attempt{
			Addr: netip.MustParseAddr("2001:db8::7"), At: start.Add(123456789), Kind: policy.CallReject, Source: policy.Fleet, Method: policy.Invite,
			User: "\x00\xff]", Number: strings.Repeat("0", 1000), Domain: "10.77.0.1", Profile: "internal", UserAgent: "Zoiper", Clock: start.Add(-time.Hour),
		}},
		{Attempt: policy.Attempt{Addr: netip.MustParseAddr("192.0.2.8"), At: time.Date(-3, 1, 1, 0, 0, 0, 7, time.UTC), Clock: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)}},
		{Forgot: netip.MustParsePrefix("192.0.2.0/24"), At: start},
		{Forgot: netip.MustParsePrefix("::/0"), At: start},
	}
	var c chunk
	for i := range entries {
		if !c.add(&entries[i], start) {
			t.Fatal("no room")
		}
	}
	var got []Entry
	if err := decode(c.data, func(e Entry) { got = append(got, e) }); err != nil || len(got) != len(entries) || entriesIn(c.data) != len(entries) {
		t.Fatalf("%d of %d: %v", len(got), len(entries), err)
	}
	for i, want := range entries {
		for _, at := range []struct{ got, want *time.Time }{{&got[i].At, &want.At}, {&got[i].Attempt.At, &want.Attempt.At}, {&got[i].Attempt.Clock, &want.Attempt.Clock}} {
			if !at.got.Equal(*at.want) || at.got.IsZero() != at.want.IsZero() {
				t.Errorf("%v instead of %v", at.got, at.want)
			}
			*at.got, *at.want = time.Time{}, time.Time{}
		}
		if !reflect.DeepEqual(got[i], want) {
			t.Errorf("%+v\ninstead of %+v", got[i], want)
		}
	}
}

func TestABanIsReadAsItWasWritten(t *testing.T) {
	far := policy.Attempt{Addr: netip.MustParseAddr("2001:db8::7"), At: time.Date(12026, 1, 1, 0, 0, 0, 0, time.UTC), User: "1000"}
	for _, want := range []Ban{
		{Prefix: netip.MustParsePrefix("192.0.2.7/32"), Since: start, Until: start.Add(time.Hour), Rule: "auth", Attempts: 5, Evidence: []policy.Attempt{far, far}},
		{Prefix: netip.MustParsePrefix("0.0.0.0/0"), Since: start, Rule: "operator", Source: policy.Operator, By: "root (uid 0)", Reason: "a test"},
		{Prefix: netip.MustParsePrefix("2001:db8::/64"), Since: start, Until: start, Rule: "slow", Offence: 7, Node: "a-123456", Stamp: 1 << 60, Local: true},
	} {
		key, data := fileKey(want.Prefix), appendBan(nil, &want)
		light, err := readBan(key, data, false)
		if err != nil || light.Evidence != nil {
			t.Fatal(err, light)
		}
		light.Evidence = want.Evidence
		got, err := readBan(key, data, true)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range []*Ban{light, got} {
			if !b.Since.Equal(want.Since) || !b.Until.Equal(want.Until) || len(b.Evidence) > 0 && !b.Evidence[0].At.Equal(far.At) {
				t.Errorf("%+v instead of %+v", b, want)
			}
			b.Since, b.Until = want.Since, want.Until
			for i := range b.Evidence {
				b.Evidence[i].At = far.At
			}
			if !reflect.DeepEqual(*b, want) {
				t.Errorf("%+v\ninstead of %+v", *b, want)
			}
		}
		for n := range data {
			if b, err := readBan(key, data[:n], true); err == nil {
				t.Errorf("the first %d bytes are %+v", n, b)
			}
		}
	}
	for _, key := range [][]byte{nil, make([]byte, 16), append(make([]byte, 16), 129), append(make([]byte, 15), 1, 8)} {
		if p := prefixOf(key); p.IsValid() {
			t.Errorf("%x is %v", key, p)
		}
	}
}

// A state file outlives the program that wrote it: what a number stands for stays.
func TestNumbersInTheFileKeepTheirMeaning(t *testing.T) {
	var names []string
	for _, k := range policy.Kinds() {
		names = append(names, k.String())
	}
	for s := range policy.NumSources {
		names = append(names, s.String())
	}
	for m := range policy.NumMethods {
		names = append(names, m.String())
	}
	got := strings.Join(names, " ")
	const want = "auth_failure challenge auth_success violation acl_reject call_reject event operator kernel cti_log cti_event esl_log fleet  REGISTER INVITE"
	if got != want {
		t.Errorf("%s\nwas %s: add new ones at the end", got, want)
	}
}

// FuzzJournal: whatever the bytes are, reading them ends, and what was read is written as it was.
func FuzzJournal(f *testing.F) {
	var c chunk
	for _, e := range []Entry{attempt("1000", start), {Forgot: netip.MustParsePrefix("192.0.2.0/24"), At: start}} {
		c.add(&e, start)
	}
	f.Add(c.data)
	f.Add([]byte{chunkVersion, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, data []byte) {
		var again chunk
		n := 0
		err := decode(data, func(e Entry) {
			if e.Attempt.Addr.IsValid() == e.Forgot.IsValid() {
				t.Fatalf("%+v is both or none", e)
			}
			n++
			if !again.add(&e, start) { // a full one: what follows is not compared
				again = chunk{}
			}
		})
		if err != nil || n != entriesIn(data) || again.data == nil {
			return
		}
		var second []Entry
		if err := decode(again.data, func(e Entry) { second = append(second, e) }); err != nil || len(second) == 0 {
			t.Fatalf("what was written again: %d entries, %v", len(second), err)
		}
	})
}
