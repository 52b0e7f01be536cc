package fleet

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"fsban/fleet/merge"
)

// An entry of the log is one batch of one node.
type entry struct{ id, node, instance, counter, data string }

// entryOf reads an entry from the reply of a script.
func entryOf(v any) (e entry, ok bool) {
	list, _ := v.([]any)
	if len(list) != 5 {
		return e, false
	}
	for i, text := range []*string{&e.id, &e.node, &e.instance, &e.counter, &e.data} {
		if *text, ok = list[i].(string); !ok {
			return entry{}, false
		}
	}
	return e.brief(), true
}

// entryOfMessage reads an entry from the stream.
func entryOfMessage(m *redis.XMessage) entry {
	text := func(name string) string { s, _ := m.Values[name].(string); return s }
	e := entry{m.ID, text("n"), text("i"), text("c"), text("d")}
	return e.brief()
}

// brief returns an entry beyond the bounds without its contents, as the scripts do.
func (e entry) brief() entry {
	if len(e.node) > maxName || len(e.instance) > maxName || len(e.counter) > maxName || len(e.data) > maxBatch {
		return entry{id: e.id}
	}
	return e
}

// sum identifies an entry.
func (e entry) sum() string {
	h := sha256.New()
	for _, text := range []string{e.id, e.node, e.instance, e.counter, e.data} {
		_, _ = fmt.Fprintf(h, "%d %s\n", len(text), text)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// seq returns the number of an entry that a node has written.
func (e entry) seq() (uint64, bool) {
	text, ours := strings.CutSuffix(e.id, "-0")
	seq, err := strconv.ParseUint(text, 10, 64)
	return seq, ours && err == nil
}

// statements returns the statements of an entry, without attempts of a batch that was read before; counted: an earlier process
// has read the log up to this entry. A fault in reading them must not keep the node from the entries behind it.
func (f *Fleet) statements(e entry, counted bool, offset time.Duration, now time.Time) (list []merge.Statement) {
	if err := contained(func() error { list = f.decode(e, counted, offset, now); return nil }); err != nil {
		f.counts.errors.Add(1)
		f.Refuse(merge.Malformed)
		return nil
	}
	return list
}

func (f *Fleet) decode(e entry, counted bool, offset time.Duration, now time.Time) []merge.Statement {
	id := merge.BatchID{Node: e.node, Instance: e.instance}
	id.Counter, _ = strconv.ParseUint(e.counter, 10, 64)
	if !nodeName.MatchString(id.Node) || len(id.Instance) > 40 {
		f.Refuse(merge.Malformed)
		return nil
	}
	again := id.Node == f.opts.Node || id.Counter > 0 && f.reader.batches.Again(id, counted)
	var list []merge.Statement
	for i, line := range strings.SplitN(e.data, "\n", batchSize+1) {
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
