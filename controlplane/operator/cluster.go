package operator

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/agentplane/agentplane/controlplane/consensus"
	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

const (
	// successionWait bounds how long a transfer waits to see who leads now.
	successionWait = 3 * time.Second
	// removalEnds bounds the second half of a removal, whose first half is done.
	removalEnds = 10 * time.Second
)

// Cluster knows the nodes.
type Cluster struct {
	agentplanev1.UnimplementedClusterServiceServer
	*service
	checking chan struct{} // has a value while a state is summed
}

// Info answers what a client needs before it makes a command.
func (c *Cluster) Info(ctx context.Context, req *agentplanev1.InfoRequest) (*agentplanev1.InfoResponse, error) {
	v, err := c.read(ctx, req.GetStale())
	if err != nil {
		return nil, err
	}
	row := v.Cluster()
	answer := &agentplanev1.InfoResponse{
		ClusterId: row.GetClusterId(), Incarnation: incarnation(row), Now: c.now(v), AppliedIndex: v.Index(),
		FeatureLevel: row.GetFeatureLevel(), Bundle: BundleOf(v), LeaderId: c.o.Raft.Configuration().Leader,
		Caller: c.callerName(ctx), Version: c.o.Version,
	}
	switch name, kind, _, _ := c.o.Caller(ctx); kind {
	case "operator":
		o, _ := v.Operator(name)
		answer.Role = o.GetRole()
	case "local":
		answer.Role = fsm.RoleAdmin // who owns the node may do everything
	}
	return answer, nil
}

// ListMembers answers the registered nodes by name.
func (c *Cluster) ListMembers(ctx context.Context, req *agentplanev1.ListMembersRequest) (*agentplanev1.ListMembersResponse, error) {
	v, err := c.read(ctx, req.GetStale())
	if err != nil {
		return nil, err
	}
	return &agentplanev1.ListMembersResponse{Members: c.members(v, c.o.Raft.Configuration())}, nil
}

// unapplied are the nodes of raft's configuration that the state does not know, which
// is so on a node that was started and has not heard of a leader yet: the log is
// applied only then. Their names are in the log.
func (c *Cluster) unapplied(known []*agentplanev1.Member, cfg Configuration) (members []*agentplanev1.Member) {
	peers := c.o.Peers()
	_, addresses := c.o.Trusted()
	for _, id := range slices.Concat(cfg.Voters, cfg.NonVoters) {
		if slices.ContainsFunc(known, func(m *agentplanev1.Member) bool { return m.GetId() == id }) {
			continue
		}
		m := &agentplanev1.Member{
			Id: id, Address: addresses[id], Leader: id == cfg.Leader, Voter: slices.Contains(cfg.Voters, id), State: cmp.Or(peers[id], "unknown"),
		}
		if id == c.o.NodeID {
			m.State = "alive"
		}
		members = append(members, m)
	}
	return members
}

func (c *Cluster) members(v *fsm.View, cfg Configuration) []*agentplanev1.Member {
	gossip := c.o.Peers()
	var members []*agentplanev1.Member
	for n := range v.RegisteredNodes() {
		m := &agentplanev1.Member{
			Id: n.GetId(), Name: n.GetName(), Address: n.GetAddress(), Leader: n.GetId() == cfg.Leader,
			Voter: slices.Contains(cfg.Voters, n.GetId()), State: cmp.Or(gossip[n.GetId()], "unknown"),
			Version: n.GetVersion(), FeatureLevel: n.GetFeatureLevel(), StartCounter: n.GetStartCounter(),
		}
		if n.GetId() == c.o.NodeID {
			m.State = "alive" // it answers
		}
		if n.GetCandidate() && !m.Voter {
			m.Candidate, m.WaitsFor = true, c.o.WaitsFor(n.GetId()).Why
		}
		members = append(members, m)
	}
	members = append(members, c.unapplied(members, cfg)...)
	slices.SortFunc(members, func(a, b *agentplanev1.Member) int {
		return cmp.Or(cmp.Compare(a.GetName(), b.GetName()), cmp.Compare(a.GetId(), b.GetId()))
	})
	return members
}

