package operator

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/blob"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// Submit registers a command and freezes whom it means. The same id with the same
// envelope answers what stands, whatever the selector would mean now.
func (c *Commands) Submit(ctx context.Context, req *agentplanev1.SubmitRequest) (*agentplanev1.SubmitResponse, error) {
	v := c.o.Machine.View()
	p, err := c.plan(ctx, v, req.GetEnvelope(), func(spec *agentplanev1.CommandSpec) ([]uint32, error) { return c.targets(v, spec) })
	if err != nil {
		return nil, err
	}
	if p.stands != nil {
		return &agentplanev1.SubmitResponse{Command: commandRow(p.stands), Repeated: true}, nil
	}
	if err := c.brought(v, p.mutation.GetSubmitCommand()); err != nil {
		return nil, err
	}
	if err := c.mayAsk(ctx); err != nil {
		return nil, err
	}
	o, v, err := c.propose(ctx, p.mutation)
	if err != nil {
		return nil, err
	}
	row, err := c.submitted(v, p.id, o)
	if err != nil {
		return nil, err
	}
	return &agentplanev1.SubmitResponse{Command: commandRow(row), Repeated: o.GetRepeated(), Notes: p.notes}, nil
}

// plan is what an envelope comes to before anything is proposed: one of the two is
// set.
type plan struct {
	id       string
	stands   *raftlogv1.Command // the command is there already
	mutation *raftlogv1.Mutation
	notes    []string // on what does not come out as it was asked for
}

// findTargets answers the ordinals of the agents that a spec means, or a refusal.
type findTargets func(*agentplanev1.CommandSpec) ([]uint32, error)

// plan reads and checks an envelope. The error is a refusal.
func (c *Commands) plan(ctx context.Context, v *fsm.View, envelope []byte, targets findTargets) (plan, error) {
	sub, err := decodeSubmission(envelope)
	if err != nil {
		return plan{}, c.refuse(codes.InvalidArgument, "bad_envelope", "%v", err)
	}
	id := sub.spec.GetCommandId()
	if have, found := v.Command(id); found {
		// Committed, whoever leads now: no proposal is needed to say so.
		if !bytes.Equal(have.GetDigest(), sub.digest) {
			return plan{}, c.refuse(codes.AlreadyExists, "command_exists", "command %q exists with other content", id)
		}
		return plan{id: id, stands: have}, nil
	}
	if err := c.meant(v, sub.spec); err != nil {
		return plan{}, err
	}
	if p := check(sub.spec, c.now(v)); p != nil {
		return plan{}, c.refuse(codes.InvalidArgument, p.reason, "%s", p.text)
	}
	if err := c.ofTemplate(v, sub.spec); err != nil {
		return plan{}, err
	}
	ordinals, err := targets(sub.spec)
	if err != nil {
		return plan{}, err
	}
	m, notes := c.submitOf(v, sub, ordinals, c.callerName(ctx))
	return plan{id: id, mutation: &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_SubmitCommand{SubmitCommand: m}}, notes: notes}, nil
}

// brought refuses a command that names what is not kept: clients upload it when they are
// told so, which shall cost no entry.
func (c *Commands) brought(v *fsm.View, m *raftlogv1.SubmitCommand) error {
	for _, b := range m.GetBlobs() {
		if !v.BlobKept(b.GetSha256(), b.GetSize()) {
			return c.refuse(codes.FailedPrecondition, fsm.NoBlob,
				"the command names blob %.12s (%d bytes), which the cluster does not keep, or keeps no more: it has to be uploaded first", b.GetSha256(), b.GetSize())
		}
	}
	return nil
}

// submitted is the row of a command that the outcome says to stand.
func (c *Commands) submitted(v *fsm.View, id string, o *raftlogv1.Outcome) (*raftlogv1.Command, error) {
	row, found := v.Command(id)
	if !found { // purged between the outcome and here: it stood, and is over
		return nil, c.refuse(codes.NotFound, "no_command", "command %q was submitted at index %d and has been purged since", id, o.GetIndex())
	}
	return row, nil
}

