package e2e

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

const (
	isSucceeded = agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED
	isFailed    = agentplanev1.AttemptState_ATTEMPT_STATE_FAILED
	isCanceled  = agentplanev1.AttemptState_ATTEMPT_STATE_CANCELED
	isLost      = agentplanev1.AttemptState_ATTEMPT_STATE_LOST
)

// stepped is three steps, of which some were started and the last ended with the code.
func stepped(code int, starts int) *account {
	a := &account{
		asked: &asked{id: "c", steps: []askedPart{{name: "one"}, {name: "two"}, {name: "three"}}},
		row:   &agentplanev1.Invocation{Id: "c.1", AgentName: "a1", State: isSucceeded, Reason: "exit"},
	}
	for n := range starts {
		step, end := &agentplanev1.StepResult{Number: uint32(n + 1), State: isSucceeded, Reason: "exit"}, 0
		if n == starts-1 && code != 0 {
			end, step.State, step.ExitCode = code, isFailed, int32(code)
		}
		a.row.Steps = append(a.row.Steps, step)
		a.deeds = append(a.deeds, partOf(strconv.Itoa(n+1), a.asked.steps[n].name, end)...)
	}
	return a
}

// partOf is a part that begins and ends.
func partOf(part, name string, code int) []deed {
	return []deed{{Part: part, Step: part, Name: name}, {Part: part, Ends: true, Code: code}}
}

// undoOf is an undo that was started for the cause, so long after what was before.
func undoOf(cause string, after time.Duration, code int) []deed {
	return []deed{{Part: partUndo, Cause: cause, Uptime: after}, {Part: partUndo, Ends: true, Code: code, Uptime: after}}
}

// failed is a list of steps of which the second one fails.
func failed() *account {
	a := stepped(3, 2)
	a.row.State, a.row.ExitCode, a.row.Detail = isFailed, 3, "step 2 of 3 (two): the program ended with 3"
	return a
}

// guarded is a program with an undo for which it waited in vain.
func guarded() *account {
	return &account{
		asked: &asked{id: "c", steps: []askedPart{{}}, undo: &askedPart{}, within: leastWithin},
		row: &agentplanev1.Invocation{
			Id: "c.1", AgentName: "a1", State: isFailed, Reason: "undone",
			Undo: &agentplanev1.Undo{Phase: agentplanev1.UndoPhase_UNDO_PHASE_DONE, State: isSucceeded, Cause: "not_confirmed"},
		},
		deeds: slices.Concat([]deed{{Part: "1"}, {Part: "1", Ends: true}}, undoOf("not_confirmed", leastWithin, 0)),
	}
}

// kept is a program with an undo that an operator has confirmed.
func kept() *account {
	a := guarded()
	a.asked.keeps, a.asked.confirms = true, []confirmation{{acknowledged, []string{"c.1"}}}
	a.row.State, a.row.Reason = isSucceeded, "exit"
	a.row.Undo = &agentplanev1.Undo{Phase: agentplanev1.UndoPhase_UNDO_PHASE_CONFIRMED, ArmedIndex: 5, ConfirmedIndex: 7}
	a.deeds = a.deeds[:2]
	return a
}

// laden is a list of steps that brings a file and an input along.
func laden() *account {
	a := stepped(0, 3)
	a.asked.brings = map[string]string{"/x": "11", foundInput: "22"}
	for i := range a.deeds {
		if !a.deeds[i].Ends {
			a.deeds[i].Found = map[string]string{"/x": "11"}
		}
	}
	a.deeds[0].Found = map[string]string{"/x": "11", foundInput: "22"}
	return a
}

