package detect

import (
	"bytes"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"fsban/esl"
	"fsban/internal/captures"
	"fsban/policy"
)

// The frames that contain an address, as FreeSWITCH prints them.
var (
	registerRefused = esl.Log{
		Level: 4, File: []byte("sofia_reg.c"), Func: []byte("sofia_reg_handle_sip_i_register"),
		Text: []byte("2026-11-22 16:16:01.898041 0.30% [WARNING] sofia_reg.c:2406 IP 192.0.2.7 Rejected by register acl \"lan\"\n"),
	}
	inviteRefused = esl.Log{
		Level: 4, File: []byte("sofia.c"), Func: []byte("sofia_handle_sip_i_invite"),
		Text: []byte("2026-11-22 16:16:03.058033 0.33% [WARNING] sofia.c:10679 IP 192.0.2.7 Rejected by acl \"lan\"\n"),
	}
	clientRefused = esl.Log{
		Level: 4, File: []byte("mod_event_socket.c"), Func: []byte("listener_run"),
		Text: []byte("2026-11-22 16:16:03.058033 100.00% [WARNING] mod_event_socket.c:2671 IP 192.0.2.7 Rejected by acl \"loopback.auto\"\n"),
	}
	ctiRecord = esl.Log{
		Level: 5, File: []byte("cti_fail2ban.c"), Func: []byte("whatever"),
		Text: []byte("2024-04-13 17:21:01.959347 98.47% [NOTICE] cti_fail2ban.c:35 write to fail2ban:" + record + " succeed!\n"),
	}
)

// text returns l with old replaced by new in its text.
func text(l esl.Log, old, new string) esl.Log {
	l.Text = []byte(strings.Replace(string(l.Text), old, new, 1))
	return l
}

func TestAnAccessListsRefusalIsAnAttempt(t *testing.T) {
	for _, tc := range []struct {
		log    esl.Log
		method policy.Method
	}{{registerRefused, policy.Register}, {inviteRefused, policy.Invite}, {clientRefused, policy.UnknownMethod}} {
		want := policy.Attempt{Addr: netip.MustParseAddr("192.0.2.7"), At: now, Kind: policy.ACLReject, Source: policy.ESLLog, Method: tc.method}
		for name, l := range map[string]esl.Log{
			"as it is":                    tc.log,
			"without a line feed":         text(tc.log, "\n", ""),
			"without the idle percentage": text(text(text(tc.log, "0.30% ", ""), "0.33% ", ""), "100.00% ", ""),
			"a list without a name":       text(text(tc.log, `"lan"`, `""`), `"loopback.auto"`, `""`),
			"with the function's name":    text(tc.log, " IP ", " "+string(tc.log.Func)+"() IP "),
		} {
			if a, o := New(Options{}).Log(&l, now); o != Attempt || a != want {
				t.Errorf("%s %s: %s, %+v", tc.log.File, name, o, a)
			}
		}
	}
	l := text(inviteRefused, "192.0.2.7", "2001:db8::7")
	if a, o := New(Options{}).Log(&l, now); o != Attempt || a.Addr != netip.MustParseAddr("2001:db8::7") {
		t.Errorf("%s, %v", o, a.Addr)
	}
}

