package resp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/redis/go-redis/v9"
)

var small = Limits{Line: 20, String: 30, Reply: 100, Elements: 12, Depth: 3}

// scan returns the bytes that pass, in chunks of n bytes.
func scan(l Limits, text string, n int) (string, error) {
	s := NewScanner(l)
	var passed strings.Builder
	for i := 0; i < len(text); i += n {
		chunk := text[i:min(i+n, len(text))]
		k, err := s.Scan([]byte(chunk))
		passed.WriteString(chunk[:k])
		if err != nil {
			return passed.String(), err
		}
	}
	return passed.String(), nil
}

func TestRepliesWithinTheLimitsPass(t *testing.T) {
	for name, text := range map[string]string{
		"status":            "+OK\r\n",
		"empty status":      "+\r\n",
		"error":             "-ERR no\r\n",
		"integer":           ":-9223372036854775808\r\n",
		"carriage return":   "+a\rb\r\r\n",
		"string":            "$5\r\nhello\r\n",
		"empty string":      "$0\r\n\r\n",
		"string with CRLF":  "$6\r\na\r\nb\r\n\r\n",
		"longest string":    "$30\r\n" + strings.Repeat("x", 30) + "\r\n",
		"nil":               "$-1\r\n",
		"nil array":         "*-1\r\n",
		"empty array":       "*0\r\n",
		"array":             "*3\r\n:1\r\n$-1\r\n-ERR no\r\n",
		"deepest":           "*1\r\n*1\r\n*1\r\n:1\r\n",
		"empty, deepest":    "*1\r\n*1\r\n*1\r\n*0\r\n",
		"most elements":     "*2\r\n*5\r\n" + strings.Repeat(":1\r\n", 5) + "*5\r\n" + strings.Repeat(":1\r\n", 5),
		"the limits anew":   strings.Repeat("*12\r\n"+strings.Repeat("$2\r\nab\r\n", 12), 5),
		"incomplete":        "*2\r\n:1\r\n$30\r\nabc",
		"incomplete header": "*1",
	} {
		for _, n := range []int{1, 2, 3, 1000} {
			if got, err := scan(small, text, n); err != nil || got != text {
				t.Errorf("%s in chunks of %d: %q, %v", name, n, got, err)
			}
		}
	}
}

func TestOtherRepliesEndBeforeTheirHeaderIsComplete(t *testing.T) {
	for name, c := range map[string]struct {
		text, passed string
		want         error
	}{
		"elements":                    {"*13\r\n", "*13\r", ErrLimit},
		"elements in all":             {"*2\r\n*11\r\n", "*2\r\n*11\r", ErrLimit},
		"depth":                       {"*1\r\n*1\r\n*1\r\n*1\r\n", "*1\r\n*1\r\n*1\r\n*1\r", ErrLimit},
		"string":                      {"$31\r\n", "$31\r", ErrLimit},
		"bytes in all":                {"*4\r\n" + strings.Repeat("$30\r\n"+strings.Repeat("x", 30)+"\r\n", 4), "", ErrLimit},
		"endless status":              {"+" + strings.Repeat("x", 1000), "+" + strings.Repeat("x", 21), ErrLimit},
		"endless error":               {"-ERR " + strings.Repeat("x", 1000), "-ERR " + strings.Repeat("x", 17), ErrLimit},
		"lines in all":                {"*9\r\n" + strings.Repeat("+"+strings.Repeat("x", 19)+"\r\n", 9), "", ErrLimit},
		"length of 20 digits":         {"*9000000000000000000\r\n", "*9000000000", ErrLimit},
		"string of 20 digits":         {"$9000000000000000000\r\n", "$9000000000", ErrLimit},
		"a billion elements":          {"*1000000000\r\n", "*1000000000\r", ErrLimit},
		"four gigabytes":              {"$4000000000\r\nx", "$4000000000\r", ErrLimit},
		"overflow of 64 bits":         {"$18446744073709551617\r\n", "$1844674407", ErrLimit},
		"negative":                    {"*-5\r\n", "*-", ErrMalformed},
		"-1 and more":                 {"*-12\r\n", "*-1", ErrMalformed},
		"minus only":                  {"*-\r\n", "*-", ErrMalformed},
		"no length":                   {"*\r\n", "*", ErrMalformed},
		"leading zero":                {"$01\r\nx\r\n", "$0", ErrMalformed},
		"plus":                        {"$+1\r\nx\r\n", "$", ErrMalformed},
		"space":                       {"* 1\r\n", "*", ErrMalformed},
		"no carriage return":          {"*1\n", "*1", ErrMalformed},
		"no line feed":                {"*1\r:", "*1\r", ErrMalformed},
		"status, no carriage return":  {"+OK\n", "+OK", ErrMalformed},
		"longer than its length":      {"$1\r\nxy\r\n", "$1\r\nx", ErrMalformed},
		"carriage return only":        {"$1\r\nx\rx", "$1\r\nx\r", ErrMalformed},
		"inline text":                 {"hello\r\n", "", ErrMalformed},
		"a web server":                {"HTTP/1.1 400 Bad Request\r\n", "", ErrMalformed},
		"empty line":                  {"\r\n", "", ErrMalformed},
		"RESP3 map":                   {"%1\r\n", "", ErrMalformed},
		"RESP3 set":                   {"~1\r\n", "", ErrMalformed},
		"RESP3 attribute":             {"|1\r\n", "", ErrMalformed},
		"RESP3 push":                  {":1\r\n>1\r\n", ":1\r\n", ErrMalformed},
		"RESP3 nil":                   {"_\r\n", "", ErrMalformed},
		"RESP3 double":                {",1.5\r\n", "", ErrMalformed},
		"RESP3 boolean":               {"*1\r\n#t\r\n", "*1\r\n", ErrMalformed},
		"RESP3 big number":            {"(1\r\n", "", ErrMalformed},
		"RESP3 blob error":            {"!1\r\n", "", ErrMalformed},
		"RESP3 verbatim":              {"=1\r\n", "", ErrMalformed},
		"RESP3 streamed string":       {"$?\r\n;4\r\nabcd\r\n;0\r\n", "$", ErrMalformed},
		"RESP3 streamed aggregate":    {"*?\r\n:1\r\n.\r\n", "*", ErrMalformed},
		"a million nested, one chunk": {strings.Repeat("*1\r\n", 1e6), "*1\r\n*1\r\n*1\r\n*1\r", ErrLimit},
	} {
		for _, n := range []int{1, 2, 3, 1 << 20} {
			got, err := scan(small, c.text, n)
			if !errors.Is(err, c.want) || c.passed != "" && got != c.passed || len(got) >= len(c.text) || !strings.HasPrefix(c.text, got) {
				t.Errorf("%s in chunks of %d: %.40q, %v", name, n, got, err)
			}
		}
	}
}

