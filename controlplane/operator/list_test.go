package operator

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// list makes as many calls as it takes.
func (w *world) list(req *agentplanev1.ListCommandsRequest) (ids []string, calls int) {
	w.t.Helper()
	for {
		calls++
		r, err := w.Commands.ListCommands(w.t.Context(), req)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, c := range r.GetCommands() {
			ids = append(ids, c.GetId())
		}
		if r.GetMore() != (r.GetNext() != "") {
			w.t.Fatalf("more is %v, next %q", r.GetMore(), r.GetNext())
		}
		if req.Before = r.GetNext(); req.Before == "" {
			return ids, calls
		}
	}
}

func TestListedAreThoseOnWhomAllFiltersHold(t *testing.T) {
	const (
		failed    = agentplanev1.AttemptState_ATTEMPT_STATE_FAILED
		succeeded = agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED
		released  = agentplanev1.AttemptState_ATTEMPT_STATE_RELEASED
	)
	w := fleetWorld(t)
	w.session("a2")
	words := map[string]string{}
	submit := func(word, operator, selector string, argv ...string) string {
		w.pass(time.Hour)
		w.set(func() { w.caller.name = operator })
		spec := w.spec(selector)
		spec.Argv = argv
		id := w.submit(spec).GetId()
		words[id] = word
		return id
	}
	first := submit("first", "alice", `name in ["web-1", "web-2"]`, "systemctl", "restart", "Nginx")
	w.run(first, "a1", raftlogv1.AttemptState_ATTEMPT_STATE_FAILED, &raftlogv1.Result{ExitCode: 1})
	w.run(first, "a2", raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED, nil)
	second := submit("second", "bob", `id == "a1"`, "uptime")
	w.run(second, "a1", raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED, nil)
	third := submit("third", "alice", `id == "a2"`, "uptime")
	w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PauseCommand{PauseCommand: &raftlogv1.PauseCommand{CommandId: third, PausedBy: "bob"}}})
	at := func(h int) int64 { return testStart.Add(time.Duration(h) * time.Hour).UnixNano() }

	for name, c := range map[string]struct {
		req  *agentplanev1.ListCommandsRequest
		want []string
	}{
		"nothing is asked":              {&agentplanev1.ListCommandsRequest{}, []string{"third", "second", "first"}},
		"by state":                      {&agentplanev1.ListCommandsRequest{State: agentplanev1.CommandState_COMMAND_STATE_DONE}, []string{"second", "first"}},
		"by operator":                   {&agentplanev1.ListCommandsRequest{SubmittedBy: "alice"}, []string{"third", "first"}},
		"by agent":                      {&agentplanev1.ListCommandsRequest{Agent: "a1"}, []string{"second", "first"}},
		"by the name of an agent":       {&agentplanev1.ListCommandsRequest{Agent: "web-2"}, []string{"third", "first"}},
		"by the program, in any case":   {&agentplanev1.ListCommandsRequest{Text: "nginX"}, []string{"first"}},
		"by the selector":               {&agentplanev1.ListCommandsRequest{Text: `"a1"`}, []string{"second"}},
		"by outcome":                    {&agentplanev1.ListCommandsRequest{Outcomes: []agentplanev1.AttemptState{failed}}, []string{"first"}},
		"by one of two outcomes":        {&agentplanev1.ListCommandsRequest{Outcomes: []agentplanev1.AttemptState{failed, released}}, []string{"third", "first"}},
		"by outcome on an agent":        {&agentplanev1.ListCommandsRequest{Agent: "a1", Outcomes: []agentplanev1.AttemptState{succeeded}}, []string{"second"}},
		"since is included":             {&agentplanev1.ListCommandsRequest{Since: at(2)}, []string{"third", "second"}},
		"until is not":                  {&agentplanev1.ListCommandsRequest{Until: at(3)}, []string{"second", "first"}},
		"between":                       {&agentplanev1.ListCommandsRequest{Since: at(2), Until: at(3)}, []string{"second"}},
		"until before there was any":    {&agentplanev1.ListCommandsRequest{Until: at(1)}, nil},
		"until after all":               {&agentplanev1.ListCommandsRequest{Until: at(99)}, []string{"third", "second", "first"}},
		"until, and before one of them": {&agentplanev1.ListCommandsRequest{Until: at(99), Before: second}, []string{"first"}},
		"in pages of one":               {&agentplanev1.ListCommandsRequest{SubmittedBy: "alice", Limit: 1}, []string{"third", "first"}},
		"all hold":                      {&agentplanev1.ListCommandsRequest{SubmittedBy: "alice", Text: "uptime"}, []string{"third"}},
		"paused":                        {&agentplanev1.ListCommandsRequest{Paused: true}, []string{"third"}},
		"nobody since then":             {&agentplanev1.ListCommandsRequest{SubmittedBy: "carol", Since: at(1)}, nil},
		"an operator without any such":  {&agentplanev1.ListCommandsRequest{SubmittedBy: "bob", Text: "nginx"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			ids, _ := w.list(c.req)
			var got []string
			for _, id := range ids {
				got = append(got, words[id])
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestListedAreThoseOfASchedule(t *testing.T) {
	w := fleetWorld(t)
	w.submit(w.spec("all"))
	w.putSchedule("nightly", nil)
	id := w.spec("all").GetCommandId()
	if _, err := w.Schedules.RunSchedule(t.Context(), &agentplanev1.RunScheduleRequest{Name: "nightly", CommandId: id}); err != nil {
		t.Fatal(err)
	}
	if ids, _ := w.list(&agentplanev1.ListCommandsRequest{Schedule: "nightly"}); !slices.Equal(ids, []string{id}) {
		t.Errorf("of the schedule there is %v, want %s", ids, id)
	}
	w.putSchedule("weekly", nil)
	if ids, _ := w.list(&agentplanev1.ListCommandsRequest{Schedule: "weekly"}); len(ids) > 0 {
		t.Errorf("of another schedule there is %v", ids)
	}
	for _, name := range []string{"nightly", "weekly"} {
		if _, err := w.Schedules.DeleteSchedule(t.Context(), &agentplanev1.DeleteScheduleRequest{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	if ids, _ := w.list(&agentplanev1.ListCommandsRequest{Schedule: "nightly"}); !slices.Equal(ids, []string{id}) {
		t.Errorf("of the deleted schedule there is %v, want %s", ids, id)
	}
	if ids, _ := w.list(&agentplanev1.ListCommandsRequest{Schedule: "nightly", Text: "nothing like it"}); len(ids) > 0 {
		t.Errorf("of the deleted schedule there is %v that was not asked for", ids)
	}
	_, err := w.Commands.ListCommands(t.Context(), &agentplanev1.ListCommandsRequest{Schedule: "weekly"})
	wantRefusal(t, err, codes.NotFound, "no_schedule")
}

func TestListRefusesFiltersThatMeanNothing(t *testing.T) {
	w := fleetWorld(t)
	for reason, req := range map[string]*agentplanev1.ListCommandsRequest{
		"state":  {Outcomes: []agentplanev1.AttemptState{3}},
		"filter": {Text: string(make([]byte, maxFilterBytes+1))},
	} {
		_, err := w.Commands.ListCommands(t.Context(), req)
		wantRefusal(t, err, codes.InvalidArgument, reason)
	}
	_, err := w.Commands.ListCommands(t.Context(), &agentplanev1.ListCommandsRequest{Agent: "nobody"})
	wantRefusal(t, err, codes.NotFound, "no_agent")
	_, err = w.Commands.ListCommands(t.Context(), &agentplanev1.ListCommandsRequest{SubmittedBy: "nobody"})
	wantRefusal(t, err, codes.NotFound, "no_operator")
	_, err = w.Commands.ListCommands(t.Context(), &agentplanev1.ListCommandsRequest{Schedule: "never"})
	wantRefusal(t, err, codes.NotFound, "no_schedule")
	_, err = w.Commands.ListCommands(t.Context(), &agentplanev1.ListCommandsRequest{RerunOf: "01890000-0000-7000-8000-000000000001"})
	wantRefusal(t, err, codes.NotFound, "no_command")
	if _, err = w.Commands.ListCommands(t.Context(), &agentplanev1.ListCommandsRequest{RerunOf: w.submit(w.spec("all")).GetId()}); err != nil {
		t.Errorf("of a command that was never run again: %v", err)
	}
}

func TestListKnowsAgentsThatWereRemoved(t *testing.T) {
	w := fleetWorld(t)
	id := w.submit(w.spec(`id == "a1"`)).GetId()
	w.submit(w.spec(`id == "a2"`))
	w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RemoveAgent{RemoveAgent: &raftlogv1.RemoveAgent{AgentId: "a1"}}})
	for _, who := range []string{"a1", "web-1"} {
		if ids, _ := w.list(&agentplanev1.ListCommandsRequest{Agent: who}); !slices.Equal(ids, []string{id}) {
			t.Errorf("of %s there is %v, want %s", who, ids, id)
		}
	}
}

// A call looks at a bounded number of commands, and the next one goes on where it ended.
func TestListGoesOnWhereACallEnded(t *testing.T) {
	w := fleetWorld(t)
	a, _ := w.m.View().Agent("a1")
	var batch []*raftlogv1.Mutation
	for n := range 2*maxLooked + 100 {
		spec := w.spec("all")
		m := &raftlogv1.SubmitCommand{
			Id: spec.GetCommandId(), Envelope: []byte("e"), Digest: []byte("d"), SubmittedBy: "alice", AgentOrdinals: []uint32{a.GetOrdinal()},
			Ttl: int64(time.Minute), RunTimeout: 1, QueueMax: 1, Summary: fmt.Sprint("c", n),
		}
		if n%(maxLooked/2) == 7 {
			m.SubmittedBy = "bob"
		}
		batch = append(batch, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_SubmitCommand{SubmitCommand: m}})
	}
	// In an entry commands stand by their ids: that is their order within one.
	slices.SortFunc(batch, func(x, y *raftlogv1.Mutation) int {
		return strings.Compare(x.GetSubmitCommand().GetId(), y.GetSubmitCommand().GetId())
	})
	for some := range slices.Chunk(batch, 200) {
		w.must(some...)
	}
	var rare []string
	for _, m := range batch {
		if m.GetSubmitCommand().GetSubmittedBy() == "bob" {
			rare = append(rare, m.GetSubmitCommand().GetId())
		}
	}
	slices.Reverse(rare)
	ids, calls := w.list(&agentplanev1.ListCommandsRequest{SubmittedBy: "bob"})
	if !slices.Equal(ids, rare) || calls != 3 {
		t.Errorf("%d calls found %d commands, want 3 and %d", calls, len(ids), len(rare))
	}
}

func TestRerunMeansThoseWhoEndedSo(t *testing.T) {
	w := fleetWorld(t)
	w.session("a2")
	first := w.submit(w.spec("all")).GetId()
	w.run(first, "a1", raftlogv1.AttemptState_ATTEMPT_STATE_FAILED, &raftlogv1.Result{ExitCode: 1})
	w.run(first, "a2", raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED, nil)
	again := func(of string, states ...agentplanev1.AttemptState) *agentplanev1.CommandSpec {
		spec := w.spec("")
		spec.RerunOf, spec.RerunStates = of, states
		return spec
	}
	second := w.submit(again(first, agentplanev1.AttemptState_ATTEMPT_STATE_FAILED, agentplanev1.AttemptState_ATTEMPT_STATE_LOST))
	if second.GetRerunOf() != first || second.GetTargets() != 1 {
		t.Errorf("rerun of %q on %d targets, want of %q on 1", second.GetRerunOf(), second.GetTargets(), first)
	}
	a1, _ := w.m.View().Agent("a1")
	if _, meant := w.m.View().Invocation(fsm.InvocationID(second.GetId(), a1.GetOrdinal())); !meant {
		t.Error("the agent on which it failed is not meant")
	}
	if ids, _ := w.list(&agentplanev1.ListCommandsRequest{RerunOf: first}); !slices.Equal(ids, []string{second.GetId()}) {
		t.Errorf("reruns are %v", ids)
	}
	r, err := w.Commands.GetCommand(t.Context(), &agentplanev1.GetCommandRequest{Id: second.GetId(), WithSpec: true})
	if err != nil || r.GetCommand().GetSpec().GetRerunOf() != first || len(r.GetCommand().GetSpec().GetArgv()) != 2 {
		t.Errorf("spec %v, %v", r.GetCommand().GetSpec(), err)
	}

	both := again(first, agentplanev1.AttemptState_ATTEMPT_STATE_FAILED)
	both.Selector = "all"
	for name, c := range map[string]struct {
		spec   *agentplanev1.CommandSpec
		code   codes.Code
		reason string
	}{
		"an unknown command": {again("01890000-0000-7000-8000-000000000001", agentplanev1.AttemptState_ATTEMPT_STATE_FAILED), codes.NotFound, "no_command"},
		"nobody ended so":    {again(first, agentplanev1.AttemptState_ATTEMPT_STATE_EXPIRED), codes.NotFound, "no_targets"},
		"no state":           {again(first), codes.InvalidArgument, "rerun"},
		"a state of no end":  {again(first, agentplanev1.AttemptState_ATTEMPT_STATE_RUNNING), codes.InvalidArgument, "rerun"},
		"a state of no name": {again(first, 99), codes.InvalidArgument, "rerun"},
		"states of nothing":  {again("", agentplanev1.AttemptState_ATTEMPT_STATE_FAILED), codes.InvalidArgument, "no_target"},
		"a selector as well": {both, codes.InvalidArgument, "two_targets"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.Commands.Submit(t.Context(), &agentplanev1.SubmitRequest{Envelope: envelope(t, c.spec)})
			wantRefusal(t, err, c.code, c.reason)
		})
	}
}
