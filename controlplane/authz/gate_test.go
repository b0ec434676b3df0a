package authz

import (
	"context"
	"crypto/sha256"
	"errors"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/identity"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// registry is a state with one operator of each role, a revoked one, and an agent.
type registry struct {
	t     *testing.T
	m     *fsm.Machine
	index uint64
}

func (r *registry) apply(mutations ...*raftlogv1.Mutation) {
	r.t.Helper()
	r.index++
	_, office := r.m.Published()
	for _, o := range r.m.Apply(r.index, 1, &raftlogv1.Entry{Format: 1, LeaderEpoch: office.GetEpoch(), Now: 1, Mutations: mutations}) {
		if o.GetCode() != raftlogv1.Code_CODE_OK {
			r.t.Fatalf("outcome %v", o)
		}
	}
}

func newRegistry(t *testing.T) *registry { return newRegistryOf(t, fsm.Options{}) }

func newRegistryOf(t *testing.T, o fsm.Options) *registry {
	r := &registry{t: t, m: fsm.New(o)}
	r.apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_TakeOffice{TakeOffice: &raftlogv1.TakeOffice{NodeId: "n1", Term: 1}}})
	r.apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_InitCluster{InitCluster: &raftlogv1.InitCluster{
		ClusterId: "c", Incarnation: &raftlogv1.Incarnation{Number: 1, Id: make([]byte, 16)}, FeatureLevel: 1,
		Node: &raftlogv1.Node{Id: "n1", PublicKey: []byte("n1"), Address: "a:1"},
	}}})
	for _, role := range []string{"viewer", "operator", "admin"} {
		r.operator(role, role)
	}
	r.operator("gone", "viewer")
	r.apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RevokeOperator{RevokeOperator: &raftlogv1.RevokeOperator{Name: "gone"}}})
	const tokenID = "00000000-0000-7000-8000-000000000001"
	hash := sha256.Sum256(nil)
	r.apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_CreateToken{CreateToken: &raftlogv1.CreateToken{Ttl: 1e12, Token: &raftlogv1.Token{
		Id: tokenID, Kind: raftlogv1.TokenKind_TOKEN_KIND_AGENT, ProofKey: []byte("p"), AuthenticatorHash: hash[:], MaxUses: 1,
	}}}})
	r.apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EnrollAgent{EnrollAgent: &raftlogv1.EnrollAgent{AgentId: "web-1", PublicKey: []byte("web-1"), TokenId: tokenID}}})
	return r
}

func (r *registry) operator(name, role string) {
	r.apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_EnrollOperator{EnrollOperator: &raftlogv1.EnrollOperator{Name: name, PublicKey: []byte(name), Role: role}}})
}

const (
	listAgents = "/agentplane.v1.FleetService/ListAgents"
	submit     = "/agentplane.v1.CommandService/Submit"
	newToken   = "/agentplane.v1.TokenService/CreateToken"
	session    = "/agentplane.v1.AgentService/Session"
	propose    = "/agentplane.v1.PeerService/Propose"
	enrol      = "/agentplane.v1.EnrollService/Enroll"
	renew      = "/agentplane.v1.EnrollService/Renew"
	initialize = "/agentplane.v1.LocalService/Init"
)

