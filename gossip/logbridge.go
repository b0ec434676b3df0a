package gossip

import (
	"log"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/hashicorp/go-hclog"
)

const (
	logWindow = 10 * time.Second
	logLines  = 50 // per window, below debug; strangers can cause lines
)

// logBridge turns memberlist's lines into hclog's. What memberlist calls an
// error is a warning here: it is about other nodes, and gossip only advises.
type logBridge struct {
	logger     hclog.Logger
	suppressed atomic.Uint64

	mu    sync.Mutex // guards the window
	begun time.Time
	lines int
	lost  int
}

func newLogBridge(logger hclog.Logger) *logBridge { return &logBridge{logger: logger} }

func (b *logBridge) std() *log.Logger { return log.New(b, "", 0) }

// Write takes one line, as the standard logger gives it.
func (b *logBridge) Write(p []byte) (int, error) {
	level, text := splitLevel(string(p))
	if level == hclog.Debug && strings.HasSuffix(text, "from="+observerFrom) {
		return len(p), nil // its own look
	}
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '.' // written by a stranger, perhaps
	}, text)
	if !b.logger.IsDebug() && level == hclog.Debug {
		return len(p), nil
	}
	ok, lost := b.admit(time.Now())
	if lost > 0 {
		b.logger.Warn("memberlist said more than is logged", "suppressed", lost)
	}
	if ok {
		b.logger.Log(level, text)
	}
	return len(p), nil
}

// admit says whether a line fits into the window, and at the begin of a new one
// how many the last one lost.
func (b *logBridge) admit(now time.Time) (ok bool, lost int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if now.Sub(b.begun) >= logWindow {
		lost = b.lost
		b.begun, b.lines, b.lost = now, 0, 0
	}
	if b.lines >= logLines {
		b.lost++
		b.suppressed.Add(1)
		return false, lost
	}
	b.lines++
	return true, lost
}

// splitLevel takes the level and the library's name off a line.
func splitLevel(line string) (hclog.Level, string) {
	line = strings.TrimSpace(line)
	level := hclog.Debug
	if name, rest, ok := strings.Cut(line, "] "); ok && strings.HasPrefix(name, "[") {
		known := true
		switch name[1:] {
		case "ERR", "ERROR", "WARN":
			level = hclog.Warn
		case "INFO":
			level = hclog.Info
		case "DEBUG":
		default:
			known = false
		}
		if known {
			line = rest
		}
	} else if strings.HasPrefix(line, "Err: ") {
		level, line = hclog.Warn, line[len("Err: "):]
	}
	return level, strings.TrimPrefix(line, "memberlist: ")
}
