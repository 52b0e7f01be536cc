package testenv

import (
	"net"
	"os/exec"
	"testing"
)

// Children forked by parallel tests do not keep the port of an address in use.
func TestAddressIsFreeWhileOthersFork(t *testing.T) {
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
				_ = exec.Command("true").Run()
			}
		}
	}()
	for range 300 {
		l, err := net.Listen("tcp", Address(t))
		if err != nil {
			t.Error(err)
			break
		}
		_ = l.Close()
	}
	close(stop)
	<-ended
}
