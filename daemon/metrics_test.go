package daemon

import (
	"bytes"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"

	"fsban/config"
	"fsban/firewall"
	"fsban/internal/fakeswitch"
)

var update = flag.Bool("update", false, "rewrite testdata/metrics.golden and the tables of docs/metrics.md")

// everything returns a daemon that does not run, with every optional feature configured.
func everything(t testing.TB) *Daemon {
	t.Helper()
	cfg := configFor(t, fakeswitch.New(fakeswitch.Options{}))
	cfg.SIP.Tap = config.TapHEP // opened, and not run
	cfg.CTIEvent.Subclasses, cfg.CTIEvent.IPHeader, cfg.CTIEvent.UserHeader, cfg.CTIEvent.ReasonHeader = []string{"cti::fail2ban"}, "network-ip", "to-user", "reason"
	cfg.CTILog.Path = filepath.Join(cfg.State.Directory, "cti_fail2ban.log")
	cfg.Fleet.Redis = "redis://127.0.0.1:1"
	return opened(t, cfg)
}

// opened returns a daemon that does not run.
func opened(t testing.TB, cfg config.Config) *Daemon {
	t.Helper()
	d, err := open(cfg, Options{Log: slog.New(slog.DiscardHandler), Version: "test", Revision: "none"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.ledger.Close(); err != nil {
			t.Error(err)
		}
		if err := d.enforcer.Backend().Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// ours gathers fsban's own metrics. It fails on other metrics than Go's and the process's.
func ours(t testing.TB, d *Daemon) []*dto.MetricFamily {
	t.Helper()
	all, err := d.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(f *dto.MetricFamily) bool {
		name := f.GetName()
		switch {
		case strings.HasPrefix(name, "fsban_"):
			return false
		case strings.HasPrefix(name, "go_"), strings.HasPrefix(name, "process_"):
		default:
			t.Errorf("%s has no prefix that we know", name)
		}
		return true
	})
}

func TestMetricsAreAsPrometheusWantsThem(t *testing.T) {
	t.Parallel()
	problems, err := testutil.GatherAndLint(everything(t).registry)
	if err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v %v", problems, err)
	}
}

// TestMetricsAreTheseAndNoOthers compares every series, without its value, as text.
func TestMetricsAreTheseAndNoOthers(t *testing.T) {
	var got bytes.Buffer
	for _, f := range ours(t, everything(t)) {
		fmt.Fprintf(&got, "%s %s\n", f.GetName(), kindOf(f))
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				value := l.GetValue()
				if l.GetName() == "goversion" {
					value = "go"
				}
				labels = append(labels, l.GetName()+"="+value)
			}
			if len(labels) > 0 {
				fmt.Fprintf(&got, "  %s\n", strings.Join(labels, " "))
			}
			if h := m.GetHistogram(); h != nil && len(h.GetBucket()) > 0 {
				fmt.Fprint(&got, "  le")
				for _, b := range h.GetBucket() {
					fmt.Fprintf(&got, " %v", b.GetUpperBound())
				}
				fmt.Fprintln(&got)
			}
		}
	}
	const golden = "testdata/metrics.golden"
	if *update {
		if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := difference(string(want), got.String()); diff != "" {
		t.Errorf("go test ./daemon -run Metrics -update would change %s (look at it, then at docs/metrics.md):\n%s", golden, diff)
	}
}

func kindOf(f *dto.MetricFamily) string { return strings.ToLower(f.GetType().String()) }

// difference returns the lines that only one of two texts has.
func difference(want, got string) string {
	var b strings.Builder
	lines := func(sign, a, other string) {
		there := strings.Split(other, "\n")
		for line := range strings.SplitSeq(a, "\n") {
			if !slices.Contains(there, line) {
				fmt.Fprintln(&b, sign, line)
			}
		}
	}
	lines("-", want, got)
	lines("+", got, want)
	if b.Len() == 0 && want != got {
		return "the order, or how often something comes"
	}
	return b.String()
}

