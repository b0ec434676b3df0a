package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/identity"
)

const defaultTokenTTL = time.Hour

func (a *app) tokensCmd() *cobra.Command {
	c := &cobra.Command{Use: "tokens", Short: "let nodes, agents and operators in"}
	c.AddCommand(
		a.tokensCreate(),
		&cobra.Command{
			Use: "list", Short: "list the tokens", Args: args(0, 0, ""), Annotations: is(reads), RunE: a.tokensList,
		},
		&cobra.Command{
			Use: "revoke ID", Short: "make a token worthless", Args: args(1, 1, "the id of a token"),
			ValidArgsFunction: a.completeTokens, RunE: a.tokensRevoke,
		},
	)
	return c
}

var tokenKinds = map[string]agentplanev1.TokenKind{
	"node":     agentplanev1.TokenKind_TOKEN_KIND_NODE,
	"agent":    agentplanev1.TokenKind_TOKEN_KIND_AGENT,
	"operator": agentplanev1.TokenKind_TOKEN_KIND_OPERATOR,
}

// tokenFlags is what a new token is made of.
type tokenFlags struct {
	kind     string
	uses     uint32
	ttl      time.Duration
	labels   []string
	only     bool
	role     string
	name     string
	nonVoter bool
	oneWord  bool
}

func (a *app) tokensCreate() *cobra.Command {
	var f tokenFlags
	c := &cobra.Command{
		Use: "create --kind node|agent|operator", Short: "make a token", Args: args(0, 0, ""),
		Long: `create makes a token and prints it. Nodes never see its secret.

Repeated by the same operator with the same --id and the same flags it prints the same
token, and makes it if it is not there: a token whose answer was lost is not lost.`,
		Annotations: is(creates),
		RunE: func(cmd *cobra.Command, _ []string) error {
			req, err := f.request()
			if err != nil {
				return err
			}
			return a.createToken(cmd.Context(), req, nil, func(t identity.Token, address string, made *agentplanev1.Token) error {
				return a.printToken(t, address, made, f.oneWord)
			})
		},
	}
	fl := c.Flags()
	fl.StringVar(&f.kind, "kind", "", "`KIND` of newcomer: node, agent or operator")
	fl.Uint32Var(&f.uses, "uses", 1, "how many newcomers may use it, `N`")
	durationVar(fl, &f.ttl, "ttl", defaultTokenTTL, "how long it may be used")
	fl.StringArrayVar(&f.labels, "label", nil, "label of the agents that it lets in, `NAME=VALUE`; may be repeated")
	fl.BoolVar(&f.only, "only-these-labels", false, "the agents may bring no other labels")
	fl.StringVar(&f.role, "role", "", "`ROLE` of the operator: admin, operator, runner (of templates alone) or viewer")
	fl.StringVar(&f.name, "name", "", "`NAME` of the operator")
	fl.BoolVar(&f.nonVoter, "non-voter", false, "the node never votes")
	fl.BoolVar(&f.oneWord, "one-word", false, "print TOKEN@ADDR, which join and login take as one word")
	return c
}

func (f *tokenFlags) request() (*agentplanev1.CreateTokenRequest, error) {
	kind, ok := tokenKinds[f.kind]
	switch {
	case f.kind == "":
		return nil, usagef("--kind is missing: node, agent or operator")
	case !ok:
		return nil, usagef("--kind %q is none of node, agent, operator", f.kind)
	case f.uses == 0:
		return nil, usagef("--uses 0 lets nobody in")
	case f.ttl <= 0:
		return nil, usagef("--ttl %v is not above 0", f.ttl)
	case f.kind == "node" && f.uses > 1:
		return nil, usagef("--uses %d: a token of kind node has one use", f.uses)
	case f.kind != "agent" && (len(f.labels) > 0 || f.only):
		return nil, usagef("labels are for tokens of kind agent, not %s", f.kind)
	case f.kind != "operator" && (f.role != "" || f.name != ""):
		return nil, usagef("--role and --name are for tokens of kind operator, not %s", f.kind)
	case f.kind == "operator" && f.role == "":
		return nil, usagef("--role is missing: admin, operator, runner or viewer")
	case f.kind != "node" && f.nonVoter:
		return nil, usagef("--non-voter is for tokens of kind node, not %s", f.kind)
	case f.name != "" && f.uses > 1:
		return nil, usagef("--uses %d: a token with a --name has one use", f.uses)
	}
	req := &agentplanev1.CreateTokenRequest{
		Kind: kind, MaxUses: f.uses, Ttl: int64(f.ttl), OnlyTheseLabels: f.only,
		Role: f.role, OperatorName: f.name, NonVoter: f.nonVoter,
	}
	for _, l := range f.labels {
		name, value, ok := strings.Cut(l, "=")
		if !ok || name == "" {
			return nil, usagef("--label %q: want NAME=VALUE", l)
		}
		req.Labels = append(req.Labels, &agentplanev1.Label{Name: name, Value: value})
	}
	return req, nil
}

