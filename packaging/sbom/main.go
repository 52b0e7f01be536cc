// Sbom checks and completes the bill of materials that cyclonedx-gomod writes about a Go program, and writes the licence
// texts that go with every copy of the program.
//
// The bill comes from standard input, as CycloneDX in JSON, and leaves on standard output with the licences of all components
// and the checksum of the program. The same bill and sources give the same bytes on every machine. A component under a licence
// that is not on the list, or whose texts contradict the detected licence, is an error: a person has to read the texts.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
)

func main() {
	var from sources
	flag.StringVar(&from.modules, "modules", "", "`directory` of the module sources (go env GOMODCACHE)")
	flag.StringVar(&from.goroot, "goroot", "", "`directory` of Go (go env GOROOT)")
	texts := flag.String("texts", "", "`file` to write the licence texts to")
	flag.Parse()
	if flag.NArg() != 0 || *texts == "" {
		fmt.Fprintln(os.Stderr, "usage: sbom -modules DIR -goroot DIR -texts FILE <BILL, in the directory of the program's LICENSE")
		os.Exit(2)
	}
	if err := run(os.Stdin, os.Stdout, *texts, from); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

// run copies the bill from r to w and writes the licence texts to the file named texts.
func run(r io.Reader, w io.Writer, texts string, from sources) error {
	own, err := os.ReadFile("LICENSE")
	if err != nil {
		return err
	}
	var b bill
	if err := json.NewDecoder(r).Decode(&b); err != nil {
		return fmt.Errorf("read the bill: %w", err)
	}
	if err := b.program(string(own)); err != nil {
		return err
	}
	list, err := b.components(from)
	if err != nil {
		return err
	}
	file, err := os.Create(texts)
	if err != nil {
		return err
	}
	if err := errors.Join(writeNotices(file, string(own), list), file.Close()); err != nil {
		return err
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(b)
}

// A bill is a CycloneDX document. Fields that sbom does not know are kept.
type bill map[string]any

// program adds the licence and the SHA-256 of the program, and removes the checksums of cyclonedx-gomod itself, which differ
// between the machines that build it.
func (b bill) program(own string) error {
	meta, _ := b["metadata"].(map[string]any)
	program, _ := meta["component"].(map[string]any)
	if program == nil {
		return errors.New("the bill has no program")
	}
	ids, err := recognise(own)
	if err != nil {
		return fmt.Errorf("licence of the program: %w", err)
	}
	program["licenses"] = licensed(ids)
	for p := range objects(meta["properties"]) {
		if p["name"] == "cdx:gomod:binary:hash:SHA-256" {
			program["hashes"] = []any{map[string]any{"alg": "SHA-256", "content": p["value"]}}
		}
	}
	if program["hashes"] == nil {
		return errors.New("the bill has no SHA-256 of the program")
	}
	for tool := range objects(meta["tools"]) {
		delete(tool, "hashes")
	}
	return nil
}

// components gives each component its licences, makes all of them dependencies of the program (cyclonedx-gomod leaves std out),
// and returns them with their texts.
func (b bill) components(from sources) ([]component, error) {
	var list []component
	var refs []any
	for o := range objects(b["components"]) {
		name, _ := o["name"].(string)
		version, _ := o["version"].(string)
		var detected []string
		for l := range objects(o["licenses"]) {
			license, _ := l["license"].(map[string]any)
			id, _ := license["id"].(string)
			detected = append(detected, id)
		}
		c, err := from.read(name, version, detected)
		if err != nil {
			return nil, fmt.Errorf("licence of %s %s: %w", name, version, err)
		}
		o["licenses"] = licensed(c.licences)
		list = append(list, c)
		refs = append(refs, o["bom-ref"])
	}
	if len(list) == 0 {
		return nil, errors.New("the bill has no components")
	}
	meta, _ := b["metadata"].(map[string]any)
	program, _ := meta["component"].(map[string]any)
	for d := range objects(b["dependencies"]) {
		if d["ref"] == program["bom-ref"] {
			d["dependsOn"] = refs
		}
	}
	return list, nil
}

// objects iterates over the objects of a JSON array.
func objects(array any) func(yield func(map[string]any) bool) {
	list, _ := array.([]any)
	return func(yield func(map[string]any) bool) {
		for _, e := range list {
			if o, ok := e.(map[string]any); ok && !yield(o) {
				return
			}
		}
	}
}

// licensed returns the CycloneDX form of a conjunction of licences.
func licensed(ids []string) []any {
	if len(ids) == 1 {
		return []any{map[string]any{"license": map[string]any{"id": ids[0]}}}
	}
	return []any{map[string]any{"expression": expression(ids)}}
}
