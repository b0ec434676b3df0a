package main

import (
	"fmt"
	"strings"
	"sync"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

// plainEvery is how often a line of progress goes to what is not a terminal.
const plainEvery = time.Second

// progress tells how far a command is, on stderr: one line that is redrawn on a
// terminal, else a line per change and at most one a second. The line on a
// terminal also counts the seconds, by a goroutine that end awaits.
type progress struct {
	app      *app
	start    time.Time
	terminal bool

	stop chan struct{}
	done sync.WaitGroup

	mu    sync.Mutex // guards what follows and the writing
	line  string
	told  string
	last  time.Time
	over  bool
	drawn bool
}

func newProgress(a *app, terminal bool) *progress {
	p := &progress{app: a, start: time.Now(), terminal: terminal, stop: make(chan struct{})}
	if p.terminal {
		p.done.Go(p.tick)
	}
	return p
}

func (p *progress) tick() {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-t.C:
			p.mu.Lock()
			p.drawLocked()
			p.mu.Unlock()
		}
	}
}

// show tells of the view.
func (p *progress) show(v *client.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over {
		return
	}
	p.line = progressLine(v)
	if p.terminal {
		p.drawLocked()
		return
	}
	if p.line != p.told && time.Since(p.last) >= plainEvery {
		p.app.talk("%s", p.line)
		p.told, p.last = p.line, time.Now()
	}
}

func (p *progress) drawLocked() {
	if p.over || p.line == "" {
		return
	}
	fmt.Fprintf(p.app.stderr, "\r\x1b[K%s (%s)", p.line, span(time.Since(p.start)))
	p.drawn = true
}

// say prints a line of talk, and draws the line of progress again behind it.
func (p *progress) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.drawn {
		fmt.Fprint(p.app.stderr, "\r\x1b[K")
	}
	p.app.talk(format, args...)
	if p.terminal {
		p.drawLocked()
	}
}

// end takes the line away; it may be called again.
func (p *progress) end() {
	p.mu.Lock()
	if !p.over {
		p.over = true
		close(p.stop)
		if p.drawn {
			fmt.Fprint(p.app.stderr, "\r\x1b[K")
		}
	}
	p.mu.Unlock()
	p.done.Wait()
}

func progressLine(v *client.Progress) string {
	var ended, failed, running, waiting, unconfirmed int
	c := v.Command()
	for _, i := range c.Invocations {
		switch {
		case i.State == agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED:
			ended++
		case client.Final(i.State):
			ended++
			failed++
		case armed(i):
			unconfirmed++
		case i.State >= agentplanev1.AttemptState_ATTEMPT_STATE_CLAIMED:
			running++
		default:
			waiting++
		}
	}
	parts := []string{fmt.Sprintf("%d/%d ended", ended, len(c.Invocations))}
	if len(c.GetRollout().GetWaves()) > 1 {
		parts[0] = "wave " + waveText(c) + ": " + parts[0]
	}
	for _, p := range []struct {
		n    int
		word string
	}{{running, "running"}, {waiting, "waiting"}, {unconfirmed, "to be confirmed"}, {failed, "not succeeded"}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.word))
		}
	}
	if c.GetPaused() != nil {
		parts = append(parts, "paused")
	}
	return strings.Join(parts, ", ")
}
