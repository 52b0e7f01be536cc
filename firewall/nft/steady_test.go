package nft

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"github.com/mdlayher/netlink/nltest"
	"golang.org/x/sys/unix"

	"fsban/internal/kerneltest"
)

// A listing is repeated while nftables changes under it, and is an error if that does not end.
func TestAListingThatAChangeFallsIntoIsRepeated(t *testing.T) {
	broken := errors.New("broken")
	for name, test := range map[string]struct {
		generations []uint32 // the last one stays
		noList      error
		noNumber    error
		lists       int
		err         error
	}{
		"quiet":              {[]uint32{7}, nil, nil, 1, nil},
		"one change":         {[]uint32{7, 8}, nil, nil, 2, nil},
		"the number wraps":   {[]uint32{1<<32 - 1, 0}, nil, nil, 2, nil},
		"nine changes":       {[]uint32{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, nil, nil, steadyAttempts, nil},
		"endless changes":    {[]uint32{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14}, nil, nil, steadyAttempts, errUnsteady},
		"no listing":         {[]uint32{7}, broken, nil, 1, broken},
		"no generation":      {[]uint32{7}, nil, broken, 0, broken},
		"no listing, change": {[]uint32{7, 8}, broken, nil, 1, broken},
	} {
		calls, lists := 0, 0
		result, err := unchanged(func() (uint32, error) {
			calls++
			return test.generations[min(calls, len(test.generations))-1], test.noNumber
		}, func() (int, error) {
			lists++
			return lists, test.noList
		})
		if !errors.Is(err, test.err) || lists != test.lists || test.err == nil && result != lists {
			t.Errorf("%s: result %d of %d listings, %v", name, result, lists, err)
		}
	}
}

// The kernel marks a listing that it could not complete at one moment.
func TestAnInterruptedDumpIsRepeated(t *testing.T) {
	for name, test := range map[string]struct{ interruptions, dumps int }{
		"never": {0, 1}, "once": {1, 2}, "always": {100, listings},
	} {
		dumps := 0
		conn := nltest.Dial(func(requests []netlink.Message) ([]netlink.Message, error) {
			dumps++
			first, last := netlink.Message{Data: []byte{1}}, netlink.Message{Data: []byte{2}}
			if dumps <= test.interruptions {
				last.Header.Flags |= netlink.DumpInterrupted
			}
			answer, err := nltest.Multipart([]netlink.Message{first, last, {}})
			for i := range answer {
				answer[i].Header.Sequence, answer[i].Header.PID = requests[0].Header.Sequence, requests[0].Header.PID
			}
			return answer, err
		})
		messages, err := dump(conn, unix.NFT_MSG_GETSET, func(*netlink.AttributeEncoder) {})
		if err != nil || len(messages) != 2 || dumps != test.dumps {
			t.Errorf("%s: %d dumps, %d messages, %v", name, dumps, len(messages), err)
		}
		_ = conn.Close()
	}
}

// While another program adds and deletes chains, every listing holds those that exist all the time.
func TestChainsAreListedWhileOthersChange(t *testing.T) {
	kerneltest.OnKernel(t, func(t *testing.T) {
		b := open(t)
		conn, err := nftables.New(nftables.AsLasting())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.CloseLasting() }()
		table := &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}
		conn.AddTable(table)
		var others []*nftables.Chain
		for i := range 400 {
			others = append(others, conn.AddChain(&nftables.Chain{Table: table, Name: "other" + strings.ReplaceAll(nth(i).Addr().String(), ".", "_")}))
			if i%50 == 49 { // more answers do not fit into the socket
				if err := conn.Flush(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if _, err := b.Setup(); err != nil {
			t.Fatal(err)
		}
		quit := make(chan struct{})
		var churn sync.WaitGroup
		churn.Go(func() {
			for i := 0; ; i = (i + 1) % len(others) {
				select {
				case <-quit:
					return
				default:
				}
				conn.DelChain(others[i])
				_ = conn.Flush()
				conn.AddChain(others[i])
				_ = conn.Flush()
			}
		})
		defer churn.Wait()
		defer close(quit)
		listed := 0
		for deadline := time.Now().Add(30 * time.Second); listed < 50 && time.Now().Before(deadline); {
			chains, err := tableChains(b.conn)
			if errors.Is(err, errUnsteady) {
				continue
			}
			listed++
			if err != nil || !slices.ContainsFunc(chains, func(c *nftables.Chain) bool { return c.Name == "FSBAN" }) {
				t.Fatalf("%d chains without FSBAN, %v", len(chains), err)
			}
		}
		if listed == 0 {
			t.Error("every listing was given up")
		}
	})
}
