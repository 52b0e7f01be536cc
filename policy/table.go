package policy

import (
	"hash/maphash"
	"iter"
	"math/bits"
)

// A table is a map of bounded size: beyond limit entries, the least recently touched one is evicted, and counted. Its values
// never move, except in compact, and it allocates only when it grows. A Go map with a list would take 55 bytes more for each of
// a million addresses.
type table[K hashed, V any] struct {
	limit   int
	dropped func(K, *V) // called with each removed entry; may be nil
	evicted uint64      // entries dropped because of limit

	seed   maphash.Seed
	heads  []uint32 // by bucket: the first entry of a chain
	chunks [][]entry[K, V]
	length int
	used   uint32 // entry numbers assigned so far; 0 is none
	free   uint32 // list of entries, through next
	oldest uint32
	newest uint32
	swept  uint32 // number of the entry that sweep looked at last
}

// A hashed can be the key of a table. The seed prevents peers from choosing keys with equal hashes.
type hashed interface {
	comparable
	hash(seed maphash.Seed) uint64
}

type entry[K hashed, V any] struct {
	key        K
	chain      uint32 // the next with the same hash
	prev, next uint32 // by last touch
	value      V
}

// chunk is how many entries are allocated together.
const chunk = 512

func newTable[K hashed, V any](limit int, dropped func(K, *V)) table[K, V] {
	return table[K, V]{limit: limit, dropped: dropped, seed: maphash.MakeSeed()}
}

// get returns the value of k, or nil.
func (t *table[K, V]) get(k K) *V {
	if t.length == 0 {
		return nil
	}
	if n := t.find(k, t.hash(k)); n != 0 {
		return &t.at(n).value
	}
	return nil
}

// touch returns the value of k, a new zero value if there was none, and makes k the most recently touched.
func (t *table[K, V]) touch(k K) *V {
	h := t.hash(k)
	n := t.find(k, h)
	if n == 0 {
		return t.insert(k, h)
	}
	if n != t.newest {
		t.unlink(n)
		t.link(n)
	}
	return &t.at(n).value
}

func (t *table[K, V]) insert(k K, hash uint64) *V {
	for t.length > 0 && t.length >= t.limit {
		t.evict()
	}
	for len(t.heads) <= 2*t.length {
		t.split()
	}
	n := t.take()
	e := t.at(n)
	head := t.bucket(hash)
	*e = entry[K, V]{key: k, chain: *head}
	*head = n
	t.link(n)
	t.length++
	return &e.value
}

// evict removes the least recently touched entry.
func (t *table[K, V]) evict() {
	t.remove(t.at(t.oldest).key)
	t.evicted++
}

// remove removes k, if present.
func (t *table[K, V]) remove(k K) {
	if t.length == 0 {
		return
	}
	link := t.bucket(t.hash(k))
	for *link != 0 && t.at(*link).key != k {
		link = &t.at(*link).chain
	}
	n := *link
	if n == 0 {
		return
	}
	e := t.at(n)
	*link = e.chain
	t.unlink(n)
	if t.dropped != nil {
		t.dropped(k, &e.value)
	}
	*e = entry[K, V]{next: t.free}
	t.free = n
	t.length--
}

// first returns the entry touched longest ago; the value is nil if the table is empty.
func (t *table[K, V]) first() (k K, v *V) {
	if t.oldest == 0 {
		return k, nil
	}
	e := t.at(t.oldest)
	return e.key, &e.value
}

// all yields the entries, from the least recently touched on. The yielded entry may be removed during the iteration.
func (t *table[K, V]) all() iter.Seq2[K, *V] {
	return func(yield func(K, *V) bool) {
		for n := t.oldest; n != 0; {
			e := t.at(n)
			n = e.next
			if !yield(e.key, &e.value) {
				return
			}
		}
	}
}

// sweep checks the next n entries, in a cycle, and removes those for which over returns true.
func (t *table[K, V]) sweep(n int, over func(*V) bool) {
	for range min(n, int(t.used)) {
		t.swept = t.swept%t.used + 1
		if e := t.at(t.swept); t.find(e.key, t.hash(e.key)) == t.swept && over(&e.value) {
			t.remove(e.key)
		}
	}
}

// compact releases the memory of a table that has lost most of its entries, and reports whether it did so. It moves the values,
// so no pointer to one may be in use. It takes time in proportion to the remaining entries: at most an eighth of those whose
// memory it releases.
func (t *table[K, V]) compact() bool {
	if t.used <= 4*chunk || int(t.used) < 8*t.length {
		return false
	}
	smaller := table[K, V]{limit: t.limit, dropped: t.dropped, evicted: t.evicted, seed: t.seed}
	for k, v := range t.all() {
		*smaller.touch(k) = *v
	}
	*t = smaller
	return true
}

func (t *table[K, V]) hash(k K) uint64 { return k.hash(t.seed) }

func (t *table[K, V]) at(n uint32) *entry[K, V] { return &t.chunks[(n-1)/chunk][(n-1)%chunk] }

func (t *table[K, V]) find(k K, hash uint64) uint32 {
	if t.length == 0 {
		return 0
	}
	n := *t.bucket(hash)
	for n != 0 && t.at(n).key != k {
		n = t.at(n).chain
	}
	return n
}

// take returns the number of an unused entry.
func (t *table[K, V]) take() uint32 {
	if n := t.free; n != 0 {
		t.free = t.at(n).next
		return n
	}
	if t.used%chunk == 0 {
		t.chunks = append(t.chunks, make([]entry[K, V], chunk))
	}
	t.used++
	return t.used
}

// bucket returns the head of the chain for a hash, by as many of its bits as the number of buckets needs, or by one less if
// that bucket does not exist yet.
func (t *table[K, V]) bucket(hash uint64) *uint32 {
	last := uint64(len(t.heads) - 1)
	mask := uint64(1)<<bits.Len64(last) - 1
	if hash&mask > last {
		mask >>= 1
	}
	return &t.heads[hash&mask]
}

// split adds one bucket and moves its entries from the one bucket that held them. So the table grows without a pause to move
// everything.
func (t *table[K, V]) split() {
	added := uint64(len(t.heads))
	t.heads = append(t.heads, 0)
	if added == 0 {
		return
	}
	from := &t.heads[added&^(1<<(bits.Len64(added)-1))]
	n := *from
	*from = 0
	for n != 0 {
		e := t.at(n)
		head := t.bucket(t.hash(e.key))
		n, e.chain, *head = e.chain, *head, n
	}
}

// link makes n the newest.
func (t *table[K, V]) link(n uint32) {
	e := t.at(n)
	e.prev, e.next = t.newest, 0
	if t.newest == 0 {
		t.oldest = n
	} else {
		t.at(t.newest).next = n
	}
	t.newest = n
}

func (t *table[K, V]) unlink(n uint32) {
	e := t.at(n)
	if e.prev == 0 {
		t.oldest = e.next
	} else {
		t.at(e.prev).next = e.next
	}
	if e.next == 0 {
		t.newest = e.prev
	} else {
		t.at(e.next).prev = e.prev
	}
}
