package operator

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/agentplane/agentplane/controlplane/consensus"
	"github.com/agentplane/agentplane/controlplane/forward"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

func (w *world) batch(specs ...*agentplanev1.CommandSpec) (*agentplanev1.SubmitBatchResponse, error) {
	req := &agentplanev1.SubmitBatchRequest{}
	for _, s := range specs {
		req.Envelopes = append(req.Envelopes, envelope(w.t, s))
	}
	return w.Commands.SubmitBatch(w.t.Context(), req)
}

func TestSubmitBatchTakesOrRefusesEachByItself(t *testing.T) {
	w := fleetWorld(t)
	stood := w.spec("all")
	w.submit(stood)
	changed := w.spec("all")
	w.submit(changed)
	changed.Argv = []string{"reboot"}
	nobody, late := w.spec(`label.env == "moon"`), w.spec("all")
	late.NotAfter = w.now.UnixNano() - 1
	good, skipping := w.spec("all"), w.spec(`label.env == "prod"`)
	before, _ := w.m.Published()
	r, err := w.batch(good, stood, changed, nobody, late, skipping, good)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, a := range r.GetAnswers() {
		if f := a.GetRefusal(); f != nil {
			got = append(got, fmt.Sprint(codes.Code(f.GetCode()), " ", f.GetDetail().GetReason()))
			continue
		}
		got = append(got, fmt.Sprintf("+%d of %d repeated=%v", a.GetTargets()-a.GetSkipped(), a.GetTargets(), a.GetRepeated()))
	}
	want := []string{
		"+3 of 4 repeated=false", "+3 of 4 repeated=true", "AlreadyExists command_exists", "NotFound no_targets",
		"FailedPrecondition expired", "+1 of 2 repeated=false", "+3 of 4 repeated=true",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("answers\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if after, _ := w.m.Published(); after != before+1 {
		t.Errorf("it took %d entries, want one", after-before)
	}
	if n := w.m.View().CommandCount(); n != 4 {
		t.Errorf("%d commands stand, want 4", n)
	}
}

// Reruns name no selector: each means the targets of its own command.
func TestSubmitBatchKeepsRerunsApart(t *testing.T) {
	w := fleetWorld(t)
	one, other := w.submit(w.spec(`id == "a1"`)).GetId(), w.submit(w.spec(`id == "a2"`)).GetId()
	again := func(of string) *agentplanev1.CommandSpec {
		spec := w.spec("")
		spec.RerunOf, spec.RerunStates = of, []agentplanev1.AttemptState{agentplanev1.AttemptState_ATTEMPT_STATE_CANCELED}
		return spec
	}
	for _, id := range []string{one, other} {
		if _, err := w.Commands.CancelCommand(t.Context(), &agentplanev1.CancelCommandRequest{Id: id}); err != nil {
			t.Fatal(err)
		}
	}
	specs := []*agentplanev1.CommandSpec{again(one), again(other)}
	if _, err := w.batch(specs...); err != nil {
		t.Fatal(err)
	}
	for n, agent := range []string{"a1", "a2"} {
		for i := range w.m.View().Invocations(specs[n].GetCommandId()) {
			if i.GetAgentId() != agent {
				t.Errorf("the rerun of what ran on %s is on %s", agent, i.GetAgentId())
			}
		}
	}
}

func TestSubmitBatchDividesWhatOneEntryDoesNotHold(t *testing.T) {
	for name, edit := range map[string]func(*Options){
		"by mutations": func(o *Options) { o.BatchMutations = 2 },
		"by bytes":     func(o *Options) { o.BatchBytes = 700 },
	} {
		t.Run(name, func(t *testing.T) {
			w := fleetWorld(t, edit)
			before, _ := w.m.Published()
			r, err := w.batch(w.spec("all"), w.spec("all"), w.spec("all"), w.spec("all"), w.spec("all"))
			if err != nil || len(r.GetAnswers()) != 5 {
				t.Fatalf("%v, %v", r, err)
			}
			if after, _ := w.m.Published(); after != before+3 || w.m.View().CommandCount() != 5 {
				t.Errorf("%d entries and %d commands, want 3 and 5", after-before, w.m.View().CommandCount())
			}
		})
	}
}

// What keeps the leader from proposing is the error of the whole call, so that it is
// forwarded, held and repeated as that of one submission is.
func TestSubmitBatchFailsAsAWhole(t *testing.T) {
	w := fleetWorld(t)
	spec := w.spec("all")
	w.set(func() { w.deposed, w.cfg.Leader = true, "n2" })
	_, err := w.batch(spec)
	wantRefusal(t, err, codes.Unavailable, "not_leader")
	w.set(func() { w.deposed, w.afterErr = false, consensus.ErrUnknown })
	_, err = w.batch(spec)
	wantRefusal(t, err, codes.Unavailable, "outcome_unknown")
	w.set(func() { w.afterErr = nil })
	r, err := w.batch(spec)
	if err != nil || !r.GetAnswers()[0].GetRepeated() || w.m.View().CommandCount() != 1 {
		t.Fatalf("repeated: %v, %v, %d commands", r, err, w.m.View().CommandCount())
	}
}

func TestSubmitBatchIsBounded(t *testing.T) {
	w := fleetWorld(t)
	_, err := w.batch()
	wantRefusal(t, err, codes.InvalidArgument, "batch")
	_, err = w.Commands.SubmitBatch(t.Context(), &agentplanev1.SubmitBatchRequest{Envelopes: make([][]byte, MaxSubmitBatch+1)})
	wantRefusal(t, err, codes.InvalidArgument, "batch")
	r, err := w.Commands.SubmitBatch(t.Context(), &agentplanev1.SubmitBatchRequest{Envelopes: [][]byte{nil}})
	if err != nil || r.GetAnswers()[0].GetRefusal().GetDetail().GetReason() != "bad_envelope" {
		t.Fatalf("an empty envelope: %v, %v", r, err)
	}
}

// Once a part was proposed nobody may be told that nothing happened.
func TestSubmitBatchOfWhichAPartFailedIsUnknown(t *testing.T) {
	for _, cause := range []error{
		consensus.ErrBacklog, consensus.ErrNotLeader, forward.ErrNoLeader, consensus.ErrShutdown, context.DeadlineExceeded, consensus.ErrUnknown,
	} {
		t.Run(cause.Error(), func(t *testing.T) {
			w := fleetWorld(t, func(o *Options) {
				o.BatchMutations, o.Proposer = 2, &failsSecond{Proposer: o.Proposer, cause: cause}
			})
			specs := []*agentplanev1.CommandSpec{w.spec("all"), w.spec("all"), w.spec("all")}
			_, err := w.batch(specs...)
			wantRefusal(t, err, codes.Unavailable, "outcome_unknown")
			if !agentplanev1.DetailOf(err).GetOutcomeUnknown() || w.m.View().CommandCount() != 2 {
				t.Errorf("%v, and %d commands stand", err, w.m.View().CommandCount())
			}
			r, err := w.batch(specs...)
			if err != nil || !r.GetAnswers()[0].GetRepeated() || !r.GetAnswers()[1].GetRepeated() || r.GetAnswers()[2].GetRepeated() {
				t.Errorf("sent again: %v, %v", r, err)
			}
		})
	}
}

// failsSecond fails the second proposal and does nothing then.
type failsSecond struct {
	Proposer
	cause error
	calls int
}

func (f *failsSecond) Propose(ctx context.Context, m ...*raftlogv1.Mutation) ([]*raftlogv1.Outcome, error) {
	if f.calls++; f.calls == 2 {
		return nil, fmt.Errorf("propose: %w", f.cause)
	}
	return f.Proposer.Propose(ctx, m...)
}

func TestSubmitBatchEndsWithItsCaller(t *testing.T) {
	w := fleetWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := w.Commands.SubmitBatch(ctx, &agentplanev1.SubmitBatchRequest{Envelopes: [][]byte{envelope(t, w.spec("all"))}})
	wantRefusal(t, err, codes.Canceled, "canceled")
	if w.m.View().CommandCount() != 0 {
		t.Error("it was submitted all the same")
	}
}
