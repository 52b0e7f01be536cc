package esl

import (
	"errors"
	"fmt"
	"strings"
)

// A Filtered is a native event of which only some are wanted, like the CHANNEL_HANGUP_COMPLETE of refused calls: FreeSWITCH
// filters, and does not send the others. An event is sent if any of Only matches.
//
// A filter applies to the connection, not to its event: an event that matches one Filtered passes for all of them. Events and
// Subclasses are sent without a filter nevertheless, and so is a Filtered that is also in Events.
//
// A Filtered that FreeSWITCH does not filter, or that Validate refuses, is not subscribed to, and is in State.Denied.
type Filtered struct {
	Event string
	Only  []Filter
}

// A Filter matches events that have the header with that value. FreeSWITCH ignores case in both.
type Filter struct {
	Header string // ASCII letters, digits, '-', '_' and '.'
	Value  string // the whole value, decoded: not empty, without control characters, not starting with '+', '-', '/' or a space
}

// Validate returns why f is invalid, or nil. It refuses values with a special meaning to FreeSWITCH: a pattern, a filter that
// excludes events, the deletion of all filters.
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
	case "_body": // accepted, but filters nothing
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

// consistsOf reports whether s is not empty and contains only chars.
func consistsOf(s, chars string) bool { return s != "" && strings.Trim(s, chars) == "" }
