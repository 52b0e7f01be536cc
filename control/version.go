package control

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// Each message has the version of its sender, and the sender's version of the API. Unknown fields of an answer are ignored; an unknown
// request, or a request with an unknown field, is refused with both versions.
const (
	headerVersion = "Fsban-Version"
	headerAPI     = "Fsban-Api"
	apiVersion    = 1 // as in the paths
)

// unknown returns the error text for a request with a part that this daemon does not know.
func (s *Server) unknown(r *http.Request, what string) string {
	theirs := r.Header.Get(headerVersion)
	if theirs == "" {
		return fmt.Sprintf("the daemon, fsban %s, does not know %s: GET %s says what it knows", s.version, what, pathSchema)
	}
	api, _ := strconv.Atoi(r.Header.Get(headerAPI))
	return disagree(s.version, theirs, what, olderThan(theirs, s.version, api-apiVersion))
}

// disagree explains that the daemon does not support a request of the command, and which of them to upgrade.
func disagree(daemon, command, what string, commandIsOlder bool) string {
	if daemon == "" {
		daemon = "of an early version"
	}
	advice := "upgrade the daemon, and restart it: systemctl restart fsban"
	if commandIsOlder {
		advice = "upgrade the command"
	}
	return fmt.Sprintf("the daemon, fsban %.40s, does not know %s, which the command, fsban %.40s, asks for: %s", daemon, what, command,
		advice)
}

// olderThan reports whether version a is older than b. The versions of the API count before those of the programs. Versions that
// cannot be compared are not older.
func olderThan(a, b string, apis int) bool {
	if apis != 0 {
		return apis < 0
	}
	x, okX := numbers(a)
	y, okY := numbers(b)
	if !okX || !okY {
		return false
	}
	for i := range x {
		if x[i] != y[i] {
			return x[i] < y[i]
		}
	}
	return false
}

// numbers reads the numbers that a version begins with: v1.2.3-4-gabcdef is 1, 2, 3.
func numbers(version string) (n [3]int, ok bool) {
	version, _, _ = strings.Cut(strings.TrimPrefix(version, "v"), "-")
	parts := strings.Split(version, ".")
	if len(parts) > len(n) {
		return n, false
	}
	for i, p := range parts {
		v, err := strconv.ParseUint(p, 10, 31)
		if err != nil {
			return n, false
		}
		n[i] = int(v)
	}
	return n, true
}
