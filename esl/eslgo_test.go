package esl_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/percipia/eslgo"
	"github.com/percipia/eslgo/command"

	"fsban/esl"
	"fsban/internal/fakeswitch"
)

// Package command of github.com/percipia/eslgo builds our commands; its connection is not used, for the reasons that these
// tests show: each reads the same bytes with eslgo and with a Client. A test that fails because eslgo has improved is a reason
// to reconsider. eslgo runs in a separate process, because some of its failures end the process and none can be cleaned up.

const (
	scenarioEnv = "FSBAN_TEST_ESLGO"
	addressEnv  = "FSBAN_TEST_ADDRESS"
)

// scenarios lists the programs of such a process, which print their observations to standard output.
var scenarios = map[string]func(addr string){
	"dial":  dialScenario,
	"order": orderScenario,
	"odd":   oddScenario,
}

// eslgoProcess starts a scenario.
func eslgoProcess(t *testing.T, scenario, addr string) (cmd *exec.Cmd, output *bytes.Buffer) {
	t.Helper()
	output = new(bytes.Buffer)
	cmd = exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), scenarioEnv+"="+scenario, addressEnv+"="+addr)
	cmd.Env = append(cmd.Env, "GORACE=report_bugs=0 atexit_sleep_ms=0") // its data races are not under test
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, output
}

func dialScenario(addr string) {
	conn, err := eslgo.Dial(addr, "ClueCon", nil)
	fmt.Println("dialled:", conn, err)
}

func TestESLGoDialHangsWhenTheAddressIsDenied(t *testing.T) {
	deny := func(conn net.Conn) {
		_, _ = io.WriteString(conn, "Content-Type: text/rude-rejection\nContent-Length: 24\n\nAccess Denied, go away.\n")
	}
	denied := make(chan struct{})
	cmd, output := eslgoProcess(t, "dial", serve(t, func(conn net.Conn) {
		deny(conn)
		conn.Close()
		close(denied)
	}))
	<-denied
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	select {
	case <-exited: // without cgo the runtime detects that nothing can ever wake Dial
		if !strings.Contains(output.String(), "all goroutines are asleep") {
			t.Errorf("eslgo: %s", output)
		}
	case <-time.After(500 * time.Millisecond):
		_ = cmd.Process.Kill()
		<-exited
	}

	_, states := start(t, serve(t, deny), esl.Options{})
	if state := <-states; state.Err == nil || state.Err.Reason != esl.ReasonAddress {
		t.Errorf("Client: %v", state.Err)
	}
}

const orderEvents = 20000

func orderScenario(addr string) {
	conn, err := eslgo.InboundOptions{Options: eslgo.Options{Context: context.Background()}, Network: "tcp", Password: "ClueCon", AuthTimeout: time.Minute}.Dial(addr)
	if err != nil {
		fmt.Println(err)
		return
	}
	order := order{all: make(chan struct{})}
	conn.RegisterEventListener(eslgo.EventListenAll, func(ev *eslgo.Event) { order.add(ev.GetHeader("Event-Date-Timestamp")) })
	_, _ = conn.SendCommand(context.Background(), command.Event{Format: "plain", Listen: []string{"ALL"}})
	<-order.all
	fmt.Println(order.inversions)
}

// An order counts events that arrive before their predecessor.
type order struct {
	mu         sync.Mutex
	seen       int
	last       int
	inversions int
	all        chan struct{} // closed when all have arrived
}

func (o *order) add(stamp string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	n, _ := strconv.Atoi(stamp)
	if n < o.last {
		o.inversions++
	}
	o.last = n
	if o.seen++; o.seen == orderEvents {
		close(o.all)
	}
}

func TestESLGoDeliversEventsOutOfOrder(t *testing.T) {
	var stream []byte
	for i := range orderEvents {
		at := time.UnixMicro(1795363922458042 + int64(i))
		stream = append(stream, fakeswitch.Frames(fakeswitch.NoAuth, fakeswitch.Caller{}, at)...)
	}
	handle := func(conn net.Conn) {
		greet(conn)
		_, _ = conn.Write(stream)
		_, _ = io.Copy(io.Discard, conn) // until the client disconnects
	}
	cmd, output := eslgoProcess(t, "order", serve(t, handle))
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	inversions, err := strconv.Atoi(strings.TrimSpace(output.String()))
	if err != nil || inversions == 0 {
		t.Errorf("eslgo: %s", output)
	}
	t.Logf("eslgo: %d of %d events came before the one they should come after", inversions, orderEvents)

	ours := order{all: make(chan struct{})}
	start(t, serve(t, handle), esl.Options{
		Events:  []string{"ALL"},
		Fields:  esl.NewFields("Event-Date-Timestamp"),
		OnEvent: func(ev *esl.Event) { ours.add(string(ev.Get(0))) },
	})
	<-ours.all
	if ours.inversions > 0 {
		t.Errorf("Client: %d inversions", ours.inversions)
	}
}

