package operator

import (
	"context"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/controlplane/consensus"
	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// MaxSubmitBatch bounds the envelopes of one SubmitBatch.
const MaxSubmitBatch = raftlogv1.MaxMutations

// SubmitBatch submits each envelope as Submit does. What is wrong with one of them is
// its own refusal; what keeps the leader from proposing is the error of the call,
// which is repeated as a whole. Its outcome is unknown once a part was proposed.
func (c *Commands) SubmitBatch(ctx context.Context, req *agentplanev1.SubmitBatchRequest) (*agentplanev1.SubmitBatchResponse, error) {
	if n := len(req.GetEnvelopes()); n == 0 || n > MaxSubmitBatch {
		return nil, c.refuseHint(codes.InvalidArgument, "batch", "divide them among several calls",
			"%d envelopes in one call, 1 to %d are allowed", n, MaxSubmitBatch)
	}
	v := c.o.Machine.View()
	answers := make([]*agentplanev1.SubmitAnswer, len(req.GetEnvelopes()))
	var waiting []*batched
	targets := c.remember(v)
	for i, envelope := range req.GetEnvelopes() {
		p, err := c.plan(ctx, v, envelope, targets)
		switch {
		case ctx.Err() != nil: // nobody waits any more
			return nil, c.proposeRefusal(fmt.Errorf("nothing was proposed: %w", ctx.Err()))
		case err != nil:
			answers[i] = refusedAnswer(err)
		case p.stands != nil:
			answers[i] = submitAnswer(p.stands, true)
		default:
			err := c.brought(v, p.mutation.GetSubmitCommand())
			if err == nil {
				err = c.mayAsk(ctx)
			}
			if err != nil {
				answers[i] = refusedAnswer(err)
				continue
			}
			waiting = append(waiting, &batched{plan: p, place: i})
		}
	}
	for proposed := false; len(waiting) > 0; proposed = true {
		n := fitting(waiting, c.o.BatchMutations, c.o.BatchBytes)
		err := c.proposeBatch(ctx, waiting[:n], answers)
		switch {
		case err != nil && proposed:
			// That nothing happened is true of this part only. Whoever repeats the call
			// finds the part before standing.
			return nil, c.proposeRefusal(fmt.Errorf("a part of the batch was applied, another was not: %w: %w", consensus.ErrUnknown, err))
		case err != nil:
			return nil, err
		}
		waiting = waiting[n:]
	}
	return &agentplanev1.SubmitBatchResponse{Answers: answers}, nil
}

// remember is targets for several specs on the same view: who asks for the same
// selector again is answered without another walk over the fleet.
func (c *Commands) remember(v *fsm.View) findTargets {
	known := make(map[string][]uint32)
	return func(spec *agentplanev1.CommandSpec) ([]uint32, error) {
		if len(spec.GetAgents()) > 0 || spec.GetRerunOf() != "" {
			return c.targets(v, spec)
		}
		if ordinals, found := known[spec.GetSelector()]; found {
			return ordinals, nil
		}
		ordinals, err := c.targets(v, spec)
		if err == nil {
			known[spec.GetSelector()] = ordinals
		}
		return ordinals, err
	}
}

// batched is an envelope that is to be proposed.
type batched struct {
	plan
	place int // of its answer
}

// mutationOverhead is what a mutation takes in its entry beside its bytes, at most.
const mutationOverhead = 16

// fitting answers how many of the first fit into one entry, at least one.
func fitting(all []*batched, mutations, bytes int) int {
	sum := 0
	for i, b := range all {
		sum += proto.Size(b.mutation) + mutationOverhead
		if i > 0 && (i == mutations || sum > bytes) {
			return i
		}
	}
	return len(all)
}

// proposeBatch proposes what fits into one entry and fills in the answers.
func (c *Commands) proposeBatch(ctx context.Context, all []*batched, answers []*agentplanev1.SubmitAnswer) error {
	mutations := make([]*raftlogv1.Mutation, len(all))
	for i, b := range all {
		mutations[i] = b.mutation
	}
	outcomes, v, err := c.proposeAll(ctx, mutations...)
	if err != nil {
		return err
	}
	for i, b := range all {
		o := outcomes[i]
		if o.GetCode() == raftlogv1.Code_CODE_NOT_APPLIED {
			return c.outcomeRefusal(o) // none of the entry was
		}
		err := c.outcomeRefusal(o)
		var row *raftlogv1.Command
		if err == nil {
			row, err = c.submitted(v, b.id, o)
		}
		if err != nil {
			answers[b.place] = refusedAnswer(err)
			continue
		}
		answers[b.place] = submitAnswer(row, o.GetRepeated())
	}
	return nil
}

func submitAnswer(row *raftlogv1.Command, repeated bool) *agentplanev1.SubmitAnswer {
	a := &agentplanev1.SubmitAnswer{SubmittedIndex: row.GetSubmittedIndex(), Targets: row.GetTargets(), Repeated: repeated}
	for _, n := range row.GetCounts() {
		if n.GetState() == raftlogv1.AttemptState_ATTEMPT_STATE_SKIPPED {
			a.Skipped = n.GetCount()
		}
	}
	return a
}

// refusedAnswer is a refusal as an item of a batch.
func refusedAnswer(err error) *agentplanev1.SubmitAnswer {
	s := status.Convert(err)
	return &agentplanev1.SubmitAnswer{Refusal: &agentplanev1.ItemRefusal{
		Code: uint32(s.Code()), Message: s.Message(), Detail: agentplanev1.DetailOf(err),
	}}
}
