package operator

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// queue answers what waits on the agent, each by the name that ids have for it.
func (w *world) queue(agent string, names map[string]string) (*agentplanev1.GetQueueResponse, []string) {
	w.t.Helper()
	r, err := w.Commands.GetQueue(w.t.Context(), &agentplanev1.GetQueueRequest{Agent: agent})
	if err != nil {
		w.t.Fatal(err)
	}
	var got []string
	for _, i := range r.GetItems() {
		line := fmt.Sprint(names[i.GetCommandId()], " ", i.GetState().ShortName(), " ", i.GetWaits(), " ", names[i.GetWaitsFor()])
		got = append(got, strings.Join(strings.Fields(line), " "))
		if i.GetWaits() != "" && i.GetDetail() == "" {
			w.t.Errorf("%s waits without a sentence: %v", line, i)
		}
	}
	return r, got
}

func TestQueueSaysWhatWaitsAndWhy(t *testing.T) {
	w := fleetWorld(t)
	names := make(map[string]string)
	submit := func(name string, edit func(*agentplanev1.CommandSpec)) string {
		spec := w.spec(`id == "a1"`)
		if edit != nil {
			edit(spec)
		}
		c := w.submit(spec)
		names[c.GetId()] = name
		return c.GetId()
	}
	locks := func(names ...string) func(*agentplanev1.CommandSpec) {
		return func(s *agentplanev1.CommandSpec) { s.Locks = names }
	}
	w.run(submit("runs", locks("apt")), "a1", raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING, nil)
	submit("locked", locks("apt", "deploy"))
	submit("behind", locks("deploy"))
	submit("free", nil)
	submit("later", func(s *agentplanev1.CommandSpec) { s.NotBefore = w.now.Add(time.Minute).UnixNano() })
	submit("second", nil)
	submit("third", nil)
	submit("full", nil)
	submit("first", func(s *agentplanev1.CommandSpec) { s.Priority = proto.Uint32(75) })
	r, got := w.queue("web-1", names)
	want := []string{
		"runs RUNNING", "first RELEASED", "locked RELEASED locked runs", "behind RELEASED locked locked", "free RELEASED",
		"second RELEASED", "third RELEASED slot", "full RELEASED slot", "later PENDING not_before",
	}
	if !slices.Equal(got, want) {
		t.Errorf("queue is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if r.GetSlots() != 4 || r.GetRunning() != 1 || r.GetWaiting() != 8 || r.GetAgentId() != "a1" || r.GetHealth() != "ONLINE" {
		t.Errorf("answer %v", r)
	}
	if f := r.GetItems()[1]; f.GetPriority() != 75 || f.GetSubmittedBy() != "alice" || f.GetSummary() == "" {
		t.Errorf("item %v", f)
	}

	submit("alone", func(s *agentplanev1.CommandSpec) { s.Exclusive, s.Priority = true, proto.Uint32(100) })
	if _, got = w.queue("a1", names); got[1] != "alone RELEASED exclusive runs" || got[2] != "first RELEASED exclusive alone" {
		t.Errorf("queue is %q", got)
	}
	w.endSession("a1", false)
	if _, got = w.queue("a1", names); got[1] != "alone RELEASED offline" {
		t.Errorf("queue of an agent that is away is %q", got)
	}
	w.now = w.now.Add(time.Hour)
	if _, got = w.queue("a1", names); got[1] != "alone RELEASED expired" {
		t.Errorf("queue after the end is %q", got)
	}
	one, err := w.Commands.GetQueue(t.Context(), &agentplanev1.GetQueueRequest{Agent: "a1", Limit: 2})
	if err != nil || len(one.GetItems()) != 2 || one.GetWaiting() != 9 {
		t.Errorf("two of them: %v, %v", one, err)
	}
}

func TestQueueTellsOfPausesAndSplays(t *testing.T) {
	w := fleetWorld(t)
	paused := w.submit(w.spec(`id == "a1"`)).GetId()
	if _, err := w.Commands.PauseCommand(t.Context(), &agentplanev1.PauseCommandRequest{Id: paused}); err != nil {
		t.Fatal(err)
	}
	spec := w.spec(`id == "a1"`)
	spec.Splay = int64(4 * time.Minute)
	spread := w.submit(spec).GetId()
	r, _ := w.queue("web-1", nil)
	waits := make(map[string]string)
	for _, i := range r.GetItems() {
		waits[i.GetCommandId()] = i.GetWaits()
	}
	if waits[paused] != "paused" || waits[spread] != "not_before" {
		t.Errorf("they wait for %v", waits)
	}
}

func TestQueueRefuses(t *testing.T) {
	w := fleetWorld(t)
	_, err := w.Commands.GetQueue(t.Context(), &agentplanev1.GetQueueRequest{Agent: "nobody"})
	wantRefusal(t, err, codes.NotFound, "no_agent")
	_, err = w.Commands.GetQueue(t.Context(), &agentplanev1.GetQueueRequest{Agent: "twin"})
	wantRefusal(t, err, codes.InvalidArgument, "ambiguous_name")
	_, err = w.Commands.GetQueue(t.Context(), &agentplanev1.GetQueueRequest{Agent: "a1", Limit: maxQueued + 1})
	wantRefusal(t, err, codes.InvalidArgument, "limit")
}
