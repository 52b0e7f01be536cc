package policy

import (
	"net/netip"
	"testing"
	"time"
)

// proved has an attempt with a proof happen now.
func (w *world) proved(k Kind, p Proof, addr netip.Addr, user string) Decision {
	d := w.e.Observe(Attempt{Addr: addr, At: w.now, Kind: k, Proof: p, Source: SIP, User: user, Domain: "pbx.example", Profile: "internal"})
	w.collect(d)
	return d
}

// Thirty failures without proof ban briefly, and a little longer each time. They never make a proven ban longer.
func TestFailuresWithoutProofBanBriefly(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{Jitter: -1})
	for i, want := range []time.Duration{10 * time.Minute, 20 * time.Minute, 40 * time.Minute, time.Hour, time.Hour} {
		for n := range 30 {
			if d := w.proved(AuthFailure, NoProof, stranger, "1000"); n < 29 && (d.Verdict != Counted || d.Rule.Name != "unproven") {
				t.Fatalf("ban %d, failure %d: %+v", i+1, n+1, d)
			}
		}
		if len(w.bans) != i+1 {
			t.Fatalf("%d bans after 30 failures %d times", len(w.bans), i+1)
		}
		if d := w.bans[i]; d.Rule.Name != "unproven" || d.Until.Sub(w.now) != want || d.Offence != i+1 {
			t.Errorf("ban %d: %s for %v, offence %d, want %v", i+1, d.Rule.Name, d.Until.Sub(w.now), d.Offence, want)
		}
		w.pass(want + time.Second)
	}
	for range 5 {
		w.proved(AuthFailure, NonceProof, stranger, "1000")
	}
	if d := w.bans[5]; d.Rule.Name != "auth" || d.Until.Sub(w.now) != 24*time.Hour || d.Offence != 1 {
		t.Errorf("%+v", d)
	}
	if o, ok := w.e.Offence(netip.PrefixFrom(stranger, 32)); !ok || o.Count != 1 || o.Unproven != 5 {
		t.Errorf("%+v", o)
	}
}

// Whatever is forged in the name of a known-good or never-ban address, it is not banned, and the failures are reported.
func TestForgedAttemptsBanNoProtectedAddress(t *testing.T) {
	carrier := netip.MustParseAddr("192.0.2.80")
	w := newWorld(t, NewNeverBan(NeverEntries("gateway", netip.PrefixFrom(carrier, 32))), Options{})
	w.proved(AuthSuccess, PasswordProof, office, "1000")
	for i := range 2000 {
		for _, addr := range []netip.Addr{office, carrier} {
			w.proved(AuthFailure, NoProof, addr, extension(i))
			for _, k := range []Kind{Scan, Malformed, Flood, Exploit, Challenge} {
				w.proved(k, NoProof, addr, "")
			}
		}
		w.pass(100 * time.Millisecond)
	}
	if len(w.bans) != 0 || w.held != 0 || len(w.spared) != 0 {
		t.Errorf("bans %+v, %d held, %d spared", w.bans, w.held, len(w.spared))
	}
	if s := w.e.Stats(); s.ForgedKnown != 2000 || s.ForgedNever != 2000 {
		t.Errorf("%d and %d forged failures are counted", s.ForgedKnown, s.ForgedNever)
	}
	var counts []uint64
	for _, r := range reported[ForgedFailures](w) {
		counts = append(counts, r.Count)
	}
	if len(counts) != 3 || counts[0] != 10 || counts[1] != 100 || counts[2] != 1000 {
		t.Errorf("reported %d", counts)
	}
	if f, ok := w.e.ForgedFailures(); !ok || f.Count != 4000 || f.Addr != carrier {
		t.Errorf("%t %+v", ok, f)
	}
	if g, ok := w.e.KnownGood(office); !ok || g.Since.IsZero() {
		t.Error("the office is not known-good any more")
	}
	w.pass(time.Hour)
	if f, ok := w.e.ForgedFailures(); ok {
		t.Errorf("an hour later %+v", f)
	}
}

