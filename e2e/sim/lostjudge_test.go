package sim

import (
	"strings"
	"testing"
	"time"

	"github.com/agentplane/agentplane/fsm"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

func TestLostAttemptsAreJudged(t *testing.T) {
	const (
		claimed = raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED
		runs    = raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING
		s       = time.Second
	)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, test := range map[string]struct {
		reason string
		state  raftlogv1.AttemptState
		age    time.Duration // since its claim
		away   time.Duration // since its agent's session has ended; 0: it has one
		want   string        // part of what is wrong; empty is nothing
	}{
		"away for long enough":                     {"no_contact", runs, 10 * s, lostAfter, ""},
		"away for too short a time":                {"no_contact", runs, 5 * s, lostAfter - 1, "after its agent's session has ended"},
		"never away":                               {"no_contact", runs, 10 * s, 0, "while its agent has a session"},
		"claimed, it may be started at the last":   {"no_contact", claimed, 10 * s, lostAfter, "not before 8s"},
		"claimed, and its time is over":            {"no_contact", claimed, 10 * s, 8 * s, ""},
		"overdue, of an agent that comes and goes": {"no_contact", runs, 8*s + 3*lostAfter, s, ""},
		"no answer for long enough":                {"no_answer", runs, 8*s + lostAfter, 0, ""},
		"no answer while it may run":               {"no_answer", runs, 8 * s, 0, "it may take 8s"},
		"a reason that leaders do not give":        {"reboot", runs, time.Hour, time.Hour, "no leader gives"},
	} {
		t.Run(name, func(t *testing.T) {
			j := newLostJudge()
			j.claims["c.1"] = now.Add(-test.age)
			if test.away > 0 {
				j.away["a"] = now.Add(-test.away)
			}
			m := &raftlogv1.LoseAttempt{Key: &raftlogv1.AttemptKey{InvocationId: "c.1", Attempt: 1}, ExpectedState: test.state, Reason: test.reason}
			got := j.lost(&raftlogv1.Invocation{Id: "c.1", AgentId: "a"}, &raftlogv1.Command{RunTimeout: int64(7 * s), KillGrace: int64(s)}, m, now)
			if test.want == "" && got != "" || !strings.Contains(got, test.want) {
				t.Errorf("the judge says %q, want %q", got, test.want)
			}
		})
	}
	if wrong := newLostJudge().judge(fsm.New(fsm.Options{}).View(), nil, nil, now); len(wrong) > 0 {
		t.Errorf("the judge says %q of no entry", wrong)
	}
}
