package dispatch

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// The failures of other systems that issue threads tell of, as tests of this one.

// salt#43262: returns of jobs on many minions are lost when they come at once, or while the
// master is busy or restarts. Here all results come within a moment, streams break before a
// confirmation, and the log fails: each is there in the end, confirmed, of one start.
func TestPeerSalt43262LostReturns(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		const agents = 120
		l.enroll(agents)
		var run []*testNodeRun
		for n := range nodes {
			run = append(run, l.node(n, nil))
		}
		var all []*fakeAgent
		var sessions []*fakeSession
		var targets []int
		for i := range agents {
			a := newAgent(t, i)
			a.run = true
			all, targets = append(all, a), append(targets, i)
			sessions = append(sessions, a.live(run[i%nodes].Dispatcher))
		}
		l.faults(func(call int, _ []*raftlogv1.Mutation) fault {
			return []fault{fine, unknown, refused, fine, later, forgotten}[call%6]
		})
		id := l.submit(nil, targets...)
		settle(20 * time.Millisecond)
		broken := 0
		for i, s := range sessions {
			if i%4 == 0 { // its report may be on its way
				s.hangUp()
				broken++
			}
		}
		settle(time.Second)
		l.faults(nil)
		for i, a := range all {
			if i%4 == 0 {
				sessions[i] = a.live(run[(i+1)%nodes].Dispatcher)
			}
		}
		settle(time.Minute)
		c, _ := l.view().Command(id)
		if c.GetState() != raftlogv1.CommandState_COMMAND_STATE_DONE || len(c.GetCounts()) != 1 || c.GetCounts()[0].GetState() != succeeded || c.GetCounts()[0].GetCount() != agents {
			t.Fatalf("of %d results, %d by broken streams, there are %v", agents, broken, c.GetCounts())
		}
		for i, a := range all {
			if inv := l.invocation(id, i).GetId(); a.starts[inv] != 1 || len(a.open) != 0 {
				t.Errorf("agent %d: %d starts, %d results not confirmed", i, a.starts[inv], len(a.open))
			}
		}
	})
}

// fleet#19059: one script that hangs keeps all scripts behind it on that host waiting. Here
// it takes one slot, and the others go on.
func TestPeerFleet19059OneStuckScript(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		n := l.node(0, nil)
		a := newAgent(t, 0) // two slots
		s := a.live(n.Dispatcher)
		stuck := l.submit(func(m *raftlogv1.SubmitCommand) { m.RunTimeout = int64(time.Hour) }, 0)
		settle(time.Second)
		if d := s.deliveries(); len(d) != 1 || d[0].GetCommandId() != stuck {
			t.Fatalf("delivered is %v", d)
		}
		s.tellEnd(s.deliveries()[0], running)
		for k := range 10 {
			id := l.submit(nil, 0)
			settle(time.Second)
			d := s.deliveries()
			if len(d) != k+2 || d[k+1].GetCommandId() != id {
				t.Fatalf("command %d behind a stuck one was not delivered within a second", k+1)
			}
			s.tellEnd(d[k+1], agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED)
		}
		settle(time.Second)
		if got := l.invocation(stuck, 0).GetState(); got != raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING {
			t.Errorf("the stuck one is %v", got)
		}
	})
}

// kibana#150047: a cancel in the middle of a fan-out has no effect on batches that are still
// being written, so that the rest of the agents goes on. Here the cancel commits between any
// two batches of claims: what it finds unclaimed is CANCELED and never delivered.
func TestPeerKibana150047CancelRacesTheFanOut(t *testing.T) {
	for after := range 12 { // calls until the cancel commits
		t.Run(fmt.Sprint(after), func(t *testing.T) {
			bubble(t, func(t *testing.T, l *testLog) {
				const agents = 100
				n := l.node(0, func(o *Options) { o.MaxMutations = 10 }) // ten batches of claims
				l.enroll(agents)
				var all []*fakeAgent
				var targets []int
				for i := range agents {
					a := newAgent(t, i)
					a.live(n.Dispatcher)
					all, targets = append(all, a), append(targets, i)
				}
				for _, a := range all {
					a.run = true
				}
				settle(time.Second)
				id := l.submit(nil, targets...)
				_, begin := l.size()
				for {
					if _, calls := l.size(); calls-begin >= after {
						break
					}
					time.Sleep(100 * time.Microsecond)
				}
				l.cancel(id)
				settle(time.Minute)
				never, ran := 0, 0
				for i, a := range all {
					inv := l.invocation(id, i)
					starts := a.starts[inv.GetId()]
					switch {
					case inv.GetFence() == 0 && inv.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_CANCELED && starts == 0:
						never++
					case inv.GetFence() != 0 && starts == 1:
						ran++
					default:
						t.Errorf("agent %d: %v with fence %d was started %d times", i, inv.GetState(), inv.GetFence(), starts)
					}
				}
				if never+ran != agents || after < 9 && never == 0 {
					t.Errorf("%d never started and %d were claimed before the cancel, of %d", never, ran, agents)
				}
			})
		})
	}
}

// rundeck#2783: a job whose node dies stays "running" on it for ever. Here the node that
// holds the agent's session dies with the claim delivered; the agent reports through
// another one, and nothing waits for the dead.
func TestPeerRundeck2783NodeOfARunningJobDies(t *testing.T) {
	bubble(t, func(t *testing.T, l *testLog) {
		first, second := l.node(0, nil), l.node(1, nil)
		a := newAgent(t, 0)
		s := a.live(first.Dispatcher)
		id := l.submit(nil, 0)
		settle(time.Second)
		d := s.deliveries()[0]
		s.tellEnd(d, running)
		settle(time.Second)
		first.stop()
		s.silence()
		synctest.Wait()
		if got := l.invocation(id, 0).GetState(); got != raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING {
			t.Fatalf("the job is %v when its node dies", got)
		}
		s = a.live(second.Dispatcher)
		s.tellEnd(d, agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED)
		settle(time.Second)
		if got := l.invocation(id, 0).GetState(); got != succeeded || len(a.open) != 0 {
			t.Errorf("the job is %v, %d results are not confirmed", got, len(a.open))
		}
		if len(s.deliveries()) != 0 {
			t.Errorf("the second node delivers again what the agent has told of: %v", s.deliveries())
		}
	})
}
