package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"fsban/fleet/merge"
	"fsban/fleet/resp"
)

const (
	readAtOnce = 64                      // entries of the log
	takeAtOnce = 1_000                   // statements that are enough for one batch
	scanAtOnce = 1_000                   // statements of the state
	maxScans   = 20_000                  // replies for one kind: more than for the largest state
	lastID     = "-18446744073709551615" // nodes write ids that end in -0: foreign entries behind one of them are skipped
	idlePause  = 50 * time.Millisecond   // when Redis does not block
)

// read follows the log until ctx ends.
func (f *Fleet) read(ctx context.Context) error {
	wait := pause{min: f.opts.Pace.RetryMin, max: f.opts.Pace.RetryMax}
	for {
		err := contained(func() error { return f.follow(ctx, &wait) })
		if ctx.Err() != nil {
			return ctx.Err()
		}
		f.failed(ctx, err)
		f.change(func(s *connState) { s.readErr, s.inStep = explain(err), false })
		if !sleep(ctx, wait.next()) {
			return ctx.Err()
		}
	}
}

// ErrEmpty is the error of a Redis in which no node has begun an epoch yet. The next beat of a node does.
var ErrEmpty = errors.New("no node has written to it yet")

// follow reads the log until an error. First it checks whether the log is still the one that was read before.
func (f *Fleet) follow(ctx context.Context, wait *pause) error {
	if err := f.meet(ctx); err != nil {
		return err
	}
	wait.reset()
	for {
		f.mu.Lock()
		again := f.log.resync || !f.repair.recheck.IsZero() && time.Now().After(f.repair.recheck)
		f.mu.Unlock()
		if again || f.queue.overflowed() {
			if err := f.sync(ctx); err != nil {
				return err
			}
			continue
		}
		f.change(func(s *connState) { s.inStep = true })
		list, err := f.next(ctx)
		if err == nil {
			err = f.entries(ctx, list)
		}
		if err != nil {
			return err
		}
	}
}

// next waits for the next entries of the log. A reply beyond the bounds has foreign contents: a script reads around them.
func (f *Fleet) next(ctx context.Context) ([]entry, error) {
	asked, seq := time.Now(), f.at().Seq
	streams, err := f.clients.Load().in.XRead(ctx, &redis.XReadArgs{
		Streams: []string{f.keys.log, strconv.FormatUint(seq, 10) + lastID}, Count: readAtOnce, Block: f.blockTime(),
	}).Result()
	switch {
	case errors.Is(err, resp.ErrLimit):
		f.counts.errors.Add(1)
		return f.browse(ctx, seq)
	case err != nil && !errors.Is(err, redis.Nil):
		return nil, err
	}
	var list []entry
	for i := range streams {
		for j := range streams[i].Messages {
			list = append(list, entryOfMessage(&streams[i].Messages[j]))
		}
	}
	if len(list) == 0 && time.Since(asked) < f.blockTime()/2 {
		sleep(ctx, idlePause)
	}
	return list, nil
}

// browse returns the entries behind seq, those beyond the bounds without their contents.
func (f *Fleet) browse(ctx context.Context, seq uint64) ([]entry, error) {
	from := "(" + strconv.FormatUint(seq, 10) + lastID
	values, err := values(ctx, f.clients.Load().in, browse, 0, []string{f.keys.log}, maxBatch, from, readAtOnce, replyBudget)
	if err != nil {
		return nil, err
	}
	list := make([]entry, len(values))
	for i, v := range values {
		var ok bool
		if list[i], ok = entryOf(v); !ok {
			return nil, fmt.Errorf("an entry of %T in the log", v)
		}
	}
	return list, nil
}

// blockTime returns how long a read waits for the log to go on, less than the time to the next beat.
func (f *Fleet) blockTime() time.Duration {
	return min(blockTime, max(f.opts.Pace.Beat, 10*time.Millisecond))
}

