package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/identity"
)

func (a *app) operatorsCmd() *cobra.Command {
	c := &cobra.Command{Use: "operators", Short: "say who may operate the cluster"}
	c.AddCommand(
		a.operatorsCreate(),
		&cobra.Command{
			Use: "list", Short: "list the operators", Args: args(0, 0, ""), Annotations: is(reads), RunE: a.operatorsList,
		},
		&cobra.Command{
			Use: "revoke NAME", Short: "refuse an operator from now on", Args: args(1, 1, "the name of an operator"),
			ValidArgsFunction: a.completeOperators, RunE: a.operatorsRevoke,
		},
	)
	return c
}

func (a *app) operatorsCreate() *cobra.Command {
	var role string
	var ttl time.Duration
	var replace bool
	c := &cobra.Command{
		Use: "create NAME", Short: "invite an operator: prints the line that the operator types", Args: args(1, 1, "the name of the operator"),
		Annotations: is(creates),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := identity.ValidateName(args[0]); err != nil {
				return usagef("%w", err)
			}
			f := tokenFlags{kind: "operator", uses: 1, ttl: ttl, role: role, name: args[0]}
			req, err := f.request()
			if err != nil {
				return err
			}
			var in *session
			var open []*agentplanev1.Token // invitations of the same name
			before := func(s *session, id string) error {
				in = s
				if open, err = openInvitations(cmd.Context(), s, args[0], id); err != nil || len(open) == 0 || replace {
					return err
				}
				return &failure{
					code: exitConflict, err: fmt.Errorf("operator %s has an open invitation already, token %s, until %s", args[0], open[0].Id, clock(open[0].ExpiresAt)),
					hint: fmt.Sprintf("make another in its place with --replace; or end it: agentctl tokens revoke %s", open[0].Id),
				}
			}
			return a.createToken(cmd.Context(), req, before, func(t identity.Token, address string, made *agentplanev1.Token) error {
				for _, old := range open {
					if err := in.RevokeToken(cmd.Context(), old.Id); err != nil {
						return hinted(err, "the new invitation stands beside the old one; end that: agentctl tokens revoke "+old.Id)
					}
					a.talk("the invitation with token %s is revoked", old.Id)
				}
				word := t.Reveal() + "@" + address
				login := "agentctl login " + word
				a.talk("give this line to %s; it works once, until %s", args[0], clock(made.ExpiresAt))
				o := toObject(made).with(member{"token", t.Reveal()}, member{"oneWord", word}, member{"login", login})
				return printOne(a, o, func(w io.Writer) { fmt.Fprintln(w, login) })
			})
		},
	}
	c.Flags().StringVar(&role, "role", "operator", "`ROLE`: admin, operator, runner (of templates alone) or viewer")
	durationVar(c.Flags(), &ttl, "ttl", defaultTokenTTL, "how long the line works")
	c.Flags().BoolVar(&replace, "replace", false, "revoke an invitation of this name that is still open")
	return c
}

// openInvitations are the tokens, but for the one with the id, with which somebody may still
// become the operator.
func openInvitations(ctx context.Context, s *session, name, id string) ([]*agentplanev1.Token, error) {
	all, err := s.Tokens(ctx)
	return slices.DeleteFunc(all, func(t *agentplanev1.Token) bool {
		return t.OperatorName != name || t.Id == id || t.State != "valid" || t.Used >= t.MaxUses
	}), err
}

func (a *app) operatorsList(cmd *cobra.Command, _ []string) error {
	return a.with(cmd.Context(), func(s *session) error {
		operators, err := s.Operators(cmd.Context(), client.Stale(a.flags.stale))
		if err != nil {
			return err
		}
		return printList(a, operators, []column[*agentplanev1.Operator]{
			{"NAME", false, (*agentplanev1.Operator).GetName},
			{"ROLE", false, (*agentplanev1.Operator).GetRole},
			{"STATE", false, func(o *agentplanev1.Operator) string {
				if o.RevokedAt != 0 {
					return "revoked"
				}
				return "valid"
			}},
			{"ENROLLED", false, func(o *agentplanev1.Operator) string { return clock(o.EnrolledAt) }},
			{"KEY", true, (*agentplanev1.Operator).GetFingerprint},
		})
	})
}

func (a *app) operatorsRevoke(cmd *cobra.Command, args []string) error {
	return a.with(cmd.Context(), func(s *session) error {
		if err := s.RevokeOperator(cmd.Context(), args[0]); err != nil {
			return hintUnknown(err, "agentctl operators list")
		}
		return a.done(object{{"revoked", args[0]}}, "operator %s is revoked", args[0])
	})
}
