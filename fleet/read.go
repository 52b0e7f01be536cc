package fleet

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	readAtOnce = 64    // entries of the log
	takeAtOnce = 1_000 // statements that are enough for one batch
	scanAtOnce = 1_000 // statements that Redis holds
	maxHeard   = 10_000
	lastID     = "-18446744073709551615" // ours end in -0: what somebody else has put behind one of them is passed over
)

// read keeps us in step with what others say until ctx ends.
func (f *Fleet) read(ctx context.Context) error {
	wait := pause{min: f.opts.Pace.RetryMin, max: f.opts.Pace.RetryMax}
	for {
		err := f.follow(ctx, &wait)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		f.errors.Add(1)
		f.change(func(s *state) { s.readErr, s.inStep = explain(err), false })
		if !sleep(ctx, wait.next()) {
			return ctx.Err()
		}
	}
}

// errEmpty: the writer has not begun an epoch yet. It does with its next beat.
var errEmpty = errors.New("nobody has written to it yet")

// follow reads the log until something fails. After each new beginning it looks first whether the log is still the one
// that it was.
func (f *Fleet) follow(ctx context.Context, wait *pause) error {
	if err := f.meet(ctx); err != nil {
		return err
	}
	wait.reset()
	for {
		f.mu.Lock()
		place := f.place
		again := f.resync || !f.recheck.IsZero() && time.Now().After(f.recheck)
		f.mu.Unlock()
		if again || f.queue.overflowed() {
			if err := f.sync(ctx); err != nil {
				return err
			}
			continue
		}
		f.change(func(s *state) { s.inStep = true })
		streams, err := f.in.XRead(ctx, &redis.XReadArgs{
			Streams: []string{f.keys.log, strconv.FormatUint(place.Seq, 10) + lastID}, Count: readAtOnce, Block: f.blockTime(),
		}).Result()
		if err != nil && !errors.Is(err, redis.Nil) {
			return err
		}
		for i := range streams {
			if err := f.entries(ctx, streams[i].Messages); err != nil {
				return err
			}
		}
	}
}

// blockTime is how long to wait for the log to go on: less where something is due before.
func (f *Fleet) blockTime() time.Duration {
	return min(blockTime, max(f.opts.Pace.Beat, 10*time.Millisecond))
}

// meet looks whether the log goes on where we were.
func (f *Fleet) meet(ctx context.Context) error {
	f.mu.Lock()
	place, known := f.place, f.sum
	f.mu.Unlock()
	r, err := f.look(ctx, place.Seq)
	switch {
	case err != nil:
		return err
	case r.epoch == "":
		return errEmpty
	case !f.goesOn(&r, place, known):
		f.Resync()
	}
	f.change(func(s *state) { s.readErr, s.seq = nil, r.seq })
	return nil
}

// goesOn tells whether the log that Redis has is the one that was read up to place, where an entry of that sum stood.
func (f *Fleet) goesOn(r *reply, place Place, known string) bool {
	return r.epoch == place.Epoch && r.seq >= place.Seq && (place.Seq == 0 || r.last != "" && (known == "" || r.last == known))
}

// sync reads all that Redis holds, finds out what it lacks, and where the log goes on.
func (f *Fleet) sync(ctx context.Context) error {
	heard := len(f.heard) > 0
	f.mu.Lock()
	place, known := f.place, f.sum
	others := !f.recheck.IsZero() && time.Now().After(f.recheck)
	f.resync = false
	f.mu.Unlock()
	err := f.syncFrom(ctx, place, known, heard, others)
	if err != nil {
		f.Resync()
	}
	return err
}

func (f *Fleet) syncFrom(ctx context.Context, place Place, known string, heard, others bool) error {
	r, err := f.look(ctx, place.Seq)
	if err != nil {
		return err
	}
	if r.epoch == "" {
		return errEmpty
	}
	f.resyncs.Add(1)
	holds := make(map[string]int64)
	for _, kind := range []string{kindBan, kindAllow, kindKnown} {
		if err := f.scan(ctx, kind, holds); err != nil {
			return err
		}
	}
	lacks, more, err := f.lacks(ctx, holds, others)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.goesOn(&r, place, known):
	case r.epoch == place.Epoch && r.seq >= place.Seq && r.last == "":
		f.gaps.Add(1) // our place is gone because the log is bounded: what is left of it is new
	case r.epoch == place.Epoch && !heard, place.Epoch == "" && f.opts.FromEnd:
		f.place, f.sum = Place{r.epoch, r.seq}, "" // it went back while we were down: which of it had counted is not known
	default:
		f.place, f.sum = Place{r.epoch, 0}, "" // whatever of it we have read is known by its number
	}
	f.putBack = lacks
	f.recheck = time.Time{}
	if more {
		f.recheck = time.Now().Add(f.opts.Pace.Recheck/6 + rand.N(f.opts.Pace.Recheck))
	}
	f.queue.rouse()
	return nil
}

