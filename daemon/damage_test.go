package daemon

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"fsban/control"
	"fsban/internal/fakeswitch"
)

// An earlier backend that cannot be removed is an open problem until it is gone.
func TestAnEarlierBackendIsAnOpenProblem(t *testing.T) {
	t.Parallel()
	d := everything(t)
	text := "an earlier backend still drops packets"
	has := func() bool { return strings.Contains(strings.Join(d.problems(), "\n"), text) }
	d.leftover.Store(&text)
	if !has() {
		t.Errorf("open problems %q", d.problems())
	}
	d.leftover.Store(nil)
	if has() {
		t.Errorf("open problems %q after its end", d.problems())
	}
}

// A damaged record costs one allowance, and status shows the number of damaged parts.
func TestAnAllowanceIsLostAmongDamagedRecords(t *testing.T) {
	t.Parallel()
	fs := newSwitch(t, fakeswitch.Options{})
	cfg := configFor(t, fs)
	r := start(t, fs, cfg)
	r.eventually("the source is up", r.connected)
	for _, p := range []string{"192.0.2.1/32", "192.0.2.2/32", "192.0.2.3/32"} {
		if _, err := r.client.Allow(t.Context(), control.AllowRequest{Prefix: netip.MustParsePrefix(p), Reason: "allowed " + p}); err != nil {
			t.Fatal(err)
		}
	}
	r.ban("203.0.113.1/32")
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(cfg.State.Directory, "fsban.db")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damaged := strings.ReplaceAll(string(data), "allowed 192.0.2.2/32", "allowed 192.0.2.9/32")
	if damaged == string(data) {
		t.Fatal("the file does not hold the allowance as text")
	}
	if err := os.WriteFile(path, []byte(damaged), 0o600); err != nil {
		t.Fatal(err)
	}
	r = start(t, fs, cfg)
	r.problem("the state file was damaged at the start (damaged parts: 1, the rest was restored)", "check the allowances")
	list, err := r.client.Allowed(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, a := range list {
		got = append(got, a.Prefix.String())
	}
	if strings.Join(got, " ") != "192.0.2.1/32 192.0.2.3/32" || len(r.banned()) != 1 {
		t.Errorf("allowed %v, banned %v", got, r.banned())
	}
}
