package doctor

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "write the golden files anew")

// replies are the answers of a FreeSWITCH by command. Other commands are unknown to it.
type replies map[string]string

func (r replies) API(_ context.Context, name, arguments string) ([]byte, error) {
	command := strings.TrimSpace(name + " " + arguments)
	if text, ok := r[command]; ok {
		return []byte(text), nil
	}
	if name == "find_user_xml" {
		return []byte("-ERR can't find user"), nil
	}
	return nil, fmt.Errorf("a command that the fixture does not know: %s", command)
}

func recorded(t testing.TB, name string) replies {
	t.Helper()
	archive, err := txtar.ParseFile("testdata/" + name + ".txtar")
	if err != nil {
		t.Fatal(err)
	}
	r := make(replies)
	for _, f := range archive.Files {
		r[f.Name] = string(f.Data)
	}
	return r
}

// examine examines a fixture as of the time that it was made.
func examine(r replies, opts Options) []Finding {
	s := look(context.Background(), r, time.Second)
	s.skew = 0
	return s.findings(&Host{Zone: "+0000"}, &opts)
}

func TestEachConfigurationGetsItsFindingsAndNoOthers(t *testing.T) {
	for _, name := range []string{"vanilla", "hardened"} {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			for _, f := range examine(recorded(t, name), Options{LoggedIn: "guard@pbx.example.org"}) {
				isWhole(t, &f)
				fmt.Fprintf(&got, "%s %s: %s\n  seen %s\n  why %s\n  change %s\n", f.Severity, f.Check, f.Title, f.Seen, f.Why, f.Change)
			}
			golden := "testdata/" + name + ".golden"
			if *update {
				if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), want) {
				t.Errorf("findings differ from %s (-update writes it anew):\n%s", golden, got.String())
			}
		})
	}
}

func TestAHardenedFreeSWITCHHasNotesOnly(t *testing.T) {
	for _, f := range examine(recorded(t, "hardened"), Options{}) {
		if f.Severity != Note {
			t.Errorf("%+v", f)
		}
	}
}

func TestNoFindingContainsASecret(t *testing.T) {
	for _, name := range []string{"vanilla", "hardened"} {
		r := recorded(t, name)
		// Weak passwords are reported, and not repeated either.
		r["xml_locate directory"] = strings.ReplaceAll(r["xml_locate directory"], `value="hidden-kQ8vTz31"`, `value="letmein"`)
		for _, f := range examine(r, Options{}) {
			told := fmt.Sprint(f.Title, f.Seen, f.Why, f.Change)
			for _, secret := range []string{"hidden", "1234", "ClueCon", "letmein", "0123456789abcdef"} {
				if strings.Contains(strings.ReplaceAll(told, "01012345", ""), secret) {
					t.Errorf("%s: %q tells %s", name, told, secret)
				}
			}
		}
	}
}

// checks are the findings of that severity or worse, by check.
func checks(findings []Finding, least Severity) []string {
	var all []string
	for _, f := range findings {
		if f.Severity >= least {
			all = append(all, f.Check)
		}
	}
	slices.Sort(all)
	return all
}

