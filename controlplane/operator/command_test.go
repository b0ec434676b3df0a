package operator

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

func TestGetCommandGivesWhatIsAskedFor(t *testing.T) {
	w := fleetWorld(t)
	id := w.submit(w.spec(`label.env == "prod"`)).GetId()
	w.run(id, "a1", raftlogv1.AttemptState_ATTEMPT_STATE_FAILED, &raftlogv1.Result{ExitCode: 3, Stdout: &raftlogv1.Output{Head: []byte("out"), TotalBytes: 3}})
	get := func(req *agentplanev1.GetCommandRequest) *agentplanev1.Command {
		t.Helper()
		req.Id = id
		r, err := w.Commands.GetCommand(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		return r.GetCommand()
	}
	if c := get(&agentplanev1.GetCommandRequest{}); len(c.GetInvocations()) != 0 || c.GetCounts()["failed"] != 1 || c.GetCounts()["skipped"] != 1 || c.GetState() != agentplanev1.CommandState_COMMAND_STATE_DONE || c.GetFinishedAt() == 0 {
		t.Fatalf("command %v", c)
	}
	c := get(&agentplanev1.GetCommandRequest{WithInvocations: true})
	if len(c.GetInvocations()) != 2 {
		t.Fatalf("command %v", c)
	}
	if i := c.GetInvocations()[0]; i.GetAgentName() != "web-1" || i.GetExitCode() != 3 || i.GetStdout() != nil || i.GetFence() == 0 || i.GetNodeId() != "n1" {
		t.Fatalf("invocation %v", i)
	}
	c = get(&agentplanev1.GetCommandRequest{WithInvocations: true, WithOutput: true})
	if i := c.GetInvocations()[0]; string(i.GetStdout().GetHead()) != "out" || i.GetStdout().GetTotalBytes() != 3 {
		t.Fatalf("invocation %v", i)
	}
	_, err := w.Commands.GetCommand(t.Context(), &agentplanev1.GetCommandRequest{Id: "x"})
	wantRefusal(t, err, codes.NotFound, "no_command")
}

func TestListCommandsNewestFirstInPages(t *testing.T) {
	w := fleetWorld(t)
	var ids []string
	for range 7 {
		w.pass(time.Second)
		ids = append([]string{w.submit(w.spec(`id == "a1"`)).GetId()}, ids...)
	}
	// Two of one entry share an index.
	twin := func() *raftlogv1.Mutation {
		sub, err := decodeSubmission(envelope(t, w.spec(`id == "a1"`)))
		if err != nil {
			t.Fatal(err)
		}
		ids = append([]string{sub.spec.CommandId}, ids...)
		m, _ := w.Commands.submitOf(w.m.View(), sub, []uint32{1}, "ann")
		return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_SubmitCommand{SubmitCommand: m}}
	}
	w.must(twin(), twin())
	slices.SortStableFunc(ids[:2], func(a, b string) int { return strings.Compare(b, a) })
	if _, err := w.Commands.CancelCommand(t.Context(), &agentplanev1.CancelCommandRequest{Id: ids[4]}); err != nil {
		t.Fatal(err)
	}
	var got []string
	before, pages := "", 0
	for {
		r, err := w.Commands.ListCommands(t.Context(), &agentplanev1.ListCommandsRequest{Limit: 1, Before: before})
		if err != nil {
			t.Fatal(err)
		}
		pages++
		for _, c := range r.GetCommands() {
			got = append(got, c.GetId())
			before = c.GetId()
		}
		if !r.GetMore() {
			break
		}
	}
	if !slices.Equal(got, ids) || pages != len(ids) {
		t.Fatalf("listed %v in %d pages, want %v", got, pages, ids)
	}
	r, err := w.Commands.ListCommands(t.Context(), &agentplanev1.ListCommandsRequest{State: agentplanev1.CommandState_COMMAND_STATE_DONE})
	if err != nil || len(r.GetCommands()) != 1 || r.GetCommands()[0].GetId() != ids[4] || r.GetMore() {
		t.Fatalf("done ones: %v, %v", r, err)
	}
	_, err = w.Commands.ListCommands(t.Context(), &agentplanev1.ListCommandsRequest{Limit: maxListed + 1})
	wantRefusal(t, err, codes.InvalidArgument, "limit")
	_, err = w.Commands.ListCommands(t.Context(), &agentplanev1.ListCommandsRequest{State: 99})
	wantRefusal(t, err, codes.InvalidArgument, "state")
	_, err = w.Commands.ListCommands(t.Context(), &agentplanev1.ListCommandsRequest{Before: "x"})
	wantRefusal(t, err, codes.NotFound, "no_command")
}

func TestCancelAnswersTheSameWhenRepeated(t *testing.T) {
	w := fleetWorld(t)
	id := w.submit(w.spec("all")).GetId()
	w.run(id, "a1", raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING, nil)
	for range 2 {
		r, err := w.Commands.CancelCommand(t.Context(), &agentplanev1.CancelCommandRequest{Id: id})
		if err != nil {
			t.Fatal(err)
		}
		c := r.GetCommand()
		if c.GetState() != agentplanev1.CommandState_COMMAND_STATE_CANCELING || c.GetCanceledBy() != "alice" || c.GetCounts()["canceled"] != 2 || c.GetCounts()["running"] != 1 {
			t.Fatalf("command %v", c)
		}
		w.caller.name = "bob" // a repetition by another changes nothing
	}
}

func TestWhyProvesAnInvocation(t *testing.T) {
	w := fleetWorld(t)
	id := w.submit(w.spec("all")).GetId()
	w.run(id, "a1", raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED, &raftlogv1.Result{})
	for _, who := range []string{"a1", "web-1"} {
		r, err := w.Commands.Why(t.Context(), &agentplanev1.WhyRequest{CommandId: id, Agent: who})
		if err != nil {
			t.Fatal(err)
		}
		var states []string
		for _, s := range r.GetTransitions() {
			states = append(states, s.GetState().ShortName())
		}
		if want := []string{"PENDING", "RELEASED", "CLAIMED", "SUCCEEDED"}; !slices.Equal(states, want) || r.GetTransitions()[2].GetFence() == 0 || r.GetInvocation().GetAgentId() != "a1" {
			t.Fatalf("why %s: %v", who, r)
		}
	}
	_, err := w.Commands.Why(t.Context(), &agentplanev1.WhyRequest{CommandId: id, Agent: "twin"})
	wantRefusal(t, err, codes.InvalidArgument, "ambiguous_name")
	_, err = w.Commands.Why(t.Context(), &agentplanev1.WhyRequest{CommandId: id, Agent: "a9"})
	wantRefusal(t, err, codes.NotFound, "no_invocation")
	w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RemoveAgent{RemoveAgent: &raftlogv1.RemoveAgent{AgentId: "a1"}}})
	if r, err := w.Commands.Why(t.Context(), &agentplanev1.WhyRequest{CommandId: id, Agent: "a1"}); err != nil || r.GetInvocation().GetState() != agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED {
		t.Fatalf("why of a removed agent: %v, %v", r, err)
	}
}
