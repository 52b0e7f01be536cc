package detect

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"fsban/esl"
)

func TestParseDomains(t *testing.T) {
	for text, want := range map[string]map[string]string{
		"": {}, "<configuration/>": {}, "-ERR no": {},
		`<configuration name="sofia.conf"><profiles><profile name="internal"><settings><param name="force-register-domain" value="pbx.example"/>` +
			`<param name="sip-port" value="5060"/></settings></profile><profile name="external"><settings/></profile></profiles></configuration>`: {"internal": "pbx.example"},
		`<profile name="a"><param name="force-register-domain" value="a.example"/></profile><profile name="b"><param name="force-register-domain" value=""/></profile>` +
			`<param name="force-register-domain" value="none.example"/>`: {"a": "a.example"},
		`<profile name="a"><param name="force-register-domain" value="` + strings.Repeat("x", 300) + `"/></profile>`: {},
	} {
		if got, err := ParseDomains([]byte(text)); err != nil || !maps.Equal(got, want) {
			t.Errorf("%.80q: %v, %v, want %v", text, got, err, want)
		}
	}
	deep := strings.Repeat("<a>", 1000)
	if _, err := ParseDomains([]byte(deep)); err == nil {
		t.Error("a thousand elements within each other")
	}
	many := strings.Builder{}
	for i := range 5 * maxProfiles {
		_, _ = fmt.Fprintf(&many, `<profile name="p%d"><param name="force-register-domain" value="x"/></profile>`, i)
	}
	if got, err := ParseDomains([]byte(many.String())); err != nil || len(got) != maxProfiles {
		t.Errorf("%d profiles, %v", len(got), err)
	}
}

// FuzzParseDomains: any answer of FreeSWITCH is read within the bounds.
func FuzzParseDomains(f *testing.F) {
	f.Add([]byte(`<profile name="a"><param name="force-register-domain" value="a.example"/></profile>`))
	f.Fuzz(func(t *testing.T, data []byte) {
		domains, err := ParseDomains(data)
		for profile, domain := range domains {
			if profile == "" || domain == "" || len(domain) > maxDomainText || err != nil {
				t.Errorf("%q: %q, %v", profile, domain, err)
			}
		}
	})
}

// events are the events of a failed REGISTER of user 9999, as recorded in register-unknown-user-other-domain, with any domain in To and any
// realm in the credentials.
func events(t *testing.T, d *Detector, to, realm string) []*esl.Event {
	t.Helper()
	var list []*esl.Event
	for _, text := range []string{
		"Event-Subclass: sofia%3A%3Aregister_attempt\nfrom-user: 9999\nfrom-host: 10.77.0.1\nto-user: 9999\nto-host: " + to +
			"\nusername: 9999\nrealm: " + realm + "\nauth-result: FORBIDDEN\n",
		"Event-Subclass: sofia%3A%3Aregister_failure\nto-user: 9999\nto-host: " + to + "\nregistration-type: REGISTER\n",
	} {
		ev := esl.NewEvent(d.Fields())
		body := "Event-Name: CUSTOM\nEvent-Date-Timestamp: 1795363930110000\nprofile-name: internal\nnetwork-ip: 10.77.0.5\nnetwork-port: 55993\n" + text + "\n"
		if err := ev.Parse([]byte(body)); err != nil {
			t.Fatal(err)
		}
		list = append(list, ev)
	}
	return list
}

// FreeSWITCH looks up a user in force-register-domain of the profile, or else in the realm of the credentials, whatever To says.
func TestUsersAreOfTheDomainInWhichFreeSWITCHLooksThemUp(t *testing.T) {
	forced := func(profile string) string { return map[string]string{"internal": "pbx.example"}[profile] }
	other := func(profile string) string { return map[string]string{"external": "x.example"}[profile] }
	for name, c := range map[string]struct {
		forced    func(string) string
		to, realm string
		want      string
	}{
		"forced":                         {forced, "d1.example", "d1.example", "pbx.example"},
		"forced, another realm":          {forced, "d1.example", "d2.example", "pbx.example"},
		"not forced: the realm":          {nil, "d1.example", "pbx.example", "pbx.example"},
		"forced for another profile":     {other, "d1.example", "pbx.example", "pbx.example"},
		"not forced, without a realm":    {nil, "d1.example", "", "d1.example"},
		"not forced, as phones have it":  {nil, "pbx.example", "pbx.example", "pbx.example"},
		"forced, and nothing in request": {forced, "", "", "pbx.example"},
	} {
		t.Run(name, func(t *testing.T) {
			d := New(Options{})
			d.ForceDomains(c.forced)
			now := time.UnixMicro(1795363930110000)
			list := events(t, d, c.to, c.realm)
			if _, outcome := d.Event(list[0], now); outcome != NoAttempt {
				t.Errorf("register_attempt: %s", outcome)
			}
			if a, outcome := d.Event(list[1], now); outcome != Attempt || a.Domain != c.want || a.User != "9999" {
				t.Errorf("%s, %q@%q, want @%q", outcome, a.User, a.Domain, c.want)
			}
		})
	}
}