func TestAForgedLoginMakesNoAddressKnownGood(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{})
	if d := w.proved(AuthSuccess, NoProof, stranger, "1000"); d.KnownGood || d.KnownGoodChanged || w.e.Stats().Known != 0 {
		t.Errorf("%+v", d)
	}
	if d := w.proved(AuthSuccess, UnknownProof, stranger, "1000"); !d.KnownGood {
		t.Errorf("without a tap %+v", d)
	}
}

// Forged failures are no evidence against the login of their alleged sender.
func TestForgedFailuresMakeNoLoginSuspicious(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{})
	for i := range 20 {
		w.proved(AuthFailure, NoProof, stranger, extension(i%4))
	}
	if d := w.proved(AuthSuccess, PasswordProof, stranger, "1000"); !d.KnownGood || len(reported[SuspiciousLogin](w)) != 0 {
		t.Errorf("%+v, reported %+v", d, w.reports)
	}
}

// A proven attacker is banned at once, however many forged bans fill the ban rate. Forged failures in his own name erase nothing.
func TestAProvenAttackerIsBannedAtOnceUnderAFlood(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{BanRate: 10})
	floodOf(w, 0, 20)
	if !w.e.Guards()[RateGuard].Active {
		t.Fatal("no guard")
	}
	for range 5 {
		for range 70 {
			w.proved(AuthFailure, NoProof, stranger, "1000") // held again and again
		}
		w.proved(AuthFailure, UnknownProof, stranger, "1000") // the tap missed it
		if w.proved(AuthFailure, NonceProof, stranger, "1000"); w.banned(stranger) {
			break
		}
	}
	if d := w.bans[len(w.bans)-1]; !d.Prefix.Contains(stranger) || d.Rule.Name != "auth" || d.Until.Sub(w.now) != 24*time.Hour {
		t.Errorf("%+v", d)
	}
}

// One packet of a published attack bans: for long where it is proven, briefly where anybody can forge it.
func TestExploitsBanAtTheFirstPacket(t *testing.T) {
	for name, c := range map[string]struct {
		proof Proof
		known bool
		want  time.Duration
	}{
		"over TCP":                     {TCPProof, false, 24 * time.Hour},
		"over UDP":                     {NoProof, false, 10 * time.Minute},
		"unknown":                      {UnknownProof, false, 10 * time.Minute},
		"over TCP, known-good":         {TCPProof, true, 24 * time.Hour},
		"over UDP, perhaps known-good": {NoProof, true, 0},
		"unknown, perhaps known-good":  {UnknownProof, true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, NeverBan{}, Options{})
			if c.known {
				w.proved(AuthSuccess, TCPProof, stranger, "1000")
			}
			d := w.proved(Exploit, c.proof, stranger, "")
			if c.want == 0 && d.Verdict == Pass {
				return
			}
			if d.Verdict != BanNow || d.Rule.Name != "exploit" || d.Until.Sub(w.now) != c.want {
				t.Errorf("%v for %v, want %v", d.Verdict, d.Until.Sub(w.now), c.want)
			}
		})
	}
}

// A rule that would ban longer but needs attempts without proof does not replace a proven ban.
func TestAProvenBanPrecedesALongerOneWithoutProof(t *testing.T) {
	w := newWorld(t, NeverBan{}, Options{})
	agent := func(k Kind, p Proof) Decision {
		d := w.e.Observe(Attempt{Addr: stranger, At: w.now, Kind: k, Proof: p, User: "1000", UserAgent: "friendly-scanner"})
		w.collect(d)
		return d
	}
	for range 4 {
		w.proved(AuthFailure, TCPProof, stranger, "1000")
	}
	agent(Scan, NoProof)
	agent(Scan, NoProof)
	if d := agent(AuthFailure, TCPProof); d.Verdict != BanNow || d.Rule.Name != "auth" || d.Until.Sub(w.now) != 24*time.Hour {
		t.Errorf("%v %s for %v", d.Verdict, d.Rule.Name, d.Until.Sub(w.now))
	}
}
