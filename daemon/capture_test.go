package daemon

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"fsban/config"
	"fsban/control"
	"fsban/internal/fakeswitch"
	"fsban/internal/testenv"
)

// sofiaConfOf is the configuration of a FreeSWITCH with a capture-server, unless that is empty, and the sip-capture of a profile.
func sofiaConfOf(server, capture string) string {
	global := ""
	if server != "" {
		global = fmt.Sprintf(`<param name="capture-server" value="%s"></param>`, server)
	}
	return fmt.Sprintf(`<configuration name="sofia.conf" description="sofia Endpoint"><global_settings>%s</global_settings><profiles>`+
		`<profile name="internal"><settings><param name="sip-capture" value="%s"></param></settings></profile></profiles></configuration>`, global, capture)
}

// enabling starts a daemon that asks for the capture, with a FreeSWITCH that has this configuration.
func enabling(t *testing.T, conf func(listen string) string) (*rig, string) {
	t.Helper()
	listen := testenv.Address(t)
	fs := newSwitch(t, fakeswitch.Options{})
	fs.SetReply("xml_locate "+sofiaConf, conf(listen))
	fs.SetReply("reloadxml", "+OK [Success]\n")
	fs.SetReply("sofia profile internal rescan", "+OK scan complete\n")
	fs.SetReply("sofia global capture on", "+OK Global capture on\n")
	fs.SetReply("sofia global capture off", "+OK Global capture off\n")
	cfg := configFor(t, fs)
	cfg.Policy.IgnoreGateways = false // nobody else asks for sofia.conf
	cfg.SIP.Tap, cfg.SIP.HEP.Listen, cfg.SIP.HEP.Enable = config.TapHEP, listen, true
	r := start(t, fs, cfg)
	r.ready()
	return r, listen
}

// ran returns the commands of a capture that FreeSWITCH has run.
func (r *rig) ran() (list []string) {
	for _, command := range r.fs.Ran() {
		if strings.HasPrefix(command, "sofia profile") || strings.HasPrefix(command, "sofia global") || command == "reloadxml" {
			list = append(list, command)
		}
	}
	return list
}

func TestTheCaptureIsSwitchedOnAndOff(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		capture string
		off     bool
	}{"by fsban": {"no", true}, "by the profile": {"yes", false}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, _ := enabling(t, func(listen string) string { return sofiaConfOf("udp:"+listen+";hep=3;capture_id=7", test.capture) })
			want := []string{"sofia profile internal rescan", "sofia global capture on"}
			r.eventually("the capture is on", func() bool { return slices.Equal(r.ran(), want) })
			r.logged("FreeSWITCH was asked for its capture")
			r.noProblem("sip.hep.enable")
			if err := r.stop(); err != nil {
				t.Fatal(err)
			}
			if test.off {
				want = append(want, "sofia global capture off")
			}
			if got := r.ran(); !slices.Equal(got, want) {
				t.Errorf("commands %q, want %q", got, want)
			}
		})
	}
}

func TestTheCaptureNeedsAServer(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		server string
		want   []string
	}{
		"none":         {"", []string{"sip.hep.enable", "has no capture-server", `value="udp:127.0.0.1:`}},
		"another port": {"udp:127.0.0.1:9;hep=3", []string{"sends its capture to 127.0.0.1:9", "sip.hep.forward"}},
		"a name":       {"udp:homer.example.org:9060", []string{"no address that fsban can compare"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, listen := enabling(t, func(string) string { return sofiaConfOf(test.server, "no") })
			r.problem(test.want...)
			if slices.ContainsFunc(r.ran(), func(c string) bool { return strings.HasPrefix(c, "sofia") }) {
				t.Errorf("commands %q", r.ran())
			}
			// An operator mends it, and asks again.
			r.fs.SetReply("xml_locate "+sofiaConf, sofiaConfOf("udp:"+listen, "no"))
			r.sources.tap.configure(r.cfg())
			r.noProblem("sip.hep.enable")
			r.eventually("the capture is on", func() bool { return slices.Contains(r.ran(), "sofia global capture on") })
		})
	}
}

// A FreeSWITCH that restarted has forgotten its capture, however short ago a message came.
func TestARestartedFreeSWITCHIsAskedForItsCaptureAgain(t *testing.T) {
	t.Parallel()
	r, _ := enabling(t, func(listen string) string { return sofiaConfOf("udp:"+listen+";hep=3", "no") })
	asked := func(times int) func() bool {
		return func() bool {
			n := 0
			for _, command := range r.ran() {
				if command == "sofia global capture on" {
					n++
				}
			}
			return n >= times
		}
	}
	r.eventually("the capture is on", asked(1))
	r.mirror(datagrams(t, "hep-options-svmap")...)
	addr := r.fs.Addr()
	r.fs.CloseListener()
	r.fs.End(fakeswitch.Kill)
	r.statusIs("the event socket is down", func(s control.Status) bool { return !s.Sources[0].Up })
	if err := r.fs.Listen(addr); err != nil {
		t.Fatal(err)
	}
	r.eventually("the capture is on again", asked(2))
}
