package fsm

import (
	"crypto/sha256"
	"encoding/binary"
	"time"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// MaxSplay bounds over how long the starts of one command may be spread.
const MaxSplay = 24 * time.Hour

// StartsAt is before when the invocation may not be claimed, Unix nanoseconds; 0 = its
// command is not spread over time. Each target has a delay of its own, the same whenever
// it is asked for, from its release on. A further attempt after LOST is not delayed again.
func StartsAt(c *raftlogv1.Command, i *raftlogv1.Invocation) int64 {
	if c.GetSplay() <= 0 || i.GetAttempt() != 1 {
		return 0
	}
	for _, t := range i.GetTransitions() {
		if t.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_RELEASED {
			return later(t.GetAt(), Delay(c.GetId(), i.GetAgentId(), c.GetSplay()))
		}
	}
	return 0
}

// Delay is the agent's place within the splay of a command, from 0 up to below it.
func Delay(commandID, agentID string, splay int64) int64 {
	if splay <= 0 {
		return 0
	}
	sum := sha256.Sum256([]byte(sized(commandID) + agentID))
	return int64(binary.BigEndian.Uint64(sum[:8]) % uint64(splay))
}
