package detect

import (
	"bytes"
	"slices"
	"time"
	"unicode/utf8"

	"fsban/esl"
	"fsban/policy"
)

// Calls say which calls count as attempts: those of strangers that the dialplan does not take, and those of strangers to
// numbers that are not allowed.
//
// A stranger's call comes by SIP, with no password and no access list of FreeSWITCH's to speak for it, into one of
// Contexts, and for none of our gateways. The number and the context must be those it came with: of a call that the
// dialplan transferred nobody knows what was dialled, so it never counts.
type Calls struct {
	Contexts    []string // dialplan contexts that strangers' calls reach; empty: calls are not looked at
	DenyPrefix  []string // beginnings of numbers that are not allowed, whatever becomes of the call
	AllowPrefix []string // beginnings of numbers that are: they win over DenyPrefix and MaxLength
	MaxLength   int      // of a number that is allowed, in characters; 0: any
}

func (c *Calls) wanted() bool { return len(c.Contexts) > 0 }

// CallEvent is the native event that a Detector with Calls understands: one at the end of each call.
const CallEvent = "CHANNEL_HANGUP_COMPLETE"

// The headers that are read of a CallEvent, by their index in Fields, where calls are looked at.
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

// CallFilters are the headers and values of which a CallEvent that matters has at least one, for FreeSWITCH's filter
// command. What becomes of most calls is not asked for: FreeSWITCH itself refused those that the dialplan did not take.
// Only where numbers are not allowed every call into Contexts matters, answered ones too. Nil: calls are not looked at.
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

// call says what the end of a call means.
//
// Caller-Network-Addr is the packet's source address when the call comes in, but a dialplan may set it
// (set_profile_var), and an answer to a later request of ours replaces it. sip_received_ip stays what it was. Where the
// two differ, the address is not certain, and nobody is to be banned for it.
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

// stranger tells whether nobody vouches for a call. One leg of a loopback has the address, the context and the number of
// a call that somebody else made, but did not come by SIP. A call with a gateway's name is a carrier's that we have
// registered at, or of somebody who knows the name.
func (c *Calls) stranger(ev *esl.Event) bool {
	context, authorized, index := ev.Get(callContext), ev.Get(sipAuthorized), ev.Get(profileIndex)
	return string(ev.Get(callDirection)) == "inbound" &&
		slices.ContainsFunc(c.Contexts, func(s string) bool { return s == string(context) }) &&
		(len(authorized) == 0 || string(authorized) == "false") &&
		(len(index) == 0 || string(index) == "1") &&
		len(ev.Get(sipGateway)) == 0 &&
		len(ev.Get(sipReceivedIP)) > 0
}

// forbid tells whether number is not allowed, whoever calls it.
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
