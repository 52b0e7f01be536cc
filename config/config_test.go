package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"

	"fsban/firewall"
	"fsban/policy"
)

var update = flag.Bool("update", false, "write the .err files anew")

func TestExampleIsTheDefault(t *testing.T) {
	data := example(t)
	got, err := Parse("config.example.yaml", data)
	if err != nil {
		t.Fatal(err)
	}
	if want := Default(); !reflect.DeepEqual(got, want) {
		t.Errorf("the example says\n%+v, the defaults are\n%+v", got, want)
	}
	// A key that the example leaves out has its default too: all have to be there, and nothing else.
	said, known := keysSaid(t, data), keysKnown(reflect.TypeFor[Config](), "")
	for _, key := range known {
		if !slices.Contains(said, key) {
			t.Errorf("%s is not in the example", key)
		}
	}
	if !slices.Equal(said, known) {
		t.Errorf("the example has the keys\n%v, in order of Config they are\n%v", said, known)
	}
}

func TestExampleExplainsEachKey(t *testing.T) {
	var explained func(n *yaml.Node, path string)
	explained = func(n *yaml.Node, path string) {
		for i := 0; i+1 < len(n.Content); i += 2 {
			k, v := n.Content[i], n.Content[i+1]
			key := strings.TrimPrefix(path+"."+k.Value, ".")
			if comment := strings.TrimSpace(strings.TrimLeft(k.HeadComment, "#")); len(comment) < 10 {
				t.Errorf("%s has no comment above it", key)
			}
			if v.Kind == yaml.MappingNode {
				explained(v, key)
			}
		}
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(example(t), &doc); err != nil {
		t.Fatal(err)
	}
	explained(doc.Content[0], "")
}

// keysSaid lists the dotted keys of a file, keysKnown those of a type.
func keysSaid(t *testing.T, data []byte) []string {
	t.Helper()
	p := &parser{lines: make(map[string]int)}
	c := Default()
	p.document(data, &c)
	keys := make([]string, 0, len(p.lines))
	for k := range p.lines {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b string) int { return p.lines[a] - p.lines[b] })
	return keys
}

func keysKnown(typ reflect.Type, path string) []string {
	var keys []string
	for i := range typ.NumField() {
		f := typ.Field(i)
		key := strings.TrimPrefix(path+"."+f.Tag.Get("yaml"), ".")
		keys = append(keys, key)
		if f.Type.Kind() == reflect.Struct {
			keys = append(keys, keysKnown(f.Type, key)...)
		}
	}
	return keys
}

