package doctor

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestMissingModules(t *testing.T) {
	const dir = "lib/modules/6.1.0-x/"
	release := map[string]string{"proc/sys/kernel/osrelease": "6.1.0-x\n"}
	with := func(more map[string]string) map[string]string {
		files := map[string]string{"proc/sys/kernel/osrelease": release["proc/sys/kernel/osrelease"], dir + "modules.dep": "", dir + "modules.builtin": ""}
		maps.Copy(files, more)
		return files
	}
	for name, tc := range map[string]struct {
		files map[string]string
		want  []string
	}{
		"installed": {with(map[string]string{dir + "modules.dep": "kernel/net/netfilter/nfnetlink_log.ko.xz: kernel/net/netfilter/nfnetlink.ko.xz\nkernel/net/netfilter/xt_NFLOG.ko.xz:\n"}), nil},
		"built in":  {with(map[string]string{dir + "modules.builtin": "kernel/net/netfilter/nfnetlink_log.ko\nkernel/net/netfilter/nft_log.ko\n"}), nil},
		"loaded":    {with(map[string]string{"proc/modules": "xt_NFLOG 16384 2 - Live 0x0\nnfnetlink_log 24576 1 - Live 0x0\n"}), nil},
		"neither":   {with(map[string]string{"proc/modules": "my_nfnetlink_log 1 0 - Live 0x0\n"}), []string{"nfnetlink_log", "xt_NFLOG or nft_log"}},
		"one of two": {with(map[string]string{dir + "modules.dep": "kernel/net/netfilter/nfnetlink_log.ko: kernel/net/netfilter/nfnetlink.ko\n"}),
			[]string{"xt_NFLOG or nft_log"}},
		"a container": {release, nil},
		"no proc":     {nil, nil},
	} {
		root := t.TempDir()
		for file, text := range tc.files {
			path := filepath.Join(root, file)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := missingModules(root, tapModules); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}