// meet checks whether the log continues at the place read.
func (f *Fleet) meet(ctx context.Context) error {
	f.mu.Lock()
	log := f.log
	f.mu.Unlock()
	r, err := f.look(ctx, log.place.Seq)
	switch {
	case err != nil:
		return err
	case r.epoch == "":
		return ErrEmpty
	case !log.continues(&r):
		f.Resync()
	}
	f.change(func(s *connState) { s.readErr, s.seq = nil, r.seq })
	return nil
}

// continues reports whether the log in Redis is the one that was read, up to the same entry.
func (l *logState) continues(r *reply) bool {
	return r.epoch == l.place.Epoch && r.seq >= l.place.Seq && (l.place.Seq == 0 || r.last != "" && (l.sum == "" || r.last == l.sum))
}

// sync reads the state, finds the statements that Redis lacks, and the place where the log continues.
func (f *Fleet) sync(ctx context.Context) error {
	f.mu.Lock()
	log := f.log
	others := !f.repair.recheck.IsZero() && time.Now().After(f.repair.recheck)
	f.log.resync = false
	f.mu.Unlock()
	err := f.syncFrom(ctx, &log, others)
	if err != nil {
		f.Resync()
	}
	return err
}

func (f *Fleet) syncFrom(ctx context.Context, log *logState, others bool) error {
	r, err := f.look(ctx, log.place.Seq)
	if err != nil {
		return err
	}
	if r.epoch == "" {
		return ErrEmpty
	}
	f.counts.resyncs.Add(1)
	holds := make(map[place]int64)
	if err := f.opts.Current(ctx, func(s merge.Statement) { holds[placeOf(&s)] = 0 }); err != nil {
		return err
	}
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
	case log.continues(&r):
	case r.epoch == log.place.Epoch && r.seq >= log.place.Seq && r.last == "":
		f.counts.gaps.Add(1) // the entry at our place was trimmed: the rest of the log is new
	default:
		f.goBack(&r)
	}
	f.repair = repair{putBack: lacks}
	if more {
		f.repair.recheck = time.Now().Add(f.opts.Pace.Recheck/6 + rand.N(f.opts.Pace.Recheck))
	}
	f.queue.rouse()
	return nil
}

// goBack sets the place from which a log is read that is not the one that was read before, or has lost its end. The caller holds
// the lock.
func (f *Fleet) goBack(r *reply) {
	place := &f.log.place
	f.log.sum = ""
	if r.epoch == place.Epoch && !f.reader.batches.Any() || place.Epoch == "" && f.opts.FromEnd {
		*place = merge.Place{Epoch: r.epoch, Seq: r.seq} // the log went back while we were down: its entries may be counted
		f.reader.counted = *place
		return
	}
	*place = merge.Place{Epoch: r.epoch} // entries read before are recognized by their numbers
	f.reader.counted.Seq = min(f.reader.counted.Seq, r.seq)
}

// scan applies all statements of one kind that Redis holds, and notes their stamps in the places of holds: memory is bounded
// by the statements in force here, not by those in Redis.
func (f *Fleet) scan(ctx context.Context, kind string, holds map[place]int64) error {
	cursor := "0"
	for range maxScans {
		list, err := values(ctx, f.clients.Load().in, scan, 3, []string{f.keys.of(kind)}, cursor, scanAtOnce, maxLine, replyBudget, replyElements)
		if err != nil {
			return err
		}
		skipped, _ := list[1].(int64)
		f.counts.refused[merge.Malformed].Add(uint64(min(max(skipped, 0), replyElements)))
		if err := f.takeState(ctx, kind, list[2], holds); err != nil {
			return err
		}
		if cursor, _ = list[0].(string); cursor == "0" {
			return nil
		}
	}
	return fmt.Errorf("the scan of %s does not end", f.keys.of(kind))
}

