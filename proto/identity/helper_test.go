package identity

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"net/url"
	"testing"
	"time"
)

const testCluster = "0199f3a2-7c1e-7b22-9d0a-5a3f6f1c2b3d"

var (
	testIncarnation = Incarnation{Number: 1, ID: "1f0c"}
	testNow         = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
)

func testClock() time.Time { return testNow }

func mustKey(t testing.TB) Key {
	t.Helper()
	k, err := GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func mustURL(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// testCA issues certificates by hand, so that tests can bend each field.
type testCA struct {
	cluster, node string
	key           Key
	cert          *x509.Certificate
}

func caTemplate(t testing.TB, cluster, node string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber:                big.NewInt(1),
		Subject:                     pkix.Name{CommonName: "CA of " + node},
		NotBefore:                   testNow.AddDate(-1, 0, 0),
		NotAfter:                    testNow.AddDate(10, 0, 0),
		KeyUsage:                    x509.KeyUsageCertSign,
		BasicConstraintsValid:       true,
		IsCA:                        true,
		MaxPathLenZero:              true,
		URIs:                        []*url.URL{mustURL(t, CAName(cluster, node))},
		PermittedDNSDomainsCritical: true,
		PermittedURIDomains:         []string{cluster},
	}
}

func newTestCA(t testing.TB, cluster, node string, bend func(*x509.Certificate)) *testCA {
	t.Helper()
	template := caTemplate(t, cluster, node)
	if bend != nil {
		bend(template)
	}
	key := mustKey(t)
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Signer().Public(), key.Signer())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &testCA{cluster: cluster, node: node, key: key, cert: cert}
}

func (ca *testCA) entry() CA { return CA{NodeID: ca.node, CertDER: ca.cert.Raw} }

// issue makes a leaf of the CA; bend may spoil it.
func (ca *testCA) issue(t testing.TB, id string, key Key, bend func(*x509.Certificate)) *tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(2),
		NotBefore:             testNow.Add(-time.Hour),
		NotAfter:              testNow.Add(time.Hour),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{mustURL(t, id)},
	}
	if bend != nil {
		bend(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, key.Signer().Public(), ca.key.Signer())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key.Signer(), Leaf: cert}
}

func nodeURI(name string) string  { return ID{testCluster, KindNode, name}.String() }
func agentURI(name string) string { return ID{testCluster, KindAgent, name}.String() }
func operatorURI(name string) string {
	return ID{testCluster, KindOperator, name}.String()
}

// world is a cluster of two nodes, a and b, each with a CA, a key and a leaf.
type world struct {
	caA, caB     *testCA
	keyA, keyB   Key
	leafA, leafB *tls.Certificate
	bundle       *Bundle
}

func newWorld(t testing.TB) *world {
	w := &world{caA: newTestCA(t, testCluster, "a", nil), caB: newTestCA(t, testCluster, "b", nil), keyA: mustKey(t), keyB: mustKey(t)}
	w.leafA = w.caA.issue(t, nodeURI("a"), w.keyA, nil)
	w.leafB = w.caB.issue(t, nodeURI("b"), w.keyB, nil)
	w.bundle = &Bundle{
		ClusterID: testCluster, Incarnation: testIncarnation, Index: 7,
		CAs: []CA{w.caA.entry(), w.caB.entry()},
		Nodes: []NodeKey{
			{NodeID: "a", Key: w.keyA.Public(), Addresses: []string{"10.0.0.1:7460"}},
			{NodeID: "b", Key: w.keyB.Public(), Addresses: []string{"[fd00::2]:7460", "node-b:7460"}},
		},
	}
	return w
}

func (w *world) verifier(t testing.TB) *Verifier {
	t.Helper()
	v, err := NewVerifier(w.bundle, Wall(testClock))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func serves(c *tls.Certificate) func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c, nil }
}

func shows(c *tls.Certificate) func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c, nil }
}

// handshake connects both sides over loopback and returns what each side's
// Handshake answered, and the server's state. The client's verdict includes one
// read: under TLS 1.3 it learns only there that it was refused.
func handshake(t testing.TB, server, client *tls.Config) (cs tls.ConnectionState, serverErr, clientErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		raw, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			done <- err
			return
		}
		defer raw.Close()
		_ = raw.SetDeadline(time.Now().Add(5 * time.Second))
		conn := tls.Client(raw, client)
		if err := conn.Handshake(); err != nil {
			done <- err
			return
		}
		var b [1]byte
		_, err = conn.Read(b[:])
		done <- err
	}()
	raw, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(5 * time.Second))
	conn := tls.Server(raw, server)
	serverErr = conn.Handshake()
	if serverErr == nil {
		_, _ = conn.Write([]byte("x"))
	}
	cs = conn.ConnectionState()
	clientErr = <-done
	var timeout net.Error
	if errors.As(clientErr, &timeout) && timeout.Timeout() {
		t.Fatalf("handshake hung: %v", clientErr)
	}
	return cs, serverErr, clientErr
}