// Each change opens the hardened configuration in one way.
func TestEachFaultIsFound(t *testing.T) {
	const (
		sofia  = "xml_locate configuration configuration name sofia.conf"
		plan   = "xml_locate dialplan"
		users  = "xml_locate directory"
		socket = "xml_locate configuration configuration name event_socket.conf"
		rpc    = "xml_locate configuration configuration name xml_rpc.conf"
	)
	external := func(param string) [3]string {
		return [3]string{sofia, `<param name="apply-inbound-acl" value="inbound">`, param + `<param name="apply-inbound-acl" value="inbound">`}
	}
	internal := func(param string) [3]string {
		return [3]string{sofia, `<param name="apply-inbound-acl" value="domains">`, param + `<param name="apply-inbound-acl" value="domains">`}
	}
	hash := md5.Sum([]byte("2002:pbx.example.org:1234"))
	for _, test := range []struct {
		name    string
		changes [][3]string // command, old text, new text
		want    []string
	}{
		{"no list", [][3]string{{sofia, `name="apply-inbound-acl" value="inbound"`, `name="x" value=""`}}, []string{"inbound-acl"}},
		{"list taken back", [][3]string{{sofia, `<param name="auth-calls" value="false">`, `<param name="apply-inbound-acl" value="inbound"></param><param name="apply-inbound-acl" value="none"></param><param name="auth-calls" value="false">`}, {sofia, `<param name="apply-inbound-acl" value="inbound"></param>

            <param name="sip-ip"`, `<param name="sip-ip"`}}, []string{"inbound-acl"}},
		{"list with default allow", [][3]string{{"acl 198.51.100.77 inbound", "false", "true"}, {"acl 203.0.113.177 inbound", "false", "true"}}, []string{"inbound-acl-open"}},
		{"list with all of IPv6", [][3]string{{"acl 2001:db8:5:7::9 inbound", "false", "true"}}, []string{"inbound-acl-open"}},
		{"auth-calls off", [][3]string{{sofia, `name="auth-calls" value="true"`, `name="auth-calls" value="false"`}, {sofia, `name="apply-inbound-acl" value="domains"`, `name="x" value=""`}}, []string{"auth-calls", "inbound-acl"}},
		{"auth-calls missing", [][3]string{{sofia, `name="auth-calls" value="true"`, `name="x" value=""`}, {sofia, `name="apply-inbound-acl" value="domains"`, `name="x" value=""`}}, []string{"auth-calls", "inbound-acl"}},
		{"auth-calls off into default", [][3]string{{sofia, `name="auth-calls" value="true"`, `name="auth-calls" value="0"`}, {sofia, `name="apply-inbound-acl" value="domains"`, `name="context" value="default"`}}, []string{"auth-calls", "inbound-acl", "public-line"}},
		{"blind registration", [][3]string{internal(`<param name="accept-blind-reg" value="true"></param>`)}, []string{"accept-blind-reg"}},
		{"blind authentication", [][3]string{internal(`<param name="accept-blind-auth" value="yes"></param>`)}, []string{"accept-blind-auth"}},
		{"blind authentication into default", [][3]string{internal(`<param name="accept-blind-auth" value="yes"></param><param name="context" value="default"></param>`)}, []string{"accept-blind-auth", "public-line"}},
		{"list instead of the password", [][3]string{{"acl 198.51.100.77 domains", "false", "true"}, {"acl 203.0.113.177 domains", "false", "true"}}, []string{"inbound-acl-bypass"}},
		{"list that registers", [][3]string{internal(`<param name="apply-register-acl" value="inbound"></param>`), {"acl 198.51.100.77 inbound", "false", "true"}, {"acl 203.0.113.177 inbound", "false", "true"}}, []string{"inbound-acl-open", "register-acl-open"}},
		{"list that registers some", [][3]string{internal(`<param name="apply-register-acl" value="inbound"></param>`)}, nil},
		{"refused into another context", [][3]string{{sofia, `value="inbound"`, `value="inbound:public:default"`}}, []string{"public-line"}},
		{"listed callers get out", [][3]string{{sofia, `value="inbound"`, `value="inbound:default"`}}, []string{"listed-line"}},
		{"messages", [][3]string{external(`<param name="auth-messages" value="false"></param>`)}, []string{"auth-messages"}},
		{"subscriptions", [][3]string{internal(`<param name="disable-auth-subscriptions" value="true"></param>`)}, []string{"auth-subscriptions"}},
		{"commands by message", [][3]string{internal(`<param name="enable-chat-api-proto" value="true"></param>`)}, []string{"chat-api"}},
		{"empty passwords", [][3]string{{users, `<param name="password" value="hidden-kQ8vTz31">`, `<param name="allow-empty-password" value="true">`}}, []string{"empty-password"}},
		{"empty passwords for a domain", [][3]string{{users, `<groups>`, `<params><param name="allow-empty-password" value="true"></param></params><groups>`}}, []string{"empty-password"}},
		{"a common password", [][3]string{{users, "hidden-kQ8vTz31", "LetMeIn"}}, []string{"weak-password"}},
		{"the number as password", [][3]string{{users, "hidden-kQ8vTz31", "2001"}}, []string{"weak-password"}},
		{"the default hashed", [][3]string{{users, "0123456789abcdef0123456789abcdef", hex.EncodeToString(hash[:])}}, []string{"weak-password"}},
		{"a short password", [][3]string{{users, "hidden-kQ8vTz31", "x7Q-k2"}}, []string{"weak-password"}},
		{"one password for all", [][3]string{{users, "hidden-kQ8vTz31", "Zq7-hidden-default"}}, []string{"weak-password"}},
		{"a weak password in redis", [][3]string{{"find_user_xml id 3001 pbx.example.org", "hidden-Redis-9f2k", "30013001"}}, []string{"weak-password"}},
		{"a gateway in default", [][3]string{{users, `name="user_context" value="public"`, `name="user_context" value="default"`}}, []string{"trunk-context"}},
		{"the event socket's own password", [][3]string{{socket, "hidden-socket-password", "ClueCon"}}, []string{"socket-password"}},
		{"the event socket in the open", [][3]string{{socket, "127.0.0.1", "0.0.0.0"}, {"acl 198.51.100.77 loopback.auto", "false", "true"}, {"acl 203.0.113.177 loopback.auto", "false", "true"}}, []string{"socket-open"}},
		{"an old event socket", [][3]string{{socket, "127.0.0.1", "0.0.0.0"}, {socket, "apply-inbound-acl", "x"}, {"version", "1.11.4", "1.4.26"}}, []string{"auth-messages", "auth-subscriptions", "socket-open", "version"}},
		{"mod_xml_rpc as it comes", [][3]string{{rpc, "hidden-rpc-password", "works"}}, []string{"xml-rpc"}},
		{"mod_xml_rpc that asks nobody", [][3]string{{rpc, "auth-realm", "x"}}, []string{"xml-rpc"}},
		{"an old version", [][3]string{{"version", "1.11.4-release", "1.11.3-release"}}, []string{"version"}},
		{"a line in public", [][3]string{{plan, `<context name="public">`, `<context name="public"><extension name="out"><condition field="destination_number" expression="^(\d+)$"><action application="bridge" data="sofia/gateway/carrier/$1"></action></condition></extension>`}}, []string{"listed-line"}},
		{"abroad", [][3]string{{plan, `^9(1[3-9]\d{9})$`, `^9(\d+)$`}}, []string{"international"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := recorded(t, "hardened")
			for _, c := range test.changes {
				if !strings.Contains(r[c[0]], c[1]) {
					t.Fatalf("%s has no %s", c[0], c[1])
				}
				r[c[0]] = strings.Replace(r[c[0]], c[1], c[2], 1)
			}
			if got := checks(examine(r, Options{}), Warning); !slices.Equal(got, test.want) {
				t.Errorf("found %q, want %q", got, test.want)
			}
		})
	}
}

