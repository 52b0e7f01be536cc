package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// writeNotices writes the program's own licence, the list of components and all notices, each text once.
func writeNotices(w io.Writer, own string, list []component) error {
	var b strings.Builder
	b.WriteString("fsban is licensed under the Apache License, Version 2.0, which is the first text below. The program contains " +
		"the following\n" +
		"components, under the licences of their authors, whose texts follow:\n\n")
	type text struct{ body, of string }
	texts := []text{{strings.TrimSpace(own), "fsban LICENSE"}}
	for _, c := range list {
		source := "go mod download " + c.name + "@" + c.version
		if c.name == "std" {
			source = "https://go.dev/dl/"
		}
		fmt.Fprintf(&b, "%s %s\n    %s; source: %s\n", c.name, c.version, expression(c.licences), source)
		for _, n := range c.notices {
			of := c.name + " " + n.name
			if i := slices.IndexFunc(texts, func(t text) bool { return t.body == n.text }); i >= 0 {
				texts[i].of += "\n" + of
			} else {
				texts = append(texts, text{n.text, of})
			}
		}
	}
	for _, t := range texts {
		fmt.Fprintf(&b, "\n%s\n%s\n\n%s\n", strings.Repeat("=", 80), t.of, t.body)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
