package main

import (
	"testing"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// Of the further steps of what is LOST nothing is known: its host may be at them now.
func TestStepsOfWhatIsLostAreNotCalledNeverStarted(t *testing.T) {
	plan := []*agentplanev1.Step{{Name: "drain"}, {Name: "check"}}
	for state, want := range map[agentplanev1.AttemptState]string{
		agentplanev1.AttemptState_ATTEMPT_STATE_RUNNING:  "not yet",
		agentplanev1.AttemptState_ATTEMPT_STATE_FAILED:   "never started",
		agentplanev1.AttemptState_ATTEMPT_STATE_CANCELED: "never started",
		agentplanev1.AttemptState_ATTEMPT_STATE_LOST:     "not told of",
	} {
		rows := stepRows([]*agentplanev1.Invocation{{State: state, Steps: []*agentplanev1.StepResult{{Number: 1, Name: "drain"}}}}, plan)
		if len(rows) != 2 || rows[1].unreached != want {
			t.Errorf("of what is %v the second step is %+v, want %q", state, rows, want)
		}
	}
}
