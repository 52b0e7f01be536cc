package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"fsban/doctor/fsxml"
	"fsban/esl"
	"fsban/policy"
)

const (
	captureCheck = 5 * time.Second // pause between two looks at the capture
	captureRetry = time.Minute     // pause between two requests
	captureCalm  = 10 * time.Second
	apiPatience  = 5 * time.Second
	lastPatience = time.Second // for switching it off at a stop
)

const sofiaConf = "configuration configuration name sofia.conf"

// A capture switches FreeSWITCH's own capture (HEP) on over the event socket, if sip.hep.enable asks for it, and off at a stop if it
// switched it on. FreeSWITCH has no command that shows its state: the messages do.
//
// Its fields but problem and ask belong to the goroutine of run.
type capture struct {
	tap     *tap
	client  *esl.Client
	ask     chan struct{} // the event socket came up, or a reload changed the settings
	problem atomic.Pointer[string]

	owned bool      // this process has switched it on
	asked time.Time // when FreeSWITCH was asked last
}

func newCapture(t *tap, client *esl.Client) *capture {
	return &capture{tap: t, client: client, ask: make(chan struct{}, 1)}
}

// wake has the capture asked for again. It does not wait.
func (c *capture) wake() {
	select {
	case c.ask <- struct{}{}:
	default:
	}
}

// run keeps the capture on until ctx ends. The event socket must outlive it.
func (c *capture) run(ctx context.Context) error {
	ticker := time.NewTicker(captureCheck)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			c.off()
			return ctx.Err()
		case <-c.ask:
			c.asked = time.Time{}
		case <-ticker.C:
		}
		if c.tap.parts.config().SIP.HEP.Enable {
			c.look(ctx, time.Now())
		} else {
			c.off()
			c.problem.Store(nil)
		}
	}
}

// look asks FreeSWITCH for the capture if it seems to be off, and checks whether it took effect.
func (c *capture) look(ctx context.Context, now time.Time) {
	last := c.tap.hepStats().Last
	missed := c.missed(last)
	switch {
	case c.tap.hep.Load() == nil || !c.client.State().Up: // problems of their own; without a collector FreeSWITCH logs an error a message
	case c.asked.IsZero() && now.Sub(last) < captureCalm && last.After(c.client.State().Since): // on; a restart of FreeSWITCH ends it
		c.asked = now
		c.problem.Store(nil)
	case c.asked.IsZero(), missed && now.Sub(c.asked) >= captureRetry:
		c.asked = now
		c.conclude(c.on(ctx))
	case missed && now.Sub(c.asked) >= captureCalm:
		c.conclude(fmt.Errorf("FreeSWITCH was asked for its capture, and reports logins, but no SIP message arrives at %s: see FreeSWITCH's "+
			"log, and restart the profile", c.tap.parts.config().SIP.HEP.Listen))
	case last.After(c.asked):
		c.problem.Store(nil)
	}
}

// missed reports whether the event socket has reported a login whose SIP messages have not come.
func (c *capture) missed(last time.Time) bool {
	us := c.tap.parts.loop.LastReport(policy.Event)
	return us > 0 && time.UnixMicro(us).Sub(last) > captureCalm
}

func (c *capture) conclude(err error) {
	if err == nil {
		c.problem.Store(nil)
		return
	}
	text := "sip.hep.enable: " + err.Error()
	if before := c.problem.Swap(&text); before == nil || *before != text {
		c.tap.parts.log.Error("FreeSWITCH's capture is not on", "error", err)
	}
}

// on has FreeSWITCH send its SIP messages.
func (c *capture) on(ctx context.Context) error {
	conf, err := c.settings(ctx)
	if err == nil && captureServer(conf) == "" { // perhaps it was written and not loaded
		if _, err = c.api(ctx, "reloadxml", ""); err == nil {
			conf, err = c.settings(ctx)
		}
	}
	if err != nil {
		return err
	}
	if err := c.checkServer(captureServer(conf)); err != nil {
		return err
	}
	profile, owned := captured(conf)
	if profile == "" {
		return errors.New("sofia.conf.xml has no profile")
	}
	// Without the rescan FreeSWITCH does not know the server, and answers all the same that the capture is on.
	if _, err := c.api(ctx, "sofia", "profile "+profile+" rescan"); err != nil {
		return err
	}
	if _, err := c.api(ctx, "sofia", "global capture on"); err != nil {
		return err
	}
	c.owned = c.owned || owned
	c.tap.parts.log.Info("FreeSWITCH was asked for its capture", "switched_off_at_a_stop", c.owned)
	return nil
}

