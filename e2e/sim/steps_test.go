package sim

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentplane/agentplane/agent/execute"
	"github.com/agentplane/agentplane/agent/journal"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/frame"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

const (
	succeededRow = raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED
	failedRow    = raftlogv1.AttemptState_ATTEMPT_STATE_FAILED
)

// kept is an attempt of two steps with an undo that an operator has confirmed in time.
func keptAccount() account {
	now, argv := time.Now(), func(word string) []string { return []string{"work", "1s", "0", word} }
	at := func(from, until int, s Start) Start {
		s.At, s.Up = now.Add(time.Duration(from)*time.Second), time.Duration(from)*time.Second
		s.End, s.EndUp = now.Add(time.Duration(until)*time.Second), time.Duration(until)*time.Second
		s.Boot = 1
		return s
	}
	return account{
		spec: &agentplanev1.CommandSpec{
			Steps: []*agentplanev1.Step{{Name: "a", Argv: argv("a")}, {Name: "b", Argv: argv("b")}},
			Undo:  &agentplanev1.UndoSpec{Argv: argv(undoWord), Within: int64(10 * time.Second), By: agentplanev1.ConfirmBy_CONFIRM_BY_OPERATOR},
		},
		row: &raftlogv1.Invocation{
			Id: "c.1", Attempt: 1, State: succeededRow, Undo: &raftlogv1.Undo{Phase: raftlogv1.UndoPhase_UNDO_PHASE_CONFIRMED, ConfirmIndex: 7},
			Result: &raftlogv1.Result{Steps: []*raftlogv1.StepResult{
				{Number: 1, State: succeededRow}, {Number: 2, State: succeededRow},
			}},
		},
		starts: []Start{
			at(1, 2, Start{Step: 1, Name: "a", Argv: argv("a"), Files: 1}),
			at(3, 4, Start{Step: 2, Name: "b", Argv: argv("b")}),
		},
		kept: &keptBy{by: "ann"}, asked: true,
	}
}

// undoneAccount is the same when nobody has confirmed it.
func undoneAccount() account {
	a := keptAccount()
	a.kept, a.asked = nil, false
	undo := a.starts[1]
	undo.Step, undo.Name, undo.Cause, undo.Argv = 0, "", execute.CauseNotConfirmed, a.spec.GetUndo().GetArgv()
	undo.At, undo.Up = undo.At.Add(11*time.Second), undo.Up+11*time.Second
	undo.End, undo.EndUp = undo.At.Add(time.Second), undo.Up+time.Second
	a.starts = append(a.starts, undo)
	a.row.State = failedRow
	a.row.Undo = &raftlogv1.Undo{Phase: raftlogv1.UndoPhase_UNDO_PHASE_DONE, State: succeededRow}
	return a
}

