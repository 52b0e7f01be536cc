package doctor

import (
	"crypto/md5" // the hash of SIP's digest
	"encoding/hex"
	"slices"
	"strings"
)

// A flaw is why a password is weak.
type flaw uint8

const (
	strong flaw = iota
	short
	shared
	common
	number
	fresh
)

// flaws are the words for them, the worst first.
var flaws = []struct {
	flaw
	words string
}{
	{fresh, "the default password of every installation"},
	{number, "their own number, or little more"},
	{common, "a password that attackers try first"},
	{shared, "default_password of vars.xml, shared by all"},
	{short, "less than 8 characters, or less than 12 and all digits"},
}

// freshPassword is the password of every extension in FreeSWITCH's own configuration.
const freshPassword = "1234"

// defaultPassword is the variable of vars.xml that FreeSWITCH's own configuration takes that from.
const defaultPassword = "default_password"

// commonPasswords are tried first by every scanner. The list is short: a password longer than 8 characters and not here is
// left to the rule for short ones.
var commonPasswords = []string{
	"password", "password1", "password123", "passw0rd", "p@ssw0rd", "p@ssword", "admin", "admin123", "administrator", "secret", "default",
	"guest",
	"welcome", "welcome1", "letmein", "changeme", "qwerty", "qwerty123", "qwertyuiop", "asdfgh", "abc123", "abcd1234", "a1b2c3d4", "1q2w3e4r",
	"1qaz2wsx", "iloveyou", "monkey", "dragon", "test", "test123", "test1234", "phone", "sip", "sip123", "voip", "voip123", "asterisk",
	"freeswitch", "freepbx", "fusionpbx", "cluecon", "works", "extension", "support", "123", "12345", "123456", "1234567", "12345678",
	"123456789", "1234567890", "0123456789", "987654321", "11111111", "00000000", "88888888", "66666666", "123123", "123321", "112233",
	"654321",
	"5201314", "woaini", "a123456", "a12345678", "aa123456", "qq123456", "zxcvbn", "zxcvbnm",
}

// weakness judges a password. It never leaves this function.
func (s *system) weakness(u *user, password string) flaw {
	lower := strings.ToLower(password)
	digits := strings.Trim(password, "0123456789") == ""
	switch {
	case password == freshPassword:
		return fresh
	case isHardlyMore(lower, strings.ToLower(u.id)):
		return number
	case slices.Contains(commonPasswords, lower) || strings.Trim(lower, lower[:1]) == "":
		return common
	case password == s.globals[defaultPassword]:
		return shared
	case len(password) < 8 || digits && len(password) < 12:
		return short
	}
	return strong
}

// isHardlyMore reports whether a password is a number, twice it, it backwards, or it and up to three characters more.
func isHardlyMore(password, id string) bool {
	backwards := []byte(id)
	slices.Reverse(backwards)
	if password == string(backwards) {
		return true
	}
	rest := strings.Replace(password, id, "", 1)
	return len(id) > 1 && rest != password && (len(rest) <= 3 || rest == id)
}

// hashWeakness judges an a1-hash by trying the most common passwords.
func (s *system) hashWeakness(u *user, hash string) flaw {
	for _, try := range append([]string{freshPassword, u.id, s.globals[defaultPassword]}, commonPasswords...) {
		sum := md5.Sum([]byte(u.id + ":" + u.domain + ":" + try))
		if try != "" && strings.EqualFold(hash, hex.EncodeToString(sum[:])) {
			return s.weakness(u, try)
		}
	}
	return strong
}

func passwordFindings(weak map[flaw][]string) []Finding {
	var all []Finding
	for _, severity := range []Severity{Critical, Warning} {
		var seen []string
		total := 0
		for _, f := range flaws {
			if users := weak[f.flaw]; len(users) > 0 && (f.flaw > shared) == (severity == Critical) {
				seen = append(seen, f.words+": "+nameUsers(users))
				total += len(users)
			}
		}
		if total == 0 {
			continue
		}
		f := Finding{
			Check: "weak-password", Severity: severity,
			Title:  plural(total, "One user has a weak password", "users have weak passwords"),
			Seen:   capital(strings.Join(seen, "; ")) + ".",
			Why:    "Such passwords fall to a slow, distributed search that stays below every limit. Then calls abroad are made with them.",
			Change: "Give each user a random password of 12 characters or more in the directory.",
		}
		if severity == Critical {
			f.Title = plural(total, "One user has a password that is guessed at once", "users have passwords that are guessed at once")
			f.Why = "Scanners try these first, and fsban cannot ban before the first guess. Calls abroad follow within minutes."
			f.Change = "Give each user a random password of 12 characters or more in the directory (in the " +
				"vanilla configuration all share default_password of vars.xml)."
		}
		all = append(all, f)
	}
	return all
}
