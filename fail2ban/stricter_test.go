package fail2ban

import (
	"slices"
	"testing"

	"fsban/config"
)

// --only-auth leaves the rule auth alone, whether a jail makes it or not, and bans grow only where they do in fail2ban.
func TestOnlyAuthLeavesOneRule(t *testing.T) {
	for name, tt := range map[string]struct {
		plan     Plan
		stricter []string
		factor   float64
	}{
		"a jail of failures":         {Plan{made: true, grows: true}, []string{"enumeration", "slow", "scanner", "acl", "toll", "challenge", "unproven", "scan", "malformed", "flood", "exploit", ""}, 1},
		"a jail whose bans grow":     {Plan{made: true}, []string{"enumeration", "slow", "scanner", "acl", "toll", "challenge", "unproven", "scan", "malformed", "flood", "exploit"}, 2},
		"a jail of challenges alone": {Plan{}, []string{"auth", "enumeration", "slow", "scanner", "acl", "toll", "challenge", "unproven", "scan", "malformed", "flood", "exploit"}, 2},
	} {
		var rules []string
		for _, extra := range tt.plan.Stricter() {
			rules = append(rules, extra.Rule)
		}
		if !slices.Equal(rules, tt.stricter) {
			t.Errorf("%s: stricter are %q, want %q", name, rules, tt.stricter)
		}
		tt.plan.OnlyAuth()
		c, err := config.Parse("config.yaml", tt.plan.YAML(nil))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if left := c.Policy.Rules(); len(left) != 1 || left[0].Name != authRule || c.Policy.Escalation.Factor != tt.factor {
			t.Errorf("%s: rules %v, factor %v", name, left, c.Policy.Escalation.Factor)
		}
	}
}
