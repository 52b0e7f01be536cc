package control

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	yamllib "gopkg.in/yaml.v3"
)

var update = flag.Bool("update", false, "write openapi.yaml anew")

func TestSchemaIsUpToDate(t *testing.T) {
	want := describe(t)
	if *update {
		if err := os.WriteFile("openapi.yaml", want, 0o644); err != nil { //nolint:gosec // a file of the repository
			t.Fatal(err)
		}
		return
	}
	if schema != string(want) {
		t.Errorf("openapi.yaml is not what routes and types come to: go test ./control -run Schema -update\n%s", want)
	}
}

// Each reference of the schema has its definition, each definition a reference, and each type all of its properties.
func TestSchemaHoldsTogether(t *testing.T) {
	_, path := serve(t, new(fake), nil)
	code, text := request(t, path, "1.4.0", "1", http.MethodGet, pathSchema, "")
	var doc struct {
		OpenAPI    string                               `yaml:"openapi"`
		Paths      map[string]map[string]map[string]any `yaml:"paths"`
		Components struct {
			Schemas map[string]struct {
				Properties map[string]any `yaml:"properties"`
			} `yaml:"schemas"`
		} `yaml:"components"`
	}
	if err := yamllib.Unmarshal([]byte(text), &doc); err != nil || code != http.StatusOK || doc.OpenAPI != "3.1.0" {
		t.Fatalf("%d %v %q", code, err, doc.OpenAPI)
	}
	described := 0
	for p, methods := range doc.Paths {
		for m, operation := range methods {
			described++
			if operation["summary"] == "" || operation["responses"] == nil {
				t.Errorf("%s %s: %v", m, p, operation)
			}
			if !slices.ContainsFunc(routes, func(r route) bool { return r.path == p && r.method == strings.ToUpper(m) }) {
				t.Errorf("%s %s is described, and not served", m, p)
			}
		}
	}
	if described != len(routes) {
		t.Errorf("%d requests are described, %d are served", described, len(routes))
	}
	used := make(map[string]bool)
	for part := range strings.SplitSeq(text, `"#/components/schemas/`) {
		name, _, _ := strings.Cut(part, `"`)
		used[name] = true
	}
	for name, of := range doc.Components.Schemas {
		if !used[name] {
			t.Errorf("nothing is a %s", name)
		}
		if len(of.Properties) == 0 {
			t.Errorf("%s has no properties", name)
		}
		delete(used, name)
	}
	for _, typ := range []any{Status{}, Top{}, AddressState{}, BanRequest{}} {
		r := reflect.TypeOf(typ)
		if n := len(doc.Components.Schemas[r.Name()].Properties); n != r.NumField() {
			t.Errorf("%s has %d fields, described are %d", r.Name(), r.NumField(), n)
		}
	}
	if len(used) != 1 { // the text before the first
		t.Errorf("named and not there: %v", used)
	}
}

