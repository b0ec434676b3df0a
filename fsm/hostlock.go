package fsm

import (
	"slices"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

const (
	// MaxCommandLocks bounds the locks of one kind that a command names.
	MaxCommandLocks = 8
	// MaxLockNameBytes bounds the name of a lock.
	MaxLockNameBytes = 64
)

// ValidLockName says that s may name a lock: letters, digits and . _ - / between the
// first and the last, which are letters or digits.
func ValidLockName(s string) bool {
	if s == "" || len(s) > MaxLockNameBytes {
		return false
	}
	for i := range len(s) {
		letter := s[i] >= 'a' && s[i] <= 'z' || s[i] >= 'A' && s[i] <= 'Z' || s[i] >= '0' && s[i] <= '9'
		inside := i > 0 && i < len(s)-1 && (s[i] == '.' || s[i] == '_' || s[i] == '-' || s[i] == '/')
		if !letter && !inside {
			return false
		}
	}
	return true
}

// checkLockNames refuses lists of locks that are too long, out of order or misspelled.
func checkLockNames(names []string) *raftlogv1.Outcome {
	if len(names) > MaxCommandLocks {
		return refuse(raftlogv1.Code_CODE_INVALID, "locks", "%d locks are above the maximum %d", len(names), MaxCommandLocks)
	}
	for n, name := range names {
		if !ValidLockName(name) {
			return refuse(raftlogv1.Code_CODE_INVALID, "lock_name", "lock %.80q: a name has 1 to %d letters, digits and . _ - / inside", name, MaxLockNameBytes)
		}
		if n > 0 && name <= names[n-1] {
			return refuse(raftlogv1.Code_CODE_INVALID, "locks", "the names of the locks do not ascend")
		}
	}
	return nil
}

// hostLocked refuses a claim that may not stand beside what is claimed or runs on the
// host. Commands without a lock cost a look at the rows that are counted anyway.
func (tx *tx) hostLocked(i *raftlogv1.Invocation, c *raftlogv1.Command) *raftlogv1.Outcome {
	if !respectsLocks {
		return nil
	}
	for r := range tx.work.in(i.GetAgentOrdinal(), raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED, raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING) {
		switch {
		case r.GetExclusive():
			return refuse(raftlogv1.Code_CODE_EXHAUSTED, ReasonExclusive, "command %s has agent %q for itself", r.GetCommandId(), i.GetAgentId())
		case i.GetExclusive():
			return refuse(raftlogv1.Code_CODE_EXHAUSTED, ReasonExclusive, "command %s wants agent %q for itself, and command %s runs there", c.GetId(), i.GetAgentId(), r.GetCommandId())
		case len(c.GetLocks()) == 0:
			continue
		}
		holder, _ := tx.commands.get(r.GetCommandId())
		if name, shared := sharedLock(c, holder); shared {
			return refuse(raftlogv1.Code_CODE_EXHAUSTED, ReasonLocked, "command %s holds lock %q of agent %q", holder.GetId(), name, i.GetAgentId())
		}
	}
	return nil
}

// sharedLock is the first lock that both name.
func sharedLock(a, b *raftlogv1.Command) (string, bool) {
	for _, name := range a.GetLocks() {
		if _, found := slices.BinarySearch(b.GetLocks(), name); found {
			return name, true
		}
	}
	return "", false
}
