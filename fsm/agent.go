package fsm

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"strings"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
	"github.com/agentplane/agentplane/proto/selector"
)

// Bounds of what is kept for one agent (DESIGN section 12).
const (
	MaxLabels     = 64
	MaxFacts      = 256
	MaxValueBytes = 256
	// MaxClonedKeys bounds the keys that were taken away from one agent.
	MaxClonedKeys = 16
	// MaxRemovals bounds the removals that are remembered; of older ones a repetition is
	// answered that there is no such agent.
	MaxRemovals = 4096
)

// enrollAgent registers an agent's key. An agent that is to be readmitted after a
// clone comes back here with a new key and keeps its number, name and labels.
func (tx *tx) enrollAgent(m *raftlogv1.EnrollAgent) *raftlogv1.Outcome {
	if m.GetAgentId() == "" || len(m.GetPublicKey()) == 0 {
		return refuse(raftlogv1.Code_CODE_INVALID, "no_agent", "an agent needs an id and a key")
	}
	have, found := tx.agents.get(m.GetAgentId())
	switch {
	case found && bytes.Equal(have.GetPublicKey(), m.GetPublicKey()):
		return stands(have.GetEnrolledIndex())
	case found && len(have.GetPublicKey()) > 0:
		return refuse(raftlogv1.Code_CODE_CONFLICT, "other_key",
			"agent %q is enrolled with another key: remove it first, or start agentd with an empty data directory", m.GetAgentId())
	}
	if other, taken := first(tx.agents.by(agentsByKey, sized(m.GetPublicKey()))); taken {
		return refuse(raftlogv1.Code_CODE_CONFLICT, "key_taken", "this key belongs to agent %q", other.GetId())
	}
	if found && slices.ContainsFunc(have.GetClonedKeys(), func(h []byte) bool { return bytes.Equal(h, keyHash(m.GetPublicKey())) }) {
		return refuse(raftlogv1.Code_CODE_REFUSED, "old_key", "agent %q had this key when it was cloned, and its copies have it too: make a new key", m.GetAgentId())
	}
	if len(m.GetName()) > MaxValueBytes || len(m.GetVersion()) > MaxValueBytes {
		return refuse(raftlogv1.Code_CODE_INVALID, "too_long", "name and version of an agent may have %d bytes", MaxValueBytes)
	}
	t, _ := tx.tokens.get(m.GetTokenId())
	labels, refusal := tokenLabels(t, m.GetLabels())
	if refusal != nil {
		return refusal
	}
	if _, refusal := tx.useToken(m.GetTokenId(), raftlogv1.TokenKind_TOKEN_KIND_AGENT, m.GetPublicKey(), m.GetAgentId(), m.GetFrom()); refusal != nil {
		return refusal
	}
	row := &raftlogv1.Agent{
		Id: m.GetAgentId(), Name: m.GetName(), PublicKey: m.GetPublicKey(), Labels: labels, LabelsVersion: tx.index,
		TokenId: m.GetTokenId(), EnrolledAt: tx.now(), EnrolledIndex: tx.index, Version: m.GetVersion(),
	}
	if found { // readmitted after a clone
		row = clone(have)
		row.PublicKey, row.TokenId, row.EnrolledAt, row.EnrolledIndex = m.GetPublicKey(), m.GetTokenId(), tx.now(), tx.index
		row.Quarantine, row.QuarantineDetail, row.Readmitted = raftlogv1.Quarantine_QUARANTINE_UNSPECIFIED, "", true
	} else {
		row.Ordinal = tx.cluster.NextAgentOrdinal
		tx.cluster.NextAgentOrdinal++
		tx.clusterChanged = true
	}
	put(tx, TableAgents, tx.agents, row)
	return granted(tx.index)
}

func keyHash(publicKey []byte) []byte {
	sum := sha256.Sum256(publicKey)
	return sum[:]
}

// tokenLabels joins the labels that the token gives with those that the agent
// asks for. The token's win.
func tokenLabels(t *raftlogv1.Token, asked []*raftlogv1.Label) ([]*raftlogv1.Label, *raftlogv1.Outcome) {
	labels := slices.Clone(t.GetLabels())
	if refusal := badLabelName(asked); refusal != nil {
		return nil, refusal
	}
	for _, l := range asked {
		given := slices.ContainsFunc(labels, func(g *raftlogv1.Label) bool { return g.GetName() == l.GetName() })
		if !given && t.GetOnlyTheseLabels() {
			return nil, refuse(raftlogv1.Code_CODE_REFUSED, "label_forbidden", "token %q forbids the label %q", t.GetId(), l.GetName())
		}
		if !given {
			labels = append(labels, l)
		}
	}
	return sortedLabels("labels", labels, MaxLabels)
}

