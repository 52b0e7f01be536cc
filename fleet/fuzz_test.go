package fleet

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"fsban/fleet/merge"
	"fsban/fleet/resp"
)

// FuzzReplies lets a server reply to each command with the next line block of the input. Each exchange must end without a
// panic, and statements must be within their bounds.
func FuzzReplies(f *testing.F) {
	good := func(parts ...string) string { return strings.Join(parts, "\x00") }
	now := strconv.FormatInt(time.Now().UnixMicro(), 10)
	head := "*4\r\n$1\r\ne\r\n$1\r\n1\r\n:" + now + "\r\n:1\r\n"
	ban := merge.Statement{Kind: merge.Ban, Prefix: prefix("203.0.113.1/32"), Stamp: time.Now().UnixMicro(), Node: "b", Rule: "auth"}
	text, err := encode(&ban, 0)
	if err != nil {
		f.Fatal(err)
	}
	state := "*3\r\n$1\r\n0\r\n:0\r\n" + array("203.0.113.1/32", text)
	log := "*1\r\n*2\r\n$1\r\nk\r\n*1\r\n*2\r\n$3\r\n1-0\r\n" + array("n", "b", "i", "x", "c", "1", "d", "b 203.0.113.1/32 "+text)
	f.Add(good(head, head, state, state, state, log, head, head, array("b", "1", `{"name":"b"}`)))
	f.Add(good(head, head, state, "*3\r\n$1\r\n5\r\n:-1\r\n*-1\r\n", state, state, "*9000000000\r\n", "*1\r\n"+array("1-0", "b", "x", "2", "g")))
	f.Add(good("-NOSCRIPT no\r\n", head, "-MOVED 1 x:1\r\n", "$-1\r\n"))
	f.Fuzz(func(t *testing.T, input string) {
		replies := strings.Split(input, "\x00")
		fleet := New(Options{
			Addrs: []string{"127.0.0.1:1"}, Name: "fuzz", Node: "node",
			Take: func(_ context.Context, b merge.Batch) error {
				for i := range b.Statements {
					s := &b.Statements[i]
					if !s.Prefix.IsValid() || s.Prefix.Bits() == 0 || len(s.By) > maxText || len(s.Reason) > maxText || len(s.Earlier) > maxTimes ||
						time.Until(s.Until) > maxEnd+time.Minute || s.Stamp > time.Now().Add(maxSkew+maxAhead+time.Minute).UnixMicro() {
						t.Errorf("%+v", s)
					}
				}
				return nil
			},
			Current: func(_ context.Context, yield func(merge.Statement)) error { yield(ban); return nil },
			Self:    func() Node { return Node{} },
		})
		fleet.clients.Load().close()
		next := func() (text string) {
			if len(replies) == 0 {
				return ""
			}
			text, replies = replies[0], replies[1:]
			return text
		}
		fleet.clients.Store(&clients{in: pipe(next), out: pipe(next)})
		defer fleet.clients.Load().close()
		for _, exchange := range []func(context.Context) error{
			fleet.meet, fleet.sync,
			func(ctx context.Context) error {
				list, err := fleet.next(ctx)
				return errors.Join(err, fleet.entries(ctx, list))
			},
			fleet.beat,
			func(ctx context.Context) error { return fleet.say(ctx, []merge.Statement{ban}) },
			func(ctx context.Context) error { _, err := fleet.Nodes(ctx); return err },
		} {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond) // of incomplete replies
			err := contained(func() error { return exchange(ctx) })
			cancel()
			if errors.Is(err, errPanic) {
				t.Fatal(err)
			}
			if err := explain(err); err != nil && len(err.Error()) > 400 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
			_ = replaced(err)
			_ = fleet.Status()
		}
	})
}

// pipe returns a client of a server in this process. next returns its replies, an empty one ends the connection.
func pipe(next func() string) *redis.Client {
	return redis.NewClient(options(func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			defer func() { _ = far.Close() }()
			r := bufio.NewReader(far)
			for {
				command, err := readCommand(r)
				if err != nil {
					return
				}
				text := unknown
				if command[0] != "hello" {
					text = next()
				}
				if _, err := io.WriteString(far, text); err != nil || text == "" {
					return
				}
			}
		}()
		return resp.NewConn(near, limits), nil
	}))
}
