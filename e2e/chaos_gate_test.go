package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// command is a new command for all agents, which must succeed on each.
func (w *world) command(ctx context.Context) error {
	all, err := w.commandFor(ctx, w.everyone())
	if err != nil {
		return err
	}
	for _, i := range all {
		if i.state != "SUCCEEDED" {
			return fmt.Errorf("the command for all is %s (%s) on %s", i.state, i.reason, i.agent)
		}
	}
	if len(all) != len(w.agents) {
		return fmt.Errorf("the command for all met %d agents of %d", len(all), len(w.agents))
	}
	return nil
}

// commandFor is a new command, whose invocations it answers when all are over.
func (w *world) commandFor(ctx context.Context, selector string) ([]finalInvocation, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return nil, err
	}
	sub := submission{id: id.String(), plain: true, began: time.Now()}
	envelope, err := envelopeOf(&agentplanev1.CommandSpec{
		ClusterId: w.s.info.ClusterId, Incarnation: w.s.info.Incarnation, CommandId: sub.id, Selector: selector, Argv: w.argv(),
		RunTimeout: int64(time.Minute), KillGrace: int64(time.Second),
		NotAfter: sub.began.Add(5 * time.Minute).UnixNano(), Delivery: agentplanev1.Delivery_DELIVERY_AT_MOST_ONCE,
	})
	if err != nil {
		return nil, err
	}
	commands := agentplanev1.NewCommandServiceClient(w.b.client)
	_, err = w.s.try(commands, envelope, 20*time.Second, &sub)
	w.s.note(sub)
	if err != nil {
		return nil, err
	}
	for {
		c, err := readCommand(ctx, commands, sub.id)
		if err != nil {
			return nil, err
		}
		if c != nil && c.done {
			return c.invocations, nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return nil, fmt.Errorf("the command for %s, %s, is not over: %v", selector, sub.id, c)
		}
	}
}

// cured wants a new command to succeed on each agent that was sick. One on which it has is
// not sick any more, so that a journal that is opened late costs no more programs on others.
func (w *world) cured(ctx context.Context) error {
	names := w.sick.all()
	if len(names) == 0 {
		return nil
	}
	all, err := w.commandFor(ctx, "name in ["+strings.Join(names, ", ")+"]")
	if err != nil {
		return err
	}
	for _, i := range all {
		if i.state == "SUCCEEDED" {
			w.sick.until(i.agent, time.Now())
		}
	}
	if i := slices.IndexFunc(all, func(i finalInvocation) bool { return i.state != "SUCCEEDED" }); i >= 0 {
		return fmt.Errorf("the command for those that were sick is %s (%s) on %s", all[i].state, all[i].reason, all[i].agent)
	}
	return nil
}