// off switches the capture off if this process switched it on.
func (c *capture) off() {
	if !c.owned {
		return
	}
	c.owned = false
	ctx, cancel := context.WithTimeout(context.Background(), lastPatience)
	defer cancel()
	if _, err := c.api(ctx, "sofia", "global capture off"); err != nil {
		c.tap.parts.log.Warn("FreeSWITCH's capture stays on: run fs_cli -x 'sofia global capture off'", "error", err)
	}
}

// api runs an api command, and returns FreeSWITCH's refusal as an error.
func (c *capture) api(ctx context.Context, name, arguments string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, apiPatience)
	defer cancel()
	command := strings.TrimSpace(name + " " + arguments)
	answer, err := c.client.API(ctx, name, arguments)
	if err != nil {
		return nil, fmt.Errorf("FreeSWITCH does not run %q: %w", command, err)
	}
	answer = bytes.TrimSpace(answer)
	if bytes.HasPrefix(answer, []byte("-ERR")) || bytes.HasPrefix(answer, []byte("Invalid")) {
		return nil, fmt.Errorf("FreeSWITCH answers %q with %.80q", command, answer)
	}
	return answer, nil
}

func (c *capture) settings(ctx context.Context) (*fsxml.Element, error) {
	data, err := c.api(ctx, "xml_locate", sofiaConf)
	if err != nil {
		return nil, err
	}
	conf, err := fsxml.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("sofia.conf.xml, as FreeSWITCH shows it: %w", err)
	}
	return conf, nil
}

// param returns the last value of a parameter.
func param(settings *fsxml.Element, name string) (value string) {
	for _, p := range settings.Children("param") {
		if p.Attribute("name") == name {
			value = strings.TrimSpace(p.Attribute("value"))
		}
	}
	return value
}

func captureServer(conf *fsxml.Element) string {
	return param(conf.Child("global_settings"), "capture-server")
}

// captured returns a profile, and whether no profile asks for the capture itself.
func captured(conf *fsxml.Element) (profile string, none bool) {
	none = true
	for _, p := range conf.Child("profiles").Children("profile") {
		name := p.Attribute("name")
		if profile == "" && name != "" && !strings.ContainsAny(name, " \t\r\n'\"") {
			profile = name
		}
		none = none && !fsxml.IsTrue(param(p.Child("settings"), "sip-capture"))
	}
	return profile, none
}

// checkServer returns an error if FreeSWITCH would send its capture to another place than here.
func (c *capture) checkServer(server string) error {
	listen := c.tap.hepAddr()
	want := fmt.Sprintf(`<param name="capture-server" value="udp:%v;hep=3;capture_id=1"/>`, listen)
	if server == "" {
		return fmt.Errorf("sofia.conf.xml has no capture-server: add %s to its global_settings, and run fsban reload", want)
	}
	place, _, _ := strings.Cut(strings.TrimPrefix(server, "udp:"), ";")
	to, err := netip.ParseAddrPort(place)
	switch {
	case err != nil:
		return fmt.Errorf("the capture-server of sofia.conf.xml, %.80q, is no address that fsban can compare with its own: write %s",
			server, want)
	case to == listen, listen.Addr().IsUnspecified() && to.Port() == listen.Port():
		return nil
	}
	return fmt.Errorf("FreeSWITCH sends its capture to %v, and fsban listens at %v: write %s in sofia.conf.xml, and if %v is a collector, "+
		"write it into sip.hep.forward", to, listen, want, to)
}

// hepAddr returns the address at which the tap listens.
func (t *tap) hepAddr() netip.AddrPort {
	if l := t.hep.Load(); l != nil {
		return l.Addr()
	}
	addr, _ := netip.ParseAddrPort(t.parts.config().SIP.HEP.Listen)
	return addr
}
