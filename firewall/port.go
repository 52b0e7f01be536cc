package firewall

import (
	"fmt"
	"regexp"
	"strconv"
)

// Ports are a protocol and one port, or a range of them.
type Ports struct {
	Proto       string // udp, tcp or sctp
	First, Last uint16
}

// String returns udp/5060 or udp/16384-32768.
func (p Ports) String() string {
	if p.First == p.Last {
		return fmt.Sprintf("%s/%d", p.Proto, p.First)
	}
	return fmt.Sprintf("%s/%d-%d", p.Proto, p.First, p.Last)
}

var portsText = regexp.MustCompile(`^(udp|tcp|sctp)/([0-9]{1,5})(?:-([0-9]{1,5}))?$`)

// ParsePorts reads "udp/5060" or "udp/16384-32768".
func ParsePorts(s string) (Ports, error) {
	m := portsText.FindStringSubmatch(s)
	if m == nil {
		return Ports{}, fmt.Errorf("%.80q is not a port: write udp/5060 or udp/16384-32768, with udp, tcp or sctp", s)
	}
	if m[3] == "" {
		m[3] = m[2]
	}
	first, err := strconv.ParseUint(m[2], 10, 16)
	if err != nil || first == 0 {
		return Ports{}, fmt.Errorf("%q: ports are 1 to 65535", s)
	}
	last, err := strconv.ParseUint(m[3], 10, 16)
	if err != nil {
		return Ports{}, fmt.Errorf("%q: ports are 1 to 65535", s)
	}
	if last < first {
		return Ports{}, fmt.Errorf("%q ends before it begins", s)
	}
	return Ports{m[1], uint16(first), uint16(last)}, nil
}
