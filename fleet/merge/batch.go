package merge

// A Place is a position in the fleet's log.
type Place struct {
	Epoch string `json:"epoch,omitempty"`
	Seq   uint64 `json:"seq,omitempty"`
}

// A Batch holds statements of other nodes: a part of the log, or of the state that Redis holds.
type Batch struct {
	Statements []Statement
	Sync       bool  // part of the state, and no news
	Place      Place // behind the batch in the log; zero with Sync
}

// A BatchID identifies a batch of statements in the fleet's log.
type BatchID struct {
	Node, Instance string // the node, and its process
	Counter        uint64 // of the process's batches; 0: none
}

// maxProcesses bounds the processes that Batches remembers at least; it remembers up to twice as many.
const maxProcesses = 10_000

// Batches recognizes batches that were read before: the log goes back when Redis fails over to a replica that lacks its end. A
// process numbers its batches in ascending order, so the latest number of each process is enough. The zero value knows none.
type Batches struct {
	latest, before map[process]uint64 // before is replaced by latest when that is full
}

type process struct{ node, instance string }

// Again reports whether a batch was read before, and notes it if not. counted means that an earlier process of this node has read
// the log up to this batch: the batches of an unknown process count as read then.
func (b *Batches) Again(id BatchID, counted bool) bool {
	p := process{id.Node, id.Instance}
	latest, known := b.latest[p]
	if !known {
		latest, known = b.before[p]
	}
	if counted && !known || known && id.Counter <= latest {
		return true
	}
	if b.latest == nil || len(b.latest) >= maxProcesses {
		b.latest, b.before = make(map[process]uint64), b.latest
	}
	b.latest[p] = id.Counter
	return false
}

// Any reports whether any batch was noted.
func (b *Batches) Any() bool { return b.latest != nil }
