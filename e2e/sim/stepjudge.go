package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/agentplane/agentplane/agent/execute"
	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// account is what is known of one attempt of a command: what was asked, what became of it by
// the state, and what its host saw.
type account struct {
	spec *agentplanev1.CommandSpec
	row  *raftlogv1.Invocation
	// starts are its programs, in the order in which they were let go.
	starts []Start
	// kept is who has confirmed it, when the journal has taken that; asked says that an
	// operator has asked for it, or may have.
	kept  *keptBy
	asked bool
	// canceled says that it was to be, by whoever may.
	canceled bool
	// forgetful says that its host has lost the journal that knew of it, or got an older one
	// back: then nobody can know what was confirmed, or has to be undone.
	forgetful bool
}

// programs are the argvs of its steps, or of the only program.
func (a account) programs() [][]string {
	if len(a.spec.GetSteps()) == 0 {
		return [][]string{a.spec.GetArgv()}
	}
	var all [][]string
	for _, s := range a.spec.GetSteps() {
		all = append(all, s.GetArgv())
	}
	return all
}

// good says that the program has succeeded, by the witness: it has ended with 0, and the reboot
// that it announced, if it did, has come.
func (s Start) good() bool {
	return !s.End.IsZero() && s.Verdict.Code == 0 && s.Verdict.Signal == 0 && (!s.Verdict.Announced || s.Verdict.Rebooted)
}

// parts are its starts as steps, by number, and as undos.
func (a account) parts() (steps map[int][]Start, undos []Start) {
	steps = make(map[int][]Start)
	for _, s := range a.starts {
		if s.Cause != "" {
			undos = append(undos, s)
		} else {
			n := max(s.Step, 1)
			steps[n] = append(steps[n], s)
		}
	}
	return steps, undos
}

// owes says that it has to be undone, and is not yet.
func (a account) owes() bool {
	_, undos := a.parts()
	return a.spec.GetUndo() != nil && len(a.starts) > 0 && len(undos) == 0 && a.kept == nil && !a.forgetful
}

// judge says what is wrong with it, of a world in which all has come to its end.
func (a account) judge() (wrong []string) {
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	steps, undos := a.parts()
	a.judgeSteps(steps, bad)
	a.judgeUndos(steps, undos, bad)
	a.judgeEnd(steps, undos, bad)
	for _, s := range a.starts {
		for _, w := range s.Wrong {
			bad("step %d was started with another file than was asked for: %s", s.Step, w)
		}
	}
	return wrong
}

// judgeSteps wants that each step was started once, in its order, after the one before had
// succeeded.
func (a account) judgeSteps(steps map[int][]Start, bad func(string, ...any)) {
	programs := a.programs()
	for n, all := range steps {
		if len(all) > 1 {
			bad("I2: step %d was started %d times", n, len(all))
		}
		if n > len(programs) {
			bad("there is no step %d", n)
			continue
		}
		s := all[0]
		if !slices.Equal(s.Argv, programs[n-1]) || len(a.spec.GetSteps()) > 0 && s.Name != a.spec.GetSteps()[n-1].GetName() {
			bad("step %d was started as %s %q, asked for is %q", n, s.Name, s.Argv, programs[n-1])
		}
		if n == 1 {
			continue
		}
		switch before := steps[n-1]; {
		case len(before) == 0:
			bad("step %d was started, and the one before was not", n)
		case before[0].End.IsZero() || before[0].End.After(s.At):
			bad("step %d was started while the one before ran", n)
		case !before[0].good():
			bad("step %d was started after one that did not succeed: %+v", n, before[0].Verdict)
		case before[0].Verdict.Announced && before[0].Boot == s.Boot:
			bad("step %d was started before the reboot that the one before had announced", n)
		}
	}
}

// judgeUndos wants that what was not confirmed is undone, once, when everything else has ended
// and not before its time; and that what was confirmed is not.
func (a account) judgeUndos(steps map[int][]Start, undos []Start, bad func(string, ...any)) {
	u := a.spec.GetUndo()
	if a.owes() {
		bad("a program has begun, nobody has confirmed it, and it was not undone")
	}
	if k := a.kept; k != nil && (u == nil || k.contact != (u.GetBy() == agentplanev1.ConfirmBy_CONFIRM_BY_CONTACT) || !k.contact && !a.asked) {
		bad("it was confirmed by %+v, who may not, or has not", *k)
	}
	if len(undos) == 0 {
		return
	}
	if len(undos) > 1 {
		bad("I2: the undo was started %d times", len(undos))
	}
	s := undos[0]
	if u == nil || !slices.Equal(s.Argv, u.GetArgv()) {
		bad("the undo was started as %q, asked for is %q", s.Argv, u.GetArgv())
	}
	if a.kept != nil && !a.kept.unsure && !a.forgetful {
		bad("it was undone although the host had taken down that %s has confirmed it", a.kept.by)
	}
	for n, all := range steps {
		if end := all[0].End; end.IsZero() || end.After(s.At) {
			bad("it was undone while step %d ran, or before", n)
		}
	}
	if !a.forgetful {
		a.judgeCause(steps, s, bad)
	}
}

