package controlplane

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/agentplane/agentplane/configs"
	"github.com/agentplane/agentplane/controlplane/consensus"
	"github.com/agentplane/agentplane/controlplane/operator"
	"github.com/agentplane/agentplane/controlplane/pki"
	"github.com/agentplane/agentplane/fsm"
	"github.com/agentplane/agentplane/gossip"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/identity"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// local serves the node's own socket.
type local struct {
	agentplanev1.UnimplementedLocalServiceServer
	n *Node
}

// LocalStatus is the API's.
func (l *local) LocalStatus(context.Context, *agentplanev1.LocalStatusRequest) (*agentplanev1.LocalStatusResponse, error) {
	r := &agentplanev1.LocalStatusResponse{
		NodeId: l.n.ID(), ClusterId: l.n.dir.ClusterID(), State: "waiting", Address: l.n.advertise, Version: l.n.o.Version,
	}
	if m := l.n.member.Load(); m != nil {
		r.State, r.GossipAddress = "member", m.gossip.AdvertiseAddr()
		if !m.inConfiguration() {
			r.State = "joining"
		}
	}
	return r, nil
}

// Init is the API's. Every step may be repeated: a node that died in between goes
// on where it was.
func (l *local) Init(ctx context.Context, req *agentplanev1.InitRequest) (*agentplanev1.InitResponse, error) {
	n := l.n
	n.setup.Lock()
	defer n.setup.Unlock()
	name, key, err := operatorRequest(req)
	if err != nil {
		return nil, agentplanev1.Refusal(codes.InvalidArgument, &agentplanev1.ErrorDetail{Reason: "request"}, "%v", err)
	}
	existed := n.hasJoined()
	if !existed {
		if err := roomy(n.o.Config.DataDir, consensus.FreeBytes); err != nil {
			return nil, err
		}
		if err := n.found(); err != nil {
			return nil, agentplanev1.Refusal(codes.Internal, &agentplanev1.ErrorDetail{Reason: "init"}, "%v", err)
		}
	}
	m, err := n.waitMember(ctx)
	if err != nil {
		return nil, err
	}
	if err := m.waitFounded(ctx); err != nil {
		return nil, err
	}
	leader, address, here := m.office()
	if !here {
		return nil, agentplanev1.Refusal(codes.FailedPrecondition,
			&agentplanev1.ErrorDetail{Reason: "not_leader", LeaderId: leader, LeaderAddress: address, Hint: fmt.Sprintf("run the command on the node that leads (%s at %s)", leader, address)},
			"this node belongs to cluster %s and does not lead it: a further admin is made on the leader", n.dir.ClusterID())
	}
	outcomes, err := m.host.Propose(ctx, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EnrollOperator{EnrollOperator: &raftlogv1.EnrollOperator{
		Name: name, PublicKey: key, Role: fsm.RoleAdmin, From: "local socket",
	}}})
	if err != nil {
		return nil, refusal(err)
	}
	if o := outcomes[0]; o.GetCode() != raftlogv1.Code_CODE_OK {
		return nil, agentplanev1.Refusal(codes.FailedPrecondition, &agentplanev1.ErrorDetail{Reason: o.GetReason()}, "%s", o.GetDetail())
	}
	certificate, err := m.ca.Issue(pki.Request{ID: identity.ID{Cluster: n.dir.ClusterID(), Kind: identity.KindOperator, Name: name}, Key: key})
	if err != nil {
		return nil, agentplanev1.Refusal(codes.Internal, &agentplanev1.ErrorDetail{Reason: "issue"}, "%v", err)
	}
	bundle := operator.BundleOf(m.state.View())
	return &agentplanev1.InitResponse{
		ClusterId: bundle.GetClusterId(), Incarnation: bundle.GetIncarnation(), Existed: existed, Certificate: certificate,
		CaCertificate: m.ca.Entry().CertDER, Bundle: bundle, Role: fsm.RoleAdmin, NodeId: n.ID(),
	}, nil
}

// roomy refuses to begin where the disk has less free space than a node needs to lead:
// one that runs full in the middle of the first steps ends without a word to whoever
// typed them.
func roomy(dir string, free func(string) (uint64, error)) error {
	n, err := free(dir)
	if err != nil {
		return agentplanev1.Refusal(codes.Internal, &agentplanev1.ErrorDetail{Reason: "no_space", Hint: "look at the node's log"}, "%v", err)
	}
	if n >= consensus.FreeFloorBytes {
		return nil
	}
	return agentplanev1.Refusal(codes.FailedPrecondition,
		&agentplanev1.ErrorDetail{Reason: "no_space", Hint: "make room there, or start the node with another --data-dir; nothing has been written"},
		"there are %d MiB of free space in %s, and a node needs %d MiB", n>>20, dir, consensus.FreeFloorBytes>>20)
}