func TestAttemptsOfStepsAreJudged(t *testing.T) {
	for name, test := range map[string]struct {
		of    func() account
		spoil func(*account)
		want  string // part of what the judge says; "" is nothing
	}{
		"confirmed":     {keptAccount, func(*account) {}, ""},
		"not confirmed": {undoneAccount, func(*account) {}, ""},
		"a step twice":  {keptAccount, func(a *account) { a.starts = append(a.starts, a.starts[1]) }, "step 2 was started 2 times"},
		"a step that is left out": {keptAccount, func(a *account) {
			a.starts = a.starts[1:]
		}, "the one before was not"},
		"steps in another order": {keptAccount, func(a *account) {
			a.starts[0].At, a.starts[0].End, a.starts[1].At, a.starts[1].End = a.starts[1].At, a.starts[1].End, a.starts[0].At, a.starts[0].End
		}, "while the one before ran"},
		"a step beside another": {keptAccount, func(a *account) { a.starts[0].End = a.starts[1].End }, "while the one before ran"},
		"a step after one that failed": {keptAccount, func(a *account) {
			a.starts[0].Verdict.Code, a.row.State, a.row.Result = 3, failedRow, nil
		}, "after one that did not succeed"},
		"a step after one that was killed": {keptAccount, func(a *account) {
			a.starts[0].Verdict.Signal, a.row.State, a.row.Result = 9, failedRow, nil
		}, "after one that did not succeed"},
		"a step before the reboot": {keptAccount, func(a *account) { a.starts[0].Verdict.Announced = true }, "after one that did not succeed"},
		"a step before the reboot that came later": {keptAccount, func(a *account) {
			a.starts[0].Verdict.Announced, a.starts[0].Verdict.Rebooted = true, true
		}, "before the reboot that the one before had announced"},
		"a step after the reboot": {keptAccount, func(a *account) {
			a.starts[0].Verdict.Announced, a.starts[0].Verdict.Rebooted, a.starts[1].Boot = true, true, 2
		}, ""},
		"a step that nobody asked for": {keptAccount, func(a *account) { a.starts[1].Step = 3 }, "there is no step 3"},
		"another program":              {keptAccount, func(a *account) { a.starts[1].Argv = []string{"work", "9s"} }, "asked for is"},
		"a step of another name":       {keptAccount, func(a *account) { a.starts[1].Name = "c" }, "asked for is"},
		"success without the last": {keptAccount, func(a *account) {
			a.starts, a.row.Result = a.starts[:1], nil
		}, "not all of its programs have"},
		"failure though all have succeeded": {keptAccount, func(a *account) {
			a.row.State = failedRow
		}, "and all of its programs have"},
		"a step that is said to have succeeded": {keptAccount, func(a *account) {
			a.starts, a.row.State = a.starts[:1], failedRow
			a.starts[0].Verdict.Code = 3
		}, "step 1 is said to be"},
		"a wrong exit code": {keptAccount, func(a *account) {
			a.starts, a.row.State = a.starts[:1], raftlogv1.AttemptState_ATTEMPT_STATE_LOST
			a.starts[0].Verdict.Code = 3
			a.row.Result.Steps = []*raftlogv1.StepResult{{Number: 1, State: failedRow, Reason: "exit", ExitCode: 4}}
		}, "step 1 is said to be"},
		"a spoilt file": {keptAccount, func(a *account) { a.starts[0].Wrong = []string{"x has 3 bytes"} }, "another file than was asked for"},

		"an undo of what was confirmed": {undoneAccount, func(a *account) {
			a.kept, a.asked = &keptBy{by: "ann"}, true
		}, "had taken down that ann has confirmed it"},
		"an undo of what may have been confirmed": {undoneAccount, func(a *account) {
			a.kept, a.asked = &keptBy{by: "ann", unsure: true}, true
		}, ""},
		"an undo of what is said to be confirmed": {undoneAccount, func(a *account) {
			a.row.Undo.Phase, a.kept, a.asked = raftlogv1.UndoPhase_UNDO_PHASE_CONFIRMED, &keptBy{by: "ann", unsure: true}, true
		}, "is said to be confirmed, and was undone"},
		"two undos": {undoneAccount, func(a *account) { a.starts = append(a.starts, a.starts[2]) }, "the undo was started 2 times"},
		"no undo":   {undoneAccount, func(a *account) { a.starts = a.starts[:2]; a.row.Undo = nil }, "and it was not undone"},
		"no undo of what failed": {undoneAccount, func(a *account) {
			a.starts, a.row.Undo, a.row.Result = a.starts[:1], nil, nil
			a.starts[0].Verdict.Code = 1
		}, "and it was not undone"},
		"no undo of what is LOST": {undoneAccount, func(a *account) {
			a.starts, a.row.Undo, a.row.State = a.starts[:2], nil, raftlogv1.AttemptState_ATTEMPT_STATE_LOST
		}, "and it was not undone"},
		"no undo on a host that has forgotten": {undoneAccount, func(a *account) {
			a.starts, a.row.Undo, a.row.State, a.forgetful = a.starts[:2], nil, raftlogv1.AttemptState_ATTEMPT_STATE_LOST, true
		}, ""},
		"an undo of what was confirmed on a host that has forgotten": {undoneAccount, func(a *account) {
			a.row.State, a.row.Undo.Phase = succeededRow, raftlogv1.UndoPhase_UNDO_PHASE_CONFIRMED
			a.kept, a.asked, a.forgetful = &keptBy{by: "ann"}, true, true
		}, ""},
		"two undos on a host that has forgotten": {undoneAccount, func(a *account) {
			a.starts, a.forgetful = append(a.starts, a.starts[2]), true
		}, "the undo was started 2 times"},
		"an undo that nobody asked for": {undoneAccount, func(a *account) {
			a.spec.Undo = nil
			a.starts[2].Cause = execute.CauseFailed
			a.starts[1].Verdict.Code = 1
			a.row.Result = nil
		}, "the undo was started as"},
		"an undo too early": {undoneAccount, func(a *account) { a.starts[2].Up -= 2 * time.Second }, "it may be confirmed within"},
		"an undo after a reboot, too early": {undoneAccount, func(a *account) {
			a.starts[2].Boot, a.starts[2].Up = 2, 9*time.Second
		}, "it may be confirmed within"},
		"an undo after a reboot": {undoneAccount, func(a *account) { a.starts[2].Boot, a.starts[2].Up = 2, 10*time.Second }, ""},
		"an undo that was decided before the reboot": {undoneAccount, func(a *account) {
			s := &a.starts[2]
			s.Boot, s.Up, s.At, s.End = 2, time.Second, s.At.Add(time.Second), s.End.Add(time.Second)
		}, ""},
		"an undo after two reboots": {undoneAccount, func(a *account) {
			a.starts[2].Boot, a.starts[2].Up, a.starts[2].Cause = 3, time.Second, execute.CauseReboot
		}, ""},
		"an undo for a second reboot after one": {undoneAccount, func(a *account) {
			a.starts[2].Boot, a.starts[2].Up, a.starts[2].Cause = 2, time.Second, execute.CauseReboot
		}, "for a second reboot"},
		"an undo beside the program":        {undoneAccount, func(a *account) { a.starts[1].End = a.starts[2].End }, "while step 2 ran"},
		"a step after the undo":             {undoneAccount, func(a *account) { a.starts[1].At, a.starts[1].End = a.starts[2].End, a.starts[2].End.Add(1) }, "while step 2 ran"},
		"an undo of a cancel that was not":  {undoneAccount, func(a *account) { a.starts[2].Cause = execute.CauseCanceled }, "nobody has canceled it"},
		"an undo of what has not failed":    {undoneAccount, func(a *account) { a.starts[2].Cause = execute.CauseFailed }, "as failed"},
		"an undo of what has not timed out": {undoneAccount, func(a *account) { a.starts[2].Cause = execute.CauseTimedOut }, "as timed out"},
		"an undo for the want of contact":   {undoneAccount, func(a *account) { a.starts[2].Cause = execute.CauseNoContact }, "it may be confirmed within"},
		"an undo for no cause":              {undoneAccount, func(a *account) { a.starts[2].Cause = "x" }, "which is no cause"},
		"an undo that is said to have run":  {undoneAccount, func(a *account) { a.starts[2].Verdict.Code = 1 }, "its undo is said to have succeeded"},
		"success of what was undone":        {undoneAccount, func(a *account) { a.row.State = succeededRow }, "it has SUCCEEDED with 1 undos"},
		"success that nobody has confirmed": {keptAccount, func(a *account) { a.row.Undo = nil }, "its undo is"},
		"confirmed by nobody":               {keptAccount, func(a *account) { a.asked, a.row.Undo.ConfirmIndex = false, 0 }, "who may not, or has not"},
		"confirmed by contact":              {keptAccount, func(a *account) { a.kept.contact = true }, "who may not, or has not"},
		"confirmed, though nothing happened": {undoneAccount, func(a *account) {
			a.row.Undo.State, a.row.Undo.ConfirmIndex = failedRow, 7
		}, "operators were told that nothing happened"},
		"confirmed without the host": {undoneAccount, func(a *account) {
			a.row.Undo.Phase = raftlogv1.UndoPhase_UNDO_PHASE_CONFIRMED
		}, "its host knows nothing of that"},
	} {
		t.Run(name, func(t *testing.T) {
			a := test.of()
			test.spoil(&a)
			wrong := a.judge()
			if test.want == "" && len(wrong) > 0 || test.want != "" && !slices.ContainsFunc(wrong, func(s string) bool { return strings.Contains(s, test.want) }) {
				t.Errorf("the judge says %q, want %q", wrong, test.want)
			}
		})
	}
}

