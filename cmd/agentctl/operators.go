package main

import (
	"fmt"
	"io"
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
			return a.createToken(cmd.Context(), req, func(t identity.Token, address string, made *agentplanev1.Token) error {
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
	return c
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
