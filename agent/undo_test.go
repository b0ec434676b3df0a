package agent

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/agentplane/agentplane/agent/agenttest"
	"github.com/agentplane/agentplane/agent/journal"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/wave"
)

const (
	armed     = agentplanev1.UndoPhase_UNDO_PHASE_ARMED
	confirmed = agentplanev1.UndoPhase_UNDO_PHASE_CONFIRMED
	undoing   = agentplanev1.UndoPhase_UNDO_PHASE_RUNNING
	undone    = agentplanev1.UndoPhase_UNDO_PHASE_DONE
)

// undoable is a command that leaves its mark, with an undo that leaves another one.
func (h *host) undoable(rest string, within time.Duration, undo string) *agentplanev1.CommandSpec {
	s := h.cluster.Spec(h.mark(rest)...)
	s.Undo = &agentplanev1.UndoSpec{
		Argv:   []string{"/bin/sh", "-c", `echo "undo of $AGENTPLANE_INVOCATION_ID: $AGENTPLANE_UNDO" >> "$0"; ` + undo, h.witness},
		Within: int64(within), By: agentplanev1.ConfirmBy_CONFIRM_BY_OPERATOR,
	}
	return s
}

// undos counts the starts of the undo of an invocation.
func (h *host) undos(invocation string) int {
	h.t.Helper()
	return h.marks("undo of " + invocation + ":")
}

// waitUndone waits until the undo has left its mark, while no node is there to tell.
func (h *host) waitUndone(invocation string) {
	h.t.Helper()
	for end := time.Now().Add(20 * time.Second); h.undos(invocation) != 1; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			h.t.Fatal("it was not undone with nobody there")
		}
	}
}

// waitPhase waits until the agent has told that the undo is so far.
func waitPhase(c *agenttest.Cluster, invocation string, phase agentplanev1.UndoPhase) *agentplanev1.Report {
	var found *agentplanev1.Report
	c.Until("the undo of "+invocation+" is "+phase.String(), func() bool {
		for _, r := range c.Reports(invocation) {
			if r.GetUndo().GetPhase() == phase {
				found = r
				return true
			}
		}
		return false
	})
	return found
}

func TestWhatAnOperatorConfirmsStays(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	id := h.ready()
	begin := time.Now()
	inv := c.Submit(id, h.undoable("", time.Hour, ""))
	r := waitPhase(c, inv, armed)
	if until := time.Unix(0, r.GetUndo().GetUntil()); r.GetState() != running || until.Before(begin.Add(time.Hour-time.Second)) || until.After(time.Now().Add(time.Hour)) {
		t.Errorf("it is armed as %v", r)
	}
	if len(r.GetSteps()) != 0 {
		t.Errorf("a command without steps has told %v", r.GetSteps())
	}
	c.Keep(id, inv, "ann")
	c.Keep(id, inv, "ann")
	r = c.Wait(inv)
	if r.GetState() != succeeded || r.GetReason() != "exit" || r.GetUndo().GetPhase() != confirmed || r.GetCancelTooLate() {
		t.Errorf("report is %v", r)
	}
	n := len(c.Reports(inv))
	c.Keep(id, inv, "ann") // whoever asks again is told what stands
	c.Until("it is told again", func() bool { return len(c.Reports(inv)) > n })
	h.wantMarks(inv, 1)
	if h.undos(inv) != 0 {
		t.Error("it was undone all the same")
	}
}

