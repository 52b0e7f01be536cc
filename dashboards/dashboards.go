// Package dashboards makes fsban's Grafana dashboard, fsban.json beside this file: `make dashboard` writes it, and a test
// holds the two together. rules/ has the alerts, provisioning/ what Grafana reads at its start.
//
// The dashboard answers three questions on its first screen: are we protected, what is happening, what needs me. Below
// are rows for who looks closer.
package dashboards

import (
	"bytes"
	"encoding/json"
)

// runbook is where the runbook is. It is a constant of the dashboard, because fsban does not know where you publish it.
const runbook = "${runbook}"

// JSON returns the dashboard as Grafana reads it.
func JSON() []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(fsban()); err != nil {
		panic(err) // it is made of nothing but strings and numbers
	}
	return b.Bytes()
}

// Panels returns all panels, those of folded rows too, without the rows.
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
		Title: "fsban", UID: "fsban", Tags: []string{"fsban", "freeswitch", "security"}, SchemaVersion: 42, Timezone: "browser", Editable: true, GraphTooltip: 1,
		Description: "Are we protected, what is happening, what needs me: a FreeSWITCH guarded by fsban.",
		Refresh:     "30s", Time: object{"from": "now-6h", "to": "now"},
		Annotations: object{"list": []object{}},
		Links:       []link{linkTo("Runbook", runbook)},
		Templating: object{"list": []object{
			{"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "refresh": 1, "regex": "", "multi": false, "includeAll": false, "hide": 0, "options": []object{}},
			variable("instance", "Instance", "Which fsban. What is shown of several is their sum, or the worst of them.", `label_values(fsban_build_info, instance)`),
			variable("profile", "Profile", "Which profile of sofia. It chooses attempts; a ban holds for all of them.", `label_values(fsban_profile_attempts_total{instance=~"$instance"}, profile)`),
			{"name": "runbook", "type": "constant", "query": "docs/runbook.md", "hide": 2, "skipUrlSync": true, "options": []object{}, "current": object{"text": "docs/runbook.md", "value": "docs/runbook.md"}, "description": "Where you publish docs/runbook.md."},
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