// A warning is logged through eslgo's Logger when it stops reading, which it does not report otherwise.
type warning chan struct{}

func (warning) Debug(string, ...any) {}

func (warning) Info(string, ...any) {}

func (warning) Error(string, ...any) {}

func (w warning) Warn(string, ...any) {
	select {
	case w <- struct{}{}:
	default:
	}
}

func oddScenario(addr string) {
	warned := make(warning, 1)
	opts := eslgo.InboundOptions{Options: eslgo.Options{Context: context.Background(), Logger: warned}, Network: "tcp", Password: "ClueCon", AuthTimeout: time.Minute}
	conn, err := opts.Dial(addr)
	if err != nil {
		fmt.Println(err)
		return
	}
	events := make(chan string, 10)
	conn.RegisterEventListener(eslgo.EventListenAll, func(ev *eslgo.Event) { events <- ev.GetHeader("Event-Name") })
	_, _ = conn.SendCommand(context.Background(), command.Event{Format: "plain", Listen: []string{"ALL"}})
	fmt.Println("event", <-events)
	<-warned
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	_, err = conn.SendCommand(ctx, command.API{Command: "status"})
	fmt.Println("api:", err)
	if len(events) > 0 {
		fmt.Println("event", <-events)
	}
}

func TestESLGoIsDeafAfterAFrameThatItDoesNotKnow(t *testing.T) {
	for name, odd := range map[string]string{
		"an unknown type": "Content-Type: text/new\nContent-Length: 1\n\nx",
		"a log line":      "Content-Type: log/data\nContent-Length: 1\nLog-Level: 4\n\nx",
		"one blank line":  "\n",
	} {
		t.Run(name, func(t *testing.T) {
			handle := func(conn net.Conn) {
				greet(conn)
				_, _ = io.WriteString(conn, eventFrame("FIRST")+odd+eventFrame("SECOND"))
				readCommand(conn)
				_, _ = io.WriteString(conn, "Content-Type: api/response\nContent-Length: 2\n\nup")
				_, _ = io.Copy(io.Discard, conn)
			}
			cmd, output := eslgoProcess(t, "odd", serve(t, handle))
			if err := cmd.Wait(); err != nil {
				t.Fatalf("%v: %s", err, output)
			}
			if got := output.String(); got != "event FIRST\napi: context deadline exceeded\n" {
				t.Errorf("eslgo: %s", got)
			}

			events := make(chan string, 10)
			client, _ := start(t, serve(t, handle), esl.Options{
				Events:  []string{"ALL"},
				OnEvent: func(ev *esl.Event) { events <- string(ev.Get(0)) },
			})
			if first, second := <-events, <-events; first != "FIRST" || second != "SECOND" {
				t.Errorf("Client: events %s and %s", first, second)
			}
			if reply, err := client.API(t.Context(), "status", ""); string(reply) != "up" {
				t.Errorf("Client: api %q, %v", reply, err)
			}
		})
	}
}

func TestESLGoPanicsOnANegativeLength(t *testing.T) {
	handle := func(conn net.Conn) {
		_, _ = io.WriteString(conn, "Content-Type: auth/request\nContent-Length: -1\n\n")
		_, _ = io.Copy(io.Discard, conn)
	}
	cmd, output := eslgoProcess(t, "dial", serve(t, handle))
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || !strings.Contains(output.String(), "panic: runtime error: makeslice: len out of range") {
		t.Errorf("eslgo: %v: %s", err, output)
	}

	_, states := start(t, serve(t, handle), esl.Options{})
	if state := <-states; state.Err == nil || state.Err.Reason != esl.ReasonProtocol {
		t.Errorf("Client: %v", state.Err)
	}
}
