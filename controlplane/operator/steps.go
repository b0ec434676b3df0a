package operator

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

const (
	// MaxSteps bounds the steps of a command; agents take no more.
	MaxSteps = 16
	// MaxStepNameBytes bounds the name of one.
	MaxStepNameBytes = 64

	// betweenSteps is what a reboot that a step has announced may take: agents wait for it to
	// come, at most so long (run.reboot_wait) and as a rule less, and the host has to come back.
	betweenSteps = 15 * time.Minute
)

// checkPrograms says what is wrong with the programs of a spec.
func checkPrograms(s *agentplanev1.CommandSpec) *problem {
	if len(s.GetSteps()) == 0 {
		return checkProgram("the command", s.GetArgv(), s.GetScript())
	}
	if len(s.GetSteps()) > MaxSteps {
		return problemf("steps", "%d steps are above the maximum %d", len(s.GetSteps()), MaxSteps)
	}
	names := make(map[string]int, len(s.GetSteps()))
	for n, step := range s.GetSteps() {
		name, timeout := step.GetName(), time.Duration(step.GetRunTimeout())
		switch {
		case !validStepName(name):
			return problemf("step_name", "the name %.80q of step %d: a name has 1 to %d letters, digits and . _ -", name, n+1, MaxStepNameBytes)
		case names[name] > 0:
			return problemf("step_name", "steps %d and %d have the same name %q", names[name], n+1, name)
		case timeout < 0 || timeout > MaxRunTimeout:
			return problemf("run_timeout", "run timeout %v of step %q is not between 0 (the command's) and %v", timeout, name, MaxRunTimeout)
		}
		names[name] = n + 1
		if p := checkProgram(fmt.Sprintf("step %q", name), step.GetArgv(), step.GetScript()); p != nil {
			return p
		}
	}
	if all := allowed(s); all > MaxRunTimeout {
		return problemf("run_timeout", "the run timeouts of the %d steps, with %v for a reboot after each, come to %v; at most %v are allowed", len(s.GetSteps()), betweenSteps, all, MaxRunTimeout)
	}
	return nil
}

func validStepName(name string) bool {
	return name != "" && len(name) <= MaxStepNameBytes &&
		strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") == ""
}

func stepNames(steps []*agentplanev1.Step) string {
	names := make([]string, len(steps))
	for n, step := range steps {
		names[n] = step.GetName()
	}
	return strings.Join(names, ", ")
}

// allowed is how long an attempt may take in all, from its start to the end of its run
// timeout: of several steps each has its own time, and between two a program may be ended
// and the host started anew. Whatever waits for an attempt, asks about it or gives it up
// counts with this, as the run timeout of the state's row.
func allowed(s *agentplanev1.CommandSpec) time.Duration {
	one := cmp.Or(time.Duration(s.GetRunTimeout()), defaultRunTimeout)
	if len(s.GetSteps()) == 0 {
		return one + undoTime(s)
	}
	all := time.Duration(len(s.GetSteps())-1) * (cmp.Or(time.Duration(s.GetKillGrace()), defaultKillGrace) + betweenSteps)
	for _, step := range s.GetSteps() {
		all += cmp.Or(time.Duration(step.GetRunTimeout()), one)
	}
	return all + undoTime(s)
}

// stepRows are the steps of an invocation's newest attempt.
func stepRows(r *raftlogv1.Result) []*agentplanev1.StepResult {
	var all []*agentplanev1.StepResult
	for _, s := range r.GetSteps() {
		all = append(all, &agentplanev1.StepResult{
			Number: s.GetNumber(), Name: s.GetName(), State: agentplanev1.AttemptState(s.GetState()), ExitCode: s.GetExitCode(),
			Signal: s.GetSignal(), Reason: s.GetReason(), StartedAt: s.GetStartedAt(), EndedAt: s.GetEndedAt(),
		})
	}
	return all
}
