package fail2ban

import (
	"fmt"
	"slices"

	"fsban/config"
	"fsban/policy"
)

// An Extra is a part of fsban's default policy that bans where the jails would not, or for longer.
type Extra struct {
	Rule string `json:"rule,omitempty"` // empty: it is no rule
	Text string `json:"text"`

	off Setting // disables it
}

// authRule is the rule that a jail becomes.
const authRule = "auth"

// Stricter lists the parts of fsban's default policy that are stricter than the jails of the plan.
func (p *Plan) Stricter() []Extra {
	defaults := config.Default()
	list := []Extra{}
	for _, r := range defaults.Policy.Rules() {
		if r.Name == authRule && p.made {
			continue
		}
		list = append(list, Extra{
			Rule: r.Name,
			Text: fmt.Sprintf("%d %s within %v: banned for %v", r.MaxRetry, counted(&r), config.Duration(r.FindTime), config.Duration(r.BanTime)),
			off:  Setting{Key: "policy.rules." + r.Name + ".enabled", Value: "false"},
		})
	}
	if p.grows {
		e := &defaults.Policy.Escalation
		list = append(list, Extra{
			Text: fmt.Sprintf("each further ban of an address lasts %s times as long, up to %v", decimal(e.Factor), e.MaxBanTime),
			off:  Setting{Key: keyFactor, Value: "1"},
		})
	}
	return list
}

// counted names the attempts that a rule counts.
func counted(r *policy.Rule) string {
	switch {
	case r.UserAgent != nil:
		return "attempts of a scanner"
	case r.Unproven:
		return "failed logins that may be forged"
	case r.DistinctUsers:
		return "failed logins of different users"
	case slices.Contains(r.Kinds, policy.AuthFailure):
		return "failed logins"
	case slices.Contains(r.Kinds, policy.ACLReject):
		return "refusals by an access list"
	case slices.Contains(r.Kinds, policy.CallReject):
		return "refused calls"
	case slices.Contains(r.Kinds, policy.Scan):
		return "requests of a scanner"
	case slices.Contains(r.Kinds, policy.Malformed):
		return "malformed messages"
	case slices.Contains(r.Kinds, policy.Flood):
		return "reports of a flood"
	case slices.Contains(r.Kinds, policy.Exploit):
		return "published attacks"
	}
	return "unanswered challenges"
}

// OnlyAuth adds settings to the plan that disable all that is stricter than its jails, except the rule auth.
func (p *Plan) OnlyAuth() {
	comments := []string{"--only-auth: disabled, because the jail has nothing like it"}
	for _, extra := range p.Stricter() {
		if extra.Rule == authRule { // the jails count challenges only: failed logins need a rule all the same
			continue
		}
		extra.off.Comments, comments = comments, nil
		p.Settings = append(p.Settings, extra.off)
	}
	for i := range p.Items {
		if item := &p.Items[i]; p.grows && item.Option == optionIncrement {
			item.Verdict, item.Text = Same, keyFactor+" 1, because of --only-auth"
		}
	}
}
