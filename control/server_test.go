package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// childEnv makes this program ask a daemon, as the user that it was started as.
const childEnv = "FSBAN_CONTROL_TEST_SOCKET"

func TestMain(m *testing.M) {
	if path := os.Getenv(childEnv); path != "" {
		fmt.Print(asks(context.Background(), path))
		return
	}
	goleak.VerifyTestMain(m)
}

// asks sends a reading and a changing request, and returns their results.
func asks(ctx context.Context, path string) string {
	c := NewClient(path)
	defer c.Close()
	_, look := c.Status(ctx)
	b, change := c.Unban(ctx, netip.MustParsePrefix("192.0.2.7/32"))
	return fmt.Sprintf("look: %v\nchange: %v, by %s\n", look, change, b.By)
}

// fake is a daemon that answers with the name of the peer.
type fake struct {
	daemon
	wait chan struct{} // Status waits for it, if it is there
}

func (f *fake) Status(context.Context) (Status, error) {
	if f.wait != nil {
		<-f.wait
	}
	return Status{Version: "1.0.0"}, nil
}

func (*fake) Unban(_ context.Context, p netip.Prefix, _ Withdrawal, by string) (Ban, error) {
	return Ban{Prefix: p, By: by}, nil
}

func (*fake) Reload(_ context.Context, by string) (Reload, error) {
	if by == "" {
		return Reload{}, errors.New("nobody")
	}
	return Reload{}, &ConfigError{"config.yaml: line 1: wrong"}
}

// serve runs a Server for the length of the test.
func serve(t *testing.T, d daemon, set func(*Server)) (*Server, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "fsban") // t.TempDir is too long for a socket, and closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := NewServer(filepath.Join(dir, "s"), "1.4.0", d, slog.New(slog.DiscardHandler))
	l, err := s.Listen()
	if err != nil {
		t.Fatal(err)
	}
	if set != nil {
		set(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Serve: %v", err)
		}
	})
	return s, s.path
}

// nameOf returns the name of a group that is not root's.
func nameOf(t *testing.T, gid int) string {
	t.Helper()
	g, err := user.LookupGroupId(strconv.Itoa(gid))
	if err != nil {
		t.Fatal(err)
	}
	return g.Name
}

// somebody asks the daemon at path as an unprivileged user with a primary group gid and other groups. Without root's rights that is
// this process itself.
func somebody(t *testing.T, path string, gid int, groups ...int) string {
	t.Helper()
	if os.Geteuid() != 0 {
		return asks(t.Context(), path)
	}
	// go test keeps its programs where nobody else can get at them.
	program := filepath.Join(filepath.Dir(path), "asks")
	data, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, data, 0o755); err != nil { //nolint:gosec // to be run by others
		t.Fatal(err)
	}
	cmd := exec.Command(program)
	cmd.Env, cmd.Dir = append(os.Environ(), childEnv+"="+path), "/"
	cred := &syscall.Credential{Uid: 4711, Gid: uint32(gid)}
	for _, g := range groups {
		cred.Groups = append(cred.Groups, uint32(g))
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

func TestGroupsGrantReadingAndChanging(t *testing.T) {
	// Groups that every system has. Without root's rights there is one group that this process is in.
	first, second := 1, 2
	who := "uid 4711"
	if os.Geteuid() != 0 {
		first, second = os.Getgid(), os.Getgid()
		who = (&peer{uid: uint32(os.Geteuid())}).String()
	}
	one, two := nameOf(t, first), nameOf(t, second)
	many := []int{second}
	for g := 5000; g < 5100; g++ { // more than the kernel is first asked for
		many = append(many, g)
	}
	may := "look: <nil>\nchange: <nil>, by " + who + "\n"
	looks := "look: <nil>\nchange: " + who + " may look and not change anything: use sudo"
	for _, tc := range []struct {
		name            string
		readers, admins string
		gid             int
		groups          []int
		want            string
		root            bool // it needs two users
	}{
		{"an admin by his own group", "", one, first, nil, may, false},
		{"a reader by his own group", one, "", first, nil, looks + ", by \n", false},
		{"a reader where there are admins", one, two, first, nil, looks + ", or be in the group " + two + ", by \n", true},
		{"an admin by another group", "", two, first, many, may, true},
		{"a reader by another group", two, "", first, many, looks + ", by \n", true},
		{"a member of both", one, one, first, nil, may, false},
		{"a stranger", one, two, 4712, []int{5000}, "look: uid 4711 may not talk to fsban: use sudo, or be in the group " + two + ", or be in the group " + one + " to look\n" +
			"change: uid 4711 may not talk to fsban: use sudo, or be in the group " + two + ", or be in the group " + one + " to look, by \n", true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.root && os.Geteuid() != 0 {
				return // the other lines need no root
			}
			s, path := serve(t, new(fake), func(s *Server) {
				s.access.Store(&access{self: 0})
				if p := s.SetGroups(tc.readers, tc.admins); p != nil {
					t.Errorf("problems %q", p)
				}
			})
			if got := somebody(t, path, tc.gid, tc.groups...); got != tc.want {
				t.Errorf("%s\nwant %s", got, tc.want)
			}
			readers, admins, refused := s.Requests()
			if n := readers + admins + refused; n != 2 || (refused > 0) == strings.Contains(tc.want, "change: <nil>") {
				t.Errorf("%d requests of readers, %d of admins, %d refused", readers, admins, refused)
			}
		})
	}
}

