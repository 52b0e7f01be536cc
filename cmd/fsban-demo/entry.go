//go:build !docs

package main

import "os"

func main() {
	// Debian keeps iptables in a directory that a user's PATH lacks.
	_ = os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	os.Exit(run(os.Args[1:]))
}
