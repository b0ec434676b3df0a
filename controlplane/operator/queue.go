package operator

import (
	"context"
	"fmt"

	"google.golang.org/grpc/codes"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

const (
	defaultQueued = 1000
	maxQueued     = 10_000
)

// GetQueue answers what an agent does and what waits for it, in the order of claims. The
// reasons are those for which the agent's node passes it by ([fsm.Turn]).
func (c *Commands) GetQueue(ctx context.Context, req *agentplanev1.GetQueueRequest) (*agentplanev1.GetQueueResponse, error) {
	v, err := c.read(ctx, req.GetStale())
	if err != nil {
		return nil, err
	}
	limit := int(req.GetLimit())
	switch {
	case limit == 0:
		limit = defaultQueued
	case limit > maxQueued:
		return nil, c.refuseHint(codes.InvalidArgument, "limit", "ask for less", "limit %d is above the maximum %d", limit, maxQueued)
	}
	a, err := c.agent(v, req.GetAgent())
	if err != nil {
		return nil, err
	}
	q := newQueueReader(v, a, c.now(v))
	answer := &agentplanev1.GetQueueResponse{AgentId: a.GetId(), AgentName: a.GetName(), Health: q.health, Slots: q.session.GetSlots()}
	for _, state := range []raftlogv1.AttemptState{
		raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING, raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED,
		raftlogv1.AttemptState_ATTEMPT_STATE_RELEASED, raftlogv1.AttemptState_ATTEMPT_STATE_PENDING,
	} {
		for i := range v.Work(a.GetOrdinal(), state) {
			if i.GetState() >= raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED {
				answer.Running++
			} else {
				answer.Waiting++
			}
			if item := q.item(i); len(answer.Items) < limit {
				answer.Items = append(answer.Items, item)
			}
		}
	}
	return answer, nil
}

// queueReader goes through an agent's work as its node does. What runs comes first.
type queueReader struct {
	view    *fsm.View
	row     *raftlogv1.Agent
	session *raftlogv1.Session
	now     int64
	health  string
	agent   wait // what keeps everything from being claimed
	turn    fsm.Turn
	used    uint32 // slots
}

// wait is why something waits.
type wait struct{ reason, command, detail string }

func newQueueReader(v *fsm.View, a *raftlogv1.Agent, now int64) *queueReader {
	q := &queueReader{view: v, row: a, now: now}
	q.session, _ = v.Session(a.GetId())
	health, reason, detail := Health(a, q.session, now)
	q.health = health
	switch state := q.session.GetState(); {
	case a.GetQuarantine() != raftlogv1.Quarantine_QUARANTINE_UNSPECIFIED:
		q.agent = wait{reason: "quarantined", detail: fmt.Sprintf("the agent is QUARANTINED(%s): %s", reason, detail)}
	case state == raftlogv1.SessionState_SESSION_STATE_OPEN:
		q.agent = wait{reason: "not_ready", detail: "the agent has not journalled its session yet"}
	case state != raftlogv1.SessionState_SESSION_STATE_READY:
		q.agent = wait{reason: "offline", detail: "the agent is " + health}
	}
	return q
}

func (q *queueReader) item(i *raftlogv1.Invocation) *agentplanev1.QueueItem {
	c, _ := q.view.Command(i.GetCommandId())
	w := q.wait(i, c)
	return &agentplanev1.QueueItem{
		InvocationId: i.GetId(), CommandId: c.GetId(), Attempt: i.GetAttempt(), State: agentplanev1.AttemptState(i.GetState()),
		Priority: uint32(fsm.NormalPriority + c.GetPrecedence()), SubmittedAt: c.GetSubmittedAt(), SubmittedBy: c.GetSubmittedBy(),
		Summary: c.GetSummary(), Locks: c.GetLocks(), Exclusive: c.GetExclusive(),
		FleetLocks: c.GetFleetLocks(),
		Waits:      w.reason, WaitsFor: w.command, Detail: w.detail,
	}
}

func (q *queueReader) wait(i *raftlogv1.Invocation, c *raftlogv1.Command) wait {
	switch {
	case i.GetState() >= raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED:
		q.take(i, c)
		if i.GetReason() == rebootAnnounced {
			return wait{reason: "reboot", detail: i.GetDetail()}
		}
		return wait{}
	case i.GetHeld():
		return wait{reason: "held", detail: "it was queued before the cluster was recovered, and is held"}
	case q.now >= c.GetNotAfter():
		return wait{reason: "expired", detail: "it expired at " + stamp(c.GetNotAfter())}
	case q.now < c.GetNotBefore():
		return wait{reason: "not_before", detail: "it begins at " + stamp(c.GetNotBefore())}
	case q.view.Stopped(c):
		return wait{reason: "paused", detail: "its command is paused: see agentctl commands get " + c.GetId()}
	case i.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_PENDING:
		return wait{reason: "not_released", detail: "its wave has not come"}
	case q.now < fsm.StartsAt(c, i):
		return wait{reason: "not_before", detail: "it begins at " + stamp(fsm.StartsAt(c, i)) + ", within the splay of its command"}
	case q.agent.reason != "":
		return q.agent
	}
	if w := q.turn.Ask(i, c); w.Reason != "" {
		return wait{w.Reason, w.CommandID, w.String()}
	}
	for _, n := range q.view.Needs(q.row, c) {
		if w := q.view.Blocked(n); w.Reason != "" {
			return wait{w.Reason, w.CommandID, w.String()}
		}
	}
	if q.used >= q.session.GetSlots() {
		return wait{reason: "slot", detail: fmt.Sprintf("all %d slots are taken", q.session.GetSlots())}
	}
	q.take(i, c)
	return wait{detail: "it is about to be claimed"}
}

func (q *queueReader) take(i *raftlogv1.Invocation, c *raftlogv1.Command) {
	q.turn.Take(i, c)
	q.used++
}