// describe makes the schema from the routes, the types and their comments.
func describe(t *testing.T) []byte {
	t.Helper()
	d := &describer{said: comments(t), types: make(map[string]*yamllib.Node)}
	paths := mapping()
	for _, r := range routes {
		item := child(paths, r.path)
		add(item, strings.ToLower(r.method), d.operation(&r))
	}
	d.schema(reflect.TypeFor[apiError]())
	schemas := mapping()
	names := make([]string, 0, len(d.types))
	for name := range d.types {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		add(schemas, name, d.types[name])
	}
	doc := mapping("openapi", "3.1.0",
		"info", mapping("title", "fsban", "version", strconv.Itoa(apiVersion),
			"description", "How the fsban command talks to the daemon: over a unix socket (control.socket). What looks (GET) is for the members of control.readers, "+
				"what changes something for those of control.admins; root and the daemon's own user may do both. Both sides say their version in the headers "+
				headerVersion+" and "+headerAPI+". An answer may have more properties than are described here."),
		"paths", paths, "components", mapping("responses", mapping("Refused", mapping(
			"description", "403: the peer may not do this. 404: this version does not know it. 409: understood, and it cannot be done. "+
				"422: the configuration file is wrong, and nothing was changed. 503: the daemon cannot answer now.",
			"content", mapping("application/json", mapping("schema", ref("Error"))))), "schemas", schemas))
	var out bytes.Buffer
	out.WriteString("# Made from control/route.go and control/control.go: go test ./control -run Schema -update\n")
	enc := yamllib.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(doc); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

type describer struct {
	said  map[string]string // comments, by "Type" and "Type.Field"
	types map[string]*yamllib.Node
}

func (d *describer) operation(r *route) *yamllib.Node {
	op := mapping("summary", r.summary)
	if len(r.query) > 0 {
		list := &yamllib.Node{Kind: yamllib.SequenceNode}
		for _, q := range r.query {
			list.Content = append(list.Content, mapping("name", q.name, "in", "query", "description", q.text, "required", q.required, "schema", mapping("type", q.kind)))
		}
		add(op, "parameters", list)
	}
	if r.takes != nil {
		add(op, "requestBody", mapping("required", true, "content", mapping("application/json", mapping("schema", d.schema(reflect.TypeOf(r.takes))))))
	}
	answers := mapping()
	if _, text := r.gives.(yaml); text {
		add(answers, "200", mapping("description", "this file", "content", mapping("application/yaml", mapping("schema", mapping("type", "string")))))
	} else {
		add(answers, "200", mapping("description", "done", "content", mapping("application/json", mapping("schema", d.schema(reflect.TypeOf(r.gives))))))
	}
	add(answers, "default", mapping("$ref", "#/components/responses/Refused"))
	add(op, "responses", answers)
	return op
}

// schema describes a type, and notes those that it is made of.
func (d *describer) schema(t reflect.Type) *yamllib.Node {
	switch t {
	case reflect.TypeFor[time.Time]():
		return mapping("type", "string", "format", "date-time")
	case reflect.TypeFor[time.Duration]():
		return mapping("type", "integer", "format", "int64", "description", "nanoseconds")
	case reflect.TypeFor[netip.Addr](), reflect.TypeFor[netip.Prefix]():
		return mapping("type", "string")
	}
	switch t.Kind() {
	case reflect.Pointer:
		return d.schema(t.Elem())
	case reflect.String:
		return mapping("type", "string")
	case reflect.Bool:
		return mapping("type", "boolean")
	case reflect.Int:
		return mapping("type", "integer")
	case reflect.Uint64:
		return mapping("type", "integer", "minimum", 0)
	case reflect.Map:
		return mapping("type", "object", "additionalProperties", d.schema(t.Elem()))
	case reflect.Slice: // an empty one may be null
		return mapping("type", []string{"array", "null"}, "items", d.schema(t.Elem()))
	case reflect.Struct:
		return d.object(t)
	}
	panic(fmt.Sprintf("no schema for a %v", t))
}

func (d *describer) object(t reflect.Type) *yamllib.Node {
	name := t.Name()
	if t == reflect.TypeFor[apiError]() {
		name = "Error"
	}
	if _, known := d.types[name]; known {
		return ref(name)
	}
	d.types[name] = nil // it may hold itself
	properties := mapping()
	var required []string
	for f := range t.Fields() {
		tag, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		of := d.schema(f.Type)
		if said := d.said[t.Name()+"."+f.Name]; said != "" {
			if isRef(of) { // some readers ignore everything next to a reference
				of = mapping("allOf", []*yamllib.Node{of})
			}
			if child := get(of, "description"); child != nil {
				child.Value += ": " + said
			} else {
				add(of, "description", said)
			}
		}
		add(properties, tag, of)
		if options == "" {
			required = append(required, tag)
		}
	}
	object := mapping("type", "object", "description", d.said[t.Name()], "properties", properties)
	if len(required) > 0 {
		add(object, "required", required)
	}
	d.types[name] = object
	return ref(name)
}

// comments reads the comments of types and fields in the source.
func comments(t *testing.T) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "control.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	said := make(map[string]string)
	text := func(groups ...*ast.CommentGroup) string {
		var words []string
		for _, g := range groups {
			words = append(words, strings.Fields(g.Text())...)
		}
		return strings.Join(words, " ")
	}
	ast.Inspect(file, func(n ast.Node) bool {
		decl, ok := n.(*ast.GenDecl)
		if !ok || decl.Tok != token.TYPE {
			return true
		}
		for _, spec := range decl.Specs {
			of := spec.(*ast.TypeSpec)
			said[of.Name.Name] = text(decl.Doc)
			if fields, ok := of.Type.(*ast.StructType); ok {
				for _, f := range fields.Fields.List {
					for _, name := range f.Names {
						said[of.Name.Name+"."+name.Name] = text(f.Doc, f.Comment)
					}
				}
			}
		}
		return false
	})
	return said
}

// mapping is a mapping of keys and values, in their order.
func mapping(pairs ...any) *yamllib.Node {
	n := &yamllib.Node{Kind: yamllib.MappingNode}
	for i := 0; i < len(pairs); i += 2 {
		add(n, pairs[i].(string), pairs[i+1])
	}
	return n
}

func add(n *yamllib.Node, key string, value any) {
	k, v := new(yamllib.Node), new(yamllib.Node)
	if node, ok := value.(*yamllib.Node); ok {
		v = node
	} else if err := v.Encode(value); err != nil {
		panic(err)
	}
	if err := k.Encode(key); err != nil {
		panic(err)
	}
	n.Content = append(n.Content, k, v)
}

func get(n *yamllib.Node, key string) *yamllib.Node {
	for i := 0; i < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// child returns the mapping of that key, made where it is not there.
func child(n *yamllib.Node, key string) *yamllib.Node {
	if c := get(n, key); c != nil {
		return c
	}
	c := mapping()
	add(n, key, c)
	return c
}

func ref(name string) *yamllib.Node {
	n := mapping("$ref", "#/components/schemas/"+name)
	n.Content[1].Style = yamllib.DoubleQuotedStyle
	return n
}

func isRef(n *yamllib.Node) bool { return get(n, "$ref") != nil }
