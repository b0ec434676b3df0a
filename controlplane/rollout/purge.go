package rollout

import (
	"iter"
	"time"

	"github.com/google/uuid"

	"github.com/agentplane/agentplane/fsm"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

const (
	// purgeMax bounds the commands, or the tokens, that one entry purges.
	purgeMax = 1000
	// rowsOfCommand are those of a command beside its invocations: its own and its
	// envelope.
	rowsOfCommand = 2
)

// Purge answers the finished commands to purge next: those that finished before now
// (Unix ns) by more than retain, and of the others the oldest excess, and how many rows
// that costs: at most most, but for the first command, which is taken in any case.
// Probes go with the commands whose waves they probed. finished yields commands in the order in which they finished.
func Purge(finished iter.Seq[*raftlogv1.Command], now int64, retain time.Duration, excess int, most uint32) (ids []string, rows uint32) {
	for c := range finished {
		if now-c.GetFinishedAt() <= int64(retain) && excess <= 0 {
			break
		}
		if c.GetParentId() != "" {
			continue
		}
		probes, probed := probesOf(c)
		excess -= 1 + probes
		if ahead(c.GetId(), now) {
			continue // the state keeps it until then
		}
		n := c.GetTargets() + rowsOfCommand + probed
		if len(ids) > 0 && rows+n > most {
			break
		}
		rows += n
		if ids = append(ids, c.GetId()); len(ids) == purgeMax {
			break
		}
	}
	return ids, rows
}

// probesOf is how many probes a command has, and how many rows they have at most.
func probesOf(c *raftlogv1.Command) (probes int, rows uint32) {
	last := uint32(0)
	for _, w := range c.GetRollout().GetWaves() {
		if w.GetProbeId() != "" {
			probes, rows = probes+1, rows+w.GetEnd()-last+rowsOfCommand
		}
		last = w.GetEnd()
	}
	return probes, rows
}

// PurgeTokens answers the tokens to purge next: those that were over before now (Unix
// ns) by more than retain, and of the others that are over the oldest above keep, and
// how many rows that costs, as Purge does. ended yields tokens in the order in which they
// end.
func PurgeTokens(ended iter.Seq[*raftlogv1.Token], now int64, retain time.Duration, keep int, most uint32) (ids []string, rows uint32) {
	var over []*raftlogv1.Token
	for t := range ended {
		if now < fsm.TokenEnd(t) {
			break
		}
		over = append(over, t)
	}
	for n, t := range over {
		if now-fsm.TokenEnd(t) <= int64(retain) && len(over)-n <= keep {
			break
		}
		if ahead(t.GetId(), now) {
			continue
		}
		cost := t.GetUsed() + 1
		if len(ids) > 0 && rows+cost > most {
			break
		}
		rows += cost
		if ids = append(ids, t.GetId()); len(ids) == purgeMax {
			break
		}
	}
	return ids, rows
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
