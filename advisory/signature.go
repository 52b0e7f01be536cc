package advisory

// A signature recognises the SIP request of an attack, from one packet and without credentials.
type signature struct {
	advisory string // its ID
	method   string
	matches  func(user []byte) bool // user of To, as it is written
}

// signatures are taken from the code that the fixes changed. An ordinary request must match none of them: its sender may be banned for
// the first packet.
var signatures = []signature{
	{chatAPI, "MESSAGE", selectsAPI},
	{chatUser, "MESSAGE", overflowsSelector},
}

// Recognised lists the IDs of the advisories that have a signature.
func Recognised() (ids []string) {
	for i := range signatures {
		ids = append(ids, signatures[i].advisory)
	}
	return ids
}

// Attacked returns the advisory of the vulnerability that a request attacks, or nil. User is that of To, as it is written. It does not
// allocate.
func Attacked(method, user []byte) *Advisory {
	for i := range signatures {
		if s := &signatures[i]; string(method) == s.method && s.matches(user) {
			return Find(s.advisory)
		}
	}
	return nil
}

// selectsAPI reports whether a user has the form api+COMMAND+ARGUMENTS, with which mod_sofia hands a MESSAGE to the chat protocol api
// (sofia_presence_handle_sip_i_message), which runs the command. Names of chat protocols have no case.
func selectsAPI(user []byte) bool {
	const selector = "api+"
	for i := range len(selector) {
		if len(user) == 0 {
			return false
		}
		var c byte
		if c, user = unescape(user); c != selector[i] && (c < 'A' || c > 'Z' || c|0x20 != selector[i]) {
			return false
		}
	}
	return true
}

// overflowsSelector reports whether the first plus sign of a user is beyond the buffer to which mod_sofia copies the user, where it
// searches for the plus sign in vain and writes through a null pointer.
func overflowsSelector(user []byte) bool {
	const buffer = 512 // with the end of the text
	for rest := user; len(rest) > 0; {
		at := len(user) - len(rest)
		var c byte
		if c, rest = unescape(rest); c == '+' {
			return at >= buffer-1
		}
	}
	return false
}

// unescape returns the first character of b, which may be escaped (%61), and the rest. b is not empty.
func unescape(b []byte) (c byte, rest []byte) {
	if b[0] == '%' && len(b) >= 3 {
		high, ok := hex(b[1])
		low, also := hex(b[2])
		if ok && also {
			return high<<4 | low, b[3:]
		}
	}
	return b[0], b[1:]
}

func hex(c byte) (value byte, ok bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10, true
	}
	return 0, false
}
