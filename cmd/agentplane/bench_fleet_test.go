package main

import (
	"encoding/json"
	"strings"
	"testing"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

func TestBenchFleetMeasuresAll(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: -short; it starts four processes")
	}
	cmd, stdout, stderr, tmp := startBench(t, "fleet", "--agents", "60", "--sizes", "10,60", "--rounds", "1", "--alone", "3", "--fail", "0.2", "--slow", "300ms", "--json")
	if err := cmd.Wait(); err != nil {
		t.Fatalf("bench fleet: %v\n%s", err, stderr)
	}
	nothingLeft(t, tmp)
	var r fleetReport
	d := json.NewDecoder(strings.NewReader(stdout.String()))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		t.Fatalf("read the output: %v\n%s", err, stdout)
	}
	if r.Agents != 60 || len(r.FanOuts) != 2 || len(r.Cancels) != 1 || len(r.Medians) != 2 || r.Alone == nil || r.Alone.Calls != 3 {
		t.Fatalf("it measured %+v", r)
	}
	for _, m := range r.FanOuts {
		// A submission, the claims and the results are three entries at least.
		if m.Submit <= 0 || m.Total < m.Submit || m.Entries < 3 || m.Entries > 3*m.Agents+1 {
			t.Errorf("a measurement makes no sense: %+v", m)
		}
	}
	if a := r.Alone; a.P50 <= 0 || a.P99 < a.P50 || a.ExecP50 <= 0 || a.ExecP50 > a.P50 {
		t.Errorf("the round trips make no sense: %+v", a)
	}
}

func TestBenchFleetRefusesWhatItCannotMeasure(t *testing.T) {
	for _, test := range []struct{ name, value, want string }{
		{"--agents", "0", "--agents 0 is not from 1"},
		{"--sizes", "1001", `--sizes "1001": "1001" is not a number from 1 to 1000`},
		{"--rounds", "0", "--rounds 0 is not from 1"},
		{"--alone", "-1", "--alone -1 is not from 0"},
		{"--fail", "1.5", "a share of failures of 1.5 is not from 0 to 1"},
		{"--mute", "-1", "never answers is not from 0 to 1"},
		{"--slow", "-1s", "programs that run for up to -1s"},
		{"--timeout", "1ms", "--timeout 1ms is not from 1s"},
	} {
		t.Run(test.name+" "+test.value, func(t *testing.T) {
			problem, _ := fails(t, exitUsage, nil, "bench", "fleet", test.name, test.value)
			if !strings.Contains(problem, test.want) {
				t.Errorf("the error is %q, want %q in it", problem, test.want)
			}
		})
	}
}

// What the bench would not forgive.
func TestJudgeInvocation(t *testing.T) {
	const (
		succeeded = agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED
		canceled  = agentplanev1.AttemptState_ATTEMPT_STATE_CANCELED
		lost      = agentplanev1.AttemptState_ATTEMPT_STATE_LOST
	)
	for _, test := range []struct {
		name   string
		state  agentplanev1.AttemptState
		fence  uint64
		starts int
		good   bool
	}{
		{"a success that started", succeeded, 1, 1, true},
		{"a success out of nothing", succeeded, 1, 0, false},
		{"a success that started twice", succeeded, 1, 2, false},
		{"canceled before its claim", canceled, 0, 0, true},
		{"canceled before its claim, and yet started", canceled, 0, 1, false},
		{"canceled while it ran", canceled, 1, 1, true},
		{"canceled before it was delivered", canceled, 1, 0, true},
		{"lost without a cause", lost, 1, 1, false},
	} {
		err := judgeInvocation(&agentplanev1.Invocation{State: test.state, Fence: test.fence}, test.starts)
		if (err == nil) != test.good {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}