// badLabelName refuses names that a selector cannot write plainly: nobody could mean the
// agents by them without quoting.
func badLabelName(labels []*raftlogv1.Label) *raftlogv1.Outcome {
	for _, l := range labels {
		if name := l.GetName(); name != "" && len(name) <= MaxValueBytes && !selector.PlainName(name) {
			return refuse(raftlogv1.Code_CODE_INVALID, "label_name", "label %q: a name has letters, digits, _, -, . and / only, and ends with a letter, a digit or _", name)
		}
	}
	return nil
}

func sortedLabels(what string, labels []*raftlogv1.Label, most int) ([]*raftlogv1.Label, *raftlogv1.Outcome) {
	if len(labels) > most {
		return nil, refuse(raftlogv1.Code_CODE_INVALID, "too_many", "%d %s are above the maximum %d", len(labels), what, most)
	}
	labels = slices.Clone(labels)
	slices.SortFunc(labels, func(a, b *raftlogv1.Label) int { return strings.Compare(a.GetName(), b.GetName()) })
	for i, l := range labels {
		switch {
		case l.GetName() == "" || len(l.GetName()) > MaxValueBytes || len(l.GetValue()) > MaxValueBytes:
			return nil, refuse(raftlogv1.Code_CODE_INVALID, "too_long", "%s: name and value of %q must have 1 and 0 to %d bytes", what, l.GetName(), MaxValueBytes)
		case i > 0 && labels[i-1].GetName() == l.GetName():
			return nil, refuse(raftlogv1.Code_CODE_INVALID, "twice", "%s: %q stands twice", what, l.GetName())
		}
	}
	return labels, nil
}

// removeAgent forgets an agent. What it had claimed is LOST, what waited is
// SKIPPED; its number is never given again.
func (tx *tx) removeAgent(m *raftlogv1.RemoveAgent) *raftlogv1.Outcome {
	have, found := tx.agents.get(m.GetAgentId())
	if !found || (m.GetEnrolledIndex() != 0 && m.GetEnrolledIndex() != have.GetEnrolledIndex()) {
		return tx.removedBefore(m, have)
	}
	// The agent goes first, so that no LOST attempt is followed by another one.
	remove(tx, TableSessions, tx.sessions, have.GetId())
	remove(tx, TableFacts, tx.facts, have.GetId())
	remove(tx, TableAgents, tx.agents, have.GetId())
	touched := 0
	for _, i := range collect(tx.work.in(have.GetOrdinal(), openStates[:]...)) {
		state := raftlogv1.AttemptState_ATTEMPT_STATE_SKIPPED
		if i.GetState() >= raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED {
			state = raftlogv1.AttemptState_ATTEMPT_STATE_LOST
		}
		tx.move(i, state, ReasonAgentRemoved, nil)
		touched++
	}
	put(tx, TableRemovals, tx.removals, &raftlogv1.Removal{
		AgentId: have.GetId(), Name: have.GetName(), EnrolledIndex: have.GetEnrolledIndex(), Number: tx.number(), Ended: uint32(touched),
	})
	if tx.removals.len() > MaxRemovals {
		oldest, _ := first(tx.removals.by(removalsInOrder, ""))
		remove(tx, TableRemovals, tx.removals, tx.removals.key(oldest))
	}
	o := granted(tx.number())
	o.Count = uint32(touched)
	return o
}

// removedBefore answers a removal whose agent, or the enrolment that is meant, is not
// there: as the first time, when it was removed before.
func (tx *tx) removedBefore(m *raftlogv1.RemoveAgent, have *raftlogv1.Agent) *raftlogv1.Outcome {
	prefix := sized(m.GetAgentId())
	if m.GetEnrolledIndex() != 0 {
		prefix += be64(m.GetEnrolledIndex())
	}
	switch before, found := last(tx.removals.withPrefix(prefix)); {
	case found:
		o := stands(before.GetNumber())
		o.Count = before.GetEnded()
		return o
	case have != nil:
		return refuse(raftlogv1.Code_CODE_STALE, "enrolled_again", "agent %q has enrolled again at index %d", have.GetId(), have.GetEnrolledIndex())
	}
	return refuse(raftlogv1.Code_CODE_NOT_FOUND, "no_agent", "there is no agent %q", m.GetAgentId())
}

