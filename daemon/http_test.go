package daemon

import (
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"fsban/internal/fakeswitch"
)

// However many connect to the metrics, a bounded number is let in; the others are closed at once and
// counted, and places that come free are given again.
func TestVisitorsAreBoundedAndCounted(t *testing.T) {
	fs := newSwitch(t, fakeswitch.Options{})
	cfg := configFor(t, fs)
	cfg.HTTP.Listen = freePort(t)
	r := start(t, fs, cfg)
	r.ready()
	var open []net.Conn
	leave := func() {
		for _, c := range open {
			_ = c.Close()
		}
		open = nil
	}
	defer leave()
	// A connection over which nothing is asked lasts for the time that a request may take to come: this may take a while here.
	r.eventually("one is closed at once", func() bool {
		for range maxVisitors {
			c, err := net.Dial("tcp", cfg.HTTP.Listen)
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, c)
		}
		return r.turnedAway.Load() > 0
	})
	last := open[len(open)-1]
	_ = last.SetReadDeadline(time.Now().Add(30 * time.Second))
	if n, err := last.Read(make([]byte, 1)); n != 0 || err == nil || os.IsTimeout(err) {
		t.Errorf("the last one: %d bytes, %v", n, err)
	}
	leave()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	page := ""
	r.eventually("there is a place again", func() bool {
		resp, err := client.Get("http://" + cfg.HTTP.Listen + "/metrics")
		if err != nil {
			return false
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		page = string(body)
		return err == nil
	})
	if !strings.Contains(page, "\nfsban_http_connections_dropped_total ") || strings.Contains(page, "\nfsban_http_connections_dropped_total 0\n") {
		t.Errorf("they are not counted:\n%s", page)
	}
}
