package identity

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"net"
	"net/url"
	"slices"
	"testing"
	"time"
)

// aroundNow bends a leaf to a validity relative to testNow.
func aroundNow(from, to time.Duration) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = testNow.Add(from), testNow.Add(to) }
}

func TestServerJudgesClients(t *testing.T) {
	w := newWorld(t)
	foreign := newTestCA(t, "other", "a", nil)
	departed := newTestCA(t, testCluster, "c", nil)
	// A CA made by the thief of nothing: right names, unknown to the bundle.
	fake := newTestCA(t, testCluster, "a", nil)
	agent, operator, thief := mustKey(t), mustKey(t), mustKey(t)
	const expired, unknown = 1, 2 // expected marks
	for _, tt := range []struct {
		name     string
		protocol string
		cert     *tls.Certificate
		marks    int
		refused  error
	}{
		{"an agent in order", ProtocolGRPC, w.caA.issue(t, agentURI("x"), agent, nil), 0, nil},
		{"an operator in order", ProtocolGRPC, w.caB.issue(t, operatorURI("x"), operator, nil), 0, nil},
		{"a node in order", ProtocolGRPC, w.leafB, 0, nil},
		{"a node in order, raft", ProtocolRaft, w.leafB, 0, nil},
		{"a node under another node's CA", ProtocolRaft, w.caA.issue(t, nodeURI("b"), w.keyB, nil), 0, nil},
		{"an operator, HTTP/1.1", ProtocolHTTP, w.caB.issue(t, operatorURI("x"), operator, nil), 0, nil},
		{"nobody, gRPC", ProtocolGRPC, nil, 0, nil},
		{"nobody, HTTP/1.1", ProtocolHTTP, nil, 0, nil},

		{"an expired agent", ProtocolGRPC, w.caA.issue(t, agentURI("x"), agent, aroundNow(-9*time.Hour, -time.Second)), expired, nil},
		{"an expired operator", ProtocolHTTP, w.caA.issue(t, operatorURI("x"), operator, aroundNow(-9*time.Hour, -time.Second)), expired, nil},
		{"an expired node", ProtocolGRPC, w.caB.issue(t, nodeURI("b"), w.keyB, aroundNow(-9*time.Hour, -time.Second)), expired, nil},
		{"an agent from a node whose clock ran ahead", ProtocolGRPC, w.caA.issue(t, agentURI("x"), agent, aroundNow(time.Hour, 2*time.Hour)), expired, nil},
		{"an agent whose CA has left", ProtocolGRPC, departed.issue(t, agentURI("x"), agent, nil), unknown, nil},
		{"an expired agent whose CA has left", ProtocolGRPC, departed.issue(t, agentURI("x"), agent, aroundNow(-2*time.Hour, -time.Hour)), expired | unknown, nil},
		{"a node whose CA has left", ProtocolGRPC, departed.issue(t, nodeURI("b"), w.keyB, nil), unknown, nil},
		{"a leaf that outlives its CA", ProtocolGRPC, w.caA.issue(t, agentURI("x"), agent, aroundNow(20*365*24*time.Hour, 21*365*24*time.Hour)), expired | unknown, nil},
		{"an agent under a self-made CA with a known name", ProtocolGRPC, fake.issue(t, agentURI("x"), thief, nil), unknown, nil},

		{"a node that was removed", ProtocolGRPC, departed.issue(t, nodeURI("c"), agent, nil), 0, ErrKeyNotRegistered},
		{"a removed node under a good CA", ProtocolRaft, w.caA.issue(t, nodeURI("c"), agent, nil), 0, ErrKeyNotRegistered},
		{"a node minted by a stolen CA", ProtocolRaft, w.caA.issue(t, nodeURI("b"), thief, nil), 0, ErrKeyNotRegistered},
		{"a node minted by a stolen CA, gRPC", ProtocolGRPC, w.caA.issue(t, nodeURI("b"), thief, nil), 0, ErrKeyNotRegistered},
		{"a node with the key of another", ProtocolGRPC, w.caA.issue(t, nodeURI("b"), w.keyA, nil), 0, ErrKeyNotRegistered},
		{"another cluster", ProtocolGRPC, foreign.issue(t, "spiffe://other/node/a", w.keyA, nil), 0, ErrWrongCluster},
		{"another cluster's CA with our names", ProtocolGRPC, foreign.issue(t, agentURI("x"), agent, nil), unknown, nil},
		{"our CA with another cluster's names", ProtocolGRPC, w.caA.issue(t, "spiffe://other/agent/x", agent, nil), 0, ErrWrongCluster},
		{"an agent on raft", ProtocolRaft, w.caA.issue(t, agentURI("x"), agent, nil), 0, ErrWrongKind},
		{"an operator on raft", ProtocolRaft, w.caA.issue(t, operatorURI("x"), operator, nil), 0, ErrWrongKind},
		{"nobody on raft", ProtocolRaft, nil, 0, ErrNoCertificate},
		{"an expired node on raft", ProtocolRaft, w.caB.issue(t, nodeURI("b"), w.keyB, aroundNow(-9*time.Hour, -time.Second)), 0, ErrExpired},
		{"a node whose CA has left, on raft", ProtocolRaft, departed.issue(t, nodeURI("b"), w.keyB, nil), 0, ErrUnknownCA},
		{"an agent on HTTP/1.1", ProtocolHTTP, w.caA.issue(t, agentURI("x"), agent, nil), 0, ErrWrongKind},
		{"a node on HTTP/1.1", ProtocolHTTP, w.leafB, 0, ErrWrongKind},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := w.verifier(t)
			client := v.ClientConfig(tt.protocol, "a", nil)
			if tt.cert != nil {
				client = v.ClientConfig(tt.protocol, "a", shows(tt.cert))
			}
			cs, serverErr, clientErr := handshake(t, v.ServerConfig(serves(w.leafA)), client)
			if tt.refused != nil {
				if !errors.Is(serverErr, tt.refused) {
					t.Fatalf("server: %v, want %v", serverErr, tt.refused)
				}
				if clientErr == nil {
					t.Fatal("the client noticed nothing")
				}
				return
			}
			if serverErr != nil || clientErr != nil {
				t.Fatalf("server: %v, client: %v", serverErr, clientErr)
			}
			p, err := v.Peer(cs)
			if err != nil {
				t.Fatal(err)
			}
			if tt.cert == nil {
				if !p.Anonymous() || p.RenewOnly() {
					t.Fatalf("peer without certificate: %+v", p)
				}
				return
			}
			if p.Anonymous() || p.Expired != (tt.marks&expired != 0) || p.CAUnknown != (tt.marks&unknown != 0) || p.RenewOnly() != (tt.marks != 0) {
				t.Errorf("peer %+v, want marks %b", p, tt.marks)
			}
			if want := tt.cert.Leaf.URIs[0].String(); p.ID.String() != want {
				t.Errorf("peer is %s, want %s", p.ID, want)
			}
			proved, err := MarshalPublicKey(tt.cert.Leaf.PublicKey)
			if err != nil || !p.Key.Equal(proved) {
				t.Errorf("key %v, want %v (%v)", p.Key, proved, err)
			}
		})
	}
}

