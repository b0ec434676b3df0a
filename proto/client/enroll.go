package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/identity"
)

// Enrolment is what a newcomer brings.
type Enrolment struct {
	// Addresses of nodes of the cluster that the token is of.
	Addresses []string
	Token     identity.Token
	// Request returns the request for a certificate once the cluster is known:
	// its id stands in the name. Repeated with the same key it enrols once.
	Request func(clusterID string) (csr []byte, err error)
	// As fills in who the newcomer is; it sets the oneof of the request.
	As func(*agentplanev1.EnrollRequest)
	// Options bound the calls; Addresses, Bundle and Certificate of it are not
	// looked at.
	Options Options
}

// Enroll registers a newcomer's key against a token and returns the cluster's
// answer. Until the token has proved the bundle nothing secret leaves the
// machine; the authenticating half of the token goes only to a node that was
// verified against that bundle. Asking again with the same key is safe and
// answers the same.
func Enroll(ctx context.Context, e Enrolment) (*agentplanev1.EnrollResponse, error) {
	bundle, err := ProveBundle(ctx, e.Addresses, e.Token, e.Options)
	if err != nil {
		return nil, err
	}
	csr, err := e.Request(bundle.ClusterId)
	if err != nil {
		return nil, fmt.Errorf("enrol: %w", err)
	}
	opts := e.Options
	opts.Addresses, opts.Bundle, opts.Certificate = e.Addresses, bundle, nil
	c, err := New(opts)
	if err != nil {
		return nil, fmt.Errorf("enrol: %w", err)
	}
	defer c.Close()
	req := &agentplanev1.EnrollRequest{
		TokenId:       e.Token.ID(),
		Authenticator: e.Token.Authenticator().Reveal(),
		Csr:           csr,
	}
	e.As(req)
	answer, err := agentplanev1.NewEnrollServiceClient(c).Enroll(ctx, req)
	if err != nil {
		return nil, fmt.Errorf("enrol at cluster %s: %w", bundle.ClusterId, err)
	}
	if answer.Bundle.GetClusterId() != bundle.ClusterId {
		return nil, fmt.Errorf("enrol at cluster %s: the answer is of cluster %.100q", bundle.ClusterId, answer.Bundle.GetClusterId())
	}
	return answer, nil
}

// ProveBundle asks for the trust bundle over connections that nobody verified,
// and believes one only for its proof by the token. Whatever another address says
// (it is of another cluster, or somebody sits in between) the next one is asked.
//
// On the wire the bundle has the form of identity.Bundle.Marshal: those bytes are
// what the proof covers.
func ProveBundle(ctx context.Context, addresses []string, token identity.Token, opts Options) (*agentplanev1.Bundle, error) {
	opts.Bundle = &agentplanev1.Bundle{} // none yet; fill wants one
	if err := opts.fill(); err != nil {
		return nil, err
	}
	if len(addresses) == 0 {
		return nil, errors.New("enrol: no node address was given")
	}
	ctx, cancel := context.WithTimeout(ctx, opts.CallTimeout)
	defer cancel()
	if len(addresses) > 1 {
		opts.Unreachable = time.Nanosecond // the next address is the better try
	}
	var first error
	for _, address := range addresses {
		b, err := proveBundleAt(ctx, address, token, opts)
		if err == nil {
			return b, nil
		}
		// What a node said tells more than that another one is down.
		if first == nil || AsError(first).Code == codes.Unavailable {
			first = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, first
}

func proveBundleAt(ctx context.Context, address string, token identity.Token, opts Options) (*agentplanev1.Bundle, error) {
	c := newClient(opts, identity.UntrustedClientConfig(identity.ProtocolGRPC))
	defer c.Close()
	c.addresses = []string{address}
	nonce, err := identity.NewNonce()
	if err != nil {
		return nil, err
	}
	answer, err := agentplanev1.NewEnrollServiceClient(c).ProveBundle(ctx, &agentplanev1.ProveBundleRequest{TokenId: token.ID(), Nonce: nonce})
	if err != nil {
		return nil, fmt.Errorf("ask %s for the trust bundle: %w", address, err)
	}
	b, err := openBundle(token, nonce, answer)
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", address, err)
	}
	return b, nil
}

// openBundle believes an answer for its proof. The bundle itself says of which
// cluster and incarnation it is, so that what is read before the proof holds
// only chooses what the proof is compared with.
func openBundle(token identity.Token, nonce []byte, answer *agentplanev1.ProveBundleResponse) (*agentplanev1.Bundle, error) {
	claimed, err := identity.ParseBundle(answer.Bundle)
	if err != nil {
		return nil, err
	}
	trusted, err := token.OpenBundle(identity.Statement{
		Bundle: answer.Bundle, ClusterID: claimed.ClusterID, Incarnation: claimed.Incarnation, Nonce: nonce,
	}, answer.Proof)
	if err != nil {
		return nil, err
	}
	return APIBundle(trusted)
}

// Renewal is a fresh certificate for a key that is registered already.
type Renewal struct {
	Certificate   []byte // DER
	CACertificate []byte // DER
	Bundle        *agentplanev1.Bundle
}

// Renew asks for a fresh certificate for the name, whose registered key is key;
// the handshake proves it, also with an expired certificate. The caller puts the
// new one to use and then calls Reconnect.
func (c *Client) Renew(ctx context.Context, key identity.Key, id identity.ID) (*Renewal, error) {
	csr, err := identity.CreateRequest(key, id)
	if err != nil {
		return nil, fmt.Errorf("renew certificate: %w", err)
	}
	answer, err := agentplanev1.NewEnrollServiceClient(c).Renew(ctx, &agentplanev1.RenewRequest{Csr: csr})
	if err != nil {
		return nil, fmt.Errorf("renew certificate of %s: %w", id, err)
	}
	if _, err := identity.NewCertificate(key, answer.Certificate); err != nil {
		return nil, fmt.Errorf("renew certificate of %s: %w", id, err)
	}
	return &Renewal{Certificate: answer.Certificate, CACertificate: answer.CaCertificate, Bundle: answer.Bundle}, nil
}

// RenewalDue reports whether a certificate has lived half its life. One that
// cannot be read is due.
func RenewalDue(der []byte, now time.Time) bool {
	_, _, cert, err := identity.ParseCertificate(der)
	return err != nil || identity.RenewalDue(cert, now)
}
