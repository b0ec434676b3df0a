package agent

import (
	"github.com/agentplane/agentplane/agent/journal"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// apiState is the state as the API names it. EXPIRED is the cluster's word: an agent that
// finds a command expired has rejected it.
func apiState(s journal.State) agentplanev1.AttemptState {
	if s == journal.Expired {
		s = journal.Rejected
	}
	return agentplanev1.AttemptState(agentplanev1.AttemptState_value["ATTEMPT_STATE_"+string(s)])
}

// reportOf is what the journal says of an attempt. Of the output at most outputBytes are
// told.
func reportOf(r journal.Record, seq uint64, outputBytes int64) *agentplanev1.Report {
	p := &agentplanev1.Report{
		InvocationId: r.InvocationID, Attempt: r.Attempt, Fence: r.Fence, JournalSeq: seq,
		State: agentplanev1.AttemptState_ATTEMPT_STATE_RUNNING,
	}
	p.Steps, p.Undo = stepsOf(r), undoOf(r)
	if !r.Ended() {
		return p
	}
	res := r.Result
	p.State, p.Reason, p.Detail = apiState(res.State), res.Reason, res.Detail
	p.ExitCode, p.Signal = res.ExitCode, uint32(res.Signal)
	p.StartedAt, p.EndedAt = res.StartedAt, res.EndedAt
	if r.Never {
		return p
	}
	p.Stdout, p.Stderr = &agentplanev1.Output{TotalBytes: res.StdoutBytes}, &agentplanev1.Output{TotalBytes: res.StderrBytes}
	half := int(outputBytes / 2)
	left := half
	for _, c := range res.Head {
		data := c.Data[:min(len(c.Data), left)]
		left -= len(data)
		o := streamOf(p, c.Stream)
		o.Head = append(o.Head, data...)
	}
	left = half
	for i := len(res.Tail) - 1; i >= 0; i-- { // the very end matters most
		data := res.Tail[i].Data
		data = data[max(0, len(data)-left):]
		left -= len(data)
		o := streamOf(p, res.Tail[i].Stream)
		o.Tail = append(append([]byte{}, data...), o.Tail...)
	}
	return p
}

// stepsOf is what the journal says of the attempt's steps: not of its undo, nor of the only
// program of one that has an undo.
func stepsOf(r journal.Record) []*agentplanev1.StepResult {
	var all []*agentplanev1.StepResult
	for _, s := range r.Steps {
		if s.Name == "" || s.Number > s.Of {
			continue
		}
		p := &agentplanev1.StepResult{
			Number: s.Number, Name: s.Name, State: agentplanev1.AttemptState_ATTEMPT_STATE_RUNNING, StartedAt: s.At,
		}
		if res := s.Result; s.Ended() {
			p.State, p.Reason, p.ExitCode, p.Signal = apiState(res.State), res.Reason, res.ExitCode, uint32(res.Signal)
			p.StartedAt, p.EndedAt = res.StartedAt, res.EndedAt
		}
		all = append(all, p)
	}
	return all
}

const streamStderr = 2

func streamOf(p *agentplanev1.Report, stream uint8) *agentplanev1.Output {
	if stream == streamStderr {
		return p.Stderr
	}
	return p.Stdout
}
