package policy

import (
	"net/netip"
	"time"
)

// Options bound an Engine and configure everything but the rules. A zero value stands for the default. Where it says "negative: off",
// a negative value switches the thing off; elsewhere it stands for the default too.
type Options struct {
	// Memory of addresses.
	MaxTracked   int // addresses held at the same time; default 1,000,000
	MaxHits      int // attempts that all their windows hold together, 13 bytes each; default 7 × MaxTracked
	KeepEvidence int // attempts remembered, over all addresses, as the evidence of later bans; default 8,192
	IPv4Prefix   int // bits that count as one IPv4 attacker; default 32
	IPv6Prefix   int // bits that count as one IPv6 attacker; default 64, because a host walks through its network at no cost
	IPv6Widest   int // bits of the widest prefix that is banned when many networks in it fail; default 48; IPv6Prefix or more: off

	NAT64Prefixes []netip.Prefix // prefixes of the operator's own translators, as CheckNAT64 accepts them; the well-known ones are built in

	// A challenge counts when no credentials came within ChallengeWait.
	ChallengeWait time.Duration // default 5 s
	MaxWaiting    int           // challenges that wait at the same time, about 200 bytes each; default 32,768

	// A ban after earlier ones lasts longer.
	Factor     float64       // each offence multiplies bantime by this; default 2; 1: bans do not grow
	MaxBanTime time.Duration // no ban grows beyond this; default 30 days
	OffenceFor time.Duration // an offence is forgotten so long after its ban has ended; default 90 days
	Jitter     float64       // a ban that has grown lasts up to this share longer; default 0.1; negative: off
	Seed       uint64        // of the jitter: with the same seed and attempts, the same bans
	// A ban that needs attempts with NoProof lasts UnprovenBanTime, or less by its rule, and grows up to UnprovenMaxBanTime.
	UnprovenBanTime    time.Duration // default 10 minutes
	UnprovenMaxBanTime time.Duration // default 1 hour
	MaxOffenders       int           // prefixes with offences that are remembered; default 200,000
	Grace              time.Duration // so long after Forget nothing counts; default 1 minute; negative: off

	// Known-good addresses.
	KnownFor       time.Duration // an address is known-good so long after its last success; default 7 days; negative: off
	MaxKnown       int           // known-good addresses that are remembered; default 100,000
	MaxPerAccount  int           // known-good addresses of one account that are remembered, 65,534 at most; default 100
	OfficeMaxRetry int           // so many auth_failures of a known-good address ban it all the same; default 50
	OfficeFindTime time.Duration // within this; default 5 minutes
	OfficeBanTime  time.Duration // for this; default 24 hours
	// so many bans of known-good addresses may rules make within OfficeFindTime; default 10; negative: no limit
	KnownGoodBanRate int
	// so many failures of one user at a known-good address within OfficeFindTime are a stuck phone; at most OfficeMaxRetry;
	// default 5; negative: off
	StuckAfter   int
	StuckSilence time.Duration // a phone that has been silent for so long is not stuck any more; default 1 hour
	MaxStuck     int           // stuck phones that are remembered; default 1,000

	// Users under attack.
	SuspiciousAfter     int           // a success after so many failures of that user is suspicious; at most 64; default 3; negative: off
	SuspiciousFindTime  time.Duration // within this; default 1 hour
	TrustAfter          time.Duration // an address with a suspicious login can become known-good after this; default 24 hours
	DistributedAfter    int           // so many prefixes failing on one user are a distributed attack; at most 64; default 20; negative: off
	DistributedFindTime time.Duration // within this; default 1 hour
	// users with failures that are remembered; default 65,536; fewer where many prefixes fail on many of them
	MaxUsers int

	// Guards.
	OutageMin   int     // known-good addresses of so many accounts must fail for an outage; default 10; negative: off
	OutageShare float64 // and such a share of the known-good addresses that were seen in the last hour; default 0.05
	// only addresses that have been known-good for so long count for an outage; default 15 minutes; negative: all
	OutageKnownFor time.Duration
	OutageWindow   time.Duration // within this; default 5 minutes
	OutageHold     time.Duration // an outage lasts so long after it was last seen; default 2 minutes
	BanRate        int           // bans a minute that rules may make; default 100; negative: off
	MaxHeld        int           // bans that are held at the same time; default 10,000

	Records bool // keep changes of records for Unsaved, which must then be called regularly
}

