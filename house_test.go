// Package house_test tests the layout of the repository: the imports that each package may have.
package house_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// mayImport lists the imports that each package may have apart from the standard library, with the reason. Data flows one
// way. Tests may import any package.
var mayImport = map[string][]string{
	"esl":              {"github.com/percipia/eslgo/command"}, // builds commands; replies and events are read by esl itself
	"ctilog":           {"golang.org/x/sys/unix"},             // inotify
	"advisory":         {},
	"detect":           {"fsban/advisory", "fsban/esl", "fsban/policy", "fsban/sipwire"},                                                         // turns events, log lines and SIP transactions into attempts
	"policy":           {},                                                                                                                       // pure
	"ledger":           {"fsban/policy"},                                                                                                         // evidence consists of attempts
	"config":           {"fsban/detect", "fsban/firewall", "fsban/internal/guess", "fsban/internal/regular", "fsban/policy", "gopkg.in/yaml.v3"}, // each package defines the values of its settings
	"control":          {"fsban/internal/plainjson", "golang.org/x/sys/unix"},                                                                    // peer credentials
	"neverban":         {"github.com/mdlayher/netlink", "golang.org/x/sys/unix"},                                                                 // rtnetlink notifications about own addresses
	"fail2ban":         {"fsban/config", "fsban/policy"},                                                                                         // translates jails into settings
	"firewall":         {},
	"firewall/backend": {"fsban/firewall", "fsban/firewall/ipset", "fsban/firewall/nft", "fsban/firewall/xtables"},
	"firewall/ipset":   {"fsban/firewall", "github.com/mdlayher/netlink", "golang.org/x/sys/unix"},
	"firewall/nft": {
		"fsban/firewall", "github.com/mdlayher/netlink", "golang.org/x/sys/unix",
		"github.com/google/nftables", "github.com/google/nftables/binaryutil", "github.com/google/nftables/expr", "github.com/google/nftables/userdata",
		"golang.org/x/net/bpf", // a filter of the kernel's notifications
	},
	"firewall/xtables": {
		"fsban/firewall", "fsban/firewall/ipset", "fsban/firewall/nft", "github.com/coreos/go-iptables/iptables", "golang.org/x/sys/unix",
		"github.com/google/nftables", // the rules of iptables-nft, while iptables-legacy is in use
	},
	"fleet": {
		"fsban/fleet/merge", "fsban/fleet/resp",
		"fsban/policy", // attempts, where nodes share failures
		"github.com/redis/go-redis/v9", "github.com/redis/go-redis/v9/maintnotifications", "golang.org/x/sync/errgroup",
	},
	"fleet/merge":     {"fsban/policy"},                                                                                            // pure
	"fleet/resp":      {},                                                                                                          // a client library is its user
	"doctor":          {"fsban/advisory", "fsban/doctor/dialplan", "fsban/doctor/fsxml", "fsban/firewall", "fsban/firewall/saved"}, // FreeSWITCH's answers are passed in
	"firewall/saved":  {"fsban/firewall", "fsban/firewall/ipset", "golang.org/x/sys/unix"},                                         // names of the chain and the sets
	"doctor/dialplan": {"fsban/doctor/fsxml"},
	"doctor/fsxml":    {},
	"decide": { // no metrics, no HTTP, no control protocol, no Redis
		"fsban/advisory", "fsban/ctilog", "fsban/decide/book", "fsban/decide/sequence", "fsban/detect", "fsban/fleet/merge", "fsban/ledger", "fsban/policy",
		"fsban/firewall", // the cause of an order, and entries of the kernel
	},
	"decide/sequence": {"fsban/detect", "fsban/policy"}, // pure; shared with replay
	"decide/book": {
		"fsban/fleet/merge", "fsban/ledger", "fsban/policy",
		"fsban/firewall", // the cause of an order, and entries of the kernel
	},
	"api": {
		"fsban/config", "fsban/control", "fsban/decide", "fsban/decide/book", "fsban/firewall", "fsban/fleet", "fsban/fleet/merge", "fsban/ledger", "fsban/policy",
	},
	"daemon": { // wiring
		"fsban/advisory", "fsban/api", "fsban/config", "fsban/control", "fsban/ctilog", "fsban/decide", "fsban/decide/book", "fsban/detect", "fsban/doctor/fsxml", "fsban/esl", "fsban/firewall", "fsban/firewall/backend",
		"fsban/fleet", "fsban/fleet/merge", "fsban/ledger", "fsban/neverban", "fsban/policy", "fsban/sipwire", "fsban/sipwire/hep", "fsban/sipwire/nflog",
		"github.com/coreos/go-systemd/v22/daemon", "github.com/prometheus/client_golang/prometheus",
		"github.com/prometheus/client_golang/prometheus/collectors", "github.com/prometheus/client_golang/prometheus/promhttp",
		"github.com/prometheus/exporter-toolkit/web", "golang.org/x/sync/errgroup",
		"golang.org/x/sys/unix", // the kernel's monotonic time, to notice a step of the clock while fsban was stopped
	},
	"replay":           {"fsban/config", "fsban/decide/sequence", "fsban/detect", "fsban/esl", "fsban/policy", "fsban/sipwire", "fsban/sipwire/pcap"}, // the daemon's decisions without its effects
	"sipwire":          {},
	"sipwire/nflog":    {"fsban/sipwire", "github.com/mdlayher/netlink", "golang.org/x/sys/unix"},                                      // the kernel's copies of packets
	"sipwire/hep":      {"fsban/sipwire", "golang.org/x/sys/unix"},                                                                     // the buffer of a socket, and its losses
	"sipwire/pcap":     {"github.com/gopacket/gopacket", "github.com/gopacket/gopacket/layers", "github.com/gopacket/gopacket/pcapgo"}, // formats of captures
	"top":              {"fsban/control", "fsban/internal/term", "charm.land/bubbletea/v2", "github.com/charmbracelet/x/ansi"},
	"internal/logging": {"fsban/config", "fsban/internal/plainjson"},                 // level and format
	"internal/term":    {"github.com/charmbracelet/x/ansi", "golang.org/x/sys/unix"}, // width of text and of the terminal
	"cmd/fsban": {
		"fsban/config", "fsban/control", "fsban/daemon", "fsban/doctor", "fsban/firewall/backend", "fsban/internal/guess", "fsban/internal/logging", "fsban/internal/plainjson", "fsban/internal/term", "fsban/firewall/saved", "fsban/replay", "fsban/top",
		"fsban/fail2ban",                            // import-fail2ban
		"fsban/neverban",                            // check: the never-ban file, read as the daemon reads it
		"fsban/detect", "fsban/esl", "fsban/policy", // discover and doctor: their own connection to FreeSWITCH
		"fsban/packaging/man", // only with build tag docs
		"github.com/spf13/cobra", "golang.org/x/sys/unix",
	},
	"cmd/fsban-demo": {
		"fsban/control", "fsban/internal/fakeswitch", "fsban/internal/netns", "fsban/internal/term", // runs fsban as a child process
		"fsban/packaging/man", // only with build tag docs
		"github.com/spf13/cobra",
	},
	"bench/beside": {
		"fsban/control", "fsban/internal/fakeswitch", "fsban/internal/netns", // runs fsban and queries it
		"golang.org/x/sys/unix", // packets with any source address, and the CPU time of another process
	},
	"packaging/sbom":       {},
	"packaging/man":        {"github.com/spf13/cobra", "github.com/spf13/cobra/doc"},
	"dashboards":           {}, // made of nothing but words
	"internal/captures":    {},
	"internal/fakeswitch":  {},
	"internal/guess":       {},
	"internal/plainjson":   {},
	"internal/kerneltest":  {"fsban/firewall", "fsban/internal/netns", "github.com/mdlayher/netlink", "github.com/mdlayher/netlink/nltest", "go.uber.org/goleak", "golang.org/x/sys/unix"},
	"internal/netns":       {"fsban/internal/testenv", "github.com/mdlayher/netlink", "golang.org/x/sys/unix"},
	"internal/regular":     {},
	"internal/redisserver": {"fsban/internal/testenv"},
	"internal/testenv":     {},
}

