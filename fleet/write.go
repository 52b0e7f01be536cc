package fleet

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"strconv"
	"time"
)

// write says what is to be said, and that we are there, until ctx ends.
func (f *Fleet) write(ctx context.Context) error {
	wait := pause{min: f.opts.Pace.RetryMin, max: f.opts.Pace.RetryMax}
	due := time.NewTimer(0)
	defer due.Stop()
	beat := func() error {
		defer due.Reset(f.opts.Pace.Beat*4/5 + rand.N(f.opts.Pace.Beat*2/5+1))
		return f.beat(ctx)
	}
	var unsaid []Statement
	for {
		var err error
		select {
		case <-ctx.Done():
			f.last(unsaid)
			return ctx.Err()
		case <-f.queue.wake:
		case <-due.C:
			err = beat()
		}
		for err == nil {
			select {
			case <-due.C: // however much there is to say
				err = beat()
				continue
			default:
			}
			if len(unsaid) == 0 {
				if unsaid = f.next(); len(unsaid) == 0 {
					break
				}
				f.counter++
			}
			if err = f.say(ctx, unsaid); err == nil {
				unsaid = nil
			}
		}
		if err == nil {
			wait.reset()
			f.change(func(s *state) { s.writeErr = nil })
			continue
		}
		if ctx.Err() != nil {
			continue
		}
		f.errors.Add(1)
		f.change(func(s *state) { s.writeErr = explain(err) })
		sleep(ctx, wait.next())
		due.Reset(0) // to try again
	}
}

// next returns the next batch: what is new before what Redis has to be told once more.
func (f *Fleet) next() []Statement {
	if batch := f.queue.take(time.Now()); len(batch) > 0 {
		return batch
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n := min(len(f.putBack), batchSize)
	batch := f.putBack[:n]
	f.putBack = f.putBack[n:]
	return batch
}

// last says what is left when we stop, if that can be done at once.
func (f *Fleet) last(unsaid []Statement) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for {
		if len(unsaid) == 0 {
			if unsaid = f.queue.take(time.Now()); len(unsaid) == 0 {
				return
			}
			f.counter++
		}
		if f.say(ctx, unsaid) != nil {
			return
		}
		unsaid = nil
	}
}

// say says one batch. Where it is not known whether Redis has taken it, it is said once more with the same number.
func (f *Fleet) say(ctx context.Context, batch []Statement) error {
	offset := f.clock.ahead()
	args := make([]any, 0, 6+4*len(batch))
	args = append(args, random(), f.opts.Node, f.instance, strconv.FormatUint(f.counter, 10), maxLog, maxPlaces)
	for i := range batch {
		s := &batch[i]
		text, err := s.encode(offset)
		if err != nil {
			continue // it never can be said, and must not hold up the others
		}
		args = append(args, kinds[s.What], s.Prefix.String(), text, s.ends(offset))
	}
	k, at := &f.keys, f.at()
	r, err := f.run(ctx, say, []string{k.meta, k.log, k.ends, k.said, k.bans, k.allows, k.known}, args...)
	if err != nil {
		return err
	}
	for i := range batch {
		f.sent[batch[i].What].Add(1)
	}
	f.full.Add(uint64(r.full))
	f.noteEnd(&r, at)
	return nil
}

// ends returns when Redis may forget the statement, in unix seconds; 0 for never.
func (s *Statement) ends(offset time.Duration) int64 {
	switch {
	case !s.Until.IsZero():
		return s.Until.Add(offset + time.Minute).Unix()
	case s.What == Known:
		return s.Last.Add(offset + forgetBan).Unix()
	case s.What == Unban || s.What == Disallow:
		return time.Now().Add(offset + forgetBan).Unix()
	}
	return 0
}

// at returns how far the log is read.
func (f *Fleet) at() Place {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.place
}

// noteEnd notes where the log ends, and has it read anew where it is not the one that was read up to the place given.
func (f *Fleet) noteEnd(r *reply, at Place) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state.seq = r.seq
	if at.Epoch != "" && (r.epoch != at.Epoch || r.seq < at.Seq) {
		f.resync = true
	}
}

// beat tells that we are there.
func (f *Fleet) beat(ctx context.Context) error {
	self := f.opts.Self()
	self.Name, self.Instance = f.opts.Node, f.instance
	data, err := json.Marshal(&self)
	if err != nil {
		return err
	}
	k, at := &f.keys, f.at()
	r, err := f.run(ctx, beat, []string{k.meta, k.log, k.nodes, k.seen, k.said}, random(), f.opts.Node, data, maxNodes,
		int64(nodeGone/time.Second), int64(seenFor/time.Second))
	if err != nil {
		return err
	}
	var before Node
	_ = json.Unmarshal([]byte(r.before), &before)
	clash := !f.first && before.Instance != "" && before.Instance != f.instance
	f.first = false
	f.change(func(s *state) { s.nodes, s.clash = r.nodes, clash || s.clash && before.Instance != f.instance })
	f.noteEnd(&r, at)
	return nil
}

// maxShown bounds how many nodes are listed.
const maxShown = 1_000

// Nodes returns the nodes that were there in the last day, as Redis knows them. Texts are cut as those of statements.
func (f *Fleet) Nodes(ctx context.Context) ([]Node, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	seen, err := f.out.ZRevRangeWithScores(ctx, f.keys.seen, 0, maxShown-1).Result()
	if err != nil || len(seen) == 0 {
		return nil, explain(err)
	}
	names := make([]string, len(seen))
	for i, z := range seen {
		names[i], _ = z.Member.(string)
	}
	values, err := f.out.HMGet(ctx, f.keys.nodes, names...).Result()
	if err != nil {
		return nil, explain(err)
	}
	var list []Node
	for i, v := range values {
		text, _ := v.(string)
		n := Node{}
		if len(text) > maxLine || json.Unmarshal([]byte(text), &n) != nil || !nodeName.MatchString(names[i]) {
			continue
		}
		n.Name, n.Version, n.Share = names[i], clean(n.Version), clean(n.Share)
		n.Speaks = n.Speaks[:min(len(n.Speaks), 8)]
		for j := range n.Speaks {
			n.Speaks[j] = clean(n.Speaks[j])
		}
		n.Seen = time.Unix(int64(seen[i].Score), 0).Add(-f.clock.ahead())
		list = append(list, n)
	}
	return list, nil
}
