package detect

import "fsban/esl"

// sendRefuse is how a call ends that FreeSWITCH itself refused before anybody answered. A caller who gives up leaves
// "recv_cancel".
const sendRefuse = "send_refuse"

// refused tells whether the dialplan said no to a call: FreeSWITCH refused it, nobody took it or was asked to, and its
// cause is one that a no gives. What is not known to be a no is none: to ban a carrier is worse than to miss a probe.
func refused(ev *esl.Event) bool {
	return string(ev.Get(hangupDisposition)) == sendRefuse && string(ev.Get(hitDialplan)) == "true" &&
		untouched(ev) && idle(ev.Get(lastApp)) && saysNo(ev)
}

// untouched tells whether a call never rang, had no early media, was not answered and not connected to anybody, and
// that nobody was called for it. An attempt to bridge, and one that failed too, leaves originate_disposition and
// originate_failed_cause, whatever the dialplan does afterwards.
func untouched(ev *esl.Event) bool {
	for _, i := range [...]int{answeredTime, progressTime, progressMediaTime, bridgedTime} {
		if t := ev.Get(i); len(t) > 0 && string(t) != "0" {
			return false
		}
	}
	for _, i := range [...]int{originateDisposition, originateFailed, lastBridgeTo} {
		if len(ev.Get(i)) > 0 {
			return false
		}
	}
	return true
}

// saysNo tells whether the last application and the cause of the end are those of a no.
func saysNo(ev *esl.Event) bool {
	app, cause := ev.Get(currentApp), ev.Get(hangupCause)
	switch {
	case !idle(app):
		return false
	case string(cause) == "NORMAL_CLEARING":
		// The dialplan came to its end without having done anything. A hangup without a cause gives the same, but may as
		// well be the end of a service.
		return string(app) != "hangup" && string(app) != "respond"
	case string(app) == "respond":
		return refusingCode(ev.Get(currentAppData)) && refusingCause(cause)
	}
	return refusingCause(cause)
}

// idle tells whether an application does nothing to a call but to describe or to refuse it. Whatever is not in the list,
// like a script, a queue, a conference or a file that is played, takes the call.
func idle(app []byte) bool {
	switch string(app) {
	case "", // none: no extension matched
		"set", "unset", "multiset", "multiunset", "export", "bridge_export", "set_profile_var", "set_global",
		"log", "info", "eval", "session_loglevel", "verbose_events",
		"check_acl", "hangup", "respond":
		return true
	}
	return false
}

// refusingCause tells whether a cause is a no to the caller or to the number. Causes of trouble, congestion, time-outs,
// of somebody's being busy or away, and of the caller's giving up are not.
func refusingCause(cause []byte) bool {
	switch string(cause) {
	case "CALL_REJECTED", // respond 403, 603
		"UNALLOCATED_NUMBER",   // respond 404
		"NO_ROUTE_DESTINATION", // no extension; respond 604
		"INVALID_NUMBER_FORMAT",
		"OUTGOING_CALL_BARRED", "INCOMING_CALL_BARRED",
		"UNWANTED", // respond 607
		"REJECT_ALL", "DOES_NOT_EXIST_ANYWHERE":
		return true
	}
	return false
}

// refusingCode tells whether what respond was told begins with a status that is a no. 401 and 407 ask for a password,
// 484 asks for more digits: with these a call only begins.
func refusingCode(data []byte) bool {
	if len(data) < 3 || len(data) > 3 && data[3] != ' ' {
		return false
	}
	switch string(data[:3]) {
	case "403", "404", "603", "604", "607", "608":
		return true
	}
	return false
}
