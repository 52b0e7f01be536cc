package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
)

// allowed lists the licences that permit distributing a binary that contains the module, by SPDX name, each with phrases
// of its text. MPL-2.0 requires a pointer to the module's source.
var allowed = []struct {
	id      string
	phrases []string
}{
	{"Apache-2.0", []string{
		"apache license version 2.0, january 2004",
		"grant of copyright license. subject to the terms and conditions of this license",
	}},
	{"Apache-2.0", []string{
		"licensed under the apache license, version 2.0",
		"distributed on an \"as is\" basis, without warranties or conditions of any kind",
	}},
	{"MIT", []string{
		"permission is hereby granted, free of charge, to any person obtaining a copy of this software",
		"the above copyright notice and this permission notice shall be included in all copies or substantial portions",
	}},
	{"BSD-3-Clause", []string{
		"redistribution and use in source and binary forms, with or without modification, are permitted",
		"may be used to endorse or promote products derived from this software without specific prior written permission",
	}},
	{"BSD-2-Clause", []string{
		"redistribution and use in source and binary forms, with or without modification, are permitted",
		"redistributions in binary form must reproduce the above copyright notice",
	}},
	{"ISC", []string{
		"permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby granted",
		"appear in all copies",
	}},
	{"MPL-2.0", []string{
		"mozilla public license version 2.0",
		"this source code form is subject to the terms of the mozilla public license, v. 2.0",
	}},
}

// refused lists phrases of licences with further obligations. A text with one of them is refused.
var refused = []string{
	"gnu general public license", "gnu affero", "gnu lesser", "server side public license", "business source license", "commons clause",
}

// corrections lists modules, by path prefix, for which cyclonedx-gomod detects no licence or a wrong one, with the
// reason. Their licences are those of their texts.
var corrections = map[string]string{
	"std":                                 "cyclonedx-gomod reads modules, not GOROOT",
	"golang.org/x/":                       "the detector takes Go's BSD-3-Clause for BSD-Source-Code",
	"gopkg.in/yaml.v3":                    "LICENSE holds two licences: the files from libyaml are under MIT",
	"go.yaml.in/yaml/":                    "the files from libyaml are under MIT (LICENSE.libyaml)",
	"github.com/prometheus/client_golang": "internal/github.com/golang/gddo is under BSD-3-Clause",
}

// recognise returns the licences of a text. A text of an unknown or refused licence is an error.
func recognise(text string) (ids []string, err error) {
	text = strings.ToLower(strings.Join(strings.FieldsFunc(text, func(r rune) bool {
		return unicode.IsSpace(r) || strings.ContainsRune("*#>", r)
	}), " "))
	for _, l := range allowed {
		if slices.ContainsFunc(l.phrases, func(p string) bool { return !strings.Contains(text, p) }) {
			continue
		}
		if !slices.Contains(ids, l.id) && (l.id != "BSD-2-Clause" || !slices.Contains(ids, "BSD-3-Clause")) {
			ids = append(ids, l.id)
		}
	}
	for _, p := range refused {
		// The MPL mentions the GPL as a secondary licence.
		if strings.Contains(text, p) && !slices.Equal(ids, []string{"MPL-2.0"}) {
			return nil, fmt.Errorf("the text mentions the %s", p)
		}
	}
	if len(ids) == 0 {
		return nil, errors.New("the text is of no allowed licence")
	}
	return ids, nil
}

// expression returns the SPDX expression for the conjunction of licences.
func expression(ids []string) string { return strings.Join(ids, " AND ") }

// A component is a module of the program or Go's standard library.
type component struct {
	name, version string
	licences      []string // sorted
	notices       []notice
}

// A notice is a licence or NOTICE file, which goes with every copy of the component.
type notice struct{ name, text string }

// sources locates the sources of the components: the module cache and Go itself.
type sources struct{ modules, goroot string }

// read returns a component with its licences and notices. Texts with other licences than the detected ones are an error
// unless corrections names the component.
func (s sources) read(name, version string, detected []string) (component, error) {
	c := component{name: name, version: version}
	var err error
	if name == "std" { // other directories of GOROOT hold sources of programs, which are not part of ours
		err = c.add(s.goroot, "LICENSE")
	} else {
		err = c.addAll(filepath.Join(s.modules, escaped(name+"@"+version)))
	}
	if err == nil && len(c.licences) == 0 {
		err = errors.New("no licence text")
	}
	if err != nil {
		return c, err
	}
	slices.Sort(c.licences)
	c.licences = slices.Compact(c.licences)
	if slices.Equal(c.licences, detected) {
		return c, nil
	}
	for prefix := range corrections {
		if strings.HasPrefix(name, prefix) {
			return c, nil
		}
	}
	return c, fmt.Errorf("detected %q, the texts are of %q: read them and state the reason in corrections", expression(detected),
		expression(c.licences))
}

// addAll adds the notices of all directories of a module: some contain code of other authors.
func (c *component) addAll(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && d.Name() == "testdata" {
			return filepath.SkipDir
		}
		stem, _, _ := strings.Cut(strings.ToLower(d.Name()), ".")
		if !d.Type().IsRegular() || filepath.Ext(path) == ".go" || !slices.Contains([]string{"license", "licence", "copying", "notice"}, stem) {
			return nil
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		return c.add(dir, name)
	})
}

// add adds one notice and, if it is not a NOTICE file, its licences.
func (c *component) add(dir, name string) error {
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	c.notices = append(c.notices, notice{name, strings.TrimSpace(string(data))})
	if strings.HasPrefix(strings.ToLower(filepath.Base(name)), "notice") {
		return nil
	}
	ids, err := recognise(string(data))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	c.licences = append(c.licences, ids...)
	return nil
}

// escaped returns the form of a module path in the module cache, which has no upper case.
func escaped(path string) string {
	var b strings.Builder
	for _, r := range path {
		if unicode.IsUpper(r) {
			b.WriteByte('!')
			r = unicode.ToLower(r)
		}
		b.WriteRune(r)
	}
	return b.String()
}
