package identity

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

const (
	bundleFormat = 1
	// MaxBundleBytes bounds what ParseBundle looks at. A node takes about 1 KiB.
	MaxBundleBytes = 1 << 20
	// MaxIncarnation is the largest number that fits an epoch (12 bits).
	MaxIncarnation = 1<<12 - 1

	maxBundleItems  = 1024
	maxNodeAddress  = 16
	maxAddressBytes = 300
	maxCABytes      = 8 << 10
)

// Incarnation is one life of a cluster: recovery and restore begin the next one.
// The random id tells apart two recoveries that took the same number.
type Incarnation struct {
	Number uint64 `json:"number"`
	ID     string `json:"id"`
}

// String returns NUMBER/ID.
func (i Incarnation) String() string { return fmt.Sprintf("%d/%s", i.Number, i.ID) }

// Validate says what is wrong with the incarnation.
func (i Incarnation) Validate() error {
	if i.Number == 0 || i.Number > MaxIncarnation {
		return fmt.Errorf("incarnation number %d is not between 1 and %d", i.Number, MaxIncarnation)
	}
	if err := ValidateName(i.ID); err != nil {
		return fmt.Errorf("incarnation id: %w", err)
	}
	return nil
}

// CA is a certificate authority that the cluster trusts, one per node or, while
// it is being replaced, two.
type CA struct {
	NodeID  string `json:"node_id"`
	CertDER []byte `json:"cert_der"`
	// NotAfter ends the trust before the certificate does; zero leaves it to the
	// certificate.
	NotAfter time.Time `json:"not_after,omitzero"`
}

// NodeKey is a node's registered key, and where the node is reached.
type NodeKey struct {
	NodeID    string    `json:"node_id"`
	Key       PublicKey `json:"key"`
	Addresses []string  `json:"addresses,omitempty"` // HOST:PORT
}

// Bundle is what everybody trusts. It is a value of the replicated state at one
// index; nobody changes it in place.
type Bundle struct {
	ClusterID   string
	Incarnation Incarnation
	CAs         []CA
	Nodes       []NodeKey
	Index       uint64 // of the entry that last changed it
}

// bundleDocument is the form on wires and disks. Fields are only ever added,
// and an older reader ignores those; any other change raises the format.
type bundleDocument struct {
	Format      int         `json:"format"`
	ClusterID   string      `json:"cluster_id"`
	Incarnation Incarnation `json:"incarnation"`
	Index       uint64      `json:"index"`
	CAs         []CA        `json:"cas"`
	Nodes       []NodeKey   `json:"nodes"`
}

// Marshal returns the JSON form that ParseBundle reads. Equal bundles give equal
// bytes.
func (b *Bundle) Marshal() ([]byte, error) {
	if err := b.Validate(); err != nil {
		return nil, fmt.Errorf("marshal bundle: %w", err)
	}
	data, err := json.Marshal(bundleDocument{
		Format: bundleFormat, ClusterID: b.ClusterID, Incarnation: b.Incarnation,
		Index: b.Index, CAs: b.CAs, Nodes: b.Nodes,
	})
	if err != nil {
		return nil, fmt.Errorf("marshal bundle: %w", err)
	}
	if len(data) > MaxBundleBytes {
		return nil, fmt.Errorf("marshal bundle: %d bytes is above the maximum %d", len(data), MaxBundleBytes)
	}
	return data, nil
}

// ParseBundle reads and validates what Marshal wrote. It says nothing about
// where the bytes came from: see Token.OpenBundle.
func ParseBundle(data []byte) (*Bundle, error) {
	if len(data) > MaxBundleBytes {
		return nil, fmt.Errorf("parse bundle: %d bytes is above the maximum %d", len(data), MaxBundleBytes)
	}
	var doc bundleDocument
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("parse bundle: %w", err)
	}
	if doc.Format != bundleFormat {
		return nil, fmt.Errorf("parse bundle: format %d is not %d; it was written by another version: upgrade this one", doc.Format, bundleFormat)
	}
	b := &Bundle{ClusterID: doc.ClusterID, Incarnation: doc.Incarnation, CAs: doc.CAs, Nodes: doc.Nodes, Index: doc.Index}
	if err := b.Validate(); err != nil {
		return nil, fmt.Errorf("parse bundle: %w", err)
	}
	return b, nil
}

// Clone returns a deep copy.
func (b *Bundle) Clone() *Bundle {
	c := *b
	c.CAs = slices.Clone(b.CAs)
	for i := range c.CAs {
		c.CAs[i].CertDER = bytes.Clone(c.CAs[i].CertDER)
	}
	c.Nodes = slices.Clone(b.Nodes)
	for i := range c.Nodes {
		c.Nodes[i].Key = bytes.Clone(c.Nodes[i].Key)
		c.Nodes[i].Addresses = slices.Clone(c.Nodes[i].Addresses)
	}
	return &c
}

// Node returns the entry of a node.
func (b *Bundle) Node(nodeID string) (NodeKey, bool) {
	i := slices.IndexFunc(b.Nodes, func(n NodeKey) bool { return n.NodeID == nodeID })
	if i < 0 {
		return NodeKey{}, false
	}
	return b.Nodes[i], true
}

// Newer says whether b may take the place of old: the same cluster and
// incarnation, and a higher index.
func (b *Bundle) Newer(old *Bundle) bool {
	return b.ClusterID == old.ClusterID && b.Incarnation == old.Incarnation && b.Index > old.Index
}

