package detect

import (
	"bytes"
	"slices"
	"time"
	"unicode/utf8"

	"fsban/esl"
	"fsban/policy"
)

// Calls select the calls that count as attempts: calls of strangers that the dialplan does not take, and calls of strangers to
// numbers that are not allowed.
//
// A stranger's call arrives by SIP in one of Contexts, without a password, an access list or one of our gateways that vouches
// for it. The number and the context must be the original ones: after a transfer by the dialplan the dialled number is unknown,
// so such a call never counts.
type Calls struct {
	Contexts    []string // dialplan contexts that strangers' calls reach; empty: calls are ignored
	DenyPrefix  []string // prefixes of numbers that are not allowed, whether or not the call succeeds
	AllowPrefix []string // prefixes of allowed numbers: they override DenyPrefix and MaxLength
	MaxLength   int      // maximum length of an allowed number, in characters; 0: any
}

func (c *Calls) wanted() bool { return len(c.Contexts) > 0 }

// CallEvent is the native event that a Detector with Calls reads: one at the end of each call.
const CallEvent = "CHANNEL_HANGUP_COMPLETE"

// Indexes in Fields of the headers of a CallEvent, if calls are read.
const (
	callDirection = endOfSofia + iota
	hitDialplan
	callContext
	callNumber
	callAddr
	profileIndex
	answeredTime
	progressTime
	progressMediaTime
	bridgedTime
	hangupCause
	hangupDisposition
	sipAuthorized
	sipGateway
	sipReceivedIP
	sipFromUser
	sipReqHost
	sipUserAgent
	sofiaProfile
	lastApp
	currentApp
	currentAppData
	originateDisposition
	originateFailed
	lastBridgeTo
	endOfCalls
)

var callHeaders = [endOfCalls - endOfSofia]string{
	callDirection - endOfSofia:        "Call-Direction",
	hitDialplan - endOfSofia:          "Channel-HIT-Dialplan",
	callContext - endOfSofia:          "Caller-Context",
	callNumber - endOfSofia:           "Caller-Destination-Number",
	callAddr - endOfSofia:             "Caller-Network-Addr",
	profileIndex - endOfSofia:         "Caller-Profile-Index",
	answeredTime - endOfSofia:         "Caller-Channel-Answered-Time",
	progressTime - endOfSofia:         "Caller-Channel-Progress-Time",
	progressMediaTime - endOfSofia:    "Caller-Channel-Progress-Media-Time",
	bridgedTime - endOfSofia:          "Caller-Channel-Bridged-Time",
	hangupCause - endOfSofia:          "Hangup-Cause",
	hangupDisposition - endOfSofia:    "variable_sip_hangup_disposition",
	sipAuthorized - endOfSofia:        "variable_sip_authorized",
	sipGateway - endOfSofia:           "variable_sip_gateway",
	sipReceivedIP - endOfSofia:        "variable_sip_received_ip",
	sipFromUser - endOfSofia:          "variable_sip_from_user",
	sipReqHost - endOfSofia:           "variable_sip_req_host",
	sipUserAgent - endOfSofia:         "variable_sip_user_agent",
	sofiaProfile - endOfSofia:         "variable_sofia_profile_name",
	lastApp - endOfSofia:              "variable_last_app",
	currentApp - endOfSofia:           "variable_current_application",
	currentAppData - endOfSofia:       "variable_current_application_data",
	originateDisposition - endOfSofia: "variable_originate_disposition",
	originateFailed - endOfSofia:      "variable_originate_failed_cause",
	lastBridgeTo - endOfSofia:         "variable_last_bridge_to",
}

// CallFilters returns headers and values for the filter command of FreeSWITCH: a relevant CallEvent has at least one of them. Calls that
// the dialplan did not take were refused by FreeSWITCH itself; only if some numbers are not allowed, every call into Contexts is
// relevant, answered ones too. Nil: calls are not read.
func (d *Detector) CallFilters() [][2]string {
	if !d.calls.wanted() {
		return nil
	}
	filters := [][2]string{{callHeaders[hangupDisposition-endOfSofia], sendRefuse}}
	if len(d.calls.DenyPrefix) > 0 || d.calls.MaxLength > 0 {
		for _, c := range d.calls.Contexts {
			filters = append(filters, [2]string{callHeaders[callContext-endOfSofia], c})
		}
	}
	return filters
}

// call returns the attempt that the end of a call reports.
//
// Caller-Network-Addr is the packet's source address when the call arrives, but a dialplan may set it (set_profile_var), and an
// answer to a later request of ours replaces it. sip_received_ip does not change. If the two differ, the address is not
// certain, and the call does not count.
func (d *Detector) call(ev *esl.Event, now time.Time) (policy.Attempt, Outcome) {
	number := ev.Get(callNumber)
	if !d.calls.stranger(ev) || !d.calls.forbid(number) && !refused(ev) {
		return policy.Attempt{}, NoAttempt
	}
	from := ev.Get(callAddr)
	addr, ok := d.addrs.parse(from)
	if !ok || !bytes.Equal(from, ev.Get(sipReceivedIP)) {
		return policy.Attempt{}, NoAddress
	}
	a := policy.Attempt{
		Addr: addr, Kind: policy.CallReject, Source: policy.Event, Method: policy.Invite,
		User:      d.texts.keep(ev.Get(sipFromUser)),
		Number:    d.texts.keep(number),
		Domain:    d.texts.keep(ev.Get(sipReqHost)),
		Profile:   d.texts.keep(ev.Get(sofiaProfile)),
		UserAgent: d.texts.keep(ev.Get(sipUserAgent)),
	}
	outcome := timed(&a, ev, now)
	return a, outcome
}

// stranger reports whether nothing vouches for a call. One leg of a loopback has the address, the context and the number of
// another call, but did not arrive by SIP. A call with a gateway's name is from a carrier at which we have registered, or from
// a peer that knows the name.
func (c *Calls) stranger(ev *esl.Event) bool {
	context, authorized, index := ev.Get(callContext), ev.Get(sipAuthorized), ev.Get(profileIndex)
	return string(ev.Get(callDirection)) == "inbound" &&
		slices.ContainsFunc(c.Contexts, func(s string) bool { return s == string(context) }) &&
		(len(authorized) == 0 || string(authorized) == "false") &&
		(len(index) == 0 || string(index) == "1") &&
		len(ev.Get(sipGateway)) == 0 &&
		len(ev.Get(sipReceivedIP)) > 0
}

// forbid reports whether number is not allowed for any caller.
func (c *Calls) forbid(number []byte) bool {
	if len(number) == 0 || begins(number, c.AllowPrefix) {
		return false
	}
	return begins(number, c.DenyPrefix) || c.MaxLength > 0 && utf8.RuneCount(number) > c.MaxLength
}

func begins(number []byte, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(p string) bool {
		return p != "" && len(number) >= len(p) && string(number[:len(p)]) == p
	})
}