func TestGate(t *testing.T) {
	r := newRegistry(t)
	gate := New(Options{
		Identify: func(context.Context) (Caller, error) { return Caller{}, errors.New("nobody") },
		View:     r.m.View,
		CatchUp:  func(context.Context) error { return nil },
	})
	operator := func(name string) Caller { return Caller{Kind: "operator", Name: name, Key: identity.PublicKey(name)} }
	agent := Caller{Kind: "agent", Name: "web-1", Key: identity.PublicKey("web-1")}
	node := Caller{Kind: "node", Name: "n1", Key: identity.PublicKey("n1")}
	expired, expiredNode, forwardedNode, stolen := operator("admin"), node, node, agent
	expired.RenewOnly, expiredNode.RenewOnly, forwardedNode.Forwarded = true, true, true
	stolen.Key = identity.PublicKey("another")
	for _, c := range []struct {
		name   string
		caller Caller
		method string
		want   codes.Code
	}{
		{"a viewer reads", operator("viewer"), listAgents, codes.OK},
		{"a viewer asks for no work", operator("viewer"), submit, codes.PermissionDenied},
		{"an operator asks for work", operator("operator"), submit, codes.OK},
		{"an operator lets nobody in", operator("operator"), newToken, codes.PermissionDenied},
		{"an admin lets others in", operator("admin"), newToken, codes.OK},
		{"a revoked operator does nothing", operator("gone"), listAgents, codes.PermissionDenied},
		{"an unknown operator does nothing", operator("eve"), listAgents, codes.PermissionDenied},
		{"an expired certificate does nothing", expired, listAgents, codes.Unauthenticated},
		{"an expired certificate is renewed", expired, renew, codes.OK},
		{"an agent opens its session", agent, session, codes.OK},
		{"an agent reads no fleet", agent, listAgents, codes.PermissionDenied},
		{"an agent with another key is nobody", stolen, session, codes.PermissionDenied},
		{"an agent is no peer", agent, propose, codes.PermissionDenied},
		{"a node proposes", node, propose, codes.OK},
		{"an expired node does not", expiredNode, propose, codes.Unauthenticated},
		{"a forwarded node does not", forwardedNode, propose, codes.PermissionDenied},
		{"a node is no operator", node, submit, codes.PermissionDenied},
		{"a node is no agent", node, session, codes.PermissionDenied},
		{"an operator is no agent", operator("admin"), session, codes.PermissionDenied},
		{"somebody may enrol", Caller{}, enrol, codes.OK},
		{"somebody may not read", Caller{}, listAgents, codes.Unauthenticated},
		{"somebody has nothing to renew", Caller{}, renew, codes.Unauthenticated},
		{"the socket is for the socket", operator("admin"), initialize, codes.PermissionDenied},
		{"the socket founds", Caller{Kind: "local"}, initialize, codes.OK},
		{"what names no permission is denied", operator("admin"), "/agentplane.v1.Secret/Open", codes.PermissionDenied},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, err := gate.Admit(WithCaller(context.Background(), c.caller), c.method)
			if got := status.Code(err); got != c.want {
				t.Fatalf("Admit = %v, want %v", err, c.want)
			}
			if err != nil && agentplanev1.DetailOf(err).GetReason() == "" {
				t.Errorf("the refusal %v has no reason for programs", err)
			}
			if err == nil && c.caller.Kind == "operator" && c.method != renew && From(ctx).Role != c.caller.Name {
				t.Errorf("role is %q, want %q", From(ctx).Role, c.caller.Name)
			}
		})
	}
}

func TestGateCatchesUpBeforeItRefuses(t *testing.T) {
	r := newRegistry(t)
	asked := 0
	gate := New(Options{
		Identify: func(context.Context) (Caller, error) {
			return Caller{Kind: "operator", Name: "late", Key: identity.PublicKey("late")}, nil
		},
		View: r.m.View,
		CatchUp: func(context.Context) error {
			asked++
			if asked == 1 {
				return errors.New("no quorum")
			}
			r.operator("late", "viewer")
			return nil
		},
	})
	if _, err := gate.Admit(context.Background(), listAgents); status.Code(err) != codes.Unavailable {
		t.Errorf("without a quorum: %v, want UNAVAILABLE, never a refusal", err)
	}
	if _, err := gate.Admit(context.Background(), listAgents); err != nil {
		t.Errorf("after catching up: %v", err)
	}
	if _, err := gate.Admit(context.Background(), listAgents); err != nil || asked != 2 {
		t.Errorf("known already: %v after %d questions, want 2", err, asked)
	}
}

func TestARevocationCountsWhenTheStateHasCaughtUp(t *testing.T) {
	r := newRegistry(t)
	gate := New(Options{View: r.m.View, CatchUp: func(context.Context) error { return nil }})
	ctx, err := gate.Admit(WithCaller(context.Background(), Caller{Kind: "operator", Name: "viewer", Key: identity.PublicKey("viewer")}), listAgents)
	if err != nil {
		t.Fatal(err)
	}
	for _, ctx := range []context.Context{ctx, WithCaller(context.Background(), Caller{}), WithCaller(context.Background(), Caller{Kind: "local"})} {
		if err := gate.Still(ctx); err != nil {
			t.Errorf("nothing has changed for %v: %v", From(ctx), err)
		}
	}
	r.apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RevokeOperator{RevokeOperator: &raftlogv1.RevokeOperator{Name: "viewer"}}})
	if err := gate.Still(ctx); status.Code(err) != codes.PermissionDenied {
		t.Errorf("after the revocation: %v, want PERMISSION_DENIED", err)
	}
}
