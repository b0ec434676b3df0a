package operator

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

func TestListAgentsBySelector(t *testing.T) {
	w := fleetWorld(t)
	s, _ := w.m.View().Session("a1")
	w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReportFacts{ReportFacts: &raftlogv1.ReportFacts{
		AgentId: "a1", SessionEpoch: s.GetEpoch(), NodeId: "n1", Facts: []*raftlogv1.Label{label("os", "linux"), label("cores", "8")}, Version: "2.0",
	}}})
	for sel, want := range map[string]string{
		"": "a1 a2 a3 a4", "all": "a1 a2 a3 a4", `label.env == "test"`: "a3 a4", `health == "down"`: "a2",
		"fact.cores > 4": "a1", `name == "twin" && id != "a3"`: "a4", "has label.moon": "",
	} {
		r, err := w.Fleet.ListAgents(t.Context(), &agentplanev1.ListAgentsRequest{Selector: sel, WithFacts: true})
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, a := range r.GetAgents() {
			ids = append(ids, a.GetId())
		}
		if got := strings.Join(ids, " "); got != want {
			t.Errorf("%q lists %q, want %q", sel, got, want)
		}
	}
	_, err := w.Fleet.ListAgents(t.Context(), &agentplanev1.ListAgentsRequest{Selector: "env = prod"})
	wantRefusal(t, err, codes.InvalidArgument, "bad_selector")
	if !strings.Contains(err.Error(), "column 1") || strings.Contains(agentplanev1.DetailOf(err).GetHint(), "\n") {
		t.Fatalf("%v with hint %q", err, agentplanev1.DetailOf(err).GetHint())
	}
	r, err := w.Fleet.GetAgent(t.Context(), &agentplanev1.GetAgentRequest{Agent: "web-1"})
	if a := r.GetAgent(); err != nil || a.GetFacts()["os"] != "linux" || a.GetVersion() != "2.0" || a.GetNode() != "n1" || a.GetSessionEpoch() != s.GetEpoch() || a.GetLabels()["env"] != "prod" {
		t.Fatalf("agent %v: %v", a, err)
	}
}

func TestAgentCountsItsWork(t *testing.T) {
	w := fleetWorld(t)
	first := w.submit(w.spec(`id == "a1"`)).GetId()
	w.submit(w.spec(`id == "a1"`))
	w.submit(w.spec(`id == "a1"`))
	w.run(first, "a1", raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING, nil)
	r, err := w.Fleet.GetAgent(t.Context(), &agentplanev1.GetAgentRequest{Agent: "a1"})
	if err != nil || r.GetAgent().GetRunning() != 1 || r.GetAgent().GetQueued() != 2 || r.GetAgent().GetAwaitingReboot() != 0 {
		t.Fatalf("%v, %v", r, err)
	}
	s, _ := w.m.View().Session("a1")
	i, _ := w.m.View().Invocation(first + ".1")
	w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReportAttempt{ReportAttempt: &raftlogv1.ReportAttempt{
		InvocationId: i.GetId(), Attempt: 1, Fence: i.GetFence(), AgentId: "a1", SessionEpoch: s.GetEpoch(), NodeId: "n1",
		State: raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING, Reason: "reboot_announced", Detail: "until noon",
	}}})
	if r, err := w.Fleet.GetAgent(t.Context(), &agentplanev1.GetAgentRequest{Agent: "a1"}); err != nil || r.GetAgent().GetRunning() != 1 || r.GetAgent().GetAwaitingReboot() != 1 {
		t.Fatalf("%v, %v", r, err)
	}
	q, err := w.Commands.GetQueue(t.Context(), &agentplanev1.GetQueueRequest{Agent: "a1"})
	if err != nil || q.GetItems()[0].GetWaits() != "reboot" || q.GetItems()[0].GetDetail() != "until noon" {
		t.Fatalf("%v, %v", q, err)
	}
}

