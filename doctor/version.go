package doctor

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"fsban/advisory"
)

// A version is a release of FreeSWITCH, or the way to one.
type version struct {
	numbers [3]int
	dev     bool // not released yet
	known   bool
}

var versionText = regexp.MustCompile(`\b(\d{1,4})\.(\d{1,4})\.(\d{1,4})(-[A-Za-z]+)?`)

// versionIn finds the version in an answer of FreeSWITCH, such as "1.11.3-dev".
func versionIn(text string) string {
	if _, rest, ok := strings.Cut(text, "Version "); ok {
		return strings.TrimSuffix(versionText.FindString(rest), "-release")
	}
	return ""
}

func versionOf(text string) version {
	m := versionText.FindStringSubmatch(text)
	if m == nil {
		return version{}
	}
	v := version{known: true, dev: m[4] != "" && m[4] != "-release"}
	for i := range v.numbers {
		v.numbers[i], _ = strconv.Atoi(m[i+1])
	}
	return v
}

// before reports whether v is older than o. A pre-release is older than its release.
func (v version) before(o version) bool {
	if c := slices.Compare(v.numbers[:], o.numbers[:]); c != 0 || !v.known {
		return v.known && c < 0
	}
	return v.dev && !o.dev
}

func (s *system) versionFindings() []Finding {
	v := versionOf(s.version)
	var holes []advisory.Advisory
	for _, a := range advisory.All {
		if v.before(versionOf(a.Fixed)) && (a.Module == "" || s.modules[a.Module]) {
			holes = append(holes, a)
		}
	}
	if len(holes) == 0 {
		return nil
	}
	slices.SortStableFunc(holes, func(a, b advisory.Advisory) int { return cmp.Compare(severity(b), severity(a)) })
	worst := severity(holes[0])
	told := make([]string, 0, len(holes))
	for _, h := range holes {
		told = append(told, fmt.Sprintf("%s (%s; fixed in %s)", h.Effect, h.Source, h.Fixed))
	}
	return []Finding{{
		Check: "version", Severity: worst,
		Title: fmt.Sprintf("FreeSWITCH %s has known vulnerabilities", word(s.version)),
		Seen:  capital(strings.Join(told, "; ")) + ".",
		Why:   "They are public, so attackers try them. A ban comes too late against an attack of one packet.",
		Change: fmt.Sprintf("Upgrade FreeSWITCH to %s or later, unless your distribution has patched this version. doctor knows the advisories "+
			"published until %s.", newestFix(holes), advisory.Until),
	}}
}

// newestFix is the release that has all of them fixed.
func newestFix(holes []advisory.Advisory) string {
	return slices.MaxFunc(holes, func(a, b advisory.Advisory) int {
		x, y := versionOf(a.Fixed), versionOf(b.Fixed)
		return slices.Compare(x.numbers[:], y.numbers[:])
	}).Fixed
}

func severity(a advisory.Advisory) Severity {
	if a.Critical {
		return Critical
	}
	return Warning
}
