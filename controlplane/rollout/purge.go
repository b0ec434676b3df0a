package rollout

import (
	"iter"
	"time"

	"github.com/google/uuid"

	"github.com/agentplane/agentplane/fsm"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

const (
	// purgeMax bounds the commands, or the tokens, that one entry purges, purgeRows
	// their invocations or uses; one with more is purged alone.
	purgeMax  = 1000
	purgeRows = 10_000
)

// Purge answers the finished commands to purge next: those that finished before now
// (Unix ns) by more than retain, and of the others the oldest excess. finished yields
// commands in the order in which they finished.
func Purge(finished iter.Seq[*raftlogv1.Command], now int64, retain time.Duration, excess int) (ids []string) {
	rows := 0
	for c := range finished {
		if now-c.GetFinishedAt() <= int64(retain) && excess <= 0 {
			break
		}
		excess--
		if ahead(c.GetId(), now) {
			continue // the state keeps it until then
		}
		if rows += int(c.GetTargets()); len(ids) > 0 && rows > purgeRows {
			break
		}
		if ids = append(ids, c.GetId()); len(ids) == purgeMax {
			break
		}
	}
	return ids
}

// PurgeTokens answers the tokens to purge next: those that were over before now (Unix
// ns) by more than retain, and of the others that are over the oldest above keep. ended
// yields tokens in the order in which they end.
func PurgeTokens(ended iter.Seq[*raftlogv1.Token], now int64, retain time.Duration, keep int) (ids []string) {
	var over []*raftlogv1.Token
	for t := range ended {
		if now < fsm.TokenEnd(t) {
			break
		}
		over = append(over, t)
	}
	uses := 0
	for n, t := range over {
		if now-fsm.TokenEnd(t) <= int64(retain) && len(over)-n <= keep {
			break
		}
		if ahead(t.GetId(), now) {
			continue
		}
		if uses += int(t.GetUsed()); len(ids) > 0 && uses > purgeRows {
			break
		}
		if ids = append(ids, t.GetId()); len(ids) == purgeMax {
			break
		}
	}
	return ids
}

// ahead says that the id was made by a clock ahead of the cluster's time.
func ahead(id string, now int64) bool {
	u, err := uuid.Parse(id)
	if err != nil {
		return false
	}
	var ms int64
	for _, b := range u[:6] {
		ms = ms<<8 | int64(b)
	}
	return ms >= now/int64(time.Millisecond)
}