// onlyIn lists standard packages that only these packages may import, with the reason.
var onlyIn = map[string][]string{
	"os/exec": {"firewall/backend", "firewall/xtables", "internal/kerneltest", "fail2ban", "cmd/fsban-demo", "internal/netns", "internal/redisserver", "internal/testenv", "bench/beside"}, // the firewall runs iptables; import-fail2ban asks fail2ban-client; the demo runs fsban; tests run a real Redis; benchmarks what they measure
	"unsafe":  {"control"},                                                                                                                                                                 // SO_PEERGROUPS gives a list, for which x/sys has no function
}

func TestPackagesImportOnlyAllowedPackages(t *testing.T) {
	seen := make(map[string]bool)
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != "." || d.Name() == "testdata") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		room := filepath.ToSlash(filepath.Dir(path))
		allowed, known := mayImport[room]
		if !known {
			t.Errorf("%s: package %s is missing in mayImport", path, room)
			return nil
		}
		seen[room] = true
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range file.Imports {
			name, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if rooms, restricted := onlyIn[name]; restricted && !slices.Contains(rooms, room) {
				t.Errorf("%s imports %s", path, name)
			}
			if isStandard(name) || slices.Contains(allowed, name) {
				continue
			}
			t.Errorf("%s imports %s, which mayImport does not allow for %s", path, name, room)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for room := range mayImport {
		if !seen[room] {
			t.Errorf("mayImport lists %s, which does not exist", room)
		}
	}
}

// isStandard reports whether a package belongs to the standard library: no dot in the first element of its path, which is not
// this module.
func isStandard(name string) bool {
	first, _, _ := strings.Cut(name, "/")
	return first != "fsban" && !strings.Contains(first, ".")
}

// mayNotLink are packages that cmd/fsban must not link, not even indirectly, with the reason. cmd/fsban holds CAP_NET_ADMIN, so code
// that only a demo, a test or a build needs stays out of it.
var mayNotLink = map[string]string{
	"fsban/internal/fakeswitch":  "the recorded FreeSWITCH: for tests and cmd/fsban-demo",
	"fsban/internal/captures":    "recordings for tests",
	"fsban/internal/netns":       "namespaces: for tests and cmd/fsban-demo",
	"fsban/internal/redisserver": "a Redis for tests",
	"fsban/packaging/man":        "the generator of manual pages: for builds",
	"github.com/spf13/cobra/doc": "the same",
	"testing":                    "for tests",
}

func TestThePrivilegedProgramLinksNoTestCode(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "./cmd/fsban").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	linked := strings.Fields(string(out))
	if !slices.Contains(linked, "fsban/daemon") {
		t.Fatalf("go list shows no dependencies: %q", out)
	}
	for _, name := range linked {
		if reason, denied := mayNotLink[name]; denied {
			t.Errorf("cmd/fsban links %s: %s", name, reason)
		}
	}
}
