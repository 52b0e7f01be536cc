package fakeswitch

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// natives are the events that a client may subscribe to; FreeSWITCH has more.
var natives = []string{
	"ALL", "CUSTOM", "HEARTBEAT", "SHUTDOWN", "STARTUP", "API", "BACKGROUND_JOB", "RELOADXML", "RE_SCHEDULE", "MODULE_LOAD",
	"MODULE_UNLOAD", "CHANNEL_CREATE", "CHANNEL_STATE", "CHANNEL_CALLSTATE", "CHANNEL_EXECUTE", "CHANNEL_EXECUTE_COMPLETE",
	"CHANNEL_PROGRESS", "CHANNEL_ANSWER", "CHANNEL_BRIDGE", "CHANNEL_HANGUP", "CHANNEL_HANGUP_COMPLETE", "CHANNEL_DESTROY",
}

// levels are the names of the log levels, from 0 on.
var levels = []string{"CONSOLE", "ALERT", "CRIT", "ERR", "WARNING", "NOTICE", "INFO", "DEBUG"}

// A subscription is the set of events and log lines that one client subscribed to. Each method executes one command as
// parse_command of mod_event_socket does; words are the command's arguments.
type subscription struct {
	allowed    []string // natives and subclasses; nil: all
	mayLog     bool
	listening  bool
	events     map[string]bool // natives, upper case
	subclasses map[string]bool // of CUSTOM: kept when CUSTOM itself is removed
	filters    []filter
	logLevel   int // -1: no log
}

// A filter is a line of `filter HEADER VALUE`.
type filter struct{ header, value string }

func newSubscription() subscription {
	return subscription{mayLog: true, events: make(map[string]bool), subclasses: make(map[string]bool), logLevel: -1}
}

// event executes `event plain NAME… CUSTOM SUBCLASS…`: names after CUSTOM are subclasses, unknown names are ignored, and the
// first name that is not allowed ends the command.
func (s *subscription) event(words []string) string {
	if len(words) == 0 || words[0] != "plain" {
		return "-ERR no keywords supplied"
	}
	known, custom := false, false
	for _, word := range words[1:] {
		name := strings.ToUpper(word)
		switch {
		case custom && !s.may(word):
			return "-ERR permission denied"
		case custom:
			s.subclasses[word] = true
		case !slices.Contains(natives, name):
		case !s.mayNative(name):
			return "-ERR permission denied"
		default:
			known, custom = true, name == "CUSTOM"
			s.add(name)
		}
	}
	if !known {
		return "-ERR no keywords supplied"
	}
	s.listening = true
	return "+OK event listener enabled plain"
}

// add subscribes to a native event. ALL stands for every native and for every subclass that the client may receive.
func (s *subscription) add(name string) {
	s.events[name] = true
	if name != "ALL" {
		return
	}
	for _, n := range natives {
		s.events[n] = true
	}
	if s.allowed != nil {
		for _, n := range s.allowed {
			s.subclasses[n] = true
		}
		return
	}
	for _, r := range recordings {
		for _, e := range r.events {
			if e.subclass != "" {
				s.subclasses[e.subclass] = true
			}
		}
	}
}

func (s *subscription) may(name string) bool {
	return s.allowed == nil || slices.Contains(s.allowed, name)
}

// mayNative reports whether s may subscribe to a native event. CUSTOM is allowed if any subclass is.
func (s *subscription) mayNative(name string) bool {
	return name == "CUSTOM" || s.may(name) || s.may("ALL")
}

// nix executes `nixevent NAME… CUSTOM SUBCLASS…`. Removing one of ALL turns ALL into a list of the others.
func (s *subscription) nix(words []string) string {
	known, custom := false, false
	for _, word := range words {
		name := strings.ToUpper(word)
		switch {
		case custom:
			delete(s.subclasses, word)
			continue
		case !slices.Contains(natives, name):
			continue
		case name == "CUSTOM":
			custom = true
		case name == "ALL":
			clear(s.events)
		default:
			delete(s.events, name)
			delete(s.events, "ALL")
		}
		known = true
	}
	if !known {
		return "-ERR no keywords supplied"
	}
	s.listening = true
	return "+OK events nixed"
}

func (s *subscription) noEvents() string {
	if !s.listening {
		return "-ERR not listening for events"
	}
	s.listening = false
	clear(s.events)
	clear(s.subclasses)
	return "+OK no longer listening for events"
}

