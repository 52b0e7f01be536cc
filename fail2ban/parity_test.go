package fail2ban

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"fsban/internal/testenv"
)

// These tests compare this package with fail2ban itself, the package of that name in Debian, and fail without it.

// stockDir is where that package keeps its configuration.
const stockDir = "/etc/fail2ban"

func TestConfigurationsMeanTheSameAsInFail2ban(t *testing.T) {
	t.Parallel()
	testenv.System(t, "fail2ban-client")
	compared := 0
	for _, name := range accepted(t) {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			copyTree(t, filepath.Join("testdata", name), dir)
			for _, stock := range []string{"action.d", "filter.d"} {
				copyTree(t, filepath.Join(stockDir, stock), filepath.Join(dir, stock))
			}
			compared += compare(t, dir)
		})
	}
	if compared < 6 {
		t.Errorf("only %d jails are compared", compared)
	}
}

func TestDebiansConfigurationMeansTheSameAsInFail2ban(t *testing.T) {
	t.Parallel()
	testenv.System(t, "fail2ban-client")
	for name, test := range map[string]struct {
		local string
		jails int // at least
	}{
		"freeswitch":           {"[freeswitch]\nenabled = true\nmode = extra\nlogpath = /var/log/freeswitch/*.log\n", 2},
		"every jail there is":  {"[DEFAULT]\nenabled = true\ncfemail = a\ncfapikey = b\nblocklist_de_apikey = c\nlogpath = /var/log/some.log\n", 80},
		"with the other modes": {"[DEFAULT]\nenabled = true\nmode = aggressive\nlogpath = /var/log/some.log\naction = %(action_mwl)s\n", 80},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			copyTree(t, stockDir, dir)
			if err := os.WriteFile(filepath.Join(dir, "jail.local"), []byte(moved(dir, test.local)), 0o600); err != nil {
				t.Fatal(err)
			}
			if compared := compare(t, dir); compared < test.jails {
				t.Errorf("%d jails are compared, want %d at least", compared, test.jails)
			}
		})
	}
}

func TestFail2banRefusesTheSameConfigurations(t *testing.T) {
	t.Parallel()
	for _, name := range append(refused(t), hurt(t)...) {
		if name == "refused/nothing" {
			continue // fail2ban runs without jails
		}
		out, err := fail2banClient(t, "-c", filepath.Join("testdata", name), "-d")
		if err == nil || !bytes.Contains(out, []byte("configuration stream failed")) {
			t.Errorf("%s: fail2ban takes it: %s", name, out)
		}
	}
}

func TestDurationsMeanTheSameAsInFail2ban(t *testing.T) {
	testenv.System(t, "/usr/bin/python3")
	texts := []string{
		"600", "10m", "1d 2h", "1d12h", "1h30", "5m10", "-1", "0", "00", "1.5h", ".5h", "1h+30min", "1year-6mo", "6 months", "2h -30m", "2 * 30m",
		"(1h + 1) * 2", "-(1h)", "--5", "1_000", "1 week", "1we 2wee", "10 M", "3 DAYS", "1mon", "1mm1ss", "1da 1hou", "7d/2", "600s ", "1h\n2m", "+5",
		"0d 1h 30m", "(1h) + 2", "010", "1e3", "forever", "", "1_", "1h _2", "(1h", "1h)", "m", "1 q", "1/0", "1h,2", "1mx", "1..2", "()",
	}
	// The calculation of fail2ban-client --str2sec, for all of them in one process.
	const python = `import sys
from fail2ban.server.mytime import MyTime
for text in sys.argv[1:]:
	try:
		print(MyTime.str2seconds(text))
	except Exception as e:
		print("no:", type(e))`
	out, err := exec.CommandContext(t.Context(), "/usr/bin/python3", append([]string{"-c", python}, texts...)...).Output()
	said := strings.Split(string(out), "\n")
	if err != nil || len(said) != len(texts)+1 {
		t.Fatalf("this test needs fail2ban (Debian package fail2ban), and fails without it: %v\n%s", err, out)
	}
	for i, text := range texts {
		ours, err := Seconds(text)
		theirs, theirErr := strconv.ParseFloat(said[i], 64)
		if (err == nil) != (theirErr == nil) || ours != theirs {
			t.Errorf("%q: %v, %v, fail2ban says %s", text, ours, err, said[i])
		}
	}
}

