package clienttest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/selector"
)

type commandService struct {
	agentplanev1.UnimplementedCommandServiceServer
	service
}

func decodeSpec(envelope []byte) (*agentplanev1.Envelope, *agentplanev1.CommandSpec, error) {
	var e agentplanev1.Envelope
	var spec agentplanev1.CommandSpec
	if err := proto.Unmarshal(envelope, &e); err != nil {
		return nil, nil, err
	}
	if err := proto.Unmarshal(e.Spec, &spec); err != nil {
		return nil, nil, err
	}
	return &e, &spec, nil
}

// target is an agent as a selector sees it.
type target struct{ a *agentplanev1.Agent }

func (t target) ID() string     { return t.a.Id }
func (t target) Name() string   { return t.a.Name }
func (t target) Health() string { return t.a.Health }
func (t target) Label(name string) (string, bool) {
	v, ok := t.a.Labels[name]
	return v, ok
}

func (t target) Fact(name string) (string, bool) {
	v, ok := t.a.Facts[name]
	return v, ok
}

func (s *State) matchLocked(expr string) ([]*agentplanev1.Agent, error) {
	if expr == "" {
		return s.agents, nil
	}
	sel, err := selector.Parse(expr)
	if err != nil {
		return nil, Refusal(codes.InvalidArgument, "bad_selector", err.Error(), "")
	}
	var matched []*agentplanev1.Agent
	for _, a := range s.agents {
		if sel.Match(target{a}) {
			matched = append(matched, a)
		}
	}
	return matched, nil
}

func (c commandService) Submit(ctx context.Context, req *agentplanev1.SubmitRequest) (*agentplanev1.SubmitResponse, error) {
	_, spec, err := decodeSpec(req.Envelope)
	if err != nil {
		return nil, Refusal(codes.InvalidArgument, "bad_envelope", err.Error(), "")
	}
	s := c.state
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.commandLocked(spec.CommandId); old != nil {
		if !bytes.Equal(old.envelope, req.Envelope) {
			return nil, Refusal(codes.AlreadyExists, "conflict", fmt.Sprintf("command %s stands with another content", spec.CommandId), "leave --id away")
		}
		return &agentplanev1.SubmitResponse{Command: old.view(false, false), Repeated: true}, nil
	}
	if spec.ClusterId != s.bundle.ClusterId || spec.NotAfter == 0 {
		return nil, Refusal(codes.InvalidArgument, "bad_spec", "cluster id or not_after is missing", "")
	}
	matched, err := s.matchLocked(spec.Selector)
	if err != nil {
		return nil, err
	}
	if len(matched) == 0 {
		return nil, Refusal(codes.NotFound, "no_targets", fmt.Sprintf("no agent matches %q", spec.Selector), "see agentctl agents list")
	}
	s.changedLocked()
	cmd := &command{
		envelope: req.Envelope, transitions: map[string][]*agentplanev1.Transition{},
		command: &agentplanev1.Command{
			Id: spec.CommandId, State: agentplanev1.CommandState_COMMAND_STATE_ACTIVE, Summary: fmt.Sprint(spec.Argv),
			Selector: spec.Selector, SubmittedBy: "admin", SubmittedAt: time.Now().UnixNano(), SubmittedIndex: s.index,
			NotAfter: spec.NotAfter, Targets: uint32(len(matched)),
			Locks: spec.Locks, Exclusive: spec.Exclusive, Priority: 50, Supersede: spec.Supersede, FleetLocks: spec.FleetLocks,
		},
	}
	if spec.Priority != nil {
		cmd.command.Priority = *spec.Priority
	}
	s.commands = append(s.commands, cmd)
	for n, a := range matched {
		i := &agentplanev1.Invocation{
			Id: invocationID(spec.CommandId, n), CommandId: spec.CommandId, AgentId: a.Id, AgentName: a.Name,
			Attempt: 1, NodeId: "id-node-a",
		}
		cmd.invocations = append(cmd.invocations, i)
		s.startLocked(cmd, i, a, spec.QueueOffline)
	}
	return &agentplanev1.SubmitResponse{Command: cmd.view(false, false)}, nil
}

func (c commandService) SubmitBatch(ctx context.Context, req *agentplanev1.SubmitBatchRequest) (*agentplanev1.SubmitBatchResponse, error) {
	answer := &agentplanev1.SubmitBatchResponse{}
	for _, envelope := range req.GetEnvelopes() {
		r, err := c.Submit(ctx, &agentplanev1.SubmitRequest{Envelope: envelope})
		a := &agentplanev1.SubmitAnswer{SubmittedIndex: r.GetCommand().GetSubmittedIndex(), Targets: r.GetCommand().GetTargets(), Repeated: r.GetRepeated()}
		if err != nil {
			a.Refusal = &agentplanev1.ItemRefusal{Code: uint32(status.Code(err)), Message: status.Convert(err).Message(), Detail: agentplanev1.DetailOf(err)}
		}
		answer.Answers = append(answer.Answers, a)
	}
	return answer, nil
}

func (s *State) startLocked(cmd *command, i *agentplanev1.Invocation, a *agentplanev1.Agent, queue bool) {
	s.moveLocked(cmd, i, agentplanev1.AttemptState_ATTEMPT_STATE_PENDING, "")
	if a.Health == "DOWN" {
		if !queue {
			s.moveLocked(cmd, i, agentplanev1.AttemptState_ATTEMPT_STATE_SKIPPED, "offline")
		}
		return
	}
	for _, state := range []agentplanev1.AttemptState{
		agentplanev1.AttemptState_ATTEMPT_STATE_RELEASED, agentplanev1.AttemptState_ATTEMPT_STATE_CLAIMED,
		agentplanev1.AttemptState_ATTEMPT_STATE_RUNNING,
	} {
		s.moveLocked(cmd, i, state, "")
	}
	b := s.behave[a.Id]
	switch {
	case b.After == 0:
		s.endLocked(cmd, i, b)
	case b.After > 0:
		time.AfterFunc(b.After, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.endLocked(cmd, i, b)
		})
	}
}

