package identity

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
)

const (
	keyPEMType  = "PRIVATE KEY"
	maxKeyBytes = 16 << 10
)

// Key is a private key. It never leaves the machine it was made on, and prints
// as its fingerprint. The zero value is no key.
type Key struct {
	private func() *privateKey // a function for the reason given at Secret
}

type privateKey struct {
	signer crypto.Signer
	public PublicKey
}

// GenerateKey makes a new Ed25519 key.
func GenerateKey() (Key, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Key{}, fmt.Errorf("generate key: %w", err)
	}
	return newKey(private)
}

func newKey(signer crypto.Signer) (Key, error) {
	public, err := MarshalPublicKey(signer.Public())
	if err != nil {
		return Key{}, err
	}
	k := &privateKey{signer: signer, public: public}
	return Key{private: func() *privateKey { return k }}, nil
}

// ParseKey reads the form that MarshalPEM writes: one PKCS #8 block and nothing
// behind it. Errors never quote the input.
func ParseKey(text []byte) (Key, error) {
	if len(text) > maxKeyBytes {
		return Key{}, fmt.Errorf("parse key: %d bytes is above the maximum %d", len(text), maxKeyBytes)
	}
	block, rest := pem.Decode(text)
	switch {
	case block == nil:
		return Key{}, errors.New("parse key: no PEM block")
	case block.Type != keyPEMType:
		return Key{}, fmt.Errorf("parse key: PEM block is not a %q", keyPEMType)
	case len(bytes.TrimSpace(rest)) > 0:
		return Key{}, errors.New("parse key: something follows the PEM block")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return Key{}, errors.New("parse key: the PEM block is not a PKCS #8 key")
	}
	signer, ok := parsed.(crypto.Signer)
	if !ok {
		return Key{}, fmt.Errorf("parse key: type %T cannot sign", parsed)
	}
	k, err := newKey(signer)
	if err != nil {
		return Key{}, fmt.Errorf("parse key: %w", err)
	}
	return k, nil
}

// ErrDamagedKey says that a file holds no key, though it should.
var ErrDamagedKey = errors.New("damaged file")

// LoadKey reads the key in the file, which nobody but its owner may access.
func LoadKey(path string) (Key, error) {
	text, err := ReadSecretFile(path, maxKeyBytes)
	if err != nil {
		return Key{}, fmt.Errorf("load key: %w", err)
	}
	k, err := ParseKey(text)
	if err != nil {
		return Key{}, fmt.Errorf("load key: %w %q: %w", ErrDamagedKey, path, err)
	}
	return k, nil
}

// OpenKey loads the key in the file, or makes one and stores it when there is no
// file. A key that it returns is on disk. Two calls for one path must not run at
// once: the lock of the directory is the caller's.
func OpenKey(path string) (Key, error) {
	k, err := LoadKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	if k, err = GenerateKey(); err != nil {
		return Key{}, err
	}
	if err := k.Store(path); err != nil {
		return Key{}, err
	}
	return k, nil
}

// Store writes the key to the file with mode 0600, durably and atomically.
func (k Key) Store(path string) error {
	text, err := k.MarshalPEM()
	if err != nil {
		return err
	}
	if err := ReplaceFile(path, text); err != nil {
		return fmt.Errorf("store key: %w", err)
	}
	return nil
}

// MarshalPEM returns the private key as text. Whoever asks has to keep it.
func (k Key) MarshalPEM() ([]byte, error) {
	if k.IsZero() {
		return nil, errors.New("marshal key: there is none")
	}
	der, err := x509.MarshalPKCS8PrivateKey(k.private().signer)
	if err != nil {
		return nil, fmt.Errorf("marshal key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: keyPEMType, Bytes: der}), nil
}

// IsZero says whether this is no key.
func (k Key) IsZero() bool { return k.private == nil }

// Public returns the public half, nil for the zero Key. The caller must not
// write to it.
func (k Key) Public() PublicKey {
	if k.IsZero() {
		return nil
	}
	return k.private().public
}

// Signer returns what signs with the key, nil for the zero Key.
func (k Key) Signer() crypto.Signer {
	if k.IsZero() {
		return nil
	}
	return k.private().signer
}

// Format prints the fingerprint of the public half, whatever the verb.
func (k Key) Format(f fmt.State, _ rune) {
	if k.IsZero() {
		_, _ = f.Write([]byte("no key"))
		return
	}
	_, _ = f.Write([]byte(k.Public().Fingerprint()))
}

// LogValue gives logs the fingerprint.
func (k Key) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(k)) }

// MarshalText fails, so that no encoder writes a key by accident.
func (k Key) MarshalText() ([]byte, error) {
	return nil, errors.New("a private key is not marshalled by accident; use MarshalPEM")
}
