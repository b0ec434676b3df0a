package dispatch

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// TestHistories lets agents move between nodes, lose streams and come back while the
// log fails, forgets, doubles and delays, and nodes lag. At every step:
//
//   - what was delivered is claimed in the state, with that fence, under that session
//     epoch or an earlier one;
//   - no attempt was started twice.
//
// And when the faults end, everything that was released is claimed, delivered, and
// ends, and every result is confirmed.
func TestHistories(t *testing.T) {
	const agents = 3
	began := time.Now()
	rapid.Check(t, func(rt *rapid.T) {
		seed := rapid.SliceOfN(rapid.IntRange(0, 99), 10, 40).Draw(rt, "steps")
		faults := rapid.SliceOfN(rapid.SampledFrom([]fault{fine, fine, refused, unknown, forgotten, later}), 8, 8).Draw(rt, "faults")
		if time.Since(began) > 6*time.Second {
			return // as many histories as this machine plays in that time
		}
		var failure string
		t.Run("history", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				failure = history(t, agents, seed, faults)
			})
		})
		if failure != "" {
			rt.Fatal(failure)
		}
	})
}

func history(t *testing.T, count int, steps []int, faults []fault) string {
	l := newLog(t)
	l.enroll(count)
	var run []*testNodeRun
	for n := range nodes {
		run = append(run, l.node(n, nil))
	}
	l.faults(func(call int, _ []*raftlogv1.Mutation) fault { return faults[call%len(faults)] })
	agents := make([]*fakeAgent, count)
	sessions := make([]*fakeSession, count)
	for i := range agents {
		agents[i] = newAgent(t, i)
		agents[i].run = true
	}
	var commands []string
	var past []*fakeSession
	leave := func(i int) {
		if sessions[i] != nil {
			sessions[i].hangUp()
			past = append(past, sessions[i])
			sessions[i] = nil
		}
	}
	join := func(i, node int) {
		s := agents[i].dial(run[node].Dispatcher)
		if w, _ := s.shake(nil); w == nil {
			s.hangUp()
			return
		}
		s.ready()
		s.begin()
		sessions[i] = s
	}
	for _, step := range steps {
		agent := step % count
		switch step % 10 {
		case 0, 1, 2:
			leave(agent)
			join(agent, step/count%nodes)
		case 3:
			leave(agent)
		case 4, 5, 6:
			commands = append(commands, l.submit(nil, 0, 1, 2))
		case 7:
			if len(commands) > 0 {
				l.cancel(commands[step%len(commands)])
			}
		case 8:
			l.lag(run[step%nodes].machine, true)
		case 9:
			l.lag(run[step%nodes].machine, false)
		}
		settle(time.Duration(step*step) * time.Millisecond)
		if f := judgeHistory(l, agents, append(past, sessions...)); f != "" {
			return f
		}
	}
	l.faults(nil)
	for n := range nodes {
		l.lag(run[n].machine, false)
	}
	settle(20 * time.Second) // also past the limit on grants
	for i := range agents {
		if sessions[i] == nil || !sessions[i].alive() {
			leave(i)
			join(i, i%nodes)
			if sessions[i] == nil {
				return fmt.Sprintf("agent %d cannot come back", i)
			}
		}
	}
	settle(2 * time.Minute)
	if f := judgeHistory(l, agents, append(past, sessions...)); f != "" {
		return f
	}
	for _, id := range commands {
		for i := range agents {
			if got := l.invocation(id, i).GetState(); got < raftlogv1.AttemptState_ATTEMPT_STATE_LOST {
				return fmt.Sprintf("in the end %s is %v on agent %d", id, got, i)
			}
		}
	}
	for i, a := range agents {
		if len(a.open) > 0 {
			return fmt.Sprintf("in the end agent %d has %d results that were never confirmed", i, len(a.open))
		}
	}
	for i := range agents {
		leave(i)
	}
	settle(5 * time.Second)
	for i := range agents {
		if live(l.session(i)) {
			return fmt.Sprintf("agent %d has hung up and its session is %v", i, l.session(i).GetState())
		}
	}
	for _, r := range run {
		r.stop()
	}
	return ""
}

func judgeHistory(l *testLog, agents []*fakeAgent, sessions []*fakeSession) string {
	for _, s := range sessions {
		if s == nil {
			continue
		}
		for _, d := range s.deliveries() {
			i, found := l.view().Invocation(d.GetInvocationId())
			switch {
			case !found || i.GetFence() != d.GetFence() || i.GetAttempt() != d.GetAttempt() || i.GetAgentId() != agentName(s.n):
				return fmt.Sprintf("a delivery of what is not claimed: %v, the state has %v", d, i)
			case d.GetSessionEpoch() != s.epoch || i.GetSessionEpoch() > d.GetSessionEpoch():
				return fmt.Sprintf("a delivery under epoch %d in session %d, claimed under %d", d.GetSessionEpoch(), s.epoch, i.GetSessionEpoch())
			}
		}
	}
	for _, a := range agents {
		if f := a.judge(); f != "" {
			return f
		}
	}
	return ""
}

func (a *fakeAgent) judge() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, n := range a.starts {
		if n > 1 {
			return fmt.Sprintf("%s was started %d times", id, n)
		}
	}
	return ""
}
