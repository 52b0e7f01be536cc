package fleet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/redis/go-redis/v9"

	"fsban/fleet/resp"
)

// explain returns an error of Redis with its meaning for an operator.
func explain(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	var timeout net.Error
	meaning := "the fleet's Redis"
	switch {
	case errors.Is(err, errPanic):
		return fmt.Errorf("the fleet restarts after a fault, please report it: %w", readable{err})
	case errors.Is(err, resp.ErrLimit), errors.Is(err, resp.ErrMalformed):
		meaning = "the fleet's Redis sends invalid replies"
	case redis.IsPermissionError(err) || strings.Contains(text, "NOPERM"), strings.Contains(text, "user executing the script can't"):
		meaning = "the login to Redis may not do what a fleet needs (docs/fleet.md has the ACL)"
	case redis.IsAuthError(err) || strings.Contains(text, "WRONGPASS") || strings.Contains(text, "NOAUTH"):
		meaning = "the login to Redis is refused (fleet.username, fleet.password_file)"
	case redis.IsOOMError(err):
		meaning = "the fleet's Redis is out of memory (maxmemory), and accepts nothing until it has room"
	case redis.IsReadOnlyError(err):
		meaning = "this Redis is a replica, which accepts nothing (fleet.redis, fleet.sentinel)"
	case redis.IsLoadingError(err):
		meaning = "the fleet's Redis is starting"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		meaning = "the fleet's Redis does not answer in time"
	}
	return fmt.Errorf("%s: %w", meaning, readable{err})
}

// A readable error has one line of bounded length: Redis, or a program in its place, chooses the text.
type readable struct{ error }

func (r readable) Error() string { return clean(r.error.Error()) }

func (r readable) Unwrap() error { return r.error }
