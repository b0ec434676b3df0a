package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

const confirmHelp = `Confirm what the programs of a command did, where that waits for it: their undo never runs.

  agentctl run --on 'label.role == "edge"' --undo 'nft -f /etc/nft.old' -- nft -f /etc/nft.new
  agentctl commands confirm COMMAND              on all agents that wait now
  agentctl commands confirm COMMAND web-1 web-2  on these alone; elsewhere it is undone in time

It confirms what waits when it is typed: programs that end later, as those of the next wave,
wait for a confirmation of their own. Whether it came in time is decided on each host:
"agentctl commands get COMMAND" shows what became of it. Where the undo has begun it is too
late, which is said, and the exit code is 7. To have it undone at once, cancel
the command: what was canceled is not confirmed any more.

What is LOST while it waits, as of a host that is off for long, can be confirmed too, but not
canceled: the host is told when it comes back within its time. Otherwise it is undone then.`

// commandsConfirm keeps what waits for a confirmation.
func (a *app) commandsConfirm() *cobra.Command {
	return &cobra.Command{
		Use: "confirm COMMAND [AGENT…]", Short: "keep what a command did that is undone otherwise, see run --undo", Long: confirmHelp,
		Args: args(1, -1, "the id of a command"), ValidArgsFunction: a.completeCommandAgent,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(cmd.Context(), func(s *session) error {
				return hintUnknown(a.confirm(cmd.Context(), s, args[0], args[1:]), "agentctl commands get "+args[0])
			})
		},
	}
}

// confirm confirms what is seen to wait: the index up to which that was seen makes it safe
// to send again.
func (a *app) confirm(ctx context.Context, s *session, id string, agents []string) error {
	seen, err := s.Results(ctx, id, false)
	if err != nil {
		return err
	}
	before := standingOf(seen, agents)
	r, err := s.Confirm(ctx, id, before.upTo, agents)
	if e, ok := errors.AsType[*client.Error](err); ok && (e.Reason == "confirm_done" || e.Reason == "not_armed") && len(before.undone) > 0 {
		return notKept(id, before.undone)
	}
	if err != nil {
		return err
	}
	n, after := int(r.GetConfirmed()), before
	if n != len(before.waiting) { // on the others it has gone on since they were looked at
		if again, err := s.Results(ctx, id, false); err == nil {
			after = standingOf(again, agents)
		}
	}
	var text string
	switch n {
	case 0:
		text = fmt.Sprintf("command %s was confirmed before", id)
		if len(after.confirmed) > 0 {
			text += fmt.Sprintf(" on %s: %s", count(len(after.confirmed), "agent"), shortList(after.confirmed))
		}
	case len(before.waiting):
		text = fmt.Sprintf("command %s is confirmed on %s: %s", id, count(n, "agent"), strings.Join(before.waiting, " "))
	default:
		text = fmt.Sprintf("command %s is confirmed on %d of %s that waited; see agentctl commands get %s", id, n, count(len(before.waiting), "agent"), id)
	}
	if n > 0 { // the hosts have yet to hear of it
		text += "; where the host does not hear of it in time it is undone all the same, from " + clock(before.until) + " on"
	}
	if before.later > 0 {
		text += fmt.Sprintf("; on %s it has not come so far: confirm it again then", count(before.later, "agent"))
	}
	if err := a.done(toObject(r), "%s", text); err != nil || len(after.undone) == 0 {
		return err
	}
	return notKept(id, after.undone)
}

// notKept says where a confirmation came too late.
func notKept(id string, undone []string) error {
	return &failure{
		code: exitInvocations, err: fmt.Errorf("command %s is not kept on %s, where its undo has begun: %s", id, count(len(undone), "agent"), shortList(undone)),
		hint: fmt.Sprintf("see %q", "agentctl commands get "+id),
	}
}

// standing is how far a command with an undo is on those agents that are meant.
type standing struct {
	waiting, confirmed, undone []string
	// later are those on which nothing waits yet, upTo where in the log the last was seen to.
	later int
	upTo  uint64
	until int64 // when the first of what waits is undone
}

func standingOf(c *agentplanev1.Command, agents []string) standing {
	s := standing{upTo: 1}
	for _, i := range c.GetInvocations() {
		if len(agents) > 0 && !slices.Contains(agents, i.AgentId) && !slices.Contains(agents, i.AgentName) {
			continue
		}
		u := i.GetUndo()
		begun := u.GetPhase() == agentplanev1.UndoPhase_UNDO_PHASE_RUNNING || u.GetPhase() == agentplanev1.UndoPhase_UNDO_PHASE_DONE
		switch {
		case armed(i):
			s.waiting = append(s.waiting, client.AgentOf(i))
			if s.until == 0 || u.GetUntil() < s.until {
				s.until = u.GetUntil()
			}
		case begun && u.GetUntil() != 0: // else it has never waited: the program did not succeed
			s.undone = append(s.undone, client.AgentOf(i))
		case !begun && u.GetConfirmedIndex() != 0:
			s.confirmed = append(s.confirmed, client.AgentOf(i))
		case !client.Final(i.State) && u == nil:
			s.later++
		}
		s.upTo = max(s.upTo, u.GetArmedIndex())
	}
	return s
}

