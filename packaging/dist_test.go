// Package packaging_test installs the distribution: the deb on a Debian of its own that systemd runs, the rpm
// into a root directory.
package packaging_test

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"fsban/internal/testenv"
)

// distribution builds the output of `make dist` for this architecture, once for all tests.
var distribution = sync.OnceValues(func() (dir string, err error) {
	if dir, err = os.MkdirTemp(distributions, "dist-"); err == nil {
		err = build("..", dir)
	}
	return dir, err
})

// distributions is a directory of this run.
var distributions string

func TestMain(m *testing.M) {
	var err error
	if distributions, err = os.MkdirTemp("", "fsban-packaging-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(distributions)
	os.Exit(code)
}

// build runs the dist.sh of a tree.
func build(tree, out string) error {
	cmd := exec.Command(filepath.Join(tree, "packaging/dist.sh"), out)
	cmd.Env = append(os.Environ(), "ARCHS="+runtime.GOARCH, "GIT_OPTIONAL_LOCKS=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return errors.New(string(text) + err.Error())
	}
	return nil
}

// made returns the one file of the distribution that matches a pattern.
func made(t *testing.T, pattern string) string {
	t.Helper()
	testenv.System(t, "git", "bash")
	dir, err := distribution()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(files) != 1 {
		t.Fatalf("%d files are named %s, want one (%v)", len(files), pattern, err)
	}
	return files[0]
}

// binary is the pattern of the program's name.
const binary = "fsban_*_linux_" + runtime.GOARCH

// output runs a program, which is to succeed.
func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	testenv.System(t, name)
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// The same tree gives the same bytes, wherever it stands.
func TestTheDistributionIsReproducible(t *testing.T) {
	t.Parallel()
	top := strings.TrimSpace(output(t, "git", "rev-parse", "--show-toplevel"))
	gitDir := strings.TrimSpace(output(t, "git", "rev-parse", "--absolute-git-dir"))
	tree := t.TempDir()
	for name := range strings.SplitSeq(strings.TrimRight(output(t, "git", "-C", top, "ls-files", "-z", "-co", "--exclude-standard"), "\x00"), "\x00") {
		data, err := os.ReadFile(filepath.Join(top, name))
		if errors.Is(err, os.ErrNotExist) {
			continue // removed, and not yet committed
		}
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(top, name))
		if err == nil {
			err = os.MkdirAll(filepath.Dir(filepath.Join(tree, name)), 0o755)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(tree, name), data, info.Mode().Perm())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(tree, ".git"), []byte("gitdir: "+gitDir+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	again := t.TempDir()
	if err := build(tree, again); err != nil {
		t.Fatal(err)
	}
	sums, err := os.ReadFile(made(t, "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	others, err := os.ReadFile(filepath.Join(again, "SHA256SUMS"))
	if err != nil || !bytes.Equal(sums, others) {
		t.Errorf("%v: two builds differ:\n%s\n%s", err, sums, others)
	}
}

func TestChecksums(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), "sha256sum", "--check", "--strict", "SHA256SUMS")
	cmd.Dir = filepath.Dir(made(t, "SHA256SUMS"))
	out, err := cmd.CombinedOutput()
	if n := strings.Count(string(out), ": OK\n"); err != nil || n != 6 {
		t.Errorf("%v, %d files are right, want 6:\n%s", err, n, out)
	}
}

func TestTheBinaryIsStatic(t *testing.T) {
	t.Parallel()
	file, err := elf.Open(made(t, binary))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	if libraries, err := file.ImportedLibraries(); err != nil || len(libraries) > 0 {
		t.Errorf("it needs %v (%v)", libraries, err)
	}
	if slices.ContainsFunc(file.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		t.Error("it needs a loader")
	}
}

func TestTheBillOfMaterialsNamesWhatIsInTheBinary(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(made(t, "*.cdx.json"))
	if err != nil {
		t.Fatal(err)
	}
	var bom struct {
		BOMFormat, SpecVersion string
		Metadata               struct {
			Component struct {
				Name, Version string
				Ref           string `json:"bom-ref"`
				Hashes        []struct{ Alg, Content string }
			}
		}
		Components []struct {
			Name, Version, PURL string
			Licenses            []struct {
				License    struct{ ID string }
				Expression string
			}
			Ref string `json:"bom-ref"`
		}
		Dependencies []struct {
			Ref       string
			DependsOn []string
		}
	}
	if err := json.Unmarshal(data, &bom); err != nil {
		t.Fatal(err)
	}
	if bom.BOMFormat != "CycloneDX" || bom.SpecVersion != "1.5" || bom.Metadata.Component.Name != "fsban" || bom.Metadata.Component.Version == "" {
		t.Errorf("it is of %+v", bom.Metadata)
	}
	program := made(t, binary)
	if sum, _, _ := strings.Cut(output(t, "sha256sum", program), " "); len(bom.Metadata.Component.Hashes) != 1 || bom.Metadata.Component.Hashes[0].Content != sum {
		t.Errorf("it is of the program %+v, want %s", bom.Metadata.Component.Hashes, sum)
	}
	texts, err := os.ReadFile(made(t, "*.licenses.txt"))
	if err != nil || !strings.Contains(string(texts), "TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION") {
		t.Errorf("our own licence is not among the texts (%v)", err)
	}
	listed := make(map[string]string)
	for _, c := range bom.Components {
		listed[c.Name] = c.Version
		if c.Ref == "" || !strings.HasPrefix(c.PURL, "pkg:golang/"+c.Name+"@") {
			t.Errorf("%+v", c)
		}
		// Its licence is named, and its text is there under its name.
		if len(c.Licenses) != 1 || (c.Licenses[0].License.ID == "") == (c.Licenses[0].Expression == "") {
			t.Errorf("licences of %s: %+v", c.Name, c.Licenses)
		}
		_, list, _ := strings.Cut(string(texts), "\n"+strings.Repeat("=", 80)+"\n")
		if line := fmt.Sprintf("\n%s %s\n    %s; source: ", c.Name, c.Version, cmp.Or(c.Licenses[0].License.ID, c.Licenses[0].Expression)); !strings.Contains(string(texts), line) || !strings.Contains(list, "\n"+c.Name+" LICENSE") {
			t.Errorf("the texts lack %q", line)
		}
	}
	want := make(map[string]string)
	for line := range strings.Lines(output(t, "go", "version", "-m", program)) {
		switch words := strings.Fields(line); {
		case strings.Contains(line, ": go1."):
			want["std"] = words[1]
		case words[0] == "dep":
			want[words[1]] = words[2]
		}
	}
	var linked []string
	for _, d := range bom.Dependencies {
		if d.Ref == bom.Metadata.Component.Ref {
			linked = append(linked, d.DependsOn...)
		}
	}
	if !maps.Equal(listed, want) || len(want) < 10 || len(linked) != len(want) {
		t.Errorf("it names %v, the program has %v", listed, want)
	}
}

func TestTheArchiveHasWhatAnInstallationByHandNeeds(t *testing.T) {
	t.Parallel()
	file, err := os.Open(made(t, "*.tar.gz"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	unzipped, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	modes := make(map[string]int64)
	for r := tar.NewReader(unzipped); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		_, name, _ := strings.Cut(header.Name, "/")
		modes[name] = header.Mode
	}
	for name, mode := range map[string]int64{
		"fsban": 0o755, "fsban-demo": 0o755, "LICENSE": 0o644, "licenses.txt": 0o644, "README.md": 0o644, "CHANGELOG.md": 0o644, "config.example.yaml": 0o644, "docs/installation.md": 0o644,
		"SECURITY.md": 0o644, "README.zh-CN.md": 0o644, "dashboards/fsban.json": 0o644, "dashboards/rules/fsban.rules.yaml": 0o644,
		"dashboards/provisioning/dashboards/fsban.yaml": 0o644, "packaging/fsban.service": 0o644, "packaging/fsban-sets.service": 0o644, "packaging/fsban.tmpfiles": 0o644, "packaging/config.yaml": 0o644, "packaging/logrotate.example": 0o644,
		"man/fsban.1.gz": 0o644, "completion/fsban.bash": 0o644, "completion/_fsban": 0o644, "completion/fsban.fish": 0o644,
	} {
		if modes[name] != mode {
			t.Errorf("%s has mode %o, want %o", name, modes[name], mode)
		}
	}
}

// The output of git describe becomes a version that dpkg accepts, and later ones sort later.
func TestVersions(t *testing.T) {
	t.Parallel()
	last := ""
	for _, c := range []struct{ described, want string }{
		{"abc1234", "~git"},
		{"v1.2.3-rc1", "1.2.3~rc1"},
		{"v1.2.3-rc1-4-gabc1234", "1.2.3~rc1+4.gabc1234"},
		{"v1.2.3", "1.2.3"},
		{"v1.2.3-dirty", "1.2.3+dirty"},
		{"v1.2.4", "1.2.4"},
		{"v1.2.4-4-gabc1234", "1.2.4+4.gabc1234"},
		{"v1.2.4-4-gabc1234-dirty", "1.2.4+4.gabc1234.dirty"},
		{"v1.2.4-15-g1234567", "1.2.4+15.g1234567"},
	} {
		got := strings.TrimSpace(output(t, "./version.sh", c.described))
		if got != c.want && (c.want != "~git" || !strings.HasPrefix(got, "0.0.0~git20")) {
			t.Errorf("%s gives %s, want %s", c.described, got, c.want)
		}
		output(t, "dpkg", "--validate-version", got)
		if last != "" {
			output(t, "dpkg", "--compare-versions", last, "lt", got)
		}
		last = got
	}
	got := strings.TrimSpace(output(t, "./version.sh", "unknown"))
	output(t, "dpkg", "--validate-version", got)
}
