package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

// rerunFlags make a command of an earlier one.
type rerunFlags struct{ words []string }

func (f *rerunFlags) add(c *cobra.Command) {
	c.Flags().StringSliceVar(&f.words, "rerun", nil, "run COMMAND once more where it ended so, `WORD`: "+strings.Join(rerunWords(), ", "))
	_ = c.RegisterFlagCompletionFunc("rerun", cobra.FixedCompletions(rerunWords(), cobra.ShellCompDirectiveNoFileComp))
}

func rerunWords() []string { return slices.Sorted(maps.Keys(client.RerunWords)) }

func (f *rerunFlags) given(cmd *cobra.Command) bool { return cmd.Flags().Changed("rerun") }

// states returns which states are meant, each once.
func (f *rerunFlags) states() ([]agentplanev1.AttemptState, error) {
	var all []agentplanev1.AttemptState
	for _, word := range f.words {
		states, ok := client.RerunWords[word]
		if !ok {
			return nil, usagef("--rerun %q is none of %s%s", word, strings.Join(rerunWords(), ", "), nearest(word, rerunWords()))
		}
		all = append(all, states...)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// stateWords names states, as in "FAILED or TIMED_OUT".
func stateWords(states []agentplanev1.AttemptState) string {
	words := make([]string, len(states))
	for i, s := range states {
		words[i] = s.ShortName()
	}
	if n := len(words); n > 1 {
		return strings.Join(words[:n-1], ", ") + " or " + words[n-1]
	}
	return strings.Join(words, "")
}

// runAgain runs an earlier command on those of its targets that ended as --rerun says.
func (a *app) runAgain(cmd *cobra.Command, f *runFlags, args []string) error {
	changed := cmd.Flags().Changed
	states, err := f.rerun.states()
	switch {
	case err != nil:
		return err
	case len(states) == 0:
		return usagef("--rerun says nothing: one of %s", strings.Join(rerunWords(), ", "))
	case len(args) != 1 || cmd.ArgsLenAtDash() >= 0:
		return usagef("--rerun takes the id of one command, and no program: agentctl run --rerun %s COMMAND", strings.Join(f.rerun.words, ","))
	}
	for _, flag := range append([]string{
		"on", "labels", "script", "step", "step-timeout", "file", "stdin", "class", "splay", "lock", "exclusive", "priority", "supersede", "wave", "soak", "gate", "probe",
		"probe-script", "probe-timeout", "max-failures", "strict", "order", "on-breach",
	}, undoFlagNames...) {
		if changed(flag) {
			return usagef("--rerun and --%s are both given: targets, program and how it runs are those of the earlier command", flag)
		}
	}
	wait, err := f.wait(changed("ttl"), changed("queue"))
	if err != nil {
		return err
	}
	if err := f.check(a); err != nil {
		return err
	}
	if err := f.results.prepare(f.detach); err != nil {
		return err
	}
	return a.with(cmd.Context(), func(s *session) error {
		old, err := s.Command(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if old.GetParentId() != "" {
			return usagef("command %s is a probe of command %s: rerun that one", old.GetId(), old.GetParentId())
		}
		if old.GetSpec() == nil {
			return &failure{code: exitError, err: fmt.Errorf("node %s does not say what command %s was", s.Address(), old.GetId()), hint: "upgrade the nodes"}
		}
		again, err := client.Rerun(old.GetSpec(), states...)
		if errors.Is(err, client.ErrSecrets) {
			return &failure{code: exitError, err: err, hint: fmt.Sprintf("give them again: agentctl run @%s …, to the hosts of \"agentctl commands output %s --output-dir DIR\": --on @DIR/hosts.failed",
				old.GetSpec().GetTemplate().GetName(), old.GetId())}
		}
		if err != nil {
			return err
		}
		if changed("timeout") {
			again.RunTimeout = f.timeout
		}
		if changed("kill-grace") {
			again.KillGrace = f.killGrace
		}
		if changed("ttl") || changed("queue") {
			again.TTL, again.Queue = wait, changed("queue")
		}
		a.talk("once more, where %s was %s: %s", old.GetId(), stateWords(states), old.GetSummary())
		if n := old.GetCounts()["lost"]; n > 0 && slices.Contains(states, agentplanev1.AttemptState_ATTEMPT_STATE_LOST) {
			a.talk("note: it may have run on the %s on which it was LOST", count(int(n), "agent"))
		}
		if f.plan {
			return a.showPlan(cmd.Context(), s, again)
		}
		return a.submit(cmd.Context(), s, f, again)
	})
}