// judgeCause wants that the undo was told why it runs.
func (a account) judgeCause(steps map[int][]Start, undo Start, bad func(string, ...any)) {
	within, contact := time.Duration(a.spec.GetUndo().GetWithin()), a.spec.GetUndo().GetBy() == agentplanev1.ConfirmBy_CONFIRM_BY_CONTACT
	all := true // steps have succeeded
	var last Start
	for n := range a.programs() {
		if len(steps[n+1]) == 0 {
			all = false
			break
		}
		last = steps[n+1][0]
		all = all && last.good()
	}
	switch undo.Cause {
	case execute.CauseNotConfirmed, execute.CauseNoContact:
		since := undo.Up
		if last.Boot == undo.Boot {
			since -= last.EndUp
		} else if before := undo.At.Add(bootTakes - undo.Up).Sub(last.End); before >= within {
			since = before // it may have been decided, and its intent journalled, under an earlier boot
		}
		if !all || since < within || contact != (undo.Cause == execute.CauseNoContact) {
			bad("it was undone for %s %v after its programs, which have succeeded: %v; it may be confirmed within %v", undo.Cause, since, all, within)
		}
	case execute.CauseReboot:
		if !all || undo.Boot < last.Boot+2 {
			bad("it was undone for a second reboot: its last program ran under boot %d, its undo under %d", last.Boot, undo.Boot)
		}
	case execute.CauseCanceled:
		if !a.canceled {
			bad("it was undone as canceled, and nobody has canceled it")
		}
	case execute.CauseTimedOut:
		if last.Verdict.Signal == 0 {
			bad("it was undone as timed out, and its last program was not ended")
		}
	case execute.CauseFailed:
		if last.good() && !last.Verdict.Announced {
			bad("it was undone as failed, and its programs have succeeded")
		}
	case execute.CauseLost:
	default:
		bad("it was undone for %q, which is no cause", undo.Cause)
	}
}

// judgeEnd compares what the state says of it with the witness.
func (a account) judgeEnd(steps map[int][]Start, undos []Start, bad func(string, ...any)) {
	all, announced := true, false
	for n := range a.programs() {
		all = all && len(steps[n+1]) > 0 && steps[n+1][0].good()
	}
	for _, s := range a.starts {
		announced = announced || s.Verdict.Announced
	}
	u, state := a.row.GetUndo(), a.row.GetState()
	switch state {
	case raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED:
		if !all {
			bad("it has SUCCEEDED, and not all of its programs have")
		}
		if len(undos) > 0 && !a.forgetful || a.spec.GetUndo() != nil && (u.GetPhase() != raftlogv1.UndoPhase_UNDO_PHASE_CONFIRMED || a.kept == nil && !a.forgetful) {
			bad("it has SUCCEEDED with %d undos, its undo is %v, and it was confirmed by %+v", len(undos), u, a.kept)
		}
	case raftlogv1.AttemptState_ATTEMPT_STATE_FAILED, raftlogv1.AttemptState_ATTEMPT_STATE_TIMED_OUT:
		if all && len(undos) == 0 && !announced {
			bad("it has not succeeded, and all of its programs have")
		}
	}
	if a.forgetful {
		return
	}
	switch {
	case u.GetPhase() == raftlogv1.UndoPhase_UNDO_PHASE_CONFIRMED && a.kept == nil:
		bad("it is said to be confirmed, and its host knows nothing of that")
	case u.GetPhase() == raftlogv1.UndoPhase_UNDO_PHASE_CONFIRMED && len(undos) > 0:
		bad("it is said to be confirmed, and was undone")
	case u.GetPhase() == raftlogv1.UndoPhase_UNDO_PHASE_DONE && u.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED && (len(undos) == 0 || !undos[0].good()):
		bad("its undo is said to have succeeded, and was not started or has not")
	case u.GetConfirmIndex() != 0 && !a.asked:
		bad("I8: it is confirmed, and operators were told that nothing happened")
	}
	for _, s := range a.row.GetResult().GetSteps() {
		seen := steps[int(s.GetNumber())]
		if s.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED && (len(seen) == 0 || !seen[0].good()) ||
			s.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_FAILED && s.GetExitCode() > 0 && s.GetReason() == execute.ReasonExit && (len(seen) == 0 || seen[0].Verdict.Code != int(s.GetExitCode())) {
			bad("step %d is said to be %v(%d), and was seen as %+v", s.GetNumber(), s.GetState(), s.GetExitCode(), seen)
		}
	}
}