// RemoveMember takes a node out of trust and then out of raft: the entry is the
// decision, and the leader's membership loop brings raft in line with it when this
// call dies in between. Until it has, raft counts a voter with which nobody speaks any
// more. So only one is removed at a time; and where the others are no majority of the
// voters that there are, it leaves raft first: when this call dies in between it is still
// trusted, asks to be added again, and may be removed again. A leader does not remove itself:
// it hands over, and the caller's node asks the next one.
func (c *Cluster) RemoveMember(ctx context.Context, req *agentplanev1.RemoveMemberRequest) (*agentplanev1.RemoveMemberResponse, error) {
	v := c.o.Machine.View()
	n, err := c.node(v, req.GetMember(), true)
	if err != nil {
		return nil, err
	}
	cfg := c.o.Raft.Configuration()
	voter, rest := slices.Contains(cfg.Voters, n.GetId()), 0
	if voter {
		if rest, err = c.mayLose(v, cfg, n); err != nil {
			return nil, err
		}
	}
	if n.GetId() == c.o.NodeID {
		if err := c.o.Raft.Transfer(ctx, ""); err != nil {
			return nil, c.transferRefusal(err)
		}
		return nil, c.notLeader("node %q led and has handed over leadership: the new leader removes it", n.GetName())
	}
	distrust := func(ctx context.Context) error {
		_, _, err := c.propose(ctx, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RemoveNode{
			RemoveNode: &raftlogv1.RemoveNode{NodeId: n.GetId(), SeenIndex: v.Index()},
		}})
		return err
	}
	leave := func(ctx context.Context) error {
		if !voter && !slices.Contains(cfg.NonVoters, n.GetId()) {
			return nil
		}
		if err := c.o.Raft.RemoveServer(ctx, n.GetId(), cfg.Index); err != nil {
			return c.proposeRefusal(err)
		}
		return nil
	}
	steps := []func(context.Context) error{distrust, leave}
	if voter && rest < quorum(len(cfg.Voters)) {
		slices.Reverse(steps)
	}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return nil, err
		}
		// One without the other is of no use, so whoever asks is not waited for any more.
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), removalEnds)
		defer cancel()
	}
	c.o.Logger.Info("node removed", "node_id", n.GetId(), "name", n.GetName(), "by", c.callerName(ctx))
	return &agentplanev1.RemoveMemberResponse{}, nil
}

// mayLose refuses to remove a voter when those that remain could not decide
// anything any more, not even this, and while another one is being removed. It answers how
// many of those that remain are up.
func (c *Cluster) mayLose(v *fsm.View, cfg Configuration, n *raftlogv1.Node) (up int, err error) {
	if len(cfg.Voters) == 1 {
		return 0, c.refuseHint(codes.FailedPrecondition, "last_voter", `add a node with "agentctl tokens create --kind node" first`,
			"node %q is the last voter: without it there is no cluster", n.GetName())
	}
	peers := c.o.Peers()
	var rest, dead []string
	for _, id := range cfg.Voters {
		if id == n.GetId() {
			continue
		}
		rest = append(rest, id)
		other, found := v.Node(id)
		if found && !registered(other) {
			return 0, c.refuseWith(codes.Unavailable, &agentplanev1.ErrorDetail{
				Reason: "removal_in_progress", RetryAfterMs: 500, Hint: `run the command again when "agentctl cluster members" does not show it any more`,
			}, "node %q was removed and is still being taken out of raft: node %q is not removed meanwhile", other.GetName(), n.GetName())
		}
		if id != c.o.NodeID && gone(cmp.Or(peers[id], "unknown")) {
			dead = append(dead, cmp.Or(other.GetName(), id))
		}
	}
	if up = len(rest) - len(dead); up < quorum(len(rest)) {
		return 0, c.refuseHint(codes.FailedPrecondition, "quorum_would_be_lost", "remove or start what is dead first: "+dead[0],
			"without node %q there would be %d voters of which %d are up, and %d are needed (dead: %q)",
			n.GetName(), len(rest), up, quorum(len(rest)), dead)
	}
	return up, nil
}