func operatorRequest(req *agentplanev1.InitRequest) (name string, key identity.PublicKey, err error) {
	if name = req.GetOperatorName(); name == "" {
		name = "admin"
	}
	if err := identity.ValidateName(name); err != nil {
		return "", nil, fmt.Errorf("operator name %q: %w", name, err)
	}
	// The request was made before the cluster had an id: only its key counts.
	_, key, err = identity.ParseRequest(req.GetOperatorCsr())
	return name, key, err
}

// found makes this node the founder of a cluster: after this, its boot.state says
// so.
func (n *Node) found() error {
	clusterID, err := n.foundingID()
	if err != nil {
		return err
	}
	ca, leaf, err := n.openIdentity(clusterID, identity.Wall(n.o.Surroundings.WallClock))
	if err != nil {
		return err
	}
	incarnation, key := make([]byte, 16), make([]byte, gossip.KeyBytes)
	for _, b := range [][]byte{incarnation, key} {
		if _, err := rand.Read(b); err != nil {
			return fmt.Errorf("make random bytes: %w", err)
		}
	}
	boot := founderState(ca, leaf, n.advertise, identity.Incarnation{Number: 1, ID: hex.EncodeToString(incarnation)}, identity.NewSecret(key), n.level())
	if err := boot.Store(n.dir.Path(bootFile)); err != nil {
		return err
	}
	close(n.joined)
	return nil
}

// foundingID is the id of the cluster that this node founds: random, and the same
// after a crash. It is written down as such before the directory is bound to it, so
// that a directory which a failed join has bound never founds a second cluster under
// the first one's id.
func (n *Node) foundingID() (string, error) {
	path := n.dir.Path(foundingFile)
	b, err := identity.ReadSecretFile(path, identity.MaxClusterBytes)
	id := string(b)
	switch {
	case errors.Is(err, fs.ErrNotExist) && n.dir.ClusterID() != "":
		return "", fmt.Errorf("this data directory was bound to cluster %s by a join that did not finish: join again, or give the node an empty directory", n.dir.ClusterID())
	case errors.Is(err, fs.ErrNotExist):
		id = uuid.NewString()
		if err := n.dir.Replace(foundingFile, []byte(id)); err != nil {
			return "", err
		}
	case err != nil:
		return "", err
	}
	return id, n.dir.BindCluster(id)
}

func (n *Node) hasJoined() bool {
	select {
	case <-n.joined:
		return true
	default:
		return false
	}
}

func (n *Node) waitMember(ctx context.Context) (*member, error) {
	select {
	case <-n.opened:
		return n.member.Load(), nil
	case <-ctx.Done():
		return nil, agentplanev1.Refusal(codes.Unavailable, &agentplanev1.ErrorDetail{Reason: "starting", Hint: "look at the node's log"}, "the node has not started yet: %v", ctx.Err())
	}
}

// waitFounded waits until the cluster is there and somebody leads it.
func (m *member) waitFounded(ctx context.Context) error {
	changes, end := m.host.LeaderChanges()
	defer end()
	_, cursor := m.state.ViewAndWatch()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		leader, _, here := m.office()
		if m.state.View().Cluster().GetClusterId() != "" && (here || (leader != "" && leader != m.n.ID())) {
			return nil
		}
		select {
		case <-changes:
		case <-tick.C: // the state moves without a word to the leader's followers
		case <-ctx.Done():
			return agentplanev1.Refusal(codes.Unavailable, &agentplanev1.ErrorDetail{Reason: "no_leader", Hint: "look at the node's log"},
				"the cluster has no leader yet (at %v): %v", cursor, ctx.Err())
		}
	}
}

