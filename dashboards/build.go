package dashboards

import "strings"

// The words of Grafana's dashboard schema, as far as this dashboard uses it. `make pictures` checks the result against
// Grafana's own types.
type (
	object map[string]any

	dashboard struct {
		Annotations   object   `json:"annotations"`
		Description   string   `json:"description"`
		Editable      bool     `json:"editable"`
		GraphTooltip  int      `json:"graphTooltip"`
		Links         []link   `json:"links"`
		Panels        []*Panel `json:"panels"`
		Refresh       string   `json:"refresh"`
		SchemaVersion int      `json:"schemaVersion"`
		Tags          []string `json:"tags"`
		Templating    object   `json:"templating"`
		Time          object   `json:"time"`
		Timezone      string   `json:"timezone"`
		Title         string   `json:"title"`
		UID           string   `json:"uid"`
	}

	link struct {
		AsDropdown  bool     `json:"asDropdown"`
		Icon        string   `json:"icon"`
		IncludeVars bool     `json:"includeVars"`
		KeepTime    bool     `json:"keepTime"`
		Tags        []string `json:"tags"`
		TargetBlank bool     `json:"targetBlank"`
		Title       string   `json:"title"`
		Tooltip     string   `json:"tooltip"`
		Type        string   `json:"type"`
		URL         string   `json:"url"`
	}

	gridPos struct {
		H int `json:"h"`
		W int `json:"w"`
		X int `json:"x"`
		Y int `json:"y"`
	}

	fieldConfig struct {
		Defaults  object   `json:"defaults"`
		Overrides []object `json:"overrides"`
	}
)

// A Target is one query of a Panel.
type Target struct {
	Datasource   object `json:"datasource"`
	EditorMode   string `json:"editorMode"`
	Expr         string `json:"expr"`
	Format       string `json:"format,omitempty"`
	Instant      bool   `json:"instant,omitempty"`
	LegendFormat string `json:"legendFormat,omitempty"`
	Range        bool   `json:"range,omitempty"`
	RefID        string `json:"refId"`
}

// A Panel is one panel, or a row of them.
type Panel struct {
	Collapsed       *bool        `json:"collapsed,omitempty"` // of a row
	Datasource      object       `json:"datasource,omitempty"`
	Description     string       `json:"description,omitempty"`
	FieldConfig     *fieldConfig `json:"fieldConfig,omitempty"`
	GridPos         gridPos      `json:"gridPos"`
	ID              int          `json:"id"`
	Links           []link       `json:"links,omitempty"`
	Options         object       `json:"options,omitempty"`
	Panels          []*Panel     `json:"panels,omitzero"` // of a collapsed row
	Targets         []Target     `json:"targets,omitempty"`
	Title           string       `json:"title"`
	Transformations []object     `json:"transformations,omitempty"`
	Type            string       `json:"type"`

	folded bool
}

// Folded tells whether p is shown only once somebody opens its row.
func (p *Panel) Folded() bool { return p.folded }

var datasource = object{"type": "prometheus", "uid": "${datasource}"}

// newPanel returns a panel of a type. An empty one says none.
func newPanel(kind, title, description, unit, none string) *Panel {
	return &Panel{
		Type: kind, Title: title, Description: description, Datasource: datasource,
		FieldConfig: &fieldConfig{Defaults: object{"unit": unit, "noValue": none}, Overrides: []object{}},
	}
}

// stat is one number, or one word, as large as its tile.
func stat(title, description, unit, none string) *Panel {
	p := newPanel("stat", title, description, unit, none)
	p.Options = object{
		"colorMode": "value", "graphMode": "none", "justifyMode": "auto", "orientation": "auto", "percentChangeColorMode": "standard",
		"reduceOptions":     object{"calcs": []string{"lastNotNull"}, "fields": "", "values": false},
		"showPercentChange": false, "textMode": "auto", "wideLayout": true,
	}
	return p.thresholds("text")
}

// lines is a graph over time.
func lines(title, description, unit, none string) *Panel {
	p := newPanel("timeseries", title, description, unit, none)
	p.FieldConfig.Defaults["custom"] = object{
		"drawStyle": "line", "lineWidth": 1, "fillOpacity": 10, "gradientMode": "none", "lineInterpolation": "linear", "showPoints": "auto",
		"pointSize": 4,
		"spanNulls": false, "axisPlacement": "auto", "stacking": object{"group": "A", "mode": "none"}, "thresholdsStyle": object{"mode": "off"},
	}
	p.FieldConfig.Defaults["color"] = object{"mode": "palette-classic"}
	p.FieldConfig.Defaults["min"] = 0
	p.Options = object{
		"legend":  object{"calcs": []string{}, "displayMode": "list", "placement": "bottom", "showLegend": true},
		"tooltip": object{"mode": "multi", "sort": "desc"},
	}
	return p
}

// states shows how long something was in which state.
func states(title, description, none string) *Panel {
	p := newPanel("state-timeline", title, description, "none", none)
	p.FieldConfig.Defaults["custom"] = object{"fillOpacity": 70, "lineWidth": 0}
	p.FieldConfig.Defaults["color"] = object{"mode": "thresholds"}
	p.Options = object{
		"alignValue": "left", "mergeValues": true, "rowHeight": 0.9, "showValue": "auto",
		"legend":  object{"calcs": []string{}, "displayMode": "list", "placement": "bottom", "showLegend": false},
		"tooltip": object{"mode": "single", "sort": "none"},
	}
	return p
}

