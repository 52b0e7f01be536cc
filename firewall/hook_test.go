package firewall_test

import (
	"testing"

	"fsban/firewall"
)

func TestParseHook(t *testing.T) {
	const notAChain = " is not a chain: write table/CHAIN with a table of raw, mangle, filter, like raw/PREROUTING"
	for s, want := range map[string]string{
		"raw/PREROUTING":                       "",
		"mangle/INPUT":                         "",
		"filter/INPUT":                         "",
		"filter/FORWARD":                       "",
		"filter/DOCKER-USER":                   "",
		"filter/ufw-before":                    "",
		"":                                     `""` + notAChain,
		"raw":                                  `"raw"` + notAChain,
		"raw/":                                 `"raw/"` + notAChain,
		"/INPUT":                               `"/INPUT"` + notAChain,
		"nat/PREROUTING":                       `"nat/PREROUTING"` + notAChain,
		"filter/-j":                            `"filter/-j"` + notAChain,
		"filter/IN PUT":                        `"filter/IN PUT"` + notAChain,
		"filter/INPUT/x":                       `"filter/INPUT/x"` + notAChain,
		"filter/INPUT\n":                       `"filter/INPUT\n"` + notAChain,
		"filter/ThisNameIsTooLongForAChain___": `"filter/ThisNameIsTooLongForAChain___"` + notAChain,
		"raw/FSBAN":                            `"raw/FSBAN" is fsban's own chain: name one that is to jump to it, like raw/PREROUTING`,
		"raw/INPUT":                            `"raw/INPUT" does not see what comes from outside: the chains of raw that do are PREROUTING`,
		"filter/OUTPUT":                        `"filter/OUTPUT" does not see what comes from outside: the chains of filter that do are INPUT, FORWARD`,
		"mangle/POSTROUTING":                   `"mangle/POSTROUTING" does not see what comes from outside: the chains of mangle that do are PREROUTING, INPUT, FORWARD`,
	} {
		h, err := firewall.ParseHook(s)
		switch {
		case want == "" && (err != nil || h.String() != s):
			t.Errorf("%q: %v, %v", s, h, err)
		case want != "" && (err == nil || err.Error() != want):
			t.Errorf("%q: error %v, want %s", s, err, want)
		}
	}
}
