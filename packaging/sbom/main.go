// Sbom writes the bill of materials of a Go program: which modules are in it, by version, checksum and licence, as CycloneDX
// 1.5 in JSON. It reads what the linker has put into the program, so it lists what is really there, and nothing else. Beside
// the bill it writes the texts that the authors of the modules want to see with every copy. A module without a licence that
// is known to allow such copies is an error.
package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
)

type bom struct {
	Format      string      `json:"bomFormat"`
	SpecVersion string      `json:"specVersion"`
	Version     int         `json:"version"`
	Metadata    metadata    `json:"metadata"`
	Components  []component `json:"components"`
	Depends     []depends   `json:"dependencies"`
}

type metadata struct {
	Component component `json:"component"`
}

type component struct {
	Ref        string     `json:"bom-ref"`
	Type       string     `json:"type"`
	Name       string     `json:"name"`
	Version    string     `json:"version"`
	Licenses   []licence  `json:"licenses,omitempty"`
	PURL       string     `json:"purl,omitempty"`
	Hashes     []hash     `json:"hashes,omitempty"`
	Properties []property `json:"properties,omitempty"`
}

type hash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

// A licence is one, or an expression that joins some.
type licence struct {
	License    *licenceID `json:"license,omitempty"`
	Expression string     `json:"expression,omitempty"`
}

type licenceID struct {
	ID string `json:"id"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type depends struct {
	Ref string   `json:"ref"`
	On  []string `json:"dependsOn"`
}

func main() {
	var from shelf
	version := flag.String("version", "", "the version of the program")
	flag.StringVar(&from.modules, "modules", "", "where the sources of modules are (go env GOMODCACHE)")
	flag.StringVar(&from.goroot, "goroot", "", "where Go is (go env GOROOT)")
	texts := flag.String("texts", "", "`file` to write the texts of all licences to")
	flag.Parse()
	if flag.NArg() != 1 || *texts == "" {
		fmt.Fprintln(os.Stderr, "usage: sbom -version VERSION -modules DIR -goroot DIR -texts FILE PROGRAM, where the program's LICENSE is")
		os.Exit(2)
	}
	if err := write(os.Stdout, *texts, flag.Arg(0), *version, from); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

// write writes the bill of the program at path, and the texts. The same program has the same.
func write(w io.Writer, texts, path, version string, from shelf) error {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	own, err := os.ReadFile("LICENSE")
	if err != nil {
		return err
	}
	ids, err := recognise(string(own))
	if err != nil {
		return fmt.Errorf("our own licence: %w", err)
	}
	sum := sha256.Sum256(data)
	main := component{
		Ref: info.Main.Path, Type: "application", Name: info.Main.Path, Version: version,
		Hashes: []hash{{"SHA-256", hex.EncodeToString(sum[:])}}, Licenses: licensed(ids),
	}
	for _, s := range info.Settings {
		if strings.HasPrefix(s.Key, "GO") || strings.HasPrefix(s.Key, "vcs") || s.Key == "CGO_ENABLED" {
			main.Properties = append(main.Properties, property{"build:" + s.Key, s.Value})
		}
	}
	std := component{Ref: "std", Type: "library", Name: "std", Version: info.GoVersion, PURL: "pkg:golang/std@" + strings.TrimPrefix(info.GoVersion, "go")}
	b := bom{Format: "CycloneDX", SpecVersion: "1.5", Version: 1, Metadata: metadata{main}, Components: []component{std}}
	on := []string{std.Ref}
	for _, d := range info.Deps {
		c := module(d)
		b.Components = append(b.Components, c)
		on = append(on, c.Ref)
	}
	b.Depends = []depends{{main.Ref, on}}
	all, err := from.license(b.Components)
	if err != nil {
		return err
	}
	file, err := os.Create(texts)
	if err != nil {
		return err
	}
	if err := errors.Join(writePapers(file, string(own), b.Components, all), file.Close()); err != nil {
		return err
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(b)
}

// module is a module of the program. The sum of go.sum goes with it, which is no hash of a file.
func module(m *debug.Module) component {
	if m.Replace != nil {
		m = m.Replace
	}
	purl := "pkg:golang/" + m.Path + "@" + m.Version
	c := component{Ref: purl, Type: "library", Name: m.Path, Version: m.Version, PURL: purl}
	if raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(m.Sum, "h1:")); err == nil && len(raw) == sha256.Size {
		c.Properties = []property{{"go:h1", m.Sum}}
	}
	return c
}
