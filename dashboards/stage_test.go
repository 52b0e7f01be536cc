//go:build linux

package dashboards_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"fsban/config"
	"fsban/daemon"
	"fsban/firewall"
	"fsban/internal/fakeswitch"
	"fsban/internal/netns"
)

// A stage is a test environment in namespaces of its own: several fsbans, each with a FreeSWITCH, scraped by a real Prometheus
// that sends alerts to a real Alertmanager.
type stage struct {
	t      *testing.T
	dir    string
	door   *net.UDPConn // FreeSWITCH's SIP port
	guards []*guard
	names  []string // of the guards, as instances; empty: their addresses, and one without a server
}

// A guard is an fsban and its FreeSWITCH.
type guard struct {
	fs     *fakeswitch.Switch
	hangUp context.CancelFunc // FreeSWITCH ends
	listen string             // of fsban's metrics
	cfg    config.Config
	log    *logBuffer
}

const (
	prometheusAddr   = "127.0.0.1:9090"
	alertmanagerAddr = "127.0.0.1:9093"
	silent           = "127.0.0.1:9738" // no fsban listens there
	switchAddr       = "192.0.2.10"
	patience         = 2 * time.Minute // the machine may be busy
)

// newStage assigns the addresses of the stage: 203.0.113.0/24 are strangers who send packets.
func newStage(t *testing.T) *stage {
	t.Helper()
	dir, err := os.MkdirTemp("", "fsban") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := netns.Assign(netip.MustParsePrefix(switchAddr+"/32"), netip.MustParsePrefix("203.0.113.254/24")); err != nil {
		t.Fatal(err)
	}
	door, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(switchAddr), Port: 5060})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = door.Close() })
	return &stage{t: t, dir: dir, door: door}
}

// guard starts an fsban and its FreeSWITCH.
func (s *stage) guard(change func(*config.Config)) *guard {
	s.t.Helper()
	n := len(s.guards)
	g := &guard{fs: fakeswitch.New(fakeswitch.Options{}), listen: fmt.Sprintf("127.0.0.1:%d", 19738+n), log: new(logBuffer)}
	s.guards = append(s.guards, g)
	if err := g.fs.Listen("127.0.0.1:0"); err != nil {
		s.t.Fatal(err)
	}
	var serving context.Context
	serving, g.hangUp = context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = g.fs.Serve(serving) })

	g.cfg = config.Default()
	g.cfg.FreeSWITCH.Address = g.fs.Addr()
	g.cfg.Firewall.Backend = firewall.None
	g.cfg.Firewall.Check = config.Duration(200 * time.Millisecond)
	g.cfg.State.Directory = filepath.Join(s.dir, strconv.Itoa(n))
	g.cfg.Control.Socket = filepath.Join(s.dir, strconv.Itoa(n)+".sock")
	g.cfg.HTTP.Listen = g.listen
	g.cfg.SIP.Tap = config.TapOff
	g.cfg.CTILog.Path = config.CTILogOff
	change(&g.cfg)
	if err := os.Mkdir(g.cfg.State.Directory, 0o700); err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	running.Go(func() {
		opts := daemon.Options{Log: slog.New(slog.NewTextHandler(g.log, &slog.HandlerOptions{Level: slog.LevelWarn})), Version: "v1.0.0", Revision: "0123abc"}
		if err := daemon.Run(ctx, g.cfg, opts); err != nil {
			s.t.Errorf("fsban at %s ended: %v", g.listen, err)
		}
	})
	s.t.Cleanup(func() {
		cancel()
		g.hangUp()
		running.Wait()
		if s.t.Failed() {
			s.t.Logf("log of fsban at %s:\n%.4000s", g.listen, g.log)
		}
	})
	return g
}

// happens makes FreeSWITCH report a situation a number of times.
func (g *guard) happens(times int, what fakeswitch.Situation, addr, user string) {
	for range times {
		g.fs.Emit(what, fakeswitch.Caller{Addr: netip.MustParseAddr(addr), Port: 5060, User: user, UserAgent: "softphone", Profile: "internal"}, time.Now())
	}
}

// run starts a program for the length of the test.
func (s *stage) run(name string, args ...string) {
	s.t.Helper()
	cmd := exec.Command(name, args...) //nolint:noctx // stopped in order below
	var out logBuffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.dir, &out, &out
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
		if s.t.Failed() {
			s.t.Logf("%s said:\n%.4000s", name, &out)
		}
	})
}

