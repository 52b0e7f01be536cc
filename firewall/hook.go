package firewall

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// A Hook is a chain that jumps to fsban's own: a built-in one, or one that somebody else has made.
type Hook struct {
	Table string // raw, mangle or filter
	Chain string // PREROUTING, INPUT, DOCKER-USER, ...
}

func (h Hook) String() string { return h.Table + "/" + h.Chain }

// Tables are the tables that can hold fsban's chain.
var Tables = []string{"raw", "mangle", "filter"}

// incoming are the built-in chains of each table that incoming packets pass. A ban has no effect in the others.
var incoming = map[string][]string{
	"raw":    {"PREROUTING"},
	"mangle": {"PREROUTING", "INPUT", "FORWARD"},
	"filter": {"INPUT", "FORWARD"},
}

var (
	builtIn   = []string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}
	chainName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,27}$`)
)

// BuiltIn reports whether a chain is one of the packet filter's own, which always exists.
func BuiltIn(chain string) bool { return slices.Contains(builtIn, chain) }

// ParseHook reads "table/CHAIN".
func ParseHook(s string) (Hook, error) {
	table, chain, _ := strings.Cut(s, "/")
	switch fit := incoming[table]; {
	case fit == nil || !chainName.MatchString(chain):
		return Hook{}, fmt.Errorf("%.80q is not a chain: write table/CHAIN with a table of %s, like raw/PREROUTING", s,
			strings.Join(Tables, ", "))
	case chain == ChainName:
		return Hook{}, fmt.Errorf("%q is fsban's own chain: name one that is to jump to it, like raw/PREROUTING", s)
	case BuiltIn(chain) && !slices.Contains(fit, chain):
		return Hook{}, fmt.Errorf("%q does not see what comes from outside: the chains of %s that do are %s", s, table, strings.Join(fit, ", "))
	}
	return Hook{table, chain}, nil
}
