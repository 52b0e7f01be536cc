package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
)

// licences are those that let a program of ours be handed out with a module in it, by their SPDX names, each with words that
// a text of it has. MPL-2.0 asks to say where the module's source is.
var licences = []struct {
	id    string
	words []string
}{
	{"Apache-2.0", []string{"apache license version 2.0, january 2004", "grant of copyright license. subject to the terms and conditions of this license"}},
	{"Apache-2.0", []string{"licensed under the apache license, version 2.0", "distributed on an \"as is\" basis, without warranties or conditions of any kind"}},
	{"MIT", []string{"permission is hereby granted, free of charge, to any person obtaining a copy of this software", "the above copyright notice and this permission notice shall be included in all copies or substantial portions"}},
	{"BSD-3-Clause", []string{"redistribution and use in source and binary forms, with or without modification, are permitted", "may be used to endorse or promote products derived from this software without specific prior written permission"}},
	{"BSD-2-Clause", []string{"redistribution and use in source and binary forms, with or without modification, are permitted", "redistributions in binary form must reproduce the above copyright notice"}},
	{"ISC", []string{"permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby granted", "appear in all copies"}},
	{"MPL-2.0", []string{"mozilla public license version 2.0", "this source code form is subject to the terms of the mozilla public license, v. 2.0"}},
}

// others are words of licences that ask for more, whatever else stands beside them.
var others = []string{"gnu general public license", "gnu affero", "gnu lesser", "server side public license", "business source license", "commons clause"}

// recognise returns which licences a text is of. One that it cannot place is an error: a human has to read it.
func recognise(text string) (ids []string, err error) {
	text = strings.ToLower(strings.Join(strings.FieldsFunc(text, func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune("*#>", r) }), " "))
	for _, l := range licences {
		if slices.ContainsFunc(l.words, func(w string) bool { return !strings.Contains(text, w) }) {
			continue
		}
		if !slices.Contains(ids, l.id) && (l.id != "BSD-2-Clause" || !slices.Contains(ids, "BSD-3-Clause")) {
			ids = append(ids, l.id)
		}
	}
	for _, w := range others {
		// The MPL names those under which its files may be handed out, too.
		if strings.Contains(text, w) && !slices.Equal(ids, []string{"MPL-2.0"}) {
			return nil, fmt.Errorf("it speaks of the %s", w)
		}
	}
	if len(ids) == 0 {
		return nil, errors.New("it is of no licence that is known here")
	}
	return ids, nil
}

// A paper is a file of a module that goes with every copy of it.
type paper struct{ name, text string }

// papers returns the licences of the module in dir, with what its authors want to be told, from all its directories: some
// have other people's code in them.
func papers(dir string) (ids []string, list []paper, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && d.Name() == "testdata" {
			return filepath.SkipDir
		}
		stem, _, _ := strings.Cut(strings.ToLower(d.Name()), ".")
		isLicence, isNotice := slices.Contains([]string{"license", "licence", "copying"}, stem), stem == "notice"
		if !d.Type().IsRegular() || filepath.Ext(path) == ".go" || !isLicence && !isNotice {
			return nil
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if list = append(list, paper{name, strings.TrimSpace(string(data))}); isNotice {
			return nil
		}
		found, err := recognise(string(data))
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		ids = append(ids, found...)
		return nil
	})
	if err == nil && len(ids) == 0 {
		err = errors.New("there is no licence")
	}
	slices.Sort(ids)
	return slices.Compact(ids), list, err
}

// A shelf is where the sources are that a program was made of.
type shelf struct{ modules, goroot string }

// dir is the directory of a component.
func (s shelf) dir(c *component) string {
	if c.Name == "std" {
		return s.goroot
	}
	var escaped strings.Builder // the cache has no upper case
	for _, r := range c.Name + "@" + c.Version {
		if unicode.IsUpper(r) {
			escaped.WriteByte('!')
			r = unicode.ToLower(r)
		}
		escaped.WriteRune(r)
	}
	return filepath.Join(s.modules, escaped.String())
}

// license gives each component its licences, and returns what has to be handed out with the program.
func (s shelf) license(components []component) ([][]paper, error) {
	all := make([][]paper, len(components))
	for i := range components {
		c := &components[i]
		var ids []string
		var err error
		if c.Name == "std" { // its directories have the sources of programs, too
			var data []byte
			if data, err = os.ReadFile(filepath.Join(s.dir(c), "LICENSE")); err == nil {
				all[i] = []paper{{"LICENSE", strings.TrimSpace(string(data))}}
				ids, err = recognise(string(data))
			}
		} else {
			ids, all[i], err = papers(s.dir(c))
		}
		if err != nil {
			return nil, fmt.Errorf("licence of %s %s: %w", c.Name, c.Version, err)
		}
		c.Licenses = licensed(ids)
	}
	return all, nil
}

// licensed says in CycloneDX that all of these hold.
func licensed(ids []string) []licence {
	if len(ids) == 1 {
		return []licence{{License: &licenceID{ids[0]}}}
	}
	return []licence{{Expression: strings.Join(ids, " AND ")}}
}

func (l licence) String() string {
	if l.License != nil {
		return l.License.ID
	}
	return l.Expression
}

// writePapers writes our own licence, and what has to be handed out with the program: each text once.
func writePapers(w io.Writer, own string, components []component, all [][]paper) error {
	var b strings.Builder
	fmt.Fprintf(&b, "fsban is under the Apache License, Version 2.0, which is the first text below. The program has in it, under the licences of\ntheir authors, whose texts follow:\n\n")
	type text struct{ body, of string }
	texts := []text{{strings.TrimSpace(own), "fsban LICENSE"}}
	for i, c := range components {
		source := "go mod download " + c.Name + "@" + c.Version
		if c.Name == "std" {
			source = "https://go.dev/dl/"
		}
		fmt.Fprintf(&b, "%s %s\n    %s; source: %s\n", c.Name, c.Version, c.Licenses[0], source)
		for _, p := range all[i] {
			of := c.Name + " " + p.name
			if n := slices.IndexFunc(texts, func(t text) bool { return t.body == p.text }); n >= 0 {
				texts[n].of += "\n" + of
			} else {
				texts = append(texts, text{p.text, of})
			}
		}
	}
	for _, t := range texts {
		fmt.Fprintf(&b, "\n%s\n%s\n\n%s\n", strings.Repeat("=", 80), t.of, t.body)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