func (tx *tx) setAgentLabels(m *raftlogv1.SetAgentLabels) *raftlogv1.Outcome {
	have, found := tx.agents.get(m.GetAgentId())
	if !found {
		return refuse(raftlogv1.Code_CODE_NOT_FOUND, "no_agent", "there is no agent %q", m.GetAgentId())
	}
	if refusal := badLabelName(m.GetSet()); refusal != nil {
		return refusal
	}
	labels := slices.DeleteFunc(slices.Clone(have.GetLabels()), func(l *raftlogv1.Label) bool {
		return slices.Contains(m.GetRemove(), l.GetName()) ||
			slices.ContainsFunc(m.GetSet(), func(s *raftlogv1.Label) bool { return s.GetName() == l.GetName() })
	})
	labels, refusal := sortedLabels("labels", append(labels, m.GetSet()...), MaxLabels)
	if refusal != nil {
		return refusal
	}
	switch {
	case sameLabels(labels, have.GetLabels()):
		return stands(have.GetLabelsVersion()) // also a repetition whose outcome was lost
	case m.GetExpectedVersion() != 0 && m.GetExpectedVersion() != have.GetLabelsVersion():
		return refuse(raftlogv1.Code_CODE_STALE, "version_moved",
			"the labels of agent %q have version %d, not %d", have.GetId(), have.GetLabelsVersion(), m.GetExpectedVersion())
	}
	row := clone(have)
	row.Labels, row.LabelsVersion = labels, tx.index
	put(tx, TableAgents, tx.agents, row)
	return granted(tx.index)
}

func (tx *tx) reportFacts(m *raftlogv1.ReportFacts) *raftlogv1.Outcome {
	if refusal := tx.holderSession(m.GetAgentId(), m.GetSessionEpoch(), m.GetNodeId()); refusal != nil {
		return refusal
	}
	facts, refusal := sortedLabels("facts", m.GetFacts(), MaxFacts)
	if refusal != nil {
		return refusal
	}
	if len(m.GetVersion()) > MaxValueBytes || len(m.GetHash()) > MaxValueBytes {
		return refuse(raftlogv1.Code_CODE_INVALID, "too_long", "version and hash may have %d bytes", MaxValueBytes)
	}
	a, _ := tx.agents.get(m.GetAgentId())
	upgraded := m.GetVersion() != "" && a.GetVersion() != m.GetVersion()
	have, found := tx.facts.get(m.GetAgentId())
	same := found && sameLabels(have.GetFacts(), facts) && bytes.Equal(have.GetHash(), m.GetHash())
	if same && !upgraded {
		return stands(have.GetIndex())
	}
	put(tx, TableFacts, tx.facts, &raftlogv1.Facts{AgentId: m.GetAgentId(), Facts: facts, Hash: m.GetHash(), Index: tx.index})
	if upgraded {
		row := clone(a)
		row.Version = m.GetVersion()
		put(tx, TableAgents, tx.agents, row)
	}
	return granted(tx.index)
}

func sameLabels(a, b []*raftlogv1.Label) bool {
	return slices.EqualFunc(a, b, func(x, y *raftlogv1.Label) bool {
		return x.GetName() == y.GetName() && x.GetValue() == y.GetValue()
	})
}

// readmitAgent ends a quarantine. After a clone the registered key is taken away,
// since both copies hold it: one of them enrols again with a new one. After a
// journal that was behind, the agent must come with a new journal.
func (tx *tx) readmitAgent(m *raftlogv1.ReadmitAgent) *raftlogv1.Outcome {
	have, found := tx.agents.get(m.GetAgentId())
	switch {
	case !found:
		return refuse(raftlogv1.Code_CODE_NOT_FOUND, "no_agent", "there is no agent %q", m.GetAgentId())
	case have.GetQuarantine() == raftlogv1.Quarantine_QUARANTINE_UNSPECIFIED, len(have.GetPublicKey()) == 0:
		return stands(0)
	case have.GetQuarantine() == raftlogv1.Quarantine_QUARANTINE_CLONE && len(have.GetClonedKeys()) >= MaxClonedKeys:
		return refuse(raftlogv1.Code_CODE_EXHAUSTED, "too_many_clones", "agent %q was cloned more than %d times: remove it, then enrol it again", have.GetId(), MaxClonedKeys)
	}
	row := clone(have)
	if have.GetQuarantine() == raftlogv1.Quarantine_QUARANTINE_CLONE {
		row.ClonedKeys = append(row.ClonedKeys, keyHash(have.GetPublicKey()))
		row.PublicKey = nil // it stays quarantined until it has enrolled with a new one
	} else {
		row.Quarantine, row.QuarantineDetail, row.Readmitted = raftlogv1.Quarantine_QUARANTINE_UNSPECIFIED, "", true
	}
	put(tx, TableAgents, tx.agents, row)
	return ok()
}

func collect[R any](rows func(func(R) bool)) []R {
	var all []R
	for r := range rows {
		all = append(all, r)
	}
	return all
}
