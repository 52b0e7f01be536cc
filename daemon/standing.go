package daemon

import (
	"encoding/json"
	"errors"
	"iter"

	"fsban/detect"
	"fsban/ledger"
	"fsban/policy"
)

// What is sealed with the journal every second: a standing, and of each report of which other sources may still tell a memo.
// Under a flood there are thousands of those, which is why they are in the encoding of the state file.

// A standing is how far what we read counts.
type standing struct {
	Log   logPlace   `json:"log"`
	Fleet fleetPlace `json:"fleet,omitzero"`
}

const standingVersion = 1

// The flags of a memo.
const (
	memoCounted = 1 << iota
	memoLine
	memoHeld
	memoFlags
)

var errStanding = errors.New("damaged: not what is sealed with the journal")

// appendStanding writes a standing, which is JSON already, and memos.
func appendStanding(to, head []byte, memos iter.Seq[detect.Memo]) []byte {
	to = ledger.AppendTexts(append(to, standingVersion), string(head))
	for m := range memos {
		flags := byte(0)
		if m.Counted {
			flags |= memoCounted
		}
		if !m.Line.IsZero() {
			flags |= memoLine
		}
		if m.Held != nil {
			flags |= memoHeld
		}
		to = ledger.AppendAddr(append(to, flags, byte(m.Kind), m.Told), m.Addr)
		to = ledger.AppendTime(ledger.AppendTime(ledger.AppendTexts(to, m.User), m.At), m.Read)
		if flags&memoLine != 0 {
			to = ledger.AppendTime(to, m.Line)
		}
		if flags&memoHeld != 0 {
			to = ledger.AppendAttempt(to, m.Held)
		}
	}
	return to
}

// readStanding reads all of it, or returns an error.
func readStanding(data []byte) (s standing, memos []detect.Memo, err error) {
	r := ledger.Reader{Data: data}
	r.Bad = r.Byte(standingVersion+1) != standingVersion
	head := r.Text()
	for !r.Bad && len(r.Data) > 0 {
		flags := r.Byte(memoFlags)
		m := detect.Memo{Counted: flags&memoCounted != 0, Kind: policy.Kind(r.Byte(int(policy.NumKinds))), Told: r.Byte(1 << policy.NumSources)}
		m.Addr, m.User, m.At, m.Read = r.Addr(), r.Text(), r.Time(), r.Time()
		if flags&memoLine != 0 {
			m.Line = r.Time()
		}
		if flags&memoHeld != 0 {
			held := r.Attempt()
			m.Held = &held
		}
		memos = append(memos, m)
	}
	if r.Bad {
		return standing{}, nil, errStanding
	}
	if err := json.Unmarshal([]byte(head), &s); err != nil {
		return standing{}, nil, err
	}
	return s, memos, nil
}
