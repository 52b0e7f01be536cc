//go:build !docs

package main

import "os"

func main() {
	// Debian keeps iptables in a directory that the PATH of users and of some services lacks.
	_ = os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	os.Exit(run(os.Args[1:]))
}
