package replay

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"fsban/policy"
)

// maxExamples and maxExample bound the examples of text that was not understood, maxReports the reports, of which the latest are
// kept.
const (
	maxExamples = 5
	maxExample  = 120 // bytes
	maxReports  = 20
)

// A Result holds the counts of a replay and the bans that it would have caused, oldest first.
type Result struct {
	Read          int            `json:"read"` // lines, events and SIP messages
	Understood    int            `json:"understood"`
	NotUnderstood int            `json:"not_understood"`
	Examples      []string       `json:"examples,omitempty"` // of text that was not understood: untrusted
	Repeated      int            `json:"repeated"`           // lines that an earlier recording or line has already reported
	Outdated      int            `json:"outdated"`           // lines older than the ones before them by more than the longest findtime
	Duplicates    int            `json:"duplicates"`         // reports of attempts that another source has reported
	Unconfirmed   int            `json:"unconfirmed"`        // reports that did not count because the preferred source did not confirm them
	Attempts      map[string]int `json:"attempts"`           // without duplicates, by kind
	Unanswered    int            `json:"unanswered"`         // challenges that no credentials had followed at the end
	WhileBanned   int            `json:"while_banned"`       // attempts of addresses already banned
	Spared        int            `json:"spared"`             // attempts of never-ban addresses
	Held          int            `json:"held"`               // bans that a guard would have held
	Noticed       []string       `json:"noticed,omitempty"`  // reports without a ban: untrusted
	Messages      int            `json:"sip_messages"`
	Unproven      int            `json:"unproven"`       // refused credentials on the wire whose sender's address may be forged
	Zone          string         `json:"zone,omitempty"` // time zone assumed for attempts in log lines that state none
	Bans          []Ban          `json:"bans"`

	frames int   // of captures
	little error // a recording of which little was understood
}

// A Ban is a ban that would have been made.
type Ban struct {
	Prefix   netip.Prefix     `json:"prefix"`
	Since    time.Time        `json:"since"`
	Until    time.Time        `json:"until,omitzero"` // zero: without end
	Rule     string           `json:"rule"`
	Attempts int              `json:"attempts"`
	Evidence []policy.Attempt `json:"evidence"`
}

// expected describes the recordings that a replay understands.
const expected = "expected mod_cti's log (ip[ADDRESS] user[NAME] at[TIME] REASON), " +
	"FreeSWITCH's console log with mod_cti's lines, an event " +
	"socket stream (Content-Type: text/event-plain, text/event-json or log/data), recorded HEP, pcap or pcapng"

// Err returns an error if the result is meaningless: nothing was understood, or less than half of a recording that is
// neither a console log nor SIP.
func (r *Result) Err() error {
	switch {
	case r.Read == 0 && r.frames > 0:
		return fmt.Errorf("nothing to replay: no SIP message in %d packets (TLS cannot be read from a capture)", r.frames)
	case r.Read == 0:
		return errors.New("nothing to replay: the recordings are empty")
	case r.Understood == 0:
		return fmt.Errorf("none of %d lines or events was understood: %s", r.Read, expected)
	}
	return r.little
}

// judge notes that a recording was read to its end. mod_cti's lines are few in a console log, and every message of a capture
// may be malformed.
func (r *Result) judge(in *input) {
	if r.little == nil && !in.tally.console && in.wire == nil && in.tally.notUnderstood > in.tally.understood {
		r.little = fmt.Errorf("%s: only %d of %d lines or events were understood: %s", in.name, in.tally.understood,
			in.tally.understood+in.tally.notUnderstood, expected)
	}
}

func (r *Result) notUnderstood(in *input, text []byte) {
	r.NotUnderstood++
	in.tally.notUnderstood++
	if !in.tally.console && in.frames == nil {
		_, in.tally.console = logged(text, time.UTC)
	}
	if len(r.Examples) < maxExamples {
		for len(text) > 0 && (text[len(text)-1] == '\n' || text[len(text)-1] == '\r') {
			text = text[:len(text)-1]
		}
		r.Examples = append(r.Examples, string(text[:min(len(text), maxExample)]))
	}
}

func (r *Result) understood(in *input) {
	r.Understood++
	in.tally.understood++
}

func (r *Result) notice(reports []policy.Report) {
	for _, report := range reports {
		r.Noticed = append(r.Noticed, noticed(report))
		if len(r.Noticed) > maxReports {
			r.Noticed = r.Noticed[1:]
		}
	}
}

// noticed renders a report, which causes no ban.
func noticed(r policy.Report) string {
	stamp := func(t time.Time) string { return t.Local().Format(time.DateTime) }
	switch r := r.(type) {
	case policy.StuckPhone:
		return fmt.Sprintf("%s stuck phone: user %.40q at %v, %.40q", stamp(r.Last), r.User, r.Addr, r.UserAgent)
	case policy.SuspiciousLogin:
		login := "suspicious login"
		if r.Likely {
			login = "password guessed"
		}
		return fmt.Sprintf("%s %s: user %.40q from %v (%v)", stamp(r.At), login, r.User, r.Addr, r.Evidence)
	case policy.DistributedAttack:
		return fmt.Sprintf("%s distributed attack: %d addresses on user %.40q", stamp(r.Last), r.Addresses, r.User)
	case policy.GuardChange:
		if r.Active {
			return fmt.Sprintf("%s guard %v: bans are held", stamp(r.At), r.Guard)
		}
		return fmt.Sprintf("%s guard %v: over, %d bans dropped", stamp(r.At), r.Guard, r.Dropped)
	}
	return ""
}
