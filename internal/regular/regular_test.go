package regular

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
)

func TestAFileSystemThatHangsIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := make(chan struct{})
		defer close(hang)
		_, err := within(patience, "/nfs/password", func() ([]byte, error) { <-hang; return nil, errors.New("late") })
		if err == nil || !strings.Contains(err.Error(), "/nfs/password: its file system does not answer within 5s") {
			t.Errorf("%v", err)
		}
	})
}

func TestWhatIsNoRegularFileIsRefused(t *testing.T) {
	for path, want := range map[string]string{"/dev/zero": "not a regular file", "/": "not a regular file", "/none": "no such file"} {
		if _, err := Read(path, 10); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := All(strings.NewReader("12345678901"), "x", 10); err == nil {
		t.Error("eleven bytes of ten")
	}
	if data, err := All(strings.NewReader("1234567890"), "x", 10); err != nil || len(data) != 10 {
		t.Errorf("%q, %v", data, err)
	}
}