// Validate says what is wrong with the bundle. It may be empty of CAs and nodes;
// then it trusts nobody.
func (b *Bundle) Validate() error {
	_, err := b.compile()
	return err
}

// trust is a bundle made ready for judging certificates. It is never changed.
type trust struct {
	bundle *Bundle
	roots  *x509.CertPool
	cas    map[string]window // by the DER form of the CA certificate
	nodes  map[string]PublicKey
}

// window is a span of time, both ends included.
type window struct{ from, to time.Time }

// meets says whether the two have a moment in common.
func (w window) meets(o window) bool { return !o.to.Before(w.from) && !o.from.After(w.to) }

// nearest returns the moment within the window that is nearest to t.
func (w window) nearest(t time.Time) time.Time {
	switch {
	case t.Before(w.from):
		return w.from
	case t.After(w.to):
		return w.to
	default:
		return t
	}
}

func (b *Bundle) compile() (*trust, error) {
	if err := ValidateCluster(b.ClusterID); err != nil {
		return nil, err
	}
	if err := b.Incarnation.Validate(); err != nil {
		return nil, err
	}
	if len(b.CAs) > maxBundleItems || len(b.Nodes) > maxBundleItems {
		return nil, fmt.Errorf("bundle of %d CAs and %d nodes is above the maximum %d of each", len(b.CAs), len(b.Nodes), maxBundleItems)
	}
	t := &trust{bundle: b, roots: x509.NewCertPool(), cas: map[string]window{}, nodes: map[string]PublicKey{}}
	for i, ca := range b.CAs {
		cert, err := ca.Certificate(b.ClusterID)
		if err != nil {
			return nil, fmt.Errorf("CA %d of node %.128q: %w", i, ca.NodeID, err)
		}
		if _, twice := t.cas[string(cert.Raw)]; twice {
			return nil, fmt.Errorf("CA %d of node %.128q: it is listed twice", i, ca.NodeID)
		}
		w := window{from: cert.NotBefore, to: cert.NotAfter}
		if !ca.NotAfter.IsZero() && ca.NotAfter.Before(w.to) {
			w.to = ca.NotAfter
		}
		t.roots.AddCert(cert)
		t.cas[string(cert.Raw)] = w
	}
	holders := map[string]string{}
	for _, n := range b.Nodes {
		if err := n.validate(); err != nil {
			return nil, fmt.Errorf("node %.128q: %w", n.NodeID, err)
		}
		if _, twice := t.nodes[n.NodeID]; twice {
			return nil, fmt.Errorf("node %.128q: it is listed twice", n.NodeID)
		}
		if other, twice := holders[string(n.Key)]; twice {
			return nil, fmt.Errorf("node %.128q: its key is that of node %.128q too", n.NodeID, other)
		}
		t.nodes[n.NodeID] = n.Key
		holders[string(n.Key)] = n.NodeID
	}
	return t, nil
}

func (n NodeKey) validate() error {
	if err := ValidateName(n.NodeID); err != nil {
		return err
	}
	if err := n.Key.Validate(); err != nil {
		return err
	}
	if len(n.Addresses) > maxNodeAddress {
		return fmt.Errorf("%d addresses is above the maximum %d", len(n.Addresses), maxNodeAddress)
	}
	for _, a := range n.Addresses {
		if len(a) > maxAddressBytes {
			return fmt.Errorf("address of %d bytes is above the maximum %d", len(a), maxAddressBytes)
		}
		if err := ValidateAddress(a); err != nil {
			return err
		}
	}
	return nil
}

// Certificate returns the certificate if it is one that a node of the cluster
// may have as its CA: self-signed, named for the node, unable to sign another CA,
// and bound by a critical name constraint to names of the cluster.
func (c CA) Certificate(cluster string) (*x509.Certificate, error) {
	if err := ValidateName(c.NodeID); err != nil {
		return nil, err
	}
	if len(c.CertDER) > maxCABytes {
		return nil, fmt.Errorf("certificate of %d bytes is above the maximum %d", len(c.CertDER), maxCABytes)
	}
	cert, err := x509.ParseCertificate(c.CertDER)
	if err != nil {
		return nil, err
	}
	if _, err := MarshalPublicKey(cert.PublicKey); err != nil {
		return nil, err
	}
	want := CAName(cluster, c.NodeID)
	switch {
	case !cert.BasicConstraintsValid || !cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign == 0:
		return nil, errors.New("the certificate is not that of a CA")
	case cert.MaxPathLen != 0 || !cert.MaxPathLenZero:
		return nil, errors.New("the certificate may sign other CAs")
	case len(cert.URIs) != 1 || cert.URIs[0].String() != want:
		return nil, fmt.Errorf("the certificate is not named %q", want)
	case !cert.PermittedDNSDomainsCritical || !slices.Equal(cert.PermittedURIDomains, []string{cluster}):
		return nil, fmt.Errorf("the certificate is not constrained to names of cluster %q", cluster)
	case len(cert.UnhandledCriticalExtensions) > 0:
		return nil, errors.New("the certificate has a critical extension of unknown meaning")
	}
	if err := cert.CheckSignatureFrom(cert); err != nil {
		return nil, fmt.Errorf("the certificate is not signed by itself: %w", err)
	}
	return cert, nil
}