func TestWhatNobodyConfirmsIsUndoneAndALateConfirmationIsToldSo(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	id := h.ready()
	release := filepath.Join(t.TempDir(), "release")
	inv := c.Submit(id, h.undoable("echo change", time.Second, "echo back; while [ ! -e "+release+" ]; do sleep 0.02; done"))
	waitPhase(c, inv, undoing)
	n := len(c.Reports(inv))
	c.Keep(id, inv, "ann")
	c.Until("it is told how it stands", func() bool { return len(c.Reports(inv)) > n })
	if r := c.Reports(inv)[n]; r.GetUndo().GetPhase() < undoing || r.GetUndo().GetCause() != "not_confirmed" {
		t.Errorf("a confirmation that is too late is answered with %v", r)
	}
	if err := os.WriteFile(release, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r := c.Wait(inv)
	if u := r.GetUndo(); r.GetState() != failed || r.GetReason() != "undone" || u.GetPhase() != undone || u.GetState() != succeeded || u.GetReason() != "exit" || u.GetUntil() == 0 || u.GetEndedAt() == 0 {
		t.Errorf("report is %v", r)
	}
	if out := string(r.GetStdout().GetHead()); out != "change\nback\n" {
		t.Errorf("it printed %q", out)
	}
	if h.undos(inv) != 1 {
		t.Errorf("the undo started %d times", h.undos(inv))
	}
}

func TestWhatFailsOrIsCanceledIsUndoneAtOnce(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	id := h.ready()
	inv := c.Submit(id, h.undoable("exit 3", time.Hour, ""))
	if r := c.Wait(inv); r.GetState() != failed || r.GetExitCode() != 3 || r.GetUndo().GetCause() != "failed" || r.GetUndo().GetPhase() != undone {
		t.Errorf("one that fails: %v", r)
	}
	inv = c.Submit(id, h.undoable("", time.Hour, ""))
	waitPhase(c, inv, armed)
	c.Cancel(id, inv)
	if r := c.Wait(inv); r.GetState() != canceled || r.GetReason() != "undone" || r.GetUndo().GetCause() != "canceled" || r.GetCancelTooLate() {
		t.Errorf("one that is canceled while it waits: %v", r)
	}
	inv = c.Submit(id, h.undoable("", time.Hour, ""))
	waitPhase(c, inv, armed)
	c.Keep(id, inv, "ann")
	c.Cancel(id, inv) // too late
	if r := c.Wait(inv); r.GetState() != succeeded || r.GetUndo().GetPhase() != confirmed {
		t.Errorf("one that is canceled when it was confirmed: %v", r)
	}
	c.Until("too late is said", func() bool {
		all := c.Reports(inv)
		return all[len(all)-1].GetCancelTooLate()
	})
}

func TestAnUndoNeedsNoCluster(t *testing.T) {
	c := agenttest.NewCluster(t, 2)
	h := newHost(t, c)
	id := h.ready()
	epoch := c.Agent(id).Epoch
	inv := c.Submit(id, h.undoable("", 2*time.Second, ""))
	waitPhase(c, inv, armed)
	for _, n := range c.Nodes {
		n.Kill()
	}
	h.waitUndone(inv)
	for _, n := range c.Nodes {
		n.Restart()
	}
	c.WaitReady(epoch)
	if r := c.Wait(inv); r.GetState() != failed || r.GetReason() != "undone" {
		t.Errorf("report is %v", r)
	}
}

func TestTheWaitGoesOnOverARestartOfAgentd(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	id := h.ready()
	kept := c.Submit(id, h.undoable("", time.Hour, ""))
	left := c.Submit(id, h.undoable("", 6*time.Second, ""))
	until := waitPhase(c, kept, armed).GetUndo().GetUntil()
	waitPhase(c, left, armed)
	epoch := c.Agent(id).Epoch
	h.stop()
	if c.Agent(id).Goodbye != nil {
		t.Error("goodbye was said although something waits")
	}
	h.start()
	c.WaitReady(epoch)
	hellos := c.Agent(id).Hellos
	told := map[string]int64{}
	for _, r := range hellos[len(hellos)-1].GetOpen() {
		if r.GetState() == running && r.GetUndo().GetPhase() == armed {
			told[r.GetInvocationId()] = r.GetUndo().GetUntil()
		}
	}
	if told[kept] != until || told[left] == 0 {
		t.Errorf("Hello told of %v, want %s until %d, and %s", told, kept, until, left)
	}
	c.Keep(id, kept, "ann")
	if r := c.Wait(kept); r.GetState() != succeeded {
		t.Errorf("what was confirmed: %v", r)
	}
	if r := c.Wait(left); r.GetState() != failed || r.GetReason() != "undone" {
		t.Errorf("what was not: %v", r)
	}
	h.wantMarks(left, 1)
	h.wantMarks(kept, 1)
	if h.undos(left) != 1 || h.undos(kept) != 0 {
		t.Errorf("the undos started %d and %d times", h.undos(left), h.undos(kept))
	}
}

// What is journalled first decides, so that nothing is undone before it can be written.
func TestADeadJournalHoldsTheUndoUp(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	books := make(chan *book, 1)
	until := h.listen()
	listening := h.options
	h.options = func(o *Options) {
		listening(o)
		o.opened = func(l *life) { books <- l.book }
	}
	id := h.ready()
	b := <-books
	inv := c.Submit(id, h.undoable("", 1500*time.Millisecond, ""))
	waitPhase(c, inv, armed)
	if err := b.now().Close(); err != nil { // as dead as after a failed fsync
		t.Fatal(err)
	}
	c.Keep(id, inv, "ann")                         // in vain
	until("the attempt's end cannot be taken yet") // its time is over, and the undo's intent is refused
	if h.undos(inv) != 0 {
		t.Error("it was undone without a record")
	}
	if err := b.mend(); err != nil {
		t.Fatal(err)
	}
	if r := c.Wait(inv); r.GetState() != failed || r.GetReason() != "undone" || h.undos(inv) != 1 {
		t.Errorf("report is %v", r)
	}
}

// A sweep throws nothing away that is still to be undone, though the new journal knows nothing
// of it.
func TestAnUndoOutlivesItsJournal(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	lives := make(chan *life, 1)
	h.options = func(o *Options) { o.opened = func(l *life) { lives <- l } }
	id := h.ready()
	w := (<-lives).worker
	inv := c.Submit(id, h.undoable("", 1500*time.Millisecond, ""))
	waitPhase(c, inv, armed)
	if err := w.Rotate(time.Now().UnixNano()); err != nil {
		t.Fatal(err)
	}
	w.sweep()
	if _, err := os.Stat(filepath.Join(h.dir, attemptsDir, inv+"@1")); err != nil {
		t.Errorf("what waits has no directory: %v", err)
	}
	h.waitUndone(inv)
	c.Until("the end of the undo is seen", func() bool {
		return !w.runs(journal.Key{InvocationID: inv, Attempt: 1})
	})
}

func TestSecretsThatACrashHasLeftGoWithTheNextStart(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	id := h.ready()
	inv := c.Submit(id, h.steps("true"))
	c.Wait(inv)
	h.stop()
	later := filepath.Join(h.dir, attemptsDir, inv+"@1", "later")
	if err := os.WriteFile(later, []byte("hunter2"), 0o600); err != nil {
		t.Fatal(err)
	}
	epoch := c.Agent(id).Epoch
	h.start()
	c.WaitReady(epoch)
	if _, err := os.Stat(later); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("they are left (%v)", err)
	}
	if _, err := os.Stat(filepath.Dir(later)); err != nil {
		t.Errorf("the attempt's directory went with them: %v", err)
	}
}

