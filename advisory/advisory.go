// Package advisory knows the published vulnerabilities of FreeSWITCH: for each the release that has the fix, and for some the SIP request
// that attacks it.
//
// Its tables are not complete, and know nothing of a distribution's patches. To recognise an attack is no substitute for the upgrade: one
// packet is enough, and has arrived before any ban.
package advisory

// An Advisory is a published vulnerability.
type Advisory struct {
	ID       string // the shortest name: a CVE, else the source
	Fixed    string // the first release without it
	Effect   string
	Source   string
	Critical bool
	Module   string // only where this module is loaded; empty: everywhere
}

// Until is the day up to which the table below was kept.
const Until = "2026-11-22"

// Identifiers that signatures refer to.
const (
	chatAPI  = "CVE-2026-116779"
	chatUser = "PR-3134"
)

// All lists the advisories, oldest fix first. They are taken from the security advisories, release notes and pull requests of
// github.com/signalwire/freeswitch, and from the CVE records that name the release with the fix.
var All = []Advisory{
	{"CVE-2021-37624", "1.10.7", "SIP MESSAGE without a password", "CVE-2021-37624, GHSA-mjcm-q9h8-9xv3", false, ""},
	{"CVE-2021-41158", "1.10.7", "passwords of gateways leak to called servers", "CVE-2021-41158, GHSA-3v3f-99mv-qvj4", false, ""},
	{"CVE-2021-41105", "1.10.7", "calls cut by invalid SRTP packets", "CVE-2021-41105, GHSA-jh42-prph-gp36", false, ""},
	{"CVE-2021-41145", "1.10.7", "memory exhausted by a SIP flood", "CVE-2021-41145, GHSA-jvpq-23v4-gp3m", false, ""},
	{"GHSA-7mwp-86fv-hcg3", "1.10.10", "out-of-bounds write by an ICE candidate", "GHSA-7mwp-86fv-hcg3", true, ""},
	{"GHSA-gjj5-79p2-9g3q", "1.10.10", "crash by a re-INVITE with duplicate codecs", "GHSA-gjj5-79p2-9g3q", false, ""},
	{"CVE-2023-51443", "1.10.11", "calls with DTLS cut by a forged hello", "CVE-2023-51443, GHSA-39gv-hq72-j6m6", false, ""},
	{"CVE-2026-49841", "1.11.1", "heap overflow in mod_verto before any login", "CVE-2026-49841, GHSA-wfrq-qvg2-f88f", true, "mod_verto"},
	{"CVE-2026-116574", "1.11.2", "one byte written beyond the heap by text from outside", "CVE-2026-116574, GHSA-r6vh-qmwm-h3cc", false, ""},
	{chatAPI, "1.11.3", "a SIP MESSAGE runs commands", "CVE-2026-116779, pull request 3135", true, ""},
	{chatUser, "1.11.3", "a SIP MESSAGE with a very long user ends FreeSWITCH", "pull request 3134", false, ""},
	{"release-1.11.4", "1.11.4", "more, which the release notes call critical", "release notes of 1.11.4", false, ""},
}

// Find returns the advisory with an ID, or nil.
func Find(id string) *Advisory {
	for i := range All {
		if All[i].ID == id {
			return &All[i]
		}
	}
	return nil
}
