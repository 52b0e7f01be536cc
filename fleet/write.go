package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strconv"
	"time"

	"fsban/fleet/merge"
)

// write announces the queued statements and sends beats until ctx ends.
func (f *Fleet) write(ctx context.Context) error {
	wait := pause{min: f.opts.Pace.RetryMin, max: f.opts.Pace.RetryMax}
	due := time.NewTimer(0)
	defer due.Stop()
	beat := func() error {
		defer due.Reset(f.opts.Pace.Beat*4/5 + rand.N(f.opts.Pace.Beat*2/5+1))
		return contained(func() error { return f.beat(ctx) })
	}
	var batch []merge.Statement // taken from the queue and not accepted by Redis yet
	for {
		var err error
		select {
		case <-ctx.Done():
			f.last(batch)
			return ctx.Err()
		case <-f.queue.wake:
		case <-due.C:
			err = beat()
		}
		for err == nil {
			select {
			case <-due.C: // however long the queue is
				err = beat()
				continue
			default:
			}
			if len(batch) == 0 {
				if batch = f.batch(); len(batch) == 0 {
					break
				}
				f.writer.counter++
			}
			if err = f.say(ctx, batch); err == nil {
				batch = nil
			}
		}
		if errors.Is(err, errPanic) && batch != nil {
			f.queue.lose(len(batch)) // it would fail again; a resync restores the statements in force
			batch = nil
		}
		if err == nil {
			wait.reset()
			f.change(func(s *connState) { s.writeErr = nil })
			continue
		}
		if ctx.Err() != nil {
			continue
		}
		f.failed(ctx, err)
		f.change(func(s *connState) { s.writeErr = explain(err) })
		sleep(ctx, wait.next())
		due.Reset(0) // to try again
	}
}

// batch returns the next statements to announce: queued ones before those that Redis lacks.
func (f *Fleet) batch() []merge.Statement {
	if batch := f.queue.take(f.opts.Now()); len(batch) > 0 {
		return batch
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	n := min(len(f.repair.putBack), batchSize)
	batch := f.repair.putBack[:n]
	f.repair.putBack = f.repair.putBack[n:]
	return batch
}

// last announces the remaining statements at the end, for at most a second.
func (f *Fleet) last(batch []merge.Statement) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for {
		if len(batch) == 0 {
			if batch = f.queue.take(f.opts.Now()); len(batch) == 0 {
				return
			}
			f.writer.counter++
		}
		if f.say(ctx, batch) != nil {
			return
		}
		batch = nil
	}
}

// say announces a batch. If the reply is lost, it is announced again with the same number.
func (f *Fleet) say(ctx context.Context, batch []merge.Statement) error {
	return contained(func() error {
		at := f.at()
		k, args := &f.keys, f.arguments(batch)
		r, _, err := f.run(ctx, f.clients.Load().out, say, []string{k.meta, k.log, k.ends, k.said, k.bans, k.allows, k.known}, args...)
		if err != nil {
			return err
		}
		for i := range batch {
			f.counts.sent[batch[i].Kind].Add(1)
		}
		f.counts.full.Add(uint64(r.full)) //nolint:gosec // never negative
		f.noteEnd(&r, at)
		return nil
	})
}

func (f *Fleet) arguments(batch []merge.Statement) []any {
	offset := f.clock.ahead()
	args := make([]any, 0, 6+4*len(batch))
	args = append(args, random(), f.opts.Node, f.instance, strconv.FormatUint(f.writer.counter, 10), maxLog, maxPlaces)
	for i := range batch {
		s := &batch[i]
		text, err := encode(s, offset)
		if err != nil {
			continue // it can never be announced, and must not hold up the others
		}
		args = append(args, kinds[s.Kind], s.Prefix.String(), text, ends(s, offset))
	}
	return args
}

// ends returns the time at which Redis may remove the statement, in unix seconds; 0 for never.
func ends(s *merge.Statement, offset time.Duration) int64 {
	switch {
	case !s.Until.IsZero():
		return s.Until.Add(offset + time.Minute).Unix()
	case s.Kind == merge.Known:
		return s.Last.Add(offset + forgetBan).Unix()
	case s.Kind == merge.Unban || s.Kind == merge.Disallow:
		return time.Now().Add(offset + forgetBan).Unix()
	}
	return 0
}

// at returns the place up to which the log is read.
func (f *Fleet) at() merge.Place {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.log.place
}

// noteEnd notes the end of the log, and requests a resync if it is not the log that was read up to the given place.
func (f *Fleet) noteEnd(r *reply, at merge.Place) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state.seq = r.seq
	if at.Epoch != "" && (r.epoch != at.Epoch || r.seq < at.Seq) {
		f.log.resync = true
	}
}

// self describes this node as it is now.
func (f *Fleet) self() Node {
	n := f.opts.Self()
	n.Name, n.Instance = f.opts.Node, f.instance
	return n
}

// beat sends a sign of life with a description of the node.
func (f *Fleet) beat(ctx context.Context) error {
	self := f.self()
	data, err := json.Marshal(&self)
	if err != nil {
		return err
	}
	k, at := &f.keys, f.at()
	r, rest, err := f.run(ctx, f.clients.Load().out, beat, []string{k.meta, k.log, k.nodes, k.seen, k.said}, random(), f.opts.Node, data,
		maxNodes,
		int64(nodeGone/time.Second), int64(seenFor/time.Second), maxLine)
	if err != nil {
		return err
	}
	var before Node
	if len(rest) > 0 {
		text, _ := rest[0].(string)
		_ = json.Unmarshal([]byte(text), &before)
	}
	clash := f.writer.beaten && before.Instance != "" && before.Instance != f.instance
	f.writer.beaten = true
	f.change(func(s *connState) { s.nodes, s.clash = r.nodes, clash || s.clash && before.Instance != f.instance })
	f.noteEnd(&r, at)
	return nil
}

// maxShown bounds the list of nodes.
const maxShown = 1_000

// Nodes returns the nodes that were present in the last day, as Redis knows them. Texts are bounded like those of statements.
func (f *Fleet) Nodes(ctx context.Context) (list []Node, err error) {
	err = contained(func() error {
		found, err := values(ctx, f.clients.Load().out, roster, 0, []string{f.keys.seen, f.keys.nodes}, maxShown, maxLine, replyBudget)
		for i := 0; i+2 < len(found); i += 3 {
			if n, ok := nodeOf(found[i], found[i+1], found[i+2]); ok {
				seen := n.Seen.Add(-f.clock.ahead())
				if n.Name == f.opts.Node && n.Instance == f.instance { // its last beat can be older than its state
					n = f.self()
				}
				n.Seen = seen
				list = append(list, n)
			}
		}
		return err
	})
	return list, explain(err)
}

// nodeOf reads a node's name, the time of its last beat by Redis' clock, and its description.
func nodeOf(name, seen, text any) (n Node, ok bool) {
	n.Name, _ = name.(string)
	at, _ := seen.(string)
	data, _ := text.(string)
	seconds, err := strconv.ParseFloat(at, 64)
	known := n.Name
	if err != nil || len(data) > maxLine || json.Unmarshal([]byte(data), &n) != nil || !nodeName.MatchString(known) {
		return Node{}, false
	}
	n.Name, n.Version, n.Share = known, clean(n.Version), clean(n.Share)
	n.ActiveSources = n.ActiveSources[:min(len(n.ActiveSources), 8)]
	for i := range n.ActiveSources {
		n.ActiveSources[i] = clean(n.ActiveSources[i])
	}
	n.Seen = time.Unix(int64(seconds), 0)
	return n, true
}
