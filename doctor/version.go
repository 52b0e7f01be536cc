package doctor

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// An advisory is a published security hole of FreeSWITCH.
type advisory struct {
	fixed    string // the first release without it
	effect   string
	source   string
	severity Severity
	module   string // it is one only where this module is loaded
}

// advisoriesUntil is the day up to which the table below was kept.
const advisoriesUntil = "2026-11-22"

// advisories are taken from the security advisories and release notes of github.com/signalwire/freeswitch, and from the CVE
// records that name the release with the fix. The table is not complete, and knows nothing of a distribution's patches.
var advisories = []advisory{
	{"1.10.7", "SIP MESSAGE without a password", "CVE-2021-37624, GHSA-mjcm-q9h8-9xv3", Warning, ""},
	{"1.10.7", "passwords of gateways leak to called servers", "CVE-2021-41158, GHSA-3v3f-99mv-qvj4", Warning, ""},
	{"1.10.7", "calls cut by invalid SRTP packets", "CVE-2021-41105, GHSA-jh42-prph-gp36", Warning, ""},
	{"1.10.7", "memory exhausted by a SIP flood", "CVE-2021-41145, GHSA-jvpq-23v4-gp3m", Warning, ""},
	{"1.10.10", "out-of-bounds write by an ICE candidate", "GHSA-7mwp-86fv-hcg3", Critical, ""},
	{"1.10.10", "crash by a re-INVITE with duplicate codecs", "GHSA-gjj5-79p2-9g3q", Warning, ""},
	{"1.10.11", "calls with DTLS cut by a forged hello", "CVE-2023-51443, GHSA-39gv-hq72-j6m6", Warning, ""},
	{"1.11.1", "heap overflow in mod_verto before any login", "CVE-2026-49841, GHSA-wfrq-qvg2-f88f", Critical, "mod_verto"},
	{"1.11.2", "one byte written beyond the heap by text from outside", "CVE-2026-116574, GHSA-r6vh-qmwm-h3cc", Warning, ""},
	{"1.11.3", "a SIP MESSAGE runs commands", "CVE-2026-116779, pull request 3135", Critical, ""},
	{"1.11.4", "more, which the release notes call critical", "release notes of 1.11.4", Warning, ""},
}

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
	var holes []advisory
	for _, a := range advisories {
		if v.before(versionOf(a.fixed)) && (a.module == "" || s.modules[a.module]) {
			holes = append(holes, a)
		}
	}
	if len(holes) == 0 {
		return nil
	}
	worst := slices.MaxFunc(holes, func(a, b advisory) int { return cmp.Compare(a.severity, b.severity) }).severity
	slices.SortStableFunc(holes, func(a, b advisory) int { return cmp.Compare(b.severity, a.severity) })
	told := make([]string, 0, len(holes))
	for _, h := range holes {
		told = append(told, fmt.Sprintf("%s (%s; fixed in %s)", h.effect, h.source, h.fixed))
	}
	return []Finding{{
		Check: "version", Severity: worst,
		Title: fmt.Sprintf("FreeSWITCH %s has known vulnerabilities", word(s.version)),
		Seen:  capital(strings.Join(told, "; ")) + ".",
		Why:   "They are public, so attackers try them. A ban comes too late against an attack of one packet.",
		Change: fmt.Sprintf("Upgrade FreeSWITCH to %s or later, unless your distribution has patched this version. doctor knows the advisories "+
			"published until %s.", newestFix(holes), advisoriesUntil),
	}}
}

// newestFix is the release that has all of them fixed.
func newestFix(holes []advisory) string {
	return slices.MaxFunc(holes, func(a, b advisory) int {
		x, y := versionOf(a.fixed), versionOf(b.fixed)
		return slices.Compare(x.numbers[:], y.numbers[:])
	}).fixed
}
