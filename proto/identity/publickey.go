package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
)

// maxPublicKeyBytes is far above what an Ed25519 (44) or P-256 (91) key needs.
const maxPublicKeyBytes = 256

// PublicKey is the DER form of a SubjectPublicKeyInfo: the bytes that are
// registered, compared and fingerprinted.
type PublicKey []byte

// MarshalPublicKey turns a key of the crypto packages into a PublicKey. Only
// Ed25519 and ECDSA P-256 are accepted.
func MarshalPublicKey(pub any) (PublicKey, error) {
	switch k := pub.(type) {
	case ed25519.PublicKey:
		if len(k) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("public key: an Ed25519 key of %d bytes", len(k))
		}
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return nil, errors.New("public key: of the ECDSA curves only P-256 is accepted")
		}
	default:
		return nil, fmt.Errorf("public key: type %T is not accepted; use Ed25519 or ECDSA P-256", pub)
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	return der, nil
}

// Validate says whether the bytes are an accepted key in its one canonical form.
func (k PublicKey) Validate() error {
	_, err := k.Parse()
	return err
}

// Parse returns the key as the crypto packages know it.
func (k PublicKey) Parse() (any, error) {
	if len(k) == 0 || len(k) > maxPublicKeyBytes {
		return nil, fmt.Errorf("public key: %d bytes, want 1 to %d", len(k), maxPublicKeyBytes)
	}
	pub, err := x509.ParsePKIXPublicKey(k)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	again, err := MarshalPublicKey(pub)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(k, again) {
		return nil, errors.New("public key: not in canonical form")
	}
	return pub, nil
}

// Equal says whether both are the same key. No key equals the empty one.
func (k PublicKey) Equal(other PublicKey) bool {
	return len(k) > 0 && bytes.Equal(k, other)
}

// Fingerprint returns the printed form SHA256:… of the key.
func (k PublicKey) Fingerprint() string {
	sum := sha256.Sum256(k)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}

// String returns the fingerprint: what logs and errors should show.
func (k PublicKey) String() string { return k.Fingerprint() }