func TestSeverityOfLines(t *testing.T) {
	for _, test := range []struct{ to, want string }{
		{"sofia/gateway/carrier/$1", "critical public-line"},
		{"sofia/gateway/${gw}/$1", "critical public-line"},
		{"sofia/external/$1@sip.example.net", "critical public-line"},
		{"sofia/gateway/gone/$1", "warning public-line-dead"},
		{"sofia/gateway/carrier/${forward_to}", "warning public-line-variable"},
		{"sofia/gateway/carrier/0049891234567", "note public-line-fixed"},
	} {
		r := recorded(t, "hardened")
		const sofia, plan = "xml_locate configuration configuration name sofia.conf", "xml_locate dialplan"
		r[sofia] = strings.Replace(r[sofia], `name="apply-inbound-acl" value="inbound"`, `name="x" value=""`, 1)
		r[plan] = strings.Replace(r[plan], `<context name="public">`, `<context name="public">`+bridge(`^(1\d+)$`, test.to), 1)
		var got []string
		for _, f := range examine(r, Options{}) {
			if strings.HasPrefix(f.Check, "public-line") {
				got = append(got, f.Severity.String()+" "+f.Check)
			}
		}
		if !slices.Equal(got, []string{test.want}) {
			t.Errorf("%s: %q, want %s", test.to, got, test.want)
		}
	}
}

