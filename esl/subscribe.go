package esl

import (
	"slices"
	"time"

	"github.com/percipia/eslgo/command"
)

// subscribe adds the filters, if any, and waits for the replies before it subscribes to any event: no event is lost to an
// incomplete set of filters, and none is sent unfiltered.
func (s *session) subscribe() error {
	filters := s.filters()
	if len(filters) == 0 {
		return s.ask()
	}
	s.awaited = len(filters)
	for _, f := range filters {
		err := s.commands.send(command.Filter{EventHeader: f.Header, FilterValue: f.Value}, expectation{filters: true})
		if err != nil {
			return err
		}
	}
	return nil
}

// filters returns the filters for all unfiltered events and for the valid Filtered; none if there is nothing to filter.
func (s *session) filters() []Filter {
	if slices.Contains(s.opts.Events, "ALL") {
		return nil
	}
	var whole, only []Filter
	if len(s.opts.Subclasses) > 0 {
		whole = append(whole, Filter{"Event-Name", "CUSTOM"})
	}
	for _, e := range s.opts.Events {
		whole = append(whole, Filter{"Event-Name", e})
	}
	for _, f := range s.opts.Filtered {
		if f.Validate() != nil {
			s.denied = append(s.denied, f.Event)
			continue
		}
		s.filtered = append(s.filtered, f.Event)
		only = append(only, f.Only...)
	}
	if len(only) == 0 {
		return nil
	}
	return append(whole, only...)
}

// filtersAnswered subscribes to the events after FreeSWITCH has answered every filter. If one was refused, all are deleted, and
// the Filtered are not subscribed to: a missing filter would block every event, or pass too many.
func (s *session) filtersAnswered() error {
	if s.unfit {
		if err := s.commands.send(command.Filter{Delete: true, EventHeader: "all"}, expectation{}); err != nil {
			return err
		}
		s.denied, s.filtered = append(s.denied, s.filtered...), nil
	}
	return s.ask()
}

// ask sends a command for each event: FreeSWITCH stops at the first name that a login may not see, and ignores the names after
// it.
func (s *session) ask() error {
	var names [][]string
	for _, e := range s.opts.Events {
		names = append(names, []string{e})
	}
	for _, sub := range s.opts.Subclasses {
		names = append(names, []string{"CUSTOM", sub})
	}
	for _, e := range s.filtered {
		names = append(names, []string{e})
	}
	s.awaited = len(names)
	for _, n := range names {
		err := s.commands.send(command.Event{Format: "plain", Listen: n}, expectation{subscribes: n[len(n)-1]})
		if err != nil {
			return err
		}
	}
	if s.opts.LogLevel > 0 {
		s.awaited++
		if err := s.commands.send(command.Log{Enabled: true, Level: s.opts.LogLevel}, expectation{subscribes: "log"}); err != nil {
			return err
		}
	}
	s.upWhenAnswered()
	return nil
}

func (s *session) upWhenAnswered() {
	if s.awaited == 0 {
		s.loginEnds = time.Time{}
		s.onUp()
	}
}
