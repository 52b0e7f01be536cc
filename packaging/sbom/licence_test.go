package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Licences as their texts say it, cut to what makes them out.
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
		text, want string // want: "": a human has to read it
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

// What a module's authors want to be handed on is found in all its directories, but for other people's data; and a program
// with a module whose licence is not there, or not known, has no bill.
func TestEachComponentHasItsPapers(t *testing.T) {
	modules := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		path := filepath.Join(modules, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("example.org/!upper@v1.0.0/LICENSE", apache)
	put("example.org/!upper@v1.0.0/NOTICE", "Upper, by Somebody")
	put("example.org/!upper@v1.0.0/internal/other/COPYING.txt", bsd3)
	put("example.org/!upper@v1.0.0/testdata/LICENSE", "GNU General Public License")
	put("example.org/!upper@v1.0.0/license.go", "package upper")
	put("example.org/same@v2.0.0/license.md", "\n"+apache)
	put("example.org/none@v1.0.0/README", mit)
	put("example.org/strange@v1.0.0/LICENSE", mit)
	put("example.org/strange@v1.0.0/part/LICENSE", "Ask me first.")
	put("go/LICENSE", bsd3)
	put("go/src/strange/LICENSE", "Ask me first.") // no program of ours has it
	s := shelf{modules, filepath.Join(modules, "go")}

	list := []component{{Name: "std", Version: "go1.26"}, {Name: "example.org/Upper", Version: "v1.0.0"}, {Name: "example.org/same", Version: "v2.0.0"}}
	all, err := s.license(list)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range list {
		got = append(got, c.Licenses[0].String())
	}
	if want := []string{"BSD-3-Clause", "Apache-2.0 AND BSD-3-Clause", "Apache-2.0"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	var b strings.Builder
	if err := writePapers(&b, apache, list, all); err != nil {
		t.Fatal(err)
	}
	line := "\n" + strings.Repeat("=", 80) + "\n"
	parts := strings.Split(b.String(), line)
	if len(parts) != 4 || parts[1] != "fsban LICENSE\nexample.org/Upper LICENSE\nexample.org/same license.md\n\n"+strings.TrimSpace(apache)+"\n" ||
		!strings.HasPrefix(parts[2], "std LICENSE\nexample.org/Upper internal/other/COPYING.txt\n\n") || parts[3] != "example.org/Upper NOTICE\n\nUpper, by Somebody\n" {
		t.Errorf("%d texts:\n%s", len(parts)-1, b.String())
	}
	if want := "\nexample.org/Upper v1.0.0\n    Apache-2.0 AND BSD-3-Clause; source: go mod download example.org/Upper@v1.0.0\n"; !strings.Contains(parts[0], want) {
		t.Errorf("not %q in\n%s", want, parts[0])
	}

	for name, want := range map[string]string{
		"example.org/none":    "licence of example.org/none v1.0.0: there is no licence",
		"example.org/strange": "licence of example.org/strange v1.0.0: part/LICENSE: it is of no licence that is known here",
	} {
		if _, err := s.license([]component{{Name: name, Version: "v1.0.0"}}); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