func example(t *testing.T) []byte {
	t.Helper()
	data, err := os.ReadFile("../config.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Each testdata/NAME.yaml is wrong in the way that NAME.err says.
func TestWrongFilesSayWhatIsWrong(t *testing.T) {
	files, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".yaml"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			c, err := Parse("/etc/fsban/config.yaml", data)
			if err == nil {
				t.Fatalf("it is taken for %+v", c)
			}
			if !reflect.DeepEqual(c, Config{}) {
				t.Errorf("half of it is taken: %+v", c)
			}
			golden := strings.TrimSuffix(file, ".yaml") + ".err"
			if *update {
				if err := os.WriteFile(golden, []byte(err.Error()+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, readErr := os.ReadFile(golden)
			if readErr != nil {
				t.Fatal(readErr)
			}
			if got := err.Error() + "\n"; got != string(want) {
				t.Errorf("it says\n%swant\n%s", got, want)
			}
			var problems *Problems
			if !errors.As(err, &problems) || !slices.IsSortedFunc(problems.List, func(a, b Problem) int { return a.Line - b.Line }) {
				t.Errorf("%#v is not in order of lines", err)
			}
		})
	}
}

func TestRightFiles(t *testing.T) {
	for name, test := range map[string]struct {
		file string
		want func(*Config)
	}{
		"nothing":            {"", func(*Config) {}},
		"comments":           {"# nothing yet\n", func(*Config) {}},
		"an empty document":  {"---\n", func(*Config) {}},
		"empty sections":     {"policy:\nfirewall: ~\nlog: null\n", func(*Config) {}},
		"an empty object":    {"{}\n", func(*Config) {}},
		"windows line ends":  {"policy:\r\n  maxretry: 3\r\n", func(c *Config) { c.Policy.MaxRetry = 3 }},
		"a byte order mark":  {"\ufeffpolicy:\n  maxretry: 3\n", func(c *Config) { c.Policy.MaxRetry = 3 }},
		"one setting":        {"policy:\n  maxretry: 3\n", func(c *Config) { c.Policy.MaxRetry = 3 }},
		"forever":            {"policy:\n  bantime: forever\n", func(c *Config) { c.Policy.BanTime = Duration(policy.Forever) }},
		"fail2ban's forever": {"policy:\n  bantime: -1\n", func(c *Config) { c.Policy.BanTime = Duration(policy.Forever) }},
		"weeks and days":     {"policy:\n  bantime: 1w2d12h\n", func(c *Config) { c.Policy.BanTime = Duration((9*24 + 12) * time.Hour) }},
		"digits in groups":   {"firewall:\n  max_bans: 2_000_000\n", func(c *Config) { c.Firewall.MaxBans = 2_000_000 }},
		"numbers as text":    {"policy:\n  maxretry: \"3\"\n", func(c *Config) { c.Policy.MaxRetry = 3 }},
		"a password of digits": {"freeswitch:\n  password: 0123\n", func(c *Config) {
			c.FreeSWITCH.Password = "0123"
		}},
		"mod_cti's events": {"cti_event:\n  subclasses: [cti::ban]\n  ip_header: caller_ip\n", func(c *Config) {
			c.CTIEvent.Subclasses, c.CTIEvent.IPHeader = []string{"cti::ban"}, "caller_ip"
		}},
		"the rules of cti.json": {"calls:\n  deny_prefix: [\"00\", +]\n  allow_prefix: [00800]\n  destination_number_max_len: 12\n", func(c *Config) {
			c.Calls.DenyPrefix, c.Calls.AllowPrefix, c.Calls.MaxLength = []string{"00", "+"}, []string{"00800"}, 12
		}},
		"no metrics": {"http:\n  listen: \"\"\n", func(c *Config) { c.HTTP.Listen = "" }},
		"an empty list": {"policy:\n  ignoreip: []\n", func(c *Config) {
			c.Policy.IgnoreIP = []netip.Prefix{}
		}},
		"fail2ban's list": {"policy:\n  ignoreip: 127.0.0.1/8 ::1 ::ffff:192.0.2.7, 2001:db8::1/32\n", func(c *Config) {
			c.Policy.IgnoreIP = prefixes("127.0.0.0/8", "::1/128", "192.0.2.7/32", "2001:db8::/32")
		}},
		"an alias": {"freeswitch:\n  user: &name fsban@pbx.example\n  password: *name\npolicy:\n  ignoreip: [&net 192.0.2.0/24, *net]\n", func(c *Config) {
			c.FreeSWITCH.User, c.FreeSWITCH.Password = "fsban@pbx.example", "fsban@pbx.example"
			c.Policy.IgnoreIP = prefixes("192.0.2.0/24", "192.0.2.0/24")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			want := Default()
			test.want(&want)
			got, err := Parse("config.yaml", []byte(test.file))
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%+v, %v, want\n%+v", got, err, want)
			}
		})
	}
}

func prefixes(list ...string) []netip.Prefix {
	var p []netip.Prefix
	for _, s := range list {
		p = append(p, netip.MustParsePrefix(s))
	}
	return p
}

func TestPasswordComesFromTheFirstPlaceThatHasOne(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ofFile := write("password", "of the file \r\n")
	plain := write("plain.yaml", "freeswitch:\n  password: of the configuration\n")
	pointed := write("pointed.yaml", "freeswitch:\n  password_file: "+ofFile+"\n")
	neither := write("neither.yaml", "policy:\n  maxretry: 3\n")
	empty := write("empty.yaml", "freeswitch:\n  password_file: "+write("nothing", "\n")+"\n")
	lines := write("lines.yaml", "freeswitch:\n  password_file: "+write("two", "one\ntwo\n")+"\n")
	lost := write("lost.yaml", "freeswitch:\n  password_file: "+dir+"/none\n")
	for name, test := range map[string]struct{ file, env, want, err string }{
		"the default":                   {neither, "", "ClueCon", ""},
		"the configuration":             {plain, "", "of the configuration", ""},
		"the file":                      {pointed, "", "of the file ", ""},
		"the environment":               {neither, "of the environment", "of the environment", ""},
		"environment and configuration": {plain, "of the environment", "of the environment", ""},
		"environment and file":          {pointed, "of the environment", "of the environment", ""},
		"environment and lost file":     {lost, "of the environment", "of the environment", ""},
		"an environment of two lines":   {plain, "one\ntwo", "", "FSBAN_FREESWITCH_PASSWORD: the password has more than one line"},
		"a file of two lines":           {lines, "", "", "freeswitch.password_file: the password has more than one line"},
		"an empty file":                 {empty, "", "", "freeswitch.password_file: " + dir + "/nothing is empty"},
		"a lost file":                   {lost, "", "", "freeswitch.password_file: open " + dir + "/none: no such file or directory"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(PasswordEnv, test.env)
			c, err := Load(test.file)
			if got := fmt.Sprint(err); got != test.err && (err != nil || test.err != "") {
				t.Errorf("error %s, want %s", got, test.err)
			}
			if c.FreeSWITCH.Password != Secret(test.want) {
				t.Errorf("password %q, want %q", string(c.FreeSWITCH.Password), test.want)
			}
		})
	}
}