func TestOurOwnUserMayDoEverything(t *testing.T) {
	_, path := serve(t, new(fake), nil)
	own := peer{uid: uint32(os.Geteuid())}
	if got, want := asks(t.Context(), path), "look: <nil>\nchange: <nil>, by "+own.String()+"\n"; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}

// A peer without credentials is a stranger.
func TestAnUnknownPeerIsAStranger(t *testing.T) {
	s := NewServer("/nowhere", "1.4.0", new(fake), slog.New(slog.DiscardHandler))
	w := httptest.NewRecorder()
	s.handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, pathStatus, http.NoBody))
	if w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), "may not talk to fsban: use sudo") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestTheSocketIsOpenToOthersOnlyWithAGroup(t *testing.T) {
	s, path := serve(t, new(fake), nil)
	group := nameOf(t, os.Getgid())
	for _, step := range []struct {
		readers, admins string
		mode            os.FileMode
		problems        string
	}{
		{"", "", 0o600, "[]"},
		{group, "", 0o666, "[]"},
		{"", group, 0o666, "[]"},
		{"nosuchgroup", "", 0o600, "[control.readers: there is no group nosuchgroup: make it (groupadd) and then say fsban reload, or set it to \"\"]"},
		{group, "nosuchgroup", 0o666, "[control.admins: there is no group nosuchgroup: make it (groupadd) and then say fsban reload, or set it to \"\"]"},
	} {
		if p := fmt.Sprint(s.SetGroups(step.readers, step.admins)); p != step.problems {
			t.Errorf("problems %s, want %s", p, step.problems)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != step.mode {
			t.Errorf("%q and %q: mode %v, %v", step.readers, step.admins, info.Mode(), err)
		}
	}
	if err := os.Chmod(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if p := s.SetGroups(group, ""); len(p) != 1 || !strings.Contains(p[0], "not everybody can get into "+filepath.Dir(path)) {
		t.Errorf("in a closed directory: %q", p)
	}
}

func TestADeadSocketIsReplacedAndALiveOneIsNot(t *testing.T) {
	dir, err := os.MkdirTemp("", "fsban")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	s := NewServer(filepath.Join(dir, "run", "s"), "1.4.0", nil, slog.New(slog.DiscardHandler))
	l, err := s.Listen()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Listen(); err == nil || !strings.Contains(err.Error(), "another fsban is running") {
		t.Errorf("a second listener: %v", err)
	}
	// The socket of a killed daemon is replaced.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if l, err = s.Listen(); err != nil {
		t.Fatalf("over a dead socket: %v", err)
	}
	_ = l.Close()
}

func TestConnectionsAreBoundedAndCounted(t *testing.T) {
	d := &fake{wait: make(chan struct{})}
	s, path := serve(t, d, nil)
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for range places[admin] {
		wg.Go(func() {
			c := NewClient(path)
			defer c.Close()
			if _, err := c.Status(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	for s.requests[admin].Load() < uint64(places[admin]) {
		if ctx.Err() != nil {
			t.Fatal("not all were let in")
		}
		time.Sleep(time.Millisecond)
	}
	c := NewClient(path)
	defer c.Close()
	if _, err := c.Status(ctx); err == nil || s.Dropped() == 0 {
		t.Errorf("one more: %v, %d dropped", err, s.Dropped())
	}
	close(d.wait)
	wg.Wait()
	for { // their places are free again
		_, err := c.Status(ctx)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestStrangersAreAnsweredOnlySoOften(t *testing.T) {
	g := &gate{}
	now := time.Now()
	enter := func(is role, at time.Duration) bool { return g.enter(is, now.Add(at)) }
	let := 0
	for range 100 {
		if enter(stranger, 0) {
			let++
			g.leave(stranger)
		}
	}
	if let != strangersPerSecond || !enter(admin, 0) || !enter(reader, 0) {
		t.Errorf("%d strangers in a moment", let)
	}
	for range places[stranger] {
		if !enter(stranger, time.Second) {
			t.Error("no more a second later")
		}
	}
	if enter(stranger, 2*time.Second) {
		t.Error("more at once than there are places")
	}
	if !enter(admin, 2*time.Second) {
		t.Error("strangers took the place of an admin")
	}
}

func TestAnInvalidConfigurationHasAnErrorOfItsOwn(t *testing.T) {
	_, path := serve(t, new(fake), nil)
	c := NewClient(path)
	defer c.Close()
	var wrong *ConfigError
	if _, err := c.Reload(t.Context()); !errors.As(err, &wrong) || wrong.Text != "config.yaml: line 1: wrong" {
		t.Errorf("%v", err)
	}
}

// request asks the server at path, as a client of that version would, and returns the status and the body.
func request(t *testing.T, path, version, api, method, url, body string) (int, string) {
	t.Helper()
	c := NewClient(path)
	defer c.Close()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://fsban"+url, bytes.NewBufferString(body))
	if err != nil {
		t.Fatal(err)
	}
	if version != "" {
		req.Header.Set(headerVersion, version)
		req.Header.Set(headerAPI, api)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.Header.Get(headerVersion) != "1.4.0" || resp.Header.Get(headerAPI) != "1" {
		t.Errorf("the daemon does not say who it is: %v", resp.Header)
	}
	return resp.StatusCode, string(text)
}

func TestADaemonNamesTheSideToUpgrade(t *testing.T) {
	_, path := serve(t, new(fake), nil)
	for _, tc := range []struct {
		name, version, api, method, url, body string
		code                                  int
		want                                  string
	}{
		{"a newer command", "1.10.0", "1", "GET", "/v1/new", "", 404,
			`the daemon, fsban 1.4.0, does not know GET \"/v1/new\", which the command, fsban 1.10.0, asks for: upgrade the daemon, and restart it: systemctl restart fsban`},
		{"an older command", "v1.3.9-12-gabc", "1", "GET", "/v1/old", "", 404,
			`does not know GET \"/v1/old\", which the command, fsban v1.3.9-12-gabc, asks for: upgrade the command`},
		{"one of another API", "dev", "2", "GET", "/v2/status", "", 404, `fsban dev, asks for: upgrade the daemon`},
		{"one of an API that is gone", "9.0.0", "0", "GET", "/v0/status", "", 404, `fsban 9.0.0, asks for: upgrade the command`},
		{"another method", "1.5.0", "1", "PUT", "/v1/bans", "", 404, `does not know PUT \"/v1/bans\", which`},
		{"no command of ours", "", "", "GET", "/", "", 404, `the daemon, fsban 1.4.0, does not know GET \"/\": GET /v1/schema says what it knows`},
		{"a wish that it does not know", "1.5.0", "1", "POST", "/v1/bans", `{"prefix":"192.0.2.7/32","port":5060}`, 409,
			`the daemon, fsban 1.4.0, does not know field \"port\", which the command, fsban 1.5.0, asks for: upgrade the daemon`},
	} {
		code, text := request(t, path, tc.version, tc.api, tc.method, tc.url, tc.body)
		if code != tc.code || !strings.Contains(text, tc.want) {
			t.Errorf("%s: %d %s\nwant %d %s", tc.name, code, text, tc.code, tc.want)
		}
	}
}

// A command meets a daemon of another version, as it would answer.
func TestACommandNamesTheSideToUpgrade(t *testing.T) {
	for _, tc := range []struct {
		name         string
		version, api string // the daemon's headers
		code         int
		body, want   string
	}{
		{"an early one", "", "", 404, "404 page not found\n",
			"the daemon, fsban of an early version, does not know GET /v1/status, which the command, fsban 1.4.0, asks for: upgrade the daemon, and restart it: systemctl restart fsban (404 Not Found)"},
		{"a newer one whose answer is no JSON", "3.0.0", "2", 404, "gone", "fsban 1.4.0, asks for: upgrade the command (404 Not Found)"},
		{"an answer with more in it", "1.9.0", "1", 200, `{"version":"1.9.0","moon":{"phase":3}}`, "1.9.0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "fsban")
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = os.RemoveAll(dir) }()
			l, err := net.Listen("unix", filepath.Join(dir, "s"))
			if err != nil {
				t.Fatal(err)
			}
			asked := make(chan http.Header, 1)
			srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked <- r.Header
				if tc.version != "" {
					w.Header().Set(headerVersion, tc.version)
					w.Header().Set(headerAPI, tc.api)
				}
				w.WriteHeader(tc.code)
				_, _ = io.WriteString(w, tc.body)
			})}
			done := make(chan struct{})
			go func() { defer close(done); _ = srv.Serve(l) }()
			defer func() { _ = srv.Close(); <-done }()
			c := NewClient(filepath.Join(dir, "s"))
			defer c.Close()
			c.Version = "1.4.0"
			s, err := c.Status(t.Context())
			got := s.Version
			if err != nil {
				got = err.Error()
			}
			if !strings.HasSuffix(got, tc.want) {
				t.Errorf("%s\nwant %s", got, tc.want)
			}
			if h := <-asked; h.Get(headerVersion) != "1.4.0" || h.Get(headerAPI) != "1" {
				t.Errorf("the command does not say who it is: %v", h)
			}
		})
	}
}

// At the socket's place, anything but a dead socket of fsban stays as it is.
func TestOnlyADeadSocketIsReplaced(t *testing.T) {
	dir, err := os.MkdirTemp("", "fsban") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	file, link, busy := filepath.Join(dir, "file"), filepath.Join(dir, "link"), filepath.Join(dir, "busy")
	if err := errors.Join(os.WriteFile(file, []byte("mine"), 0o600), os.Symlink(file, link)); err != nil {
		t.Fatal(err)
	}
	// Somebody listens, and his queue is full.
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		t.Cleanup(func() { _ = syscall.Close(fd) })
		err = errors.Join(syscall.Bind(fd, &syscall.SockaddrUnix{Name: busy}), syscall.Listen(fd, 0))
	}
	if err != nil {
		t.Fatal(err)
	}
	waiting, err := net.Dial("unix", busy)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = waiting.Close() }()
	for path, want := range map[string]string{file: "is there, and is no socket", link: "is there, and is no socket", busy: "another fsban is running"} {
		before, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		l, err := NewServer(path, "1.0.0", &fake{}, slog.New(slog.DiscardHandler)).Listen()
		if err == nil {
			_ = l.Close()
		}
		after, statErr := os.Lstat(path)
		if err == nil || !strings.Contains(err.Error(), want) || statErr != nil || !os.SameFile(before, after) {
			t.Errorf("%s: %v, want %s (%v)", filepath.Base(path), err, want, statErr)
		}
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "mine" {
		t.Errorf("the file has %q (%v)", text, err)
	}
}
