package fakeswitch

import (
	"fmt"
	"net/netip"
	"strconv"
	"time"
)

// callerOf returns the caller named by a channel event.
func callerOf(e event) Caller {
	c := Caller{
		Port:      port(e.get("variable_sip_network_port")),
		User:      e.get("Caller-Username"),
		Number:    e.get("Caller-Destination-Number"),
		UserAgent: e.get("variable_sip_user_agent"),
		Profile:   e.get("variable_sofia_profile_name"),
	}
	c.Addr, _ = netip.ParseAddr(e.get("Caller-Network-Addr"))
	return c
}

// callChanges returns the substitutions within the values of a channel's events, apart from values that consist of the user
// name alone: the caller's address in Via, Contact and the session description, user and number in SIP addresses, and the
// channel's timestamps.
func callChanges(was, is Caller, at time.Time) []string {
	via := func(c Caller) string { return encode(netip.AddrPortFrom(c.Addr, c.Port).String()) }
	id := func(c Caller) string { return encode(fmt.Sprintf(`"%s" <%s>`, c.User, c.User)) }
	changes := []string{
		via(was), via(is),
		was.Addr.String(), encode(is.Addr.String()),
		strconv.Itoa(int(was.Port)), strconv.Itoa(int(is.Port)),
		was.Number, encode(is.Number),
		was.User + "%40", encode(is.User) + "%40",
		id(was), id(is),
		"sofia/" + was.Profile + "/", "sofia/" + encode(is.Profile) + "/",
	}
	if at.IsZero() {
		return changes
	}
	return append(changes,
		strconv.FormatInt(callBegan.UnixMicro(), 10), strconv.FormatInt(at.UnixMicro(), 10),
		strconv.FormatInt(callBegan.Unix(), 10), strconv.FormatInt(at.Unix(), 10),
		encode(callBegan.Format(rfc2822)), encode(at.Format(rfc2822)),
		encode(callBegan.Format(time.DateTime)), encode(at.Format(time.DateTime)),
	)
}

const rfc2822 = "Mon, 02 Jan 2006 15:04:05 -0700"

// callBegan is the time of all timestamps in the recorded call.
var callBegan = time.UnixMicro(1795364144818026).UTC()

// answered turns the end of a refused call into the end of an answered call that the caller hung up, by replacing the headers
// in which FreeSWITCH's events of such a call differ.
func answered(refused *recording) *recording {
	stamp := strconv.FormatInt(callBegan.UnixMicro(), 10)
	says := map[string]string{
		"Caller-Channel-Answered-Time":    stamp,
		"variable_answer_uepoch":          stamp,
		"variable_answer_epoch":           strconv.FormatInt(callBegan.Unix(), 10),
		"variable_endpoint_disposition":   "ANSWER",
		"variable_sip_hangup_disposition": "recv_bye",
	}
	r := &recording{caller: refused.caller, changes: refused.changes}
	for _, e := range refused.events {
		if e.name != "CHANNEL_HANGUP_COMPLETE" {
			continue
		}
		other := event{name: e.name}
		for _, h := range e.headers {
			if value, ok := says[h.name]; ok {
				h.value = value
			}
			other.headers = append(other.headers, h)
		}
		r.events = append(r.events, other)
	}
	return r
}
