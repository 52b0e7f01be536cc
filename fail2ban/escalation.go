package fail2ban

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

const (
	keyFactor     = "policy.escalation.factor"
	keyMaxBanTime = "policy.escalation.max_bantime"

	optionIncrement = "bantime.increment"
)

// escalation makes policy.escalation. If the jail sets nothing, bans grow in fsban and do not in fail2ban.
func (t *translator) escalation() {
	e := &t.defaults.Policy.Escalation
	switch o, set := t.jail.Option(optionIncrement); {
	case !set:
		t.plan.grows = true
		t.item(optionIncrement, Option{Text: "false"}, Changed,
			"in fsban each further ban of an address lasts %s times as long, up to %v; %s: 1 makes them all alike", decimal(e.Factor), e.MaxBanTime,
			keyFactor)
	case !parseBool(o.Text):
		t.set(optionIncrement, o, keyFactor, "1", decimal(e.Factor), "")
	default:
		t.item(optionIncrement, o, Changed,
			"bans grow in fsban too, with policy.escalation.jitter %s on top; fail2ban also bans who was banned before after fewer failures, fsban "+
				"after maxretry", decimal(e.Jitter))
		t.growth()
	}
}

// growth translates the growth of bans. fail2ban doubles them, as fsban does, unless it has multipliers or a formula.
func (t *translator) growth() {
	e := &t.defaults.Policy.Escalation
	notOurs := fmt.Sprintf("in fsban each ban of an address lasts so many times as long as the one before: %s stays %s", keyFactor,
		decimal(e.Factor))
	limit, limitFrom := math.Inf(1), Option{}
	plain := true
	if o, set := t.jail.Option("bantime.factor"); set {
		if n, err := strconv.ParseFloat(o.Text, 64); err != nil || n != 1 {
			plain = false
			t.item("bantime.factor", o, NotTaken, "fail2ban multiplies with it once; %s", notOurs)
		}
	}
	list, listed := t.jail.Option("bantime.multipliers")
	formula, calculated := t.jail.Option("bantime.formula")
	switch factor, last, ok := multipliers(list.Text); {
	case listed && list.Text != "" && (!ok || !plain):
		t.item("bantime.multipliers", list, NotTaken, "%s", notOurs)
	case listed && list.Text != "":
		t.set("bantime.multipliers", list, keyFactor, decimal(factor), decimal(e.Factor), "")
		if seconds, _, err := t.jail.Seconds("bantime", builtinBanTime); err == nil && seconds >= 1 && factor > 1 {
			limit, limitFrom = math.Trunc(seconds)*last, list
		}
	case calculated:
		t.item("bantime.formula", formula, NotTaken, "%s", notOurs)
	}
	t.maxBanTime(limit, limitFrom)
	if o, set := t.jail.Option("bantime.rndtime"); set && o.Text != "" {
		t.item("bantime.rndtime", o, NotTaken, "in fsban it is a share of the ban: policy.escalation.jitter stays %s", decimal(e.Jitter))
	}
	if o, set := t.jail.Option("bantime.overalljails"); set && parseBool(o.Text) {
		t.item("bantime.overalljails", o, Same, "the bans of all rules count together")
	}
}

// maxBanTime makes policy.escalation.max_bantime: of the last multiplier, where there are any, or of bantime.maxtime.
func (t *translator) maxBanTime(limit float64, list Option) {
	byDefault := t.defaults.Policy.Escalation.MaxBanTime.String()
	name, o := "bantime.multipliers", list
	if most, set := t.jail.Option("bantime.maxtime"); set && most.Text != "" {
		switch seconds, _, err := t.jail.Seconds("bantime.maxtime", 0); {
		case err != nil || seconds <= 0:
			t.unusable("bantime.maxtime", most, err, keyMaxBanTime, byDefault)
			return
		case seconds < limit:
			limit, name, o = seconds, "bantime.maxtime", most
		default:
			t.item("bantime.maxtime", most, Same, "the multipliers end below it")
		}
	}
	if math.IsInf(limit, 1) {
		t.item("bantime.maxtime", Option{}, Changed, "fail2ban's bans grow without end, fsban's up to %s %s", keyMaxBanTime, byDefault)
		return
	}
	d, why := bounded(limit, time.Second, maxBanTime)
	if seconds, _, err := t.jail.Seconds("bantime", builtinBanTime); err == nil && why == "" && limit < seconds {
		why = "no ban gets shorter than policy.bantime in fsban"
	}
	t.set(name, o, keyMaxBanTime, d.String(), byDefault, why)
}

// multipliers tells by which factor bans grow, and to how much at last, if it is one factor. The first multiplier is for
// nobody: it would be that of the first ban.
func multipliers(text string) (factor, last float64, ok bool) {
	var list []float64
	for word := range strings.FieldsSeq(text) {
		n, err := strconv.Atoi(word)
		if err != nil || n < 1 || n > 1e9 {
			return 0, 0, false
		}
		list = append(list, float64(n))
	}
	if len(list) == 0 {
		return 0, 0, false
	}
	if len(list) > 1 {
		list = list[1:]
	}
	factor, last = list[0], list[len(list)-1]
	for i, n := range list {
		if n != min(math.Pow(factor, float64(i+1)), last) {
			return 0, 0, false
		}
	}
	return factor, last, factor <= 100
}

func decimal(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }
