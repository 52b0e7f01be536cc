// Package house_test holds the layout of the repository: which room may know which.
package house_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// mayImport is, for each room, what it may import beside the standard library, and why. Data flows one way: whoever is not
// listed is not known. Tests may import what they like.
var mayImport = map[string][]string{
	"esl":      {"github.com/percipia/eslgo/command"}, // the words of the commands; reading is our own
	"ctilog":   {"golang.org/x/sys/unix"},             // inotify
	"detect":   {"fsban/esl", "fsban/policy"},         // from an event or a line to an attempt
	"policy":   {},                                    // pure
	"ledger":   {"fsban/policy", "go.etcd.io/bbolt", "go.etcd.io/bbolt/errors"},
	"config":   {"fsban/detect", "fsban/firewall", "fsban/policy", "gopkg.in/yaml.v3"}, // what a setting may be is said by the room that it is for
	"control":  {"golang.org/x/sys/unix"},                                              // who is at the other end of the socket
	"neverban": {"github.com/mdlayher/netlink", "golang.org/x/sys/unix"},               // the kernel says when an own address comes or goes
	"fail2ban": {"fsban/config", "fsban/policy"},                                       // what it reads becomes settings
	"firewall": {
		"github.com/coreos/go-iptables/iptables", "github.com/mdlayher/netlink", "golang.org/x/sys/unix",
		"github.com/google/nftables", "github.com/google/nftables/binaryutil", "github.com/google/nftables/expr", "github.com/google/nftables/userdata",
		"golang.org/x/net/bpf", // a filter of what the kernel tells
	},
	"fleet": {
		"fsban/policy", // attempts, where nodes share failures
		"github.com/redis/go-redis/v9", "github.com/redis/go-redis/v9/maintnotifications", "golang.org/x/sync/errgroup",
	},
	"doctor": {}, // it is given what FreeSWITCH answered
	"daemon": {
		"fsban/config", "fsban/control", "fsban/ctilog", "fsban/detect", "fsban/esl", "fsban/firewall", "fsban/fleet", "fsban/ledger", "fsban/neverban", "fsban/policy",
		"github.com/coreos/go-systemd/v22/daemon", "github.com/prometheus/client_golang/prometheus",
		"github.com/prometheus/client_golang/prometheus/collectors", "github.com/prometheus/client_golang/prometheus/promhttp",
		"github.com/prometheus/exporter-toolkit/web", "golang.org/x/sync/errgroup",
	},
	"cmd/fsban": {
		"fsban/config", "fsban/control", "fsban/daemon", "fsban/doctor", "fsban/firewall",
		"fsban/fail2ban",                            // import-fail2ban's
		"fsban/neverban",                            // check's: the file of those who are never banned, as the daemon reads it
		"fsban/detect", "fsban/esl", "fsban/policy", // replay's: the daemon's way without its doings
		"fsban/internal/fakeswitch", "fsban/internal/netns", // the demo's
		"github.com/spf13/cobra", "github.com/spf13/pflag",
		"charm.land/bubbletea/v2",                                  // top's screen and keys
		"github.com/charmbracelet/x/ansi", "golang.org/x/sys/unix", // how wide a text is, and the terminal
	},
	"bench/beside": {
		"fsban/control", "fsban/internal/fakeswitch", "fsban/internal/netns", // fsban itself is run, and asked
		"golang.org/x/sys/unix", // packets of any sender, and the CPU time of another process
	},
	"packaging/sbom":       {},
	"dashboards":           {}, // made of nothing but words
	"internal/captures":    {},
	"internal/fakeswitch":  {},
	"internal/netns":       {"github.com/mdlayher/netlink", "golang.org/x/sys/unix"},
	"internal/redisserver": {},
}

// onlyIn are packages of the standard library that only some rooms may use, and why.
var onlyIn = map[string][]string{
	"os/exec": {"firewall", "cmd/fsban", "internal/netns", "internal/redisserver", "bench/beside"}, // programs are run by the firewall; the demo runs fsban; tests run a real Redis; benchmarks what they measure
	"unsafe":  {"control"},                                                                         // SO_PEERGROUPS gives a list, for which x/sys has no function
}

func TestEachRoomImportsOnlyWhatItMay(t *testing.T) {
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
			t.Errorf("%s: %s is a room that this test does not know", path, room)
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
			t.Errorf("%s imports %s: %s may not know it", path, name, room)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for room := range mayImport {
		if !seen[room] {
			t.Errorf("there is no room %s", room)
		}
	}
}

// isStandard tells whether a package is the standard library's: the first element of its path has no dot, and is not ours.
func isStandard(name string) bool {
	first, _, _ := strings.Cut(name, "/")
	return first != "fsban" && !strings.Contains(first, ".")
}