// An error is final: the stream has no known position any more.
func TestAScannerFailsForGood(t *testing.T) {
	s := NewScanner(small)
	_, first := s.Scan([]byte("?"))
	n, again := s.Scan([]byte("+OK\r\n"))
	if first == nil || !errors.Is(again, first) || n != 0 {
		t.Errorf("%v, then %d bytes and %v", first, n, again)
	}
}

// announced checks that no header in text announces more than the limits, as one that reads lines only.
func announced(text string, l Limits) error {
	depth, count, total := 0, 0, 0
	var open []int
	for text != "" {
		line, rest, complete := strings.Cut(text, "\n")
		if !complete {
			return nil
		}
		total += len(line)
		var n int
		if _, err := fmt.Sscanf(line[1:], "%d\r", &n); err != nil && (line[0] == '*' || line[0] == '$') {
			return fmt.Errorf("header %q", line)
		}
		switch {
		case line[0] == '*' && n > 0:
			if count += n; count > l.Elements {
				return fmt.Errorf("%d elements", count)
			}
			if depth++; depth > l.Depth {
				return fmt.Errorf("depth %d", depth)
			}
			open, text = append(open, n), rest
			continue
		case line[0] == '$' && n > 0:
			if total += n; n > l.String {
				return fmt.Errorf("string of %d", n)
			}
			rest = rest[min(n+2, len(rest)):]
		case line[0] == '$' && n == 0:
			rest = rest[min(2, len(rest)):]
		case len(line) > l.Line+2:
			return fmt.Errorf("line of %d", len(line))
		}
		for len(open) > 0 {
			if open[len(open)-1]--; open[len(open)-1] > 0 {
				break
			}
			open, depth = open[:len(open)-1], depth-1
		}
		if text = rest; len(open) == 0 {
			depth, count, total = 0, 0, 0
		}
		if total > l.Reply+20*l.Elements+40 { // headers are not counted
			return fmt.Errorf("%d bytes", total)
		}
	}
	return nil
}

