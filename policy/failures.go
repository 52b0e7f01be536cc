package policy

// failures are the last failures of one user, wherever from, oldest first: the newest of each prefix, and the newest ones of
// all, by which a success may be suspicious. Whose hit it is here is a hash of the prefix that failed.
//
// They stand in one piece of memory and are searched from the newest, so who fails again is found at once.
type failures struct {
	hits     []hit
	prefixes int    // hits that are the newest of their prefix, and count
	first    [2]hit // where hits begin: most users are guessed at from one address
}

const (
	ofPrefix    = 1  // in the rules of a hit: it is the newest of its prefix, and counts
	maxPrefixes = 64 // prefixes told apart for one user
)

// add notes h. The newest of all stay, keep of them; a prefix is forgotten when its newest hit is findTime milliseconds older
// than that of another, or maxPrefixes others are newer.
func (f *failures) add(h hit, findTime int64, keep int) {
	if len(f.hits) == cap(f.hits) {
		f.grow()
	}
	h.rules = ofPrefix
	i := len(f.hits)
	f.hits = f.hits[:i+1]
	for ; i > 0 && f.hits[i-1].at() > h.at(); i-- { // h comes late
		if f.hits[i-1].who == h.who {
			h.rules = 0
		}
		f.hits[i] = f.hits[i-1]
	}
	f.hits[i] = h
	if h.rules != 0 {
		f.prefixes++
		f.replace(f.hits[:i], h.who)
	}
	f.forget(f.hits[len(f.hits)-1].at()-findTime, keep)
}

// replace has the newest hit of a prefix among older ones count no more.
func (f *failures) replace(older []hit, who uint32) {
	for i := len(older) - 1; i >= 0; i-- {
		if old := &older[i]; old.who == who && old.rules != 0 {
			old.rules = 0
			f.prefixes--
			return
		}
	}
}

// forget drops what is not needed any more.
func (f *failures) forget(begin int64, keep int) {
	n := 0
	for ; n < len(f.hits); n++ {
		h := &f.hits[n]
		if h.rules != 0 && h.at() > begin && f.prefixes <= maxPrefixes {
			break
		}
		f.prefixes -= int(h.rules)
		h.rules = 0
	}
	if n = min(n, len(f.hits)-keep); n > 0 {
		f.drop(0, n)
	}
	for i := len(f.hits) - keep - 1; i >= 0 && len(f.hits)-f.prefixes > keep; i-- {
		if f.hits[i].rules == 0 {
			f.drop(i, 1)
		}
	}
}

func (f *failures) drop(i, n int) { f.hits = f.hits[:i+copy(f.hits[i:], f.hits[i+n:])] }

func (f *failures) grow() {
	if cap(f.hits) == 0 {
		f.hits = f.first[:0]
		return
	}
	f.hits = append(make([]hit, 0, 3*cap(f.hits)+2), f.hits...) // 2, 8, 26, 80
}

// since returns how many of the newest hits, keep of them at most, are younger than begin.
func (f *failures) since(begin int64, keep int) (n int) {
	for i := len(f.hits) - 1; i >= 0 && n < keep && f.hits[i].at() > begin; i-- {
		n++
	}
	return n
}

// prefixesSince returns how many prefixes have failed after begin.
func (f *failures) prefixesSince(begin int64) (n int) {
	for i := len(f.hits) - 1; i >= 0 && f.hits[i].at() > begin; i-- {
		n += int(f.hits[i].rules)
	}
	return n
}

// oldest returns when the prefix that has been silent longest of those that count has failed.
func (f *failures) oldest() int64 {
	for i := range f.hits {
		if f.hits[i].rules != 0 {
			return f.hits[i].at()
		}
	}
	return maxTime
}
