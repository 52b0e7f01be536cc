package fleet

import (
	"context"
	"testing"
	"time"

	"fsban/fleet/merge"
	"fsban/internal/redisserver"
)

// A node needs to recognize the statement for which Redis chose an earlier stamp.
func TestAStatementAheadOfRedisClockReturnsWithBothStamps(t *testing.T) {
	redis := redisserver.Start(t, "--port", "0")
	got := make(chan merge.Statement, 10)
	f := New(Options{
		Addrs: []string{redis.Socket}, Name: "ahead", Node: "node",
		Take: func(_ context.Context, b merge.Batch) error {
			for i := range b.Statements {
				if !b.Sync {
					got <- b.Statements[i]
				}
			}
			return nil
		},
		Current: func(context.Context, func(merge.Statement)) error { return nil },
		Self:    func() Node { return Node{} },
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = f.Run(ctx) }()
	defer func() { cancel(); <-done }()
	next := func() merge.Statement {
		select {
		case st := <-got:
			return st
		case <-time.After(time.Minute):
			t.Fatal("no statement")
		}
		return merge.Statement{}
	}
	const hour = int64(time.Hour / time.Microsecond)
	for name, st := range map[string]merge.Statement{
		"ban":             {Kind: merge.Ban, Prefix: prefix("203.0.113.1/32"), Rule: "auth", By: `{"z":"1"} a text`, Until: time.Now().Add(time.Hour)},
		"unban":           {Kind: merge.Unban, Prefix: prefix("203.0.113.2/32")},
		"allow, no text":  {Kind: merge.Allow, Prefix: prefix("203.0.113.3/32")},
		"disallow by one": {Kind: merge.Disallow, Prefix: prefix("203.0.113.4/32"), By: "one"},
	} {
		now := f.Stamp()
		st.Stamp, st.Node = now+hour, "node"
		f.Announce(st)
		back := next()
		if back.Kind != st.Kind || back.Prefix != st.Prefix || back.By != st.By || back.Proposed != st.Stamp || back.Stamp >= now+hour/2 {
			t.Errorf("%s: stamp %d comes back as %+v", name, st.Stamp, back)
		}
		st.Stamp = back.Stamp + 1 // accepted as it is: later than the latest that Redis knows
		f.Announce(st)
		if back := next(); back.Proposed != 0 || back.Stamp != st.Stamp {
			t.Errorf("%s: stamp %d comes back as %+v", name, st.Stamp, back)
		}
	}
}

// Redis keeps a statement for a minute beyond its end. Meanwhile a later one with an earlier stamp, a ban of a rule, replaces it.
func TestAStatementThatIsOverHoldsAgainstNone(t *testing.T) {
	redis := redisserver.Start(t, "--port", "0")
	f := New(Options{
		Addrs: []string{redis.Socket}, Name: "over", Node: "node",
		Take:    func(context.Context, merge.Batch) error { return nil },
		Current: func(context.Context, func(merge.Statement)) error { return nil },
		Self:    func() Node { return Node{} },
	})
	defer f.clients.Load().close()
	now := time.Now()
	for name, tc := range map[string]struct {
		until time.Time
		taken bool
	}{"over": {now.Add(-time.Second), true}, "in force": {now.Add(time.Hour), false}, "without end": {time.Time{}, false}} {
		p := prefix("203.0.113.1/32")
		order := merge.Statement{Kind: merge.Ban, Prefix: p, Node: "node", Rule: "operator", Until: tc.until, Reason: `"u":1 {"u":1}`}
		rule := merge.Statement{Kind: merge.Ban, Prefix: p, Node: "b-1", Rule: "auth", Until: now.Add(24 * time.Hour)}
		rule.Stamp = merge.RuleStamp(0, rule.Until.UnixMicro())
		for _, st := range []merge.Statement{order, rule} {
			if st.Stamp == 0 {
				st.Stamp = f.Stamp()
			}
			f.writer.counter++
			if err := f.say(t.Context(), []merge.Statement{st}); err != nil {
				t.Fatal(err)
			}
		}
		text, err := f.clients.Load().in.HGet(t.Context(), f.keys.bans, p.String()).Result()
		if err != nil {
			t.Fatal(err)
		}
		got, err := decode(kindBan, p.String(), text, 0, time.Now())
		if err != nil || (got.Rule == "auth") != tc.taken {
			t.Errorf("%s: Redis holds the ban of %s; %v", name, got.Rule, err)
		}
	}
}