// armed says that an invocation waits for a confirmation, or does for all that is known.
func armed(i *agentplanev1.Invocation) bool {
	u := i.GetUndo()
	waits := i.State == agentplanev1.AttemptState_ATTEMPT_STATE_RUNNING || i.State == agentplanev1.AttemptState_ATTEMPT_STATE_LOST
	return waits && !i.CancelRequested && u.GetPhase() == agentplanev1.UndoPhase_UNDO_PHASE_ARMED && u.GetConfirmedIndex() == 0
}

// termsText says when a command is undone; empty when it is not.
func termsText(t *agentplanev1.UndoTerms) string {
	if t == nil {
		return ""
	}
	within := shortDuration(time.Duration(t.GetWithin()))
	if t.GetBy() == agentplanev1.ConfirmBy_CONFIRM_BY_CONTACT {
		return "unless the agent reaches the cluster anew within " + within
	}
	return "unless it is confirmed within " + within
}

// termsOf are the terms of an undo that is asked for.
func termsOf(u *agentplanev1.UndoSpec) *agentplanev1.UndoTerms {
	if u == nil {
		return nil
	}
	return &agentplanev1.UndoTerms{Within: u.GetWithin(), By: u.GetBy()}
}

// tellTerms says when a command is undone that nobody watches, and what to type.
func (a *app) tellTerms(c *agentplanev1.Command) {
	if c.GetUndo() == nil {
		return
	}
	a.talk("what it did is undone %s of the program's end", termsText(c.GetUndo()))
	if c.GetUndo().GetBy() != agentplanev1.ConfirmBy_CONFIRM_BY_CONTACT {
		a.talk("keep it with: agentctl commands confirm %s", c.GetId())
	}
}

// undoColumn says how the undo of an invocation stands.
func undoColumn() column[*agentplanev1.Invocation] {
	return column[*agentplanev1.Invocation]{"UNDO", false, func(i *agentplanev1.Invocation) string { return undoText(i.GetUndo()) }}
}

func undoText(u *agentplanev1.Undo) string {
	var text string
	switch u.GetPhase() {
	case agentplanev1.UndoPhase_UNDO_PHASE_ARMED:
		if u.GetConfirmedIndex() != 0 {
			return "confirmed by " + u.GetConfirmedBy() + ", not told yet"
		}
		return "at " + clock(u.GetUntil())
	case agentplanev1.UndoPhase_UNDO_PHASE_CONFIRMED:
		if u.GetConfirmedIndex() != 0 {
			return "confirmed by " + u.GetConfirmedBy()
		}
		return "confirmed by contact"
	case agentplanev1.UndoPhase_UNDO_PHASE_RUNNING:
		text = "runs"
	case agentplanev1.UndoPhase_UNDO_PHASE_DONE:
		text = undoEnding(u)
	default:
		return ""
	}
	if u.GetCause() != "" {
		text += ", cause=" + u.GetCause()
	}
	if u.GetConfirmTooLate() {
		text += ", confirmed too late"
	}
	return text
}

// undoEnding says how an undo ended that was started.
func undoEnding(u *agentplanev1.Undo) string {
	switch {
	case u.GetState() == agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED:
		return "undone"
	case u.GetSignal() != 0:
		return fmt.Sprintf("undo %s signal %d", stateName(u.GetState()), u.GetSignal())
	case u.GetState() == agentplanev1.AttemptState_ATTEMPT_STATE_FAILED && u.GetExitCode() > 0:
		return fmt.Sprintf("undo %s exit %d", stateName(u.GetState()), u.GetExitCode())
	default:
		return "undo " + stateName(u.GetState())
	}
}

// waits tells of what waits for a confirmation, and what to type: when the first does, and
// when nothing else is under way any more.
type waits struct{ told int }

func (t *waits) take(say func(format string, args ...any), c *agentplanev1.Command) {
	var names []string
	until, others := int64(0), 0
	for _, i := range c.GetInvocations() {
		switch {
		case armed(i):
			names = append(names, client.AgentOf(i))
			if u := i.GetUndo().GetUntil(); until == 0 || u < until {
				until = u
			}
		case i.State >= agentplanev1.AttemptState_ATTEMPT_STATE_CLAIMED && !client.Final(i.State):
			others++
		}
	}
	if len(names) <= t.told || t.told > 0 && others > 0 {
		return
	}
	t.told = len(names)
	if c.GetUndo().GetBy() == agentplanev1.ConfirmBy_CONFIRM_BY_CONTACT {
		say("it is undone from %s on where the agent does not reach the cluster anew: %s", clock(until), shortList(names))
		return
	}
	say("it is undone from %s on unless it is confirmed: %s", clock(until), shortList(names))
	say("keep it with: agentctl commands confirm %s; undo it at once with: agentctl commands cancel %s", c.GetId(), c.GetId())
}

// shortList names the first few.
func shortList(names []string) string {
	const most = 8
	if len(names) <= most {
		return strings.Join(names, " ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], " "), len(names)-most)
}
