package client

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/identity"
)

// Context is one operator's way into one cluster.
type Context struct {
	Name      string
	ClusterID string
	Operator  string
	Role      string
	// Token is the id of the token that let the operator in; empty for the one
	// who made the cluster.
	Token     string
	Addresses []string
	Bundle    *agentplanev1.Bundle
	Key       identity.Key
	// DER.
	Certificate   []byte
	CACertificate []byte
}

// ID returns the operator's full name.
func (c *Context) ID() identity.ID {
	return identity.ID{Cluster: c.ClusterID, Kind: identity.KindOperator, Name: c.Operator}
}

// TLSCertificate joins key and certificate.
func (c *Context) TLSCertificate() (*tls.Certificate, error) {
	cert, err := identity.NewCertificate(c.Key, c.Certificate)
	if err != nil {
		return nil, fmt.Errorf("context %q: %w", c.Name, err)
	}
	return cert, nil
}

// Options returns what a Client of the context begins with. Who runs for long sets
// OnExpired, too, or makes a new Client from time to time: certificates of operators live
// 30 days.
func (c *Context) Options() (Options, error) {
	cert, err := c.TLSCertificate()
	if err != nil {
		return Options{}, err
	}
	return Options{Addresses: c.Addresses, Bundle: c.Bundle, Certificate: Static(cert)}, nil
}

// Learn takes a newer bundle over, and reports whether it was newer. The list of
// addresses becomes that of the bundle; via, the address that brought it, stays
// in the list though no node advertises it.
func (c *Context) Learn(b *agentplanev1.Bundle, via string) bool {
	if b == nil || c.Bundle != nil && !newer(b, c.Bundle) {
		return false
	}
	c.Bundle = b
	if listed := merge(nil, b); len(listed) > 0 {
		c.Addresses = merge(append(listed, via), nil)
	}
	return true
}

// contextText is a Context as the file has it.
type contextText struct {
	Name          string   `yaml:"name"`
	ClusterID     string   `yaml:"cluster_id"`
	Operator      string   `yaml:"operator"`
	Role          string   `yaml:"role,omitempty"`
	Token         string   `yaml:"token_id,omitempty"`
	Addresses     []string `yaml:"addresses"`
	Certificate   string   `yaml:"certificate"`
	CACertificate string   `yaml:"ca_certificate,omitempty"`
	Key           string   `yaml:"key"`
	// Base64 of the marshalled Bundle.
	Bundle string `yaml:"bundle"`
}

const certificatePEM = "CERTIFICATE"

func (c *Context) text() (contextText, error) {
	t := contextText{
		Name: c.Name, ClusterID: c.ClusterID, Operator: c.Operator, Role: c.Role, Token: c.Token, Addresses: c.Addresses,
		Certificate:   string(pem.EncodeToMemory(&pem.Block{Type: certificatePEM, Bytes: c.Certificate})),
		CACertificate: string(pem.EncodeToMemory(&pem.Block{Type: certificatePEM, Bytes: c.CACertificate})),
	}
	key, err := c.Key.MarshalPEM()
	if err != nil {
		return t, fmt.Errorf("context %q: %w", c.Name, err)
	}
	bundle, err := proto.MarshalOptions{Deterministic: true}.Marshal(c.Bundle)
	if err != nil {
		return t, fmt.Errorf("context %q: %w", c.Name, err)
	}
	t.Key, t.Bundle = string(key), base64.StdEncoding.EncodeToString(bundle)
	return t, nil
}

func (t contextText) parse() (*Context, error) {
	fail := func(field string, err error) (*Context, error) {
		return nil, fmt.Errorf("context %q: %s: %w", t.Name, field, err)
	}
	c := &Context{Name: t.Name, ClusterID: t.ClusterID, Operator: t.Operator, Role: t.Role, Token: t.Token, Addresses: t.Addresses}
	if c.Name == "" {
		return nil, errors.New("a context has no name")
	}
	if err := c.ID().Validate(); err != nil {
		return fail("operator", err)
	}
	var err error
	if c.Key, err = identity.ParseKey([]byte(t.Key)); err != nil {
		return fail("key", err)
	}
	if c.Certificate, err = certificateBytes(t.Certificate); err != nil {
		return fail("certificate", err)
	}
	if t.CACertificate != "" {
		if c.CACertificate, err = certificateBytes(t.CACertificate); err != nil {
			return fail("ca_certificate", err)
		}
	}
	bundle, err := base64.StdEncoding.DecodeString(t.Bundle)
	if err != nil {
		return fail("bundle", err)
	}
	c.Bundle = &agentplanev1.Bundle{}
	if err := proto.Unmarshal(bundle, c.Bundle); err != nil {
		return fail("bundle", err)
	}
	if c.Bundle.ClusterId != c.ClusterID {
		return fail("bundle", fmt.Errorf("it is of cluster %.100q, not %.100q", c.Bundle.ClusterId, c.ClusterID))
	}
	return c, nil
}

func certificateBytes(text string) ([]byte, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != certificatePEM {
		return nil, fmt.Errorf("no PEM block %q", certificatePEM)
	}
	return block.Bytes, nil
}
