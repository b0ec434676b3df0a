package main

import (
	"maps"
	"slices"
	"strings"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// commandView is a command as a watch has told it so far.
type commandView struct {
	command     *agentplanev1.Command
	invocations map[string]*agentplanev1.Invocation
}

func newCommandView() *commandView {
	return &commandView{invocations: map[string]*agentplanev1.Invocation{}}
}

// take adds what a response says; a snapshot replaces everything.
func (v *commandView) take(r *agentplanev1.WatchCommandResponse) {
	if r.Snapshot {
		clear(v.invocations)
	}
	if r.Command != nil {
		v.command = r.Command
	}
	for _, i := range r.Invocations {
		v.invocations[i.Id] = i
	}
}

// sorted returns the invocations by the names of their agents.
func (v *commandView) sorted() []*agentplanev1.Invocation {
	return slices.SortedFunc(maps.Values(v.invocations), byAgent)
}

func byAgent(x, y *agentplanev1.Invocation) int {
	return strings.Compare(agentName(x)+"\x00"+x.Id, agentName(y)+"\x00"+y.Id)
}

func agentName(i *agentplanev1.Invocation) string {
	if i.AgentName != "" {
		return i.AgentName
	}
	return i.AgentId
}

// whole returns the command with its invocations.
func (v *commandView) whole() *agentplanev1.Command {
	c := v.command
	if c == nil {
		c = &agentplanev1.Command{}
	}
	c.Invocations = v.sorted()
	return c
}

func final(s agentplanev1.AttemptState) bool {
	return s >= agentplanev1.AttemptState_ATTEMPT_STATE_LOST
}