// Package execute on a ground starts programs as on a host: a step that is lost with its
// supervisor is swept before anything follows, and a reboot that was announced ends one.
func TestGroundIsAHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost("a", &Trace{began: time.Now()})
		g, err := newGround(h, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		h.ground = g
		defer h.close()
		booted := make(chan struct{}, 1)
		g.restart = func() { h.kill(1<<30, "reboot"); booted <- struct{}{} }
		j := &steps{}
		data := t.TempDir()
		one, err := g.open(execute.Options{Dir: filepath.Join(data, "attempts"), Journal: j}, func() bool { return false })
		if err != nil {
			t.Fatal(err)
		}
		work := func(words ...string) []string { return append([]string{"work", "1s", "0"}, words...) }
		spec := execute.Spec{
			Attempt: execute.Attempt{InvocationID: "c.1", Number: 1}, KillGrace: time.Second,
			Steps: []execute.Step{{Name: "a", Argv: work(sayReboot)}, {Name: "b", Argv: work()}, {Name: "c", Argv: work()}},
		}
		run, err := one.Start(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			<-booted
			time.Sleep(1500 * time.Millisecond) // the second step has ended, and the third runs
			if h.kill(1, "supervisor_gone") != 1 {
				t.Error("no supervisor was there")
			}
		}()
		res, err := run.Wait(t.Context())
		if err != nil || res.State != execute.Lost || res.Reason != execute.ReasonSupervisorGone {
			t.Errorf("it ended as %+v, %v", res, err)
		}
		var seen []int
		for _, s := range h.Starts() {
			seen = append(seen, s.Step, s.Boot, s.Verdict.Signal)
		}
		if want := []int{1, 1, 0, 2, 2, 0, 3, 2, 9}; !slices.Equal(seen, want) {
			t.Errorf("steps, boots and signals are %v, want %v", seen, want)
		}
	})
}

