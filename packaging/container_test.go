package packaging_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"fsban/config"
)

// The image as its Containerfile makes it, on a machine, with the rights that compose and Kubernetes give it: an empty root
// directory that nobody can write to, the program, root with two capabilities.
func TestTheImageProtects(t *testing.T) {
	t.Parallel()
	var instructions []string
	text, err := os.ReadFile("container/Containerfile")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			instructions = append(instructions, line)
		}
	}
	if want := []string{
		"FROM scratch", "ARG TARGETARCH", "COPY fsban_*_linux_${TARGETARCH} /usr/bin/fsban", "COPY fsban_*_linux_${TARGETARCH}.licenses.txt /usr/share/doc/fsban/", "USER 0:0", `VOLUME ["/var/lib/fsban", "/run/fsban"]`,
		"EXPOSE 9738", `ENTRYPOINT ["/usr/bin/fsban"]`, `CMD ["run"]`, `HEALTHCHECK --interval=30s --timeout=5s --start-period=1m CMD ["/usr/bin/fsban", "status"]`,
	}; !slices.Equal(instructions, want) {
		t.Fatalf("this test makes another image than the file:\n%s", strings.Join(instructions, "\n"))
	}

	program := made(t, binary)
	m := boot(t)
	fs := m.play()
	m.sh("mkdir -p /image/usr/bin /image/var/lib/fsban /image/run/fsban")
	m.put(program, "/image/usr/bin/fsban")
	rights := []string{
		"--property=RootDirectory=/image", "--property=MountAPIVFS=yes", "--property=ReadOnlyPaths=/", "--property=TemporaryFileSystem=/var/lib/fsban /run/fsban",
		"--property=CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW", "--property=NoNewPrivileges=yes", "--property=User=0", "--property=Type=notify",
	}
	m.do(slices.Concat([]string{"systemd-run", "--quiet", "--unit=image"}, rights, []string{"/usr/bin/fsban", "run"})...)
	pid := m.sh("systemctl show -P MainPID image")
	status := m.do("cat", "/proc/"+pid+"/status")
	if !strings.Contains(status, "CapEff:\t0000000000003000") || !strings.Contains(status, "NoNewPrivs:\t1") {
		t.Errorf("its rights are not the two:\n%s", status)
	}
	if out, err := m.try("nsenter", "-t", pid, "-m", "-r", "/usr/bin/fsban", "status"); err != nil || !strings.Contains(out, "nftables, enforcing") {
		t.Errorf("%v\n%s", err, out)
	}
	fs.tell("send 203.0.113.66", "arrived")
	fs.tell("fail 203.0.113.66 5", "ok")
	m.until("banned", func() (string, bool) {
		out, _ := m.try("nft", "list", "ruleset")
		return out, strings.Contains(out, "203.0.113.66")
	})
	fs.tell("send 203.0.113.66", "dropped")
}

// documents parses the YAML documents of a file.
func documents(t *testing.T, name string) (list []map[string]any) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for d := yaml.NewDecoder(bytes.NewReader(data)); ; {
		var doc map[string]any
		if err := d.Decode(&doc); errors.Is(err, io.EOF) {
			return list
		} else if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		list = append(list, doc)
	}
}

// at looks up a place in a document: keys, and in lists the element of that name.
func at(t *testing.T, v any, path ...string) any {
	t.Helper()
	for _, key := range path {
		switch node := v.(type) {
		case map[string]any:
			v = node[key]
		case []any:
			i := slices.IndexFunc(node, func(e any) bool { m, ok := e.(map[string]any); return ok && m["name"] == key })
			if i < 0 {
				t.Fatalf("no %s in %v", key, node)
			}
			v = node[i]
		default:
			t.Fatalf("no %s in %v", key, v)
		}
	}
	return v
}

// same compares the value at a path, as YAML in one line.
func same(t *testing.T, doc any, want string, path ...string) {
	t.Helper()
	var node yaml.Node
	err := node.Encode(at(t, doc, path...))
	node.Style = yaml.FlowStyle
	got, err2 := yaml.Marshal(&node)
	if err != nil || err2 != nil || strings.TrimSpace(string(got)) != want {
		t.Errorf("%s: %s, want %s", strings.Join(path, "."), got, want)
	}
}

