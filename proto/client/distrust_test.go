package client

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"testing"
	"time"
)

// shake lets a client shake hands over TLS 1.3 and answers what it met, there or
// when it reads: the refusal of its certificate comes after its own handshake.
func shake(t *testing.T, server, dials *tls.Config) error {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	both := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	server.Certificates, dials.Certificates, dials.InsecureSkipVerify = []tls.Certificate{both}, []tls.Certificate{both}, true
	server.MinVersion, dials.MinVersion = tls.VersionTLS13, tls.VersionTLS13
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	defer func() { <-done }()
	go func() {
		defer close(done)
		raw, err := l.Accept()
		if err != nil {
			return
		}
		_ = tls.Server(raw, server).Handshake() // the other side tells what came of it
		_ = raw.Close()
	}()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	c := tls.Client(raw, dials)
	if err := c.Handshake(); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 1))
	return err
}

func TestANodeThatStartsDistrustsNobody(t *testing.T) {
	starting := shake(t, &tls.Config{NextProtos: []string{"http/1.1"}}, &tls.Config{NextProtos: []string{"h2"}})
	if starting == nil || distrusted(starting) {
		t.Errorf("no gRPC yet: %v is taken for a verdict", starting)
	}
	refused := shake(t, &tls.Config{
		ClientAuth:            tls.RequireAnyClientCert,
		VerifyPeerCertificate: func([][]byte, [][]*x509.Certificate) error { return errors.New("nobody knows it") },
	}, &tls.Config{})
	if refused == nil || !distrusted(refused) {
		t.Errorf("a refused certificate: %v is not taken for a verdict", refused)
	}
}