// steps is a journal that knows of one attempt what it was told.
type steps struct {
	paper
	all []execute.StepRecord
}

func (j *steps) StepIntent(_ execute.Attempt, s execute.StepRecord) error {
	j.all = append(j.all, s)
	return nil
}

func (j *steps) StepFinish(_ execute.Attempt, s execute.StepRecord) error {
	j.all[len(j.all)-1] = s
	return nil
}

func (j *steps) Steps(execute.Attempt) []execute.StepRecord { return j.all }

// A record that was torn is gone when the journal is opened again, and nothing else is.
func TestATornRecordIsTheLastOne(t *testing.T) {
	dir := t.TempDir()
	open := func() *journal.Journal {
		t.Helper()
		j, err := journal.Open(filepath.Join(dir, "journal"), journal.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return j
	}
	j := open()
	if err := j.SetFloor(1); err != nil {
		t.Fatal(err)
	}
	intent := func(id string) {
		t.Helper()
		if err := j.Intent(journal.Intent{Key: journal.Key{InvocationID: id, Attempt: 1}, CommandID: "c", Fence: 1, Submitted: 2, NotAfter: 3, At: 2}); err != nil {
			t.Fatal(err)
		}
	}
	intent("c.1")
	before := journalBytes(dir)
	intent("c.2")
	if torn, err := tear(dir, before, 0.5); err != nil || !torn {
		t.Fatalf("the last record is not torn: %v", err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = open()
	_, first := j.Lookup(journal.Key{InvocationID: "c.1", Attempt: 1})
	_, second := j.Lookup(journal.Key{InvocationID: "c.2", Attempt: 1})
	if !first || second || j.Opening().Damage != nil || j.Opening().CutBytes == 0 {
		t.Errorf("after the tear the journal has %v and %v: %+v", first, second, j.Opening())
	}
	before = journalBytes(dir)
	intent("c.3")
	intent("c.4")
	if torn, err := tear(dir, before, 0.5); err != nil || torn {
		t.Errorf("a record that another one follows is torn: %v", err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	path, err := journalFile(dir)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(path); err != nil || len(b) < frame.HeaderBytes {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}
