package esl

import (
	"errors"
	"fmt"
	"strings"
)

// A Filtered is a native event of which only some are wanted, like the CHANNEL_HANGUP_COMPLETE of calls that were refused:
// FreeSWITCH looks, and the others never leave it. It is sent when any of Only holds.
//
// A filter belongs to the connection, not to its event: what one Filtered lets pass, passes for all of them. Events and
// Subclasses are sent whole all the same, and so is a Filtered that is among Events too.
//
// One that FreeSWITCH does not filter, or that Validate refuses, is not asked for at all, and is in State.Denied.
type Filtered struct {
	Event string
	Only  []Filter
}

// A Filter holds for events that have the header with that value. Case does not matter to FreeSWITCH, in neither.
type Filter struct {
	Header string // ASCII letters, digits, '-', '_' and '.'
	Value  string // the whole value, decoded: not empty, without control characters, not starting with '+', '-', '/' or a space
}

// Validate says what is wrong with f, if anything. What it refuses means something else to FreeSWITCH than what it says:
// a pattern, a filter that keeps events out, an end of all filters.
func (f Filtered) Validate() error {
	if !consistsOf(f.Event, upper+digits+"_") {
		return fmt.Errorf("filtered event %q: not the name of an event", f.Event)
	}
	if len(f.Only) == 0 {
		return fmt.Errorf("filtered event %s: no filter", f.Event)
	}
	for _, o := range f.Only {
		if err := o.validate(); err != nil {
			return fmt.Errorf("filtered event %s: filter %q %q: %w", f.Event, o.Header, o.Value, err)
		}
	}
	return nil
}

const (
	upper  = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	lower  = "abcdefghijklmnopqrstuvwxyz"
	digits = "0123456789"
)

func (f Filter) validate() error {
	switch strings.ToLower(f.Header) {
	case "add", "delete": // words of the command
		return errors.New("no header has this name")
	case "_body": // is taken, and filters nothing
		return errors.New("not a header")
	}
	switch {
	case !consistsOf(f.Header, upper+lower+digits+"-_."):
		return errors.New("the header's name is not made of letters, digits, '-', '_' and '.'")
	case f.Value == "": // would delete the filters of this header
		return errors.New("no value")
	case strings.ContainsFunc(f.Value, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return errors.New("the value has a control character")
	case strings.ContainsRune("+-/ ", rune(f.Value[0])): // keep in, keep out, a pattern
		return errors.New("the value starts with a character that FreeSWITCH takes for a sign")
	case strings.HasPrefix(f.Value, "ARRAY::"), strings.Contains(strings.ToLower(f.Value), "mod_event_socket"):
		return errors.New("FreeSWITCH takes this value for something else")
	}
	return nil
}

// consistsOf says whether s is not empty and made of chars alone.
func consistsOf(s, chars string) bool { return s != "" && strings.Trim(s, chars) == "" }
