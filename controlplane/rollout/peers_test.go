package rollout

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentplane/agentplane/fsm"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// The failures of other systems that issue threads tell of, as tests of this one.

func (w *world) wantDone(command string) {
	w.t.Helper()
	if c, _ := w.m.View().Command(command); c.GetState() != raftlogv1.CommandState_COMMAND_STATE_DONE {
		w.t.Fatalf("the command is %s: %v", c.GetState(), CountsOf(c))
	}
}

// rundeck#2783 and #6439: what runs where something died is "running" for ever, and keeps
// the next one from being started. Here host and leader are gone for good: the attempt is
// LOST within its known time, counted anew by the next leader, and its slot is free.
func TestPeerRundeck2783StuckRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fsm.Options{})
		targets := w.enrol(1)
		stop := w.lead(w.options())
		id := w.submit(targets, nil)
		synctest.Wait()
		w.claim(id, 1)
		w.report(id, 1, runs)
		w.end(1)
		pass(10 * time.Minute)
		stop() // the leader dies as well
		w.takeOffice()
		defer w.lead(w.options())()
		pass(Patience{15 * time.Minute}.Bound(10*time.Minute + 10*time.Second))
		w.want(id, Counts{lost: 1})
		w.wantReason(id, 1, NoContact)
		w.wantDone(id)
		w.open(1)
		next := w.submit(targets, nil)
		synctest.Wait()
		if !w.claim(next, 1) {
			t.Error("the next command cannot be claimed")
		}
	})
}

// bindplane-op#1354: a rollout that has offline agents among its targets never completes.
// Here a command for them ends: at once where it does not wait for them, and at its
// not-after where it does, each with a word for every target.
func TestPeerBindplane1354OfflineAgents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fsm.Options{})
		targets := w.enrol(5)
		for _, n := range targets[2:] {
			w.end(n)
		}
		defer w.lead(w.options())()
		pass(time.Minute) // longer than their grace
		for _, n := range targets[2:] {
			s, _ := w.m.View().Session(agentID(n))
			w.must(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_MarkDown{MarkDown: &raftlogv1.MarkDown{AgentId: agentID(n), SessionEpoch: s.GetEpoch()}}})
		}
		now := w.submit(targets, func(m *raftlogv1.SubmitCommand) { m.QueueOffline = false })
		queued := w.submit(targets, func(m *raftlogv1.SubmitCommand) { m.Ttl = int64(time.Hour) })
		synctest.Wait()
		for _, n := range targets[:2] {
			for _, id := range []string{now, queued} {
				if !w.claim(id, n) || !w.report(id, n, succeeded) {
					t.Fatalf("agent %d does not get on", n)
				}
			}
		}
		synctest.Wait()
		w.want(now, Counts{succeeded: 2, raftlogv1.AttemptState_ATTEMPT_STATE_SKIPPED: 3})
		w.wantReason(now, 3, "offline")
		w.wantDone(now)
		w.want(queued, Counts{succeeded: 2, released: 3})
		pass(time.Hour + time.Second)
		w.want(queued, Counts{succeeded: 2, expired: 3})
		w.wantDone(queued)
	})
}

// kibana#170322: actions expire after a time that nobody has said or sees, and agents that
// come later look stuck. Here the end of a command stands in its row from the beginning and
// is asked for; who comes later finds EXPIRED, not a command that is open, and cannot claim.
func TestPeerKibana170322HiddenExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, fsm.Options{})
		targets := w.enrol(2)
		w.end(2)
		defer w.lead(w.options())()
		id := w.submit(targets, func(m *raftlogv1.SubmitCommand) { m.Ttl = int64(2 * time.Hour) })
		c, _ := w.m.View().Command(id)
		if got := time.Duration(c.GetNotAfter() - c.GetSubmittedAt()); got != 2*time.Hour {
			t.Errorf("the row says that it expires after %v, want the 2h that were asked for", got)
		}
		synctest.Wait()
		w.claim(id, 1)
		w.report(id, 1, succeeded)
		pass(2*time.Hour - time.Minute)
		w.want(id, Counts{succeeded: 1, released: 1})
		pass(time.Minute + time.Second)
		w.want(id, Counts{succeeded: 1, expired: 1})
		w.wantReason(id, 2, "expired")
		w.wantDone(id)
		w.open(2)
		if w.claim(id, 2) {
			t.Error("an agent that came later got what had expired")
		}
	})
}
