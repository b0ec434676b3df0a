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
	journal, older := filepath.Join(h.dir, journalDir), t.TempDir()
	restart := func(between func() error) {
		t.Helper()
		h.stop()
		if err := between(); err != nil {
			t.Fatal(err)
		}
		before := c.Agent(id).Epoch
		h.start()
		c.WaitReady(before)
	}
	restart(func() error { return os.CopyFS(older, os.DirFS(journal)) })

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
	restart(func() error {
		time.Sleep(time.Until(over))
		if err := os.RemoveAll(journal); err != nil {
			return err
		}
		return errors.Join(os.CopyFS(journal, os.DirFS(older)), os.Chmod(journal, 0o700))
	})
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
