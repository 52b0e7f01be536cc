package packaging_test

import (
	"os/exec"
	"strings"
	"testing"
)

func TestTheRPMHasWhatTheDebHas(t *testing.T) {
	t.Parallel()
	list := func(out string) map[string]bool {
		files := make(map[string]bool)
		for name := range strings.FieldsSeq(out) {
			name = strings.TrimPrefix(name, ".")
			for was, is := range map[string]string{
				"/lib/systemd": "/usr/lib/systemd", "/usr/share/zsh/site-functions": "/usr/share/zsh/vendor-completions", "/usr/share/licenses/fsban/LICENSE": "/usr/share/doc/fsban/copyright",
			} {
				if rest, ok := strings.CutPrefix(name, was); ok {
					name = is + rest
				}
			}
			files[name] = true
		}
		return files
	}
	deb := list(output(t, "sh", "-c", `dpkg-deb --fsys-tarfile "$1" | tar -t | grep -v '/$'`, "sh", made(t, "*.deb")))
	rpm := list(output(t, "rpm", "-qpl", "--noartifact", made(t, "*.rpm")))
	if len(deb) < 30 {
		t.Errorf("the deb has %v", deb)
	}
	for name := range deb {
		if !rpm[name] {
			t.Errorf("the rpm lacks %s", name)
		}
	}
	if out := output(t, "rpm", "-qpc", made(t, "*.rpm")); out != "/etc/fsban/config.yaml\n" {
		t.Errorf("configuration files: %q", out)
	}
	for flag, want := range map[string]string{"--requires": "shadow-utils", "--recommends": "ipset", "--suggests": "nftables"} {
		if out := output(t, "rpm", "-qp", flag, made(t, "*.rpm")); !strings.Contains(out, want) {
			t.Errorf("%s: %s", flag, out)
		}
	}
}

// The rpm in a root directory: user and modes after the installation, an edited configuration over an upgrade, and what a
// removal leaves: the edited configuration and the state, and nothing in the kernel. No systemd runs there.
func TestTheRPMIsInstalledAndRemoved(t *testing.T) {
	t.Parallel()
	rpm := made(t, "*.rpm")
	root := debian(t)
	// deb-systemd-helper would make it a Debian.
	const script = `
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$2"
mkdir "$2/upper" "$2/work" "$2/root"
mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" overlay "$2/root"
root=$2/root log=$2/log
rm "$root/usr/bin/deb-systemd-helper"
mount -t proc proc "$root/proc"
rpm() { command rpm --root "$root" --dbpath /var/lib/rpm "$@" 2>"$log" || { cat "$log"; exit 1; }; }
within() { chroot "$root" "$@"; }

rpm --nodeps -i "$3"
within getent passwd fsban | cut -d: -f1,6,7
within stat -c '%n %U %G %a' /etc/fsban/config.yaml
within fsban version >/dev/null

echo 'log: {level: debug}' >>"$root/etc/fsban/config.yaml"
rpm --nodeps -U --force "$3"
tail -n 1 "$root/etc/fsban/config.yaml"
within stat -c '%n %U %G %a' /etc/fsban/config.yaml

chroot "$root" fsban run 2>/dev/null &
daemon=$!
n=0
enforced() {
	within "$1" -t raw -S FSBAN 2>/dev/null | grep -q DROP && within "$1" -S OUTPUT 2>/dev/null | grep -q FSBAN-TAP-OUT
}
until enforced iptables && enforced ip6tables; do
	n=$((n + 1))
	[ $n -lt 600 ] || exit 1
	sleep 0.1
done
kill "$daemon"
wait "$daemon" || true
rpm -e fsban
within iptables-save | grep FSBAN || true
within ipset list -n
cd "$root" && find . -path ./proc -prune -o -path '*fsban*' -print | sort
`
	out, err := exec.CommandContext(t.Context(), "unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-c", script, "sh", root, t.TempDir(), rpm).CombinedOutput()
	const want = `fsban:/var/lib/fsban:/usr/sbin/nologin
/etc/fsban/config.yaml root fsban 640
log: {level: debug}
/etc/fsban/config.yaml root fsban 640
removed jump from ipv4 raw/PREROUTING
removed ipv4 chain raw/FSBAN
removed jump from ipv4 filter/INPUT to FSBAN-TAP-IN
removed jump from ipv4 filter/OUTPUT to FSBAN-TAP-OUT
removed ipv4 chain filter/FSBAN-TAP-IN
removed ipv4 chain filter/FSBAN-TAP-OUT
removed set fsban4
removed jump from ipv6 raw/PREROUTING
removed ipv6 chain raw/FSBAN
removed jump from ipv6 filter/INPUT to FSBAN-TAP-IN
removed jump from ipv6 filter/OUTPUT to FSBAN-TAP-OUT
removed ipv6 chain filter/FSBAN-TAP-IN
removed ipv6 chain filter/FSBAN-TAP-OUT
removed set fsban6
./etc/fsban
./etc/fsban/config.yaml.rpmsave
./run/fsban
./var/lib/fsban
./var/lib/fsban/fsban.db
`
	if err != nil || string(out) != want {
		t.Errorf("%v:\n%swant:\n%s", err, out, want)
	}
}