func TestLoadWithoutFile(t *testing.T) {
	t.Setenv(PasswordEnv, "")
	missing := filepath.Join(t.TempDir(), "config.yaml")
	if _, err := Load(missing); err == nil || err.Error() != "configuration: open "+missing+": no such file or directory" {
		t.Errorf("a file that was asked for: %v", err)
	}
	if _, err := os.Stat(Path); errors.Is(err, os.ErrNotExist) {
		if c, err := Load(Path); err != nil || !reflect.DeepEqual(c, Default()) {
			t.Errorf("the file that need not be there: %+v, %v", c, err)
		}
	}
}

func TestSecretIsNeverPrinted(t *testing.T) {
	const secret = "5up3r-s3cret"
	c := Default()
	c.FreeSWITCH.Password = secret
	printed := map[string]string{}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%08.3f", "%U"} {
		printed[verb] = fmt.Sprintf(verb, c.FreeSWITCH.Password)
		printed["struct "+verb] = fmt.Sprintf(verb, c)
		printed["pointer "+verb] = fmt.Sprintf(verb, &c.FreeSWITCH)
	}
	printed["Sprint"] = fmt.Sprint(c.FreeSWITCH.Password, c)
	printed["String"] = c.FreeSWITCH.Password.String()
	printed["error"] = fmt.Errorf("log in with %v: %w", c.FreeSWITCH.Password, os.ErrPermission).Error()
	for name, marshal := range map[string]func(any) ([]byte, error){"json": json.Marshal, "yaml": yaml.Marshal} {
		for what, v := range map[string]any{"secret": c.FreeSWITCH.Password, "struct": c, "map": map[string]any{"password": &c.FreeSWITCH.Password}} {
			text, err := marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			printed[name+" "+what] = string(text)
		}
	}
	var out bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(h).Info("configuration", "password", c.FreeSWITCH.Password, "freeswitch", c.FreeSWITCH, "all", &c, "list", []Secret{c.FreeSWITCH.Password})
	}
	printed["slog"] = out.String()
	for how, text := range printed {
		lower := strings.ToLower(text)
		if strings.Contains(lower, secret) || strings.Contains(lower, fmt.Sprintf("%x", secret)) {
			t.Errorf("%s prints %s", how, text)
		}
		if !strings.Contains(text, "(hidden)") {
			t.Errorf("%s does not say that something is hidden: %s", how, text)
		}
	}
}

func TestHooksAndLevelAreWhatTheFileSays(t *testing.T) {
	c, err := Parse("config.yaml", []byte("firewall:\n  chains: raw/PREROUTING, filter/DOCKER-USER\nlog:\n  level: debug\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Firewall.Hooks(); !slices.Equal(got, []firewall.Hook{{Table: "raw", Chain: "PREROUTING"}, {Table: "filter", Chain: "DOCKER-USER"}}) {
		t.Errorf("hooks %v", got)
	}
	if c.Log.SlogLevel() != slog.LevelDebug {
		t.Errorf("level %v", c.Log.SlogLevel())
	}
	if r := c.Policy.Rule(); r.FindTime != 5*time.Minute || r.MaxRetry != 5 || r.BanTime != 24*time.Hour || !slices.Equal(r.Kinds, []policy.Kind{policy.AuthFailure, policy.Violation}) {
		t.Errorf("rule %+v", r)
	}
}

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"90s": 90 * time.Second, "10m": 10 * time.Minute, "24h": 24 * time.Hour, "1d": 24 * time.Hour, "7d": 7 * 24 * time.Hour,
		"1w": 7 * 24 * time.Hour, "1w1d1h1m1s": (8*24+1)*time.Hour + 61*time.Second, "1.5h": 90 * time.Minute, "0s": 0,
		"36500d": 36500 * 24 * time.Hour, "forever": policy.Forever, "-1": policy.Forever,
	} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("%s: %v, %v, want %v", text, got, err, want)
		}
	}
	for want, d := range map[string]time.Duration{
		"0s": 0, "1ns": 1, "1m30s": 90 * time.Second, "10m": 10 * time.Minute, "1h": time.Hour, "1h10m": 70 * time.Minute,
		"20h": 20 * time.Hour, "1d": 24 * time.Hour, "25h": 25 * time.Hour, "30d": 30 * 24 * time.Hour, "forever": policy.Forever,
	} {
		if got := Duration(d).String(); got != want {
			t.Errorf("%v is written %s, want %s", d, got, want)
		}
	}
	for _, text := range []string{"", " ", "d", "w", "1", "1x", "1h1d", "1d1w", "1d1d", "-1h", "1d-1h", "+1h", "1d+1h", "1.5d", "36501d", "100000000h", "99999999999999999999d", "forever1", "Forever", "1 h", "١h"} {
		if d, err := ParseDuration(text); err == nil {
			t.Errorf("%q is taken for %v", text, d)
		}
	}
}