func TestStolenCAMintsNobodyOthersAccept(t *testing.T) {
	// The registry compares Peer.Key, which no CA can choose.
	w := newWorld(t)
	registered, thief := mustKey(t), mustKey(t)
	v := w.verifier(t)
	cs, serverErr, _ := handshake(t, v.ServerConfig(serves(w.leafA)),
		v.ClientConfig(ProtocolGRPC, "", shows(w.caA.issue(t, agentURI("web-3"), thief, nil))))
	if serverErr != nil {
		t.Fatal(serverErr)
	}
	p, err := v.Peer(cs)
	if err != nil {
		t.Fatal(err)
	}
	if p.Key.Equal(registered.Public()) || !p.Key.Equal(thief.Public()) {
		t.Fatalf("peer %+v passes for the registered key", p)
	}
}

func TestCertificateWithoutItsKeyIsRefused(t *testing.T) {
	w := newWorld(t)
	stolen := *w.leafB
	stolen.PrivateKey = mustKey(t).Signer()
	v := w.verifier(t)
	_, serverErr, _ := handshake(t, v.ServerConfig(serves(w.leafA)), v.ClientConfig(ProtocolRaft, "", shows(&stolen)))
	if serverErr == nil {
		t.Fatal("a certificate shown without its key was accepted")
	}
}

