package ledger

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"fsban/policy"
)

// Every field is read as it was written, with any contents.
func TestAnEntryIsReadAsItWasWritten(t *testing.T) {
	entries := []Entry{
		{Attempt: policy.Attempt{Addr: netip.MustParseAddr("192.0.2.7"), At: start}},
		{Attempt: policy.Attempt{
			Addr: netip.MustParseAddr("2001:db8::7"), At: start.Add(123456789), Kind: policy.CallReject, Source: policy.SIP, Method: policy.OtherMethod, Transport: policy.TLS, Proof: policy.PasswordProof,
			User: "\x00\xff]", Number: strings.Repeat("0", 1000), Domain: "10.77.0.1", Profile: "internal", UserAgent: "Zoiper", ReportedAt: start.Add(-time.Hour),
		}},
		{Attempt: policy.Attempt{Addr: netip.MustParseAddr("192.0.2.8"), At: time.Date(-3, 1, 1, 0, 0, 0, 7, time.UTC), ReportedAt: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)}},
		{Attempt: policy.Attempt{Addr: netip.MustParseAddr("192.0.2.9"), At: start, Kind: policy.Malformed, Detail: "via"}},
		{Attempt: policy.Attempt{Addr: netip.MustParseAddr("192.0.2.9"), At: start, Kind: policy.Exploit, Method: policy.Message, Detail: "CVE-2026-116779"}},
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
		for _, at := range []struct{ got, want *time.Time }{{&got[i].At, &want.At}, {&got[i].Attempt.At, &want.Attempt.At}, {&got[i].Attempt.ReportedAt, &want.Attempt.ReportedAt}} {
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
		{Prefix: netip.MustParsePrefix("::ffff:0:0/96"), Since: start, Until: start, Rule: "kernel"},
		{Prefix: netip.MustParsePrefix("::/0"), Since: start, Until: start, Rule: "kernel"},
	} {
		key := keyOf(want.Prefix)
		data := appendEvidence(appendBan(key[:], &want), want.Evidence)
		r := Reader{Data: data}
		got, err := readBan(&r)
		if err != nil {
			t.Fatal(err)
		}
		if got.Evidence, err = readEvidence(&r); err != nil {
			t.Fatal(err)
		}
		if !got.Since.Equal(want.Since) || !got.Until.Equal(want.Until) || len(got.Evidence) > 0 && !got.Evidence[0].At.Equal(far.At) {
			t.Errorf("%+v instead of %+v", got, want)
		}
		got.Since, got.Until = want.Since, want.Until
		for i := range got.Evidence {
			got.Evidence[i].At = far.At
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%+v\ninstead of %+v", got, want)
		}
		for n := range data {
			r := Reader{Data: data[:n]}
			if b, err := readBan(&r); err == nil {
				if _, err = readEvidence(&r); err == nil {
					t.Errorf("the first %d bytes are %+v", n, b)
				}
			}
		}
	}
	for _, key := range []recordKey{{16: 161}, {16: 129}, {10: 255, 11: 255, 16: 162}, {15: 1, 16: 8}, {10: 255, 11: 255, 15: 1, 16: 137}} {
		if p := key.prefix(); p.IsValid() {
			t.Errorf("%x is %v", key, p)
		}
	}
}

// A state file outlives the program that wrote it: numbers keep their meaning.
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
	for p := range policy.NumProofs {
		names = append(names, p.String())
	}
	for tr := range policy.NumTransports {
		names = append(names, tr.String())
	}
	got := strings.Join(names, " ")
	const want = "auth_failure challenge auth_success violation acl_reject call_reject scan malformed flood exploit event operator kernel cti_log cti_event esl_log fleet sip " +
		" REGISTER INVITE SUBSCRIBE MESSAGE PUBLISH other OPTIONS  tcp nonce password none  UDP TCP TLS"
	if got != want {
		t.Errorf("%s\nwas %s: add new ones at the end", got, want)
	}
}

// FuzzJournal: reading any bytes ends, and entries that were read are written and read again.
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
			if !again.add(&e, start) { // full: later entries are not compared
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
