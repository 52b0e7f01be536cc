package detect

import "fsban/esl"

// sendRefuse is the hangup disposition of a call that FreeSWITCH itself refused before it was answered. A caller who hangs up
// leaves "recv_cancel".
const sendRefuse = "send_refuse"

// refused reports whether the dialplan refused a call: FreeSWITCH ended it, no endpoint took it or was called, and its cause is
// one of a refusal. Unknown cases are not refusals: to ban a carrier is worse than to miss a probe.
func refused(ev *esl.Event) bool {
	return string(ev.Get(hangupDisposition)) == sendRefuse && string(ev.Get(hitDialplan)) == "true" &&
		untouched(ev) && idle(ev.Get(lastApp)) && saysNo(ev)
}

// untouched reports whether a call never rang, had no early media, was not answered or connected, and no endpoint was called
// for it. An attempt to bridge, even a failed one, leaves originate_disposition and originate_failed_cause, regardless of later
// actions of the dialplan.
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

// saysNo reports whether the last application and the hangup cause are those of a refusal.
func saysNo(ev *esl.Event) bool {
	app, cause := ev.Get(currentApp), ev.Get(hangupCause)
	switch {
	case !idle(app):
		return false
	case string(cause) == "NORMAL_CLEARING":
		// The dialplan ended without an action. A hangup without a cause looks the same, but may as well be the end of a
		// service.
		return string(app) != "hangup" && string(app) != "respond"
	case string(app) == "respond":
		return refusingCode(ev.Get(currentAppData)) && refusingCause(cause)
	}
	return refusingCause(cause)
}

// idle reports whether an application only describes or refuses a call. Any application not in the list, like a script, a
// queue, a conference or playback, takes the call.
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

// refusingCause reports whether a cause refuses the caller or the number. Causes of trouble, congestion, time-outs, busy or
// absent users, and cancellation do not.
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

// refusingCode reports whether the argument of respond begins with a status that is a refusal. 401 and 407 ask for a password,
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