func TestPrefixes(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.7": "192.0.2.7/32", "192.0.2.7/24": "192.0.2.0/24", "127.0.0.1/8": "127.0.0.0/8", "0.0.0.0/0": "0.0.0.0/0",
		"2001:db8::1": "2001:db8::1/128", "2001:DB8::1/64": "2001:db8::/64", "::ffff:192.0.2.7": "192.0.2.7/32",
		"::ffff:192.0.2.7/120": "192.0.2.0/24", "::ffff:0:0/96": "0.0.0.0/0", "::ffff:192.0.2.7/80": "::/80", "::1": "::1/128",
	} {
		if got, err := ParsePrefix(text); err != nil || got.String() != want {
			t.Errorf("%s: %v, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "carrier.example", "192.0.2", "192.0.2.07", "192.0.2.7/33", "192.0.2.7/", "192.0.2.7/08", "fe80::1%eth0", "fe80::%eth0/64", "2001:db8::/129", "192.0.2.1-192.0.2.9", "[::1]"} {
		if p, err := ParsePrefix(text); err == nil {
			t.Errorf("%q is taken for %v", text, p)
		}
	}
}

func FuzzDurationReadsWhatItWrites(f *testing.F) {
	for _, n := range []int64{0, 1, -1, int64(time.Second), int64(90 * time.Minute), int64(24 * time.Hour), int64(5000 * 24 * time.Hour), int64(maxDuration)} {
		f.Add(n)
	}
	f.Fuzz(func(t *testing.T, n int64) {
		d := time.Duration(n)
		if d != policy.Forever && (d < 0 || d > maxDuration) {
			return
		}
		if got, err := ParseDuration(Duration(d).String()); err != nil || got != d {
			t.Errorf("%d is written %v and read %d, %v", d, Duration(d), got, err)
		}
	})
}

func FuzzParseDuration(f *testing.F) {
	for _, s := range []string{"5m", "1w2d3h", "forever", "-1", "600", "1d-1h", "99999w", "1e9h"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDuration(s)
		if err == nil && d != policy.Forever && (d < 0 || d > maxDuration) || err != nil && d != 0 {
			t.Errorf("%q is %v, %v", s, d, err)
		}
	})
}

func FuzzParsePrefix(f *testing.F) {
	for _, s := range []string{"192.0.2.7", "192.0.2.7/24", "::ffff:192.0.2.7/120", "::ffff:192.0.2.7/95", "2001:db8::/32", "fe80::1%eth0", "::/0"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePrefix(s)
		if err != nil {
			return
		}
		if !p.IsValid() || p.Addr().Is4In6() || p.Addr().Zone() != "" || p != p.Masked() {
			t.Errorf("%q is %v", s, p)
		}
		if again, err := ParsePrefix(p.String()); err != nil || again != p {
			t.Errorf("%v is read as %v, %v", p, again, err)
		}
	})
}

// Whatever a file holds, it is a whole configuration or a list of problems, each in one line.
func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.yaml")
	for _, file := range append(files, "../config.example.yaml") {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("config.yaml", data)
		if err == nil {
			c.validate(func(key, format string, args ...any) { t.Errorf("%s: "+format, append([]any{key}, args...)...) })
			return
		}
		var problems *Problems
		if !errors.As(err, &problems) || len(problems.List) == 0 || !reflect.DeepEqual(c, Config{}) {
			t.Errorf("%+v, %v", c, err)
		}
		if lines := strings.Count(err.Error(), "\n") + 1; lines != len(problems.List) {
			t.Errorf("%d problems in %d lines: %q", len(problems.List), lines, err)
		}
	})
}

func TestTheLogOfModCTIIsTheOneThatIsSetOrNone(t *testing.T) {
	for path, want := range map[string]string{"/somewhere/cti.log": "/somewhere/cti.log", CTILogOff: ""} {
		log := CTILog{Path: path}
		if got := log.File(); got != want {
			t.Errorf("%q: %q, want %q", path, got, want)
		}
	}
}