// reboots gives a host a boot id of its own from the next start of agentd on.
func (h *host) reboots(name string) {
	h.options = func(o *Options) { o.BootID = func() (string, error) { return name, nil } }
}

func TestTheWaitBeginsAnewOnceWithTheHost(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	id := h.ready()
	inv := c.Submit(id, h.undoable("", time.Hour, ""))
	first := waitPhase(c, inv, armed).GetUndo().GetUntil()
	for _, boot := range []string{"second", "third"} {
		epoch := c.Agent(id).Epoch
		h.stop()
		h.reboots(boot)
		h.start()
		c.WaitReady(epoch)
		if boot == "second" {
			c.Until("it waits anew", func() bool {
				all := c.Reports(inv)
				last := all[len(all)-1]
				return last.GetUndo().GetPhase() == armed && last.GetUndo().GetUntil() > first
			})
			if h.undos(inv) != 0 {
				t.Error("it was undone after one reboot")
			}
		}
	}
	if r := c.Wait(inv); r.GetState() != failed || r.GetReason() != "undone" || r.GetUndo().GetCause() != "reboot" {
		t.Errorf("after two reboots: %v", r)
	}
}

func TestContactIsANewConnection(t *testing.T) {
	for name, x := range map[string]struct {
		blocked    bool
		leaderless bool
		within     time.Duration
		state      agentplanev1.AttemptState
		phase      agentplanev1.UndoPhase
	}{
		"the cluster is reached anew":             {false, false, time.Minute, succeeded, confirmed},
		"only the connection that stands goes on": {true, false, 3 * time.Second, failed, undone},
		"nodes without a leader are reached":      {false, true, 3 * time.Second, failed, undone},
	} {
		t.Run(name, func(t *testing.T) {
			c := agenttest.NewCluster(t, 2)
			h := newHost(t, c)
			var blocked atomic.Bool
			var refused atomic.Int64
			h.options = func(o *Options) {
				o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
					if blocked.Load() {
						refused.Add(1)
						return nil, errors.New("a firewall lets no new connection through")
					}
					return (&net.Dialer{}).DialContext(ctx, network, address)
				}
			}
			id := h.ready()
			epoch, hellos := c.Agent(id).Epoch, len(c.Agent(id).Hellos)
			blocked.Store(x.blocked)
			c.Leaderless(x.leaderless)
			spec := h.undoable("", x.within, "")
			spec.Undo.By = agentplanev1.ConfirmBy_CONFIRM_BY_CONTACT
			inv := c.Submit(id, spec)
			r := c.Wait(inv)
			if r.GetState() != x.state || r.GetUndo().GetPhase() != x.phase {
				t.Fatalf("report is %v", r)
			}
			if a := c.Agent(id); a.Epoch != epoch || len(a.Hellos) != hellos {
				t.Errorf("the session was broken: epoch %d, then %d", epoch, a.Epoch)
			}
			if x.blocked || x.leaderless {
				if r.GetUndo().GetCause() != "no_contact" || x.blocked && refused.Load() == 0 || h.undos(inv) != 1 {
					t.Errorf("after %d connections were refused: %v", refused.Load(), r)
				}
				return
			}
			if d := r.GetUndo().GetDetail(); !strings.HasPrefix(d, "node node-") || h.undos(inv) != 0 {
				t.Errorf("the detail is %q", d)
			}
		})
	}
}

