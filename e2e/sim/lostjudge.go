package sim

import (
	"fmt"
	"time"

	"github.com/agentplane/agentplane/controlplane/rollout"
	"github.com/agentplane/agentplane/fsm"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// lostJudge measures by the world's clock how long a leader waited before it called an attempt
// LOST. The times are those at which entries were first written, by whoever led then: what
// ended a session was written before the leader saw it, and what it decided is written after
// that.
type lostJudge struct {
	away   map[string]time.Time // agents without a session, by id: since when
	claims map[string]time.Time // of invocations, the last one
	seen   map[string]int
}

func newLostJudge() *lostJudge {
	return &lostJudge{away: make(map[string]time.Time), claims: make(map[string]time.Time), seen: make(map[string]int)}
}

// judge looks at an entry that was first written at a time and led to v.
func (j *lostJudge) judge(v *fsm.View, e *raftlogv1.Entry, outcomes []*raftlogv1.Outcome, at time.Time) (wrong []string) {
	for i, o := range outcomes {
		m := e.GetMutations()[i]
		if o.GetCode() != raftlogv1.Code_CODE_OK || o.GetRepeated() {
			continue
		}
		if lost := m.GetLoseAttempt(); lost != nil && lost.GetNodeId() == "" {
			i, _ := v.Invocation(lost.GetKey().GetInvocationId())
			c, _ := v.Command(i.GetCommandId())
			if why := j.lost(i, c, lost, at); why != "" {
				wrong = append(wrong, fmt.Sprintf("I3: at index %d %s is LOST(%s) %s: %s", v.Index(), lost.GetKey().GetInvocationId(), lost.GetReason(), why, lost.GetDetail()))
			}
		}
		if c := m.GetClaimAttempt(); c != nil {
			j.claims[c.GetInvocationId()] = at
		}
	}
	for a := range v.Agents() {
		s, _ := v.Session(a.GetId())
		live := s.GetState() == raftlogv1.SessionState_SESSION_STATE_OPEN || s.GetState() == raftlogv1.SessionState_SESSION_STATE_READY
		if _, gone := j.away[a.GetId()]; live {
			delete(j.away, a.GetId())
		} else if !gone {
			j.away[a.GetId()] = at
		}
	}
	return wrong
}

// lost says why it is too early to call the attempt LOST; "" when it is not.
func (j *lostJudge) lost(i *raftlogv1.Invocation, c *raftlogv1.Command, m *raftlogv1.LoseAttempt, at time.Time) string {
	allowed := time.Duration(c.GetRunTimeout() + c.GetKillGrace())
	since, away := j.away[i.GetAgentId()]
	gone, age := at.Sub(since), at.Sub(j.claims[i.GetId()])
	j.seen["LOST by a leader: "+m.GetReason()]++
	switch m.GetReason() {
	case rollout.NoContact:
		least := lostAfter
		if m.GetExpectedState() == raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED { // it may be started at the last moment
			least = max(least, allowed)
		}
		switch {
		case !away:
			return "while its agent has a session"
		// Overdue, whose agent may have come and gone again and again. The minute that leaders spare
		// it is the cluster's, whose clocks differ by as much in lives.
		case age >= allowed+3*lostAfter:
		case gone < least:
			return fmt.Sprintf("%v after its agent's session has ended, not before %v", gone, least)
		}
	case rollout.NoAnswer:
		if age < allowed+lostAfter {
			return fmt.Sprintf("%v after its claim, it may take %v", age, allowed)
		}
	default:
		return "for a reason that no leader gives"
	}
	return ""
}