// takeState applies fields and values of the state.
func (f *Fleet) takeState(ctx context.Context, kind string, reply any, holds map[place]int64) error {
	pairs, _ := reply.([]any)
	b := merge.Batch{Sync: true, Statements: make([]merge.Statement, 0, len(pairs)/2)}
	now, offset := f.opts.Now(), f.clock.ahead()
	for i := 0; i+1 < len(pairs); i += 2 {
		field, _ := pairs[i].(string)
		text, _ := pairs[i+1].(string)
		s, ok := f.accept(kind, field, text, offset, now)
		if !ok {
			continue
		}
		if _, ours := holds[placeOf(&s)]; ours && (s.Until.IsZero() || s.Until.After(now)) { // a statement that is over holds against none
			holds[placeOf(&s)] = s.Stamp
		}
		b.Statements = append(b.Statements, s)
	}
	if len(b.Statements) == 0 {
		return nil
	}
	return f.opts.Take(ctx, b)
}

// accept decodes a statement and counts it.
func (f *Fleet) accept(kind, field, text string, offset time.Duration, now time.Time) (merge.Statement, bool) {
	s, err := decode(kind, field, text, offset, now)
	switch {
	case errors.Is(err, errVersion):
		f.Refuse(merge.Version)
		return s, false
	case err != nil:
		f.Refuse(merge.Malformed)
		return s, false
	}
	f.clock.saw(s.Stamp)
	if s.Node != f.opts.Node {
		f.counts.received[s.Kind].Add(1)
	}
	return s, true
}

// lacks returns the statements of holds that Redis lacks: the node's own or, with others, all. The nodes that made the others
// restore them first; more reports that there are such statements. A statement that came into force since holds was made is in
// Redis or in the queue.
func (f *Fleet) lacks(ctx context.Context, holds map[place]int64, others bool) (list []merge.Statement, more bool, err error) {
	err = f.opts.Current(ctx, func(s merge.Statement) {
		stamp, known := holds[placeOf(&s)]
		switch {
		case !known || stamp >= s.Stamp:
		case s.Node != f.opts.Node && !others:
			more = true
		default:
			list = append(list, s)
		}
	})
	return list, more, err
}

// entries applies entries of the log, about takeAtOnce statements at a time. Attempts and the place behind them are applied
// together.
func (f *Fleet) entries(ctx context.Context, list []entry) error {
	b := merge.Batch{Place: f.at()}
	take := func(last entry) error {
		if err := f.opts.Take(ctx, b); err != nil {
			return err
		}
		f.mu.Lock()
		f.log.place, f.log.sum = b.Place, last.sum()
		f.state.seq = max(f.state.seq, b.Place.Seq)
		f.mu.Unlock()
		b.Statements = nil
		return nil
	}
	now, offset := f.opts.Now(), f.clock.ahead()
	for i, e := range list {
		seq, err := f.number(ctx, e, b.Place.Seq)
		if err != nil {
			if i > 0 { // the entries before it count
				err = cmp.Or(take(list[i-1]), err)
			}
			return err
		}
		b.Place.Seq = seq
		counted := f.reader.counted
		b.Statements = append(b.Statements, f.statements(e, b.Place.Epoch == counted.Epoch && seq <= counted.Seq, offset, now)...)
		if len(b.Statements) < takeAtOnce && i+1 < len(list) {
			continue
		}
		if err := take(e); err != nil {
			return err
		}
	}
	return nil
}

// number returns the number of the entry behind number last, and requests a resync if entries between them are missing. A
// foreign entry is an error: the next beat of a node begins another log.
func (f *Fleet) number(ctx context.Context, e entry, last uint64) (uint64, error) {
	seq, ours := e.seq()
	if ours && seq != last+1 {
		r, err := f.look(ctx, 0)
		if err != nil {
			return 0, err
		}
		ours = seq <= r.seq
		if ours && last != 0 {
			f.counts.gaps.Add(1)
			f.Resync()
		}
	}
	if !ours {
		f.Refuse(merge.Malformed)
		return 0, fmt.Errorf("the log has an entry %.40q that no node has written", e.id)
	}
	return seq, nil
}
