package main

import (
	"time"

	"github.com/spf13/cobra"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// defaultWithin is how long a confirmation is waited for; minWithin and maxWithin bound it.
const (
	defaultWithin = 5 * time.Minute
	minWithin     = 10 * time.Second
	maxWithin     = 24 * time.Hour
)

var confirmers = map[string]agentplanev1.ConfirmBy{
	"operator": agentplanev1.ConfirmBy_CONFIRM_BY_OPERATOR,
	"contact":  agentplanev1.ConfirmBy_CONFIRM_BY_CONTACT,
}

// undoFlags say what takes back what the program did, and what keeps that from happening.
type undoFlags struct {
	line    string
	script  string
	within  time.Duration
	by      string
	timeout time.Duration

	changed func(flag string) bool
	undo    *agentplanev1.UndoSpec
}

// undoFlagNames are those that a command that runs again may not have.
var undoFlagNames = []string{"undo", "undo-script", "confirm-within", "confirm-by", "undo-timeout"}

func (f *undoFlags) add(c *cobra.Command) {
	fl := c.Flags()
	f.changed = fl.Changed
	fl.StringVar(&f.line, "undo", "", "a `'SHELL LINE'` that takes back what the program did, unless that is confirmed in time")
	fl.StringVar(&f.script, "undo-script", "", "as --undo, a `FILE`")
	durationVar(fl, &f.within, "confirm-within", defaultWithin, "how long after the program's end it may be confirmed (10s to 24h)")
	fl.StringVar(&f.by, "confirm-by", "operator", "`WHO` confirms: operator, with \"agentctl commands confirm\", or contact, when the agent reaches the cluster anew")
	durationVar(fl, &f.timeout, "undo-timeout", 0, "how long the undo may run (default as --timeout)")
	_ = c.RegisterFlagCompletionFunc("confirm-by", cobra.FixedCompletions([]string{"operator", "contact"}, cobra.ShellCompDirectiveNoFileComp))
}

// into gives the spec its undo, which prepare has made.
func (f *undoFlags) into(spec *agentplanev1.CommandSpec) error {
	spec.Undo = f.undo
	return nil
}

// prepare makes the undo, when one is asked for.
func (f *undoFlags) prepare(a *app, class string) error {
	given := func(flag string) bool { return f.changed != nil && f.changed(flag) }
	if !given("undo") && !given("undo-script") {
		for _, flag := range undoFlagNames[2:] {
			if given(flag) {
				return usagef("--%s has no effect without --undo or --undo-script", flag)
			}
		}
		return nil
	}
	by, known := confirmers[f.by]
	switch {
	case given("undo") && given("undo-script"):
		return usagef("both --undo and --undo-script are given")
	case !known:
		return usagef("--confirm-by %q is neither operator nor contact", f.by)
	case f.within < minWithin || f.within > maxWithin:
		return usagef("--confirm-within %v is not between %v and %v", f.within, minWithin, maxWithin)
	case f.timeout < 0 || given("undo-timeout") && f.timeout == 0:
		return usagef("--undo-timeout %v is too short", f.timeout)
	case class == "idempotent":
		return usagef("--undo and --class idempotent are both given: what may be undone is started once")
	}
	u := &agentplanev1.UndoSpec{Within: int64(f.within), By: by, RunTimeout: int64(f.timeout)}
	if given("undo") {
		u.Argv = []string{"/bin/sh", "-c", f.line}
	} else {
		var err error
		if u.Script, err = a.readScript("--undo-script", f.script); err != nil {
			return err
		}
	}
	f.undo = u
	return nil
}
