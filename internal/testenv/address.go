package testenv

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// The ports of Address lie below those that the kernel gives to outgoing connections (32768 and up).
const firstPort, numPorts = 10_000, 20_000

// nextPort begins elsewhere in each process.
var nextPort atomic.Uint32

func init() { nextPort.Store(uint32(os.Getpid()) * 997 % numPorts) }

// Address returns a free TCP address on loopback for t: host:port. Until t ends no outgoing connection and no other caller of
// Address in this network namespace takes the port, so t may listen on it later, or again.
func Address(t interface {
	Helper()
	Cleanup(func())
	Fatalf(format string, args ...any)
},
) string {
	t.Helper()
	for range numPorts {
		port := firstPort + nextPort.Add(1)%numPorts
		// A name in the abstract namespace reserves the port: it belongs to one socket of a network namespace, until that is closed.
		reservation, err := net.ListenUnix("unix", &net.UnixAddr{Name: fmt.Sprintf("@fsban-test-port-%d", port), Net: "unix"})
		if err != nil {
			continue
		}
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		// Connect instead of listening: a child that another test forks at this moment would keep a listener open until its exec.
		if conn, err := net.DialTimeout("tcp", addr, time.Second); !errors.Is(err, syscall.ECONNREFUSED) {
			if err == nil {
				_ = conn.Close()
			}
			_ = reservation.Close()
			continue
		}
		t.Cleanup(func() { _ = reservation.Close() })
		return addr
	}
	t.Fatalf("no free port from %d to %d", firstPort, firstPort+numPorts-1)
	return ""
}
