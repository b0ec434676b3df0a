package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/identity"
)

// unnamed stands in an operator's request until the token, or the operator,
// says the name.
const unnamed = "operator"

func (a *app) loginCmd() *cobra.Command {
	var name, token string
	c := &cobra.Command{
		Use: "login T@ADDR", Short: "enrol as an operator with a token, and keep the context",
		Args: args(1, 1, "TOKEN@ADDR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.flags.addr != "" {
				return usagef("%s takes no --addr: the address stands behind the token", cmd.CommandPath())
			}
			t, addresses, err := tokenAt(args[0], token)
			if err != nil {
				return err
			}
			return a.login(cmd.Context(), t, addresses, name)
		},
	}
	c.Flags().StringVar(&name, "name", "", "`NAME` of the operator, where the token does not fix it")
	c.Flags().StringVar(&token, "token", "", "`TOKEN` of kind operator, when only the address is given")
	return c
}

func (a *app) login(ctx context.Context, t identity.Token, addresses []string, name string) error {
	file, err := a.contexts()
	if err != nil {
		return err
	}
	known, err := file.Find(func(c *client.Context) bool { return c.Token == t.ID() })
	if err != nil {
		return err
	}
	if known != nil {
		return a.printLogin(known, true)
	}
	// The key is on disk before the token is used: when the answer is lost, the
	// same key may ask again, and another one may not.
	if err := os.MkdirAll(filepath.Dir(file.Path()), 0o700); err != nil {
		return err
	}
	keyPath := file.Path() + ".login-" + t.ID() + ".key"
	_, err = os.Lstat(keyPath)
	fresh := errors.Is(err, fs.ErrNotExist)
	key, err := identity.OpenKey(keyPath)
	if err != nil {
		return err
	}
	asked := name
	if asked == "" {
		asked = unnamed
	}
	answer, err := client.Enroll(ctx, client.Enrolment{
		Addresses: addresses,
		Token:     t,
		Request: func(cluster string) ([]byte, error) {
			return identity.CreateRequest(key, identity.ID{Cluster: cluster, Kind: identity.KindOperator, Name: asked})
		},
		As: func(r *agentplanev1.EnrollRequest) {
			r.As = &agentplanev1.EnrollRequest_Operator{Operator: &agentplanev1.EnrollOperator{Name: name}}
		},
		Options: client.Options{Clock: identity.Wall(a.now), CallTimeout: a.flags.requestTimeout},
	})
	if err != nil {
		if worthless(err, fresh) {
			_ = os.Remove(keyPath) // the error says what matters
		}
		if code, hint := classify(err); code == exitUnavailable && hint == "" {
			return hinted(err, "a node of the cluster must listen at the address behind the token, TOKEN@HOST:PORT; see \"agentctl cluster members\" of one who is in")
		}
		return hintUnknown(err, "agentctl operators list")
	}
	c, err := client.NewContext(key, answer.Certificate, answer.CaCertificate, answer.Bundle, answer.Role)
	if err != nil {
		return err
	}
	c.Name, c.Token = a.flags.context, t.ID()
	if len(c.Addresses) == 0 {
		c.Addresses = addresses
	}
	if err := a.store(file, c); err != nil {
		return err
	}
	if err := os.Remove(keyPath); err != nil {
		a.talk("note: the key is kept twice: %v", err)
	}
	return a.printLogin(c, false)
}

// worthless says that after the error the key of a login is of no use any more: nobody can
// have registered it, since it was made for this try; or the token lets nobody in any more.
// A key of an earlier try, whose answer was lost, may be registered.
func worthless(err error, fresh bool) bool {
	switch reasonOf(err) {
	case "token_used", "token_expired", "token_revoked":
		return true
	}
	code, _ := classify(err)
	return fresh && code != exitUnknown
}

func (a *app) printLogin(c *client.Context, again bool) error {
	o := object{
		{"clusterId", c.ClusterID}, {"operator", c.Operator}, {"role", c.Role}, {"context", c.Name}, {"existed", again},
	}
	verb := "you are"
	if again {
		verb = "you are already"
	}
	return a.done(o, "%s", fmt.Sprintf("%s operator %q (%s) of cluster %s, in context %q", verb, c.Operator, c.Role, c.ClusterID, c.Name))
}