// gone says that there is no sign of life of the node.
func gone(state string) bool { return state == "dead" || state == "left" || state == "unknown" }

// TransferLeadership hands leadership over and answers who leads now. Handing it to
// the node that has it changes nothing.
func (c *Cluster) TransferLeadership(ctx context.Context, req *agentplanev1.TransferLeadershipRequest) (*agentplanev1.TransferLeadershipResponse, error) {
	to := ""
	if req.GetTo() != "" {
		n, err := c.node(c.o.Machine.View(), req.GetTo(), false)
		if err != nil {
			return nil, err
		}
		cfg := c.o.Raft.Configuration()
		switch {
		case n.GetId() == cfg.Leader:
			return &agentplanev1.TransferLeadershipResponse{LeaderId: n.GetId()}, nil
		case !slices.Contains(cfg.Voters, n.GetId()):
			return nil, c.refuseHint(codes.FailedPrecondition, "not_a_voter", `see "agentctl cluster members"`,
				"node %q is not a voter and cannot lead", n.GetName())
		}
		to = n.GetId()
	}
	_, office := c.o.Machine.Published()
	if err := c.o.Raft.Transfer(ctx, to); err != nil {
		return nil, c.transferRefusal(err)
	}
	return &agentplanev1.TransferLeadershipResponse{LeaderId: c.successor(ctx, office.GetEpoch(), to)}, nil
}

// successor waits until somebody has taken office after the epoch. It answers
// fallback, which may be empty, when that is not seen in time.
func (c *Cluster) successor(ctx context.Context, epoch uint64, fallback string) string {
	ctx, cancel := context.WithTimeout(ctx, successionWait)
	defer cancel()
	for {
		index, office := c.o.Machine.Published()
		if office.GetEpoch() != epoch {
			return office.GetNodeId()
		}
		if err := c.o.Machine.WaitPublished(ctx, index+1); err != nil {
			return cmp.Or(fallback, c.o.Raft.Configuration().Leader)
		}
	}
}

// transferRefusal: a transfer whose end was not seen may have happened.
func (c *Cluster) transferRefusal(err error) error {
	for _, known := range []error{consensus.ErrNoSuccessor, consensus.ErrNotLeader, consensus.ErrShutdown} {
		if errors.Is(err, known) {
			return c.proposeRefusal(err)
		}
	}
	return c.refuseWith(codes.Unavailable, &agentplanev1.ErrorDetail{
		Reason: "outcome_unknown", OutcomeUnknown: true, Hint: `see "agentctl cluster members"`,
	}, "%v", err)
}

// node finds a node by id or name. Registered ones come first; removed ones count
// when a repetition must find them.
func (c *Cluster) node(v *fsm.View, who string, alsoRemoved bool) (*raftlogv1.Node, error) {
	if who == "" {
		return nil, c.refuseHint(codes.InvalidArgument, "no_member", `name it: see "agentctl cluster members"`, "no node was named")
	}
	if n, found := v.Node(who); found && (registered(n) || alsoRemoved) {
		return n, nil
	}
	var was *raftlogv1.Node
	for n := range v.Nodes() {
		switch {
		case n.GetName() != who:
		case registered(n):
			return n, nil // their names are unique
		default:
			was = n
		}
	}
	if was != nil && alsoRemoved {
		return was, nil
	}
	return nil, c.refuse(codes.NotFound, "no_node", "there is no node %q", who)
}

func registered(n *raftlogv1.Node) bool {
	return n.GetState() < raftlogv1.NodeState_NODE_STATE_REMOVED
}