// meant refuses a command that was made for another cluster or another life of
// this one.
func (c *Commands) meant(v *fsm.View, spec *agentplanev1.CommandSpec) error {
	row := v.Cluster()
	switch {
	case row.GetClusterId() == "":
		return c.refuse(codes.FailedPrecondition, "no_cluster", "the cluster has not been initialized")
	case spec.GetClusterId() != row.GetClusterId():
		return c.refuseHint(codes.FailedPrecondition, "wrong_cluster", `choose the cluster with --context or --addr`,
			"the command is for cluster %.100q, this is cluster %q", spec.GetClusterId(), row.GetClusterId())
	case !proto.Equal(spec.GetIncarnation(), incarnation(row)):
		return c.refuseHint(codes.FailedPrecondition, "other_incarnation", "submit it again as a new command",
			"the command is for incarnation %s of the cluster, this is incarnation %s",
			incarnationText(spec.GetIncarnation()), incarnationText(incarnation(row)))
	}
	return nil
}

func incarnationText(i *agentplanev1.Incarnation) string {
	return fmt.Sprintf("%d/%.16x", i.GetNumber(), i.GetId())
}

// targets answers the ordinals of the agents that the spec means.
func (c *Commands) targets(v *fsm.View, spec *agentplanev1.CommandSpec) ([]uint32, error) {
	switch {
	case len(spec.GetAgents()) > 0:
		return c.named(v, spec.GetAgents())
	case spec.GetRerunOf() != "":
		return c.again(v, spec)
	}
	sel, err := c.parseSelector(spec.GetSelector(), false)
	if err != nil {
		return nil, err
	}
	var ordinals []uint32
	for a := range matching(v, sel, c.now(v)) {
		ordinals = append(ordinals, a.GetOrdinal())
	}
	slices.Sort(ordinals)
	switch n := len(ordinals); {
	case n == 0:
		return nil, c.refuseHint(codes.NotFound, "no_targets", `see whom there is with "agentctl agents list"`,
			"the selector %s means none of the %d agents", sel, v.AgentCount())
	case n > fsm.MaxTargets:
		return nil, c.refuseHint(codes.InvalidArgument, "too_many", "divide them by a label and submit several commands",
			"the selector %s means %d agents, at most %d are allowed", sel, n, fsm.MaxTargets)
	}
	return ordinals, nil
}

// submitOf is what a submission comes to on the state, and what is to be said about its
// rollout.
func (c *Commands) submitOf(v *fsm.View, sub *submission, ordinals []uint32, by string) (m *raftlogv1.SubmitCommand, notes []string) {
	spec := sub.spec
	m = &raftlogv1.SubmitCommand{
		Id: spec.GetCommandId(), Envelope: sub.envelope, Digest: sub.digest, SubmittedBy: by, AgentOrdinals: ordinals,
		NotBefore: spec.GetNotBefore(), NotAfter: spec.GetNotAfter(), QueueOffline: spec.GetQueueOffline(),
		RunTimeout: int64(allowed(spec)), KillGrace: spec.GetKillGrace(),
		Delivery: raftlogv1.Delivery(spec.GetDelivery()), MaxAttempts: 1, Summary: summary(spec), Selector: spec.GetSelector(),
		RerunOf: spec.GetRerunOf(), QueueMax: c.o.QueueMax,
		// What Submit releases itself needs no second entry before it can be claimed: all,
		// or the first wave.
		Release: uint32(len(ordinals)),
		Splay:   spec.GetSplay(),
		Locks:   ascending(spec.GetLocks()), Exclusive: spec.GetExclusive(),
		Supersede: spec.GetSupersede(), FleetLocks: ascending(spec.GetFleetLocks()), Undo: undoPlan(spec),
	}
	if spec.Priority != nil {
		m.Precedence = int32(spec.GetPriority()) - fsm.NormalPriority
	}
	refs, _ := blob.CheckBrought(spec) // checked
	for _, r := range refs {
		m.Blobs = append(m.Blobs, &raftlogv1.BlobRef{Sha256: r.Sum, Size: uint64(r.Size)})
	}
	if m.Delivery == raftlogv1.Delivery_DELIVERY_IDEMPOTENT {
		m.MaxAttempts = c.o.MaxAttempts
	}
	return m, addRollout(v, spec, m)
}

// ascending is the names in order, each once; the spec's own bytes stay as they are.
func ascending(names []string) []string {
	if len(names) == 0 {
		return nil
	}
	return slices.Compact(slices.Sorted(slices.Values(names)))
}
