package main

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

const maxSteps = 16

// stepFlags are programs that run one after the other.
type stepFlags struct {
	words    []string
	timeouts []string
	steps    []*agentplanev1.Step
}

func (f *stepFlags) add(c *cobra.Command) {
	fl := c.Flags()
	fl.StringArrayVar(&f.words, "step", nil, "in the place of ARGV, `NAME='SHELL LINE'` or NAME=@FILE; several run one after the other, each when the one before has succeeded")
	fl.StringArrayVar(&f.timeouts, "step-timeout", nil, "how long one step may run, `NAME=D`, where that is not --timeout")
}

func (f *stepFlags) given() bool { return len(f.words) > 0 || len(f.timeouts) > 0 }

// prepare makes the steps, in the order of the flags.
func (f *stepFlags) prepare(a *app) error {
	if len(f.words) > maxSteps {
		return usagef("%d steps are given, at most %d are allowed", len(f.words), maxSteps)
	}
	f.steps = nil
	size := 0
	for _, word := range f.words {
		step, err := f.step(a, word)
		if err != nil {
			return err
		}
		if size += len(step.Script); size > maxScriptBytes {
			return usagef("the steps have more than %d bytes together; let them fetch what is large", maxScriptBytes)
		}
		f.steps = append(f.steps, step)
	}
	for _, word := range f.timeouts {
		name, text, _ := strings.Cut(word, "=")
		d, err := parseDuration(text)
		if err != nil || d <= 0 {
			return usagef("--step-timeout %q: write it like upgrade=30m", word)
		}
		step := f.named(name)
		if step == nil {
			return usagef("--step-timeout %q: there is no step %q", word, name)
		}
		if step.RunTimeout != 0 {
			return usagef("--step-timeout %q: the step has another one: give each step one", word)
		}
		step.RunTimeout = int64(d)
	}
	return nil
}

func (f *stepFlags) step(a *app, word string) (*agentplanev1.Step, error) {
	name, line, ok := strings.Cut(word, "=")
	switch {
	case !ok || !stepName(name):
		return nil, usagef("--step %q has no name: write it like --step drain='drain-node --all', a name of letters, digits and . _ -", word)
	case f.named(name) != nil:
		return nil, usagef("two steps are named %q", name)
	case strings.TrimSpace(line) == "":
		return nil, usagef("--step %q says nothing to run", word)
	}
	if path, file := strings.CutPrefix(line, "@"); file {
		script, err := a.readScript("--step "+name, path)
		return &agentplanev1.Step{Name: name, Script: script}, err
	}
	return &agentplanev1.Step{Name: name, Script: []byte(line + "\n")}, nil
}

func stepName(name string) bool {
	return name != "" && len(name) <= 64 && strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == ""
}

func (f *stepFlags) named(name string) *agentplanev1.Step {
	for _, s := range f.steps {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// stepRow is a step of one agent.
type stepRow struct {
	agent string
	*agentplanev1.StepResult
	unreached string // in the place of a state, when it has not begun
}

// stepRows are the steps of all that have begun one; of the plan those, too, that they have
// not reached.
func stepRows(invocations []*agentplanev1.Invocation, plan []*agentplanev1.Step) []stepRow {
	var rows []stepRow
	for _, i := range invocations {
		begun := len(i.GetSteps())
		for _, s := range i.GetSteps() {
			rows = append(rows, stepRow{agent: client.AgentOf(i), StepResult: s})
		}
		for n := begun; begun > 0 && n < len(plan); n++ {
			rows = append(rows, stepRow{client.AgentOf(i), &agentplanev1.StepResult{Number: uint32(n + 1), Name: plan[n].GetName()}, unreached(i)})
		}
	}
	return rows
}

// unreached says of an invocation's steps of which nothing was told whether they may begin.
func unreached(i *agentplanev1.Invocation) string {
	switch {
	case i.GetState() == agentplanev1.AttemptState_ATTEMPT_STATE_LOST:
		return "not told of" // its host may be at them now
	case client.Final(i.GetState()):
		return "never started"
	default:
		return "not yet"
	}
}

var stepColumns = []column[stepRow]{
	{"STEP", false, func(s stepRow) string { return fmt.Sprintf("%d %s", s.Number, s.Name) }},
	{"STATE", false, func(s stepRow) string { return cmp.Or(s.unreached, stateName(s.State)) }},
	{"EXIT", false, func(s stepRow) string {
		code, exited := exitCode(&agentplanev1.Invocation{State: s.State, ExitCode: s.ExitCode, Signal: s.Signal})
		if !exited {
			return ""
		}
		return fmt.Sprint(code)
	}},
	{"REASON", false, func(s stepRow) string { return s.Reason }},
	{"STARTED", false, func(s stepRow) string { return clock(s.StartedAt) }},
	{"TOOK", false, func(s stepRow) string {
		if s.StartedAt == 0 || s.EndedAt < s.StartedAt {
			return ""
		}
		return rounded(s.EndedAt - s.StartedAt).String()
	}},
}

// agentStepColumns are those of a list with several agents.
var agentStepColumns = append([]column[stepRow]{{"AGENT", false, func(s stepRow) string { return s.agent }}}, stepColumns...)
