package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

const (
	// heldUpAfter is how long something waits before it is asked why.
	heldUpAfter = 2 * time.Second
	// askAgainMax bounds the pause between two questions, which doubles.
	askAgainMax = 30 * time.Second
	// askedItems is how far into the queue of an agent is looked.
	askedItems = 1000
)

// holdups tells why a command that is followed does not go on where it could: a lock or a
// budget, an agent that is away, no slot. It asks about one of those that wait, which says
// the rest in most cases.
type holdups struct {
	queue func(ctx context.Context, agent string) (*agentplanev1.GetQueueResponse, error)
	say   func(format string, args ...any)
	stop  func()
	done  sync.WaitGroup

	mu     sync.Mutex // guards what follows
	first  *agentplanev1.Invocation
	others int
	reboot bool // it was told that one is waited for
}

// newHoldups begins to ask; end ends it.
func newHoldups(ctx context.Context, s *session, say func(format string, args ...any)) *holdups {
	h := &holdups{say: say, queue: func(ctx context.Context, agent string) (*agentplanev1.GetQueueResponse, error) {
		return s.Queue(ctx, agent, askedItems)
	}}
	h.begin(ctx)
	return h
}

func (h *holdups) begin(ctx context.Context) {
	ctx, h.stop = context.WithCancel(ctx)
	h.done.Go(func() { h.ask(ctx) })
}

// end may be called again.
func (h *holdups) end() {
	h.stop()
	h.done.Wait()
}

// take notes who waits, and tells of the first that waits for the reboot that it announced.
// What a pause or its wave holds back is told elsewhere.
func (h *holdups) take(c *agentplanev1.Command) {
	var first, reboots *agentplanev1.Invocation
	others := 0
	for _, i := range c.GetInvocations() {
		switch {
		case i.State == agentplanev1.AttemptState_ATTEMPT_STATE_RUNNING && i.Reason == "reboot_announced":
			reboots = i
		case i.State != agentplanev1.AttemptState_ATTEMPT_STATE_RELEASED || c.GetPaused() != nil:
		case first == nil:
			first = i
		default:
			others++
		}
	}
	h.mu.Lock()
	h.first, h.others = first, others
	tell := reboots != nil && !h.reboot
	h.reboot = h.reboot || tell
	h.mu.Unlock()
	if tell {
		h.say("%s: %s", client.AgentOf(reboots), reboots.GetDetail())
	}
}

func (h *holdups) waiting() (*agentplanev1.Invocation, int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.first, h.others
}

// ask asks about what has waited for the whole of a pause, and tells what is new.
func (h *holdups) ask(ctx context.Context) {
	told := ""
	for pause := heldUpAfter; ; {
		before, _ := h.waiting()
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
		i, others := h.waiting()
		if i == nil || before.GetId() != i.GetId() {
			pause = heldUpAfter
			continue
		}
		pause = min(2*pause, askAgainMax)
		r, err := h.queue(ctx, i.GetAgentId())
		if err != nil || ctx.Err() != nil {
			continue // what follows the command says what is wrong
		}
		if text := heldUpBy(r, i); text != "" && text != told {
			told = text
			if others > 0 {
				text += fmt.Sprintf("; %d more wait", others)
			}
			h.say("%s waits: %s", client.AgentOf(i), text)
		}
	}
}

// heldUpBy is why the invocation waits, by the queue of its agent; "" when it is about to
// start.
func heldUpBy(r *agentplanev1.GetQueueResponse, i *agentplanev1.Invocation) string {
	for _, item := range r.GetItems() {
		if item.GetInvocationId() == i.GetId() && item.GetWaits() != "" {
			return strings.ReplaceAll(item.GetDetail(), "by command "+i.GetCommandId(), "by this command")
		}
	}
	return ""
}
