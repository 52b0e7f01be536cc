package detect

import (
	"math"
	"strconv"
	"time"

	"fsban/esl"
)

// Indexes of the headers of a HEARTBEAT (send_heartbeat of switch_core.c), behind those of sofia and of calls. Session-Per-Sec
// is not read: it is the number of calls that may still begin in the current second.
const (
	uptime = iota
	sessionCount
	maxSessions
	sessionsLastSecond
	idleCPU
	coreUUID // of every event
	endOfHeartbeat
)

var heartbeatHeaders = [endOfHeartbeat]string{
	uptime:             "Uptime-msec",
	sessionCount:       "Session-Count",
	maxSessions:        "Max-Sessions",
	sessionsLastSecond: "Session-Per-Sec-Last",
	idleCPU:            "Idle-CPU",
	coreUUID:           "Core-UUID",
}

// A Heartbeat is the state that FreeSWITCH reports every few seconds. Missing and invalid values are zero.
type Heartbeat struct {
	Uptime            time.Duration
	Sessions          float64 // current legs of calls
	SessionsLimit     float64 // maximum of Sessions
	SessionsPerSecond float64 // begun within the last second
	IdleCPU           float64 // of the host, 0 to 1
}

// Heartbeat reads ev, an event with d's Fields; ok is false if it is not a HEARTBEAT.
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

// Core returns what identifies the process of FreeSWITCH that sent ev, an event with d's Fields: another one after each start.
func (d *Detector) Core(ev *esl.Event) []byte { return ev.Get(d.heartbeat + coreUUID) }