// Join is the API's. Enrolling and registering is one step of the cluster's, keyed
// by this node's id and key; being added follows by itself, also after a crash.
func (l *local) Join(req *agentplanev1.JoinRequest, stream grpc.ServerStreamingServer[agentplanev1.JoinResponse]) error {
	ctx, n := stream.Context(), l.n
	say := func(step, format string, args ...any) error {
		return stream.Send(&agentplanev1.JoinResponse{Step: step, Text: fmt.Sprintf(format, args...), ClusterId: n.dir.ClusterID(), NodeId: n.ID()})
	}
	if n.hasJoined() {
		if err := say("already", "this node belongs to cluster %s already", n.dir.ClusterID()); err != nil {
			return err
		}
		if err := n.otherCluster(ctx, req.GetAddresses(), req.GetToken()); err != nil {
			return err
		}
	} else {
		if err := n.enrol(ctx, req.GetAddresses(), req.GetToken()); err != nil {
			return joinRefusal(err)
		}
		if err := say("registered", "registered in cluster %s as node %s", n.dir.ClusterID(), n.ID()); err != nil {
			return err
		}
	}
	m, err := n.waitMember(ctx)
	if err != nil {
		return err
	}
	return m.reportJoin(ctx, req.GetNoWait(), stream)
}

// otherCluster refuses to join a second cluster. Only a bundle that the token proves
// counts: joining one's own cluster again is harmless with any token, spent or not,
// and when nobody answers.
func (n *Node) otherCluster(ctx context.Context, addresses []string, text string) error {
	token, at, err := identity.ParseTokenAt(strings.TrimSpace(text))
	if err != nil {
		return nil
	}
	if at != "" && !slices.Contains(addresses, at) {
		addresses = append([]string{at}, addresses...)
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	bundle, err := client.ProveBundle(ctx, addresses, token, client.Options{Dial: n.o.Surroundings.Dial, Logger: configs.Slog(n.o.Logger.Named("join"))})
	if err != nil || bundle.GetClusterId() == n.dir.ClusterID() {
		return nil
	}
	return agentplanev1.Refusal(codes.AlreadyExists,
		&agentplanev1.ErrorDetail{Reason: "other_cluster", Hint: "start a node with an empty --data-dir for the other cluster"},
		"this node belongs to cluster %s already, and %s is of cluster %s", n.dir.ClusterID(), strings.Join(addresses, ", "), bundle.GetClusterId())
}

// joinOnce enrols this node unless it belongs to a cluster already.
func (n *Node) joinOnce(ctx context.Context, addresses []string, token string) (already bool, err error) {
	n.setup.Lock()
	defer n.setup.Unlock()
	if n.hasJoined() {
		return true, nil
	}
	return false, n.enrol(ctx, addresses, token)
}

// reportJoin says how far this node has come until nothing is left to do on it.
func (m *member) reportJoin(ctx context.Context, noWait bool, stream grpc.ServerStreamingServer[agentplanev1.JoinResponse]) error {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	said := joinTalk{}
	for {
		r, err := m.askBriefly(ctx)
		step := &agentplanev1.JoinResponse{ClusterId: m.n.dir.ClusterID(), NodeId: m.n.ID(), Voter: r.GetVoter()}
		switch {
		case err != nil:
			step.Step, step.Text = "adding", fmt.Sprintf("waiting to be added: %v", err)
		case r.GetVoter():
			step.Step, step.Text, step.Done = "voter", "this node is a voter", true
		case r.GetSettled() && r.GetWaitsFor() != "":
			step.Step, step.Text, step.Done = "waits", "this node has caught up and becomes a voter with "+r.GetWaitsFor(), true
		case r.GetSettled():
			step.Step, step.Text, step.Done = "non_voter", "this node is a non-voter: it carries sessions and reads", true
		case noWait:
			step.Step, step.Text, step.Done = "added", "this node was added; it goes on catching up", true
		default:
			step.Step, step.Text = "catching_up", "added as a non-voter: "+cmp.Or(r.GetWaitsFor(), "it becomes a voter next")
		}
		if step.Done || said.worth(step, time.Now()) {
			if err := stream.Send(step); err != nil || step.Done {
				return err
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return agentplanev1.Refusal(codes.Unavailable, &agentplanev1.ErrorDetail{Reason: "joining", Hint: "the node goes on by itself; run the command again to watch"},
				"the node is not a voter yet (%s): %v", step.GetText(), ctx.Err())
		}
	}
}

// askBriefly asks to be added and waits little, so that there is something to say of it.
func (m *member) askBriefly(ctx context.Context) (*agentplanev1.AddServerResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, joinNews)
	defer cancel()
	return m.askToBeAdded(ctx)
}

// joinTalk decides what of a join's course is worth a line: each step at once, how it
// goes on now and then.
type joinTalk struct {
	step, text string
	at         time.Time
}

// How often a join speaks while it waits: of what has changed, and at all.
const (
	joinNews    = 2 * time.Second
	joinPatient = 15 * time.Second
)

func (t *joinTalk) worth(r *agentplanev1.JoinResponse, now time.Time) bool {
	silent := now.Sub(t.at)
	if r.GetStep() == t.step && (r.GetText() == t.text || silent < joinNews) && silent < joinPatient {
		return false
	}
	*t = joinTalk{r.GetStep(), r.GetText(), now}
	return true
}

func joinRefusal(err error) error {
	if agentplanev1.DetailOf(err) != nil {
		return err
	}
	if errors.Is(err, identity.ErrBadProof) {
		return agentplanev1.Refusal(codes.PermissionDenied, &agentplanev1.ErrorDetail{
			Reason: "bad_proof", Hint: `compare the address with that of the cluster which made the token, or make another one with "agentctl tokens create --kind node"`,
		}, "%v", err)
	}
	e := client.AsError(err)
	return agentplanev1.Refusal(e.Code, &agentplanev1.ErrorDetail{Reason: e.Reason, Hint: e.Hint}, "%v", err)
}

// enrol registers this node with a token and leaves a boot.state behind.
func (n *Node) enrol(ctx context.Context, addresses []string, text string) error {
	token, at, err := identity.ParseTokenAt(strings.TrimSpace(text))
	if err != nil {
		return agentplanev1.Refusal(codes.InvalidArgument, &agentplanev1.ErrorDetail{Reason: "token", Hint: `make one with "agentctl tokens create --kind node"`}, "%v", err)
	}
	if at != "" && !slices.Contains(addresses, at) {
		addresses = append([]string{at}, addresses...)
	}
	if err := reachable(n.advertise, addresses); err != nil {
		return agentplanev1.Refusal(codes.FailedPrecondition, &agentplanev1.ErrorDetail{Reason: "unreachable_address", Hint: "restart the node with --advertise HOST"}, "%v", err)
	}
	if err := roomy(n.o.Config.DataDir, consensus.FreeBytes); err != nil {
		return err
	}
	ca := &pki.CA{}
	r, err := client.Enroll(ctx, client.Enrolment{
		Addresses: addresses, Token: token,
		Request: func(clusterID string) ([]byte, error) {
			if err := n.dir.BindCluster(clusterID); err != nil {
				return nil, err
			}
			var leaf *pki.Leaf
			if ca, leaf, err = n.openIdentity(clusterID, identity.Wall(n.o.Surroundings.WallClock)); err != nil {
				return nil, err
			}
			n.port.Introduce(leaf.GetCertificate)
			key, err := identity.LoadKey(n.dir.Path(pkiDir, nodeKey))
			if err != nil {
				return nil, err
			}
			return identity.CreateRequest(key, identity.ID{Cluster: clusterID, Kind: identity.KindNode, Name: n.ID()})
		},
		As: func(req *agentplanev1.EnrollRequest) {
			req.As = &agentplanev1.EnrollRequest_Node{Node: &agentplanev1.EnrollNode{
				NodeId: n.ID(), Name: n.name, Address: n.advertise, CaCertificate: ca.Entry().CertDER,
				FeatureLevel: n.level(), Version: n.o.Version, StartCounter: n.dir.Starts(),
			}}
		},
		Options: client.Options{Dial: n.o.Surroundings.Dial, Logger: configs.Slog(n.o.Logger.Named("join"))},
	})
	if err != nil {
		return err
	}
	bundle, err := client.TrustBundle(r.GetBundle())
	if err != nil {
		return err
	}
	boot := &pki.BootState{Bundle: bundle, FeatureLevel: r.GetFeatureLevel(), Index: bundle.Index}
	for _, k := range r.GetGossipKeyring() {
		boot.GossipKeyring = append(boot.GossipKeyring, identity.NewSecret(k))
	}
	if err := boot.Store(n.dir.Path(bootFile)); err != nil {
		return err
	}
	close(n.joined)
	return nil
}

// retryJoin joins by the configuration until it has worked.
func (n *Node) retryJoin(ctx context.Context) {
	for wait := time.Second; ; wait = min(2*wait, 30*time.Second) {
		err := n.joinByFile(ctx)
		if err == nil || ctx.Err() != nil {
			return
		}
		n.o.Logger.Warn("cannot join yet", "addresses", n.o.Config.RetryJoin.Addresses, "err", err, "again_in", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

func (n *Node) joinByFile(ctx context.Context) error {
	token, err := os.ReadFile(n.o.Config.RetryJoin.TokenFile)
	if err != nil {
		return fmt.Errorf("read the join token: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	_, err = n.joinOnce(ctx, slices.Clone(n.o.Config.RetryJoin.Addresses), string(token))
	return err
}
