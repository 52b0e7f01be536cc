//go:build docs

package main

import (
	"fmt"
	"os"

	"fsban/packaging/man"
)

// main writes the manual pages and completions of fsban-demo into a directory: go run -tags docs ./cmd/fsban-demo DIR. With this
// tag the program is a tool of packaging/dist.sh.
func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: go run -tags docs ./cmd/fsban-demo DIR")
		os.Exit(2)
	}
	if err := man.Write(newRoot(), version, os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "write the manual pages:", err)
		os.Exit(1)
	}
}
