package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Licence texts, cut to their characteristic phrases.
const (
	mit = "# MIT License\n\nCopyright (c) 2016\n\nPermission is hereby granted, free of charge, to any person obtaining a copy\nof this software and so on.\n" +
		"The above copyright notice and this permission notice shall be included in\nall copies or substantial portions of the Software.\n"
	bsd2 = "Redistribution and use in source and binary forms, with or without\nmodification, are permitted provided that\n" +
		"  * Redistributions in binary form must reproduce the above\n    copyright notice, this list.\n"
	bsd3 = bsd2 + "  * Neither the name of Somebody nor others\n    may be used to endorse or promote products derived from this software\n    without specific prior written permission.\n"
	isc  = "Permission to use, copy, modify, and/or distribute this software for any\npurpose with or without fee is hereby granted, provided that the notice\nappear in all copies.\n"
	mpl  = "Mozilla Public License Version 2.0\n1.12. means either the GNU General Public License, Version 2.0\n" +
		"Exhibit A\n  This Source Code Form is subject to the terms of the Mozilla Public\n  License, v. 2.0.\n"
	apache = "                                 Apache License\n                           Version 2.0, January 2004\n" +
		"   2. Grant of Copyright License. Subject to the terms and conditions of\n      this License, each Contributor\n"
)

func TestALicenceIsKnownByItsText(t *testing.T) {
	for name, test := range map[string]struct {
		text, want string // want: "" if a person has to read it
	}{
		"MIT":             {mit, "MIT"},
		"BSD, two":        {bsd2, "BSD-2-Clause"},
		"BSD, three":      {bsd3, "BSD-3-Clause"},
		"ISC":             {isc, "ISC"},
		"MPL":             {mpl, "MPL-2.0"},
		"Apache":          {apache, "Apache-2.0"},
		"two":             {mit + apache, "Apache-2.0 MIT"},
		"nothing":         {"", ""},
		"half of MIT":     {mit[:150], ""},
		"its own words":   {"You may use this at home.", ""},
		"GPL":             {"GNU GENERAL PUBLIC LICENSE\nVersion 3, 29 June 2007", ""},
		"AGPL":            {"GNU AFFERO GENERAL PUBLIC LICENSE", ""},
		"MIT, and GPL":    {mit + "Parts are under the GNU General\nPublic License.", ""},
		"MIT, no selling": {mit + "\"Commons Clause\" License Condition v1.0", ""},
		"BSL":             {"Business Source License 1.1", ""},
	} {
		got, err := recognise(test.text)
		if strings.Join(got, " ") != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%s: %v, %v, want %s", name, got, err, test.want)
		}
	}
}

// module writes files of a module cache, by path and text.
func module(t *testing.T, files map[string]string) sources {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return sources{dir, filepath.Join(dir, "go")}
}

// billOf returns a bill as cyclonedx-gomod writes it, of components given as name, version and detected licence.
func billOf(components ...[3]string) string {
	list := make([]any, 0, len(components))
	for _, c := range components {
		o := map[string]any{"name": c[0], "version": c[1], "bom-ref": c[0]}
		if c[2] != "" {
			o["licenses"] = []any{map[string]any{"license": map[string]any{"id": c[2]}}}
		}
		list = append(list, o)
	}
	data, err := json.Marshal(map[string]any{
		"bomFormat": "CycloneDX", "components": list, "dependencies": []any{map[string]any{"ref": "program"}, map[string]any{"ref": "std"}},
		"metadata": map[string]any{
			"tools":      []any{map[string]any{"name": "cyclonedx-gomod", "hashes": []any{"of this machine"}}},
			"component":  map[string]any{"name": "fsban", "bom-ref": "program"},
			"properties": []any{map[string]any{"name": "cdx:gomod:binary:hash:SHA-256", "value": "00ff"}},
		},
	})
	if err != nil {
		panic(err)
	}
	return string(data)
}

// sbom runs the program on a bill in a directory with our own licence, and returns the new bill and the texts.
func sbom(t *testing.T, bill string, from sources) (out, texts string, err error) {
	t.Helper()
	t.Chdir(t.TempDir())
	if err := os.WriteFile("LICENSE", []byte(apache), 0o644); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := run(strings.NewReader(bill), &b, "texts", from); err != nil {
		return "", "", err
	}
	data, err := os.ReadFile("texts")
	return b.String(), string(data), err
}

