package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"fsban/config"
	"fsban/control"
	"fsban/firewall"
	"fsban/internal/fakeswitch"
	"fsban/internal/redisserver"
	"fsban/internal/testenv"
)

func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"fsban": mainInMemory}) }

// mainInMemory is main, except that firewall.backend auto bans in memory. Other backends are refused: the scripts run in the
// host's network namespace.
func mainInMemory() {
	adjust = func(c *config.Config) {
		switch c.Firewall.Backend {
		case config.BackendAuto:
			c.Firewall.Backend = firewall.None
		case firewall.None, "": // "": the file is wrong
		default:
			fmt.Fprintf(os.Stderr, "firewall.backend %s would change the host's firewall: scripts leave the setting out\n", c.Firewall.Backend)
			os.Exit(125)
		}
	}
	main()
}

// Each script of testdata/script shows one behavior of the command line.
func TestScripts(t *testing.T) {
	recordings, err := filepath.Abs("../../internal/captures/sip")
	if err != nil {
		t.Fatal(err)
	}
	configs, err := filepath.Abs("../../config/testdata")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: *update,
		Setup: func(e *testscript.Env) error {
			// A socket's path is short.
			dir, err := os.MkdirTemp("", "fsban")
			e.Defer(func() { _ = os.RemoveAll(dir) })
			e.Setenv("DIR", dir)
			e.Setenv("TZ", "UTC")
			e.Setenv("SIP", recordings)
			e.Setenv("CONFIGS", configs)
			return err
		},
		Cmds: scriptCommands,
	})
}

// scriptCommands are the commands of the scripts in addition to fsban and those of testscript:
//
//	freeswitch              start a FreeSWITCH; its event socket is $FREESWITCH
//	redis                   start a Redis; its address is $REDIS
//	replies FIXTURE         give it the replies of a fixture of package doctor
//	wrong ADDRESS N         N wrong passwords from ADDRESS
//	ready SOCKET            wait until the daemon at SOCKET protects
//	answers SOCKET          wait until a daemon answers there
//	bans SOCKET N           wait until it holds N bans
//	ended SOCKET CAUSE N    wait until its history holds N bans that ended for CAUSE
//	counted SOCKET KIND N   wait until it has counted N attempts of KIND
//	rule SOCKET NAME N      wait until its rule NAME bans on attempt N
//	listening EVENT...      wait until a client has subscribed to them
//	custom SUBCLASS K=V...  a CUSTOM event
//	ctiline ADDRESS USER    mod_cti's line on the log stream
//	ends HOW                end all connections to the event socket
//	appears FILE TEXT       wait until the file contains the text
//	hangup                  send SIGHUP to the programs in the background
var scriptCommands = map[string]func(*testscript.TestScript, bool, []string){
	"freeswitch": startFreeSWITCH,
	"redis": func(ts *testscript.TestScript, _ bool, _ []string) {
		ts.Setenv("REDIS", "redis://"+redisserver.Start(forScript{ts}).Addr())
	},
	"replies": setReplies,
	"wrong": func(ts *testscript.TestScript, _ bool, args []string) {
		n, err := strconv.Atoi(args[1])
		ts.Check(err)
		for range n {
			switchOf(ts).Emit(fakeswitch.WrongPassword, fakeswitch.Caller{Addr: netip.MustParseAddr(args[0]), User: "1000"}, time.Now())
		}
	},
	"ready": func(ts *testscript.TestScript, _ bool, args []string) {
		wait(ts, args[0], "ready", func(c *control.Client) bool {
			s, err := c.Status(context.Background())
			return err == nil && s.Ready
		})
	},
	"answers": func(ts *testscript.TestScript, _ bool, args []string) {
		wait(ts, args[0], "an answer", func(c *control.Client) bool {
			_, err := c.Status(context.Background())
			return err == nil
		})
	},
	"listening": func(ts *testscript.TestScript, _ bool, args []string) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		ts.Check(switchOf(ts).WaitSubscribed(ctx, args...))
	},
	"custom": func(ts *testscript.TestScript, _ bool, args []string) {
		var headers [][2]string
		for _, a := range args[1:] {
			name, value, _ := strings.Cut(a, "=")
			headers = append(headers, [2]string{name, value})
		}
		switchOf(ts).EmitCustom(args[0], time.Now(), headers...)
	},
	"ctiline": func(ts *testscript.TestScript, _ bool, args []string) {
		switchOf(ts).Emit(fakeswitch.CTILine, fakeswitch.Caller{Addr: netip.MustParseAddr(args[0]), User: args[1]}, time.Now())
	},
	"ends": func(ts *testscript.TestScript, _ bool, args []string) {
		switchOf(ts).End(fakeswitch.Ending(args[0]))
	},
	"appears": func(ts *testscript.TestScript, _ bool, args []string) {
		for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
			data, _ := os.ReadFile(ts.MkAbs(args[0])) // it may not exist yet
			if strings.Contains(string(data), args[1]) {
				return
			}
			if time.Now().After(deadline) {
				ts.Fatalf("%s never contained %q, but %q", args[0], args[1], data)
			}
		}
	},
	"hangup": func(ts *testscript.TestScript, _ bool, _ []string) {
		for _, cmd := range ts.BackgroundCmds() {
			ts.Check(cmd.Process.Signal(syscall.SIGHUP))
		}
	},
	"counted": func(ts *testscript.TestScript, _ bool, args []string) {
		wait(ts, args[0], args[2]+" of "+args[1], func(c *control.Client) bool {
			s, err := c.Status(context.Background())
			return err == nil && strconv.FormatUint(s.Attempts[args[1]], 10) == args[2]
		})
	},
	"rule": func(ts *testscript.TestScript, _ bool, args []string) {
		wait(ts, args[0], "rule "+args[1], func(c *control.Client) bool {
			s, err := c.Status(context.Background())
			return err == nil && slices.ContainsFunc(s.Policy.Rules, func(r control.Rule) bool {
				return r.Name == args[1] && strconv.Itoa(r.MaxRetry) == args[2]
			})
		})
	},
	"ended": func(ts *testscript.TestScript, _ bool, args []string) {
		wait(ts, args[0], args[2]+" bans that ended for "+args[1], func(c *control.Client) bool {
			list, err := c.History(context.Background(), control.HistoryPick{Causes: args[1:2]})
			return err == nil && strconv.Itoa(len(list)) == args[2]
		})
	},
	"bans": func(ts *testscript.TestScript, _ bool, args []string) {
		wait(ts, args[0], args[1]+" bans", func(c *control.Client) bool {
			b, err := c.Bans(context.Background(), control.Pick{})
			return err == nil && strconv.Itoa(len(b)) == args[1]
		})
	},
}

