package clienttest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/selector"
	"github.com/agentplane/agentplane/proto/template"
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
	if use := spec.Template; use != nil {
		t, err := s.templateLocked(use.Name, use.Version)
		if err == nil {
			err = template.Verify(t.Spec, spec)
		}
		if err != nil {
			return nil, Refusal(codes.InvalidArgument, "template_mismatch", err.Error(), "")
		}
	}
	if spec.ClusterId != s.bundle.ClusterId || spec.NotAfter == 0 {
		return nil, Refusal(codes.InvalidArgument, "bad_spec", "cluster id or not_after is missing", "")
	}
	matched, err := s.targetsLocked(spec)
	if err != nil {
		return nil, err
	}
	if err := s.broughtLocked(spec); err != nil {
		return nil, err
	}
	s.changedLocked()
	cmd := &command{
		envelope: req.Envelope, spec: spec, transitions: map[string][]*agentplanev1.Transition{},
		command: &agentplanev1.Command{
			Id: spec.CommandId, State: agentplanev1.CommandState_COMMAND_STATE_ACTIVE, Summary: fmt.Sprint(spec.Argv),
			Selector: spec.Selector, SubmittedBy: "admin", SubmittedAt: time.Now().UnixNano(), SubmittedIndex: s.index,
			NotAfter: spec.NotAfter, Targets: uint32(len(matched)), RerunOf: spec.RerunOf,
			Locks: spec.Locks, Exclusive: spec.Exclusive, Priority: 50, Supersede: spec.Supersede, FleetLocks: spec.FleetLocks, Undo: termsOf(spec),
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
		if spec.Rollout == nil {
			s.startLocked(cmd, i, a, spec.QueueOffline)
		}
	}
	if spec.Rollout != nil {
		s.layLocked(cmd, matched)
		s.advanceLocked(cmd)
	}
	return &agentplanev1.SubmitResponse{Command: cmd.view(false, false)}, nil
}

// targetsLocked returns the agents that a command means.
func (s *State) targetsLocked(spec *agentplanev1.CommandSpec) ([]*agentplanev1.Agent, error) {
	var matched []*agentplanev1.Agent
	switch {
	case spec.RerunOf != "":
		old := s.commandLocked(spec.RerunOf)
		if old == nil {
			return nil, noCommand(spec.RerunOf)
		}
		for _, i := range old.invocations {
			if slices.Contains(spec.RerunStates, i.State) {
				matched = append(matched, s.agentLocked(i.AgentId))
			}
		}
	case len(spec.Agents) > 0:
		for _, name := range spec.Agents {
			a := s.agentLocked(name)
			if a == nil {
				return nil, noAgent(name)
			}
			matched = append(matched, a)
		}
	default:
		var err error
		if matched, err = s.matchLocked(spec.Selector); err != nil {
			return nil, err
		}
	}
	if len(matched) == 0 {
		return nil, Refusal(codes.NotFound, "no_targets", fmt.Sprintf("no agent matches %q", spec.Selector), "see agentctl agents list")
	}
	return matched, nil
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
	answer := cmd.view(req.WithInvocations, req.WithOutput)
	if req.WithSpec {
		var err error
		if _, answer.Spec, err = decodeSpec(cmd.envelope); err != nil {
			return nil, err
		}
	}
	return &agentplanev1.GetCommandResponse{Command: answer}, nil
}

func (c commandService) ListCommands(ctx context.Context, req *agentplanev1.ListCommandsRequest) (*agentplanev1.ListCommandsResponse, error) {
	c.state.mu.Lock()
	defer c.state.mu.Unlock()
	var all []*agentplanev1.Command
	for _, cmd := range slices.Backward(c.state.commands) {
		if cmd.listed(req) {
			all = append(all, cmd.view(false, false))
		}
	}
	more := req.Limit > 0 && len(all) > int(req.Limit)
	if more {
		all = all[:req.Limit]
	}
	answer := &agentplanev1.ListCommandsResponse{Commands: all, More: more}
	if more {
		answer.Next = all[len(all)-1].Id
	}
	return answer, nil
}

