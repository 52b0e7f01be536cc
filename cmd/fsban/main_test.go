package main

import (
	"context"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"fsban/control"
	"fsban/internal/fakeswitch"
	"fsban/internal/redisserver"
)

func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"fsban": main}) }

// Each script shows what a user sees. Beside fsban it may say:
//
//	freeswitch              start a FreeSWITCH; its event socket is $FREESWITCH
//	redis                   start a Redis; where it is is $REDIS
//	replies FIXTURE         have it answer as one of package doctor
//	wrong ADDRESS N         N wrong passwords from ADDRESS
//	ready SOCKET            wait until the daemon behind SOCKET protects
//	answers SOCKET          wait until somebody answers there
//	bans SOCKET N           wait until it holds N bans
//	counted SOCKET KIND N   wait until it has counted N attempts of KIND
//	rule SOCKET NAME N      wait until its rule NAME bans on attempt N
//	listening EVENT...      wait until somebody listens to them
//	custom SUBCLASS K=V...  a CUSTOM event
//	ctiline ADDRESS USER    mod_cti's line on the log stream
//	ends HOW                end all connections to the event socket
//	hangup                  send SIGHUP to what runs in the background
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: *update,
		Setup: func(e *testscript.Env) error {
			// A socket's path is short.
			dir, err := os.MkdirTemp("", "fsban")
			e.Defer(func() { _ = os.RemoveAll(dir) })
			e.Setenv("DIR", dir)
			e.Setenv("TZ", "UTC")
			return err
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
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
				ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
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
			"bans": func(ts *testscript.TestScript, _ bool, args []string) {
				wait(ts, args[0], args[1]+" bans", func(c *control.Client) bool {
					b, err := c.Bans(context.Background(), control.Pick{})
					return err == nil && strconv.Itoa(len(b)) == args[1]
				})
			},
		},
	})
}

// forScript is a script as other test helpers want it.
type forScript struct{ *testscript.TestScript }

func (forScript) Helper()            {}
func (s forScript) Cleanup(f func()) { s.Defer(f) }

func startFreeSWITCH(ts *testscript.TestScript, _ bool, _ []string) {
	fs := fakeswitch.New(fakeswitch.Options{})
	ts.Check(fs.Listen("127.0.0.1:0"))
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

func wait(ts *testscript.TestScript, socket, what string, ok func(*control.Client) bool) {
	client := control.NewClient(socket)
	defer client.Close()
	for deadline := time.Now().Add(30 * time.Second); !ok(client); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			ts.Fatalf("never came true: %s", what)
		}
	}
}