// generate returns a well-formed reply.
func generate(r *rand.Rand, depth int) string {
	switch r.IntN(8 - min(depth, 1)) {
	case 0:
		return "+" + strings.Repeat("s", r.IntN(10)) + "\r\n"
	case 1:
		return "-ERR " + strings.Repeat("e", r.IntN(10)) + "\r\n"
	case 2:
		return fmt.Sprintf(":%d\r\n", r.Int64())
	case 3:
		return "$-1\r\n"
	case 4, 5:
		n := r.IntN(30)
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return fmt.Sprintf("$%d\r\n%s\r\n", n, b)
	case 6:
		return "*-1\r\n"
	}
	n := r.IntN(6)
	text := fmt.Sprintf("*%d\r\n", n)
	for range n {
		text += generate(r, depth+1)
	}
	return text
}

func TestWellFormedRepliesPassInAnyChunks(t *testing.T) {
	wide := Limits{Line: 1000, String: 1000, Reply: 1 << 20, Elements: 1000, Depth: 10}
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		text := ""
		for range 1 + r.IntN(5) {
			text += generate(r, 0)
		}
		if got, err := scan(wide, text, 1+r.IntN(50)); err != nil || got != text {
			t.Fatalf("%q: %q, %v", text, got, err)
		}
	}
}

// FuzzScanner checks that the passing bytes are bounded and independent of the chunks, and that complete replies have the same
// meaning to the client library with and without a Conn.
func FuzzScanner(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 3))
	for range 10 {
		f.Add(generate(r, 0), uint8(3))
	}
	f.Add("*9000000000000000000\r\n", uint8(1))
	f.Add(strings.Repeat("*1\r\n", 100), uint8(7))
	f.Add("%1\r\n+a\r\n|0\r\n+b\r\n", uint8(2))
	f.Add("*1\r\n$31\r\n", uint8(200))
	f.Fuzz(func(t *testing.T, text string, n uint8) {
		got, err := scan(small, text, 1+int(n))
		if once, err2 := scan(small, text, len(text)+1); got != once || fmt.Sprint(err) != fmt.Sprint(err2) {
			t.Fatalf("in chunks %q, %v; at once %q, %v", got, err, once, err2)
		}
		if err := announced(got, small); err != nil {
			t.Fatalf("%q passes: %v", got, err)
		}
		if err != nil || !strings.HasSuffix(text, "\r\n") {
			return
		}
		plain, plainErr := ask(t, text, func(c net.Conn) net.Conn { return c })
		bounded, boundedErr := ask(t, text, func(c net.Conn) net.Conn { return NewConn(c, small) })
		if !reflect.DeepEqual(plain, bounded) || fmt.Sprint(plainErr) != fmt.Sprint(boundedErr) {
			t.Errorf("without bounds %v, %v; with them %v, %v", plain, plainErr, bounded, boundedErr)
		}
	})
}

// ask returns the result of a command to a server that answers with text, and then closes the connection.
func ask(t *testing.T, text string, wrap func(net.Conn) net.Conn) (any, error) {
	t.Helper()
	client := redis.NewClient(&redis.Options{
		Protocol: 2, DisableIdentity: true, MaxRetries: -1, DialerRetries: 1, PoolSize: 1,
		Dialer: func(context.Context, string, string) (net.Conn, error) {
			near, far := net.Pipe()
			go func() {
				defer func() { _ = far.Close() }()
				b := make([]byte, 4096)
				if _, err := far.Read(b); err != nil { // HELLO
					return
				}
				if _, err := io.WriteString(far, "-ERR unknown command\r\n"); err != nil {
					return
				}
				if _, err := far.Read(b); err != nil {
					return
				}
				_, _ = io.WriteString(far, text)
			}()
			return wrap(near), nil
		},
	})
	defer func() { _ = client.Close() }()
	return client.Do(context.Background(), "PING").Result()
}

func TestAConnDeliversRepliesBeforeTheOffendingHeader(t *testing.T) {
	near, far := net.Pipe()
	defer func() { _ = near.Close() }()
	go func() {
		_, _ = io.WriteString(far, "+OK\r\n*1000000000\r\n+more\r\n")
		_ = far.Close()
	}()
	c := NewConn(near, small)
	got, err := io.ReadAll(c)
	if !bytes.Equal(got, []byte("+OK\r\n*1000000000\r")) || !errors.Is(err, ErrLimit) {
		t.Errorf("%q, %v", got, err)
	}
	if n, err := c.Read(make([]byte, 10)); n != 0 || !errors.Is(err, ErrLimit) {
		t.Errorf("then %d bytes, %v", n, err)
	}
}

func TestOnlyASocketIsASyscallConn(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	socket, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = socket.Close() }()
	near, _ := net.Pipe()
	if _, ok := NewConn(socket, small).(syscall.Conn); !ok {
		t.Error("a socket is none")
	}
	if _, ok := NewConn(near, small).(syscall.Conn); ok {
		t.Error("a pipe is one")
	}
}
