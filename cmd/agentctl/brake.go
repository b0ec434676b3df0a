package main

import (
	"context"

	"github.com/spf13/cobra"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// brakeCmds stop a command, and let it go on.
func (a *app) brakeCmds() []*cobra.Command {
	one := args(1, 1, "the id of a command")
	run := func(do func(ctx context.Context, s *session, id string) error) func(*cobra.Command, []string) error {
		return func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), func(s *session) error {
				return hintUnknown(do(cmd.Context(), s, args[0]), "agentctl commands get "+args[0])
			})
		}
	}
	return []*cobra.Command{
		{
			Use: "pause COMMAND", Short: "start nothing more of a command until it is resumed; what runs goes on", Args: one,
			ValidArgsFunction: a.completeCommands, RunE: run(a.pause),
		},
		{
			Use: "resume COMMAND", Short: "let a paused command go on: forgive its failures so far, or open the gate that stopped it", Args: one,
			ValidArgsFunction: a.completeCommands, RunE: run(a.resume),
		},
		{
			Use: "abort COMMAND", Short: "start nothing more of a command, ever; what runs goes on (cancel ends that, too)", Args: one,
			ValidArgsFunction: a.completeCommands, RunE: run(a.abort),
		},
	}
}

func (a *app) pause(ctx context.Context, s *session, id string) error {
	c, err := s.Pause(ctx, id)
	if reasonOf(err) == "not_active" { // as for resume and abort, there is nothing to do
		have, err := s.Command(ctx, id)
		if err != nil {
			return err
		}
		return a.done(toObject(have), "command %s is not paused: it is %s, %s", id, commandState(have), counts(have.GetCounts()))
	}
	if err != nil {
		return err
	}
	return a.done(toObject(c), "command %s is %s: %s; go on with: agentctl commands resume %s", id, stopText("paused", c.GetPaused()), counts(c.GetCounts()), id)
}

// resume ends the pause that stands now; whoever pauses it in between wins.
func (a *app) resume(ctx context.Context, s *session, id string) error {
	have, err := s.Command(ctx, id)
	if err != nil {
		return err
	}
	paused := have.GetPaused()
	if paused == nil {
		return a.done(toObject(have), "command %s is not paused: it is %s, %s", id, stateName(have.GetState()), counts(have.GetCounts()))
	}
	c, err := s.Resume(ctx, id, paused.GetNumber())
	if err != nil {
		return err
	}
	return a.done(toObject(c), "command %s goes on; it was %s", id, stopText("paused", paused))
}

func (a *app) abort(ctx context.Context, s *session, id string) error {
	c, err := s.Abort(ctx, id)
	if err != nil {
		return err
	}
	return a.done(toObject(c), "command %s is %s: %s", id, stopText("aborted", c.GetAborted()), counts(c.GetCounts()))
}

// stopText says who stopped a command, and why.
func stopText(verb string, s *agentplanev1.Stop) string {
	switch {
	case s == nil:
		return "over" // it had ended before
	case s.GetBy() != "":
		return verb + " by " + s.GetBy()
	case s.GetDetail() != "":
		return verb + " (" + s.GetReason() + "): " + s.GetDetail()
	default:
		return verb + " (" + s.GetReason() + ")"
	}
}