// Of nodes that are dead, or swallowed by a firewall, nothing is heard for long: the others are
// asked all the same.
func TestContactWithOneNodeOfThree(t *testing.T) {
	c := agenttest.NewCluster(t, 3)
	h := newHost(t, c)
	var swallowed atomic.Bool
	h.options = func(o *Options) {
		o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if swallowed.Load() && address != c.Nodes[2].Address {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return (&net.Dialer{}).DialContext(ctx, network, address)
		}
	}
	id := h.ready()
	swallowed.Store(true)
	spec := h.undoable("", time.Minute, "")
	spec.Undo.By = agentplanev1.ConfirmBy_CONFIRM_BY_CONTACT
	r := c.Wait(c.Submit(id, spec))
	if r.GetState() != succeeded || r.GetUndo().GetDetail() != "node "+c.Nodes[2].ID+" has answered a new connection" {
		t.Errorf("report is %v", r)
	}
}

func TestContactWithNobodyThere(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	id := h.ready()
	release := filepath.Join(t.TempDir(), "release")
	spec := h.undoable("while [ ! -e "+release+" ]; do sleep 0.02; done", 2500*time.Millisecond, "")
	spec.Undo.By = agentplanev1.ConfirmBy_CONFIRM_BY_CONTACT
	inv := c.Submit(id, spec)
	c.Until("it runs", func() bool { return h.marks(inv) == 1 })
	c.Nodes[0].Kill()
	if err := os.WriteFile(release, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.waitUndone(inv)
	epoch := c.Agent(id).Epoch
	c.Nodes[0].Restart()
	c.WaitReady(epoch)
	if r := c.Wait(inv); r.GetState() != failed || r.GetReason() != "undone" || r.GetUndo().GetCause() != "no_contact" {
		t.Errorf("report is %v", r)
	}
}

func TestWhatWaitsTakesASlot(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	h.config.Slots = 1
	id := h.ready()
	inv := c.Submit(id, h.undoable("", time.Hour, ""))
	waitPhase(c, inv, armed)
	second := c.Submit(id, c.Spec(h.mark("")...))
	c.Redeliver(inv)
	c.Keep(id, inv, "ann")
	a, b := c.Wait(inv), c.Wait(second)
	if a.GetState() != succeeded || b.GetState() != succeeded || b.GetStartedAt() < a.GetEndedAt() {
		t.Errorf("first %v\nsecond %v, want one after the other", a, b)
	}
	h.wantMarks(inv, 1)
}

// A probe is another program of the envelope, and has no undo.
func TestProbesAreNotUndone(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	id := h.ready()
	spec := h.undoable("", time.Hour, "")
	spec.Rollout = &agentplanev1.RolloutSpec{Probe: &agentplanev1.ProbeSpec{Argv: []string{"false"}}}
	probe := wave.ProbeID(spec.GetCommandId(), 1)
	inv := c.Submit(id, spec, func(d *agentplanev1.Deliver) {
		d.CommandId, d.InvocationId, d.Part, d.Wave = probe, probe+".1", agentplanev1.Part_PART_PROBE, 1
	})
	if r := c.Wait(inv); r.GetState() != failed || r.GetUndo() != nil || h.undos(inv) != 0 {
		t.Errorf("report is %v", r)
	}
}

func TestAnUndoThatCannotBeRunIsRejected(t *testing.T) {
	c := agenttest.NewCluster(t, 1)
	h := newHost(t, c)
	h.options = func(o *Options) {
		o.Policy = func(s *agentplanev1.CommandSpec) string {
			if len(s.GetScript()) > 0 {
				return "no scripts on this host"
			}
			return ""
		}
	}
	id := h.ready()
	empty, script := h.undoable("", time.Hour, ""), h.undoable("", time.Hour, "")
	empty.Undo.Argv = nil
	script.Undo.Argv, script.Undo.Script = nil, []byte("true")
	for name, x := range map[string]struct {
		spec           *agentplanev1.CommandSpec
		reason, detail string
	}{
		"nothing to run":       {empty, reasonInvalid, "the undo of"},
		"one against a policy": {script, reasonPolicy, "the undo: no scripts on this host"},
	} {
		if r := c.Wait(c.Submit(id, x.spec)); r.GetState() != rejected || r.GetReason() != x.reason || !strings.Contains(r.GetDetail(), x.detail) {
			t.Errorf("%s: %v", name, r)
		}
	}
}
