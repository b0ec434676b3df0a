package operator

import (
	"context"
	"maps"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// Fleet knows the agents.
type Fleet struct {
	agentplanev1.UnimplementedFleetServiceServer
	*service
}

// ListAgents answers the agents that the selector means, by id; the empty one means
// all.
func (f *Fleet) ListAgents(ctx context.Context, req *agentplanev1.ListAgentsRequest) (*agentplanev1.ListAgentsResponse, error) {
	sel, err := f.parseSelector(req.GetSelector(), true)
	if err != nil {
		return nil, err
	}
	v, err := f.read(ctx, req.GetStale())
	if err != nil {
		return nil, err
	}
	answer, now, size := &agentplanev1.ListAgentsResponse{}, f.now(v), 0
	for a := range matching(v, sel, now) {
		r := agentRow(v, a, now, req.GetWithFacts())
		if size += proto.Size(r); size > maxAnswerBytes {
			return nil, f.refuseHint(codes.ResourceExhausted, "too_large", "mean fewer agents, or leave their facts away",
				"the agents that are meant are above %d bytes", maxAnswerBytes)
		}
		answer.Agents = append(answer.Agents, r)
	}
	return answer, nil
}

// GetAgent answers one agent with its facts.
func (f *Fleet) GetAgent(ctx context.Context, req *agentplanev1.GetAgentRequest) (*agentplanev1.GetAgentResponse, error) {
	v, err := f.read(ctx, req.GetStale())
	if err != nil {
		return nil, err
	}
	a, err := f.agent(v, req.GetAgent())
	if err != nil {
		return nil, err
	}
	return &agentplanev1.GetAgentResponse{Agent: agentRow(v, a, f.now(v), true)}, nil
}

// SetLabels sets and removes labels, when their version is the expected one or none
// is expected.
func (f *Fleet) SetLabels(ctx context.Context, req *agentplanev1.SetLabelsRequest) (*agentplanev1.SetLabelsResponse, error) {
	if len(req.GetSet()) == 0 && len(req.GetRemove()) == 0 {
		return nil, f.refuseHint(codes.InvalidArgument, "no_labels", "write NAME=VALUE to set a label, NAME- to remove it", "no label is to be set or removed")
	}
	for _, name := range req.GetRemove() {
		if _, both := req.GetSet()[name]; both {
			return nil, f.refuse(codes.InvalidArgument, "label_twice", "label %q is to be set and to be removed", name)
		}
	}
	a, err := f.agent(f.o.Machine.View(), req.GetAgent())
	if err != nil {
		return nil, err
	}
	m := &raftlogv1.SetAgentLabels{AgentId: a.GetId(), Remove: req.GetRemove(), ExpectedVersion: req.GetExpectedVersion()}
	for _, name := range slices.Sorted(maps.Keys(req.GetSet())) { // the same request is the same mutation
		m.Set = append(m.Set, &raftlogv1.Label{Name: name, Value: req.GetSet()[name]})
	}
	row, err := f.changed(ctx, a.GetId(), &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_SetAgentLabels{SetAgentLabels: m}})
	if err != nil {
		return nil, err
	}
	return &agentplanev1.SetLabelsResponse{Agent: row}, nil
}

// RemoveAgent forgets an agent. What it had claimed is LOST, what waited is SKIPPED.
// One that was removed before is answered alike, for as long as that is remembered.
func (f *Fleet) RemoveAgent(ctx context.Context, req *agentplanev1.RemoveAgentRequest) (*agentplanev1.RemoveAgentResponse, error) {
	m := &raftlogv1.RemoveAgent{}
	v := f.o.Machine.View()
	a, err := f.agent(v, req.GetAgent())
	if err != nil {
		before, removed := v.RemovedAgent(req.GetAgent())
		if status.Code(err) != codes.NotFound || !removed {
			return nil, err
		}
		m.AgentId, m.EnrolledIndex = before.GetAgentId(), before.GetEnrolledIndex()
	} else {
		m.AgentId, m.EnrolledIndex = a.GetId(), a.GetEnrolledIndex()
	}
	o, _, err := f.propose(ctx, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RemoveAgent{RemoveAgent: m}})
	if err != nil {
		return nil, err
	}
	if o.GetRepeated() {
		return &agentplanev1.RemoveAgentResponse{}, nil
	}
	f.o.Logger.Info("agent removed", "agent_id", a.GetId(), "name", a.GetName(), "by", f.callerName(ctx))
	return &agentplanev1.RemoveAgentResponse{}, nil
}

// ReadmitAgent ends a quarantine.
func (f *Fleet) ReadmitAgent(ctx context.Context, req *agentplanev1.ReadmitAgentRequest) (*agentplanev1.ReadmitAgentResponse, error) {
	a, err := f.agent(f.o.Machine.View(), req.GetAgent())
	if err != nil {
		return nil, err
	}
	row, err := f.changed(ctx, a.GetId(), &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReadmitAgent{
		ReadmitAgent: &raftlogv1.ReadmitAgent{AgentId: a.GetId()},
	}})
	if err != nil {
		return nil, err
	}
	return &agentplanev1.ReadmitAgentResponse{Agent: row}, nil
}

// changed proposes and answers the agent as it is then.
func (f *Fleet) changed(ctx context.Context, id string, m *raftlogv1.Mutation) (*agentplanev1.Agent, error) {
	_, v, err := f.propose(ctx, m)
	if err != nil {
		return nil, err
	}
	a, err := f.agent(v, id)
	if err != nil {
		return nil, err // removed meanwhile
	}
	return agentRow(v, a, f.now(v), true), nil
}