// DefaultOptions returns the values that zero Options stand for.
func DefaultOptions() Options {
	const minute, day = time.Minute, 24 * time.Hour
	return Options{
		MaxTracked: 1_000_000, MaxHits: 7_000_000, KeepEvidence: 8192, IPv4Prefix: 32, IPv6Prefix: 64, IPv6Widest: 48,
		ChallengeWait: 5 * time.Second, MaxWaiting: 32_768,
		Factor: 2, MaxBanTime: 30 * day, OffenceFor: 90 * day, Jitter: 0.1, MaxOffenders: 200_000, Grace: minute,
		UnprovenBanTime: 10 * minute, UnprovenMaxBanTime: 60 * minute,
		KnownFor: 7 * day, MaxKnown: 100_000, MaxPerAccount: 100, OfficeMaxRetry: 50, OfficeFindTime: 5 * minute, OfficeBanTime: day,
		KnownGoodBanRate: 10,
		StuckAfter:       5, StuckSilence: time.Hour, MaxStuck: 1000,
		SuspiciousAfter: 3, SuspiciousFindTime: time.Hour, TrustAfter: day,
		DistributedAfter: 20, DistributedFindTime: time.Hour, MaxUsers: 65_536,
		OutageMin: 10, OutageShare: 0.05, OutageKnownFor: 15 * minute,
		OutageWindow: 5 * minute, OutageHold: 2 * minute, BanRate: 100, MaxHeld: 10_000,
	}
}

// withDefaults returns o with defaults in place of zero values.
func (o Options) withDefaults() Options {
	d := DefaultOptions()
	positive(&o.MaxTracked, d.MaxTracked)
	positive(&o.MaxHits, 7*o.MaxTracked)
	positive(&o.KeepEvidence, d.KeepEvidence)
	positive(&o.IPv4Prefix, d.IPv4Prefix)
	positive(&o.IPv6Prefix, d.IPv6Prefix)
	positive(&o.IPv6Widest, d.IPv6Widest)
	positive(&o.ChallengeWait, d.ChallengeWait)
	positive(&o.MaxWaiting, d.MaxWaiting)
	positive(&o.Factor, d.Factor)
	positive(&o.MaxBanTime, d.MaxBanTime)
	positive(&o.OffenceFor, d.OffenceFor)
	set(&o.Jitter, d.Jitter)
	positive(&o.UnprovenBanTime, d.UnprovenBanTime)
	positive(&o.UnprovenMaxBanTime, d.UnprovenMaxBanTime)
	positive(&o.MaxOffenders, d.MaxOffenders)
	set(&o.Grace, d.Grace)
	set(&o.KnownFor, d.KnownFor)
	positive(&o.MaxKnown, d.MaxKnown)
	positive(&o.MaxPerAccount, d.MaxPerAccount)
	positive(&o.OfficeMaxRetry, d.OfficeMaxRetry)
	positive(&o.OfficeFindTime, d.OfficeFindTime)
	if o.OfficeBanTime != Forever {
		positive(&o.OfficeBanTime, d.OfficeBanTime)
	}
	set(&o.KnownGoodBanRate, d.KnownGoodBanRate)
	set(&o.StuckAfter, d.StuckAfter)
	positive(&o.StuckSilence, d.StuckSilence)
	positive(&o.MaxStuck, d.MaxStuck)
	set(&o.SuspiciousAfter, d.SuspiciousAfter)
	positive(&o.SuspiciousFindTime, d.SuspiciousFindTime)
	positive(&o.TrustAfter, d.TrustAfter)
	set(&o.DistributedAfter, d.DistributedAfter)
	positive(&o.DistributedFindTime, d.DistributedFindTime)
	positive(&o.MaxUsers, d.MaxUsers)
	set(&o.OutageMin, d.OutageMin)
	positive(&o.OutageShare, d.OutageShare)
	set(&o.OutageKnownFor, d.OutageKnownFor)
	positive(&o.OutageWindow, d.OutageWindow)
	positive(&o.OutageHold, d.OutageHold)
	set(&o.BanRate, d.BanRate)
	positive(&o.MaxHeld, d.MaxHeld)
	return o
}

// positive sets a value that is not positive.
func positive[T int | float64 | time.Duration](v *T, or T) {
	if *v <= 0 {
		*v = or
	}
}

// set sets a value that is zero.
func set[T int | float64 | time.Duration](v *T, or T) {
	if *v == 0 {
		*v = or
	}
}
