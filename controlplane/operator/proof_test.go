package operator

import (
	"crypto/sha256"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

func TestProofTellsTheStartOnce(t *testing.T) {
	const (
		claimed   = raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED
		running   = raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING
		lost      = raftlogv1.AttemptState_ATTEMPT_STATE_LOST
		succeeded = raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED
		rejected  = raftlogv1.AttemptState_ATTEMPT_STATE_REJECTED
	)
	started := &raftlogv1.Result{StartedAt: 5}
	for _, c := range []struct {
		name   string
		states []raftlogv1.AttemptState
		result *raftlogv1.Result
		want   []string
	}{
		{"the result was the first word", []raftlogv1.AttemptState{claimed, succeeded}, started, []string{"CLAIMED", "RUNNING", "SUCCEEDED"}},
		{"the start was told before", []raftlogv1.AttemptState{claimed, running, succeeded}, started, []string{"CLAIMED", "RUNNING", "SUCCEEDED"}},
		{"it never started", []raftlogv1.AttemptState{claimed, rejected}, &raftlogv1.Result{}, []string{"CLAIMED", "REJECTED"}},
		{"nobody knows", []raftlogv1.AttemptState{claimed, lost}, nil, []string{"CLAIMED", "LOST"}},
		{"the result came late", []raftlogv1.AttemptState{claimed, lost, succeeded}, started, []string{"CLAIMED", "LOST", "RUNNING", "SUCCEEDED"}},
		{"it runs", []raftlogv1.AttemptState{claimed, running}, nil, []string{"CLAIMED", "RUNNING"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := &raftlogv1.Invocation{Attempt: 1, Result: c.result}
			for n, s := range c.states {
				i.Transitions = append(i.Transitions, &raftlogv1.Transition{State: s, Index: uint64(n + 1), Attempt: 1, Fence: 7})
			}
			var got []string
			last := uint64(0)
			for _, step := range proof(&raftlogv1.Command{}, i) {
				got = append(got, step.GetState().ShortName())
				if step.GetIndex() < last {
					t.Errorf("index %d after %d", step.GetIndex(), last)
				}
				last = step.GetIndex()
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestProofNamesWhoDecided(t *testing.T) {
	w := fleetWorld(t)
	id := w.submit(w.spec("all")).GetId()
	w.run(id, "a1", raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING, nil)
	w.set(func() { w.caller.name = "bob" })
	w.pass(time.Second)
	if _, err := w.Commands.CancelCommand(t.Context(), &agentplanev1.CancelCommandRequest{Id: id}); err != nil {
		t.Fatal(err)
	}
	w.pass(time.Second)
	w.run(id, "a1", raftlogv1.AttemptState_ATTEMPT_STATE_CANCELED, &raftlogv1.Result{StartedAt: 1})
	steps := func(agent string) (lines []string) {
		r, err := w.Commands.Why(t.Context(), &agentplanev1.WhyRequest{CommandId: id, Agent: agent})
		if err != nil {
			t.Fatal(err)
		}
		last := uint64(0)
		for _, s := range r.GetTransitions() {
			lines = append(lines, fmt.Sprintf("%s %s by %s", s.GetWhat(), s.GetState().ShortName(), s.GetBy()))
			if s.GetIndex() < last || s.GetAt() == 0 {
				t.Errorf("step %v after index %d", s, last)
			}
			last = s.GetIndex()
		}
		envelope, _ := w.m.View().Envelope(id)
		if want := fmt.Sprintf("%x", sha256.Sum256(envelope)); r.GetEnvelopeSha256() != want {
			t.Errorf("envelope %s, want %s", r.GetEnvelopeSha256(), want)
		}
		if c := r.GetCommand(); c.GetCanceledIndex() == 0 || c.GetCanceledAt() != testStart.Add(time.Second).UnixNano() {
			t.Errorf("canceled at %d, index %d", c.GetCanceledAt(), c.GetCanceledIndex())
		}
		return lines
	}
	for agent, want := range map[string][]string{
		"a1": {
			"submitted PENDING by operator alice", "released RELEASED by cluster", "claimed CLAIMED by node n1",
			"started RUNNING by agent a1", "cancel_asked RUNNING by operator bob", "result CANCELED by agent a1",
		},
		"a3": {"submitted PENDING by operator alice", "released RELEASED by cluster", "result CANCELED by operator bob"},
		"a2": {"submitted PENDING by operator alice", "result SKIPPED by cluster"},
	} {
		if d := cmp.Diff(want, steps(agent)); d != "" {
			t.Errorf("%s: %s", agent, d)
		}
	}
}

func TestProofNamesTheSigners(t *testing.T) {
	w := fleetWorld(t)
	spec := w.spec("all")
	b, err := proto.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	e, err := proto.Marshal(&agentplanev1.Envelope{Spec: b, Signatures: []*agentplanev1.Signature{{KeyId: "k1"}, {KeyId: "k2"}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commands.Submit(t.Context(), &agentplanev1.SubmitRequest{Envelope: e}); err != nil {
		t.Fatal(err)
	}
	r, err := w.Commands.Why(t.Context(), &agentplanev1.WhyRequest{CommandId: spec.GetCommandId(), Agent: "a1"})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"k1", "k2"}, r.GetKeyIds()); d != "" {
		t.Error(d)
	}
}