func TestManyLinesAreSummarized(t *testing.T) {
	r := recorded(t, "vanilla")
	var out strings.Builder
	for i := range 30 {
		out.WriteString(bridge(fmt.Sprintf(`^(%d\d+)$`, 100+i), "sofia/gateway/example.com/$1"))
	}
	r["xml_locate dialplan"] = strings.Replace(r["xml_locate dialplan"], `<context name="public">`, `<context name="public">`+out.String(), 1)
	var lines []Finding
	for _, f := range examine(r, Options{}) {
		if f.Check == "public-line" {
			lines = append(lines, f)
		}
	}
	if len(lines) != maxSame || !strings.HasSuffix(lines[maxSame-1].Seen, "And 20 more like these.") {
		t.Errorf("%d findings, the last %+v", len(lines), lines[len(lines)-1])
	}
}

func TestALoginWithoutFailedLoginsIsCritical(t *testing.T) {
	found := examine(recorded(t, "hardened"), Options{Denied: []string{"HEARTBEAT", "sofia::register_failure"}, Required: "sofia::register_failure"})
	if got := checks(found, Warning); !slices.Equal(got, []string{"login"}) {
		t.Errorf("found %q", got)
	}
}

func TestAProfileThatOnlyRunsIsNotPassedOver(t *testing.T) {
	r := recorded(t, "hardened")
	r["sofia xmlstatus"] = strings.ReplaceAll(r["sofia xmlstatus"], "<name>internal<", "<name>rogue<")
	r["sofia xmlstatus profile rogue"] = r["sofia xmlstatus profile internal"]
	found := examine(r, Options{})
	if !slices.ContainsFunc(found, func(f Finding) bool { return f.Check == "unseen" && strings.Contains(f.Seen, "profile rogue") }) {
		t.Errorf("found %+v", found)
	}
}

// A denier is a FreeSWITCH that denies every command, or fails in another way.
type denier struct{ err error }

func (d denier) API(ctx context.Context, _, _ string) ([]byte, error) {
	if d.err == nil {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return nil, d.err
}

func TestUnseenSubjectsAreReported(t *testing.T) {
	for name, err := range map[string]error{
		"denied": errors.New("event socket 127.0.0.1:8021: -ERR permission denied"), "down": errors.New("event socket is not connected"), "silent": nil,
	} {
		t.Run(name, func(t *testing.T) {
			found := Examine(t.Context(), denier{err}, &Host{}, Options{LoggedIn: "guard@pbx", Patience: time.Millisecond, Denied: []string{"log"}})
			got := checks(found, Note)
			if len(checks(found, Warning)) > 0 || !slices.Contains(got, "unseen") || !slices.Contains(got, "blind-login") {
				t.Errorf("found %+v", found)
			}
			if denied := strings.Contains(fmt.Sprint(found), "esl-allowed-api"); denied != (name == "denied") {
				t.Errorf("found %+v", found)
			}
		})
	}
}

func TestSubjectsAfterTheTimeLimitAreReported(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	var whys []string
	for _, f := range Examine(ctx, denier{}, &Host{}, Options{}) {
		if f.Check == "unseen" {
			whys = append(whys, f.Why)
		}
	}
	if want := []string{"The time for all of it was over."}; !slices.Equal(whys, want) {
		t.Errorf("got %q, want %q", whys, want)
	}
}

func TestContextsThatAreWatchedAreNoBlindSpot(t *testing.T) {
	r := recorded(t, "vanilla")
	if got := checks(examine(r, Options{}), Note); !slices.Contains(got, "blind-context") {
		t.Errorf("found %q", got)
	}
	if got := checks(examine(r, Options{Contexts: []string{"public"}}), Note); slices.Contains(got, "blind-context") {
		t.Errorf("found %q", got)
	}
}

func TestClocks(t *testing.T) {
	for _, test := range []struct {
		skew time.Duration
		zone string
		want []string
	}{
		{time.Second, "+0000", nil},
		{-3 * time.Second, "+0000", []string{"note clock"}},
		{2 * time.Minute, "+0000", []string{"warning clock"}},
		{0, "+0800", []string{"note zone"}},
	} {
		s := &system{clock: time.Now(), skew: test.skew, zone: test.zone}
		var got []string
		for _, f := range s.clockFindings(&Host{Zone: "+0000"}) {
			got = append(got, f.Severity.String()+" "+f.Check)
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%v: %q, want %q", test, got, test.want)
		}
	}
}
