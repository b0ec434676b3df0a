package sim

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/identity"
)

// trespassers are callers who ask for what they may not do: an operator who may only read, and
// somebody without a certificate.
type trespassers struct {
	viewer, nobody *client.Client
}

// trespassed says that this life has them: handshakes are what a simulated client costs most.
func (w *World) trespassed() bool { return w.seed%4 == 1 }

// invite lets the one of them in who may read.
func (o *operators) invite(ctx context.Context) error {
	if !o.w.trespassed() {
		return nil
	}
	token, err := o.tokenFor(ctx, &agentplanev1.CreateTokenRequest{Kind: agentplanev1.TokenKind_TOKEN_KIND_OPERATOR, MaxUses: 1, Role: "viewer", OperatorName: "viewer"})
	if err != nil {
		return err
	}
	t, err := identity.ParseToken(token)
	if err != nil {
		return err
	}
	key, err := identity.GenerateKey()
	if err != nil {
		return err
	}
	answer, err := client.Enroll(ctx, client.Enrolment{
		Addresses: o.w.addresses(), Token: t, Options: client.Options{Dial: o.place.Dial},
		Request: func(cluster string) ([]byte, error) {
			return identity.CreateRequest(key, identity.ID{Cluster: cluster, Kind: identity.KindOperator, Name: "viewer"})
		},
		As: func(r *agentplanev1.EnrollRequest) {
			r.As = &agentplanev1.EnrollRequest_Operator{Operator: &agentplanev1.EnrollOperator{Name: "viewer"}}
		},
	})
	if err != nil {
		return fmt.Errorf("enrol a viewer: %w", err)
	}
	as, err := client.NewContext(key, answer.Certificate, answer.CaCertificate, answer.Bundle, answer.Role)
	if err != nil {
		return err
	}
	cert, err := as.TLSCertificate()
	if err != nil {
		return err
	}
	if o.trespassers.viewer, err = o.clientWith(o.w.addresses(), always(cert)); err != nil {
		return err
	}
	o.trespassers.nobody, err = o.clientWith(o.w.addresses(), nil)
	return err
}

// A trespass is a call that neither of them may do.
type trespass struct {
	name string
	call func(context.Context, *client.Client, *command, string) error
}

var trespasses = []trespass{
	{"submit", func(ctx context.Context, c *client.Client, old *command, id string) error {
		_, err := agentplanev1.NewCommandServiceClient(c).Submit(ctx, &agentplanev1.SubmitRequest{Envelope: old.under(id)})
		return err
	}},
	{"cancel", func(ctx context.Context, c *client.Client, old *command, _ string) error {
		_, err := agentplanev1.NewCommandServiceClient(c).CancelCommand(ctx, &agentplanev1.CancelCommandRequest{Id: old.id})
		return err
	}},
	{"set a label", func(ctx context.Context, c *client.Client, old *command, _ string) error {
		_, err := agentplanev1.NewFleetServiceClient(c).SetLabels(ctx, &agentplanev1.SetLabelsRequest{Agent: old.agents[0], Set: map[string]string{"trespassed": "yes"}})
		return err
	}},
	{"remove an agent", func(ctx context.Context, c *client.Client, old *command, _ string) error {
		_, err := agentplanev1.NewFleetServiceClient(c).RemoveAgent(ctx, &agentplanev1.RemoveAgentRequest{Agent: old.agents[0]})
		return err
	}},
	{"transfer leadership", func(ctx context.Context, c *client.Client, _ *command, _ string) error {
		_, err := agentplanev1.NewClusterServiceClient(c).TransferLeadership(ctx, &agentplanev1.TransferLeadershipRequest{})
		return err
	}},
}

// trespass has both of them ask for one thing after the other until ctx ends. Nothing is done for
// them (I12); that it is refused is told by whichever node they reach.
func (o *operators) trespass(ctx context.Context) {
	d := o.desk(0x747265)
	defer d.close()
	for ctx.Err() == nil {
		time.Sleep(time.Duration(200+d.rng.IntN(1500)) * time.Millisecond)
		old := o.any(d.rng)
		if old == nil {
			continue
		}
		who, c := "somebody without a certificate", o.trespassers.nobody
		if d.rng.IntN(3) > 0 {
			who, c = "an operator who may only read", o.trespassers.viewer
		}
		one, cancel := context.WithTimeout(ctx, 2*time.Second)
		what := trespasses[d.rng.IntN(len(trespasses))]
		err := what.call(one, c, old, o.madeID())
		cancel()
		switch e := client.AsError(err); {
		case err == nil:
			o.w.fault("I12: %s was let %s", who, what.name)
		case e.Code == codes.PermissionDenied, e.Code == codes.Unauthenticated:
			o.w.mu.Lock()
			o.w.accepted["trespasses refused"]++
			o.w.mu.Unlock()
		}
	}
}

// under is the same command under another id.
func (c *command) under(id string) []byte {
	spec, env := &agentplanev1.CommandSpec{}, &agentplanev1.Envelope{}
	_ = proto.Unmarshal(c.envelope, env)
	_ = proto.Unmarshal(env.GetSpec(), spec)
	spec.CommandId = id
	env.Spec, _ = proto.Marshal(spec)
	b, _ := proto.Marshal(env)
	return b
}
