package detect

import (
	"math"
	"strconv"
	"time"

	"fsban/esl"
)

// The headers that are read of a HEARTBEAT (send_heartbeat of switch_core.c), by their index behind those of sofia's and of
// calls. Session-Per-Sec is none of them: it is how many calls may still begin in the second that has just begun.
const (
	uptime = iota
	sessionCount
	maxSessions
	sessionsLastSecond
	idleCPU
	endOfHeartbeat
)

var heartbeatHeaders = [endOfHeartbeat]string{
	uptime:             "Uptime-msec",
	sessionCount:       "Session-Count",
	maxSessions:        "Max-Sessions",
	sessionsLastSecond: "Session-Per-Sec-Last",
	idleCPU:            "Idle-CPU",
}

// A Heartbeat is what FreeSWITCH says of itself every few seconds. What an event does not say, or says wrongly, is zero.
type Heartbeat struct {
	Uptime            time.Duration
	Sessions          float64 // calls' legs that there are now
	SessionsLimit     float64 // how many there may be
	SessionsPerSecond float64 // begun within the last second
	IdleCPU           float64 // of the host, 0 to 1
}

// Heartbeat reads ev, an event with d's Fields; ok is false where it is no HEARTBEAT.
func (d *Detector) Heartbeat(ev *esl.Event) (beat Heartbeat, ok bool) {
	if string(ev.Get(eventName)) != "HEARTBEAT" {
		return beat, false
	}
	number := func(header int, limit float64) float64 {
		text := ev.Get(d.heartbeat + header)
		if len(text) > 24 { // FreeSWITCH's own are shorter
			return 0
		}
		n, err := strconv.ParseFloat(string(text), 64)
		if err != nil || math.IsNaN(n) || n < 0 || n > limit {
			return 0
		}
		return n
	}
	const century = 100 * 365 * 24 * time.Hour
	return Heartbeat{
		Uptime:   time.Duration(number(uptime, float64(century/time.Millisecond))) * time.Millisecond,
		Sessions: number(sessionCount, math.MaxUint32), SessionsLimit: number(maxSessions, math.MaxUint32),
		SessionsPerSecond: number(sessionsLastSecond, math.MaxUint32), IdleCPU: number(idleCPU, 100) / 100,
	}, true
}
