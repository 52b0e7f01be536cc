package fail2ban

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"fsban/config"
	"fsban/internal/testenv"
	"fsban/policy"
)

// Bans with the imported settings of bantime.increment are as long as in fail2ban, one after another. Jitter, which fail2ban
// does not have, is off.
func TestBansGrowAsInFail2ban(t *testing.T) {
	t.Parallel()
	for name, lines := range map[string][]string{
		"not at all":                {"increment = false"},
		"not at all, as it says":    {"increment = false", "multipliers = 1 5 25", "maxtime = 2h"},
		"twice as long":             {"increment = true"},
		"up to a time":              {"increment = true", "maxtime = 5h"},
		"by multipliers":            {"increment = true", "multipliers = 1 2 4 8 16 32 64"},
		"by other multipliers":      {"increment = true", "multipliers = 1 3 9", "factor = 1"},
		"by the first, which is no": {"increment = true", "multipliers = 7 5 25 125"},
		"once":                      {"increment = true", "multipliers = 6"},
		"once, and no more":         {"increment = true", "multipliers = 1 1"},
		"until there is no more":    {"increment = true", "multipliers = 1 4 16 64 64", "maxtime = 20h"},
		"over all jails":            {"increment = true", "overalljails = true", "maxtime = 10h"},
	} {
		t.Run(name, func(t *testing.T) {
			items, ours := grown(t, lines)
			for _, i := range items {
				if strings.HasPrefix(i.Option, "bantime.") && i.Verdict == NotTaken {
					t.Errorf("%s is not taken: %s", i.Option, i.Text)
				}
			}
			if theirs := grownInFail2ban(t, lines); !slices.Equal(ours, theirs) {
				t.Errorf("bans last %v, in fail2ban %v", ours, theirs)
			}
		})
	}
}

// Options with another meaning are reported.
func TestGrowthThatIsNotFsbansIsNotTaken(t *testing.T) {
	items, _ := grown(t, []string{"increment = true", "maxtime = 40m"})
	if !slices.ContainsFunc(items, func(i Item) bool { return i.Option == "bantime.maxtime" && i.Verdict == Changed }) {
		t.Errorf("that bans get shorter is not reported: %+v", items)
	}
	for option, line := range map[string]string{
		"bantime.factor":      "factor = 3",
		"bantime.multipliers": "multipliers = 1 5 30 60 300 720 1440 2880",
		"bantime.formula":     "formula = ban.Time * 3 ** ban.Count",
		"bantime.maxtime":     "maxtime = soon",
		"bantime.rndtime":     "rndtime = 10m",
	} {
		items, ours := grown(t, []string{"increment = true", line})
		if !slices.ContainsFunc(items, func(i Item) bool { return i.Option == option && i.Verdict == NotTaken }) {
			t.Errorf("%s is not reported: %+v", line, items)
		}
		if twice := 2 * bantime; ours[1] != twice {
			t.Errorf("%s: the second ban lasts %v, want %v", line, ours[1], twice)
		}
	}
}

const bantime = time.Hour

// grown returns the lengths of one address's bans by the translated lines, and the items about them.
func grown(t *testing.T, lines []string) (items []Item, lengths []time.Duration) {
	t.Helper()
	dir := t.TempDir()
	jail := "[cti]\nenabled = true\nlogpath = /cti_fail2ban.log\nmaxretry = 1\nbantime = 3600\nbantime." + strings.Join(lines, "\nbantime.") + "\n"
	if err := os.WriteFile(filepath.Join(dir, "jail.local"), []byte(jail), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	plan := Translate(c.Jails)
	cfg, err := config.Parse("config.yaml", plan.YAML(nil))
	if err != nil {
		t.Fatal(err)
	}
	o := cfg.Policy.Options()
	o.Jitter = -1
	e := policy.NewEngine(cfg.Policy.Rules(), policy.NeverBan{}, o)
	at := time.Date(2026, 11, 22, 16, 0, 0, 0, time.UTC)
	for range 8 {
		d := e.Observe(policy.Attempt{Addr: netip.MustParseAddr("192.0.2.7"), At: at, Kind: policy.Violation})
		if d.Verdict != policy.BanNow {
			t.Fatalf("it is not banned: %v", d.Verdict)
		}
		lengths = append(lengths, d.Until.Sub(at))
		at = d.Until
	}
	return plan.Items, lengths
}

func grownInFail2ban(t *testing.T, lines []string) (lengths []time.Duration) {
	t.Helper()
	testenv.System(t, "/usr/bin/python3")
	// The calculation of fail2ban's observer with the number of bans in the database.
	const python = `import sys
from fail2ban.server.jail import Jail
from fail2ban.server.observer import ObserverThread
jail = Jail("cti", backend=None)
for line in sys.argv[2:]:
	jail.setBanTimeExtra(*line.split(" = "))
extra, bantime = jail.getBanTimeExtra(), int(sys.argv[1])
for bans in range(8):
	grows = bans > 0 and extra["increment"]
	print(extra["evformula"](ObserverThread.BanTimeIncr(bantime, bans)) if grows else bantime)`
	args := append([]string{"-c", python, strconv.Itoa(int(bantime.Seconds()))}, lines...)
	out, err := exec.CommandContext(t.Context(), "/usr/bin/python3", args...).Output()
	if err != nil {
		t.Fatalf("this test needs fail2ban (Debian package fail2ban), and fails without it: %v", err)
	}
	for word := range strings.FieldsSeq(string(out)) {
		seconds, err := strconv.ParseFloat(word, 64)
		if err != nil {
			t.Fatal(err)
		}
		lengths = append(lengths, time.Duration(seconds*float64(time.Second)))
	}
	return lengths
}