// forScript is a script as other test helpers want it.
type forScript struct{ *testscript.TestScript }

func (forScript) Helper()            {}
func (s forScript) Cleanup(f func()) { s.Defer(f) }

// Skipf fails the script: a system test begins with [short] skip.
func (s forScript) Skipf(format string, args ...any) { s.Fatalf(format, args...) }

func startFreeSWITCH(ts *testscript.TestScript, _ bool, _ []string) {
	fs := fakeswitch.New(fakeswitch.Options{})
	ts.Check(fs.Listen(testenv.Address(forScript{ts})))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = fs.Serve(ctx)
	}()
	ts.Defer(func() {
		cancel()
		<-done
	})
	ts.Setenv("FREESWITCH", fs.Addr())
	switches.Store(fs.Addr(), fs)
}

// switches are the FreeSWITCHes of the scripts, by address. Scripts run side by side.
var switches sync.Map

func switchOf(ts *testscript.TestScript) *fakeswitch.Switch {
	fs, ok := switches.Load(ts.Getenv("FREESWITCH"))
	if !ok {
		ts.Fatalf("say freeswitch first")
	}
	return fs.(*fakeswitch.Switch) //nolint:forcetypeassert // nothing else is in it
}

// patience is how long a test waits for a condition, on however busy a machine.
const patience = 2 * time.Minute

// wait polls the daemon behind socket until ok, at most patience.
func wait(ts *testscript.TestScript, socket, condition string, ok func(*control.Client) bool) {
	client := control.NewClient(socket)
	defer client.Close()
	for deadline := time.Now().Add(patience); !ok(client); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			ts.Fatalf("never came true: %s", condition)
		}
	}
}
