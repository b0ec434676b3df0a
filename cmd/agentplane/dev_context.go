package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/identity"
)

// checkContext refuses to overwrite a context that somebody may still need: it is
// of a cluster on other machines, or of one that runs here now.
func (c *devCluster) checkContext(ctx context.Context) error {
	there, err := c.user.Find(func(one *client.Context) bool { return one.Name == c.o.context })
	if err != nil || there == nil {
		return err
	}
	if own, err := c.ownContext(); err != nil {
		return err
	} else if own != nil && own.ClusterID == there.ClusterID {
		return nil
	}
	hint := "give --context NAME, or set AGENTCTL_CONFIG to another file"
	for _, address := range there.Addresses {
		host, _, err := net.SplitHostPort(address)
		if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
			return hinted{fmt.Errorf("context %q in %q is of another cluster, at %s", there.Name, c.user.Path(), address), hint}
		}
		dialer := net.Dialer{Timeout: 200 * time.Millisecond}
		if conn, err := dialer.DialContext(ctx, "tcp", address); err == nil {
			_ = conn.Close()
			return hinted{fmt.Errorf("context %q in %q is of another cluster, which runs at %s", there.Name, c.user.Path(), address), "stop that one, or " + hint}
		}
	}
	return nil
}

// ownContext is what the directory knows of the operator; nil when there is nothing
// yet.
func (c *devCluster) ownContext() (*client.Context, error) {
	return c.dir.contexts().Find(func(*client.Context) bool { return true })
}

// becomeOperator sees to it that there is an admin's context: the one of the user,
// which agentctl keeps fresh, or that of the directory, or a new one.
func (c *devCluster) becomeOperator(ctx context.Context) error {
	first := c.nodes[0].node
	if first.Joined() {
		own, err := c.ownContext()
		if err != nil {
			return err
		}
		if own != nil {
			known, err := c.user.Find(func(one *client.Context) bool { return one.ClusterID == own.ClusterID && one.Name == c.o.context })
			if err != nil {
				return err
			}
			if c.operator = own; known != nil {
				c.operator = known
			}
			return c.storeContext()
		}
	}
	return retry(ctx, func() (bool, error) {
		var last error
		for _, n := range c.nodes {
			if !n.node.Joined() && n != c.nodes[0] {
				continue
			}
			admin, err := n.makeAdmin(ctx)
			if err == nil {
				c.operator = admin
				return true, c.storeContext()
			}
			last = fmt.Errorf("%s: %w", n.name, err)
			if e := client.AsError(err); e.Reason != "not_leader" && e.Code != codes.Unavailable {
				return false, last
			}
		}
		return false, againError{last}
	})
}

func (n *devNode) makeAdmin(ctx context.Context) (*client.Context, error) {
	cc, err := client.DialLocal(ctx, n.dir)
	if err != nil {
		return nil, err
	}
	defer cc.Close()
	local := agentplanev1.NewLocalServiceClient(cc)
	status, err := local.LocalStatus(ctx, &agentplanev1.LocalStatusRequest{})
	if err != nil {
		return nil, err
	}
	clusterID := status.GetClusterId()
	if !n.node.Joined() {
		clusterID = "" // its first admin has not been made
	}
	admin, err := client.MakeAdmin(ctx, local, clusterID, "")
	if err != nil {
		return nil, err
	}
	return admin.Context, nil
}

// storeContext writes the context to the directory first: there it is found again.
func (c *devCluster) storeContext() error {
	c.operator.Name = c.o.context
	c.operator.Addresses = c.addresses()
	if err := c.dir.contexts().Store(c.operator); err != nil {
		return err
	}
	return c.user.Keep(c.operator)
}

// connect makes the operator's client; the caller closes it.
func (c *devCluster) connect(ctx context.Context) (*client.Client, error) {
	cert, err := c.operator.TLSCertificate()
	if err != nil {
		return nil, err
	}
	cl, err := client.New(client.Options{Addresses: c.addresses(), Bundle: c.operator.Bundle, Certificate: client.Static(cert)})
	if err != nil || !client.RenewalDue(c.operator.Certificate, time.Now()) {
		return cl, err
	}
	r, err := cl.Renew(ctx, c.operator.Key, c.operator.ID())
	if err := errors.Join(err, cl.Close()); err != nil {
		return nil, err
	}
	c.operator.Certificate, c.operator.CACertificate = r.Certificate, r.CACertificate
	c.operator.Learn(r.Bundle, "")
	if err := c.storeContext(); err != nil {
		return nil, err
	}
	return c.connect(ctx)
}

// learn takes the trust bundle over that lists all nodes.
func (c *devCluster) learn(ctx context.Context, cl *client.Client) error {
	info, err := agentplanev1.NewClusterServiceClient(cl).Info(ctx, &agentplanev1.InfoRequest{})
	if err != nil {
		return err
	}
	c.operator.Learn(info.GetBundle(), "")
	return c.storeContext()
}

// token lets newcomers in; what it says works for an hour.
func token(ctx context.Context, cl *client.Client, kind agentplanev1.TokenKind, uses int) (identity.Token, error) {
	t, err := identity.NewToken()
	if err != nil {
		return t, err
	}
	record := t.Record()
	_, err = agentplanev1.NewTokenServiceClient(cl).CreateToken(ctx, &agentplanev1.CreateTokenRequest{
		Kind: kind, MaxUses: uint32(uses), Ttl: int64(time.Hour),
		Id: record.ID, ProofKey: record.ProofKey.Reveal(), AuthenticatorHash: record.AuthenticatorHash,
	})
	if err != nil {
		return t, fmt.Errorf("make a token: %w", err)
	}
	return t, nil
}

// agentctl is how the user starts agentctl from where this process was started.
func agentctl() string {
	if _, err := exec.LookPath("agentctl"); err == nil {
		return "agentctl"
	}
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "agentctl")
		if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() {
			if here, err := os.Getwd(); err == nil {
				if short, ok := strings.CutPrefix(beside, here+string(filepath.Separator)); ok {
					return "./" + short
				}
			}
			return beside
		}
	}
	if _, err := os.Stat(filepath.Join("cmd", "agentctl", "main.go")); err == nil {
		return "go run ./cmd/agentctl"
	}
	return "agentctl"
}
