package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/identity"
)

const defaultDataDir = "/var/lib/agentplane"

func dataDirFlag(c *cobra.Command, dir *string) {
	c.Flags().StringVar(dir, "data-dir", defaultDataDir, "`DIR` of the node that runs on this machine")
}

// onNode calls f over the socket of the node that runs on the data directory.
func (a *app) onNode(ctx context.Context, dir string, f func(context.Context, *client.Local) error) error {
	node, err := client.OpenLocal(ctx, dir)
	if err != nil {
		return unreachable(dir, err)
	}
	defer node.Close()
	return f(ctx, node)
}

func (a *app) clusterInit() *cobra.Command {
	var dir, operator string
	c := &cobra.Command{
		Use: "init", Short: "make the node on this machine a cluster of one, and yourself its admin",
		Args: args(0, 0, ""), Annotations: is(offline),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.onNode(cmd.Context(), dir, func(ctx context.Context, node *client.Local) error {
				return a.initCluster(ctx, node, dir, operator)
			})
		},
	}
	dataDirFlag(c, &dir)
	c.Flags().StringVar(&operator, "operator", "", "`NAME` of the admin (default \"admin\" for the first)")
	return c
}

func (a *app) initCluster(ctx context.Context, node *client.Local, dir, operator string) error {
	ctx, cancel := context.WithTimeout(ctx, a.flags.requestTimeout)
	defer cancel()
	status, err := node.LocalStatus(ctx)
	if err != nil {
		return localError(dir, err, false)
	}
	file, err := a.contexts()
	if err != nil {
		return err
	}
	if status.ClusterId != "" {
		known, err := file.Find(func(c *client.Context) bool {
			return c.ClusterID == status.ClusterId && (a.flags.context == "" || c.Name == a.flags.context)
		})
		if err != nil {
			return err
		}
		if known != nil {
			return a.printInit(known, status.NodeId, true)
		}
	}
	if operator != "" {
		if err := identity.ValidateName(operator); err != nil {
			return usagef("--operator: %w", err)
		}
	}
	admin, err := node.MakeAdmin(ctx, status.ClusterId, operator)
	if err != nil {
		return hintNode(localError(dir, err, true), "agentctl cluster init --data-dir "+dir)
	}
	admin.Context.Name = a.flags.context
	if err := a.store(file, admin.Context); err != nil {
		return err
	}
	return a.printInit(admin.Context, admin.NodeID, admin.Existed)
}

func (a *app) printInit(c *client.Context, nodeID string, existed bool) error {
	o := object{
		{"clusterId", c.ClusterID},
		{"nodeId", nodeID},
		{"existed", existed},
		{"operator", c.Operator},
		{"role", c.Role},
		{"context", c.Name},
	}
	text := "cluster %s is made; you are its operator %q, in context %q"
	if existed {
		text = "cluster %s is there already; you are its operator %q, in context %q"
	} else {
		a.talk("next: a token for the second node: agentctl tokens create --kind node")
	}
	return a.done(o, text, c.ClusterID, c.Operator, c.Name)
}

func (a *app) clusterJoin() *cobra.Command {
	var dir, token string
	var noWait bool
	c := &cobra.Command{
		Use:   "join ADDR[,…] --token T | join T@ADDR",
		Short: "make the node on this machine a member of a cluster",
		Long: `Make the node on this machine a member of a cluster, and wait until it is a voter,
or until only other nodes can make it one. With --request-timeout the wait has an
end; the node goes on all the same. Running it again is harmless.`,
		Args: args(1, 1, "the address of a node, or TOKEN@ADDR"), Annotations: is(offline),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, addresses, err := tokenAt(args[0], token)
			if err != nil {
				return err
			}
			req := &agentplanev1.JoinRequest{Addresses: addresses, Token: t.Reveal(), NoWait: noWait}
			return a.onNode(cmd.Context(), dir, func(ctx context.Context, node *client.Local) error {
				ctx, cancel := context.WithCancelCause(ctx)
				defer cancel(nil)
				if cmd.Flags().Changed("request-timeout") { // a newcomer may have much to catch up with
					defer time.AfterFunc(a.flags.requestTimeout, func() { cancel(errJoinGoesOn) }).Stop()
				}
				return a.join(ctx, node, dir, req)
			})
		},
	}
	dataDirFlag(c, &dir)
	c.Flags().StringVar(&token, "token", "", "`TOKEN` of kind node")
	c.Flags().BoolVar(&noWait, "no-wait", false, "return once the node is added, before it is a voter")
	return c
}

// tokenAt reads T@ADDR, or ADDR with the token beside it.
func tokenAt(word, token string) (identity.Token, []string, error) {
	text, list, one := strings.Cut(word, "@")
	switch {
	case one && token != "":
		return identity.Token{}, nil, usagef("the token is given twice, before the address and with --token")
	case !one && token == "":
		return identity.Token{}, nil, usagef("there is no token: give it as TOKEN@ADDR, or with --token TOKEN")
	case !one:
		text, list = token, word
	}
	t, err := identity.ParseToken(text)
	if err != nil {
		return t, nil, usagef("%w", err)
	}
	addresses, err := splitAddresses(list)
	return t, addresses, err
}

// hintNode says where to look when the node on this machine broke off.
func hintNode(err error, again string) error {
	if code, _ := classify(err); code == exitUnknown {
		return &failure{code: code, err: err, hint: fmt.Sprintf("the node broke off: look at its log, see that it runs, then type %s again: it goes on where it stopped", again)}
	}
	return err
}

// errJoinGoesOn ends the wait for a join, and not the join.
var errJoinGoesOn = errors.New("the join is not waited for any longer")

func (a *app) join(ctx context.Context, node *client.Local, dir string, req *agentplanev1.JoinRequest) error {
	var last *agentplanev1.JoinResponse
	err := node.Join(ctx, req, func(r *agentplanev1.JoinResponse) {
		if r.Text != "" && !r.Done {
			a.talk("%s", r.Text)
		}
		last = r
	})
	if err != nil && last != nil && errors.Is(context.Cause(ctx), errJoinGoesOn) {
		return &failure{
			code: exitUnavailable, err: fmt.Errorf("the join is not done within %v: %s", shortDuration(a.flags.requestTimeout), last.Text),
			hint: "the node goes on by itself; run the same command again to see how far it is",
		}
	}
	if err != nil {
		err = localError(dir, err, true)
		if code, hint := classify(err); code == exitUnavailable && hint == "" {
			return hinted(err, "a node of the cluster must listen at the address: agentctl cluster join HOST:PORT; this node must reach it")
		}
		return hintNode(err, "the same command")
	}
	if last == nil || !last.Done {
		return &failure{code: exitUnknown, err: errors.New("the node ended the join before it was done"), hint: "run the same command again; it goes on where it stopped"}
	}
	return printOne(a, toObject(last), func(w io.Writer) {
		pairs(w,
			[2]string{"cluster", last.ClusterId}, [2]string{"node", last.NodeId},
			[2]string{"voter", yesNo(last.Voter)}, [2]string{"state", last.Text})
	})
}
