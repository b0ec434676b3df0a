package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// rollOut gives some commands waves, or a limit to failures.
func rollOut(rng *rand.Rand, spec *agentplanev1.CommandSpec) {
	r := &agentplanev1.RolloutSpec{OnBreach: agentplanev1.OnBreach(1 + rng.IntN(2)), Order: []string{"", "random", "coverage"}[rng.IntN(3)]}
	if rng.IntN(4) > 0 {
		r.Waves = []*agentplanev1.WaveSpec{{Count: 1}}
		r.Soak = int64(time.Duration(rng.IntN(1500)) * time.Millisecond)
		r.GateHealth = rng.IntN(2) == 0
		if rng.IntN(2) == 0 {
			r.Probe = &agentplanev1.ProbeSpec{Argv: []string{"work", "10ms", fmt.Sprint(rng.IntN(8) / 7)}, Timeout: int64(5 * time.Second)}
		}
		if rng.IntN(2) == 0 {
			r.Waves = append(r.Waves, &agentplanev1.WaveSpec{BasisPoints: 6000})
		}
	}
	if rng.IntN(3) > 0 || len(r.Waves) == 0 {
		r.MaxFailures = &agentplanev1.FailureLimit{Count: uint32(rng.IntN(3))}
		r.Strict = r.MaxFailures.Count > 0 && rng.IntN(2) == 0
	}
	spec.Rollout = r
	spec.NotAfter += int64(8 * time.Second)
}

// brake pauses, resumes or aborts a command that has waves.
func (o *operators) brake(ctx context.Context, c *client.Client, cmd *command, rng *rand.Rand) {
	commands := agentplanev1.NewCommandServiceClient(c)
	var err error
	verb := []string{"pause", "resume", "resume", "abort"}[rng.IntN(4)]
	switch verb {
	case "pause":
		_, err = commands.PauseCommand(ctx, &agentplanev1.PauseCommandRequest{Id: cmd.id})
	case "abort":
		_, err = commands.AbortCommand(ctx, &agentplanev1.AbortCommandRequest{Id: cmd.id})
	default:
		row, _ := o.w.newest().Command(cmd.id)
		if row.GetPause() == nil {
			return
		}
		_, err = commands.ResumeCommand(ctx, &agentplanev1.ResumeCommandRequest{Id: cmd.id, Pause: row.GetPause().GetNumber()})
	}
	o.heed(err)
	o.w.trace.Note("operator", "%s %s: %v", verb, cmd.id, err)
}

// waveJudge counts rollouts by itself, from the invocations, in each state that the log
// makes.
type waveJudge struct {
	paused map[string]standstill // by command
	seen   map[string]int        // what there was to be judged
}

// standstill is a pause and which invocations had been claimed when it began.
type standstill struct {
	number  uint64
	claimed map[string]bool
}

func newWaveJudge() *waveJudge {
	return &waveJudge{paused: make(map[string]standstill), seen: make(map[string]int)}
}

func (j *waveJudge) judge(v *fsm.View) (wrong []string) {
	for c := range v.OpenCommands() {
		if why := j.command(v, c); why != "" {
			wrong = append(wrong, fmt.Sprintf("at index %d command %s %s: %v", v.Index(), c.GetId(), why, c))
		}
	}
	return wrong
}

func (j *waveJudge) command(v *fsm.View, c *raftlogv1.Command) string {
	r := c.GetRollout()
	if r == nil && c.GetPause() == nil && c.GetAbort() == nil {
		return ""
	}
	var failures, inFlight, waits uint32
	claimed := make(map[string]bool)
	for i := range v.Invocations(c.GetId()) {
		wave := waveOf(r, i.GetRank())
		switch s := i.GetState(); {
		case s == raftlogv1.AttemptState_ATTEMPT_STATE_PENDING:
			waits++
		case s < raftlogv1.AttemptState_ATTEMPT_STATE_LOST:
			inFlight++
			if s == raftlogv1.AttemptState_ATTEMPT_STATE_RELEASED {
				waits++
			}
			if wave != 0 && wave != c.GetWave() {
				return fmt.Sprintf("is at wave %d, and %s of wave %d is in flight", c.GetWave(), i.GetId(), wave)
			}
		case s == raftlogv1.AttemptState_ATTEMPT_STATE_LOST, s == raftlogv1.AttemptState_ATTEMPT_STATE_FAILED, s == raftlogv1.AttemptState_ATTEMPT_STATE_TIMED_OUT:
			failures++
		}
		claimed[i.GetId()] = i.GetFence() != 0
	}
	was := j.paused[c.GetId()]
	delete(j.paused, c.GetId())
	if p := c.GetPause(); p != nil {
		if was.number != p.GetNumber() {
			j.seen["paused "+p.GetReason()]++
			was = standstill{number: p.GetNumber(), claimed: claimed}
		}
		j.paused[c.GetId()] = was
		for id, now := range claimed {
			if now && !was.claimed[id] {
				return "is paused, and yet has claimed " + id
			}
		}
	}
	active := c.GetState() == raftlogv1.CommandState_COMMAND_STATE_ACTIVE
	left := failures - min(failures, r.GetForgiven())
	switch {
	case c.GetAbort() != nil && waits > 0:
		return fmt.Sprintf("was aborted, and %d may still be claimed", waits)
	case r == nil || !r.GetLimited():
		return ""
	case r.GetStrict() && left+inFlight > r.GetMaxFailures():
		return fmt.Sprintf("is strict: %d failed and %d are in flight, %d may fail", left, inFlight, r.GetMaxFailures())
	case left > r.GetMaxFailures() && active && waits > 0 && c.GetPause() == nil && c.GetAbort() == nil:
		return fmt.Sprintf("goes on after %d failures, %d may fail", left, r.GetMaxFailures())
	}
	return ""
}

func waveOf(r *raftlogv1.Rollout, rank uint32) uint32 {
	for n, w := range r.GetWaves() {
		if rank != 0 && rank <= w.GetEnd() {
			return uint32(n + 1)
		}
	}
	return 0
}
