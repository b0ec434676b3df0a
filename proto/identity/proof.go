package identity

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// NonceBytes is the length of the number that a newcomer uses once.
const NonceBytes = 32

// proofDomain begins what is authenticated, so that the key proves nothing else.
const proofDomain = "agentplane bundle proof 1\n"

// Statement is what a node says to a newcomer that trusts nobody yet.
type Statement struct {
	Bundle      []byte // as sent: nobody serializes it again
	ClusterID   string
	Incarnation Incarnation
	Nonce       []byte // chosen by the newcomer
}

// NewNonce returns a random nonce.
func NewNonce() ([]byte, error) {
	b := make([]byte, NonceBytes)
	if _, err := rand.Read(b); err != nil {
		return nil, fmt.Errorf("make nonce: %w", err)
	}
	return b, nil
}

// Prove returns the proof by which the holder of the token believes the
// statement.
func (r TokenRecord) Prove(s Statement) ([]byte, error) {
	if err := r.Validate(); err != nil {
		return nil, fmt.Errorf("prove bundle: %w", err)
	}
	return prove(r.ProofKey, s)
}

func prove(key Secret, s Statement) ([]byte, error) {
	if len(s.Nonce) != NonceBytes {
		return nil, fmt.Errorf("prove bundle: nonce of %d bytes, want %d", len(s.Nonce), NonceBytes)
	}
	mac := hmac.New(sha256.New, key.Reveal())
	mac.Write(s.encode())
	return mac.Sum(nil), nil
}

// encode is injective: each field that varies in length follows its length.
func (s Statement) encode() []byte {
	b := []byte(proofDomain)
	field := func(data []byte) {
		b = binary.BigEndian.AppendUint64(b, uint64(len(data)))
		b = append(b, data...)
	}
	field(s.Bundle)
	field([]byte(s.ClusterID))
	b = binary.BigEndian.AppendUint64(b, s.Incarnation.Number)
	field([]byte(s.Incarnation.ID))
	field(s.Nonce)
	return b
}

// OpenBundle returns the bundle in the statement once the proof shows that its
// sender knows the token, and that it answers the nonce in the statement, which
// must be the one that the caller chose for this one exchange. Nothing of the
// statement is looked at before the proof holds.
func (t Token) OpenBundle(s Statement, proof []byte) (*Bundle, error) {
	if t.IsZero() {
		return nil, fmt.Errorf("open bundle: there is no token: %w", ErrBadProof)
	}
	want, err := prove(t.derive(infoProof), s)
	if err != nil {
		return nil, fmt.Errorf("open bundle: %w", err)
	}
	if !hmac.Equal(want, proof) {
		return nil, fmt.Errorf("open bundle: %w: token %s is of another cluster, or somebody sits between", ErrBadProof, t.id)
	}
	b, err := ParseBundle(s.Bundle)
	if err != nil {
		return nil, fmt.Errorf("open bundle: %w", err)
	}
	if b.ClusterID != s.ClusterID || b.Incarnation != s.Incarnation {
		return nil, fmt.Errorf("open bundle: it is of cluster %q incarnation %v, announced as cluster %q incarnation %v",
			b.ClusterID, b.Incarnation, s.ClusterID, s.Incarnation)
	}
	return b, nil
}