func TestClientJudgesServersStrictly(t *testing.T) {
	w := newWorld(t)
	departed := newTestCA(t, testCluster, "c", nil)
	thief := mustKey(t)
	for _, tt := range []struct {
		name    string
		meant   string
		cert    *tls.Certificate
		refused error
	}{
		{"the node meant", "a", w.leafA, nil},
		{"any node", "", w.leafB, nil},
		{"another node than meant", "a", w.leafB, ErrWrongNode},
		{"expired", "a", w.caA.issue(t, nodeURI("a"), w.keyA, aroundNow(-2*time.Hour, -time.Second)), ErrExpired},
		{"not valid yet", "a", w.caA.issue(t, nodeURI("a"), w.keyA, aroundNow(time.Second, time.Hour)), ErrExpired},
		{"CA not in the bundle", "a", departed.issue(t, nodeURI("a"), w.keyA, nil), ErrUnknownCA},
		{"removed node", "", departed.issue(t, nodeURI("c"), thief, nil), ErrKeyNotRegistered},
		{"minted by a stolen CA", "a", w.caA.issue(t, nodeURI("a"), thief, nil), ErrKeyNotRegistered},
		{"an operator posing as a node", "", w.caA.issue(t, operatorURI("a"), thief, nil), ErrWrongKind},
		{"an agent posing as a node", "", w.caA.issue(t, agentURI("a"), thief, nil), ErrWrongKind},
		{"another cluster", "", newTestCA(t, "other", "a", nil).issue(t, "spiffe://other/node/a", w.keyA, nil), ErrWrongCluster},
		{"for clients only", "a", w.caA.issue(t, nodeURI("a"), w.keyA, func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		}), ErrBadCertificate},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := w.verifier(t)
			_, _, clientErr := handshake(t, v.ServerConfig(serves(tt.cert)), v.ClientConfig(ProtocolGRPC, tt.meant, nil))
			if !errors.Is(clientErr, tt.refused) || (tt.refused == nil) != (clientErr == nil) {
				t.Fatalf("client: %v, want %v", clientErr, tt.refused)
			}
		})
	}
}

func TestLeafFormIsStrict(t *testing.T) {
	w := newWorld(t)
	v := w.verifier(t)
	key := mustKey(t)
	for name, bend := range map[string]func(*x509.Certificate){
		"a host name beside the URI": func(c *x509.Certificate) { c.DNSNames = []string{"a"} },
		"an address beside the URI":  func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 1)} },
		"two URIs":                   func(c *x509.Certificate) { c.URIs = append(c.URIs, mustURL(t, nodeURI("a"))) },
		"no URI":                     func(c *x509.Certificate) { c.URIs = nil },
		"the name of a CA":           func(c *x509.Certificate) { c.URIs = []*url.URL{mustURL(t, CAName(testCluster, "a"))} },
		"an escaped name":            func(c *x509.Certificate) { c.URIs = []*url.URL{mustURL(t, "spiffe://"+testCluster+"/agent/%61")} },
		"a CA":                       func(c *x509.Certificate) { c.IsCA = true },
		"the right to sign":          func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign },
		"no right to authenticate":   func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment },
		"an unknown critical extension": func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}, Critical: true, Value: []byte{5, 0}}}
		},
		"servers only": func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} },
	} {
		t.Run(name, func(t *testing.T) {
			leaf := w.caA.issue(t, agentURI("x"), key, bend)
			cs := tls.ConnectionState{NegotiatedProtocol: ProtocolGRPC, PeerCertificates: []*x509.Certificate{leaf.Leaf}}
			if p, err := v.Peer(cs); !errors.Is(err, ErrBadCertificate) {
				t.Fatalf("Peer = %+v, %v; want ErrBadCertificate", p, err)
			}
			if _, _, _, err := ParseCertificate(leaf.Leaf.Raw); !errors.Is(err, ErrBadCertificate) && name != "servers only" {
				t.Fatalf("ParseCertificate = %v, want ErrBadCertificate", err)
			}
		})
	}
	t.Run("an extension that may be ignored is", func(t *testing.T) {
		leaf := w.caA.issue(t, agentURI("x"), key, func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}, Value: []byte{5, 0}}}
		})
		cs := tls.ConnectionState{NegotiatedProtocol: ProtocolGRPC, PeerCertificates: []*x509.Certificate{leaf.Leaf}}
		if p, err := v.Peer(cs); err != nil || p.RenewOnly() {
			t.Fatalf("Peer = %+v, %v", p, err)
		}
	})
	t.Run("the CA certificate itself", func(t *testing.T) {
		cs := tls.ConnectionState{NegotiatedProtocol: ProtocolGRPC, PeerCertificates: []*x509.Certificate{w.caA.cert}}
		if _, err := v.Peer(cs); !errors.Is(err, ErrBadCertificate) {
			t.Fatalf("Peer = %v", err)
		}
	})
}

