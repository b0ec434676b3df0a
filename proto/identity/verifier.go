package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// Verifier judges certificates against the bundle in use. It is safe for
// concurrent use; configurations made from it follow Update at once.
type Verifier struct {
	clock Clock
	mu    sync.Mutex // serializes Update
	trust atomic.Pointer[trust]
}

// NewVerifier returns a Verifier that begins with the bundle.
func NewVerifier(b *Bundle, clock Clock) (*Verifier, error) {
	v := &Verifier{clock: clock}
	if err := v.Update(b); err != nil {
		return nil, err
	}
	return v, nil
}

// Bundle returns a copy of the bundle in use.
func (v *Verifier) Bundle() *Bundle { return v.trust.Load().bundle.Clone() }

// Update puts another bundle to use. The one in use again, or one of the same
// incarnation with its index, changes nothing. One of another cluster answers
// ErrWrongCluster; one of an older incarnation, of another one with the same
// number, or with a lower index ErrOlderBundle: old cannot command new.
//
// A higher incarnation is taken: that the caller believes it is the caller's
// decision.
func (v *Verifier) Update(b *Bundle) error {
	if b == nil {
		return errors.New("use bundle: there is none")
	}
	next, err := b.Clone().compile()
	if err != nil {
		return fmt.Errorf("use bundle: %w", err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if cur := v.trust.Load(); cur != nil {
		was, is := cur.bundle, next.bundle
		switch {
		case is.ClusterID != was.ClusterID:
			return fmt.Errorf("use bundle: cluster %q, want %q: %w", is.ClusterID, was.ClusterID, ErrWrongCluster)
		case is.Incarnation.Number > was.Incarnation.Number:
		case is.Incarnation != was.Incarnation:
			return fmt.Errorf("use bundle: incarnation %v, in use %v: %w", is.Incarnation, was.Incarnation, ErrOlderBundle)
		case is.Index < was.Index:
			return fmt.Errorf("use bundle: index %d, in use %d: %w", is.Index, was.Index, ErrOlderBundle)
		case is.Index == was.Index:
			return nil
		}
	}
	v.trust.Store(next)
	return nil
}

// Peer judges the client of a connection that was accepted with ServerConfig.
// The handshake has asked already; asked again, the answer follows the bundle
// and the clock of now, so that an open connection can be ended.
func (v *Verifier) Peer(cs tls.ConnectionState) (Peer, error) {
	var peer Peer
	if len(cs.PeerCertificates) > 0 {
		var err error
		if peer, err = v.judge(cs.PeerCertificates[0], x509.ExtKeyUsageClientAuth); err != nil {
			return Peer{}, fmt.Errorf("refuse client: %w", err)
		}
	}
	if err := v.admit(cs.NegotiatedProtocol, peer); err != nil {
		return Peer{}, fmt.Errorf("refuse client: %w", err)
	}
	return peer, nil
}

// admit says whether the peer has any business on the protocol.
func (v *Verifier) admit(protocol string, p Peer) error {
	switch protocol {
	case ProtocolGRPC:
		return nil
	case ProtocolHTTP, "": // without ALPN a client is taken for one of HTTP/1.1
		if p.Anonymous() || p.ID.Kind == KindOperator {
			return nil
		}
		return fmt.Errorf("%s over HTTP/1.1: %w", p.ID, ErrWrongKind)
	case ProtocolRaft:
		if p.Anonymous() {
			return fmt.Errorf("raft connection: %w", ErrNoCertificate)
		}
		if p.ID.Kind != KindNode {
			return fmt.Errorf("%s over raft: %w", p.ID, ErrWrongKind)
		}
		return v.strict(p)
	default:
		return fmt.Errorf("protocol %.40q is not one of agentplane", protocol)
	}
}

// Server judges the server of a connection: a node of the cluster in good
// standing, and when meant is not empty, that very node.
func (v *Verifier) Server(cs tls.ConnectionState, meant string) (Peer, error) {
	if len(cs.PeerCertificates) == 0 {
		return Peer{}, fmt.Errorf("refuse server: %w", ErrNoCertificate)
	}
	p, err := v.judge(cs.PeerCertificates[0], x509.ExtKeyUsageServerAuth)
	if err == nil && p.ID.Kind != KindNode {
		err = fmt.Errorf("%s as a server: %w", p.ID, ErrWrongKind)
	}
	if err == nil {
		err = v.strict(p)
	}
	if err == nil && meant != "" && p.ID.Name != meant {
		err = fmt.Errorf("%s %w (%q)", p.ID, ErrWrongNode, meant)
	}
	if err != nil {
		return Peer{}, fmt.Errorf("refuse server: %w", err)
	}
	return p, nil
}

// strict turns the marks of a peer into refusals.
func (v *Verifier) strict(p Peer) error {
	switch {
	case p.Expired:
		return fmt.Errorf("%s: %w: it ends %s, here it is %s; compare the clocks of both machines",
			p.ID, ErrExpired, p.NotAfter.UTC().Format(time.RFC3339), v.clock.moment().Own.UTC().Format(time.RFC3339))
	case p.CAUnknown:
		return fmt.Errorf("%s: %w", p.ID, ErrUnknownCA)
	default:
		return nil
	}
}

// judge says whose certificate this is, or why it is nobody's. The handshake has
// proved the possession of its key.
func (v *Verifier) judge(cert *x509.Certificate, usage x509.ExtKeyUsage) (Peer, error) {
	t, now := v.trust.Load(), v.clock.moment().span()
	id, key, err := readLeaf(cert)
	if err != nil {
		return Peer{}, fmt.Errorf("%w: %w", ErrBadCertificate, err)
	}
	if comparesClusters && id.Cluster != t.bundle.ClusterID {
		return Peer{}, fmt.Errorf("%s %w; this is cluster %q", id, ErrWrongCluster, t.bundle.ClusterID)
	}
	if id.Kind == KindNode {
		switch registered, known := t.nodes[id.Name]; {
		case comparesNodeKeys && !known:
			return Peer{}, fmt.Errorf("%s: %w: the bundle of index %d has no such node", id, ErrKeyNotRegistered, t.bundle.Index)
		case comparesNodeKeys && !registered.Equal(key):
			return Peer{}, fmt.Errorf("%s: %w: it is %s, registered is %s", id, ErrKeyNotRegistered, key, registered)
		}
	}
	vouched, err := t.vouches(cert, now, usage)
	if err != nil {
		return Peer{}, fmt.Errorf("%s: %w: %w", id, ErrBadCertificate, err)
	}
	return Peer{
		ID: id, Key: key, NotAfter: cert.NotAfter,
		Expired:   !window{from: cert.NotBefore, to: cert.NotAfter}.meets(now),
		CAUnknown: !vouched,
	}, nil
}

// readLeaf takes name and key from a certificate, if its form is that of a leaf
// which agentplane issues. Signatures and times are not looked at.
func readLeaf(cert *x509.Certificate) (ID, PublicKey, error) {
	key, err := MarshalPublicKey(cert.PublicKey)
	if err != nil {
		return ID{}, nil, err
	}
	switch {
	case cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign != 0:
		return ID{}, nil, errors.New("it is that of a CA")
	case cert.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return ID{}, nil, errors.New("its key is not meant for signatures")
	case len(cert.UnhandledCriticalExtensions) > 0:
		return ID{}, nil, errors.New("it has a critical extension of unknown meaning")
	case len(cert.URIs) != 1 || len(cert.DNSNames)+len(cert.IPAddresses)+len(cert.EmailAddresses) > 0:
		return ID{}, nil, errors.New("want one URI as the only subject alternative name")
	}
	id, err := ParseID(cert.URIs[0].String())
	return id, key, err
}

// vouches says whether a CA that is trusted now issued the certificate. An error
// means that a CA of the bundle signed what it never should have.
func (t *trust) vouches(cert *x509.Certificate, now window, usage x509.ExtKeyUsage) (bool, error) {
	if !asksIssuers {
		return true, nil
	}
	// Asked at a moment within the leaf's own validity: that it may be over is
	// the caller's finding, not an unknown issuer.
	chains, err := cert.Verify(x509.VerifyOptions{
		Roots:       t.roots,
		CurrentTime: window{from: cert.NotBefore, to: cert.NotAfter}.nearest(now.from),
		KeyUsages:   []x509.ExtKeyUsage{usage},
	})
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &unknown), errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return false, nil
	case err != nil:
		return false, err
	}
	for _, chain := range chains {
		if len(chain) == 2 && t.cas[string(chain[1].Raw)].meets(now) {
			return true, nil
		}
	}
	return false, nil
}
