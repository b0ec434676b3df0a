package fsm

import (
	"iter"
	"math"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// View is the state at one index. It never changes, needs no lock, and may be kept
// for as long as it is needed. Its rows must not be written into.
type View struct{ t *tables }

// Index is the index of the last entry in the view.
func (v *View) Index() uint64 { return v.t.cluster.GetIndex() }

// Now is the cluster's time, in Unix nanoseconds.
func (v *View) Now() int64 { return v.t.cluster.GetNow() }

// Cluster is the row of the cluster; its id is empty before it is initialized.
func (v *View) Cluster() *raftlogv1.Cluster { return v.t.cluster }

// Cursor is the place in the feed after everything that the view holds.
func (v *View) Cursor() Cursor {
	return endOf(v.t.cluster.GetIncarnation().GetNumber(), v.t.cluster.GetIndex())
}

// Node returns the node with the id, also when it was removed.
func (v *View) Node(id string) (*raftlogv1.Node, bool) { return v.t.nodes.get(id) }

// Nodes yields all nodes by id, also removed ones.
func (v *View) Nodes() iter.Seq[*raftlogv1.Node] { return v.t.nodes.all() }

// RegisteredNodes yields the nodes that are trusted, by id.
func (v *View) RegisteredNodes() iter.Seq[*raftlogv1.Node] {
	return func(yield func(*raftlogv1.Node) bool) {
		for n := range v.t.nodes.all() {
			if !removed(n) && !yield(n) {
				return
			}
		}
	}
}

// Setting returns the replicated setting with the key.
func (v *View) Setting(key string) (*raftlogv1.Setting, bool) { return v.t.settings.get(key) }

// Token returns the join token with the id.
func (v *View) Token(id string) (*raftlogv1.Token, bool) { return v.t.tokens.get(id) }

// Tokens yields all join tokens by id.
func (v *View) Tokens() iter.Seq[*raftlogv1.Token] { return v.t.tokens.all() }

// TokensByEnd yields all join tokens, the one that ends or has ended first before the
// others.
func (v *View) TokensByEnd() iter.Seq[*raftlogv1.Token] { return v.t.tokens.by(tokensByEnd, "") }

// TokenCount is the number of join tokens that are kept.
func (v *View) TokenCount() int { return v.t.tokens.len() }

// TokenUses yields the uses of the token, the first before the others.
func (v *View) TokenUses(tokenID string) iter.Seq[*raftlogv1.TokenUse] {
	return v.t.tokenUses.withPrefix(sized(tokenID))
}

// Operator returns the operator with the name, also when revoked.
func (v *View) Operator(name string) (*raftlogv1.Operator, bool) { return v.t.operators.get(name) }

// OperatorByKey returns the operator that is registered with the key.
func (v *View) OperatorByKey(publicKey []byte) (*raftlogv1.Operator, bool) {
	return first(v.t.operators.by(operatorsByKey, sized(publicKey)))
}

// Operators yields all operators by name.
func (v *View) Operators() iter.Seq[*raftlogv1.Operator] { return v.t.operators.all() }

// Agent returns the agent with the id.
func (v *View) Agent(id string) (*raftlogv1.Agent, bool) { return v.t.agents.get(id) }

// AgentByOrdinal returns the agent with the number.
func (v *View) AgentByOrdinal(ordinal uint32) (*raftlogv1.Agent, bool) {
	return v.t.agents.getBy(agentsByOrdinal, be32(ordinal))
}

// AgentByKey returns the agent that is registered with the key.
func (v *View) AgentByKey(publicKey []byte) (*raftlogv1.Agent, bool) {
	return first(v.t.agents.by(agentsByKey, sized(publicKey)))
}

// AgentsByName yields the agents with the name; names need not be unique.
func (v *View) AgentsByName(name string) iter.Seq[*raftlogv1.Agent] {
	return v.t.agents.by(agentsByName, sized(name))
}

// Agents yields all agents by id.
func (v *View) Agents() iter.Seq[*raftlogv1.Agent] { return v.t.agents.all() }

// RemovedAgent returns the newest removal of an agent with the id or else the name,
// among those that are remembered.
func (v *View) RemovedAgent(who string) (*raftlogv1.Removal, bool) {
	if r, found := last(v.t.removals.withPrefix(sized(who))); found {
		return r, true
	}
	return last(v.t.removals.by(removalsByName, sized(who)))
}

// AgentCount is the number of enrolled agents.
func (v *View) AgentCount() int { return v.t.agents.len() }

// Facts returns what the agent last reported of its host.
func (v *View) Facts(agentID string) (*raftlogv1.Facts, bool) { return v.t.facts.get(agentID) }

// Session returns the newest session of the agent; there is none when it was never
// seen.
func (v *View) Session(agentID string) (*raftlogv1.Session, bool) { return v.t.sessions.get(agentID) }

// LiveSessions yields the sessions that the node holds, by agent id.
func (v *View) LiveSessions(nodeID string) iter.Seq[*raftlogv1.Session] {
	return v.t.sessions.by(sessionsByNode, sized(nodeID))
}

// ReconnectingSessions yields the sessions whose grace runs, the one that ends
// first before the others.
func (v *View) ReconnectingSessions() iter.Seq[*raftlogv1.Session] {
	return v.t.sessions.by(sessionsByGrace, "")
}

// Envelope returns the exact bytes of a command; of a probe those of the command whose
// wave it probes.
func (v *View) Envelope(commandID string) ([]byte, bool) {
	e, found := v.t.envelopes.get(commandID)
	if c, _ := v.t.commands.get(commandID); !found && c.GetParentId() != "" {
		e, found = v.t.envelopes.get(c.GetParentId())
	}
	return e.GetEnvelope(), found
}

// Skips says why a command that is submitted now would skip the agent with the number: ""
// = it would not.
func (v *View) Skips(ordinal uint32, queueOffline bool, queueMax uint32) string {
	a, _ := v.AgentByOrdinal(ordinal)
	return v.t.skips(a, ordinal, queueOffline, queueMax)
}

// LayRollout answers how the rollout of a submission would begin, if it were applied now,
// and the rank of each target: 0 for those that would be skipped. The outcome is a refusal
// of the rollout.
func (v *View) LayRollout(m *raftlogv1.SubmitCommand) (*raftlogv1.Rollout, []uint32, *raftlogv1.Outcome) {
	l, refusal := v.t.layRollout(m, 0)
	if l == nil || refusal != nil {
		return nil, nil, refusal
	}
	return l.rollout, l.ranks, nil
}

// Stopped says that nothing of the command may be claimed because it is paused; of a
// probe, because the command is whose wave it probes.
func (v *View) Stopped(c *raftlogv1.Command) bool { return v.t.paused(c) }

// Command returns the command with the id.
func (v *View) Command(id string) (*raftlogv1.Command, bool) { return v.t.commands.get(id) }

// CommandsNewestFirst yields the commands submitted before the index, the newest
// first; index 0 means all.
func (v *View) CommandsNewestFirst(before uint64) iter.Seq[*raftlogv1.Command] {
	if before == 0 {
		before = math.MaxUint64
	}
	return func(yield func(*raftlogv1.Command) bool) {
		v.t.commands.indexes[commandsByIndex].rows.Descend(be64(before), func(_ string, c *raftlogv1.Command) bool {
			return yield(c)
		})
	}
}

// OpenCommands yields the commands that are not done, by id. It looks at all.
func (v *View) OpenCommands() iter.Seq[*raftlogv1.Command] {
	return where(v.t.commands.all(), func(c *raftlogv1.Command) bool { return !done(c) })
}

// FinishedCommands yields the commands that are done, the first that finished
// before the others.
func (v *View) FinishedCommands() iter.Seq[*raftlogv1.Command] {
	return v.t.commands.by(commandsFinished, "")
}

// FinishedCount is the number of commands that are done.
func (v *View) FinishedCount() int { return v.t.commands.indexes[commandsFinished].rows.Len() }

// CommandCount is the number of commands that are kept.
func (v *View) CommandCount() int { return v.t.commands.len() }

// Schedule returns the schedule with the name.
func (v *View) Schedule(name string) (*raftlogv1.Schedule, bool) { return v.t.schedules.get(name) }

// Schedules yields all schedules by name, also those that have ended.
func (v *View) Schedules() iter.Seq[*raftlogv1.Schedule] { return v.t.schedules.all() }

// ScheduleCount is the number of schedules that are kept.
func (v *View) ScheduleCount() int { return v.t.schedules.len() }

// OpenFirings counts the commands of the schedule that are not done.
func (v *View) OpenFirings(s *raftlogv1.Schedule) (n int) {
	for _, f := range s.GetFirings() {
		if c, found := v.t.commands.get(f.GetCommandId()); found && !done(c) {
			n++
		}
	}
	return n
}

// Template returns a version of the template, 0 for the newest. There is none of one that
// was deleted.
func (v *View) Template(name string, version uint32) (*raftlogv1.Template, bool) {
	r, found := v.t.newestTemplate(name)
	if version != 0 {
		r, found = v.t.templates.get(templateKey(name, version))
	}
	if !found || r.GetDeletedAt() != 0 {
		return nil, false
	}
	return r, true
}

// LastTemplate returns the newest version of the template, or what is left of a deleted one.
func (v *View) LastTemplate(name string) (*raftlogv1.Template, bool) { return v.t.newestTemplate(name) }

// Templates yields the newest version of each template that was not deleted, by name.
func (v *View) Templates() iter.Seq[*raftlogv1.Template] {
	return where(v.t.newestTemplates(), func(r *raftlogv1.Template) bool { return r.GetDeletedAt() == 0 })
}

// Invocation returns the invocation with the id.
func (v *View) Invocation(id string) (*raftlogv1.Invocation, bool) {
	key, valid := invocationKey(id)
	if !valid {
		return nil, false
	}
	return v.t.invocations.get(key)
}

// Invocations yields the invocations of the command, by number of the agent.
func (v *View) Invocations(commandID string) iter.Seq[*raftlogv1.Invocation] {
	return v.t.invocations.withPrefix(commandID + ".")
}

// OpenInvocations yields those of the command that are in the state, which is not
// final, by number of the agent.
func (v *View) OpenInvocations(commandID string, state raftlogv1.AttemptState) iter.Seq[*raftlogv1.Invocation] {
	return v.t.openInvocations(commandID, state)
}

// Work yields what the agent with the number has in the state, which is not final,
// the highest priority first and then in order of submission.
func (v *View) Work(ordinal uint32, state raftlogv1.AttemptState) iter.Seq[*raftlogv1.Invocation] {
	return v.t.work.in(ordinal, state)
}
