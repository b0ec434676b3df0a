package operator

import (
	"context"
	"iter"
	"slices"
	"sort"
	"strings"

	"google.golang.org/grpc/codes"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

const (
	defaultListed = 100
	maxListed     = 1000
	// maxLooked bounds how many rows one call looks at, whatever it finds: some
	// milliseconds. The answer says where the next call goes on.
	maxLooked = 20_000
	// maxFilterBytes bounds what a filter compares with.
	maxFilterBytes = 1024
)

// ListCommands answers commands, the newest first, each with its probes behind it, which
// the limit does not count.
func (c *Commands) ListCommands(ctx context.Context, req *agentplanev1.ListCommandsRequest) (*agentplanev1.ListCommandsResponse, error) {
	v, err := c.read(ctx, req.GetStale())
	if err != nil {
		return nil, err
	}
	limit := int(req.GetLimit())
	switch {
	case limit == 0:
		limit = defaultListed
	case limit > maxListed:
		return nil, c.refuseHint(codes.InvalidArgument, "limit", "ask for less, then for those before the last",
			"limit %d is above the maximum %d", limit, maxListed)
	}
	f, err := c.filter(v, req)
	if err != nil {
		return nil, err
	}
	rows, err := c.from(v, req)
	if err != nil {
		return nil, err
	}
	answer := &agentplanev1.ListCommandsResponse{}
	last := "" // that was looked at
	looked, listed := 0, 0
	for row := range rows {
		if row.GetSubmittedAt() < req.GetSince() {
			break // all others are older: the cluster's time never goes back
		}
		if looked >= maxLooked || listed == limit {
			answer.More, answer.Next = true, last
			break
		}
		looked += f.cost(row)
		f.look(row)
		if row.GetParentId() != "" {
			continue // it stands with its parent
		}
		last = row.GetId()
		if !f.means(v, row) {
			continue
		}
		listed++
		answer.Commands = append(answer.Commands, commandRow(row))
		for _, w := range row.GetRollout().GetWaves() {
			if probe, found := v.Command(w.GetProbeId()); found {
				answer.Commands = append(answer.Commands, commandRow(probe))
			}
		}
	}
	if f.whole() && !answer.GetMore() {
		if err := c.unknownName(v, f); err != nil {
			return nil, err
		}
	}
	return answer, nil
}

// unknownName refuses a list of all that a schedule or an operator made, or of the reruns of
// a command, when there is none of that name, nor a command left of one that is gone.
func (c *Commands) unknownName(v *fsm.View, f *filter) error {
	if name := f.req.GetSchedule(); name != "" && !f.schedule {
		if _, found := v.Schedule(name); !found {
			return c.refuse(codes.NotFound, "no_schedule", "there is no schedule %.100q, and no command of one that was deleted", name)
		}
	}
	if id := f.req.GetRerunOf(); id != "" && !f.rerun {
		if _, err := c.command(v, id); err != nil {
			return err
		}
	}
	if name := f.req.GetSubmittedBy(); name != "" && !f.operator {
		if _, found := v.Operator(name); !found {
			return c.refuse(codes.NotFound, "no_operator", "there is no operator %.100q, and no command of one that was removed", name)
		}
	}
	return nil
}

// from yields the commands, newest first, from where the request begins.
func (c *Commands) from(v *fsm.View, req *agentplanev1.ListCommandsRequest) (iter.Seq[*raftlogv1.Command], error) {
	var before uint64
	var first *raftlogv1.Command // the one that those asked for stand behind
	if req.GetBefore() != "" {
		var err error
		if first, err = c.command(v, req.GetBefore()); err != nil {
			return nil, err
		}
		if parent := first.GetParentId(); parent != "" { // it stands with its parent
			if first, err = c.command(v, parent); err != nil {
				return nil, err
			}
		}
		// Several commands may share an index: begin at it and pass by those up to
		// the one that was named.
		before = first.GetSubmittedIndex() + 1
	}
	if until := req.GetUntil(); until != 0 {
		// Indexes and times grow together: halving finds the first index at which the
		// time was reached, without a look at what came after it.
		reached := sort.Search(int(v.Index())+1, func(index int) bool {
			for row := range v.CommandsNewestFirst(uint64(index) + 1) {
				return row.GetSubmittedAt() >= until
			}
			return false
		})
		if index := uint64(reached); before == 0 || index < before {
			before, first = max(index, 1), nil
		}
	}
	return func(yield func(*raftlogv1.Command) bool) {
		for row := range v.CommandsNewestFirst(before) {
			if first != nil && row.GetSubmittedIndex() == first.GetSubmittedIndex() && row.GetId() >= first.GetId() {
				continue
			}
			if !yield(row) {
				return
			}
		}
	}, nil
}

// filter is what the commands of a list have in common.
type filter struct {
	req     *agentplanev1.ListCommandsRequest
	text    string
	byAgent bool
	ordinal uint32 // of the agent
	agentID string // of an agent that was removed

	schedule, operator, rerun bool // a command of that name, or from that one, was looked at
}

// whole says that the list has no beginning and no end: what is not met is not there.
func (f *filter) whole() bool {
	return f.req.GetBefore() == "" && f.req.GetSince() == 0 && f.req.GetUntil() == 0
}

// look remembers whose the command is, whether it is listed or not.
func (f *filter) look(row *raftlogv1.Command) {
	f.schedule = f.schedule || row.GetSchedule() == f.req.GetSchedule()
	f.rerun = f.rerun || row.GetRerunOf() == f.req.GetRerunOf()
	f.operator = f.operator || row.GetSubmittedBy() == f.req.GetSubmittedBy()
}

func (c *Commands) filter(v *fsm.View, req *agentplanev1.ListCommandsRequest) (*filter, error) {
	f := &filter{req: req, text: strings.ToLower(req.GetText()), byAgent: req.GetAgent() != ""}
	if s := req.GetState(); agentplanev1.CommandState_name[int32(s)] == "" {
		return nil, c.refuse(codes.InvalidArgument, "state", "command state %d is none of ACTIVE, CANCELING, DONE", s)
	}
	for _, s := range req.GetOutcomes() {
		if s == 0 || agentplanev1.AttemptState_name[int32(s)] == "" {
			return nil, c.refuse(codes.InvalidArgument, "state", "%d is no state of an attempt", s)
		}
	}
	if n := len(req.GetText()) + len(req.GetOutcomes()); n > maxFilterBytes {
		return nil, c.refuse(codes.InvalidArgument, "filter", "the text and the outcomes of the list are above %d bytes", maxFilterBytes)
	}
	if req.GetSince() < 0 || req.GetUntil() < 0 {
		return nil, c.refuse(codes.InvalidArgument, "filter", "the list begins or ends before 1970")
	}
	if !f.byAgent {
		return f, nil
	}
	a, err := c.agent(v, req.GetAgent())
	if err == nil {
		f.ordinal = a.GetOrdinal()
		return f, nil
	}
	removed, found := v.RemovedAgent(req.GetAgent())
	if !found {
		return nil, err
	}
	f.agentID = removed.GetAgentId()
	return f, nil
}

// means says whether the command is one of those.
func (f *filter) means(v *fsm.View, row *raftlogv1.Command) bool {
	req := f.req
	switch {
	case req.GetState() != 0 && agentplanev1.CommandState(row.GetState()) != req.GetState(),
		req.GetSubmittedBy() != "" && row.GetSubmittedBy() != req.GetSubmittedBy(),
		req.GetRerunOf() != "" && row.GetRerunOf() != req.GetRerunOf(),
		req.GetSchedule() != "" && row.GetSchedule() != req.GetSchedule(),
		req.GetPaused() && !paused(row),
		f.text != "" && !strings.Contains(strings.ToLower(row.GetSummary()), f.text) && !strings.Contains(strings.ToLower(row.GetSelector()), f.text):
		return false
	case f.byAgent:
		i, found := f.invocation(v, row)
		return found && (len(req.GetOutcomes()) == 0 || slices.Contains(req.GetOutcomes(), agentplanev1.AttemptState(i.GetState())))
	case len(req.GetOutcomes()) > 0:
		return slices.ContainsFunc(row.GetCounts(), func(n *raftlogv1.StateCount) bool {
			return slices.Contains(req.GetOutcomes(), agentplanev1.AttemptState(n.GetState()))
		})
	}
	return true
}

// paused says that somebody may resume the command.
func paused(row *raftlogv1.Command) bool {
	return row.GetPause() != nil && row.GetState() == raftlogv1.CommandState_COMMAND_STATE_ACTIVE
}

// cost is how many rows are looked at to judge the command.
func (f *filter) cost(row *raftlogv1.Command) int {
	if f.agentID != "" {
		return 1 + int(row.GetTargets())
	}
	return 1
}

// invocation is that of the command on the agent.
func (f *filter) invocation(v *fsm.View, row *raftlogv1.Command) (*raftlogv1.Invocation, bool) {
	if f.agentID == "" {
		return v.Invocation(fsm.InvocationID(row.GetId(), f.ordinal))
	}
	for i := range v.Invocations(row.GetId()) {
		if i.GetAgentId() == f.agentID {
			return i, true
		}
	}
	return nil, false
}
