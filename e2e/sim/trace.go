package sim

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// Trace is what happened in a life, for people: one line for each fault, start of a
// program, leader, change of a session and answer to a client, with the virtual time.
type Trace struct {
	began time.Time

	mu    sync.Mutex // guards lines; never held while waiting
	lines []string
}

// age is how old the world was at a time.
func (t *Trace) age(at time.Time) time.Duration { return at.Sub(t.began) }

// Note adds a line.
func (t *Trace) Note(who, format string, args ...any) {
	line := fmt.Sprintf("%9.3fs  %-9s %s", t.age(time.Now()).Seconds(), who, fmt.Sprintf(format, args...))
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines = append(t.lines, line)
}

// String is the whole trace.
func (t *Trace) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var b strings.Builder
	for _, l := range t.lines {
		b.WriteString(l)
		b.WriteByte('\n')
	}
	return b.String()
}
