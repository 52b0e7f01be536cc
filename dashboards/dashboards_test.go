package dashboards_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"fsban/dashboards"
	"fsban/internal/testenv"
)

var update = flag.Bool("update", false, "write fsban.json")

// file returns the text of a file of the repository.
func file(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestDashboardFileIsUpToDate(t *testing.T) {
	if *update {
		if err := os.WriteFile("fsban.json", dashboards.JSON(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal([]byte(file(t, "fsban.json")), dashboards.JSON()) {
		t.Error("fsban.json is out of date: run make dashboard")
	}
}

func TestEachPanelIsFitToBeRead(t *testing.T) {
	alerts := make(map[string]bool)
	for _, a := range readAlerts(t) {
		alerts[strings.ToLower(a.Alert)] = true
	}
	ids, titles := make(map[int]bool), make(map[string]bool)
	for _, p := range dashboards.Panels() {
		if ids[p.ID] {
			t.Errorf("%s: duplicate id %d", p.Title, p.ID)
		}
		ids[p.ID] = true
		if p.Description == "" || p.FieldConfig.Defaults["unit"] == "" || p.FieldConfig.Defaults["noValue"] == "" || len(p.Targets) == 0 {
			t.Errorf("%s: no description, no unit, no text for an empty result, or no query", p.Title)
		}
		if key := fmt.Sprint(p.Title, p.Type); titles[key] {
			t.Errorf("two panels are called %s", p.Title)
		} else {
			titles[key] = true
		}
		for _, l := range p.Links {
			if _, anchor, ok := strings.Cut(l.URL, "#"); ok && !alerts[anchor] {
				t.Errorf("%s: there is no alert %s", p.Title, anchor)
			}
		}
		g := p.GridPos
		if g.W < 1 || g.H < 1 || g.X+g.W > 24 {
			t.Errorf("%s does not fit: %+v", p.Title, g)
		}
		for _, o := range dashboards.Panels() {
			h := o.GridPos
			if o.ID != p.ID && g.X < h.X+h.W && h.X < g.X+g.W && g.Y < h.Y+h.H && h.Y < g.Y+g.H && p.Folded() == o.Folded() {
				t.Errorf("%s overlaps %s", p.Title, o.Title)
			}
		}
	}
}

// An alert is an alerting rule of the rules file.
type alert struct {
	Alert, Expr, For string
	Labels           map[string]string
	Annotations      map[string]string
	comment          string
}

func readAlerts(t *testing.T) (list []alert) {
	t.Helper()
	var groups struct {
		Groups []struct{ Rules []yaml.Node }
	}
	if err := yaml.Unmarshal([]byte(file(t, "rules/fsban.rules.yaml")), &groups); err != nil {
		t.Fatal(err)
	}
	for _, g := range groups.Groups {
		for i := range g.Rules {
			var a alert
			if err := g.Rules[i].Decode(&a); err != nil {
				t.Fatal(err)
			}
			a.comment = g.Rules[i].HeadComment
			list = append(list, a)
		}
	}
	if len(list) == 0 {
		t.Fatal("there are no alerts")
	}
	return list
}

func TestEachAlertSaysWhatAnOperatorNeeds(t *testing.T) {
	runbook, tests := file(t, "../docs/runbook.md"), file(t, "rules/fsban_test.yaml")
	var chapters []string
	for _, m := range regexp.MustCompile(`(?m)^## (Fsban\w+)$`).FindAllStringSubmatch(runbook, -1) {
		chapters = append(chapters, m[1])
	}
	for _, a := range readAlerts(t) {
		if !slices.Contains([]string{"critical", "warning", "info"}, a.Labels["severity"]) || a.For == "" || a.Annotations["summary"] == "" || a.Annotations["description"] == "" {
			t.Errorf("%s: severity, for, summary or description is missing: %+v", a.Alert, a)
		}
		if want := "docs/runbook.md#" + strings.ToLower(a.Alert); a.Annotations["runbook_url"] != want {
			t.Errorf("%s: runbook_url is %q, want %q", a.Alert, a.Annotations["runbook_url"], want)
		}
		if len(a.comment) < 40 {
			t.Errorf("%s: no comment says why its threshold is what it is", a.Alert)
		}
		i := slices.Index(chapters, a.Alert)
		if i < 0 {
			t.Errorf("docs/runbook.md has no chapter %s", a.Alert)
		} else {
			chapters = slices.Delete(chapters, i, i+1)
		}
		for _, must := range []string{"{eval_time: [^}]*, alertname: " + a.Alert + `, exp_alerts: \[\]}`, `alertname: ` + a.Alert + `\n        exp_alerts:\n`} {
			if !regexp.MustCompile(must).MatchString(tests) {
				t.Errorf("rules/fsban_test.yaml does not make %s fire and stay quiet: %s", a.Alert, must)
			}
		}
		if !strings.Contains(runbook, "| ["+a.Alert+"](#"+strings.ToLower(a.Alert)+") | "+a.Labels["severity"]+" |") {
			t.Errorf("the table of docs/runbook.md does not list %s as %s", a.Alert, a.Labels["severity"])
		}
	}
	if len(chapters) > 0 {
		t.Errorf("docs/runbook.md has chapters of alerts that are not there: %v", chapters)
	}
}

func TestPromtoolFindsNoFault(t *testing.T) {
	testenv.System(t, "promtool")
	for _, line := range []string{
		"check rules rules/fsban.rules.yaml rules/fail2ban.rules.yaml",
		"check config prometheus.yml",
		"test rules rules/fsban_test.yaml rules/fail2ban_test.yaml",
	} {
		if out, err := exec.CommandContext(t.Context(), "promtool", strings.Fields(line)...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", line, err, out)
		}
	}
}

// metricNames returns fsban's metrics that a text names, without the suffixes of histograms.
func metricNames(text string) (names []string) {
	for _, name := range regexp.MustCompile(`\bfsban_[a-z0-9_]+[a-z0-9]\b`).FindAllString(text, -1) {
		names = append(names, strings.TrimSuffix(name, "_bucket"))
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// used returns the metrics that dashboards, rules and documents name, each with one place.
func used(t *testing.T) map[string]string {
	t.Helper()
	places := make(map[string]string)
	for _, pattern := range []string{"fsban.json", "rules/*.rules.yaml", "../README.md", "../docs/*.md"} {
		paths, err := filepath.Glob(pattern)
		if err != nil || len(paths) == 0 {
			t.Fatalf("%s: %v", pattern, err)
		}
		for _, path := range paths {
			for _, name := range metricNames(file(t, path)) {
				places[name] = path
			}
		}
	}
	return places
}
