package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"fsban/config"
	"fsban/esl"
	"fsban/internal/term"
)

func newDiscover(s *settings) *cobra.Command {
	var (
		asJSON bool
		length time.Duration
	)
	c := &cobra.Command{
		Use:   "discover",
		Short: "Find mod_cti's events on the event socket",
		Long: `Listen to the event socket for a while, to every CUSTOM event that the login may see, and list the events with their number,
headers, and an example of each value. Values that look like secrets are hidden. Let a login fail meanwhile, or cause another
event that mod_cti reports. The list ends with settings for the configuration.

discover opens a connection of its own, asks no daemon and changes nothing.`,
		Example: "  fsban discover\n  fsban discover --for 5m --json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := s.load()
			if err != nil {
				return err
			}
			if length <= 0 || length > time.Hour {
				return &usageError{fmt.Errorf("--for %v: write more than 0s, at most 1h", length)}
			}
			found, err := discover(cmd.Context(), &cfg.FreeSWITCH, length, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), found)
			}
			found.print(term.NewScreen(cmd.OutOrStdout()))
			return nil
		},
	}
	c.Flags().DurationVar(&length, "for", 30*time.Second, "how long to listen")
	c.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return c
}

// Bounds of a discovery: every client that may send events can invent names.
const (
	maxSubclasses = 500
	maxHeaders    = 200 // of one
	maxValue      = 60  // bytes of an example
)

// A discovery holds the events that arrived.
type discovery struct {
	Subclasses []*subclass `json:"subclasses"`
	Beyond     int         `json:"beyond,omitempty"` // events of further ones
	CTILines   int         `json:"cti_lines"`        // lines of mod_cti's on the log stream
	NoLog      bool        `json:"no_log,omitempty"` // the login may not see that
	Suggestion string      `json:"suggestion"`       // for the configuration
}

// A subclass is one of CUSTOM events.
type subclass struct {
	Name    string   `json:"name"`
	Count   int      `json:"count"`
	Headers []header `json:"headers"`
}

type header struct {
	Name    string `json:"name"`
	Example string `json:"example"`
}

// discover listens for that long and reports progress.
func discover(ctx context.Context, fs *config.FreeSWITCH, length time.Duration, tell io.Writer) (*discovery, error) {
	found := new(discovery)
	var allowed []string
	for {
		opts := esl.Options{
			User: fs.User, Password: string(fs.Password), Fields: esl.NewFields("Event-Name", "Event-Subclass"),
			OnEvent: found.event, OnLog: found.line, LogLevel: 5,
		}
		if allowed == nil {
			opts.Filtered = []esl.Filtered{{Event: "ALL", Only: []esl.Filter{{Header: "Event-Name", Value: "CUSTOM"}}}}
		}
		opts.Subclasses = allowed
		state, err := listen(ctx, fs.Address, opts, length, tell)
		if err != nil {
			return nil, err
		}
		if allowed != nil || !slices.Contains(state.Denied, "ALL") {
			found.NoLog = slices.Contains(state.Denied, "log")
			break
		}
		if allowed = customOf(state.Allowed); len(allowed) == 0 {
			return nil, fmt.Errorf("the login %q may see no CUSTOM event (esl-allowed-events in the directory)", fs.User)
		}
	}
	slices.SortFunc(found.Subclasses, func(a, b *subclass) int { return cmp.Compare(a.Name, b.Name) })
	found.Suggestion = found.suggest()
	return found, nil
}

// listen listens for that long, or until it turns out that the login may not see all. A connection that ends meanwhile is made
// again: earlier events are kept.
func listen(ctx context.Context, address string, opts esl.Options, length time.Duration, tell io.Writer) (esl.State, error) {
	ctx, cancel := context.WithCancel(ctx)
	states := make(chan esl.State)
	opts.OnState = func(s esl.State) {
		select {
		case states <- s:
		case <-ctx.Done():
		}
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = esl.NewClient(address, opts).Run(ctx) // OnState reports errors
	}()
	defer func() {
		cancel()
		<-ended
	}()
	var up esl.State
	var over <-chan time.Time
	gone := false
	for {
		select {
		case s := <-states:
			switch {
			case !s.Up && s.Err != nil && over == nil:
				return up, s.Err
			case !s.Up && s.Err != nil && !gone:
				gone = true
				fmt.Fprintf(tell, "trying again until the time is over: %v\n", s.Err)
			case s.Up && slices.Contains(s.Denied, "ALL"):
				return s, nil
			case s.Up && over == nil:
				up, over = s, time.After(length)
				fmt.Fprintf(tell, "listening to %s for %v: let a login fail now\n", address, length)
			case s.Up && gone:
				gone = false
				fmt.Fprintln(tell, "listening again")
			}
		case <-over:
			return up, nil
		case <-ctx.Done():
			if over != nil {
				return up, nil // an interrupt ends it early
			}
			return up, ctx.Err()
		}
	}
}

// customOf returns the subclasses that a login may see.
func customOf(allowed []string) []string {
	i := slices.Index(allowed, "CUSTOM")
	if i < 0 {
		return nil
	}
	return allowed[i+1:]
}

// event remembers one event.
func (d *discovery) event(ev *esl.Event) {
	if string(ev.Get(0)) != "CUSTOM" {
		return
	}
	name := string(ev.Get(1))
	i := slices.IndexFunc(d.Subclasses, func(c *subclass) bool { return c.Name == name })
	if i < 0 {
		if len(d.Subclasses) == maxSubclasses {
			d.Beyond++
			return
		}
		i = len(d.Subclasses)
		d.Subclasses = append(d.Subclasses, &subclass{Name: name})
	}
	c := d.Subclasses[i]
	c.Count++
	for name, value := range ev.Headers() {
		c.header(string(name), value)
	}
}

