package doctor

import (
	"fmt"
	"time"
)

// longGrace is the LoginGraceTime from which fsban cannot tell a login to sshd by the age of its connection.
const longGrace = 150 * time.Second

// sshFindings judge the time for which sshd bears with strangers.
func (h *Host) sshFindings() []Finding {
	f := Finding{
		Check: "ssh-grace", Severity: Note, Title: "sshd keeps connections without a login",
		Why: "Strangers can occupy sshd's connections (MaxStartups). And where neither utmp nor logind records logins, fsban cannot " +
			"tell your ssh sessions from theirs, so it does not put any on the never-ban list.",
		Change: "Set LoginGraceTime 120 in sshd_config. While it must stay, write the addresses that you log in from into policy.ignoreip.",
	}
	switch {
	case h.LoginGraceTime == nil || *h.LoginGraceTime > 0 && *h.LoginGraceTime < longGrace:
		return nil
	case *h.LoginGraceTime == 0:
		f.Severity, f.Title, f.Seen = Warning, "sshd keeps connections without a login for ever", "LoginGraceTime is 0."
	default:
		f.Seen = fmt.Sprintf("LoginGraceTime is %v.", *h.LoginGraceTime)
	}
	return []Finding{f}
}