// scan has everything taken that Redis holds of one kind, and notes the stamps.
func (f *Fleet) scan(ctx context.Context, kind string, holds map[string]int64) error {
	var cursor uint64
	for {
		pairs, next, err := f.in.HScan(ctx, f.keys.of(kind), cursor, "", scanAtOnce).Result()
		if err != nil {
			return err
		}
		b := Batch{Sync: true, Statements: make([]Statement, 0, len(pairs)/2)}
		now, offset := time.Now(), f.clock.ahead()
		for i := 0; i+1 < len(pairs); i += 2 {
			s, ok := f.accept(kind, pairs[i], pairs[i+1], offset, now)
			if !ok {
				continue
			}
			if len(holds) < 3*maxPlaces {
				holds[kind+pairs[i]] = s.Stamp
			}
			b.Statements = append(b.Statements, s)
		}
		if len(b.Statements) > 0 {
			if err := f.opts.Take(ctx, b); err != nil {
				return err
			}
		}
		if cursor = next; cursor == 0 {
			return nil
		}
	}
}

// accept decodes a statement of somebody's.
func (f *Fleet) accept(kind, field, text string, offset time.Duration, now time.Time) (Statement, bool) {
	s, err := decode(kind, field, text, offset, now)
	switch {
	case errors.Is(err, errVersion):
		f.Refuse(Version)
		return s, false
	case err != nil:
		f.Refuse(Malformed)
		return s, false
	}
	f.clock.saw(s.Stamp)
	if s.Node != f.opts.Node {
		f.received[s.What].Add(1)
	}
	return s, true
}

// lacks returns what holds here and not in Redis: what this node has said or, with others, whatever it knows. Of what
// others said it waits first whether they put it back themselves; more tells that there is such a thing.
func (f *Fleet) lacks(ctx context.Context, holds map[string]int64, others bool) (list []Statement, more bool, err error) {
	err = f.opts.Current(ctx, func(s Statement) {
		stamp, there := holds[kinds[s.What]+s.Prefix.String()]
		switch {
		case there && stamp >= s.Stamp:
		case s.Node != f.opts.Node && !others:
			more = true
		default:
			list = append(list, s)
		}
	})
	return list, more, err
}

// entries takes what entries of the log say, a good number of statements at a time. Attempts and the place behind them are
// taken together.
func (f *Fleet) entries(ctx context.Context, list []redis.XMessage) error {
	f.mu.Lock()
	b := Batch{Place: f.place}
	f.mu.Unlock()
	take := func(last *redis.XMessage) error {
		if err := f.opts.Take(ctx, b); err != nil {
			return err
		}
		f.mu.Lock()
		f.place, f.sum = b.Place, sum(last)
		f.state.seq = max(f.state.seq, b.Place.Seq)
		f.mu.Unlock()
		b.Statements = nil
		return nil
	}
	now, offset := time.Now(), f.clock.ahead()
	for i := range list {
		e := &list[i]
		seq, err := f.number(ctx, e, b.Place.Seq)
		if err != nil {
			if i > 0 { // what was before it counts
				err = cmp.Or(take(&list[i-1]), err)
			}
			return err
		}
		b.Place.Seq = seq
		b.Statements = append(b.Statements, f.entry(e, offset, now)...)
		if len(b.Statements) < takeAtOnce && i+1 < len(list) {
			continue
		}
		if err := take(e); err != nil {
			return err
		}
	}
	return nil
}

// number returns the number of an entry that follows the one numbered last, and has everything read anew where some are gone
// between them. One that nobody of us has written is an error: the next beat of a node begins another log.
func (f *Fleet) number(ctx context.Context, e *redis.XMessage, last uint64) (uint64, error) {
	text, ours := strings.CutSuffix(e.ID, "-0")
	seq, err := strconv.ParseUint(text, 10, 64)
	ours = ours && err == nil
	if ours && seq != last+1 {
		r, err := f.look(ctx, 0)
		if err != nil {
			return 0, err
		}
		ours = seq <= r.seq
		if ours && last != 0 {
			f.gaps.Add(1)
			f.Resync()
		}
	}
	if !ours {
		f.Refuse(Malformed)
		return 0, fmt.Errorf("the log has an entry %.40q that nobody of us has written", e.ID)
	}
	return seq, nil
}

// entry returns what one entry of the log says, of attempts those that were not heard before.
func (f *Fleet) entry(e *redis.XMessage, offset time.Duration, now time.Time) []Statement {
	text := func(name string) string { s, _ := e.Values[name].(string); return s }
	node, n := text("n"), numbers{instance: text("i")}
	n.counter, _ = strconv.ParseUint(text("c"), 10, 64)
	if !nodeName.MatchString(node) || len(n.instance) > 40 {
		f.Refuse(Malformed)
		return nil
	}
	again := node == f.opts.Node
	if old := f.heard[node]; n.counter > 0 && !again {
		again = old.instance == n.instance && old.counter >= n.counter
		if !again {
			if len(f.heard) >= maxHeard {
				clear(f.heard)
			}
			f.heard[node] = n
		}
	}
	var list []Statement
	for i, line := range strings.SplitN(text("d"), "\n", batchSize+1) {
		kind, rest, _ := strings.Cut(line, " ")
		field, value, _ := strings.Cut(rest, " ")
		if i == batchSize || again && kind == kindAttempt {
			continue
		}
		if s, ok := f.accept(kind, field, value, offset, now); ok {
			list = append(list, s)
		}
	}
	return list
}

// sum tells entries apart.
func sum(e *redis.XMessage) string {
	h := sha256.New()
	h.Write([]byte(e.ID))
	for _, name := range slices.Sorted(maps.Keys(e.Values)) {
		text, _ := e.Values[name].(string)
		_, _ = fmt.Fprintf(h, "\n%s %d %s", name, len(text), text)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}
