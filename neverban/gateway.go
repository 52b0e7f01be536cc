package neverban

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"
)

const (
	maxGateways  = 1_000
	maxValue     = 1_024            // bytes of one value of a gateway
	gatewayStays = 10 * time.Minute // after FreeSWITCH stopped reporting it: a restarting switch or profile has none for a while
)

// A gatewayWatch watches the gateways of FreeSWITCH: the carriers with which it registers or to which it sends calls.
//
// FreeSWITCH trusts the hosts of a gateway's proxy, register-proxy and outbound-proxy. `sofia xmlstatus gateway` reports the
// first; the others are only in its configuration, which lacks gateways of directory users. The realm and the domain in From
// are often the carrier's hosts too, but need not be hosts at all: they count if they look like one and resolve, and are no
// problem otherwise.
type gatewayWatch struct {
	watcher *Watcher
	lookup  *lookup
	seen    map[string]gateway  // by profile and name
	proxies map[string][]string // from the configuration, by profile and name
	full    bool                // more than maxGateways exist
}

// A gateway is one entry of `sofia xmlstatus gateway`.
type gateway struct {
	profile, name, proxy, realm, from string
	gone                              time.Time // when FreeSWITCH stopped reporting it; zero: reported
}

func (gw gateway) key() string { return gw.profile + "/" + gw.name }

// A claim is a host named by a gateway.
type claim struct {
	origin string // "gateway carrier1"
	host   string
	hint   bool // may not be a host
}

func newGatewayWatch(w *Watcher) *gatewayWatch {
	return &gatewayWatch{watcher: w, lookup: &lookup{names: w.names, services: true}, seen: make(map[string]gateway)}
}

func (g *gatewayWatch) look(ctx context.Context) (complete bool) {
	var wrong []string
	err := g.update(ctx)
	if ctx.Err() != nil {
		return false
	}
	if err != nil {
		consequence := "no gateway is known, so carriers can be banned: add their addresses to ignoreip"
		if len(g.seen) > 0 {
			consequence = "known gateways stay on the never-ban list, new ones can be banned"
		}
		wrong = append(wrong, fmt.Sprintf("gateways: %v: %s", err, consequence))
	}
	if g.full {
		wrong = append(wrong, fmt.Sprintf("gateways: more than %d: the rest is left out", maxGateways))
	}
	claims := g.claims()
	g.watcher.put(gateways, reportOf(claims, g.lookup.known, wrong)) // publish the known answers first: name servers may be slow
	var wanted []string
	for _, c := range claims {
		if isHostName(c.host) {
			wanted = append(wanted, c.host)
		}
	}
	answers := g.lookup.resolve(ctx, wanted)
	if ctx.Err() != nil {
		return false
	}
	r := reportOf(claims, answers, wrong)
	g.watcher.put(gateways, r)
	return len(r.problems) == 0
}

// reportOf returns the report for claims, with the current answers for their names.
func reportOf(claims []claim, answers map[string]answer, wrong []string) report {
	r := report{problems: slices.Clone(wrong)}
	for _, c := range claims {
		addr, err := netip.ParseAddr(c.host)
		switch {
		case err == nil:
			r.add(c.origin, usable([]netip.Addr{addr}))
		case isHostName(c.host):
			r.add(fmt.Sprintf("%s (%s)", c.origin, c.host), answers[c.host].addrs)
			if !c.hint {
				r.unresolved(fmt.Sprintf("%s: %s", c.origin, c.host), answers[c.host])
			}
		case !c.hint:
			r.problems = append(r.problems, fmt.Sprintf("%s: %q is neither an address nor a host name", c.origin, c.host[:min(len(c.host), 80)]))
		}
	}
	return r
}

// update reads the gateways from FreeSWITCH. On an error the known ones are kept.
func (g *gatewayWatch) update(ctx context.Context) error {
	data, err := g.watcher.ask(ctx, "sofia", "xmlstatus gateway")
	if err != nil {
		return err
	}
	list, err := parseGateways(data)
	if err != nil {
		return fmt.Errorf("sofia xmlstatus gateway: %w", err)
	}
	now := time.Now()
	for key, gw := range g.seen {
		if gw.gone.IsZero() {
			gw.gone = now
			g.seen[key] = gw
		}
	}
	g.full = false
	for _, gw := range list {
		if _, known := g.seen[gw.key()]; !known && len(g.seen) >= maxGateways {
			g.full = true
			continue
		}
		g.seen[gw.key()] = gw
	}
	maps.DeleteFunc(g.seen, func(_ string, gw gateway) bool { return !gw.gone.IsZero() && now.Sub(gw.gone) >= gatewayStays })
	if len(g.seen) == 0 {
		return nil
	}
	if data, err = g.watcher.ask(ctx, "xml_locate", "configuration configuration name sofia.conf"); err != nil {
		return fmt.Errorf("outbound proxies: %w", err)
	}
	proxies, err := parseProxies(data)
	if err != nil {
		return fmt.Errorf("outbound proxies: sofia.conf: %w", err)
	}
	g.proxies = proxies
	return nil
}