// query adds a query: of now for tiles and tables, over time for the others.
func (p *Panel) query(legend, expr string) *Panel {
	t := Target{Datasource: datasource, EditorMode: "code", Expr: expr, LegendFormat: legend, RefID: string(rune('A' + len(p.Targets)))}
	t.Instant = p.Type == "table" || p.Type == "stat"
	t.Range = !t.Instant
	if p.Type == "table" {
		t.Format = "table"
	}
	p.Targets = append(p.Targets, t)
	return p
}

// A step is a colour from a value on.
type step struct {
	from  float64
	color string
}

// thresholds colours values: base, and other colours from some value on.
func (p *Panel) thresholds(base string, steps ...step) *Panel {
	list := []object{{"color": base, "value": nil}}
	for _, s := range steps {
		list = append(list, object{"color": s.color, "value": s.from})
	}
	p.FieldConfig.Defaults["thresholds"] = object{"mode": "absolute", "steps": list}
	p.FieldConfig.Defaults["color"] = object{"mode": "thresholds"}
	return p
}

// words shows 0 and 1 as words, in colours.
func (p *Panel) words(zero, zeroColor, one, oneColor string) *Panel {
	p.FieldConfig.Defaults["mappings"] = []object{{"type": "value", "options": object{
		"0": object{"text": zero, "color": zeroColor, "index": 0}, "1": object{"text": one, "color": oneColor, "index": 1},
	}}}
	return p.thresholds(zeroColor, step{1, oneColor})
}

// colors gives series of some names their colours, by turns.
func (p *Panel) colors(pairs ...string) *Panel {
	for i := 0; i < len(pairs); i += 2 {
		p.override(pairs[i], object{"id": "color", "value": object{"mode": "fixed", "fixedColor": pairs[i+1]}})
	}
	return p
}

func (p *Panel) override(name string, properties ...object) *Panel {
	p.FieldConfig.Overrides = append(p.FieldConfig.Overrides, object{"matcher": object{"id": "byName", "options": name},
		"properties": properties})
	return p
}

// custom sets how lines are drawn.
func (p *Panel) custom(key string, value any) *Panel {
	p.FieldConfig.Defaults["custom"].(object)[key] = value
	return p
}

func (p *Panel) stacked() *Panel {
	return p.custom("stacking", object{"group": "A", "mode": "normal"}).custom("fillOpacity", 40)
}

func (p *Panel) ceiling(top float64) *Panel { p.FieldConfig.Defaults["max"] = top; return p }

// signed is of values that may be below zero.
func (p *Panel) signed() *Panel { delete(p.FieldConfig.Defaults, "min"); return p }

func (p *Panel) option(key string, value any) *Panel { p.Options[key] = value; return p }

// spark draws the course of a number behind it.
func (p *Panel) spark() *Panel {
	for i := range p.Targets {
		p.Targets[i].Instant, p.Targets[i].Range = false, true
	}
	return p.option("graphMode", "area")
}

func (p *Panel) size(w, h int) *Panel { p.GridPos.W, p.GridPos.H = w, h; return p }

// alerts links to the runbook's chapters of alerts.
func (p *Panel) alerts(names ...string) *Panel {
	for _, name := range names {
		p.Links = append(p.Links, linkTo("Runbook: "+name, runbook+"#"+strings.ToLower(name)))
	}
	return p
}

func linkTo(title, url string) link {
	return link{Icon: "doc", Tags: []string{}, TargetBlank: true, Title: title, Type: "link", URL: url}
}

// A layout puts panels side by side, from left to right and from top to bottom, 24 columns wide.
type layout struct {
	panels     []*Panel
	x, y, high int
	id         int
}

func (l *layout) place(panels ...*Panel) {
	for _, p := range panels {
		if l.x+p.GridPos.W > 24 {
			l.newline()
		}
		l.id++
		p.ID, p.GridPos.X, p.GridPos.Y = l.id, l.x, l.y
		l.x, l.high = l.x+p.GridPos.W, max(l.high, p.GridPos.H)
		l.panels = append(l.panels, p)
	}
}

func (l *layout) newline() { l.x, l.y, l.high = 0, l.y+l.high, 0 }

// row begins a row, which is open.
func (l *layout) row(title string, panels ...*Panel) {
	l.newline()
	l.place((&Panel{Type: "row", Title: title, Collapsed: new(bool), Panels: []*Panel{}}).size(24, 1))
	l.newline()
	l.place(panels...)
}

// folded is a row that shows its panels once somebody opens it.
func (l *layout) folded(title string, panels ...*Panel) {
	l.newline()
	inner := &layout{y: l.y + 1, id: l.id + 1}
	inner.place(panels...)
	for _, p := range panels {
		p.folded = true
	}
	collapsed := true
	l.place((&Panel{Type: "row", Title: title, Collapsed: &collapsed, Panels: inner.panels}).size(24, 1))
	l.id = inner.id
	l.newline()
}
