package e2e

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// uptimeSlack is twice of what the clock of deeds rounds to.
const uptimeSlack = 20 * time.Millisecond

// undoneWithin is how long after the end of an attempt its undo has ended, whatever died.
const undoneWithin = time.Minute

// account is what is known of one attempt of a command in parts when all is over: what was
// asked, what the cluster says, and what its programs have witnessed, in their order.
type account struct {
	asked *asked
	row   *agentplanev1.Invocation
	deeds []deed
	// killed says that its agent was since it was submitted, perhaps with what watched over its
	// programs.
	killed bool
	// ailed says that the disk of its agent failed since then: not even its files may have come.
	ailed bool
}

// accounts are those of all invocations in a history that were asked for in parts.
func accounts(h history, all map[string]*asked) (of []account) {
	submitted := make(map[string]time.Time)
	for _, s := range h.submissions {
		submitted[s.id] = s.began
	}
	for _, id := range slices.Sorted(maps.Keys(all)) {
		for _, i := range h.commands[id].invocations {
			killed := slices.ContainsFunc(h.deaths, func(d agentDeath) bool { return d.agent == i.agent && d.at.After(submitted[id]) })
			ailed := h.ailed(i.agent, submitted[id], i.endedAt.Add(undoneWithin))
			of = append(of, account{asked: all[id], row: i.row, deeds: h.deeds[start{i.id, i.attempt}], killed: killed || ailed, ailed: ailed})
		}
	}
	return of
}

// begun are the starts of the parts of that name, and ended is the end of one, nil when it has
// not come to that.
func (a account) begun(part string) (all []deed) {
	for _, d := range a.deeds {
		if d.Part == part && !d.Ends {
			all = append(all, d)
		}
	}
	return all
}

func (a account) ended(part string) *deed {
	i := slices.IndexFunc(a.deeds, func(d deed) bool { return d.Part == part && d.Ends })
	if i < 0 {
		return nil
	}
	return &a.deeds[i]
}

// good says that the part has succeeded, by its witness.
func (a account) good(part string) bool {
	end := a.ended(part)
	return end != nil && end.Code == 0
}

// whole says that all steps have.
func (a account) whole() bool {
	for n := range a.asked.steps {
		if !a.good(strconv.Itoa(n + 1)) {
			return false
		}
	}
	return true
}

// reached is the last step that was started; 0 when none was.
func (a account) reached() int {
	last := 0
	for _, d := range a.deeds {
		if n, err := strconv.Atoi(d.Part); err == nil {
			last = max(last, n)
		}
	}
	return last
}

// judge says what of it breaks a promise. It is a function of its account, so that a table
// tests it; judgeInvocation has judged what holds for any attempt.
func (a account) judge() (wrong []string) {
	bad := func(format string, args ...any) {
		wrong = append(wrong, fmt.Sprintf("invocation %s of agent %s is %s(%s): ", a.row.GetId(), a.row.GetAgentName(), a.row.GetState().ShortName(), a.row.GetReason())+
			fmt.Sprintf(format, args...))
	}
	a.judgeOrder(bad)
	a.judgeFound(bad)
	a.judgeUndo(bad)
	a.judgeConfirmed(bad)
	a.judgeEnd(bad)
	a.judgeSteps(bad)
	if a.asked.vow {
		a.judgeVow(bad)
	}
	return wrong
}

// judgeOrder wants that each part was started once at most, each step when the one before had
// succeeded, and the undo when nothing else ran any more.
func (a account) judgeOrder(bad func(string, ...any)) {
	seen := make(map[string]int)
	ended := make(map[string]bool)
	for _, d := range a.deeds {
		number, err := strconv.Atoi(d.Part)
		step := err == nil
		switch {
		case !step && d.Part != partUndo, number > len(a.asked.steps), !step && a.asked.undo == nil:
			bad("there is no part %s", d.Part)
			continue
		case d.Ends:
			if seen[d.Part] == 0 || ended[d.Part] {
				bad("part %s has ended without a start", d.Part)
			}
			ended[d.Part] = true
			if step && seen[partUndo] > 0 {
				bad("step %d has ended after the undo was started", number)
			}
			continue
		}
		if seen[d.Part]++; seen[d.Part] > 1 {
			bad("I2: part %s was started %d times", d.Part, seen[d.Part])
		}
		if !step {
			continue
		}
		if before := strconv.Itoa(number - 1); number > 1 && (!ended[before] || !a.good(before)) {
			bad("step %d was started, and the one before had not succeeded", number)
		}
		if seen[partUndo] > 0 {
			bad("step %d was started after the undo", number)
		}
		if want := a.asked.steps[number-1].name; d.Name != want || d.Cause != "" || want != "" && d.Step != d.Part {
			bad("step %d (%s) was started as step %s (%s), and as an undo for %q", number, want, d.Step, d.Name, d.Cause)
		}
	}
}

