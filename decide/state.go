package decide

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"iter"

	"fsban/detect"
	"fsban/ledger"
	"fsban/policy"
)

// The state sealed with the journal every second is a position, the marks of the newest lines of mod_cti's log, and a memo for
// each report that another source may still repeat. A flood makes thousands of memos: they have the encoding of the state file.

// A position is how far the logs have been counted, by which clock, and whether bans were enforced.
type position struct {
	Log   LogPosition   `json:"log"`
	Fleet FleetPosition `json:"fleet,omitzero"`
	Clock clockState    `json:"clock,omitzero"`
	Mode  Mode          `json:"mode,omitzero"`
}

const stateVersion = 3

// The flags of a memo.
const (
	memoCounted = 1 << iota
	memoHeld
	memoFlags
)

var errState = errors.New("damaged: not the state sealed with the journal")

// appendState appends a position, which is JSON already, marks and memos.
func appendState(to, head []byte, marks []detect.LineMark, memos iter.Seq[detect.Memo]) []byte {
	to = ledger.AppendTexts(append(to, stateVersion), string(head))
	to = binary.AppendUvarint(to, uint64(len(marks)))
	for _, m := range marks {
		to = ledger.AppendTime(ledger.AppendAddr(to, m.Addr), m.At)
	}
	for m := range memos {
		flags := byte(0)
		if m.Counted {
			flags |= memoCounted
		}
		if m.Held != nil {
			flags |= memoHeld
		}
		to = ledger.AppendAddr(append(to, flags, byte(m.Kind), m.Sources), m.Addr)
		to = ledger.AppendTime(ledger.AppendTime(ledger.AppendTexts(to, m.User, m.Alias), m.At), m.Read)
		if flags&memoHeld != 0 {
			to = ledger.AppendAttempt(to, m.Held)
		}
	}
	return to
}

// readState decodes the result of appendState, or returns an error.
func readState(data []byte) (p position, marks []detect.LineMark, memos []detect.Memo, err error) {
	r := ledger.Reader{Data: data}
	r.Bad = r.Byte(stateVersion+1) != stateVersion || r.Bad
	head := r.Text()
	for n := r.Uvarint(); n > 0 && !r.Bad; n-- {
		marks = append(marks, detect.LineMark{Addr: r.Addr(), At: r.Time()})
	}
	for !r.Bad && len(r.Data) > 0 {
		flags := r.Byte(memoFlags)
		m := detect.Memo{Counted: flags&memoCounted != 0, Kind: policy.Kind(r.Byte(int(policy.NumKinds))),
			Sources: r.Byte(1 << policy.NumSources)}
		m.Addr, m.User, m.Alias, m.At, m.Read = r.Addr(), r.Text(), r.Text(), r.Time(), r.Time()
		if flags&memoHeld != 0 {
			held := r.Attempt()
			m.Held = &held
		}
		memos = append(memos, m)
	}
	if r.Bad {
		return position{}, nil, nil, errState
	}
	if err := json.Unmarshal([]byte(head), &p); err != nil {
		return position{}, nil, nil, err
	}
	return p, marks, memos, nil
}
