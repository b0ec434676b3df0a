package operator

import (
	"bytes"
	"math"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

const (
	// estimateLooks bounds how many commands an estimate looks at, and estimateRuns of
	// how many runs it is made, the newest: what ran a month ago says little.
	estimateLooks = 20_000
	estimateRuns  = 2_000
)

// Estimate is how long a program took where it ran before, by the clocks of the hosts.
type Estimate struct {
	// Runs is of how many it is made; the others are 0 when there are none.
	Runs int
	// Median is what half of them took at most, and P90 nine tenths.
	Median, P90 time.Duration
	// Succeeded of them did.
	Succeeded int
}

// EstimateOf estimates how long the program of the spec takes on one agent, from the runs of
// the same program in the state: same arguments, or same script. It is pure, and bounded
// whatever the state holds.
func EstimateOf(v *fsm.View, spec *agentplanev1.CommandSpec) Estimate {
	var e Estimate
	var took []time.Duration
	line := summary(spec)
	looks := estimateLooks
	for row := range v.CommandsNewestFirst(0) {
		if looks--; looks < 0 || len(took) == estimateRuns {
			break
		}
		if row.GetSummary() != line || !sameProgram(v, row.GetId(), spec) {
			continue
		}
		for i := range v.Invocations(row.GetId()) {
			d, ran := duration(i)
			if !ran {
				continue
			}
			if took = append(took, d); i.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED {
				e.Succeeded++
			}
			if len(took) == estimateRuns {
				break
			}
		}
		looks -= int(row.GetTargets())
	}
	slices.Sort(took)
	e.Runs, e.Median, e.P90 = len(took), quantile(took, 0.5), quantile(took, 0.9)
	return e
}

// estimateRow is an estimate as the API has it; nil when it is of no run.
func estimateRow(e Estimate) *agentplanev1.Estimate {
	if e.Runs == 0 {
		return nil
	}
	return &agentplanev1.Estimate{
		Runs: uint32(e.Runs), Succeeded: uint32(e.Succeeded), Median: int64(e.Median), P90: int64(e.P90),
	}
}

// sameProgram says whether the command runs what the spec does. The envelope is read only
// when the summary, which is cut, is the same.
func sameProgram(v *fsm.View, id string, spec *agentplanev1.CommandSpec) bool {
	envelope, _ := v.Envelope(id)
	var e agentplanev1.Envelope
	var other agentplanev1.CommandSpec
	return proto.Unmarshal(envelope, &e) == nil && proto.Unmarshal(e.GetSpec(), &other) == nil &&
		slices.Equal(other.GetArgv(), spec.GetArgv()) && bytes.Equal(other.GetScript(), spec.GetScript()) &&
		slices.EqualFunc(other.GetSteps(), spec.GetSteps(), func(a, b *agentplanev1.Step) bool { return proto.Equal(a, b) })
}

// duration is how long the invocation's program ran until it ended by itself or its time
// was over. A host whose clock was set meanwhile says nothing.
func duration(i *raftlogv1.Invocation) (time.Duration, bool) {
	switch i.GetState() {
	case raftlogv1.AttemptState_ATTEMPT_STATE_SUCCEEDED, raftlogv1.AttemptState_ATTEMPT_STATE_FAILED,
		raftlogv1.AttemptState_ATTEMPT_STATE_TIMED_OUT:
	default:
		return 0, false
	}
	begun, ended := i.GetResult().GetStartedAt(), i.GetResult().GetEndedAt()
	if begun <= 0 || ended < begun || time.Duration(ended-begun) > MaxRunTimeout+MaxKillGrace {
		return 0, false
	}
	return time.Duration(ended - begun), true
}

// quantile is the smallest of the sorted values that is not below the share q of them.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[max(int(math.Ceil(q*float64(len(sorted))))-1, 0)]
}
