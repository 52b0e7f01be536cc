package dialplan

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"fsban/doctor/fsxml"
)

// bridge is an extension that bridges when the number matches.
func bridge(expression, to string) string {
	return extension("out", condition(expression, action("bridge", to)))
}

func extension(name, inside string) string {
	return fmt.Sprintf(`<extension name=%q>%s</extension>`, name, inside)
}

func condition(expression, actions string) string {
	return fmt.Sprintf(`<condition field="destination_number" expression=%q>%s</condition>`, strings.ReplaceAll(expression, `\`, `&#92;`), actions)
}

func action(application, data string) string {
	return fmt.Sprintf(`<action application="%s" data="%s"></action>`, application, data)
}

// planOf makes a dialplan of contexts: name, inside, name, inside.
func planOf(t testing.TB, contexts ...string) *fsxml.Element {
	t.Helper()
	var b strings.Builder
	for i := 0; i < len(contexts); i += 2 {
		fmt.Fprintf(&b, "<context name=%q>%s</context>", contexts[i], contexts[i+1])
	}
	section, err := fsxml.Parse([]byte("<section>" + b.String() + "</section>"))
	if err != nil {
		t.Fatal(err)
	}
	return section
}

// summary writes lines as "context/extension target chosen 00 +".
func summary(lines []Line) []string {
	var all []string
	for _, l := range lines {
		s := l.Context + "/" + l.Extension + " " + l.Target
		switch {
		case l.Chosen:
			s += " chosen"
		case l.Variable:
			s += " unknown"
		}
		if len(l.Prefixes) > 0 {
			s += " " + strings.Join(l.Prefixes, " ")
		}
		all = append(all, s)
	}
	slices.Sort(all)
	return all
}

func TestReachableContexts(t *testing.T) {
	const out = "sofia/gateway/gw/$1"
	for _, test := range []struct {
		name     string
		contexts []string
		known    bool
		want     []string
	}{
		{"any number", []string{"public", bridge(`^(.*)$`, out)}, false, []string{"public/out sofia/gateway/gw chosen 00 + 011"}},
		{"an unanchored expression", []string{"public", bridge(`(\d{11})`, out)}, false, []string{"public/out sofia/gateway/gw chosen 00"}},
		{"digits", []string{"public", bridge(`^(\d+)$`, out)}, false, []string{"public/out sofia/gateway/gw chosen 00 011"}},
		{"one prefix", []string{"public", bridge(`^(011\d+)$`, out)}, false, []string{"public/out sofia/gateway/gw chosen 011"}},
		{"a prefix that is taken off", []string{"public", bridge(`^9(00\d+)$`, out)}, false, []string{"public/out sofia/gateway/gw chosen 00"}},
		{"a prefix that is put on", []string{"public", bridge(`^([1-9]\d{8,})$`, "sofia/gateway/gw/00$1")}, false, []string{"public/out sofia/gateway/gw chosen 00"}},
		{"national numbers", []string{"public", bridge(`^(0[1-9]\d{8,9})$`, out)}, false, []string{"public/out sofia/gateway/gw chosen"}},
		{"a fixed number", []string{"public", bridge(`^5551212$`, "sofia/gateway/gw/0049891234567")}, false, []string{"public/out sofia/gateway/gw"}},
		{"a number from a variable", []string{"public", bridge(`^5551212$`, "sofia/gateway/gw/${forward_to}")}, false, []string{"public/out sofia/gateway/gw unknown"}},
		{"the number itself", []string{"public", bridge(`^00`, "sofia/gateway/gw/${destination_number}")}, false, []string{"public/out sofia/gateway/gw chosen 00"}},
		{"through a variable", []string{"public", extension("out", condition(`^(00\d+)$`, action("set", "to=$1")+action("bridge", "sofia/gateway/gw/${to}")))}, false,
			[]string{"public/out sofia/gateway/gw chosen 00"}},
		{"variables before it", []string{"public", bridge(`^(1\d+)$`, "{a=b,c=d}[x=1]sofia/gateway/gw/$1|user/1000@${domain_name}")}, false, []string{"public/out sofia/gateway/gw chosen"}},
		{"another profile", []string{"public", bridge(`^(1\d+)$`, "sofia/external/$1@carrier.example.net")}, false, []string{"public/out sofia/external chosen"}},
		{"our own phones", []string{"public", bridge(`^(1\d+)$`, "sofia/internal/$1%pbx.example.org,sofia/internal/$1@pbx.example.org,user/$1,group/$1,${sofia_contact($1)}")}, false, nil},
		{"a telephone card", []string{"public", bridge(`^(1\d+)$`, "freetdm/1/a/$1")}, false, []string{"public/out freetdm chosen"}},
		{"through a transfer", []string{"public", extension("x", condition(`^(\d+)$`, action("transfer", "$1 XML default"))), "default", bridge(`^(00\d+)$`, out)}, false,
			[]string{"default/out sofia/gateway/gw chosen 00"}},
		{"not through a transfer of other numbers", []string{"public", extension("x", condition(`^(10[01]\d)$`, action("transfer", "$1 XML default"))), "default", bridge(`^(\d{7})$`, out)}, false, nil},
		{"through a transfer that puts a digit on", []string{"public", extension("x", condition(`^(\d{6})$`, action("transfer", "9$1 XML default"))), "default", bridge(`^9(\d{6})$`, out)}, false,
			[]string{"default/out sofia/gateway/gw chosen"}},
		{"through two transfers", []string{"public", extension("x", condition(`^(2\d+)$`, action("transfer", "$1 XML a"))), "a", extension("y", condition(`^(.*)$`, action("transfer", "$1 XML b"))),
			"b", bridge(`^(1\d+)$`, out) + bridge(`^(2\d{7})$`, out)}, false, []string{"b/out sofia/gateway/gw chosen"}},
		{"in circles", []string{"public", extension("x", condition(`^(\d+)$`, action("transfer", "1$1 XML public")))}, false, nil},
		{"through loopback", []string{"public", bridge(`^(\d+)$`, "loopback/$1/default/XML"), "default", bridge(`^(00\d+)$`, out)}, false, []string{"default/out sofia/gateway/gw chosen 00"}},
		{"inline", []string{"public", extension("x", condition(`^(\d+)$`, action("transfer", "'set:a=b,bridge:"+out+"' inline")))}, false, []string{"public/x sofia/gateway/gw chosen 00 011"}},
		{"by a key of the caller", []string{"public", extension("x", condition(`^1$`, action("bind_meta_app", "1 ab s execute_extension::dx XML features"))), "features",
			extension("dx", condition(`^dx$`, action("bridge", "sofia/gateway/gw/${digits}")))}, false, []string{"features/dx sofia/gateway/gw unknown"}},
		{"by a key of the callee", []string{"public", extension("x", condition(`^1$`, action("bind_meta_app", "1 b s execute_extension::dx XML features"))), "features",
			extension("dx", condition(`^dx$`, action("bridge", "sofia/gateway/gw/${digits}")))}, false, nil},
		{"taken by the extension before", []string{"public", extension("no", condition(`^00`, action("hangup", ""))) + bridge(`^(\d+)$`, out)}, false, []string{"public/out sofia/gateway/gw chosen 011"}},
		{"all taken by the extension before", []string{"public", extension("no", condition(`^(.*)$`, action("respond", "404"))) + bridge(`^(\d+)$`, out)}, false, nil},
		{"not taken where it continues", []string{"public", strings.Replace(extension("no", condition(`^00`, action("log", "x"))), "<extension", `<extension continue="true"`, 1) + bridge(`^(00\d+)$`, out)}, false,
			[]string{"public/out sofia/gateway/gw chosen 00"}},
		{"an access list in the dialplan", []string{"public", strings.Replace(extension("acl", "<condition>"+action("check_acl", "${network_addr} carriers")+"</condition>"), "<extension", `<extension continue="true"`, 1) + bridge(`^(\d+)$`, out)}, false, nil},
		{"for one address", []string{"public", extension("out", `<condition field="network_addr" expression="^192\.0\.2\.9$"></condition>`+condition(`^(\d+)$`, action("bridge", out)))}, false, nil},
		{"for a list", []string{"public", extension("out", `<condition field="${acl(${network_addr} carriers)}" expression="true"></condition>`+condition(`^(\d+)$`, action("bridge", out)))}, false, nil},
		{"for those who logged in", []string{"public", extension("out", `<condition field="${sip_authorized}" expression="true"></condition>`+condition(`^(1\d+)$`, action("bridge", out)))}, false, nil},
		{"for those who logged in, logged in", []string{"public", extension("out", `<condition field="${sip_authorized}" expression="true"></condition>`+condition(`^(1\d+)$`, action("bridge", out)))}, true,
			[]string{"public/out sofia/gateway/gw chosen"}},
		{"for users of a kind", []string{"public", extension("out", `<condition field="${toll_allow}" expression="international"></condition>`+condition(`^(1\d+)$`, action("bridge", out)))}, false, nil},
		{"for users of a kind, logged in", []string{"public", extension("out", `<condition field="${toll_allow}" expression="international"></condition>`+condition(`^(1\d+)$`, action("bridge", out)))}, true,
			[]string{"public/out sofia/gateway/gw chosen"}},
		{"for users of a kind that there is not", []string{"public", extension("out", `<condition field="${toll_allow}" expression="satellite"></condition>`+condition(`^(1\d+)$`, action("bridge", out)))}, true, nil},
		{"a variable that all calls have", []string{"public", extension("out", `<condition field="${areacode}" expression="^918$"></condition>`+condition(`^(1\d+)$`, action("bridge", out)))}, false,
			[]string{"public/out sofia/gateway/gw chosen"}},
		{"a variable that the dialplan sets", []string{"public", strings.Replace(extension("x", "<condition>"+action("set", "toll_allow=all")+"</condition>"), "<extension", `<extension continue="true"`, 1) +
			extension("out", `<condition field="${toll_allow}" expression="all"></condition>`+condition(`^(1\d+)$`, action("bridge", out)))}, false, []string{"public/out sofia/gateway/gw chosen"}},
		{"otherwise", []string{"public", extension("out", condition(`^1`, `<anti-action application="bridge" data="sofia/gateway/gw/${destination_number}"></anti-action>`))}, false,
			[]string{"public/out sofia/gateway/gw chosen 00 + 011"}},
		{"one of several", []string{"public", extension("out", `<condition regex="any"><regex field="destination_number" expression="^1"></regex><regex field="destination_number" expression="^2"></regex>`+
			action("bridge", "sofia/gateway/gw/${destination_number}")+`</condition>`)}, false, []string{"public/out sofia/gateway/gw chosen 00 + 011"}},
		{"all of several", []string{"public", extension("out", `<condition regex="all"><regex field="network_addr" expression="^192\.0\.2\.9$"></regex><regex field="destination_number" expression="^(2\d+)$"></regex>`+
			action("bridge", out)+`</condition>`)}, false, nil},
		{"a condition in a condition", []string{"public", extension("out", condition(`^0`, condition(`^(00\d+)$`, action("bridge", out))))}, false, []string{"public/out sofia/gateway/gw chosen 00"}},
		{"at night", []string{"public", extension("out", `<condition hour="0-6">`+`</condition>`+condition(`^(1\d+)$`, action("bridge", out)))}, false, []string{"public/out sofia/gateway/gw chosen"}},
		{"what Go's expressions do not know", []string{"public", bridge(`^(?!00)(\d+)$`, out)}, false, []string{"public/out sofia/gateway/gw chosen 00 011"}},
		{"no expression at all", []string{"public", bridge(`^(\d+`, out)}, false, []string{"public/out sofia/gateway/gw chosen 00 + 011"}},
		{"behind a limit", []string{"public", extension("out", condition(`^(1\d+)$`, action("limit_execute", "hash out all 5 bridge "+out)))}, false, []string{"public/out sofia/gateway/gw chosen"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := Walk(planOf(t, test.contexts...), "public", Caller{
				LoggedIn: test.known, Domains: []string{"pbx.example.org"},
				Values: map[string][]string{"toll_allow": {"domestic,international"}, "areacode": {"212"}}, Globals: map[string]string{"areacode": "918"},
			})
			if got := summary(r.Lines); !slices.Equal(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestProgramsInTheDialplanAreNamed(t *testing.T) {
	r := Walk(planOf(t, "public", extension("x", condition(`^1$`, action("lua", "x.lua secret")))+
		extension("y", condition(`^(.*)$`, action("cti_route", "secret")+action("transfer", "$1 enum")))), "public", Caller{})
	want := []Program{{"public", "x", "lua"}, {"public", "y", "cti_route"}, {"public", "y", "transfer to another dialplan"}}
	if !slices.Equal(r.Programs, want) {
		t.Errorf("got %v, want %v", r.Programs, want)
	}
}

func TestAnEndlessDialplanEnds(t *testing.T) {
	var contexts []string
	for i := range 40 {
		contexts = append(contexts, fmt.Sprint("c", i), extension("x", condition(`^(\d+)$`, action("transfer", fmt.Sprintf("1$1 XML c%d", (i+1)%40)))+
			condition(`^(\d+)$`, action("transfer", fmt.Sprintf("2$1 XML c%d", (i+7)%40)))))
	}
	w := newWalker(planOf(t, contexts...), Caller{})
	w.walk("c0", numbers{}.and(w.pattern(".")), nil)
	if !w.cut {
		t.Error("the walk came to an end by itself")
	}
	if w.looked > maxWalk+1 {
		t.Errorf("%d extensions looked at", w.looked)
	}
}
