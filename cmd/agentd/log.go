package main

import (
	"context"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// slogHandler lets packages that log through the standard library write to the one log.
type slogHandler struct{ l hclog.Logger }

func level(l slog.Level) hclog.Level {
	switch {
	case l < slog.LevelInfo:
		return hclog.Debug
	case l < slog.LevelWarn:
		return hclog.Info
	case l < slog.LevelError:
		return hclog.Warn
	default:
		return hclog.Error
	}
}

func (h slogHandler) Enabled(_ context.Context, l slog.Level) bool { return h.l.GetLevel() <= level(l) }

func (h slogHandler) Handle(_ context.Context, r slog.Record) error {
	args := make([]any, 0, 2*r.NumAttrs())
	r.Attrs(func(a slog.Attr) bool {
		args = append(args, a.Key, a.Value.Resolve().Any())
		return true
	})
	h.l.Log(level(r.Level), r.Message, args...)
	return nil
}

func (h slogHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	args := make([]any, 0, 2*len(attrs))
	for _, a := range attrs {
		args = append(args, a.Key, a.Value.Resolve().Any())
	}
	return slogHandler{h.l.With(args...)}
}

func (h slogHandler) WithGroup(name string) slog.Handler { return slogHandler{h.l.Named(name)} }