func (c *subclass) header(name string, value []byte) {
	if slices.Contains(everyEvents, name) {
		return
	}
	i := slices.IndexFunc(c.Headers, func(h header) bool { return h.Name == name })
	if i < 0 {
		if len(c.Headers) == maxHeaders {
			return
		}
		i = len(c.Headers)
		c.Headers = append(c.Headers, header{Name: name})
	}
	if c.Headers[i].Example != "" {
		return
	}
	example := string(value[:min(len(value), maxValue)])
	if example != "" && isSecret(name) {
		example = "(hidden)"
	}
	c.Headers[i].Example = strings.ToValidUTF8(example, "?")
}

// everyEvents are headers that every event has.
var everyEvents = []string{
	"Event-Name", "Event-Subclass", "Core-UUID", "FreeSWITCH-Hostname", "FreeSWITCH-Switchname", "FreeSWITCH-IPv4", "FreeSWITCH-IPv6",
	"Event-Date-Local", "Event-Date-GMT", "Event-Date-Timestamp", "Event-Calling-File", "Event-Calling-Function",
	"Event-Calling-Line-Number", "Event-Sequence",
}

// isSecret reports by its name whether a header may hold a secret.
func isSecret(name string) bool {
	name = strings.ToLower(name)
	return slices.ContainsFunc([]string{"pass", "secret", "a1-hash", "a1_hash", "response", "nonce", "token", "auth_str", "authorization",
		"cookie", "key", "pin"},
		func(s string) bool { return strings.Contains(name, s) })
}

// line counts mod_cti's lines on the log stream.
func (d *discovery) line(l esl.Log) {
	if string(l.File) == "cti_fail2ban.c" {
		d.CTILines++
	}
}

// freeSWITCHs are the beginnings of the names of FreeSWITCH's own events.
var freeSWITCHs = []string{
	"sofia::", "conference::", "callcenter::", "fifo::", "vm::", "valet_parking::", "SMS::", "sms::", "spandsp::", "portaudio::", "skinny::",
	"verto::", "menu::", "httapi::", "nat::", "lua::", "file::", "multicast::", "limit::", "ftdm::", "directory::", "dingaling::", "rtp::",
	"erlang::", "rtmp::", "gsmopen::", "mod_", "hiredis::", "avmd::", "vad::", "curl::", "cdr_csv::", "event_socket::", "unimrcp::", "vlc::",
}

// suggest returns settings for the configuration.
func (d *discovery) suggest() string {
	var candidates []*subclass
	for _, c := range d.Subclasses {
		if !slices.ContainsFunc(freeSWITCHs, func(prefix string) bool { return strings.HasPrefix(c.Name, prefix) }) && c.address() != "" {
			candidates = append(candidates, c)
		}
	}
	// A name that mentions it comes first.
	named := func(c *subclass) bool {
		name := strings.ToLower(c.Name)
		return strings.Contains(name, "cti") || strings.Contains(name, "fail2ban")
	}
	if slices.ContainsFunc(candidates, named) {
		candidates = slices.DeleteFunc(candidates, func(c *subclass) bool { return !named(c) })
	}
	if len(candidates) == 0 {
		return ""
	}
	first := candidates[0]
	var b strings.Builder
	b.WriteString("cti_event:\n  subclasses:\n")
	for _, c := range candidates {
		fmt.Fprintf(&b, "    - %q\n", c.Name)
	}
	fmt.Fprintf(&b, "  ip_header: %q\n  user_header: %q\n  reason_header: %q\n",
		first.address(), first.named("user", "exten", "account"), first.named("reason", "cause", "result", "msg"))
	return b.String()
}

// address returns the header that holds one.
func (c *subclass) address() string {
	for _, h := range c.Headers {
		if _, err := netip.ParseAddr(h.Example); err == nil {
			return h.Name
		}
	}
	return ""
}

// named returns the first header with one of those words in its name.
func (c *subclass) named(words ...string) string {
	for _, w := range words {
		for _, h := range c.Headers {
			if strings.Contains(strings.ToLower(h.Name), w) {
				return h.Name
			}
		}
	}
	return ""
}

func (d *discovery) print(s *term.Screen) {
	out := s.Out
	if len(d.Subclasses) == 0 {
		fmt.Fprintln(out, "no CUSTOM event came")
	}
	for _, c := range d.Subclasses {
		fmt.Fprintf(out, "%s  %d\n", s.Quote(c.Name, 200), c.Count)
		width := 0
		for _, h := range c.Headers {
			width = max(width, term.Width(s.Clean(h.Name)))
		}
		for _, h := range c.Headers {
			fmt.Fprintf(out, "  %s  %s\n", term.Pad(s.Clean(h.Name), width), s.Quote(h.Example, maxValue+2))
		}
	}
	if d.Beyond > 0 {
		fmt.Fprintf(out, "%d events of more than %d subclasses are not shown\n", d.Beyond, maxSubclasses)
	}
	fmt.Fprintln(out)
	switch {
	case d.NoLog:
		fmt.Fprintln(out, "This login may not see FreeSWITCH's log (esl-allowed-log in the directory): nothing of mod_cti's comes that way.")
	case d.CTILines > 0:
		fmt.Fprintf(out, "mod_cti's own line came %d times on the log stream: fsban reads it there, no setting is needed (freeswitch.log).\n",
			d.CTILines)
	default:
		fmt.Fprintln(out, "No line of mod_cti's came on the log stream.")
	}
	if d.Suggestion == "" {
		fmt.Fprintln(out, "No event came that looks like mod_cti's (one with an address in it that is not FreeSWITCH's own): leave "+
			"cti_event as it is.")
		return
	}
	fmt.Fprintf(out, "If that is mod_cti's, write into the configuration:\n\n%s", d.Suggestion)
}
