package main

import (
	"bytes"
	"context"
	"fmt"
	"hash/fnv"
	"io"
	"sync"
	"unicode/utf8"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

// maxLineBytes is how much of a line is held back until the rest of it comes.
const maxLineBytes = 16 << 10

// linePrinter prints output as it comes: stdout to stdout, stderr to stderr. Of several
// agents whole lines are printed, each with the agent's name before it; of a single one
// the bytes as they are, but for what a terminal must not be told.
type linePrinter struct {
	app    *app
	mu     sync.Mutex // guards all writing, and what follows
	single bool
	width  int // of the names
	sinks  map[sinkKey]*sink
	order  []*sink
}

type sinkKey struct {
	invocation string
	attempt    uint32
	stream     agentplanev1.OutputStream
}

// sink is one stream of one attempt.
type sink struct {
	to     io.Writer
	prefix string
	whole  bool // only whole lines
	plain  bool // the terminal is to be spared
	held   []byte
	err    error
}

// newLinePrinter prints what those print who are given, one or several of them.
func newLinePrinter(a *app, single bool, all []*agentplanev1.Invocation) *linePrinter {
	p := &linePrinter{app: a, single: single, sinks: make(map[sinkKey]*sink)}
	for _, i := range all {
		p.width = max(p.width, utf8.RuneCountInString(printable(client.AgentOf(i))))
	}
	return p
}

func (p *linePrinter) sink(i *agentplanev1.FollowItem, stream agentplanev1.OutputStream) *sink {
	k := sinkKey{i.InvocationId, i.Attempt, stream}
	if p.sinks[k] == nil {
		s := &sink{to: p.app.stdout, whole: !p.single}
		if stream == agentplanev1.OutputStream_OUTPUT_STREAM_STDERR {
			s.to = p.app.stderr
		}
		s.plain = isTerminal(s.to)
		if !p.single {
			s.prefix = p.prefix(s.to, followName(i))
		}
		p.sinks[k] = s
		p.order = append(p.order, s)
	}
	return p.sinks[k]
}

func followName(i *agentplanev1.FollowItem) string {
	if i.AgentName != "" {
		return i.AgentName
	}
	return i.AgentId
}

// prefix is the agent's name in the width of the longest, on a terminal in a colour of its
// own.
func (p *linePrinter) prefix(to io.Writer, name string) string {
	text := fmt.Sprintf("%-*s | ", p.width, printable(name))
	if !p.app.color || !isTerminal(to) {
		return text
	}
	h := fnv.New32a()
	_, _ = io.WriteString(h, name)
	return fmt.Sprintf("\x1b[%dm%s\x1b[0m", 31+h.Sum32()%6, text)
}

// take prints an item of a follow.
func (p *linePrinter) take(i *agentplanev1.FollowItem) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range i.Chunks {
		s := p.sink(i, c.Stream)
		if c.GapBytes > 0 {
			s.flush()
			p.app.talk("%s: %s", printable(followName(i)), gapWords(c))
		}
		_, _ = s.Write(c.Data)
		if s.err != nil {
			return fmt.Errorf("print: %w", s.err)
		}
	}
	if i.End == nil {
		return nil
	}
	for _, stream := range []agentplanev1.OutputStream{agentplanev1.OutputStream_OUTPUT_STREAM_STDOUT, agentplanev1.OutputStream_OUTPUT_STREAM_STDERR} {
		k := sinkKey{i.InvocationId, i.Attempt, stream}
		if s := p.sinks[k]; s != nil {
			s.flush()
			delete(p.sinks, k)
		}
	}
	if why := incompleteWords(i.End.Incomplete); why != "" {
		p.app.talk("%s: %s", printable(followName(i)), why)
	}
	return nil
}

func (p *linePrinter) flush() {
	for _, s := range p.order {
		s.flush()
	}
}

func gapWords(c *agentplanev1.OutputChunk) string {
	stream := "stdout"
	if c.Stream == agentplanev1.OutputStream_OUTPUT_STREAM_STDERR {
		stream = "stderr"
	}
	return fmt.Sprintf("%d bytes of %s from %d on are not kept: %s", c.GapBytes, stream, c.Offset, printable(c.GapReason))
}

// incompleteWords says why what was shown may not be all.
func incompleteWords(why string) string {
	switch why {
	case "", "never_ran":
		return ""
	case "not_ended":
		return "it runs, and may print more"
	case "not_received":
		return "the rest of its output has not come from the host"
	case "not_reachable":
		return "no node that keeps the rest of its output is reached"
	default:
		return printable(why)
	}
}

// Write takes the next bytes of the stream. It never fails: the first error is kept.
func (s *sink) Write(b []byte) (int, error) {
	n := len(b)
	if !s.whole && !s.plain {
		s.print(b)
		return n, nil
	}
	s.held = append(s.held, b...)
	for {
		end := bytes.IndexByte(s.held, '\n') + 1
		if end == 0 && len(s.held) < maxLineBytes {
			break
		}
		if end == 0 {
			end = len(s.held) - partialRune(s.held)
		}
		s.line(s.held[:end])
		s.held = append(s.held[:0], s.held[end:]...)
	}
	if !s.whole { // a prompt has no line break
		end := len(s.held) - partialRune(s.held)
		s.line(s.held[:end])
		s.held = append(s.held[:0], s.held[end:]...)
	}
	return n, nil
}

// partialRune is how many bytes at the end begin a character and do not end it.
func partialRune(b []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(b); n++ {
		if tail := b[len(b)-n:]; utf8.RuneStart(tail[0]) {
			if !utf8.FullRune(tail) {
				return n
			}
			return 0
		}
	}
	return 0
}

func (s *sink) line(b []byte) {
	if len(b) == 0 {
		return
	}
	text := string(b)
	if s.plain {
		text = printableText(text)
	}
	if s.whole && b[len(b)-1] != '\n' {
		text += "\n"
	}
	s.print([]byte(s.prefix + text))
}

// flush prints what is held back.
func (s *sink) flush() {
	held := s.held
	s.held = nil
	s.line(held)
}

func (s *sink) print(b []byte) {
	if s.err == nil && len(b) > 0 {
		_, s.err = s.to.Write(b)
	}
}

// beside follows, and says meanwhile when the command is stopped and when it goes on,
// what waits for a confirmation, and what holds it up.
func (p *linePrinter) beside(ctx context.Context, s *session, id string, follow func() error) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	say := func(format string, args ...any) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.app.talk(format, args...)
	}
	var told sync.WaitGroup
	told.Go(func() {
		var stopped stops
		var waiting waits
		var v client.Progress
		held := newHoldups(ctx, s, say)
		defer held.end()
		// What ends the follow ends this; its own error says nothing that follow does not.
		_ = s.WatchCommand(ctx, &agentplanev1.WatchCommandRequest{Id: id}, func(r *agentplanev1.WatchCommandResponse) error {
			v.Take(r)
			stopped.take(say, v.Command())
			waiting.take(say, v.Command())
			held.take(v.Command())
			return nil
		})
	})
	err := follow()
	end()
	told.Wait()
	return err
}