// listed reports whether the command is one of those asked for.
func (c *command) listed(req *agentplanev1.ListCommandsRequest) bool {
	row := c.command
	outcome := len(req.Outcomes) == 0 && req.Agent == ""
	for _, i := range c.invocations {
		meant := req.Agent == "" || i.AgentId == req.Agent || i.AgentName == req.Agent
		outcome = outcome || meant && (len(req.Outcomes) == 0 || slices.Contains(req.Outcomes, i.State))
	}
	return outcome && (req.State == 0 || row.State == req.State) && (req.Before == "" || row.Id < req.Before) &&
		(req.SubmittedBy == "" || row.SubmittedBy == req.SubmittedBy) && (req.RerunOf == "" || row.RerunOf == req.RerunOf) &&
		(req.Schedule == "" || row.Schedule == req.Schedule) && (!req.Paused || row.Paused != nil) &&
		strings.Contains(strings.ToLower(row.Summary+row.Selector), strings.ToLower(req.Text)) &&
		row.SubmittedAt >= req.Since && (req.Until == 0 || row.SubmittedAt < req.Until)
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
			if i.Undo != nil {
				s.undoneLocked(cmd, i, agentplanev1.AttemptState_ATTEMPT_STATE_CANCELED, "canceled")
				continue
			}
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
			view := cmd.view(false, false)
			var err error
			if _, view.Spec, err = decodeSpec(cmd.envelope); err != nil {
				return nil, err
			}
			return &agentplanev1.WhyResponse{Command: view, Invocation: clone(i), Transitions: cmd.transitions[i.Id]}, nil
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

// Follow sends what is kept of each program's output once it has ended, a few bytes at a
// time; what is not kept is a gap in its middle.
func (c commandService) Follow(req *agentplanev1.FollowRequest, stream grpc.ServerStreamingServer[agentplanev1.FollowResponse]) error {
	s := c.state
	ended := map[string]bool{}
	for {
		s.mu.Lock()
		cmd := s.commandLocked(req.CommandId)
		if cmd == nil {
			s.mu.Unlock()
			return noCommand(req.CommandId)
		}
		index, changed := s.index, s.changed
		all := cmd.views(true)
		s.mu.Unlock()
		meant := 0
		for _, i := range all {
			if req.Agent != "" && i.AgentId != req.Agent && i.AgentName != req.Agent {
				continue
			}
			meant++
			if ended[i.Id] || i.State < agentplanev1.AttemptState_ATTEMPT_STATE_LOST && !req.NoWait {
				continue
			}
			ended[i.Id] = true
			for _, item := range followItems(i, req) {
				if err := stream.Send(&agentplanev1.FollowResponse{Items: []*agentplanev1.FollowItem{item}, Index: index}); err != nil {
					return err
				}
			}
		}
		switch {
		case meant == 0:
			return Refusal(codes.NotFound, "no_invocation", fmt.Sprintf("command %s does not mean agent %q", req.CommandId, req.Agent), "")
		case len(ended) == meant:
			return stream.Send(&agentplanev1.FollowResponse{Done: true, Index: index})
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}

func followItems(i *agentplanev1.Invocation, req *agentplanev1.FollowRequest) []*agentplanev1.FollowItem {
	item := func() *agentplanev1.FollowItem {
		return &agentplanev1.FollowItem{InvocationId: i.Id, Attempt: i.Attempt, AgentId: i.AgentId, AgentName: i.AgentName}
	}
	have := &agentplanev1.OutputEnds{}
	for _, c := range req.Cursors {
		if c.InvocationId == i.Id {
			have = c.Have
		}
	}
	var items []*agentplanev1.FollowItem
	end := &agentplanev1.FollowEnd{State: i.State, Totals: &agentplanev1.OutputTotals{}}
	if i.State < agentplanev1.AttemptState_ATTEMPT_STATE_LOST {
		end.Totals, end.Incomplete = nil, "not_ended"
	}
	for n, o := range []*agentplanev1.Output{i.Stdout, i.Stderr} {
		var chunks []*agentplanev1.OutputChunk
		at := uint64(0)
		add := func(data []byte, gap uint64) {
			chunks = append(chunks, &agentplanev1.OutputChunk{Stream: agentplanev1.OutputStream(n + 1), Offset: at, Data: data, GapBytes: gap})
			at += uint64(len(data)) + gap
		}
		for part := range slices.Chunk(o.GetHead(), 4) {
			add(part, 0)
		}
		kept := uint64(len(o.GetHead()) + len(o.GetTail()))
		missing := max(o.GetTotalBytes(), kept) - kept
		if missing > 0 {
			add(nil, missing)
			chunks[len(chunks)-1].GapReason = "quota"
		}
		for part := range slices.Chunk(o.GetTail(), 4) {
			add(part, 0)
		}
		sum := sha256.Sum256(slices.Concat(o.GetHead(), o.GetTail()))
		total := &agentplanev1.OutputTotal{Bytes: at, Missing: missing, Sha256: sum[:]}
		from := have.Stdout
		if n == 1 {
			from = have.Stderr
		}
		switch {
		case end.Totals == nil:
		case n == 0:
			end.Totals.Stdout = total
		default:
			end.Totals.Stderr = total
		}
		for _, c := range chunks {
			if c.Offset >= from {
				one := item()
				one.Chunks = []*agentplanev1.OutputChunk{c}
				items = append(items, one)
			}
		}
	}
	last := item()
	last.End = end
	return append(items, last)
}
