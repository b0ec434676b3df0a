package linear

import (
	"time"

	"github.com/anishathalye/porcupine"
)

// Answer is what an operation was told.
type Answer int

// What an operation may be told.
const (
	OK       Answer = iota
	Absent          // there is no such thing, or it is over
	Conflict        // something else stands in its place
	Unknown         // it may have taken effect, now or later
)

// String is the answer in one word.
func (a Answer) String() string { return [...]string{"ok", "absent", "conflict", "unknown"}[a] }

// bound is for how long porcupine thinks about one history.
const bound = 2 * time.Minute

// span is when an operation was asked and answered.
type span struct {
	client    int
	call, end time.Duration
	unknown   bool
}

// check has porcupine judge the operations. What is illegal is drawn on the page.
func check[Op any](model porcupine.Model, ops []Op, when func(Op) span, page string) (porcupine.CheckResult, error) {
	last := time.Duration(0)
	for _, o := range ops {
		last = max(last, when(o).end)
	}
	var history []porcupine.Operation
	for _, o := range ops {
		s := when(o)
		if s.unknown {
			s.end = last + 1
		}
		history = append(history, porcupine.Operation{ClientId: s.client, Input: o, Call: int64(s.call), Return: int64(s.end)})
	}
	result, info := porcupine.CheckOperationsVerbose(model, history, bound)
	if result == porcupine.Ok || page == "" {
		return result, nil
	}
	return result, porcupine.VisualizePath(model, info, page)
}

// partition divides a history into those of single things, in the order in which they come.
func partition(of func(input any) string) func([]porcupine.Operation) [][]porcupine.Operation {
	return func(history []porcupine.Operation) (parts [][]porcupine.Operation) {
		at := make(map[string]int)
		for _, o := range history {
			name := of(o.Input)
			n, seen := at[name]
			if !seen {
				n = len(parts)
				at[name] = n
				parts = append(parts, nil)
			}
			parts[n] = append(parts[n], o)
		}
		return parts
	}
}