func TestConnectionIsJudgedAgain(t *testing.T) {
	w := newWorld(t)
	now := testNow
	v, err := NewVerifier(w.bundle, Wall(func() time.Time { return now }))
	if err != nil {
		t.Fatal(err)
	}
	state := func(c *tls.Certificate) tls.ConnectionState {
		return tls.ConnectionState{NegotiatedProtocol: ProtocolGRPC, PeerCertificates: []*x509.Certificate{c.Leaf}}
	}
	agent := state(w.caB.issue(t, agentURI("x"), mustKey(t), nil))
	if p, err := v.Peer(agent); err != nil || p.RenewOnly() {
		t.Fatalf("at first: %+v, %v", p, err)
	}
	now = testNow.Add(2 * time.Hour)
	if p, err := v.Peer(agent); err != nil || !p.Expired || p.CAUnknown {
		t.Fatalf("when expired: %+v, %v", p, err)
	}
	now = testNow
	next := w.bundle.Clone()
	next.Index++
	next.CAs, next.Nodes = next.CAs[:1], next.Nodes[:1] // b leaves
	if err := v.Update(next); err != nil {
		t.Fatal(err)
	}
	if p, err := v.Peer(agent); err != nil || p.Expired || !p.CAUnknown {
		t.Fatalf("when its CA has left: %+v, %v", p, err)
	}
	if p, err := v.Peer(state(w.leafB)); !errors.Is(err, ErrKeyNotRegistered) {
		t.Fatalf("node b after it was removed: %+v, %v", p, err)
	}
}

// A certificate is out of its time when it is by both clocks.
func TestNeitherClockIsBelievedAlone(t *testing.T) {
	w := newWorld(t)
	var now Moment
	v, err := NewVerifier(w.bundle, func() Moment { return now })
	if err != nil {
		t.Fatal(err)
	}
	// Both are valid for an hour around testNow.
	node := tls.ConnectionState{NegotiatedProtocol: ProtocolRaft, PeerCertificates: []*x509.Certificate{w.leafB.Leaf}}
	agent := tls.ConnectionState{NegotiatedProtocol: ProtocolGRPC, PeerCertificates: []*x509.Certificate{w.caB.issue(t, agentURI("x"), mustKey(t), nil).Leaf}}
	year := 365 * 24 * time.Hour
	for name, tt := range map[string]struct {
		now  Moment
		good bool
	}{
		"both are right":                             {Moment{testNow, testNow}, true},
		"the machine's clock was set back":           {Moment{testNow.Add(-year), testNow}, true},
		"the machine's clock is ahead":               {Moment{testNow.Add(year), testNow}, true},
		"a majority of clocks was ahead once":        {Moment{testNow, testNow.Add(year)}, true},
		"the cluster's time is not known":            {Moment{Own: testNow}, true},
		"set back, and the cluster's is not known":   {Moment{Own: testNow.Add(-year)}, false},
		"ahead, and the cluster's time is not known": {Moment{Own: testNow.Add(year)}, false},
		"it has ended by both":                       {Moment{testNow.Add(3 * time.Hour), testNow.Add(year)}, false},
		"it has not begun by either, however wrong":  {Moment{testNow.Add(-year), testNow.Add(-3 * time.Hour)}, false},
	} {
		now = tt.now
		if p, err := v.Peer(agent); err != nil || p.Expired == tt.good || p.CAUnknown {
			t.Errorf("%s: agent %+v, %v; want expired %v", name, p, err, !tt.good)
		}
		if _, err := v.Peer(node); (err == nil) != tt.good || err != nil && !errors.Is(err, ErrExpired) {
			t.Errorf("%s: node %v; want good %v", name, err, tt.good)
		}
	}
}

