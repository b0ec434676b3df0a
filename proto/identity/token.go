package identity

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

const (
	tokenPrefix = "apt1"
	keyBytes    = 32
	// The longest "TOKEN@HOST:PORT" that is looked at.
	maxTokenBytes = 512

	infoProof         = "agentplane token 1: bundle proof"
	infoAuthenticator = "agentplane token 1: authenticator"
	infoSecret        = "agentplane token 1: secret"
)

var tokenEncoding = base64.RawURLEncoding.Strict()

// Token invites one newcomer or several to a cluster. Its printed form hides the
// secret. The zero value is no token.
type Token struct {
	id     string
	secret Secret
}

// NewToken makes a token with a new UUIDv7 as id and a random secret. It is the
// operator's program that calls this: nodes never see the secret.
func NewToken() (Token, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return Token{}, fmt.Errorf("make token: %w", err)
	}
	return NewTokenWithID(id.String())
}

// NewTokenWithID is NewToken with an id chosen by the caller, a UUID in its
// lower-case form.
func NewTokenWithID(id string) (Token, error) {
	if err := validateTokenID(id); err != nil {
		return Token{}, fmt.Errorf("make token: %w", err)
	}
	b := make([]byte, keyBytes)
	if _, err := rand.Read(b); err != nil {
		return Token{}, fmt.Errorf("make token: %w", err)
	}
	return Token{id: id, secret: NewSecret(b)}, nil
}

// DeriveToken makes the token of that id whose secret only the holder of the key can make,
// and makes again: whoever repeats the creation of a token says the same a second time.
func DeriveToken(key Key, cluster, id string) (Token, error) {
	if err := validateTokenID(id); err != nil {
		return Token{}, fmt.Errorf("make token: %w", err)
	}
	text, err := key.MarshalPEM()
	if err != nil {
		return Token{}, fmt.Errorf("make token: %w", err)
	}
	b, err := hkdf.Key(sha256.New, text, nil, infoSecret+"\x00"+cluster+"\x00"+id, keyBytes)
	if err != nil {
		return Token{}, fmt.Errorf("make token: %w", err)
	}
	return Token{id: id, secret: NewSecret(b)}, nil
}

// ParseToken reads the form apt1.ID.SECRET. Errors never quote the secret.
func ParseToken(s string) (Token, error) {
	if len(s) > maxTokenBytes {
		return Token{}, fmt.Errorf("parse token: %d bytes is above the maximum %d", len(s), maxTokenBytes)
	}
	parts := strings.Split(s, ".")
	if len(parts) != 3 || parts[0] != tokenPrefix {
		return Token{}, fmt.Errorf("parse token %s: want the form %s.ID.SECRET; was it copied whole?", ShownToken(s), tokenPrefix)
	}
	if err := validateTokenID(parts[1]); err != nil {
		return Token{}, fmt.Errorf("parse token: %w", err)
	}
	// Decode skips line breaks, so the length is checked before and after.
	if want := tokenEncoding.EncodedLen(keyBytes); len(parts[2]) != want {
		return Token{}, fmt.Errorf("parse token %s: its secret has %d characters, want %d; was it copied whole?", parts[1], len(parts[2]), want)
	}
	b, err := tokenEncoding.DecodeString(parts[2])
	if err != nil || len(b) != keyBytes {
		return Token{}, fmt.Errorf("parse token %s: its secret is not base64url; was it copied whole?", parts[1])
	}
	return Token{id: parts[1], secret: NewSecret(b)}, nil
}

// maxShownToken is below the length of a secret.
const maxShownToken = 36

// ShownToken names a text that should be a token, or the id of one, without any part of it
// that may be a secret.
func ShownToken(s string) string {
	parts := strings.Split(s, ".")
	switch {
	case len(parts) >= 2 && parts[0] == tokenPrefix && validateTokenID(parts[1]) == nil:
		return strconv.Quote(tokenPrefix + "." + parts[1] + ".…")
	case len(parts) == 1 && len(s) <= maxShownToken:
		return strconv.Quote(s)
	default:
		return "this text"
	}
}

