package sim

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
	"google.golang.org/grpc/codes"

	"github.com/agentplane/agentplane/agent/execute"
	"github.com/agentplane/agentplane/e2e/linear"
	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

const (
	// Of the contents of a command the history has these: nobody submits a third one that is
	// taken.
	usualContent = "the usual"
	rivalContent = "its rival"
	// confirmation is what operators ask that is no part of the history.
	confirmation = "confirm"
	// judgedClaims bounds for how many agents a command may be whose claims are judged by
	// porcupine: it tries their orders.
	judgedClaims = 4
)

// forgedArgv is the program of rivals.
var forgedArgv = []string{"work", "1ms", "7"}

// asks begins an operation of the history.
func (o *operators) asks(kind string, cmd *command) linear.CommandOp {
	return linear.CommandOp{Command: cmd.id, Kind: kind, Content: cmd.content, Call: o.w.trace.age(time.Now())}
}

// tellLocked ends an operation with its answer. What is known to have done nothing is none; nor is
// a read that was not answered.
func (o *operators) tellLocked(op linear.CommandOp, err error) {
	op.End = o.w.trace.age(time.Now())
	switch e := client.AsError(err); {
	case err == nil:
		op.Answer = linear.OK
	case e.OutcomeUnknown && op.Kind != linear.Read:
		op.Answer = linear.Unknown
	case e.Reason == "no_command":
		op.Answer = linear.Absent
	case e.Code == codes.AlreadyExists && op.Kind == linear.Submit:
		op.Answer = linear.Conflict
	default:
		return
	}
	op.Repeated = op.Kind == linear.Submit // maybe: its index is compared with that of the first
	o.ops = append(o.ops, op)
}

// note adds an answer to what is known of a write.
func (o *operators) note(f *fate, op linear.CommandOp, index uint64, cmd *command, err error) {
	o.heed(err)
	e := client.AsError(err)
	o.mu.Lock()
	defer o.mu.Unlock()
	if op.Kind != confirmation {
		o.tellLocked(op, err)
	}
	switch {
	case err == nil:
		f.acked++
		o.writes++
		if op.Kind == linear.Submit {
			o.last = cmd // of two rivals either: the id is the same
			if f.index != 0 && f.index != index {
				o.w.fault("%s was acknowledged at index %d and then at %d", cmd.id, f.index, index)
			}
			f.index = index
		}
		o.w.trace.Note("operator", "%s %s %v: ok at %d", op.Kind, cmd.id, cmd.agents, index)
	case e.OutcomeUnknown:
		f.unknown++
		o.w.trace.Note("operator", "%s %s: unknown: %v", op.Kind, cmd.id, err)
	default:
		f.refused++
		o.w.trace.Note("operator", "%s %s: refused: %v", op.Kind, cmd.id, err)
	}
}

// read reads what was acknowledged before, and must find it.
func (o *operators) read(ctx context.Context, c *client.Client, cmd *command) {
	o.mu.Lock()
	acked, canceled := cmd.submit.acked > 0, cmd.canceled
	o.mu.Unlock()
	op := o.asks(linear.Read, cmd)
	r, err := agentplanev1.NewCommandServiceClient(c).GetCommand(ctx, &agentplanev1.GetCommandRequest{Id: cmd.id, WithInvocations: true, WithSpec: true})
	row := r.GetCommand()
	op.Canceled, op.Claims = row.GetCanceledBy() != "", claimedOf(row)
	if op.Content = usualContent; slices.Equal(row.GetSpec().GetArgv(), forgedArgv) {
		op.Content = rivalContent
	}
	e := client.AsError(err)
	o.heed(err)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tellLocked(op, err)
	switch {
	case err == nil:
		o.reads++
		if canceled && !op.Canceled {
			o.w.fault("stale read: the cancel of %s was acknowledged before", cmd.id)
		}
	case e.Code == codes.NotFound:
		o.reads++
		if acked {
			o.w.fault("stale read: %s was acknowledged before, and is not found", cmd.id)
		}
	default:
		o.failed++
	}
}

// claimedOf are the invocations that a read saw claimed; nil where that is not judged. In lives no
// attempt follows another one.
func claimedOf(row *agentplanev1.Command) []string {
	if len(row.GetInvocations()) > judgedClaims {
		return nil
	}
	return linear.ClaimedOf(row)
}

// judgeHistories has porcupine judge what operators were told of commands, with the claims of
// their invocations: a claim was made before its program started, which the hosts saw. A cancel
// whose outcome was unknown did nothing where the command is not canceled in the end.
func (w *World) judgeHistories(v *fsm.View, starts map[execute.Attempt][]Start) {
	began := make(map[string]time.Time) // by invocation, the first start
	for at, all := range starts {
		if t, seen := began[at.InvocationID]; !seen || all[0].At.Before(t) {
			began[at.InvocationID] = all[0].At
		}
	}
	byCommand := make(map[string][]linear.CommandOp)
	for _, op := range w.operators.ops {
		row, _ := v.Command(op.Command)
		if op.Kind != linear.Cancel || op.Answer != linear.Unknown || row.GetCancelIndex() != 0 {
			byCommand[op.Command] = append(byCommand[op.Command], op)
		}
	}
	judged, claims := 0, 0
	for id, ops := range byCommand {
		var claimed []linear.CommandOp
		n := 0
		for i := range v.Invocations(id) {
			n++
			op := linear.CommandOp{Command: id, Kind: linear.Claim, Claims: []string{i.GetId()}}
			t, started := began[i.GetId()]
			if started {
				op.End = w.trace.age(t)
			}
			if started || i.GetFence() != 0 {
				claimed = append(claimed, op)
			}
		}
		if n <= judgedClaims {
			ops = append(ops, claimed...)
			claims += len(claimed)
		}
		result, err := linear.JudgeCommands(ops, "")
		if result == porcupine.Illegal {
			w.fault("the history of %s is:\n%s", id, lines(ops))
		}
		w.judgeHistory("command "+id, result, err, nil)
		judged += len(ops)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.accepted["operations on commands"] += judged
	w.accepted["claims in histories"] += claims
}

// lines has one operation on each line.
func lines(ops []linear.CommandOp) string {
	var all []string
	for _, op := range ops {
		all = append(all, op.String())
	}
	return strings.Join(all, "\n")
}
