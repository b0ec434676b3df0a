package operator

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// Words of a step of a proof.
const (
	whatSubmitted   = "submitted"
	whatReleased    = "released"
	whatClaimed     = "claimed"
	whatStarted     = "started"
	whatArmed       = "armed"
	whatConfirmed   = "confirmed"
	whatUndoStarted = "undo_started"
	whatCancelAsked = "cancel_asked"
	whatResult      = "result"
)

// byCluster is who decided what no single operator, node or agent did: the leader by the
// state, and the state machine.
const byCluster = "cluster"

// Why answers the proof of one invocation. The agent may have been removed since.
func (c *Commands) Why(ctx context.Context, req *agentplanev1.WhyRequest) (*agentplanev1.WhyResponse, error) {
	v, err := c.read(ctx, false)
	if err != nil {
		return nil, err
	}
	row, err := c.command(v, req.GetCommandId())
	if err != nil {
		return nil, err
	}
	meant, err := c.invocation(v, row, req.GetAgent())
	if err != nil {
		return nil, err
	}
	answer := &agentplanev1.WhyResponse{Command: commandRow(row), Invocation: invocationRow(v, meant, false)}
	answer.Transitions = proof(row, meant)
	envelope, _ := v.Envelope(row.GetId())
	signed, spec, err := c.asked(v, row.GetId())
	if err != nil {
		return nil, err
	}
	if len(spec.GetSecrets()) == 0 { // else it would tell whether a guess is right
		sum := sha256.Sum256(envelope)
		answer.EnvelopeSha256 = hex.EncodeToString(sum[:])
	}
	answer.Command.Spec = withoutSecrets(spec)
	for _, s := range signed.GetSignatures() {
		answer.KeyIds = append(answer.KeyIds, s.GetKeyId())
	}
	return answer, nil
}

// invocation is that of the command on the agent, by id or name.
func (c *Commands) invocation(v *fsm.View, row *raftlogv1.Command, agent string) (*raftlogv1.Invocation, error) {
	var meant *raftlogv1.Invocation
	var ids []string
	for i := range v.Invocations(row.GetId()) {
		if i.GetAgentId() == agent {
			return i, nil
		}
		if a, _ := v.Agent(i.GetAgentId()); a != nil && a.GetName() == agent {
			meant = i
			ids = append(ids, i.GetAgentId())
		}
	}
	switch {
	case meant == nil:
		return nil, c.refuseHint(codes.NotFound, "no_invocation",
			fmt.Sprintf(`see "agentctl commands get %s"; an agent that was removed is named by its id: its name is gone`, row.GetId()),
			"command %q means no agent %q", row.GetId(), agent)
	case len(ids) > 1:
		return nil, c.ambiguous(agent, ids)
	}
	return meant, nil
}

// asked is what the command's exact bytes say.
func (c *Commands) asked(v *fsm.View, id string) (*agentplanev1.Envelope, *agentplanev1.CommandSpec, error) {
	bytes, _ := v.Envelope(id)
	envelope, spec := &agentplanev1.Envelope{}, &agentplanev1.CommandSpec{}
	err := proto.Unmarshal(bytes, envelope)
	if err == nil {
		err = proto.Unmarshal(envelope.GetSpec(), spec)
	}
	if err != nil { // it was read when it was submitted
		return nil, nil, c.refuse(codes.DataLoss, "bad_envelope", "the envelope of command %q cannot be read: %v", id, err)
	}
	return envelope, spec, nil
}