func TestLeanIsBounded(t *testing.T) {
	for name, tt := range map[string]struct {
		cluster time.Time
		want    time.Duration
	}{
		"unknown":    {time.Time{}, 0},
		"ahead":      {testNow.Add(time.Minute), time.Minute},
		"behind":     {testNow.Add(-time.Minute), -time.Minute},
		"far ahead":  {testNow.Add(100 * time.Hour), time.Hour},
		"far behind": {testNow.Add(-100 * time.Hour), -time.Hour},
	} {
		if got := (Moment{Own: testNow, Cluster: tt.cluster}).Lean(time.Hour); got != tt.want {
			t.Errorf("%s: Lean = %v, want %v", name, got, tt.want)
		}
	}
}

func TestTrustInACAMayEndEarly(t *testing.T) {
	w := newWorld(t)
	w.bundle.CAs[0].NotAfter = testNow.Add(time.Minute)
	now := testNow
	v, err := NewVerifier(w.bundle, Wall(func() time.Time { return now }))
	if err != nil {
		t.Fatal(err)
	}
	agent := w.caA.issue(t, agentURI("x"), mustKey(t), nil)
	cs := tls.ConnectionState{NegotiatedProtocol: ProtocolGRPC, PeerCertificates: []*x509.Certificate{agent.Leaf}}
	for _, tt := range []struct {
		after   time.Duration
		unknown bool
	}{{0, false}, {time.Minute, false}, {time.Minute + time.Second, true}} {
		now = testNow.Add(tt.after)
		if p, err := v.Peer(cs); err != nil || p.CAUnknown != tt.unknown {
			t.Errorf("after %v: %+v, %v; want CAUnknown %v", tt.after, p, err, tt.unknown)
		}
	}
}

func TestOldTLSIsRefused(t *testing.T) {
	w := newWorld(t)
	v := w.verifier(t)
	client := v.ClientConfig(ProtocolGRPC, "", nil)
	client.MinVersion, client.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if _, serverErr, clientErr := handshake(t, v.ServerConfig(serves(w.leafA)), client); serverErr == nil || clientErr == nil {
		t.Errorf("a TLS 1.2 client got in: %v, %v", serverErr, clientErr)
	}
	server := v.ServerConfig(serves(w.leafA))
	server.MinVersion, server.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if _, serverErr, clientErr := handshake(t, server, v.ClientConfig(ProtocolGRPC, "", nil)); serverErr == nil || clientErr == nil {
		t.Errorf("a TLS 1.2 server was taken: %v, %v", serverErr, clientErr)
	}
}

func TestNoSessionIsResumed(t *testing.T) {
	// A resumed session would not prove the key again.
	w := newWorld(t)
	v := w.verifier(t)
	client := v.ClientConfig(ProtocolGRPC, "", shows(w.leafB))
	client.SessionTicketsDisabled, client.ClientSessionCache = false, tls.NewLRUClientSessionCache(8)
	client.ServerName = "a" // the key of the cache
	server := v.ServerConfig(serves(w.leafA))
	for range 3 {
		cs, serverErr, clientErr := handshake(t, server, client)
		if serverErr != nil || clientErr != nil || cs.DidResume {
			t.Fatalf("resumed = %v, %v, %v", cs.DidResume, serverErr, clientErr)
		}
	}
}

