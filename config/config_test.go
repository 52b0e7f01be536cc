package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
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

var update = flag.Bool("update", false, "write the .err files and docs/configuration.md anew")

// Each testdata/NAME.yaml is wrong in the way that NAME.err says.
func TestInvalidFilesAreReportedWithLineAndKey(t *testing.T) {
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
		"an alias": {"freeswitch:\n  user: &name fsban@pbx.example\n  password: *name\npolicy:\n  ignoreip: [&net 192.0.2.0/24, *net]\n", func(c *Config) {
			c.FreeSWITCH.User, c.FreeSWITCH.Password = "fsban@pbx.example", "fsban@pbx.example"
			c.Policy.IgnoreIP = IgnoreList{"192.0.2.0/24", "192.0.2.0/24"}
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

func TestPasswordIsReadFromTheFirstPlaceThatHasOne(t *testing.T) {
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

func TestHooksAndLevelMatchTheFile(t *testing.T) {
	c, err := Parse("config.yaml", []byte("firewall:\n  chains: raw/PREROUTING, filter/DOCKER-USER\n  ports: [udp/5060, tcp/5060-5061]\nlog:\n  level: debug\n"))
	if err != nil {
		t.Fatal(err)
	}
	got := c.Firewall.Options()
	if !slices.Equal(got.Hooks, []firewall.Hook{{Table: "raw", Chain: "PREROUTING"}, {Table: "filter", Chain: "DOCKER-USER"}}) {
		t.Errorf("hooks %v", got.Hooks)
	}
	if !slices.Equal(got.Ports, []firewall.Ports{{Proto: "udp", First: 5060, Last: 5060}, {Proto: "tcp", First: 5060, Last: 5061}}) || got.Target != firewall.Drop || got.MaxBans != c.Firewall.MaxBans {
		t.Errorf("options %+v", got)
	}
	if c.Log.SlogLevel() != slog.LevelDebug {
		t.Errorf("level %v", c.Log.SlogLevel())
	}
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
