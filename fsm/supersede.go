package fsm

import (
	"slices"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// maxSupersede bounds the open commands of one key, and with them the rows that a
// submission looks at.
const maxSupersede = 64

// checkSupersede refuses a key that cannot be one, or of which too many commands are
// open.
func (tx *tx) checkSupersede(m *raftlogv1.SubmitCommand) *raftlogv1.Outcome {
	key := m.GetSupersede()
	if key == "" {
		return nil
	}
	if !ValidLockName(key) {
		return refuse(raftlogv1.Code_CODE_INVALID, "supersede", "supersede key %.80q: a key has 1 to %d letters, digits and . _ - / inside", key, MaxLockNameBytes)
	}
	n := 0
	for range prefixed(tx.keyed, sized(key)) {
		if n++; n == maxSupersede {
			return refuse(raftlogv1.Code_CODE_EXHAUSTED, "supersede_full", "%d commands with the supersede key %q are not done", n, key)
		}
	}
	return nil
}

// supersede takes from earlier commands with the same key what is not claimed on the
// agents that m means and does not skip, and what could be tried again there. Where m is
// skipped it takes nobody's place.
func (tx *tx) supersede(m *raftlogv1.SubmitCommand) {
	if m.GetSupersede() == "" {
		return
	}
	earlier := collect(prefixed(tx.keyed, sized(m.GetSupersede())))
	gone := make(map[uint32]int) // what gives way makes room in the queue of its agent
	for _, c := range earlier {
		for i := range where(tx.invocations.withPrefix(c.GetId()+"."), unclaimed) {
			gone[i.GetAgentOrdinal()]++
		}
	}
	for _, c := range earlier {
		for _, i := range collect(where(tx.invocations.withPrefix(c.GetId()+"."), open)) {
			ordinal := i.GetAgentOrdinal()
			if _, meant := slices.BinarySearch(m.GetAgentOrdinals(), ordinal); !meant {
				continue
			}
			a, _ := tx.agents.getBy(agentsByOrdinal, be32(ordinal))
			if tx.skipsWithout(a, ordinal, m.GetQueueOffline(), m.GetQueueMax(), gone[ordinal]) != "" {
				continue
			}
			switch {
			case unclaimed(i):
				tx.move(i, raftlogv1.AttemptState_ATTEMPT_STATE_CANCELED, "superseded", func(row *raftlogv1.Invocation, _ *raftlogv1.Transition) {
					row.Detail = "by command " + m.GetId()
				})
				gone[ordinal]--
			case !i.GetSuperseded() && i.GetAttempt() < c.GetMaxAttempts():
				row := clone(i)
				row.Superseded = true
				put(tx, TableInvocations, tx.invocations, row)
			}
		}
	}
}
