// Package dashboards generates fsban's Grafana dashboard, fsban.json in this directory: `make dashboard` writes it, and a test
// compares both. rules/ has the alerts, provisioning/ the configuration that Grafana reads at its start.
//
// The first screen of the dashboard shows protection, attacks and firing alerts. Below
// are rows with details.
package dashboards

import (
	"bytes"
	"encoding/json"
)

// runbook is the address of the runbook. It is a constant of the dashboard, because fsban does not know where you publish it.
const runbook = "${runbook}"

// JSON returns the dashboard in Grafana's format.
func JSON() []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(fsban()); err != nil {
		panic(err) // it consists of strings and numbers
	}
	return b.Bytes()
}

// Panels returns all panels, including those of folded rows, without the rows.
func Panels() []*Panel {
	var all []*Panel
	for _, p := range fsban().Panels {
		if p.Type != "row" {
			all = append(all, p)
		}
		all = append(all, p.Panels...)
	}
	return all
}

func fsban() dashboard {
	l := new(layout)
	firstLook(l)
	attacks(l)
	bans(l)
	sources(l)
	kernel(l)
	guards(l)
	fleet(l)
	return dashboard{
		Title: "fsban", UID: "fsban", Tags: []string{"fsban", "freeswitch", "security"}, SchemaVersion: 42, Timezone: "browser", Editable: true,
		GraphTooltip: 1,
		Description:  "Protection, attacks, bans and alerts of FreeSWITCH hosts with fsban.",
		Refresh:      "30s", Time: object{"from": "now-6h", "to": "now"},
		Annotations: object{"list": []object{}},
		Links:       []link{linkTo("Runbook", runbook)},
		Templating: object{"list": []object{
			{"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1, "regex": "", "multi": false,
				"includeAll": false, "hide": 0, "options": []object{}},
			variable("instance", "Instance", "Which fsban. What is shown of several is their sum, or the worst of them.",
				`label_values(fsban_build_info, instance)`),
			variable("profile", "Profile", "Which profile of sofia. It chooses attempts; a ban holds for all of them.",
				`label_values(fsban_profile_attempts_total{instance=~"$instance"}, profile)`),
			{"name": "runbook", "type": "constant", "query": "docs/runbook.md", "hide": 2, "skipUrlSync": true, "options": []object{},
				"current": object{"text": "docs/runbook.md", "value": "docs/runbook.md"}, "description": "Where you publish docs/runbook.md."},
		}},
		Panels: l.panels,
	}
}

func variable(name, label, description, query string) object {
	return object{
		"name": name, "label": label, "description": description, "type": "query", "datasource": datasource,
		"query": object{"query": query, "refId": name}, "refresh": 2, "sort": 1, "regex": "", "hide": 0, "options": []object{},
		"multi": true, "includeAll": true, "allValue": ".*", "current": object{"text": []string{"All"}, "value": []string{"$__all"}},
	}
}
