package fakeswitch

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"fsban/esl"
)

var (
	someone = Caller{Addr: netip.MustParseAddr("192.0.2.7"), Port: 5062, User: "2000", Number: "+4930123456", UserAgent: "probe 1+1", Profile: "office"}
	someV6  = Caller{Addr: netip.MustParseAddr("2001:db8::7"), Port: 5062, User: "émile", Number: "900", UserAgent: "x", Profile: "office"}
	zone    = time.FixedZone("", 8*60*60)
	moment  = time.Date(2026, 3, 4, 5, 6, 7, 89000, zone)
)

// all returns each event of stream as a map of its headers.
func all(t *testing.T, stream []byte) (events []map[string]string) {
	t.Helper()
	r, ev := esl.NewReader(bytes.NewReader(stream)), esl.NewEvent(esl.NewFields())
	for {
		f, err := r.Next()
		if errors.Is(err, io.EOF) {
			return events
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := ev.Parse(f.Body); err != nil {
			t.Fatal(err)
		}
		headers := make(map[string]string)
		for name, value := range ev.Headers() {
			headers[string(name)] = string(value)
		}
		events = append(events, headers)
	}
}

func TestACallIsTheCallersOwn(t *testing.T) {
	for _, situation := range []Situation{RefusedCall, AnsweredCall} {
		for _, c := range []Caller{someone, someV6} {
			events := all(t, Frames(situation, c, moment))
			for _, e := range events {
				for name, value := range e {
					for _, old := range []string{"10.77.0.9", "59707", "00441234567890", "friendly-scanner", "external", "17953641", "2026-11-22", "100@", `"100"`} {
						if strings.Contains(value, old) || value == "100" {
							t.Errorf("%s by %s: %s of %s still says %q", situation, c.Addr, name, e["Event-Name"], value)
						}
					}
				}
				if e["Event-Name"] != "CHANNEL_HANGUP_COMPLETE" {
					continue
				}
				for name, want := range map[string]string{
					"Event-Date-Timestamp":        "1772571967000089",
					"Event-Date-Local":            "2026-03-04 05:06:07",
					"Caller-Channel-Hangup-Time":  "1772571967000089",
					"variable_end_epoch":          "1772571967",
					"variable_start_stamp":        "2026-03-04 05:06:07",
					"variable_RFC2822_DATE":       "Wed, 04 Mar 2026 05:06:07 +0800",
					"Caller-Context":              "public",
					"Caller-Network-Addr":         c.Addr.String(),
					"variable_sip_network_ip":     c.Addr.String(),
					"variable_sip_network_port":   "5062",
					"variable_sip_contact_uri":    c.User + "@" + netip.AddrPortFrom(c.Addr, 5062).String(),
					"variable_sip_user_agent":     c.UserAgent,
					"Caller-Destination-Number":   c.Number,
					"variable_sip_to_user":        c.Number,
					"variable_sip_req_uri":        c.Number + "@10.77.0.1",
					"variable_sip_full_to":        "<sip:" + c.Number + "@10.77.0.1>",
					"Caller-Caller-ID-Number":     c.User,
					"variable_sip_from_uri":       c.User + "@10.77.0.1",
					"variable_caller_id":          `"` + c.User + `" <` + c.User + `>`,
					"Channel-Name":                "sofia/office/" + c.User + "@10.77.0.1",
					"variable_sofia_profile_name": "office",
				} {
					if e[name] != want {
						t.Errorf("%s by %s: %s is %q, want %q", situation, c.Addr, name, e[name], want)
					}
				}
			}
		}
	}
}

func TestOnlyARefusedCallIsMarkedAsRefused(t *testing.T) {
	ended := func(s Situation) map[string]string {
		for _, e := range all(t, Frames(s, Caller{}, moment)) {
			if e["Event-Name"] == "CHANNEL_HANGUP_COMPLETE" {
				return e
			}
		}
		t.Fatalf("%s does not end", s)
		return nil
	}
	const disposition, answer = "variable_sip_hangup_disposition", "Caller-Channel-Answered-Time"
	if e := ended(RefusedCall); e[disposition] != "send_refuse" || e[answer] != "0" {
		t.Errorf("refused: %q, %q", e[disposition], e[answer])
	}
	if e := ended(AnsweredCall); e[disposition] != "recv_bye" || e[answer] != "1772571967000089" {
		t.Errorf("answered: %q, %q", e[disposition], e[answer])
	}
}

func TestALogLineIsTheCallersOwn(t *testing.T) {
	for _, test := range []struct {
		situation Situation
		caller    Caller
		want      []string // "Level File Func" and the text, of some of the lines
	}{
		{RejectedRegister, someone, []string{
			"4 sofia_reg.c sofia_reg_handle_sip_i_register 2026-03-04 05:06:07.000089 0.30% [WARNING] sofia_reg.c:2406 IP 192.0.2.7 Rejected by register acl \"lab_block\"\n",
		}},
		{RejectedInvite, someV6, []string{
			"5 switch_channel.c switch_channel_set_name 2026-03-04 05:06:07.000089 0.33% [NOTICE] switch_channel.c:1143 New Channel sofia/office/émile@10.77.0.1 [bb1cbcd8-fa71-4b57-ba98-9dda6bdbb190]\n",
			"4 sofia.c sofia_handle_sip_i_invite 2026-03-04 05:06:07.000089 0.33% [WARNING] sofia.c:10679 IP 2001:db8::7 Rejected by acl \"lab_block\"\n",
		}},
		{CTILine, someone, []string{
			"5 cti_fail2ban.c  2026-03-04 05:06:07.000089 98.47% [NOTICE] cti_fail2ban.c:35 write to fail2ban:ip[192.0.2.7] user[2000] at[2026-03-04T05:06:07.000089+0800] Registration failed succeed!\n",
		}},
		{CTILine, Caller{}, []string{
			"5 cti_fail2ban.c  2026-03-04 05:06:07.000089 98.47% [NOTICE] cti_fail2ban.c:35 write to fail2ban:ip[124.32.10.1] user[1177] at[2026-03-04T05:06:07.000089+0800] Registration failed succeed!\n",
		}},
	} {
		lines := ""
		r := esl.NewReader(bytes.NewReader(Frames(test.situation, test.caller, moment)))
		for f, err := r.Next(); !errors.Is(err, io.EOF); f, err = r.Next() {
			if err != nil || f.Type != esl.LogData {
				t.Fatalf("%+v, %v", f, err)
			}
			l := esl.ParseLog(f)
			lines += strings.Join([]string{string(rune('0' + l.Level)), string(l.File), string(l.Func), string(l.Text)}, " ")
		}
		for _, want := range test.want {
			if !strings.Contains(lines, want) {
				t.Errorf("%s lacks %q:\n%s", test.situation, want, lines)
			}
		}
		for _, old := range []string{"10.77.0.66", "51386", "2026-11-22", "aclprof", "2024-04-13"} {
			if strings.Contains(lines, old) {
				t.Errorf("%s still says %q:\n%s", test.situation, old, lines)
			}
		}
	}
}

func TestACustomEventIsAsItIsGiven(t *testing.T) {
	s := start(t, Options{})
	u := login(t, s)
	u.says("event plain CUSTOM cti::x+y", "+OK event listener enabled plain")
	s.EmitCustom("other", moment)
	s.EmitCustom("cti::x+y", moment, [2]string{"network-ip", "192.0.2.7"}, [2]string{"user", "a b\n%"}, [2]string{"empty", ""})
	f := u.next(esl.EventPlain)
	ev := esl.NewEvent(esl.NewFields("Event-Name", "Event-Subclass", "Event-Date-Timestamp", "Event-Sequence", "network-ip", "user", "empty", "from-user"))
	if err := ev.Parse(f.Body); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"CUSTOM", "cti::x+y", "1772571967000089", "2", "192.0.2.7", "a b\n%", "", ""} {
		if got := ev.Get(i); string(got) != want {
			t.Errorf("header %d is %q, want %q", i, got, want)
		}
	}
}