func TestHistogramsAreClassicAndNative(t *testing.T) {
	t.Parallel()
	d, found := everything(t), 0
	d.metrics.latency.Observe(.0003)
	for _, f := range ours(t, d) {
		if f.GetType() != dto.MetricType_HISTOGRAM {
			continue
		}
		for _, m := range f.GetMetric() {
			found++
			// Factor 1.1 between buckets selects schema 3, whose factor 2^(1/8) is the next smaller one.
			if h := m.GetHistogram(); h.GetSchema() != 3 || h.GetZeroThreshold() == 0 || len(h.GetBucket()) == 0 {
				t.Errorf("%s: schema %d, %d classic buckets", f.GetName(), h.GetSchema(), len(h.GetBucket()))
			}
		}
	}
	if found < 3 {
		t.Errorf("%d histograms", found)
	}
}

func TestAScrapeListsNothing(t *testing.T) {
	t.Parallel()
	d := everything(t)
	backend := &listless{Backend: d.enforcer.Backend()}
	d.enforcer = firewall.NewEnforcer(backend, firewall.EnforcerOptions{Operated: func(op firewall.Operation, _ time.Duration, _ error) {
		t.Errorf("a scrape does %s", op)
	}})
	for range 3 {
		ours(t, d)
	}
	if backend.asked == 0 {
		t.Error("the backend was not asked what it has dropped: this is not the enforcer that is scraped")
	}
}

// listless counts the calls of Dropped.
type listless struct {
	firewall.Backend
	asked int
}

func (l *listless) Dropped() map[string]firewall.Dropped {
	l.asked++
	return l.Backend.Dropped()
}

// textOf replaces values of labels that depend on the build.
var textOf = map[string]string{
	"profile":   "the names that FreeSWITCH has (16 at most), unknown, other",
	"rule":      "the names in `policy.rules`, office, operator, fleet",
	"backend":   "iptables, nftables, rules, none",
	"version":   "text",
	"revision":  "text",
	"goversion": "text",
}

// TestMetricsAreDocumented compares docs/metrics.md with the metrics: each has a row with its type, labels and help, and with
// an action, which is written by hand.
func TestMetricsAreDocumented(t *testing.T) {
	const file = "../docs/metrics.md"
	rows := make(map[string]string)
	for _, f := range ours(t, everything(t)) {
		values := make(map[string][]string)
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if !slices.Contains(values[l.GetName()], l.GetValue()) {
					values[l.GetName()] = append(values[l.GetName()], l.GetValue())
				}
			}
		}
		var labels []string
		for _, name := range slices.Sorted(maps.Keys(values)) {
			text := textOf[name]
			if text == "" {
				slices.Sort(values[name])
				text = strings.Join(values[name], ", ")
			}
			labels = append(labels, fmt.Sprintf("`%s`: %s", name, text))
		}
		rows[f.GetName()] = fmt.Sprintf("| `%s` | %s | %s | %s |", f.GetName(), kindOf(f), strings.Join(labels, "; "), f.GetHelp())
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	documented := make(map[string]bool)
	lines := strings.Split(string(data), "\n")
	for i, line := range lines {
		if !strings.HasPrefix(line, "| `fsban_") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		name := strings.Trim(cells[0], " `")
		want, there := rows[name]
		todo := strings.TrimSpace(cells[len(cells)-1])
		switch {
		case documented[name]:
			t.Errorf("%s has two rows", name)
		case !there:
			t.Errorf("%s is documented, and does not exist", name)
		case len(cells) != 5 || todo == "":
			t.Errorf("the row of %s does not say what to do with it, in five cells", name)
		}
		documented[name] = true
		if full := want + " " + todo + " |"; there && len(cells) == 5 && full != line {
			if lines[i] = full; !*update {
				t.Errorf("%s (go test ./daemon -run Metrics -update mends it):\n- %s\n+ %s", name, line, full)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		if !documented[name] {
			t.Errorf("no row for it in docs/metrics.md:\n%s what to do with it |", rows[name])
		}
	}
	if *update {
		if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