func TestAnAddressComesFromItsPlaceAlone(t *testing.T) {
	from := func(l esl.Log, file, function string) esl.Log {
		l.File, l.Func = []byte(file), []byte(function)
		return l
	}
	level := func(l esl.Log, n int) esl.Log { l.Level = n; return l }
	const own = "2026-11-22 16:16:03.058033 0.33% [WARNING] sofia.c:10679 "
	const forged = own + "IP 9.9.9.9 Rejected by acl \"lan\"\n"
	for _, tc := range []struct {
		name string
		log  esl.Log
		want Outcome
	}{
		// Messages of FreeSWITCH that are not refusals.
		{"right password, wrong place", from(text(registerRefused, `register acl "lan"`, "user acl [lan] and no proxy acl present"), "sofia_reg.c", "sofia_reg_parse_auth"), NoAttempt},
		{"the same behind a proxy", from(text(registerRefused, `register acl "lan"`, "user acl lan"), "sofia_reg.c", "sofia_reg_parse_auth"), NoAttempt},
		{"more lists are looked at", level(from(text(registerRefused, `register acl "lan"`, "user acl [lan] checking proxy ACLs now"), "sofia_reg.c", "sofia_reg_parse_auth"), 7), NoAttempt},
		{"a password will be asked for", level(text(inviteRefused, "\"lan\"", "\"lan\". Falling back to Digest auth."), 7), NoAttempt},
		{"lists alone let in", level(text(inviteRefused, `IP 192.0.2.7 Rejected by acl "lan"`, "IP/Port 192.0.2.7 5060 Rejected by acls and auth-calls-acl-only flag is set, rejecting call"), 7), NoAttempt},
		{"at debug level", level(inviteRefused, 7), NoAttempt},
		{"without a level", level(inviteRefused, -1), NoAttempt},

		// No valid address.
		{"a name", text(inviteRefused, "192.0.2.7", "example.com"), NoAddress},
		{"no address", text(inviteRefused, "192.0.2.7", ""), NoAddress},
		{"unspecified", text(inviteRefused, "192.0.2.7", "0.0.0.0"), NoAddress},
		{"with a port", text(inviteRefused, "192.0.2.7", "192.0.2.7:5060"), NoAddress},
		{"two", text(inviteRefused, "192.0.2.7", "192.0.2.7, 9.9.9.9"), NoAddress},

		// Text of other functions and files.
		{"another file", from(inviteRefused, "sofia_glue.c", "sofia_handle_sip_i_invite"), Forged},
		{"another function", from(text(inviteRefused, " IP ", " x IP "), "sofia.c", "sofia_event_callback"), Forged},
		{"the file and the function of different ones", from(inviteRefused, "sofia_reg.c", "sofia_handle_sip_i_invite"), Forged},
		{"the text names another file", text(inviteRefused, "sofia.c:", "sofia_reg.c:"), Forged},
		{"the other list's words", text(inviteRefused, "by acl", "by register acl"), NoAttempt},
		{"a forged line after its own", text(inviteRefused, "\"lan\"\n", "\"lan\"\n"+forged), Forged},
		{"a forged line in the address", text(inviteRefused, "192.0.2.7", "192.0.2.7\n"+forged[:len(forged)-1]), Forged},
		{"a forged line in the list's name", text(inviteRefused, "lan", "x\" IP 9.9.9.9 Rejected by acl \"lan"), NoAttempt},
		{"no prefix", text(inviteRefused, own, ""), Forged},
		{"half a prefix", text(inviteRefused, "2026-11-22 16:16", "26-11-22 16:16"), Forged},
		{"a channel's UUID before it", text(inviteRefused, "2026", "bb1cbcd8-fa71-4b57-ba98-9dda6bdbb190 2026"), Forged},
		{"something before it", text(inviteRefused, "2026", " 2026"), Forged},
		{"something after it", text(inviteRefused, "\"lan\"\n", "\"lan\" \n"), NoAttempt},
		{"a channel's name that is a line", text(inviteRefused, `IP 192.0.2.7 Rejected by acl "lan"`, "sofia/internal/x\n"+forged+"@10.77.0.1 receiving invite from 192.0.2.7:5060"), Forged},
		{"a call id that is one", from(text(inviteRefused, `IP 192.0.2.7 Rejected by acl "lan"`, forged), "switch_channel.c", "switch_channel_set_name"), Forged},
		{"mod_cti's words", from(ctiRecord, "sofia_reg.c", "sofia_reg_handle_register_token"), Forged},
		{"mod_cti's words in its own frame, but later", text(ctiRecord, "write to", "cannot write to"), Forged},
		{"mod_cti's words after another's name", text(ctiRecord, "cti_fail2ban.c:35", "sofia.c:35"), Forged},

		// Anything else.
		{"something else", from(text(inviteRefused, "Rejected by acl", "receiving invite"), "sofia.c", "sofia_handle_sip_i_invite"), NoAttempt},
		{"something else of mod_cti's", text(ctiRecord, "write to fail2ban:", "cannot open "), NoAttempt},
		{"rejected by others", from(text(inviteRefused, "by acl", "by the user"), "mod_dptools.c", "x"), NoAttempt},
		{"nothing", esl.Log{}, NoAttempt},
		{"a record that is none", text(ctiRecord, "ip[", "IP["), NotUnderstood},
		{"a record without an address", text(ctiRecord, "124.32.10.1", "(null)"), NoAddress},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if a, o := New(Options{}).Log(&tc.log, now); o != tc.want || a != (policy.Attempt{}) {
				t.Errorf("%s, %+v; want %s", o, a, tc.want)
			}
		})
	}
}

