package sim

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/agentplane/agentplane/e2e/linear"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

// label is what relabel sets: on each agent a number that only grows.
const label = "turn"

// relabel sets a label of one agent after the other through all nodes until ctx ends, and
// reads it through others. It alone does so: a read answers no less than what was
// acknowledged before, and no more than what was ever asked for.
func (o *operators) relabel(ctx context.Context) {
	d := o.desk(0x6c61)
	defer d.close()
	acked := make(map[string]int) // by the agent's id, which a wiped disk changes
	for turn := 1; ctx.Err() == nil; turn++ {
		time.Sleep(time.Duration(300+d.rng.IntN(1200)) * time.Millisecond)
		a := o.w.agents[d.rng.IntN(len(o.w.agents))]
		d.turn(ctx, 1, func(c *client.Client) {
			one, cancel := context.WithTimeout(ctx, 3*time.Second)
			defer cancel()
			r, err := agentplanev1.NewFleetServiceClient(c).SetLabels(one, &agentplanev1.SetLabelsRequest{Agent: a.name, Set: map[string]string{label: strconv.Itoa(turn)}})
			o.heed(err)
			if err == nil {
				acked[r.GetAgent().GetId()] = turn
				o.mu.Lock()
				o.writes++
				o.mu.Unlock()
			}
		})
		one, cancel := context.WithTimeout(ctx, time.Second)
		r, err := agentplanev1.NewFleetServiceClient(d.any()).GetAgent(one, &agentplanev1.GetAgentRequest{Agent: a.name})
		cancel()
		o.heed(err)
		if err != nil {
			continue
		}
		o.mu.Lock()
		o.reads++
		o.mu.Unlock()
		least := acked[r.GetAgent().GetId()]
		if got, _ := strconv.Atoi(r.GetAgent().GetLabels()[label]); got < least || got > turn {
			o.w.fault("stale read: label %s of %s is %q, where %d was acknowledged and %d is the last that was asked for",
				label, a.name, fmt.Sprint(r.GetAgent().GetLabels()[label]), least, turn)
		}
	}
}

// submitBatch submits some commands in one call.
func (o *operators) submitBatch(ctx context.Context, c *client.Client, all []*command) {
	req := &agentplanev1.SubmitBatchRequest{}
	for _, one := range all {
		req.Envelopes = append(req.Envelopes, one.envelope)
	}
	var ops []linear.CommandOp
	for _, one := range all {
		ops = append(ops, o.asks(linear.Submit, one))
	}
	r, err := agentplanev1.NewCommandServiceClient(c).SubmitBatch(ctx, req)
	if err == nil && len(r.GetAnswers()) != len(all) {
		o.w.fault("a batch of %d commands was answered by %d answers", len(all), len(r.GetAnswers()))
		return
	}
	for i, one := range all {
		answer, err := &agentplanev1.SubmitAnswer{}, err
		if err == nil {
			answer = r.GetAnswers()[i]
			if no := answer.GetRefusal(); no != nil {
				err = agentplanev1.Refusal(codes.Code(no.GetCode()), no.GetDetail(), "%s", no.GetMessage())
			}
		}
		o.note(&one.submit, ops[i], answer.GetSubmittedIndex(), one, err)
	}
}