func TestProtocolsAreToldApart(t *testing.T) {
	w := newWorld(t)
	v := w.verifier(t)
	for _, tt := range []struct {
		name   string
		offers []string
		want   string
		fails  bool
	}{
		{"a client that offers both is given HTTP/1.1", []string{"h2", "http/1.1"}, ProtocolHTTP, false},
		{"gRPC", []string{"h2"}, ProtocolGRPC, false},
		{"no ALPN", nil, "", false},
		{"an unknown protocol", []string{"ftp"}, "", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			client := UntrustedClientConfig(ProtocolGRPC)
			client.NextProtos, client.VerifyConnection = tt.offers, nil
			cs, serverErr, _ := handshake(t, v.ServerConfig(serves(w.leafA)), client)
			if (serverErr != nil) != tt.fails || cs.NegotiatedProtocol != tt.want {
				t.Fatalf("got %q, %v; want %q", cs.NegotiatedProtocol, serverErr, tt.want)
			}
		})
	}
	// A server that ignores ALPN is not one of ours.
	server := v.ServerConfig(serves(w.leafA))
	server.NextProtos, server.VerifyConnection = nil, nil
	for _, client := range []*tls.Config{UntrustedClientConfig(ProtocolGRPC), v.ClientConfig(ProtocolGRPC, "", nil)} {
		if _, _, clientErr := handshake(t, server, client); clientErr == nil {
			t.Error("a server without ALPN was taken")
		}
	}
}

func TestNewcomerLearnsTheBundleAndReconnectsVerified(t *testing.T) {
	w := newWorld(t)
	server := w.verifier(t).ServerConfig(serves(w.leafA))
	if _, serverErr, clientErr := handshake(t, server, UntrustedClientConfig(ProtocolGRPC)); serverErr != nil || clientErr != nil {
		t.Fatalf("first connection: %v, %v", serverErr, clientErr)
	}
	x := newExchange(t, w.bundle)
	b, err := x.token.OpenBundle(x.s, x.proof)
	if err != nil {
		t.Fatal(err)
	}
	v, err := NewVerifier(b, Wall(testClock))
	if err != nil {
		t.Fatal(err)
	}
	if _, serverErr, clientErr := handshake(t, server, v.ClientConfig(ProtocolGRPC, "", nil)); serverErr != nil || clientErr != nil {
		t.Fatalf("second connection: %v, %v", serverErr, clientErr)
	}
}

func TestNewCertificateRefusesAnotherKey(t *testing.T) {
	w := newWorld(t)
	if c, err := NewCertificate(w.keyA, w.leafA.Certificate[0]); err != nil || c.Leaf == nil {
		t.Fatalf("NewCertificate = %v, %v", c, err)
	}
	for name, k := range map[string]Key{"another key": w.keyB, "no key": {}} {
		if _, err := NewCertificate(k, w.leafA.Certificate[0]); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := NewCertificate(w.caA.key, w.caA.cert.Raw); !errors.Is(err, ErrBadCertificate) {
		t.Errorf("a CA certificate as a leaf: %v", err)
	}
}

func TestRenewalDue(t *testing.T) {
	c := &x509.Certificate{NotBefore: testNow, NotAfter: testNow.Add(10 * time.Hour)}
	for _, tt := range []struct {
		name  string
		after time.Duration
		want  bool
	}{
		{"when fresh", 0, false},
		{"just before half life", 5*time.Hour - 1, false},
		{"at half life", 5 * time.Hour, true},
		{"when expired", 11 * time.Hour, true},
		{"when the clock was set back", -time.Second, true},
	} {
		if got := RenewalDue(c, testNow.Add(tt.after)); got != tt.want {
			t.Errorf("%s: RenewalDue = %v, want %v", tt.name, got, tt.want)
		}
	}
}

func FuzzPeer(f *testing.F) {
	w := newWorld(f)
	v := w.verifier(f)
	f.Add(w.leafA.Certificate[0])
	f.Add(w.caA.cert.Raw)
	f.Add(w.caA.issue(f, agentURI("x"), mustKey(f), nil).Certificate[0])
	f.Fuzz(func(t *testing.T, der []byte) {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		for _, protocol := range []string{ProtocolGRPC, ProtocolRaft, ProtocolHTTP} {
			p, err := v.Peer(tls.ConnectionState{NegotiatedProtocol: protocol, PeerCertificates: []*x509.Certificate{cert}})
			if err != nil {
				continue
			}
			known := slices.ContainsFunc(w.bundle.Nodes, func(n NodeKey) bool { return n.NodeID == p.ID.Name && n.Key.Equal(p.Key) })
			if p.Anonymous() || p.ID.Cluster != testCluster || p.ID.Kind == KindNode && !known {
				t.Fatalf("%s: accepted %+v", protocol, p)
			}
		}
	})
}