func TestComposeGivesTheLeastRights(t *testing.T) {
	t.Parallel()
	doc := documents(t, "container/compose.yaml")[0]
	fsban := []string{"services", "fsban"}
	for key, want := range map[string]string{
		"network_mode": "host", "read_only": "true", "cap_drop": "[ALL]", "cap_add": "[NET_ADMIN, NET_RAW]", "security_opt": "['no-new-privileges:true']",
	} {
		same(t, doc, want, append(fsban, key)...)
	}
	for _, other := range []string{"prometheus", "grafana"} {
		same(t, doc, "[ALL]", "services", other, "cap_drop")
		if at(t, doc, "services", other).(map[string]any)["cap_add"] != nil {
			t.Errorf("%s has capabilities", other)
		}
	}
	// The mounted files exist, and the volumes are declared.
	_, err := os.Stat("../dashboards")
	dashboards := err == nil
	mounts := 0
	for name, service := range at(t, doc, "services").(map[string]any) {
		for _, v := range at(t, service, "volumes").([]any) {
			source, _, _ := strings.Cut(v.(string), ":")
			mounts++
			if !strings.HasPrefix(source, ".") {
				if _, ok := at(t, doc, "volumes").(map[string]any)[source]; !ok {
					t.Errorf("%s: no volume %s", name, source)
				}
				continue
			}
			path := filepath.Join("container", source)
			if _, err := os.Stat(path); err != nil && (dashboards || !strings.HasPrefix(path, "../dashboards/")) {
				t.Errorf("%s mounts %s: %v", name, source, err)
			}
		}
	}
	if mounts != 7 {
		t.Errorf("%d mounts", mounts)
	}
	build := at(t, doc, "services", "fsban", "build").(map[string]any)
	if got := filepath.Join("container", build["context"].(string), build["dockerfile"].(string)); got != "../packaging/container/Containerfile" {
		t.Errorf("the image is made of %s", got)
	}
}

func TestThePodGivesTheLeastRights(t *testing.T) {
	t.Parallel()
	docs := documents(t, "container/kubernetes.yaml")
	if len(docs) != 2 {
		t.Fatalf("%d documents", len(docs))
	}
	text := at(t, docs[0], "data", "config.yaml").(string)
	cfg, err := config.Parse("config.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if cfg.HTTP.Listen != ":9738" || cfg.Control != config.Default().Control || cfg.State != config.Default().State {
		t.Errorf("%+v", cfg)
	}
	sidecar := []string{"spec", "containers", "fsban"}
	for key, want := range map[string]string{
		"runAsUser": "0", "allowPrivilegeEscalation": "false", "readOnlyRootFilesystem": "true", "seccompProfile": "{type: RuntimeDefault}",
		"capabilities": "{add: [NET_ADMIN, NET_RAW], drop: [ALL]}",
	} {
		same(t, docs[1], want, append(sidecar, "securityContext", key)...)
	}
	same(t, docs[1], "{command: [/usr/bin/fsban, status, --alive]}", append(sidecar, "livenessProbe", "exec")...)
	same(t, docs[1], "{command: [/usr/bin/fsban, status]}", append(sidecar, "readinessProbe", "exec")...)
	spec := at(t, docs[1], "spec").(map[string]any)
	if spec["automountServiceAccountToken"] != false || spec["hostNetwork"] != nil || spec["shareProcessNamespace"] != nil || spec["hostPID"] != nil {
		t.Errorf("%v", spec)
	}
	// Each mount has its volume, and fsban's state directory is one.
	var paths []string
	for _, m := range at(t, docs[1], append(sidecar, "volumeMounts")...).([]any) {
		mount := m.(map[string]any)
		at(t, docs[1], "spec", "volumes", mount["name"].(string))
		paths = append(paths, mount["mountPath"].(string))
	}
	for _, want := range []string{"/etc/fsban/config.yaml", cfg.State.Directory, filepath.Dir(cfg.Control.Socket), "/etc/fsban/secret"} {
		if !slices.Contains(paths, want) {
			t.Errorf("nothing is mounted at %s", want)
		}
	}
}