func TestSetLabels(t *testing.T) {
	w := fleetWorld(t)
	set := func(req *agentplanev1.SetLabelsRequest) (*agentplanev1.Agent, error) {
		r, err := w.Fleet.SetLabels(t.Context(), req)
		return r.GetAgent(), err
	}
	a, err := set(&agentplanev1.SetLabelsRequest{Agent: "web-1", Set: map[string]string{"b": "2", "a": "1"}, Remove: []string{"env"}})
	if err != nil || len(a.GetLabels()) != 2 || a.GetLabels()["a"] != "1" {
		t.Fatalf("%v, %v", a, err)
	}
	version := a.GetLabelsVersion()
	if a, err = set(&agentplanev1.SetLabelsRequest{Agent: "a1", Set: map[string]string{"a": "2"}, ExpectedVersion: version}); err != nil || a.GetLabelsVersion() <= version {
		t.Fatalf("%v, %v", a, err)
	}
	for _, c := range []struct {
		name   string
		req    *agentplanev1.SetLabelsRequest
		code   codes.Code
		reason string
	}{
		{"nothing", &agentplanev1.SetLabelsRequest{Agent: "a1"}, codes.InvalidArgument, "no_labels"},
		{"both", &agentplanev1.SetLabelsRequest{Agent: "a1", Set: map[string]string{"a": "1"}, Remove: []string{"a"}}, codes.InvalidArgument, "label_twice"},
		{"a version that has moved", &agentplanev1.SetLabelsRequest{Agent: "a1", Set: map[string]string{"a": "3"}, ExpectedVersion: version}, codes.Aborted, "version_moved"},
		{"a value that is too long", &agentplanev1.SetLabelsRequest{Agent: "a1", Set: map[string]string{"a": strings.Repeat("x", 257)}}, codes.InvalidArgument, "too_long"},
		{"no agent", &agentplanev1.SetLabelsRequest{Set: map[string]string{"a": "3"}}, codes.InvalidArgument, "no_agent"},
		{"an agent that is not there", &agentplanev1.SetLabelsRequest{Agent: "a9", Set: map[string]string{"a": "3"}}, codes.NotFound, "no_agent"},
		{"a name that two agents have", &agentplanev1.SetLabelsRequest{Agent: "twin", Set: map[string]string{"a": "3"}}, codes.InvalidArgument, "ambiguous_name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := set(c.req)
			wantRefusal(t, err, c.code, c.reason)
		})
	}
}

func TestRemoveAndReadmit(t *testing.T) {
	w := fleetWorld(t)
	for _, who := range []string{"web-2", "web-2", "a2"} { // by its name, repeated, and by its id
		if _, err := w.Fleet.RemoveAgent(t.Context(), &agentplanev1.RemoveAgentRequest{Agent: who}); err != nil {
			t.Fatal(err)
		}
	}
	_, err := w.Fleet.RemoveAgent(t.Context(), &agentplanev1.RemoveAgentRequest{Agent: "nobody"})
	wantRefusal(t, err, codes.NotFound, "no_agent")
	// An image of a1 that is older than its claims is put back.
	w.run(w.submit(w.spec(`id == "a1"`)).GetId(), "a1", raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING, nil)
	s, _ := w.m.View().Session("a1")
	w.apply(w.epoch, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_OpenSession{OpenSession: &raftlogv1.OpenSession{
		AgentId: "a1", NodeId: "n1", SeenEpoch: s.GetEpoch(), StreamId: []byte("other"), StartId: []byte("start"), Slots: 4,
		Journal: &raftlogv1.Journal{Id: []byte("journal-a1")},
	}}})
	r, err := w.Fleet.GetAgent(t.Context(), &agentplanev1.GetAgentRequest{Agent: "a1"})
	if a := r.GetAgent(); err != nil || a.GetHealth() != Quarantined || a.GetHealthReason() != "journal_behind" || a.GetHealthDetail() == "" {
		t.Fatalf("%v, %v", a, err)
	}
	for range 2 {
		r, err := w.Fleet.ReadmitAgent(t.Context(), &agentplanev1.ReadmitAgentRequest{Agent: "a1"})
		if err != nil || r.GetAgent().GetHealth() != Online {
			t.Fatalf("%v, %v", r, err)
		}
	}
}
