package sim

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/identity"
)

// form makes the nodes a cluster and the agents its fleet, in the way in which people
// do: init, join with tokens, enrolment.
func (w *World) form(ctx context.Context) error {
	for _, n := range w.nodes {
		if err := n.start(); err != nil { //nolint:contextcheck // a process has a life of its own
			return err
		}
	}
	admin, err := client.MakeAdmin(ctx, localClient{server: w.nodes[0].life.node.Local()}, "", "")
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	if w.operators, err = newOperators(w, admin.Context); err != nil {
		return err
	}
	var joins errgroup.Group
	for _, n := range w.nodes[1:] {
		t, err := w.operators.token(ctx, agentplanev1.TokenKind_TOKEN_KIND_NODE, 1)
		if err != nil {
			return err
		}
		joins.Go(func() error {
			req := &agentplanev1.JoinRequest{Addresses: []string{w.nodes[0].address()}, Token: t}
			if err := n.life.node.Local().Join(req, &joinStream{ctx: ctx, say: func(r *agentplanev1.JoinResponse) { w.trace.Note(n.name, "join: %s", r.GetText()) }}); err != nil {
				return fmt.Errorf("%s: join: %w", n.name, err)
			}
			return nil
		})
	}
	if err := joins.Wait(); err != nil {
		return err
	}
	token, err := w.operators.token(ctx, agentplanev1.TokenKind_TOKEN_KIND_AGENT, len(w.agents))
	if err != nil {
		return err
	}
	for i, a := range w.agents {
		if w.trade == tradeSteps {
			if err := w.prepareGround(a, i); err != nil { //nolint:contextcheck // likewise
				return err
			}
		}
		a.token = token
		if err := a.start(); err != nil { //nolint:contextcheck // likewise
			return err
		}
	}
	if err := w.awaitOnline(ctx, func() {}); err != nil {
		return err
	}
	if err := w.operators.meet(ctx); err != nil {
		return err
	}
	if err := w.operators.invite(ctx); err != nil {
		return err
	}
	return w.operators.stock(ctx)
}

// awaitOnline waits until every agent has a live session that every node knows, and does
// meanwhile what may be needed for that.
func (w *World) awaitOnline(ctx context.Context, do func()) error {
	for {
		do()
		missing := w.missing()
		if missing == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.New(missing)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// missing says what of the cluster is not there.
func (w *World) missing() string {
	for _, n := range w.nodes {
		m := n.machine()
		if m == nil {
			return n.name + " does not run"
		}
		v := m.View()
		live := 0
		for a := range v.Agents() {
			w.mu.Lock()
			w.names[a.GetId()] = a.GetName()
			w.mu.Unlock()
			if s, ok := v.Session(a.GetId()); ok && s.GetState() == ready {
				live++
			}
		}
		if live < len(w.agents) {
			return fmt.Sprintf("%s knows ready sessions of %d of %d agents", n.name, live, len(w.agents))
		}
	}
	return ""
}

// meet has the operators learn of the nodes that have joined: they trust no other.
func (o *operators) meet(ctx context.Context) error {
	for _, c := range o.clients {
		if _, err := agentplanev1.NewClusterServiceClient(c).Info(ctx, &agentplanev1.InfoRequest{}); err != nil {
			return fmt.Errorf("learn of the nodes: %w", err)
		}
	}
	if n := len(o.trusted().GetNodes()); n != len(o.w.nodes) {
		return fmt.Errorf("operators trust %d nodes of %d", n, len(o.w.nodes))
	}
	return nil
}

// token makes one and answers what people would be told.
func (o *operators) token(ctx context.Context, kind agentplanev1.TokenKind, uses int) (string, error) {
	return o.tokenFor(ctx, &agentplanev1.CreateTokenRequest{Kind: kind, MaxUses: uint32(uses)})
}

// tokenFor makes the token that the request describes.
func (o *operators) tokenFor(ctx context.Context, req *agentplanev1.CreateTokenRequest) (string, error) {
	o.mu.Lock()
	o.serial++
	id := madeID(time.Now().UnixNano(), o.serial)
	o.mu.Unlock()
	t, err := identity.NewTokenWithID(id)
	if err != nil {
		return "", err
	}
	r := t.Record()
	req.Ttl, req.Id, req.ProofKey, req.AuthenticatorHash = int64(time.Hour), r.ID, r.ProofKey.Reveal(), r.AuthenticatorHash
	if _, err = agentplanev1.NewTokenServiceClient(o.clients[0]).CreateToken(ctx, req); err != nil {
		return "", fmt.Errorf("make a token: %w", err)
	}
	return t.Reveal(), nil
}

// localClient calls the local service in this process.
type localClient struct {
	agentplanev1.LocalServiceClient
	server agentplanev1.LocalServiceServer
}

func (c localClient) Init(ctx context.Context, req *agentplanev1.InitRequest, _ ...grpc.CallOption) (*agentplanev1.InitResponse, error) {
	return c.server.Init(ctx, req)
}

// joinStream hears how far a join has come.
type joinStream struct {
	grpc.ServerStream
	ctx context.Context
	say func(*agentplanev1.JoinResponse)
}

func (s *joinStream) Context() context.Context { return s.ctx }

func (s *joinStream) Send(r *agentplanev1.JoinResponse) error {
	s.say(r)
	return nil
}