// accounts are those of all attempts in a state.
func (w *World) accounts(v *fsm.View) (all []account) {
	starts, hosts := make(map[execute.Attempt][]Start), make(map[execute.Attempt]*agentHost)
	for _, a := range w.agents {
		for _, s := range a.Starts() {
			starts[s.Attempt] = append(starts[s.Attempt], s)
			hosts[s.Attempt] = a
		}
	}
	w.operators.mu.Lock()
	defer w.operators.mu.Unlock()
	for _, c := range w.operators.commands {
		row, there := v.Command(c.id)
		envelope, _ := v.Envelope(c.id)
		if !there {
			continue
		}
		for i := range v.Invocations(c.id) {
			at := execute.Attempt{InvocationID: i.GetId(), Number: i.GetAttempt()}
			one := account{
				spec: specOf(envelope), row: i, starts: starts[at], asked: c.confirmed.acked+c.confirmed.unknown > 0,
				canceled: row.GetCancelIndex() != 0 || row.GetAbort() != nil || i.GetCancelIndex() != 0,
			}
			if a := hosts[at]; a != nil {
				a.ground.mu.Lock()
				if k, kept := a.ground.kept[at]; kept {
					one.kept = &k
				}
				one.forgetful = a.ground.wiped[at]
				a.ground.mu.Unlock()
				one.forgetful = one.forgetful || w.wasPutBack(a.name)
			}
			all = append(all, one)
		}
	}
	return all
}

// undoes waits in a healed world until all is undone that is to be. What is not after a
// while is judged.
func (w *World) undoes() {
	if w.trade != tradeSteps {
		return
	}
	for began := time.Now(); time.Since(began) < undoneWithin; time.Sleep(200 * time.Millisecond) {
		if !slices.ContainsFunc(w.accounts(w.newest()), func(a account) bool { return a.owes() || a.running() }) {
			return
		}
	}
}

// running says that a program of it goes on.
func (a account) running() bool {
	return slices.ContainsFunc(a.starts, func(s Start) bool { return s.End.IsZero() })
}

// judgeStepped judges every attempt, and what operators were told of confirmations.
func (w *World) judgeStepped(v *fsm.View) {
	if w.trade != tradeSteps {
		return
	}
	seen := map[string]int{"lives with steps": 1}
	for _, a := range w.accounts(v) {
		for _, wrong := range a.judge() {
			w.fault("%s: %s\n%v\n%+v", a.row.GetId(), wrong, a.row, a.starts)
		}
		a.count(seen)
	}
	w.operators.mu.Lock()
	for _, c := range w.operators.commands {
		for i := range v.Invocations(c.id) {
			if u := i.GetUndo(); slices.Contains(c.waited, i.GetId()) && u.GetConfirmIndex() == 0 && u.GetPhase() <= raftlogv1.UndoPhase_UNDO_PHASE_CONFIRMED && i.GetCancelIndex() == 0 {
				w.fault("I1: the confirmation of %s was acknowledged and is not there: %v", i.GetId(), i)
			}
		}
	}
	w.operators.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	for what, n := range seen {
		w.accepted[what] += n
	}
}

// count notes what there was to be judged.
func (a account) count(seen map[string]int) {
	for _, s := range a.starts {
		switch {
		case s.Cause != "":
			seen["undos"]++
			seen["undos "+s.Cause]++
		case s.Step > 1:
			seen["further steps"]++
		}
		if s.Verdict.Rebooted {
			seen["reboots that were announced"]++
		}
		seen["files found"] += s.Files
	}
	switch {
	case a.kept != nil && a.kept.contact:
		seen["confirmed by contact"]++
	case a.kept != nil:
		seen["confirmed by operators"]++
	}
}

// stepMeans says what lives with steps had to judge, each in the mean.
func stepMeans(ends map[string]int) string {
	lives := ends["lives with steps"]
	if lives == 0 {
		return ""
	}
	all := []string{fmt.Sprintf("\n%d lives with steps, each with", lives)}
	for _, what := range []string{"further steps", "undos", "confirmed by operators", "confirmed by contact", "files found", "reboots that were announced", "records torn"} {
		all = append(all, fmt.Sprintf("%.1f %s", float64(ends[what])/float64(lives), what))
	}
	return strings.Join(all[:2], " ") + ", " + strings.Join(all[2:], ", ")
}
