package agent

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/agentplane/agentplane/agent/agenttest"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// An older journal is put back that knows nothing of attempts, and no node was told of them
// before, so that nobody can notice. Their directories are still there: nothing is started
// again, and what became of them is told, also when their time to start is over.
func TestWhatAnOlderJournalDoesNotKnowIsNotStartedAgain(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	id := h.ready()
	putBack := h.keepsJournal()

	over := time.Now().Add(time.Second)
	late := c.Spec(h.mark("")...)
	late.NotAfter = over.UnixNano()
	all := []string{c.Submit(id, c.Spec(h.mark("")...)), c.Submit(id, late), c.Submit(id, h.steps("true", "true"))}
	for _, inv := range all {
		if r := c.Wait(inv); r.GetState() != succeeded {
			t.Fatalf("report is %v", r)
		}
	}
	seen := h.stepMarks()
	c.Until("the time to start is over", func() bool { return time.Now().After(over) })
	putBack()
	for _, inv := range all {
		told := len(c.Reports(inv))
		c.Redeliver(inv)
		var r *agentplanev1.Report
		c.Until("its end is told again", func() bool {
			all := c.Reports(inv)
			r = all[len(all)-1]
			return len(all) > told && r.GetState() != agentplanev1.AttemptState_ATTEMPT_STATE_RUNNING
		})
		if r.GetState() != succeeded {
			t.Errorf("behind the older journal it is told as %v", r)
		}
	}
	if again := h.stepMarks(); again != seen {
		t.Errorf("what ran is %q, and was %q before the older journal was put back", again, seen)
	}
}

// A cancel and a question come before the delivery, and make of what has begun nothing that
// never started.
func TestCancelBehindAnOlderJournal(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	id := h.ready()
	putBack := h.keepsJournal()
	over, asked, runs := c.Submit(id, c.Spec(h.mark("")...)), c.Submit(id, c.Spec(h.mark("")...)), c.Submit(id, c.Spec("sleep", "60"))
	c.Wait(over)
	fence := c.Wait(asked).GetFence()
	c.WaitState(runs, running)
	putBack()
	told := len(c.Reports(over)) + len(c.Reports(asked))
	c.Cancel(id, over)
	c.Ask(id, asked, fence)
	c.Cancel(id, runs)
	for _, inv := range []string{over, asked, runs} {
		c.Redeliver(inv)
	}
	c.Cancel(id, runs) // as a node does until it has heard of the end
	c.Until("the ends are told again", func() bool { return len(c.Reports(over))+len(c.Reports(asked)) >= told+2 })
	for _, inv := range []string{over, asked} {
		for _, r := range c.Reports(inv) {
			if r.GetState() != succeeded && r.GetState() != running {
				t.Errorf("what had succeeded is told as %v", r)
			}
		}
	}
	if r := c.Wait(runs); r.GetState() != canceled || r.GetStartedAt() == 0 {
		t.Errorf("what ran is told as %v", r)
	}
}

// keepsJournal copies the journal of a host. What it answers puts the copy back, while agentd
// does not run.
func (h *host) keepsJournal() (putBack func()) {
	h.t.Helper()
	journal, older := filepath.Join(h.dir, journalDir), h.t.TempDir()
	restart := func(between func() error) {
		h.t.Helper()
		h.stop()
		if err := between(); err != nil {
			h.t.Fatal(err)
		}
		before := h.cluster.Agent(h.cluster.Agents()[0]).Epoch
		h.start()
		h.cluster.WaitReady(before)
	}
	restart(func() error { return os.CopyFS(older, os.DirFS(journal)) })
	return func() {
		restart(func() error {
			return errors.Join(os.RemoveAll(journal), os.CopyFS(journal, os.DirFS(older)), os.Chmod(journal, 0o700))
		})
	}
}