// proof are the steps of an invocation. What was released or skipped by its submission
// has one row for both. Of a program that ends at once the agent's first word may be its
// result, which then is what proves the start, too.
func proof(c *raftlogv1.Command, i *raftlogv1.Invocation) []*agentplanev1.Transition {
	var steps []*agentplanev1.Transition
	running := uint32(0) // the attempt that was last seen to run
	for n, t := range i.GetTransitions() {
		if s := t.GetState(); n == 0 && (s == raftlogv1.AttemptState_ATTEMPT_STATE_RELEASED || s == raftlogv1.AttemptState_ATTEMPT_STATE_SKIPPED) {
			submitted := step(c, i, t)
			submitted.State, submitted.What, submitted.Reason = agentplanev1.AttemptState_ATTEMPT_STATE_PENDING, whatSubmitted, ""
			submitted.By = operatorWord(c.GetSubmittedBy())
			steps = append(steps, submitted)
		}
		told := t.GetAttempt() == i.GetAttempt() && t.GetState() > raftlogv1.AttemptState_ATTEMPT_STATE_LOST
		switch {
		case t.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING && running != t.GetAttempt():
			running = t.GetAttempt()
			if runningWord(t.GetReason()) != whatStarted { // of a program that ended at once
				steps = append(steps, startedStep(c, i, t))
			}
		case told && running != t.GetAttempt() && i.GetResult().GetStartedAt() != 0:
			steps = append(steps, startedStep(c, i, t))
		}
		steps = append(steps, step(c, i, t))
	}
	if u := i.GetUndo(); u.GetConfirmIndex() != 0 {
		steps = between(steps, &agentplanev1.Transition{
			What: whatConfirmed, Index: u.GetConfirmIndex(), At: u.GetConfirmedAt(), By: operatorWord(u.GetConfirmedBy()),
		})
	}
	if i.GetCancelIndex() != 0 {
		steps = between(steps, &agentplanev1.Transition{
			What: whatCancelAsked, Index: i.GetCancelIndex(), At: c.GetCanceledAt(), By: operatorWord(c.GetCanceledBy()), Reason: "canceled",
		})
	}
	return steps
}

// startedStep is the start that was told together with what came after it.
func startedStep(c *raftlogv1.Command, i *raftlogv1.Invocation, t *raftlogv1.Transition) *agentplanev1.Transition {
	started := step(c, i, t)
	started.State, started.What, started.Reason = agentplanev1.AttemptState_ATTEMPT_STATE_RUNNING, whatStarted, "told_with_result"
	return started
}

// between puts what an operator asked among the steps, by its index. It moved no state.
func between(steps []*agentplanev1.Transition, asked *agentplanev1.Transition) []*agentplanev1.Transition {
	at := slices.IndexFunc(steps, func(t *agentplanev1.Transition) bool { return t.GetIndex() > asked.Index })
	if at < 0 {
		at = len(steps)
	}
	asked.State, asked.Attempt = steps[max(at-1, 0)].GetState(), steps[max(at-1, 0)].GetAttempt()
	return slices.Insert(steps, at, asked)
}

// step is one transition, with what it was and who decided it.
func step(c *raftlogv1.Command, i *raftlogv1.Invocation, t *raftlogv1.Transition) *agentplanev1.Transition {
	r := transitionRow(t)
	r.By = byCluster
	switch s := t.GetState(); {
	case s == raftlogv1.AttemptState_ATTEMPT_STATE_PENDING:
		r.What, r.By = whatSubmitted, operatorWord(c.GetSubmittedBy())
	case s == raftlogv1.AttemptState_ATTEMPT_STATE_RELEASED:
		r.What = whatReleased
	case s == raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED:
		r.What, r.By = whatClaimed, "node "+t.GetNodeId()
	case s == raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING:
		r.What, r.By = runningWord(t.GetReason()), "agent "+i.GetAgentId()
	case t.GetNodeId() != "": // through this node its agent reported it
		r.What, r.By = whatResult, "agent "+i.GetAgentId()
	case s == raftlogv1.AttemptState_ATTEMPT_STATE_CANCELED && t.GetReason() == "superseded":
		r.What = whatResult
	case s == raftlogv1.AttemptState_ATTEMPT_STATE_CANCELED && t.GetReason() == "aborted":
		r.What = whatResult
		if by := c.GetAbort().GetBy(); by != "" {
			r.By = operatorWord(by)
		}
	case s == raftlogv1.AttemptState_ATTEMPT_STATE_CANCELED:
		r.What, r.By = whatResult, operatorWord(c.GetCanceledBy())
	default:
		r.What = whatResult
	}
	return r
}

// runningWord is what a step of a RUNNING attempt was.
func runningWord(reason string) string {
	switch reason {
	case "armed", "rearmed":
		return whatArmed
	case "undoing":
		return whatUndoStarted
	default:
		return whatStarted
	}
}

// operatorWord says of whom rows name by one word alone that it is an operator.
func operatorWord(name string) string {
	if name == "" || name == callerLocal || strings.Contains(name, " ") {
		return cmp.Or(name, byCluster)
	}
	return "operator " + name
}
