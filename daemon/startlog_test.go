package daemon

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"fsban/config"
	"fsban/esl"
	"fsban/fleet"
)

// A start at which FreeSWITCH is not connected yet, or the fleet is new, logs no warning of it.
func TestAnOrdinaryStartLogsNoWarning(t *testing.T) {
	var log bytes.Buffer
	d := &Daemon{log: slog.New(slog.NewTextHandler(&log, nil))}
	cfg := config.Default()
	d.config.Store(&cfg)
	d.onFleet(fleet.Status{Err: fmt.Errorf("the fleet's Redis: %w", fleet.ErrEmpty)})
	n := &neverBan{log: d.log}
	n.logProblems([]string{fmt.Sprintf("gateways: %v: no gateway is known", esl.ErrDown)})
	if strings.Contains(log.String(), "WARN") || !strings.Contains(log.String(), "fleet has no state yet") {
		t.Errorf("log: %s", &log)
	}
	log.Reset()
	d.onFleet(fleet.Status{Err: fmt.Errorf("connection refused")})
	for range 2 {
		n.logProblems([]string{"carrier.example does not resolve"})
	}
	for _, message := range []string{"fleet unreachable", "never-ban list incomplete"} {
		if strings.Count(log.String(), message) != 1 {
			t.Errorf("%q not logged once: %s", message, &log)
		}
	}
}