// compare compares all jails that fail2ban takes in dir, and returns how many.
func compare(t *testing.T, dir string) int {
	t.Helper()
	out, err := fail2banClient(t, "-c", dir, "-d")
	if errors.Is(err, exec.ErrNotFound) {
		t.Fatal(err)
	}
	theirs := parseDump(t, out)
	c, err := Read(dir)
	if err != nil {
		t.Fatalf("%v, fail2ban says\n%s", err, out)
	}
	compared := 0
	for _, j := range c.Jails {
		their, taken := theirs.jails[j.Name]
		if said := taken || strings.Contains(string(out), "Jail '"+j.Name+"' skipped"); said != j.Enabled {
			t.Errorf("[%s] is enabled: %v, fail2ban says %v", j.Name, j.Enabled, said)
		}
		if !taken {
			continue
		}
		compared++
		if len(j.Problems) > 0 {
			t.Errorf("[%s]: %q", j.Name, j.Problems)
		}
		if ours := normal(j); ours != their.String() {
			t.Errorf("[%s]\n%s\nfail2ban says\n%s", j.Name, ours, their)
		}
	}
	if compared != len(theirs.jails) {
		t.Errorf("%d jails are compared, fail2ban has %d", compared, len(theirs.jails))
	}
	return compared
}

// A dump is the output of fail2ban-client -d.
type dump struct {
	set   map[string]string
	jails map[string]*dumpedJail
}

// A dumpedJail is one jail of it: its options, as far as they are compared.
type dumpedJail struct {
	lines map[string][]string
}

var comparedOptions = []string{
	"backend", "maxretry", "findtime", "bantime", "bantime.increment", "bantime.factor", "bantime.formula", "bantime.multipliers",
	"bantime.maxtime", "bantime.rndtime", "bantime.overalljails", "ignorecommand", "ignoreself", "usedns", "ignoreip", "logpath", "failregex", "ignoreregex",
}

func (j *dumpedJail) String() string {
	var b strings.Builder
	for _, name := range comparedOptions {
		if lines := j.lines[name]; len(lines) > 0 {
			fmt.Fprintf(&b, "%s: %q\n", name, lines)
		}
	}
	return b.String()
}

// normal is a jail of ours in the same form.
func normal(j *Jail) string {
	d := dumpedJail{lines: make(map[string][]string)}
	for _, name := range comparedOptions {
		o, ok := j.Option(name)
		switch {
		case name == "ignoreip":
			for _, w := range j.ignoreWords() {
				d.lines[name] = append(d.lines[name], w.text)
			}
		case name == "failregex":
			d.lines[name] = j.FailRegex
		case name == "ignoreregex":
			d.lines[name] = j.IgnoreRegex
		case name == "logpath":
			for _, path := range j.LogPaths() {
				found, _ := filepath.Glob(path)
				d.lines[name] = append(d.lines[name], found...)
			}
		case name == "backend" && !ok:
			d.lines[name] = []string{"auto"}
		case !ok:
		case name == "maxretry":
			n, _, _ := j.MaxRetry()
			d.lines[name] = []string{strconv.Itoa(n)}
		case name == "ignoreself" || name == "bantime.increment" || name == "bantime.overalljails":
			d.lines[name] = []string{map[bool]string{true: "True", false: "False"}[parseBool(o.Text)]}
		default:
			d.lines[name] = []string{o.Text}
		}
	}
	slices.Sort(d.lines["logpath"])
	return d.String()
}

