package fleet

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
)

// errPanic marks a panic that contained has turned into an error.
var errPanic = errors.New("internal error")

// contained runs do and returns a panic as an error: a fault in the fleet must not end the daemon.
func contained(do func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %.200q at %s", errPanic, fmt.Sprint(p), origin())
		}
	}()
	return do()
}

// origin returns file and line of the code that panics.
func origin() string {
	pcs := make([]uintptr, 32)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs)])
	for {
		f, more := frames.Next()
		if !strings.HasPrefix(f.Function, "runtime.") || !more {
			return fmt.Sprintf("%s:%d", filepath.Base(f.File), f.Line)
		}
	}
}
