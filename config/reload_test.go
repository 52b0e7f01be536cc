package config

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"fsban/policy"
)

func TestEachKeyIsLiveOrNeedsARestart(t *testing.T) {
	keys := keysOfConfig()
	if len(keys) < 50 || !slices.Contains(keys, "policy.rules") {
		t.Fatalf("keys %v", keys)
	}
	for _, key := range keys {
		if l, r := slices.Contains(live, key), slices.Contains(restart, key); l == r {
			t.Errorf("%s: live %v, needs a restart %v", key, l, r)
		}
	}
	if n := len(live) + len(restart); n != len(keys) {
		t.Errorf("%d keys are listed, there are %d", n, len(keys))
	}
}

// other sets v to something else than it was.
func other(t *testing.T, v reflect.Value) {
	t.Helper()
	switch to := v.Addr().Interface().(type) {
	case *Ruleset:
		*to = slices.Clone(*to)
		(*to)[0].Enabled = !(*to)[0].Enabled
	case *[]int:
		*to = append(slices.Clone(*to), 4711)
	case *IgnoreList:
		*to = append(slices.Clone(*to), "192.0.2.0/24")
	case *[]string:
		*to = append(slices.Clone(*to), "other")
	default:
		switch v.Kind() {
		case reflect.String:
			v.SetString(v.String() + "x")
		case reflect.Bool:
			v.SetBool(!v.Bool())
		case reflect.Int, reflect.Int64:
			v.SetInt(v.Int() + 1)
		case reflect.Float64:
			v.SetFloat(v.Float() + 1)
		default:
			t.Fatalf("no other value for a %v", v.Type())
		}
	}
}

func TestEachKeyIsTakenOverOrKept(t *testing.T) {
	for _, key := range keysOfConfig() {
		was, next := Default(), Default()
		other(t, at(reflect.ValueOf(&next).Elem(), key))
		now, changed, pending := was.Reload(next)
		want := [2][]string{{key}, nil}
		if key == "policy.rules" {
			want[0] = []string{"policy.rules.auth.enabled"}
		}
		wantNow := next
		if slices.Contains(restart, key) {
			want, wantNow = [2][]string{nil, {key}}, was
		}
		if got := [2][]string{changed, pending}; !reflect.DeepEqual(got, want) {
			t.Errorf("%s: changed and pending %q, want %q", key, got, want)
		}
		if !reflect.DeepEqual(now, wantNow) {
			t.Errorf("%s: goes on with\n%+v, want\n%+v", key, now, wantNow)
		}
		if !reflect.DeepEqual(was, Default()) {
			t.Fatalf("%s: what it ran with was changed", key)
		}
	}
	was := Default()
	if _, changed, pending := was.Reload(Default()); changed != nil || pending != nil {
		t.Errorf("of nothing: changed %q, pending %q", changed, pending)
	}
}

func TestTheSocketIsFoundInAFileThatIsWrong(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	for text, want := range map[string]struct{ socket, err string }{
		"":                                      {Default().Control.Socket, ""},
		"control: {socket: /run/x/s}\n":         {"/run/x/s", ""},
		"nonsense: 1\ncontrol:\n  socket: /s\n": {"/s", ""},
		"policy: {findtime: soon}\n":            {Default().Control.Socket, ""},
		"control: {":                            {Default().Control.Socket, "config.yaml: line 1: did not find expected node content"},
		"control: /s\n":                         {Default().Control.Socket, "config.yaml: line 1: control: write keys and values here, each on a line of its own"},
		"control: {socket: [a]}\n":              {Default().Control.Socket, "config.yaml: line 1: control.socket: "},
		"nothing\n":                             {Default().Control.Socket, "config.yaml: line 1: write keys and values here, each on a line of its own"},
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := Socket(path)
		problem := ""
		if err != nil {
			problem = err.Error()
		}
		if got != want.socket || (problem == "") != (want.err == "") || !strings.HasPrefix(problem, want.err) {
			t.Errorf("%q: %s, %q, want %+v", text, got, problem, want)
		}
	}
	if got, err := Socket(path + ".none"); got != Default().Control.Socket || err != nil {
		t.Errorf("without a file: %s, %v", got, err)
	}
}

func TestDifferencesBetweenRules(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*Ruleset)
		want   []string
	}{
		{"a new rule", func(rs *Ruleset) { *rs = append(*rs, newRule("mine")) }, []string{"policy.rules.mine"}},
		{"one less", func(rs *Ruleset) { *rs = (*rs)[:len(*rs)-1] }, []string{"policy.rules.exploit"}},
		{"two settings of one, and one of another", func(rs *Ruleset) {
			rs.Named("slow").MaxRetry, rs.Named("slow").Kinds = new(99), []policy.Kind{policy.Violation}
			rs.Named("auth").FindTime = new(Duration(time.Minute))
		}, []string{"policy.rules.auth.findtime", "policy.rules.slow.kinds", "policy.rules.slow.maxretry"}},
		{"their order", func(rs *Ruleset) { slices.Reverse(*rs) }, []string{"policy.rules"}},
		{"none and an empty list", func(rs *Ruleset) { rs.Named("auth").Profiles = nil }, nil},
	} {
		was, next := Default(), Default()
		test.change(&next.Policy.Ruleset)
		if _, changed, _ := was.Reload(next); fmt.Sprint(changed) != fmt.Sprint(test.want) {
			t.Errorf("%s: %q, want %q", test.name, changed, test.want)
		}
	}
}
