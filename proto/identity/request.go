package identity

import (
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
)

// maxRequestBytes is far above what CreateRequest makes (under 300 bytes).
const maxRequestBytes = 8 << 10

// CreateRequest returns the DER form of a PKCS #10 certificate request in which
// id asks for a certificate over the key.
func CreateRequest(key Key, id ID) ([]byte, error) {
	if key.IsZero() {
		return nil, errors.New("create certificate request: there is no key")
	}
	if err := id.Validate(); err != nil {
		return nil, fmt.Errorf("create certificate request: %w", err)
	}
	uri, err := url.Parse(id.String())
	if err != nil {
		return nil, fmt.Errorf("create certificate request: %w", err)
	}
	template := &x509.CertificateRequest{URIs: []*url.URL{uri}}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key.Signer())
	if err != nil {
		return nil, fmt.Errorf("create certificate request: %w", err)
	}
	return der, nil
}

// ParseRequest returns who asks and with which key. Its signature proves that
// the sender had the key; that it may have the name is for the caller to decide.
func ParseRequest(der []byte) (ID, PublicKey, error) {
	fail := func(err error) (ID, PublicKey, error) {
		return ID{}, nil, fmt.Errorf("parse certificate request: %w", err)
	}
	if len(der) > maxRequestBytes {
		return fail(fmt.Errorf("%d bytes is above the maximum %d", len(der), maxRequestBytes))
	}
	req, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return fail(err)
	}
	if err := req.CheckSignature(); err != nil {
		return fail(err)
	}
	key, err := MarshalPublicKey(req.PublicKey)
	if err != nil {
		return fail(err)
	}
	if len(req.URIs) != 1 || len(req.DNSNames)+len(req.IPAddresses)+len(req.EmailAddresses) > 0 {
		return fail(errors.New("want one URI as the only subject alternative name"))
	}
	id, err := ParseID(req.URIs[0].String())
	if err != nil {
		return fail(err)
	}
	return id, key, nil
}
