package client

import (
	"context"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/identity"
)

// CreateToken makes a join token. Its id, of which it has to be a NewID, and its secret
// are chosen here: the secret is derived from the operator's key and the id, so that a
// repetition with the same id makes the same token, and one whose answer was lost is not
// lost. The request's id and what is derived from the secret are filled in.
func (c *Client) CreateToken(ctx context.Context, key identity.Key, id string, req *agentplanev1.CreateTokenRequest) (identity.Token, *agentplanev1.Token, error) {
	t, err := identity.DeriveToken(key, c.Bundle().GetClusterId(), id)
	if err != nil {
		return t, nil, err
	}
	record := t.Record()
	req.Id, req.ProofKey, req.AuthenticatorHash = record.ID, record.ProofKey.Reveal(), record.AuthenticatorHash
	r, err := agentplanev1.NewTokenServiceClient(c).CreateToken(ctx, req)
	return t, r.GetToken(), err
}

// Tokens returns the join tokens, without their secrets, which nobody has.
func (c *Client) Tokens(ctx context.Context, opts ...ReadOption) ([]*agentplanev1.Token, error) {
	r, err := agentplanev1.NewTokenServiceClient(c).ListTokens(ctx, &agentplanev1.ListTokensRequest{Stale: readOf(opts).stale})
	return r.GetTokens(), err
}

// RevokeToken makes a token worthless.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	_, err := agentplanev1.NewTokenServiceClient(c).RevokeToken(ctx, &agentplanev1.RevokeTokenRequest{Id: id})
	return err
}

// Operators returns the operators by name, also revoked ones.
func (c *Client) Operators(ctx context.Context, opts ...ReadOption) ([]*agentplanev1.Operator, error) {
	r, err := agentplanev1.NewOperatorServiceClient(c).ListOperators(ctx, &agentplanev1.ListOperatorsRequest{Stale: readOf(opts).stale})
	return r.GetOperators(), err
}

// RevokeOperator refuses an operator from now on.
func (c *Client) RevokeOperator(ctx context.Context, name string) error {
	_, err := agentplanev1.NewOperatorServiceClient(c).RevokeOperator(ctx, &agentplanev1.RevokeOperatorRequest{Name: name})
	return err
}
