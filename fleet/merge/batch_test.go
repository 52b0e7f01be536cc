package merge

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// A node restarts, and the log is read again from its begin because Redis failed over: no batch counts twice.
func TestBatchesOfANodeThatRestartedCountOnce(t *testing.T) {
	log := []BatchID{{"b-1", "x", 1}, {"b-1", "x", 2}, {"c-1", "z", 1}, {"b-1", "y", 1}, {"b-1", "y", 2}, {"b-1", "y", 3}}
	var b Batches
	for _, id := range log {
		if b.Again(id, false) {
			t.Errorf("%v is new", id)
		}
	}
	for _, id := range log {
		if !b.Again(id, false) {
			t.Errorf("%v counts twice", id)
		}
	}
	if b.Again(BatchID{"b-1", "y", 4}, false) {
		t.Error("what comes next is new")
	}
}

// The reader restarts, too, and knows only how far its earlier process has read.
func TestBatchesBeforeTheReadersStartCountOnce(t *testing.T) {
	var b Batches
	if b.Again(BatchID{"b-1", "x", 3}, false) {
		t.Error("behind the place of the start it is new")
	}
	for _, id := range []BatchID{{"c-1", "z", 1}, {"b-1", "w", 8}, {"b-1", "w", 9}, {"b-1", "x", 1}, {"b-1", "x", 2}} {
		if !b.Again(id, true) {
			t.Errorf("%v counts twice", id)
		}
	}
	if b.Again(BatchID{"b-1", "x", 4}, true) {
		t.Error("a known process goes on: this batch took the place of one that was lost")
	}
}

func TestBatchesAreBounded(t *testing.T) {
	var b Batches
	for i := range 3*maxProcesses + 1 {
		b.Again(BatchID{"b-1", fmt.Sprint(i), 1}, false)
	}
	if n := len(b.latest) + len(b.before); n > 2*maxProcesses {
		t.Errorf("%d processes", n)
	}
	if !b.Again(BatchID{"b-1", fmt.Sprint(2*maxProcesses + 1), 1}, false) {
		t.Error("one of the newest is forgotten")
	}
}

// Nodes write, restart and repeat batches, and Redis loses the end of its log. A reader that reads all of it counts no batch
// twice, and each that is still in the log at the end.
func TestFailOversCountEachBatchOnce(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 3))
		var b Batches
		var log []BatchID
		next := [3]BatchID{{"a", "0", 0}, {"b", "0", 0}, {"c", "0", 0}}
		counted := make(map[BatchID]int)
		read := 0
		follow := func() {
			for ; read < len(log); read++ {
				if !b.Again(log[read], false) {
					counted[log[read]]++
				}
			}
		}
		for range 100 {
			switch n := &next[r.IntN(3)]; r.IntN(8) {
			case 0: // the node restarts
				*n = BatchID{n.Node, n.Instance + "'", 0}
			case 1: // the reply was lost: it repeats
				if n.Counter > 0 {
					log = append(log, *n)
				}
			case 2: // the replica lacks the end of the log
				follow()
				log, read = log[:r.IntN(len(log)+1)], 0
			case 3:
				follow()
			default:
				n.Counter++
				log = append(log, *n)
			}
		}
		follow()
		for _, id := range log {
			if counted[id] != 1 {
				t.Fatalf("seed %d: %v counts %d times", seed, id, counted[id])
			}
		}
		for id, n := range counted {
			if n != 1 {
				t.Fatalf("seed %d: %v counts %d times", seed, id, n)
			}
		}
	}
}