func TestPartsAreJudged(t *testing.T) {
	for _, c := range []struct {
		name string
		of   func() *account
		do   func(a *account)
		want string // "" = nothing is wrong
	}{
		{"three steps succeed", func() *account { return stepped(0, 3) }, nil, ""},
		{"the second step fails", failed, nil, ""},
		{"it waited in vain", guarded, nil, ""},
		{"it is kept", kept, nil, ""},
		{"a file and an input are found", laden, nil, ""},
		{"it is kept by contact", kept, func(a *account) {
			a.asked.keeps, a.asked.contact, a.asked.confirms, a.row.Undo.ConfirmedIndex = false, true, nil, 0
		}, ""},
		{"the answer to its confirmation was lost", kept, func(a *account) { a.asked.confirms[0].outcome = unknown }, ""},
		{"its confirmation came too late", guarded, func(a *account) {
			a.asked.confirms = []confirmation{{acknowledged, []string{"c.1"}}}
			a.row.Undo.ConfirmedIndex = 7
		}, ""},
		{"a cancel came before its confirmation", guarded, func(a *account) {
			a.asked.canceled, a.row.CancelRequested, a.row.State, a.row.Undo.Cause = true, true, isCanceled, "canceled"
			a.deeds[2].Cause, a.deeds[2].Uptime = "canceled", 0
		}, ""},
		{"it fails and is undone", guarded, func(a *account) {
			a.row.Reason, a.row.Undo.Cause, a.deeds[1].Code, a.deeds[2].Cause = "exit", "failed", 3, "failed"
		}, ""},
		{"it is lost and undone", guarded, func(a *account) {
			a.row.State, a.row.Reason, a.row.Undo.Cause = isLost, "supervisor_gone", "lost"
			a.deeds = slices.Concat(a.deeds[:1], undoOf("lost", 0, 0))
		}, ""},
		{"its undo fails", guarded, func(a *account) {
			a.row.Reason, a.row.Undo.State, a.deeds[3].Code = "undo_failed", isFailed, 1
		}, ""},
		{"its undo was killed before it bore witness", guarded, func(a *account) {
			a.row.Reason, a.row.Undo.State, a.deeds, a.killed = "undo_failed", isLost, a.deeds[:2], true
		}, ""},
		{"who watched over its undo was killed at its end", guarded, func(a *account) {
			a.row.Reason, a.row.Undo.State, a.killed = "undo_failed", isLost, true
		}, ""},
		{"a file has no place", laden, func(a *account) {
			a.asked.unplaced, a.deeds, a.row.State, a.row.Reason, a.row.Detail = true, nil, isFailed, "not_placed", "step 1 of 3 (one): no such directory"
			a.row.Steps = []*agentplanev1.StepResult{{Number: 1, State: isFailed, Reason: "not_placed"}}
		}, ""},

		{"a step is started twice", func() *account { return stepped(0, 3) }, func(a *account) { a.deeds = slices.Insert(a.deeds, 3, a.deeds[2]) }, "I2: part 2 was started 2 times"},
		{"a step is left out", func() *account { return stepped(0, 3) }, func(a *account) { a.deeds = slices.Delete(a.deeds, 2, 4) }, "step 3 was started, and the one before had not succeeded"},
		{"a step begins while the one before runs", func() *account { return stepped(0, 3) }, func(a *account) { a.deeds[1], a.deeds[2] = a.deeds[2], a.deeds[1] }, "step 2 was started, and the one before had not succeeded"},
		{"a step follows one that failed", failed, func(a *account) { a.deeds = append(a.deeds, partOf("3", "three", 0)...) }, "step 3 was started, and the one before had not succeeded"},
		{"a step that is not there", func() *account { return stepped(0, 3) }, func(a *account) { a.deeds = append(a.deeds, partOf("4", "four", 0)...) }, "there is no part 4"},
		{"a step is called another one", func() *account { return stepped(0, 3) }, func(a *account) { a.deeds[2].Name = "one" }, "step 2 (two) was started as step 2 (one)"},
		{"it has succeeded without its last step", func() *account { return stepped(0, 2) }, nil, "not all of its programs have succeeded"},
		{"it has failed, and all steps have succeeded", func() *account { return stepped(0, 3) }, func(a *account) {
			a.row.State, a.row.Detail = isFailed, "step 3 of 3 (three): the program ended with 3"
		}, "all of its programs have succeeded, and nothing was undone"},
		{"another step is named", failed, func(a *account) { a.row.Detail = "step 1 of 3 (one): the program ended with 3" }, `want "step 2 of 3 ("`},
		{"no step is named", failed, func(a *account) { a.row.Detail = "the program ended with 3" }, `want "step 2 of 3 ("`},
		{"another exit code is told", failed, func(a *account) { a.row.Steps[1].ExitCode = 4 }, "step 2 is said to have ended with 4"},
		{"a step is said to have succeeded that failed", failed, func(a *account) { a.row.Steps[1].State = isSucceeded }, "step 2 is said to have succeeded"},
		{"a step is not known", failed, func(a *account) { a.row.Steps = a.row.Steps[:1] }, "step 2 was started, and the cluster knows of 1"},
		{"nobody has canceled it", func() *account { return stepped(0, 1) }, func(a *account) { a.row.State = isCanceled }, "nobody has canceled it"},

		{"two undos", guarded, func(a *account) { a.deeds = append(a.deeds, undoOf("not_confirmed", leastWithin, 0)...) }, "I2: part undo was started 2 times"},
		{"it is not undone", guarded, func(a *account) { a.deeds = a.deeds[:2] }, "nobody has confirmed it, and it was not undone"},
		{"what is lost is not undone", guarded, func(a *account) {
			a.row.State, a.row.Reason, a.row.Undo, a.deeds = isLost, "agent_restart", nil, a.deeds[:1]
		}, "nobody has confirmed it, and it was not undone"},
		{"it is kept and undone", kept, func(a *account) { a.deeds = append(a.deeds, undoOf("not_confirmed", leastWithin, 0)...) }, "it is said to be confirmed, and was undone"},
		{"it has succeeded and is not kept", kept, func(a *account) { a.row.Undo.Phase = agentplanev1.UndoPhase_UNDO_PHASE_ARMED }, "it has 0 undos, and its undo is"},
		{"it is undone too early", guarded, func(a *account) { a.deeds[2].Uptime = leastWithin - time.Second }, "it was undone after 9s, though there are 10s to confirm it"},
		{"it is undone while it runs", guarded, func(a *account) { a.deeds[1], a.deeds[2] = a.deeds[2], a.deeds[1] }, "step 1 has ended after the undo was started"},
		{"it goes on after it was undone", guarded, func(a *account) {
			a.asked.steps = append(a.asked.steps, askedPart{})
			a.deeds = append(a.deeds, partOf("2", "", 0)...)
		}, "step 2 was started after the undo"},
		{"it is undone for want of contact that nobody asked for", guarded, func(a *account) {
			a.row.Undo.Cause, a.deeds[2].Cause = "no_contact", "no_contact"
		}, "it was undone for no_contact"},
		{"it is undone as failed, and has not", guarded, func(a *account) {
			a.row.Undo.Cause, a.deeds[2].Cause = "failed", "failed"
		}, "undone as failed, and its programs have succeeded"},
		{"it is undone as canceled by nobody", guarded, func(a *account) {
			a.row.Undo.Cause, a.deeds[2].Cause = "canceled", "canceled"
		}, "nobody has canceled it"},
		{"it is undone for a reboot", guarded, func(a *account) { a.row.Undo.Cause, a.deeds[2].Cause = "reboot", "reboot" }, `it was undone for "reboot"`},
		{"another cause is told", guarded, func(a *account) { a.row.Undo.Cause = "lost" }, `and the cluster that it does for "lost"`},
		{"an undo that failed is said to have succeeded", guarded, func(a *account) { a.deeds[3].Code = 1 }, "of 1 undos the first has: false"},
		{"an undo is lost for no reason", guarded, func(a *account) { a.row.Reason, a.row.Undo.State = "undo_failed", isLost }, "its undo is LOST"},
		{"an undo that succeeded is said to have failed", guarded, func(a *account) { a.row.Reason = "undo_failed" }, "its undo has succeeded"},
		{"its end comes before that of its undo", guarded, func(a *account) { a.row.Undo.Phase = agentplanev1.UndoPhase_UNDO_PHASE_RUNNING }, "its undo is not over"},
		{"nobody asked for an undo", guarded, func(a *account) { a.asked.undo = nil }, "there is no part undo"},

		{"a confirmation is lost", guarded, func(a *account) {
			a.asked.confirms = []confirmation{{acknowledged, []string{"c.1"}}}
			a.row.Undo.Phase = agentplanev1.UndoPhase_UNDO_PHASE_ARMED
		}, "I1: its confirmation was acknowledged and is not there"},
		{"a confirmation that was refused stands", kept, func(a *account) { a.asked.confirms[0].outcome = refused }, "I8: it is confirmed"},
		{"a confirmation of another one counts", kept, func(a *account) { a.asked.confirms[0].waited = []string{"c.2"} }, "I8: it is confirmed"},
		{"an operator confirms what contact has to", kept, func(a *account) { a.asked.contact = true }, "it was confirmed by who may not"},
		{"contact confirms what an operator has to", kept, func(a *account) { a.row.Undo.ConfirmedIndex, a.asked.confirms = 0, nil }, "it was confirmed by who may not"},
		{"a vow to keep it is broken", guarded, func(a *account) { a.asked.vow, a.asked.keeps = true, true }, "nothing was broken"},
		{"a vow to undo it is broken", kept, func(a *account) { a.asked.vow, a.asked.keeps = true, false }, "nothing was broken"},

		{"another file", laden, func(a *account) { a.deeds[2].Found["/x"] = "33" }, "step 2 has found"},
		{"no file", laden, func(a *account) { a.deeds[0].Found = map[string]string{foundInput: "22"} }, "step 1 has found"},
		{"another input", laden, func(a *account) { a.deeds[0].Found[foundInput] = "33" }, "step 1 has found"},
		{"started without a file", laden, func(a *account) { a.asked.unplaced = true }, "step 1 was started without a file that has no place"},
		{"a file is gone", laden, func(a *account) {
			a.deeds, a.row.Steps, a.row.State, a.row.Reason = nil, nil, agentplanev1.AttemptState_ATTEMPT_STATE_REJECTED, "no_file"
		}, "what it brings along was not there"},
		{"a file that has a place is not placed", laden, func(a *account) {
			a.deeds, a.row.Steps, a.row.State, a.row.Reason = nil, nil, isFailed, "not_placed"
		}, "its files have a place"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := c.of()
			if c.do != nil {
				c.do(a)
			}
			got := strings.Join(a.judge(), "\n")
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("judge says %q, want %q", got, c.want)
			}
		})
	}
}

func TestPartsThatAreTooFewVoidARun(t *testing.T) {
	var n partCounts
	n.add(*stepped(0, 3))
	n.add(*guarded())
	n.add(*kept())
	n.add(*laden())
	vow := *guarded()
	vow.asked.vow = true
	n.add(vow)
	if want := (partCounts{steps: 4, undos: 1, kept: 1, files: 4}); n != want {
		t.Errorf("%+v, want %+v", n, want)
	}
	if what := n.short(n); what != "" {
		t.Errorf("enough is called too little: %s", what)
	}
	for _, least := range []partCounts{{steps: 5}, {undos: 2}, {kept: 2}, {files: 5}} {
		if n.short(least) == "" {
			t.Errorf("%+v is enough for %+v", n, least)
		}
	}
}
