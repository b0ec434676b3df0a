package configs

import (
	"context"
	"io"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// Logger returns the log of a daemon as the configuration wants it.
func (l Log) Logger(name string, to io.Writer) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{
		Name: name, Level: hclog.LevelFromString(l.Level), Output: to, JSONFormat: l.Format == "json",
	})
}

// FollowLevel gives the logger each new log level of the configuration until ctx
// ends.
func (w *Watcher) FollowLevel(ctx context.Context, log hclog.Logger) {
	for {
		now, changed := w.Watch()
		level, _ := now.settings["log.level"].value.(string) // both daemons have it
		log.SetLevel(hclog.LevelFromString(level))
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// Slog returns a slog.Logger whose lines go the way of all others, for packages that
// log through the standard library.
func Slog(l hclog.Logger) *slog.Logger { return slog.New(slogHandler{l}) }

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
