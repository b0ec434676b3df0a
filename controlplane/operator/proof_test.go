package operator

import (
	"testing"

	"github.com/google/go-cmp/cmp"

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
			for _, step := range proof(i) {
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