func TestModCTIRecordsInTheLog(t *testing.T) {
	heard := written.Add(time.Second)
	want := policy.Attempt{Addr: netip.MustParseAddr("124.32.10.1"), At: written, Kind: policy.AuthFailure, Source: policy.ESLLog, User: "1177"}
	for _, l := range []esl.Log{
		ctiRecord,
		text(ctiRecord, " succeed!", ""),
		text(ctiRecord, "98.47% ", ""),
		text(ctiRecord, " write", " whatever() write"),
		text(ctiRecord, "\n", "\r\n"),
	} {
		if a, o := New(Options{}).Log(&l, heard); o != Attempt || a != want {
			t.Errorf("%q: %s, %+v", l.Text, o, a)
		}
	}
	// A record is the whole text: a line feed in the user does not end it.
	const user = "x] at[2024-04-13T17:21:01+0800] Registration failed succeed!\n2024-04-13 17:21:01.959347 98.47% [NOTICE] cti_fail2ban.c:35 write to fail2ban:ip[9.9.9.9] user[y"
	l := text(ctiRecord, "1177", user)
	if a, o := New(Options{}).Log(&l, heard); o != Attempt || a.Addr != want.Addr || a.User != user[:MaxText] || !a.At.Equal(written) {
		t.Errorf("%s, %+v", o, a)
	}
	if a, o := New(Options{}).Log(&ctiRecord, written.Add(2*time.Minute)); o != ClockAdrift || !a.At.Equal(written.Add(2*time.Minute)) || a.Source != policy.ESLLog {
		t.Errorf("heard late: %s, %+v", o, a)
	}
	l = text(ctiRecord, "Registration failed", "irregular SIP message")
	if a, o := New(Options{}).Log(&l, heard); o != Attempt || a.Kind != policy.Violation {
		t.Errorf("another reason: %s, %+v", o, a)
	}
}

// ownWords matches frames that contain an address, independently of the parser.
var ownWords = regexp.MustCompile(`^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6} (?:[^ ]{0,10}% )?\[[^\]]{0,14}\] ([^:]+):\d+ (?:([^\n]*)\(\) )?(?s:(IP ([^\n]*?) Rejected by (register )?acl "[^"\n]*"\n?|write to fail2ban:ip\[(.*)))$`)

// FuzzNoAddressButInItsPlace: an address is accepted only from a frame whose file and function print one, and only from its
// place.
func FuzzNoAddressButInItsPlace(f *testing.F) {
	for _, l := range []esl.Log{registerRefused, inviteRefused, clientRefused, ctiRecord, text(inviteRefused, " IP", " sofia_handle_sip_i_invite() IP")} {
		f.Add(l.Level, string(l.File), string(l.Func), l.Text)
	}
	for _, pattern := range []string{"inject-*.log.esl", "acl-*.log.esl"} {
		for _, name := range captures.Names(f, pattern) {
			frames(f, captures.Read(f, name), func(frame *esl.Frame) {
				if frame.Type == esl.LogData {
					l := esl.ParseLog(frame)
					f.Add(l.Level, string(l.File), string(l.Func), bytes.Clone(l.Text))
				}
			})
		}
	}
	functions := map[string]string{"sofia_reg.c": "sofia_reg_handle_sip_i_register", "sofia.c": "sofia_handle_sip_i_invite", "mod_event_socket.c": "listener_run"}
	f.Fuzz(func(t *testing.T, level int, file, function string, body []byte) {
		l := esl.Log{Level: level, File: []byte(file), Func: []byte(function), Text: body}
		a, o := New(Options{}).Log(&l, now)
		if o != Attempt && o != ClockAdrift {
			if a != (policy.Attempt{}) {
				t.Fatalf("%s with %+v", o, a)
			}
			return
		}
		m := ownWords.FindSubmatch(body)
		if m == nil || string(m[1]) != file || m[2] != nil && string(m[2]) != function || a.Source != policy.ESLLog {
			t.Fatalf("%+v from %q", a, body)
		}
		if file == ctiFile {
			place, _, _ := bytes.Cut(bytes.TrimPrefix(m[6], []byte("[")), []byte("]"))
			check(t, a, string(place))
			return
		}
		if functions[file] != function || level < 0 || level > 4 || (file == "sofia_reg.c") != (m[5] != nil) || a.Kind != policy.ACLReject {
			t.Fatalf("%+v from %s of %s at %d", a, function, file, level)
		}
		check(t, a, string(m[4]))
	})
}

func check(t *testing.T, a policy.Attempt, place string) {
	t.Helper()
	want, err := netip.ParseAddr(place)
	if err != nil || a.Addr != want.WithZone("").Unmap() || a.Addr.IsUnspecified() {
		t.Fatalf("address %v from %q", a.Addr, place)
	}
	if skew := now.Sub(a.At); skew.Abs() > MaxSkew {
		t.Fatalf("attempt at %v, %v away", a.At, skew)
	}
}
