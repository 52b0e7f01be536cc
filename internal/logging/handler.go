// Package logging writes the daemon's log: a handler whose level and format can change, and a sink that never waits.
package logging

import (
	"context"
	"io"
	"log/slog"
	"sync/atomic"

	"fsban/config"
	"fsban/internal/plainjson"
)

// A Handler is a slog.Handler whose level and format can change while it is in use. It is safe for concurrent use.
type Handler struct {
	text, json slog.Handler
	asJSON     *atomic.Bool
	level      *slog.LevelVar
	limit      *limiter
}

// NewHandler returns a handler that writes text of level info and above to out: of one message not more than perMinute lines a minute, see
// limiter. Text of peers is escaped in both formats.
func NewHandler(out io.Writer) *Handler {
	level := new(slog.LevelVar)
	opts := &slog.HandlerOptions{Level: level}
	h := &Handler{slog.NewTextHandler(out, opts), slog.NewJSONHandler(plainjson.Writer{Out: out}, opts), new(atomic.Bool), level, nil}
	h.limit = newLimiter(h.write)
	return h
}

// Set applies level and format to h and to all handlers derived from it.
func (h *Handler) Set(c config.Log) {
	h.level.Set(c.SlogLevel())
	h.asJSON.Store(c.Format == "json")
}

// Enabled reports whether records of level are logged.
func (h *Handler) Enabled(_ context.Context, level slog.Level) bool { return level >= h.level.Level() }

// Handle writes r in the current format.
func (h *Handler) Handle(ctx context.Context, r slog.Record) error {
	if !h.limit.pass(r.Level, r.Message) {
		return nil
	}
	return h.format().Handle(ctx, r)
}

func (h *Handler) format() slog.Handler {
	if h.asJSON.Load() {
		return h.json
	}
	return h.text
}

// WithAttrs returns a Handler that adds attrs to each record and shares level and format with h.
func (h *Handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &Handler{h.text.WithAttrs(attrs), h.json.WithAttrs(attrs), h.asJSON, h.level, h.limit}
}

// WithGroup returns a Handler that qualifies keys with name and shares level and format with h.
func (h *Handler) WithGroup(name string) slog.Handler {
	return &Handler{h.text.WithGroup(name), h.json.WithGroup(name), h.asJSON, h.level, h.limit}
}