// watch starts Prometheus and Alertmanager. Each of rules is the text of a rules file.
func (s *stage) watch(rules ...string) {
	s.t.Helper()
	var targets, files []string
	for i, g := range s.guards {
		target := fmt.Sprintf("{targets: [%q]}", g.listen)
		if s.names != nil {
			target = fmt.Sprintf("{targets: [%q], labels: {instance: %q}}", g.listen, s.names[i])
		}
		targets = append(targets, target)
	}
	if s.names == nil {
		targets = append(targets, fmt.Sprintf("{targets: [%q]}", silent))
	}
	for i, text := range rules {
		name := fmt.Sprintf("%d.rules.yaml", i)
		files = append(files, name)
		s.write(name, text)
	}
	s.write("prometheus.yml", fmt.Sprintf(`
global: {scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}
rule_files: [%s]
alerting: {alertmanagers: [{static_configs: [{targets: [%q]}]}]}
scrape_configs: [{job_name: fsban, static_configs: [%s]}]
`, strings.Join(files, ", "), alertmanagerAddr, strings.Join(targets, ", ")))
	s.write("alertmanager.yml", "route: {receiver: nobody, group_wait: 0s}\nreceivers: [{name: nobody}]\n")
	s.run("prometheus-alertmanager", "--config.file=alertmanager.yml", "--storage.path=alertmanager", "--web.listen-address="+alertmanagerAddr, "--cluster.listen-address=", "--log.level=warn")
	s.run("prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=prometheus", "--web.listen-address="+prometheusAddr, "--log.level=warn")
}

func (s *stage) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// eventually waits until ok returns nil.
func (s *stage) eventually(what string, ok func() error) {
	s.t.Helper()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if err = ok(); err == nil {
			return
		}
	}
	s.t.Fatalf("timed out waiting until %s: %v", what, err)
}

// get fetches a page of one of the servers.
func (s *stage) get(address string) (string, error) {
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, address, http.NoBody)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", address, resp.Status, body)
	}
	return string(body), err
}

// A series is one result of a query: its values over time, or the last one.
type series struct {
	Metric map[string]string
	Values []point
	Value  point
}

type point [2]any

func (p point) number() float64 {
	s, _ := p[1].(string)
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		panic(fmt.Sprintf("%v is no number", p))
	}
	return f
}

// ask runs a query: now, or over the time since from.
func (s *stage) ask(expr string, from time.Time) ([]series, error) {
	values := url.Values{"query": {expr}}
	path := "query"
	if !from.IsZero() {
		path = "query_range"
		values.Set("start", strconv.FormatInt(from.Unix(), 10))
		values.Set("end", strconv.FormatInt(time.Now().Unix(), 10))
		values.Set("step", "1")
	}
	body, err := s.get("http://" + prometheusAddr + "/api/v1/" + path + "?" + values.Encode())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", expr, err)
	}
	var answer struct {
		Warnings []string
		Data     struct{ Result []series }
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", expr, err, body)
	}
	if len(answer.Warnings) > 0 {
		return nil, fmt.Errorf("%s: %q", expr, answer.Warnings)
	}
	return answer.Data.Result, nil
}

// value returns the single number that a query results in.
func (s *stage) value(expr string) (float64, error) {
	list, err := s.ask(expr, time.Time{})
	if err != nil {
		return 0, err
	}
	if len(list) != 1 {
		return 0, fmt.Errorf("%s: %d answers", expr, len(list))
	}
	return list[0].Value.number(), nil
}

// knock sends datagrams to FreeSWITCH's SIP port and returns the number that arrived.
func (s *stage) knock(from string, times int) (arrived int) {
	s.t.Helper()
	conn, err := net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(from)}, s.door.LocalAddr().(*net.UDPAddr))
	if err != nil {
		s.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	for range times {
		if _, err := conn.Write([]byte("REGISTER")); err != nil {
			s.t.Fatal(err)
		}
		// On loopback a datagram is at the listener, or dropped, before Write returns.
		_ = s.door.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		if _, err := s.door.Read(make([]byte, 100)); err == nil {
			arrived++
		}
	}
	return arrived
}

// logBuffer may be read while it is written.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