// ParseTokenAt reads TOKEN@HOST:PORT, the form in one word, or TOKEN alone, for
// which the address is empty.
func ParseTokenAt(s string) (Token, string, error) {
	text, addr, at := strings.Cut(s, "@")
	t, err := ParseToken(text)
	if err != nil {
		return Token{}, "", err
	}
	if !at {
		return t, "", nil
	}
	if err := ValidateAddress(addr); err != nil {
		return Token{}, "", fmt.Errorf("parse token %s: %w", t.id, err)
	}
	return t, addr, nil
}

// ValidateAddress says whether the address has the form HOST:PORT with a port
// from 1 to 65535. The host is a name or an IP address, IPv6 in brackets.
func ValidateAddress(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("address %.100q: want HOST:PORT", addr)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || port != strconv.FormatUint(n, 10) {
		return fmt.Errorf("address %.100q: port %.20q is not a number from 1 to 65535", addr, port)
	}
	if host == "" || len(host) > 255 || strings.ContainsFunc(host, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("/@,\"\\", r) }) {
		return fmt.Errorf("address %.100q: %.100q is not a host", addr, host)
	}
	return nil
}

func validateTokenID(id string) error {
	if u, err := uuid.Parse(id); err != nil || u.String() != id {
		return fmt.Errorf("token id %.64q is not a lower-case UUID", id)
	}
	return nil
}

// ID returns the public half, which names the token in lists and errors.
func (t Token) ID() string { return t.id }

// IsZero says whether this is no token.
func (t Token) IsZero() bool { return t.id == "" }

// Reveal returns the whole token as ParseToken reads it.
func (t Token) Reveal() string {
	return tokenPrefix + "." + t.id + "." + tokenEncoding.EncodeToString(t.secret.Reveal())
}

// Format prints the token without its secret, whatever the verb.
func (t Token) Format(f fmt.State, _ rune) {
	_, _ = f.Write([]byte(tokenPrefix + "." + t.id + "." + redacted))
}

// LogValue gives logs the token without its secret.
func (t Token) LogValue() slog.Value { return slog.StringValue(fmt.Sprint(t)) }

// MarshalText fails, so that no encoder writes a token by accident.
func (t Token) MarshalText() ([]byte, error) {
	return nil, errors.New("a token is not marshalled by accident; use Reveal")
}

// Authenticator returns what the newcomer sends to show that it has the token.
// It is sent only over a connection verified against the token's bundle.
func (t Token) Authenticator() Secret { return t.derive(infoAuthenticator) }

// Record returns what the cluster stores of the token.
func (t Token) Record() TokenRecord {
	sum := sha256.Sum256(t.Authenticator().Reveal())
	return TokenRecord{ID: t.id, ProofKey: t.derive(infoProof), AuthenticatorHash: sum[:]}
}

func (t Token) derive(info string) Secret {
	// The id as salt: two tokens share no key even if they shared a secret.
	key, err := hkdf.Key(sha256.New, t.secret.Reveal(), []byte(t.id), info, keyBytes)
	if err != nil {
		// Only a length or, under FIPS 140, a secret that is too short can fail.
		panic(fmt.Sprintf("identity: derive a key from token %s: %v", t.id, err))
	}
	return NewSecret(key)
}

// TokenRecord is what nodes know of a token: enough to check it and to prove the
// bundle to its holder, not enough to use it.
type TokenRecord struct {
	ID                string
	ProofKey          Secret
	AuthenticatorHash []byte
}

// Validate says what is wrong with a record that came over a wire.
func (r TokenRecord) Validate() error {
	if err := validateTokenID(r.ID); err != nil {
		return err
	}
	if r.ProofKey.Len() != keyBytes {
		return fmt.Errorf("token %s: proof key of %d bytes, want %d", r.ID, r.ProofKey.Len(), keyBytes)
	}
	if len(r.AuthenticatorHash) != sha256.Size {
		return fmt.Errorf("token %s: authenticator hash of %d bytes, want %d", r.ID, len(r.AuthenticatorHash), sha256.Size)
	}
	return nil
}

// Check says, in constant time, whether the authenticator is that of the token.
// Whether the token may still be used is decided elsewhere.
func (r TokenRecord) Check(authenticator Secret) bool {
	sum := sha256.Sum256(authenticator.Reveal())
	return len(r.AuthenticatorHash) == sha256.Size && subtle.ConstantTimeCompare(sum[:], r.AuthenticatorHash) == 1
}
