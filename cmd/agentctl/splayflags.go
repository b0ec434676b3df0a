package main

import (
	"time"

	"github.com/spf13/cobra"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// splayFlags spread the starts of a command over time.
type splayFlags struct{ splay time.Duration }

func (f *splayFlags) add(c *cobra.Command) {
	durationVar(c.Flags(), &f.splay, "splay", 0, "spread the starts over so long: each agent has a delay of its own below it")
}

// into lets the command wait as long as it may beside the splay.
func (f *splayFlags) into(spec *agentplanev1.CommandSpec) error {
	if f.splay < 0 {
		return usagef("--splay %v is below 0", f.splay)
	}
	spec.Splay = int64(f.splay)
	spec.NotAfter += spec.Splay
	return nil
}

// splayText prints a splay; none is empty.
func splayText(ns int64) string {
	if ns == 0 {
		return ""
	}
	return shortDuration(time.Duration(ns))
}
