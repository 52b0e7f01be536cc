// Package regular reads files that somebody else may have put in their place: bounded, in bounded time, and nothing but regular ones.
package regular

import (
	"fmt"
	"io"
	"os"
	"syscall"
	"time"
)

// patience is the time in which a file system must answer.
const patience = 5 * time.Second

// Read returns the content of a file of at most limit bytes. It refuses everything but regular files, such as a pipe, which may never
// end. On a file system that does not answer it fails after five seconds, and leaves a goroutine until the system call ends.
func Read(path string, limit int64) ([]byte, error) {
	return within(patience, path, func() ([]byte, error) {
		file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe without a writer would block
		if err != nil {
			return nil, err
		}
		defer func() { _ = file.Close() }()
		if info, err := file.Stat(); err != nil {
			return nil, err
		} else if !info.Mode().IsRegular() {
			return nil, fmt.Errorf("%s is not a regular file", path)
		}
		return All(file, path, limit)
	})
}

// All reads from to its end, at most limit bytes. Its errors name path.
func All(from io.Reader, path string, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(from, limit+1))
	if err == nil && int64(len(data)) > limit {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return data, err
}

func within(limit time.Duration, path string, read func() ([]byte, error)) ([]byte, error) {
	type result struct {
		data []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		data, err := read()
		done <- result{data, err}
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case r := <-done:
		return r.data, r.err
	case <-timer.C:
		return nil, fmt.Errorf("%s: its file system does not answer within %v", path, limit)
	}
}
