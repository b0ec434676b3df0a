package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// The operations on one command, as a client sees them.
const (
	opSubmit = "submit"
	opGet    = "get"
	opCancel = "cancel"
)

// What an operation was answered.
type answer int

const (
	answerOK       answer = iota
	answerAbsent          // there is no such command
	answerConflict        // it stands with another content
	answerUnknown         // it may have taken effect, now or later
)

// linearOp is one call of one client: what it asked and what it was told.
type linearOp struct {
	client  int
	command string // the id
	kind    string
	content string // of a submission
	call    time.Duration
	end     time.Duration

	answer   answer
	repeated bool   // of a submission: it already stood
	saw      string // of a read: the content
	canceled bool   // of a read
}

// linearState is one command, as the specification has it.
type linearState struct {
	content  string // "" while there is none
	canceled bool
}

// commandModel is the specification: a command is absent until a submission, then has
// that content for ever; it is canceled once and stays so.
//
// Two answers say less than they seem to. A submission that was sent again, by its client
// after a broken connection or by a node to the next leader, may be told that it is a
// repetition of its own first try; what is known to have done nothing is no operation,
// so that a content that only such a submission had explains no read. And what is unknown may have taken effect at any later time, or never: it ends with
// the history, where taking effect shows to nobody.
var commandModel = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byCommand := make(map[string][]porcupine.Operation)
		var order []string
		for _, o := range history {
			id := o.Input.(linearOp).command
			if byCommand[id] == nil {
				order = append(order, id)
			}
			byCommand[id] = append(byCommand[id], o)
		}
		var parts [][]porcupine.Operation
		for _, id := range order {
			parts = append(parts, byCommand[id])
		}
		return parts
	},
	Init: func() any { return linearState{} },
	Step: func(state, input, _ any) (bool, any) {
		return step(state.(linearState), input.(linearOp))
	},
	DescribeOperation: func(input, _ any) string { return input.(linearOp).String() },
}

// String says what was asked and told.
func (o linearOp) String() string {
	return fmt.Sprintf("client %d: %s %s %q = %d (repeated %v, saw %q, canceled %v)", o.client, o.kind, o.command, o.content, o.answer, o.repeated, o.saw, o.canceled)
}

// step says whether the answer is right where the state is s, and what the state is
// then.
func step(s linearState, o linearOp) (bool, linearState) {
	absent := s.content == ""
	switch o.kind {
	case opSubmit:
		switch {
		case absent:
			return o.answer == answerOK || o.answer == answerUnknown, linearState{content: o.content}
		case s.content != o.content:
			return o.answer == answerConflict || o.answer == answerUnknown, s
		default:
			return o.answer == answerOK && o.repeated || o.answer == answerUnknown, s
		}
	case opCancel:
		if absent {
			return o.answer == answerAbsent || o.answer == answerUnknown, s
		}
		return o.answer == answerOK || o.answer == answerUnknown, linearState{content: s.content, canceled: true}
	default: // a read that is unknown is no operation
		if absent {
			return o.answer == answerAbsent, s
		}
		return o.answer == answerOK && o.saw == s.content && o.canceled == s.canceled, s
	}
}

// checkBound bounds how long porcupine thinks about one history.
const checkBound = 2 * time.Minute

// judgeLinear checks a history. What is illegal is written to a page that shows it.
func judgeLinear(ops []linearOp, page string) (porcupine.CheckResult, error) {
	last := time.Duration(0)
	for _, o := range ops {
		last = max(last, o.end)
	}
	var history []porcupine.Operation
	for _, o := range ops {
		end := o.end
		if o.answer == answerUnknown {
			end = last + 1
		}
		history = append(history, porcupine.Operation{ClientId: o.client, Input: o, Call: int64(o.call), Return: int64(end)})
	}
	result, info := porcupine.CheckOperationsVerbose(commandModel, history, checkBound)
	if result == porcupine.Ok || page == "" {
		return result, nil
	}
	return result, porcupine.VisualizePath(commandModel, info, page)
}

// A judge that lets everything pass judges nothing.
func TestLinearJudge(t *testing.T) {
	at := func(call, end int, o linearOp) linearOp {
		o.client, o.command = call, "c"
		o.call, o.end = time.Duration(call), time.Duration(end)
		return o
	}
	submitted := linearOp{kind: opSubmit, content: "x"}
	again := linearOp{kind: opSubmit, content: "x", repeated: true}
	other := linearOp{kind: opSubmit, content: "y", answer: answerConflict}
	lost := linearOp{kind: opSubmit, content: "x", answer: answerUnknown}
	canceled := linearOp{kind: opCancel}
	seen := linearOp{kind: opGet, saw: "x"}
	over := linearOp{kind: opGet, saw: "x", canceled: true}
	none := linearOp{kind: opGet, answer: answerAbsent}
	for _, c := range []struct {
		name  string
		ops   []linearOp
		legal bool
	}{
		{"a life", []linearOp{at(1, 2, none), at(3, 4, submitted), at(5, 6, again), at(7, 8, other), at(9, 10, seen), at(11, 12, canceled), at(13, 14, over)}, true},
		{"a read that overlaps may see either", []linearOp{at(1, 9, submitted), at(2, 3, none), at(4, 5, seen)}, true},
		{"an unknown one that took effect", []linearOp{at(1, 2, lost), at(3, 4, none), at(5, 6, seen)}, true},
		{"an unknown one that did not", []linearOp{at(1, 2, lost), at(3, 4, none), at(5, 6, none)}, true},
		{"its own first try", []linearOp{at(1, 2, again), at(3, 4, seen)}, true},
		{"a stale read after the submission", []linearOp{at(1, 2, submitted), at(3, 4, none)}, false},
		{"a stale read after another read", []linearOp{at(1, 20, submitted), at(3, 4, seen), at(5, 6, none)}, false},
		{"a stale read after the cancel", []linearOp{at(1, 2, submitted), at(3, 4, canceled), at(5, 6, seen)}, false},
		{"accepted as new twice", []linearOp{at(1, 2, submitted), at(3, 4, submitted)}, false},
		{"two contents", []linearOp{at(1, 2, submitted), at(3, 4, linearOp{kind: opSubmit, content: "y"})}, false},
		{"a conflict with nothing", []linearOp{at(1, 2, other)}, false},
		{"a cancel of nothing", []linearOp{at(1, 2, canceled)}, false},
		{"nothing to cancel after the submission", []linearOp{at(1, 2, submitted), at(3, 4, linearOp{kind: opCancel, answer: answerAbsent})}, false},
		{"seen before it was submitted", []linearOp{at(1, 2, seen), at(3, 4, submitted)}, false},
		{"an unknown one that took effect and was undone", []linearOp{at(1, 2, lost), at(3, 4, seen), at(5, 6, none)}, false},
		{"canceled by nobody", []linearOp{at(1, 2, submitted), at(3, 4, over)}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			result, err := judgeLinear(c.ops, "")
			if legal := result == porcupine.Ok; err != nil || legal != c.legal {
				t.Errorf("the judge says %v (%v), want legal = %v", result, err, c.legal)
			}
		})
	}
}
