package consensus

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Quiet returns a logger for libraries that say the same several times a second for as
// long as it lasts, as raft does of a peer that is dead: a kind of line is printed at once
// when it comes for the first time, and while it repeats only now and then, at growing
// intervals, with how often it came. A kind is the level, the message, the peer and
// what else is said but for digits, so that another peer, or another error, is another
// kind. Debug and trace are printed as they come.
//
// It has no timer: what came after the last line of a kind is counted in the next one.
func Quiet(logger hclog.Logger) hclog.Logger {
	return &quiet{Logger: logger, repeats: &repeats{kinds: make(map[string]*repeat)}}
}

const (
	quietFirst = 5 * time.Second // after the first line of a kind
	quietMost  = time.Minute
	// quietForget is the silence after which a kind is new again.
	quietForget = 2 * quietMost
	// maxKinds bounds what is remembered. When there are more, all begin anew.
	maxKinds = 512
)

type quiet struct {
	hclog.Logger
	repeats *repeats
	about   string // what With and Named have added
}

// repeats is shared by a logger and all that are derived from it.
type repeats struct {
	mu    sync.Mutex // guards what follows; not held while a line is printed
	kinds map[string]*repeat
}

type repeat struct {
	printed, last time.Time
	wait          time.Duration
	hidden        int
}

// next decides about one more line of a kind: whether it is printed, and how many were
// hidden since the last one that was, within which time.
func (r *repeats) next(kind string, now time.Time) (show bool, hidden int, within time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.kinds[kind]
	if k == nil {
		if len(r.kinds) >= maxKinds {
			clear(r.kinds)
		}
		r.kinds[kind] = &repeat{printed: now, last: now, wait: quietFirst}
		return true, 0, 0
	}
	silence := now.Sub(k.last)
	hidden, within = k.hidden, now.Sub(k.printed)
	k.last = now
	switch {
	case silence >= quietForget:
		k.wait = quietFirst
	case within < k.wait:
		k.hidden++
		return false, 0, 0
	default:
		k.wait = min(2*k.wait, quietMost)
	}
	k.printed, k.hidden = now, 0
	return true, hidden, within
}

func (q *quiet) say(level hclog.Level, msg string, args []any) {
	if level >= hclog.Info {
		if ends(args) {
			return
		}
		show, hidden, within := q.repeats.next(q.kind(level, msg, args), time.Now())
		if !show {
			return
		}
		if hidden > 0 {
			args = append(args[:len(args):len(args)], "repeated", hidden, "within", within.Round(time.Second))
		}
	}
	q.Logger.Log(level, msg, args...)
}

// ends says that a line is about a listener or connection that this node has closed,
// which raft's transport takes for a failure while the node is being taken down.
func ends(args []any) bool {
	for _, a := range args {
		if err, ok := a.(error); ok && errors.Is(err, net.ErrClosed) {
			return true
		}
	}
	return false
}

func (q *quiet) kind(level hclog.Level, msg string, args []any) string {
	var b strings.Builder
	fmt.Fprint(&b, level, q.about, " ", withoutDigits(msg))
	for i := 0; i+1 < len(args); i += 2 {
		var value string
		switch v := args[i+1].(type) {
		case time.Duration, int, int64, uint64, float64: // a number is of no kind
		default:
			value = fmt.Sprint(v)
		}
		switch key := fmt.Sprint(args[i]); key {
		case "peer", "target", "server-id", "id", "node_id", "address", "from":
		default:
			value = withoutDigits(value)
		}
		fmt.Fprint(&b, " ", args[i], "=", value)
	}
	return b.String()
}

func withoutDigits(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' || r == '.' {
			return -1
		}
		return r
	}, s)
}

// Log and what follows are hclog's.
func (q *quiet) Log(level hclog.Level, msg string, args ...any) { q.say(level, msg, args) }

// Trace is hclog's.
func (q *quiet) Trace(msg string, args ...any) { q.say(hclog.Trace, msg, args) }

// Debug is hclog's.
func (q *quiet) Debug(msg string, args ...any) { q.say(hclog.Debug, msg, args) }

// Info is hclog's.
func (q *quiet) Info(msg string, args ...any) { q.say(hclog.Info, msg, args) }

// Warn is hclog's.
func (q *quiet) Warn(msg string, args ...any) { q.say(hclog.Warn, msg, args) }

// Error is hclog's.
func (q *quiet) Error(msg string, args ...any) { q.say(hclog.Error, msg, args) }

// With is hclog's.
func (q *quiet) With(args ...any) hclog.Logger {
	return &quiet{Logger: q.Logger.With(args...), repeats: q.repeats, about: q.about + fmt.Sprint(args...)}
}

// Named is hclog's.
func (q *quiet) Named(name string) hclog.Logger {
	return &quiet{Logger: q.Logger.Named(name), repeats: q.repeats, about: q.about + " " + name}
}

// ResetNamed is hclog's.
func (q *quiet) ResetNamed(name string) hclog.Logger {
	return &quiet{Logger: q.Logger.ResetNamed(name), repeats: q.repeats, about: name}
}