// judgeFound wants that each step found the very bytes that were submitted.
func (a account) judgeFound(bad func(string, ...any)) {
	for _, d := range a.deeds {
		if d.Ends || d.Part == partUndo {
			continue
		}
		want := maps.Clone(a.asked.brings)
		if d.Part != "1" {
			delete(want, foundInput)
		}
		if !maps.Equal(d.Found, want) {
			bad("step %s has found %v, want %v", d.Part, d.Found, want)
		}
		if a.asked.unplaced {
			bad("step %s was started without a file that has no place", d.Part)
		}
	}
	switch a.row.GetReason() {
	case "no_file": // nothing lasts as long as agents try, and what commands name is kept
		if a.ailed {
			return
		}
		bad("what it brings along was not there: %s", a.row.GetDetail())
	case "not_placed":
		if !a.asked.unplaced && !a.ailed {
			bad("its files have a place: %s", a.row.GetDetail())
		}
	}
}

// judgeUndo wants that what was begun is undone, unless it was confirmed, and not before its
// time.
func (a account) judgeUndo(bad func(string, ...any)) {
	u, undos := a.row.GetUndo(), a.begun(partUndo)
	if a.owes() {
		bad("a program has begun, nobody has confirmed it, and it was not undone: %v", u)
	}
	if len(undos) == 0 {
		return
	}
	if u.GetPhase() == agentplanev1.UndoPhase_UNDO_PHASE_CONFIRMED {
		bad("it is said to be confirmed, and was undone")
	}
	if undos[0].Cause != u.GetCause() {
		bad("its undo was told that it runs for %q, and the cluster that it does for %q", undos[0].Cause, u.GetCause())
	}
	switch cause := undos[0].Cause; cause {
	case "not_confirmed", "no_contact":
		last := a.ended(strconv.Itoa(len(a.asked.steps)))
		if !a.whole() || a.asked.contact != (cause == "no_contact") {
			bad("it was undone for %s", cause)
		} else if waited := undos[0].Uptime - last.Uptime; waited < a.asked.within-uptimeSlack {
			bad("it was undone after %v, though there are %v to confirm it", waited, a.asked.within)
		}
	case "canceled":
		if !a.asked.canceled {
			bad("it was undone as canceled, and nobody has canceled it")
		}
	case "failed":
		if a.whole() {
			bad("it was undone as failed, and its programs have succeeded")
		}
	case "timed_out":
		if !slices.ContainsFunc(a.asked.steps, func(p askedPart) bool { return p.long }) {
			bad("it was undone as timed out, and none of its programs takes long")
		}
	case "lost":
		if a.row.GetState() != agentplanev1.AttemptState_ATTEMPT_STATE_LOST {
			bad("it was undone as lost")
		}
	default: // no host is started anew
		bad("it was undone for %q", cause)
	}
}

// owes says that it has to be undone, and is not. An undo that is LOST was let go, and may have
// been killed before it could write that down.
func (a account) owes() bool {
	u := a.row.GetUndo()
	return a.asked.undo != nil && a.reached() > 0 && len(a.begun(partUndo)) == 0 && u.GetPhase() != agentplanev1.UndoPhase_UNDO_PHASE_CONFIRMED &&
		(u.GetPhase() != agentplanev1.UndoPhase_UNDO_PHASE_DONE || u.GetState() != agentplanev1.AttemptState_ATTEMPT_STATE_LOST)
}

// judgeConfirmed compares what operators were told of confirmations with what stands.
func (a account) judgeConfirmed(bad func(string, ...any)) {
	u := a.row.GetUndo()
	asked, taken := false, false
	for _, c := range a.asked.confirms {
		if slices.Contains(c.waited, a.row.GetId()) {
			asked = asked || c.outcome != refused
			taken = taken || c.outcome == acknowledged
		}
	}
	switch {
	case taken && u.GetConfirmedIndex() == 0 && u.GetPhase() <= agentplanev1.UndoPhase_UNDO_PHASE_CONFIRMED && !a.row.GetCancelRequested():
		bad("I1: its confirmation was acknowledged and is not there: %v", u)
	case u.GetConfirmedIndex() != 0 && !asked:
		bad("I8: it is confirmed, and operators were told that nothing happened: %v", u)
	case u.GetPhase() == agentplanev1.UndoPhase_UNDO_PHASE_CONFIRMED && a.asked.contact != (u.GetConfirmedIndex() == 0):
		bad("it was confirmed by who may not: %v", u)
	}
}