// claims returns the hosts named by the gateways, in a fixed order.
func (g *gatewayWatch) claims() []claim {
	var list []claim
	for _, key := range slices.Sorted(maps.Keys(g.seen)) {
		gw := g.seen[key]
		origin := "gateway " + printable(gw.name)
		for _, uri := range append([]string{gw.proxy}, g.proxies[key]...) {
			list = append(list, claim{origin, hostOf(uri), false})
		}
		for _, uri := range []string{gw.realm, gw.from} {
			host := hostOf(uri)
			known := slices.ContainsFunc(list, func(c claim) bool { return c.origin == origin && c.host == host })
			if strings.ContainsAny(host, ".:") && !known {
				list = append(list, claim{origin, host, true})
			}
		}
	}
	return list
}

// parseGateways parses the answer to `sofia xmlstatus gateway`.
func parseGateways(data []byte) ([]gateway, error) {
	var list []gateway
	full := false
	err := walk(data, func(path []string, _ map[string]string) {
		if is(path, "gateways", "gateway") {
			if full = len(list) == 2*maxGateways; !full { // look keeps maxGateways, and reports the rest
				list = append(list, gateway{})
			}
		}
	}, func(path []string, text string) {
		if full || len(path) != 3 || !is(path[:2], "gateways", "gateway") {
			return
		}
		gw := &list[len(list)-1]
		switch path[2] {
		case "profile":
			extend(&gw.profile, text)
		case "name":
			extend(&gw.name, text)
		case "proxy":
			extend(&gw.proxy, text)
		case "realm":
			extend(&gw.realm, text)
		case "from":
			extend(&gw.from, text)
		}
	})
	return list, err
}

// extend appends text to a value, up to maxValue bytes. The parser delivers a value in as many parts as it has comments.
func extend(value *string, text string) {
	if room := maxValue - len(*value); room > 0 {
		*value += text[:min(len(text), room)]
	}
}

// parseProxies returns, for each gateway, the proxies in sofia's configuration other than the one in its status.
func parseProxies(data []byte) (map[string][]string, error) {
	proxies := make(map[string][]string)
	var gw gateway
	err := walk(data, func(path []string, attrs map[string]string) {
		switch {
		case is(path, "configuration", "profiles", "profile"):
			gw.profile = attrs["name"]
		case is(path, "configuration", "profiles", "profile", "gateways", "gateway"):
			gw.name = attrs["name"]
		case is(path, "configuration", "profiles", "profile", "gateways", "gateway", "param"):
			of, known := proxies[gw.key()]
			name, value := attrs["name"], attrs["value"]
			if name != "register-proxy" && name != "outbound-proxy" || value == "" || len(value) > maxValue || len(of) == 4 {
				return
			}
			if known || len(proxies) < 2*maxGateways {
				proxies[gw.key()] = append(of, value)
			}
		}
	}, func([]string, string) {})
	return proxies, err
}

// is reports whether path consists of names.
func is(path []string, names ...string) bool { return slices.Equal(path, names) }

// hostOf returns the host of a SIP address as FreeSWITCH reads it: "sip:user@host:5060;transport=tcp", "<sip:host>",
// "[2001:db8::1]:5060", "host".
func hostOf(uri string) string {
	s := strings.ToLower(strings.TrimSpace(uri))
	if _, inside, ok := strings.Cut(s, "<"); ok {
		s, _, _ = strings.Cut(inside, ">")
	}
	for _, scheme := range []string{"sip:", "sips:"} {
		s = strings.TrimPrefix(s, scheme)
	}
	s = s[strings.LastIndexByte(s, '@')+1:]
	if i := strings.IndexAny(s, ";?"); i >= 0 {
		s = s[:i]
	}
	if inside, ok := strings.CutPrefix(s, "["); ok {
		s, _, _ = strings.Cut(inside, "]")
		return s
	}
	if _, err := netip.ParseAddr(s); err == nil {
		return s
	}
	host, _, _ := strings.Cut(s, ":")
	return strings.TrimSuffix(host, ".")
}