// createToken makes a token; a repetition with the same id shows the same one. before, when
// it is not nil, is asked with the id of the token whether it may be made.
func (a *app) createToken(ctx context.Context, req *agentplanev1.CreateTokenRequest, before func(*session, string) error, show func(identity.Token, string, *agentplanev1.Token) error) error {
	return a.with(ctx, func(s *session) error {
		info, err := s.info(ctx)
		if err != nil {
			return err
		}
		id, err := a.chosenID(info.Now)
		if err != nil {
			return err
		}
		if before != nil {
			if err := before(s, id); err != nil {
				return err
			}
		}
		t, made, err := s.CreateToken(ctx, s.context.Key, id, req)
		if err != nil {
			return hinted(err, tokenHint(err, id))
		}
		return show(t, s.Address(), made)
	})
}

// tokenHint says how a token whose outcome is not known is got all the same.
func tokenHint(err error, id string) string {
	code, hint := classify(err)
	if code == exitUnknown {
		return fmt.Sprintf("repeat the command with --id %s: it is the same token, whether it was made before or is made then", id)
	}
	return hint
}

func (a *app) printToken(t identity.Token, address string, made *agentplanev1.Token, oneWord bool) error {
	front := []member{{"token", t.Reveal()}}
	shown := t.Reveal()
	if oneWord {
		shown += "@" + address
		front = append(front, member{"oneWord", shown})
	}
	if a.flags.output == "table" || a.flags.output == "wide" {
		a.talk("token %s for %d of kind %s, until %s; no node knows its secret",
			t.ID(), made.MaxUses, strings.ToLower(stateName(made.Kind)), clock(made.ExpiresAt))
	}
	return printOne(a, toObject(made).with(front...), func(w io.Writer) { fmt.Fprintln(w, shown) })
}

func (a *app) tokensList(cmd *cobra.Command, _ []string) error {
	return a.with(cmd.Context(), func(s *session) error {
		tokens, err := s.Tokens(cmd.Context(), client.Stale(a.flags.stale))
		if err != nil {
			return err
		}
		return printList(a, tokens, []column[*agentplanev1.Token]{
			{"ID", false, (*agentplanev1.Token).GetId},
			{"KIND", false, func(t *agentplanev1.Token) string { return strings.ToLower(stateName(t.Kind)) }},
			{"STATE", false, (*agentplanev1.Token).GetState},
			{"USED", false, func(t *agentplanev1.Token) string { return fmt.Sprintf("%d/%d", t.Used, t.MaxUses) }},
			{"EXPIRES", false, func(t *agentplanev1.Token) string { return clock(t.ExpiresAt) }},
			{"CREATED BY", false, (*agentplanev1.Token).GetCreatedBy},
			{"FOR", false, tokenFor},
			{"USED BY", true, tokenUses},
		})
	})
}

func tokenFor(t *agentplanev1.Token) string {
	var parts []string
	for _, l := range t.Labels {
		parts = append(parts, l.Name+"="+l.Value)
	}
	if t.OperatorName != "" {
		parts = append(parts, t.OperatorName)
	}
	if t.Role != "" {
		parts = append(parts, "role "+t.Role)
	}
	if t.NonVoter {
		parts = append(parts, "non-voter")
	}
	return strings.Join(parts, ",")
}

func tokenUses(t *agentplanev1.Token) string {
	var parts []string
	for _, u := range t.Uses {
		parts = append(parts, fmt.Sprintf("%s from %s at %s", u.Identity, u.From, clock(u.At)))
	}
	return strings.Join(parts, ", ")
}

func (a *app) tokensRevoke(cmd *cobra.Command, args []string) error {
	return a.with(cmd.Context(), func(s *session) error {
		if err := s.RevokeToken(cmd.Context(), args[0]); err != nil {
			return hintUnknown(err, "agentctl tokens list")
		}
		return a.done(object{{"revoked", args[0]}}, "token %s is revoked", args[0])
	})
}