// judgeEnd compares the state with the witness.
func (a account) judgeEnd(bad func(string, ...any)) {
	u, undos, reason := a.row.GetUndo(), a.begun(partUndo), a.row.GetReason()
	switch a.row.GetState() {
	case agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED:
		if !a.whole() {
			bad("not all of its programs have succeeded")
		}
		if a.asked.undo != nil && u.GetPhase() != agentplanev1.UndoPhase_UNDO_PHASE_CONFIRMED || len(undos) > 0 {
			bad("it has %d undos, and its undo is %v", len(undos), u)
		}
		return
	case agentplanev1.AttemptState_ATTEMPT_STATE_CANCELED:
		if !a.asked.canceled {
			bad("nobody has canceled it")
		}
	case agentplanev1.AttemptState_ATTEMPT_STATE_FAILED, agentplanev1.AttemptState_ATTEMPT_STATE_TIMED_OUT:
		if a.whole() && len(undos) == 0 && reason != "undo_failed" {
			bad("all of its programs have succeeded, and nothing was undone")
		}
		a.judgeNamed(bad)
	}
	switch {
	case reason == "undone" && !(a.whole() && len(undos) == 1 && a.good(partUndo)):
		bad("its programs have succeeded: %v; of %d undos the first has: %v", a.whole(), len(undos), a.good(partUndo))
	case reason == "undo_failed" && u.GetState() == agentplanev1.AttemptState_ATTEMPT_STATE_LOST:
		if !a.killed { // otherwise nobody knows how it ended, though it may be about to end well
			bad("its undo is LOST, and its agent was not killed")
		}
	case reason == "undo_failed" && a.good(partUndo):
		bad("its undo has succeeded")
	case u.GetPhase() == agentplanev1.UndoPhase_UNDO_PHASE_DONE && u.GetState() == agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED && !a.good(partUndo):
		bad("its undo is said to have succeeded, and has not: %v", u)
	case a.row.GetState() != agentplanev1.AttemptState_ATTEMPT_STATE_LOST &&
		(u.GetPhase() == agentplanev1.UndoPhase_UNDO_PHASE_ARMED || u.GetPhase() == agentplanev1.UndoPhase_UNDO_PHASE_RUNNING):
		bad("its undo is not over: %v", u)
	}
}

// judgeNamed wants that what did not succeed says which step that was.
func (a account) judgeNamed(bad func(string, ...any)) {
	if len(a.asked.steps) == 1 || slices.Contains([]string{"undone", "undo_failed"}, a.row.GetReason()) {
		return
	}
	at := len(a.row.GetSteps())
	if a.row.GetReason() == "exit" {
		at = a.reached()
	}
	if want := fmt.Sprintf("step %d of %d (", at, len(a.asked.steps)); !strings.HasPrefix(a.row.GetDetail(), want) {
		bad("it says %q, want %q", a.row.GetDetail(), want)
	}
}

// judgeSteps compares what the cluster says of each step with the witness.
func (a account) judgeSteps(bad func(string, ...any)) {
	for _, s := range a.row.GetSteps() {
		part := strconv.Itoa(int(s.GetNumber()))
		end := a.ended(part)
		switch {
		case s.GetState() == agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED && !a.good(part):
			bad("step %s is said to have succeeded, and was seen as %v", part, end)
		case s.GetState() == agentplanev1.AttemptState_ATTEMPT_STATE_FAILED && s.GetReason() == "exit" && (end == nil || end.Code != int(s.GetExitCode())):
			bad("step %s is said to have ended with %d, and was seen as %v", part, s.GetExitCode(), end)
		}
	}
	if n := len(a.row.GetSteps()); n < a.reached() && len(a.asked.steps) > 1 {
		bad("step %d was started, and the cluster knows of %d", a.reached(), n)
	}
}

// judgeVow wants that with nothing in its way it came out as it is promised.
func (a account) judgeVow(bad func(string, ...any)) {
	want, phase := agentplanev1.AttemptState_ATTEMPT_STATE_FAILED, agentplanev1.UndoPhase_UNDO_PHASE_DONE
	if a.asked.keeps || a.asked.contact {
		want, phase = agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED, agentplanev1.UndoPhase_UNDO_PHASE_CONFIRMED
	}
	if a.row.GetState() != want || a.row.GetUndo().GetPhase() != phase {
		bad("nothing was broken; it was confirmed: %v, to be by contact: %v; and is %v", a.asked.keeps, a.asked.contact, a.row.GetUndo())
	}
}

// partCounts are what a run under load had to judge.
type partCounts struct{ steps, undos, kept, files int }

// Fewer than these void a run.
var leastParts = partCounts{steps: 20, undos: 3, kept: 3, files: 10}

func (n *partCounts) add(a account) {
	if a.asked.vow {
		return
	}
	for _, d := range a.deeds {
		switch {
		case d.Ends:
		case d.Part == partUndo:
			n.undos++
		case d.Part != "1":
			n.steps++
		}
		n.files += len(d.Found)
	}
	if a.row.GetUndo().GetPhase() == agentplanev1.UndoPhase_UNDO_PHASE_CONFIRMED {
		n.kept++
	}
}

// short says what there was too little of; empty when there was enough.
func (n partCounts) short(least partCounts) string {
	if n.steps < least.steps || n.undos < least.undos || n.kept < least.kept || n.files < least.files {
		return fmt.Sprintf("of commands in parts there were %+v, at least %+v are needed", n, least)
	}
	return ""
}

func (n partCounts) notes() []string {
	return []string{fmt.Sprintf("steps=%d", n.steps), fmt.Sprintf("undos=%d", n.undos), fmt.Sprintf("kept=%d", n.kept), fmt.Sprintf("files=%d", n.files)}
}
