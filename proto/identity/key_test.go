package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestOpenKeyMakesAndThenLoads(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.key")
	first, err := OpenKey(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("mode of the key file is %#o, want 0600", got)
	}
	second, err := OpenKey(path)
	if err != nil {
		t.Fatal(err)
	}
	if !first.Public().Equal(second.Public()) {
		t.Errorf("second OpenKey gave %v, want %v", second, first)
	}
}

func TestLoadKeyRefuses(t *testing.T) {
	good, err := mustKey(t).MarshalPEM()
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaDER, err := x509.MarshalPKCS8PrivateKey(rsaKey)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		text  []byte
		mode  os.FileMode
		fault string
	}{
		{"a file that others may read", good, 0o644, "chmod 600"},
		{"a file that the group may write", good, 0o620, "chmod 600"},
		{"an empty file", nil, 0o600, "no PEM block"},
		{"a truncated file", good[:len(good)/2], 0o600, "no PEM block"},
		{"two keys", append(bytes.Clone(good), good...), 0o600, "something follows"},
		{"a certificate", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}}), 0o600, "not a \"PRIVATE KEY\""},
		{"not a key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}}), 0o600, "not a PKCS #8 key"},
		{"an RSA key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: rsaDER}), 0o600, "is not accepted"},
		{"a huge file", bytes.Repeat([]byte("x"), maxKeyBytes+1), 0o600, "longer than the maximum"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "node.key")
			if err := os.WriteFile(path, tt.text, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, tt.mode); err != nil {
				t.Fatal(err)
			}
			_, err := LoadKey(path)
			if err == nil || !strings.Contains(err.Error(), tt.fault) || !strings.Contains(err.Error(), path) {
				t.Fatalf("LoadKey = %v, want an error with %q and the path", err, tt.fault)
			}
			// A key that cannot be read is never replaced by a new one.
			if _, err := OpenKey(path); err == nil {
				t.Fatal("OpenKey replaced a key that it could not read")
			}
		})
	}
	if _, err := LoadKey(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("LoadKey of a missing file = %v, want fs.ErrNotExist", err)
	}
	if _, err := LoadKey(t.TempDir()); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("LoadKey of a directory = %v", err)
	}
}

func TestECDSAKeysAreReadToo(t *testing.T) {
	for curve, ok := range map[elliptic.Curve]bool{elliptic.P256(): true, elliptic.P384(): false} {
		private, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(private)
		if err != nil {
			t.Fatal(err)
		}
		k, err := ParseKey(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
		if (err == nil) != ok {
			t.Errorf("ParseKey of a %s key = %v", curve.Params().Name, err)
		}
		if ok && k.Public().Validate() != nil {
			t.Errorf("public half of a %s key: %v", curve.Params().Name, k.Public().Validate())
		}
	}
}

func TestFingerprintIsPinned(t *testing.T) {
	// An Ed25519 SPKI of 32 zero bytes, hashed with sha256sum and base64.
	spki, err := base64.StdEncoding.DecodeString("MCowBQYDK2VwAyEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")
	if err != nil {
		t.Fatal(err)
	}
	const want = "SHA256:ciq9EumaU2fzda65ZyqOB3EuA8Kt0W+o1pFNHPou/gw"
	if got := PublicKey(spki).Fingerprint(); got != want {
		t.Errorf("Fingerprint = %s, want %s", got, want)
	}
}

func TestPublicKeyRefusesOtherForms(t *testing.T) {
	good := mustKey(t).Public()
	for name, k := range map[string]PublicKey{
		"empty":         nil,
		"trailing byte": append(bytes.Clone(good), 0),
		"truncated":     good[:len(good)-1],
		"huge":          make(PublicKey, maxPublicKeyBytes+1),
	} {
		if err := k.Validate(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if PublicKey(nil).Equal(nil) {
		t.Error("two empty keys are equal: an unregistered key would pass for a missing one")
	}
}

// nested holds secrets in fields that fmt prints without asking their methods.
type nested struct {
	key    Key
	secret Secret
	token  Token
	inner  struct{ secrets []Secret }
}

func TestNothingPrintsASecret(t *testing.T) {
	token, err := NewToken()
	if err != nil {
		t.Fatal(err)
	}
	const clear = "correct horse battery staple"
	n := nested{key: mustKey(t), secret: NewSecret([]byte(clear)), token: token}
	n.inner.secrets = []Secret{n.secret}
	pemText, err := n.key.MarshalPEM()
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(pemText)
	private := block.Bytes[len(block.Bytes)-32:]
	raw := token.secret.Reveal()
	leaks := []string{clear, strings.Split(token.Reveal(), ".")[2]}
	for _, b := range [][]byte{[]byte(clear), private, raw} {
		leaks = append(leaks, fmt.Sprintf("%x", b), fmt.Sprintf("%X", b), strings.Trim(fmt.Sprint(b), "[]"), string(b),
			base64.StdEncoding.EncodeToString(b), strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", b), "[]byte{"), "}"))
	}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%b"} {
		fmt.Fprintf(&out, verb+"\n", n)
		fmt.Fprintf(&out, verb+"\n", &n)
		fmt.Fprintf(&out, verb+" "+verb+" "+verb+"\n", n.key, n.secret, n.token)
		fmt.Fprintf(&out, verb+" "+verb+"\n", token.Record(), []any{n.key, n.secret, n.token})
	}
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(h).Info("test", "key", n.key, "secret", n.secret, "token", n.token, "nested", n, "record", token.Record())
	}
	for _, v := range []any{n.key, n.secret, n.token, token.Record()} {
		text, err := json.Marshal(v)
		if err == nil {
			t.Errorf("json.Marshal(%T) did not fail: %s", v, text)
		}
		out.Write(text)
	}
	for i, leak := range leaks {
		if strings.Contains(out.String(), leak) {
			t.Errorf("leak %d: output contains %q", i, leak)
		}
	}
	if !strings.Contains(out.String(), token.ID()) {
		t.Error("the id of a token is public and should be shown")
	}
}

func TestReplaceFileReplacesWhole(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x")
	if err := os.WriteFile(path, []byte("old and longer"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := ReplaceFile(path, []byte("new")); err != nil {
		t.Fatal(err)
	}
	got, err := ReadSecretFile(path, 100) // which checks the mode
	if err != nil || string(got) != "new" {
		t.Fatalf("read %q, %v", got, err)
	}
	// A failing replacement leaves nothing behind: here the target is a directory.
	sub := filepath.Join(dir, "sub")
	if err := os.MkdirAll(filepath.Join(sub, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := ReplaceFile(sub, []byte("new")); err == nil {
		t.Fatal("a directory was replaced by a file")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if IsTemp(e.Name()) {
			t.Errorf("%s was left behind", e.Name())
		}
	}
}
