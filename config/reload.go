package config

import (
	"reflect"
	"slices"
	"strings"
)

// live are the settings that a reload applies.
var live = []string{
	"freeswitch.address", "freeswitch.user", "freeswitch.password", "freeswitch.password_file", "freeswitch.log",
	"cti_log.path",
	"cti_event.subclasses", "cti_event.ip_header", "cti_event.user_header", "cti_event.reason_header",
	"calls.contexts", "calls.deny_prefix", "calls.allow_prefix", "calls.destination_number_max_len",
	"sip.ports", "sip.hep.enable", "sip.hep.from", "sip.hep.forward",
	"policy.findtime", "policy.maxretry", "policy.bantime",
	"policy.ignoreip", "policy.ignore_file", "policy.ignoreself", "policy.ignore_gateways", "policy.ignore_acls", "policy.ignore_ssh",
	"policy.ssh_ports",
	"policy.max_tracked", "policy.rules",
	"policy.escalation.factor", "policy.escalation.max_bantime", "policy.escalation.forget_after", "policy.escalation.jitter",
	"policy.escalation.unproven_bantime", "policy.escalation.unproven_max_bantime",
	"policy.known_good.expire", "policy.known_good.max", "policy.known_good.max_per_account", "policy.known_good.maxretry",
	"policy.known_good.findtime",
	"policy.known_good.bantime", "policy.known_good.ban_rate", "policy.known_good.stuck_after",
	"policy.suspicious_login.after", "policy.suspicious_login.findtime", "policy.suspicious_login.trust_after",
	"policy.distributed_attack.after", "policy.distributed_attack.findtime",
	"policy.outage_guard.enabled", "policy.outage_guard.min", "policy.outage_guard.share", "policy.outage_guard.known_for",
	"policy.outage_guard.window",
	"policy.outage_guard.hold",
	"policy.ipv6_widest", "policy.ban_rate", "policy.challenge_wait", "policy.unban_grace",
	"firewall.max_bans", "firewall.check",
	"state.history", "state.history_max",
	"control.readers", "control.admins",
	"log.level", "log.format",
}

// restart are the keys that need a restart: attempts are counted by prefix; a chain, a port or a target is better changed at one
// moment than while bans arrive; and the sockets must stay reachable.
var restart = []string{
	"sip.tap", "sip.hep.listen",
	"policy.ipv4_prefix", "policy.ipv6_prefix", "policy.nat64_prefixes",
	"firewall.enforce", "firewall.backend", "firewall.chains", "firewall.ports", "firewall.target",
	"fleet.redis", "fleet.sentinel", "fleet.cluster", "fleet.username", "fleet.password", "fleet.password_file",
	"fleet.tls.ca_file", "fleet.tls.cert_file", "fleet.tls.key_file", "fleet.tls.server_name", "fleet.name", "fleet.node", "fleet.share",
	"state.directory", "control.socket",
	"http.listen", "http.web_config_file",
}

// Reload returns the configuration of a daemon that runs with c after a reload of next: settings that can change while it runs come
// from next, the others from c. changed are the keys that differ and are applied, pending those that differ and need a restart.
func (c *Config) Reload(next Config) (now Config, changed, pending []string) {
	now = next
	was, is := reflect.ValueOf(c).Elem(), reflect.ValueOf(&now).Elem()
	for _, key := range keysOfConfig() {
		old, fresh := at(was, key), at(is, key)
		switch {
		case same(old, fresh):
		case slices.Contains(restart, key):
			fresh.Set(old)
			pending = append(pending, key)
		case key == "policy.rules":
			changed = append(changed, c.Policy.Ruleset.differs(next.Policy.Ruleset)...)
		default:
			changed = append(changed, key)
		}
	}
	return now, changed, pending
}

// keysOfConfig lists the dotted keys of all settings, in order; all rules together are one.
func keysOfConfig() []string { return leaves(reflect.TypeFor[Config](), "") }

func leaves(t reflect.Type, path string) []string {
	if t.Kind() != reflect.Struct {
		return []string{strings.TrimPrefix(path, ".")}
	}
	var keys []string
	for f := range t.Fields() {
		keys = append(keys, leaves(f.Type, path+"."+f.Tag.Get("yaml"))...)
	}
	return keys
}

// at returns the setting of a dotted key.
func at(v reflect.Value, key string) reflect.Value {
	for name := range strings.SplitSeq(key, ".") {
		v, _ = fieldOf(v, name)
	}
	return v
}

// same reports whether two settings are equal. An empty list equals a missing one.
func same(a, b reflect.Value) bool {
	if a.Kind() == reflect.Slice && a.Len()+b.Len() == 0 {
		return true
	}
	return reflect.DeepEqual(a.Interface(), b.Interface())
}

// differs returns the keys of rules that differ between rs and next.
func (rs Ruleset) differs(next Ruleset) []string {
	const path = "policy.rules"
	var keys []string
	for i := range rs {
		if next.Named(rs[i].Name) == nil {
			keys = append(keys, path+"."+rs[i].Name)
		}
	}
	for i := range next {
		rule := &next[i]
		old := rs.Named(rule.Name)
		if old == nil {
			keys = append(keys, path+"."+rule.Name)
			continue
		}
		was, is := reflect.ValueOf(old.RuleSettings), reflect.ValueOf(rule.RuleSettings)
		for _, name := range keysOf(is) {
			if !same(at(was, name), at(is, name)) {
				keys = append(keys, path+"."+rule.Name+"."+name)
			}
		}
	}
	if len(keys) == 0 && !slices.EqualFunc(rs, next, func(a, b Rule) bool { return a.Name == b.Name }) {
		return []string{path} // their order
	}
	slices.Sort(keys)
	return keys
}
