package sim

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/controlplane/pki"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/identity"
)

// trespassers are callers who ask for what they may not do: an operator who may only read,
// somebody without a certificate, and a stranger, who has that operator's key, and a certificate
// that an authority of another cluster has made.
type trespassers struct {
	viewer, nobody, stranger *client.Client
	// renewal is what the stranger asks for: whoever has a registered key, and a certificate of an
	// issuer that nobody knows any more, may have it renewed.
	renewal trespass
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
	if o.trespassers.nobody, err = o.clientWith(o.w.addresses(), nil); err != nil {
		return err
	}
	if cert, err = o.w.strange(key); err != nil {
		return err
	}
	o.trespassers.renewal = trespass{"renew", func(ctx context.Context, c *client.Client, _ *command, _ string) error {
		_, err := c.Renew(ctx, key, as.ID())
		return err
	}}
	o.trespassers.stranger, err = o.clientWith(o.w.addresses(), always(cert))
	return err
}

// strange is a certificate over the key that names another cluster, of an authority of that one.
func (w *World) strange(key identity.Key) (*tls.Certificate, error) {
	dir := filepath.Join(w.dir, "pki."+anotherCluster)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	ca, err := pki.OpenCA(dir, identity.ID{Cluster: anotherCluster, Kind: identity.KindNode, Name: "stranger"}, nil)
	if err != nil {
		return nil, err
	}
	der, err := ca.Issue(pki.Request{ID: identity.ID{Cluster: anotherCluster, Kind: identity.KindOperator, Name: "viewer"}, Key: key.Public()})
	if err != nil {
		return nil, err
	}
	return identity.NewCertificate(key, der)
}

// A trespass is a call that some of them may not do.
type trespass struct {
	name string
	call func(context.Context, *client.Client, *command, string) error
}

// trespasses are what neither the viewer nor nobody may do.
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

// trespass has all of them ask for one thing after the other until ctx ends. Nothing is done for
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
		who, c, what := "somebody without a certificate", o.trespassers.nobody, trespasses[d.rng.IntN(len(trespasses))]
		switch d.rng.IntN(4) {
		case 0, 1:
			who, c = "an operator who may only read", o.trespassers.viewer
		case 2:
			who, c, what = "somebody with a certificate of another cluster", o.trespassers.stranger, o.trespassers.renewal
		}
		one, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := what.call(one, c, old, o.madeID())
		cancel()
		switch e := client.AsError(err); {
		case err == nil:
			o.w.fault("I12: %s was let %s", who, what.name)
		case e.Code == codes.PermissionDenied, e.Code == codes.Unauthenticated:
			o.w.mu.Lock()
			o.w.accepted["trespasses refused"]++
			o.w.mu.Unlock()
		case strings.Contains(err.Error(), "remote error: tls: "): // the handshake's word
			o.w.mu.Lock()
			o.w.accepted["strangers refused"]++
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