func noCommand(id string) error {
	return Refusal(codes.NotFound, "no_command", fmt.Sprintf("there is no command %q", id), "see agentctl commands list")
}

func (c commandService) GetCommand(ctx context.Context, req *agentplanev1.GetCommandRequest) (*agentplanev1.GetCommandResponse, error) {
	c.state.mu.Lock()
	defer c.state.mu.Unlock()
	cmd := c.state.commandLocked(req.Id)
	if cmd == nil {
		return nil, noCommand(req.Id)
	}
	return &agentplanev1.GetCommandResponse{Command: cmd.view(req.WithInvocations, req.WithOutput)}, nil
}

func (c commandService) ListCommands(ctx context.Context, req *agentplanev1.ListCommandsRequest) (*agentplanev1.ListCommandsResponse, error) {
	c.state.mu.Lock()
	defer c.state.mu.Unlock()
	var all []*agentplanev1.Command
	for _, cmd := range slices.Backward(c.state.commands) {
		if (req.State == 0 || cmd.command.State == req.State) && (req.Before == "" || cmd.command.Id < req.Before) {
			all = append(all, cmd.view(false, false))
		}
	}
	more := req.Limit > 0 && len(all) > int(req.Limit)
	if more {
		all = all[:req.Limit]
	}
	return &agentplanev1.ListCommandsResponse{Commands: all, More: more}, nil
}

func (c commandService) CancelCommand(ctx context.Context, req *agentplanev1.CancelCommandRequest) (*agentplanev1.CancelCommandResponse, error) {
	s := c.state
	s.mu.Lock()
	defer s.mu.Unlock()
	cmd := s.commandLocked(req.Id)
	if cmd == nil {
		return nil, noCommand(req.Id)
	}
	for _, i := range cmd.invocations {
		if !final(i.State) {
			i.CancelRequested = true
			s.moveLocked(cmd, i, agentplanev1.AttemptState_ATTEMPT_STATE_CANCELED, "canceled")
		}
	}
	cmd.command.CanceledBy = "admin"
	return &agentplanev1.CancelCommandResponse{Command: cmd.view(false, false)}, nil
}

func (c commandService) WatchCommand(req *agentplanev1.WatchCommandRequest, stream grpc.ServerStreamingServer[agentplanev1.WatchCommandResponse]) error {
	s := c.state
	for first := true; ; first = false {
		s.mu.Lock()
		cmd := s.commandLocked(req.Id)
		if cmd == nil {
			s.mu.Unlock()
			return noCommand(req.Id)
		}
		r := &agentplanev1.WatchCommandResponse{
			Command: cmd.view(false, false), Invocations: cmd.views(req.WithOutput), Index: s.index, Snapshot: first,
		}
		changed := s.changed
		s.mu.Unlock()
		if err := stream.Send(r); err != nil {
			return err
		}
		if r.Command.State == agentplanev1.CommandState_COMMAND_STATE_DONE {
			return nil
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

func (c commandService) Why(ctx context.Context, req *agentplanev1.WhyRequest) (*agentplanev1.WhyResponse, error) {
	c.state.mu.Lock()
	defer c.state.mu.Unlock()
	cmd := c.state.commandLocked(req.CommandId)
	if cmd == nil {
		return nil, noCommand(req.CommandId)
	}
	for _, i := range cmd.invocations {
		if i.AgentId == req.Agent || i.AgentName == req.Agent {
			return &agentplanev1.WhyResponse{Command: cmd.view(false, false), Invocation: clone(i), Transitions: cmd.transitions[i.Id]}, nil
		}
	}
	return nil, Refusal(codes.NotFound, "no_invocation", fmt.Sprintf("command %s does not mean agent %q", req.CommandId, req.Agent), "")
}

func (c commandService) GetQueue(_ context.Context, req *agentplanev1.GetQueueRequest) (*agentplanev1.GetQueueResponse, error) {
	s := c.state
	s.mu.Lock()
	defer s.mu.Unlock()
	r := &agentplanev1.GetQueueResponse{}
	for _, a := range s.agents {
		if a.Id == req.Agent || a.Name == req.Agent {
			r.AgentId, r.AgentName, r.Health, r.Slots = a.Id, a.Name, a.Health, 4
		}
	}
	if r.AgentId == "" {
		return nil, noAgent(req.Agent)
	}
	for _, cmd := range s.commands {
		for _, i := range cmd.invocations {
			if i.AgentId != r.AgentId || i.State >= agentplanev1.AttemptState_ATTEMPT_STATE_LOST {
				continue
			}
			item := &agentplanev1.QueueItem{
				InvocationId: i.Id, CommandId: i.CommandId, Attempt: i.Attempt, State: i.State, Priority: cmd.command.Priority,
				SubmittedAt: cmd.command.SubmittedAt, SubmittedBy: cmd.command.SubmittedBy, Summary: cmd.command.Summary, Locks: cmd.command.Locks,
				Exclusive: cmd.command.Exclusive,
			}
			r.Running++
			if i.State < agentplanev1.AttemptState_ATTEMPT_STATE_CLAIMED {
				item.Waits, item.Detail = "offline", "the agent is "+r.Health
				r.Running--
				r.Waiting++
			}
			r.Items = append(r.Items, item)
		}
	}
	return r, nil
}