func TestEachComponentHasItsLicencesAndTexts(t *testing.T) {
	from := module(t, map[string]string{
		"example.org/!upper@v1.0.0/LICENSE":          apache,
		"example.org/!upper@v1.0.0/NOTICE":           "Upper, by Somebody",
		"example.org/!upper@v1.0.0/testdata/LICENSE": "GNU General Public License",
		"example.org/!upper@v1.0.0/license.go":       "package upper",
		"golang.org/x/net@v2.0.0/license.md":         "\n" + apache,
		"golang.org/x/net@v2.0.0/other/COPYING.txt":  bsd3,
		"go/LICENSE":             bsd3,
		"go/src/strange/LICENSE": "Ask me first.", // not part of a program
	})
	out, texts, err := sbom(t, billOf([3]string{"std", "go1.26"}, [3]string{"example.org/Upper", "v1.0.0", "Apache-2.0"},
		[3]string{"golang.org/x/net", "v2.0.0", "BSD-Source-Code"}), from)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"licenses":[{"license":{"id":"BSD-3-Clause"}}],"name":"std","version":"go1.26"`,
		`"dependencies":[{"dependsOn":["std","example.org/Upper","golang.org/x/net"],"ref":"program"},{"ref":"std"}]`,
		`"licenses":[{"license":{"id":"Apache-2.0"}}],"name":"example.org/Upper"`,
		`"licenses":[{"expression":"Apache-2.0 AND BSD-3-Clause"}],"name":"golang.org/x/net"`,
		`"component":{"bom-ref":"program","hashes":[{"alg":"SHA-256","content":"00ff"}],"licenses":[{"license":{"id":"Apache-2.0"}}],"name":"fsban"}`,
		`"tools":[{"name":"cyclonedx-gomod"}]`,
	} {
		var compact bytes.Buffer
		if err := json.Compact(&compact, []byte(out)); err != nil || !strings.Contains(compact.String(), want) {
			t.Errorf("no %s in %s (%v)", want, compact.String(), err)
		}
	}
	parts := strings.Split(texts, "\n"+strings.Repeat("=", 80)+"\n")
	if len(parts) != 4 || parts[1] != "fsban LICENSE\nexample.org/Upper LICENSE\ngolang.org/x/net license.md\n\n"+strings.TrimSpace(apache)+"\n" ||
		!strings.HasPrefix(parts[2], "std LICENSE\ngolang.org/x/net other/COPYING.txt\n\n") ||
		parts[3] != "example.org/Upper NOTICE\n\nUpper, by Somebody\n" {
		t.Errorf("%d texts:\n%s", len(parts)-1, texts)
	}
	want := "\ngolang.org/x/net v2.0.0\n    Apache-2.0 AND BSD-3-Clause; source: go mod download golang.org/x/net@v2.0.0\n"
	if !strings.Contains(parts[0], want) {
		t.Errorf("no %q in\n%s", want, parts[0])
	}
}

func TestAnUnknownLicenceIsRefused(t *testing.T) {
	from := module(t, map[string]string{
		"example.org/none@v1/README":         mit,
		"example.org/strange@v1/LICENSE":     mit,
		"example.org/strange@v1/sub/LICENSE": "Ask me first.",
		"example.org/gpl@v1/COPYING":         "GNU GENERAL PUBLIC LICENSE\nVersion 3, 29 June 2007",
		"example.org/two@v1/LICENSE":         mit,
		"example.org/two@v1/LICENSE.other":   bsd2,
	})
	for name, test := range map[string]struct{ bill, want string }{
		"no text":          {billOf([3]string{"example.org/none", "v1", "MIT"}), "licence of example.org/none v1: no licence text"},
		"unknown text":     {billOf([3]string{"example.org/strange", "v1", "MIT"}), "licence of example.org/strange v1: sub/LICENSE: the text is of no allowed licence"},
		"refused":          {billOf([3]string{"example.org/gpl", "v1", "MIT"}), "licence of example.org/gpl v1: COPYING: the text mentions the gnu general public license"},
		"other detection":  {billOf([3]string{"example.org/two", "v1", "MIT"}), `licence of example.org/two v1: detected "MIT", the texts are of "BSD-2-Clause AND MIT": read them and state the reason in corrections`},
		"no detection":     {billOf([3]string{"example.org/two", "v1", ""}), `licence of example.org/two v1: detected "", the texts are of "BSD-2-Clause AND MIT": read them and state the reason in corrections`},
		"no components":    {billOf(), "the bill has no components"},
		"no program":       {`{"components":[]}`, "the bill has no program"},
		"no checksum":      {`{"metadata":{"component":{"name":"fsban"}}}`, "the bill has no SHA-256 of the program"},
		"nothing on stdin": {"", "read the bill: EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			if out, _, err := sbom(t, test.bill, from); err == nil || err.Error() != test.want {
				t.Errorf("%v, want %s\n%s", err, test.want, out)
			}
		})
	}
}