// parseDump reads lists as Python prints them, one a line. Other lines are skipped.
func parseDump(t *testing.T, out []byte) dump {
	d := dump{set: make(map[string]string), jails: make(map[string]*dumpedJail)}
	for line := range strings.Lines(string(out)) {
		if line[0] != '[' {
			continue
		}
		p := pythonParser{strings.TrimSpace(line)}
		words := p.list()
		if p.rest != "" {
			t.Fatalf("cannot read what fail2ban says: %s", line)
		}
		switch {
		case words[0] == "add":
			d.jails[words[1]] = &dumpedJail{lines: map[string][]string{"backend": {words[2]}}}
			continue
		case len(words) == 3 && words[0] == "set":
			d.set[words[1]] = words[2]
		}
		if len(words) < 4 || d.jails[words[1]] == nil || words[2] == "action" || words[2] == "addaction" {
			continue
		}
		name := words[2]
		lines, values := d.jails[words[1]].lines, words[3:]
		if lines["failregex"] != nil && name == "addfailregex" || lines["ignoreregex"] != nil && name == "addignoreregex" {
			t.Fatalf("%s has more than one source of expressions", words[1])
		}
		if name == "addlogpath" {
			values = values[:1]
		}
		name = strings.TrimPrefix(name, "add")
		lines[name] = append(lines[name], values...)
	}
	for _, j := range d.jails {
		slices.Sort(j.lines["logpath"])
	}
	return d
}

// A pythonParser reads a list of strings, numbers and lists, and flattens it.
type pythonParser struct{ rest string }

var escape = regexp.MustCompile(`\\(x[0-9a-f]{2}|u[0-9a-f]{4}|.)`)

func (p *pythonParser) list() []string {
	var words []string
	for p.rest = p.rest[1:]; p.rest != "" && p.rest[0] != ']'; p.rest = strings.TrimLeft(p.rest, ", ") {
		switch c := p.rest[0]; c {
		case '[':
			words = append(words, p.list()...)
		case '\'', '"':
			end := 1
			for p.rest[end] != c {
				if p.rest[end] == '\\' {
					end++
				}
				end++
			}
			words = append(words, escape.ReplaceAllStringFunc(p.rest[1:end], func(s string) string {
				switch s[1] {
				case 'n':
					return "\n"
				case 't':
					return "\t"
				case 'x', 'u':
					n, _ := strconv.ParseInt(s[2:], 16, 32)
					return string(rune(n))
				}
				return s[1:]
			}))
			p.rest = p.rest[end+1:]
		default:
			end := strings.IndexAny(p.rest, ",]")
			words = append(words, p.rest[:end])
			p.rest = p.rest[end:]
		}
	}
	p.rest = strings.TrimPrefix(p.rest, "]")
	return words
}

func fail2banClient(t *testing.T, args ...string) ([]byte, error) {
	t.Helper()
	testenv.System(t, "fail2ban-client")
	return exec.CommandContext(t.Context(), "fail2ban-client", args...).CombinedOutput()
}

// accepted lists the cases in testdata that fail2ban takes, hurt those of which it takes nothing and fsban something, and
// refused those that fail2ban and fsban refuse.
func accepted(t *testing.T) []string { return cases(t, "testdata/*/want.txt") }
func hurt(t *testing.T) []string     { return cases(t, "testdata/hurt/*/want.txt") }
func refused(t *testing.T) []string  { return cases(t, "testdata/refused/*/want.err") }

func cases(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatal(pattern, err)
	}
	for i, f := range files {
		files[i], _ = filepath.Rel("testdata", filepath.Dir(f))
	}
	return files
}

// copyTree copies a directory into another one, where such a file is not there yet, with the logs moved there too.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(from, path)
		target := filepath.Join(to, name)
		if d.IsDir() {
			return os.MkdirAll(target, 0o755)
		}
		if _, err := os.Lstat(target); err == nil {
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, []byte(moved(to, string(data))), 0o600)
	})
	if err != nil {
		t.Fatalf("this test needs fail2ban's configuration (Debian package fail2ban): %v", err)
	}
}

var logFile = regexp.MustCompile(`(?m)^((?:logpath\s*=)?\s+)(/(?:ddt|fs|var/log)/\S+)`)

// moved puts logs under root, and makes them.
func moved(root, text string) string {
	return logFile.ReplaceAllStringFunc(text, func(s string) string {
		m := logFile.FindStringSubmatch(s)
		path := root + m[2]
		_ = os.MkdirAll(filepath.Dir(path), 0o755)
		_ = os.WriteFile(strings.NewReplacer("*", "x", "%", "x").Replace(path), nil, 0o600)
		return m[1] + path
	})
}