// filter executes `filter [add] HEADER VALUE`, `filter delete HEADER [VALUE]` and `filter delete all`.
func (s *subscription) filter(rest string) string {
	header, value, ok := strings.Cut(strings.TrimLeft(rest, " "), " ")
	if !ok {
		return "-ERR invalid syntax"
	}
	remove := strings.EqualFold(header, "delete")
	if remove || strings.EqualFold(header, "add") {
		header, value, _ = strings.Cut(value, " ")
	}
	switch {
	case remove && strings.EqualFold(header, "all"):
		s.filters = nil
	case remove, value == "":
		s.filters = slices.DeleteFunc(s.filters, func(f filter) bool {
			return strings.EqualFold(f.header, header) && (value == "" || f.value == value)
		})
	default:
		s.filters = append(s.filters, filter{header, value})
	}
	if remove {
		return fmt.Sprintf("+OK filter deleted. [%s][%s]", header, value)
	}
	return fmt.Sprintf("+OK filter added. [%s]=[%s]", header, value)
}

// log executes `log [LEVEL]`; the level is a number or a name.
func (s *subscription) log(rest string) string {
	if !s.mayLog {
		return "-ERR permission denied"
	}
	word, _, _ := strings.Cut(strings.TrimLeft(rest, " "), " ")
	level, err := strconv.Atoi(word)
	switch {
	case word == "":
		level = len(levels) - 1
	case err != nil:
		level = slices.Index(levels, strings.ToUpper(word))
		if level < 0 {
			return "-ERR invalid log level"
		}
	}
	s.logLevel = max(level, 0)
	return fmt.Sprintf("+OK log level %s [%d]", word, s.logLevel)
}

func (s *subscription) noLog() string {
	if s.logLevel < 0 {
		return "-ERR not loging" // FreeSWITCH's spelling
	}
	s.logLevel = -1
	return "+OK no longer logging"
}

// asks reports whether s is subscribed to an event: a native, or a subclass of CUSTOM.
func (s *subscription) asks(name, subclass string) bool {
	return s.listening && (s.events["ALL"] || s.events[name] && (subclass == "" || s.subclasses[subclass]))
}

// hears reports whether s is subscribed to name: a native event, a subclass, or the log.
func (s *subscription) hears(name string) bool {
	switch {
	case name == "log":
		return s.logLevel >= 0
	case slices.Contains(natives, name):
		return s.asks(name, "")
	}
	return s.asks("CUSTOM", name)
}

// passes reports whether an event with the headers of get passes the filters, as in event_handler of mod_event_socket: without
// filters every event passes; otherwise at least one filter must match, and none of those with a minus sign.
func (s *subscription) passes(get func(name string) (string, bool)) bool {
	send := len(s.filters) == 0
	for _, f := range s.filters {
		value, ok := get(f.header)
		if !ok {
			continue
		}
		signs, want := f.signs()
		keepIn := !strings.HasSuffix(signs, "-")
		if send && keepIn || !f.holds(value, want) {
			continue
		}
		if !keepIn {
			return false
		}
		send = true
	}
	return send
}

// signs removes the signs before a value: the last plus or minus sign counts.
func (f filter) signs() (signs, value string) {
	value = strings.TrimLeft(f.value, "+- ")
	return strings.TrimRight(f.value[:len(f.value)-len(value)], " "), value
}

// holds compares a header's value with a filter's. The filter's value is a pattern only if it has no sign and a slash at both
// ends.
func (f filter) holds(value, want string) bool {
	if f.value[0] != '/' {
		return equalFold(value, want)
	}
	end := strings.LastIndexByte(want, '/')
	if end == 0 {
		return false
	}
	pattern := want[1:end]
	if strings.Contains(want[end:], "i") {
		pattern = "(?i)" + pattern
	}
	re, err := regexp.Compile(pattern)
	return err == nil && re.MatchString(value)
}

// equalFold is strcasecmp in the C locale: only ASCII letters have case.
func equalFold(a, b string) bool {
	lower := func(s string) string {
		return strings.Map(func(r rune) rune {
			if 'A' <= r && r <= 'Z' {
				return r + 'a' - 'A'
			}
			return r
		}, s)
	}
	return lower(a) == lower(b)
}
