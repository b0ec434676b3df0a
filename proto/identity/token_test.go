package identity

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const (
	sampleTokenID = "0199f3a2-7c1e-7b22-9d0a-5a3f6f1c2b3d"
	sampleSecret  = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
	sampleToken   = "apt1." + sampleTokenID + "." + sampleSecret
)

func TestParseTokenIsStrict(t *testing.T) {
	for _, tt := range []struct{ name, in, fault string }{
		{"a token", sampleToken, ""},
		{"empty", "", "want the form"},
		{"another version", "apt2." + sampleTokenID + "." + sampleSecret, "want the form"},
		{"no secret", "apt1." + sampleTokenID, "want the form"},
		{"a fourth part", sampleToken + ".x", "want the form"},
		{"an id that is no UUID", "apt1.abc." + sampleSecret, "not a lower-case UUID"},
		{"an upper-case id", "apt1." + strings.ToUpper(sampleTokenID) + "." + sampleSecret, "not a lower-case UUID"},
		{"a UUID in braces", "apt1.{" + sampleTokenID + "}." + sampleSecret, "not a lower-case UUID"},
		{"a truncated secret", sampleToken[:len(sampleToken)-1], "copied whole"},
		{"a longer secret", sampleToken + "A", "copied whole"},
		{"a space behind", sampleToken + " ", "copied whole"},
		{"a line break inside", sampleToken[:60] + "\n" + sampleToken[61:], "copied whole"},
		{"loose last bits", sampleToken[:len(sampleToken)-1] + "9", "not base64url"},
		{"a letter outside base64url", sampleToken[:len(sampleToken)-1] + "+", "not base64url"},
		{"a flood", strings.Repeat("x", maxTokenBytes+1), "above the maximum"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			token, err := ParseToken(tt.in)
			switch {
			case tt.fault == "":
				if err != nil || token.Reveal() != tt.in || token.ID() != sampleTokenID {
					t.Fatalf("ParseToken = %v, %v", token, err)
				}
			case err == nil || !strings.Contains(err.Error(), tt.fault):
				t.Fatalf("ParseToken = %v, %v; want an error with %q", token, err, tt.fault)
			case strings.Contains(err.Error(), sampleSecret[:20]):
				t.Fatalf("the error shows the secret: %v", err)
			}
		})
	}
}

func TestParseTokenAt(t *testing.T) {
	for _, tt := range []struct{ name, in, addr, fault string }{
		{"without address", sampleToken, "", ""},
		{"a name", sampleToken + "@node-a.example:7460", "node-a.example:7460", ""},
		{"IPv4", sampleToken + "@10.0.0.1:7460", "10.0.0.1:7460", ""},
		{"IPv6", sampleToken + "@[fd00::1]:7460", "[fd00::1]:7460", ""},
		{"an empty address", sampleToken + "@", "", "want HOST:PORT"},
		{"no port", sampleToken + "@node-a", "", "want HOST:PORT"},
		{"no host", sampleToken + "@:7460", "", "not a host"},
		{"port 0", sampleToken + "@node-a:0", "", "from 1 to 65535"},
		{"a port too high", sampleToken + "@node-a:65536", "", "from 1 to 65535"},
		{"a port with a sign", sampleToken + "@node-a:+80", "", "from 1 to 65535"},
		{"two addresses", sampleToken + "@a:1,b:2", "", "want HOST:PORT"},
		{"a second @", sampleToken + "@a@b:1", "", "not a host"},
		{"a bad token", "apt1.x.y@a:1", "", "not a lower-case UUID"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			token, addr, err := ParseTokenAt(tt.in)
			if tt.fault != "" {
				if err == nil || !strings.Contains(err.Error(), tt.fault) {
					t.Fatalf("ParseTokenAt = %v, %q, %v; want an error with %q", token, addr, err, tt.fault)
				}
				return
			}
			if err != nil || addr != tt.addr || token.Reveal() != sampleToken {
				t.Fatalf("ParseTokenAt = %v, %q, %v; want address %q", token, addr, err, tt.addr)
			}
		})
	}
}

func TestDerivedKeysArePinned(t *testing.T) {
	// Tokens live longer than binaries: these values must never change.
	token, err := ParseToken(sampleToken)
	if err != nil {
		t.Fatal(err)
	}
	r := token.Record()
	got := map[string]string{
		"proof":         hex.EncodeToString(r.ProofKey.Reveal()),
		"authenticator": hex.EncodeToString(token.Authenticator().Reveal()),
		"hash":          hex.EncodeToString(r.AuthenticatorHash),
	}
	want := map[string]string{
		"proof":         "d6e8da2124de11fdc2c44fd2a1e64976d2b3730f578e64e5850ad81505a5d5cd",
		"authenticator": "5a5ebea111476ac4294b67f51819d4fabc957dda6eef3ce8951ea574353e2b5c",
		"hash":          "c303e09239b4d6d5549e53412ec17a7255db6e3e3414b7792cbcf2d8fc740d58",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestRecordChecksTheAuthenticator(t *testing.T) {
	token, err := NewToken()
	if err != nil {
		t.Fatal(err)
	}
	other, err := NewTokenWithID(token.ID())
	if err != nil {
		t.Fatal(err)
	}
	r := token.Record()
	if err := r.Validate(); err != nil {
		t.Fatal(err)
	}
	if !r.Check(token.Authenticator()) {
		t.Error("the right authenticator was refused")
	}
	for name, a := range map[string]Secret{
		"another token's":    other.Authenticator(),
		"none":               {},
		"the proof key":      r.ProofKey,
		"the hash of itself": NewSecret(r.AuthenticatorHash),
		"the secret itself":  token.secret,
	} {
		if r.Check(a) {
			t.Errorf("accepted %s", name)
		}
	}
	if (TokenRecord{}).Check(Secret{}) || (TokenRecord{}).Validate() == nil {
		t.Error("an empty record was accepted")
	}
}

func TestShownTokenShowsNoSecret(t *testing.T) {
	for text, want := range map[string]string{
		"nosuch": `"nosuch"`, sampleTokenID: `"` + sampleTokenID + `"`, "": `""`,
		sampleToken: `"apt1.` + sampleTokenID + `.…"`, sampleToken + ".x": `"apt1.` + sampleTokenID + `.…"`,
		sampleSecret: "this text", sampleTokenID + "." + sampleSecret: "this text", "apt1." + sampleSecret: "this text",
	} {
		if got := ShownToken(text); got != want {
			t.Errorf("ShownToken(%q) = %s, want %s", text, got, want)
		}
	}
}

func TestDerivedTokenIsTheSameForTheSameKeyClusterAndID(t *testing.T) {
	const id, other = "01890000-0000-7000-8000-000000000001", "01890000-0000-7000-8000-000000000002"
	keys := [2]Key{}
	for i := range keys {
		var err error
		if keys[i], err = GenerateKey(); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]string{}
	for name, f := range map[string]func() (Token, error){
		"the token":       func() (Token, error) { return DeriveToken(keys[0], "c1", id) },
		"another key":     func() (Token, error) { return DeriveToken(keys[1], "c1", id) },
		"another cluster": func() (Token, error) { return DeriveToken(keys[0], "c2", id) },
		"another id":      func() (Token, error) { return DeriveToken(keys[0], "c1", other) },
	} {
		first, err := f()
		if err != nil {
			t.Fatal(err)
		}
		if second, err := f(); err != nil || second.Reveal() != first.Reveal() {
			t.Errorf("%s differs when it is derived again: %v", name, err)
		}
		secret := first.Reveal()[strings.LastIndex(first.Reveal(), "."):]
		if twin, found := seen[secret]; found {
			t.Errorf("%s has the secret of %s", name, twin)
		}
		seen[secret] = name
		if parsed, err := ParseToken(first.Reveal()); err != nil || parsed.Reveal() != first.Reveal() {
			t.Errorf("%s does not survive the round trip: %v", name, err)
		}
	}
	if _, err := DeriveToken(Key{}, "c1", id); err == nil {
		t.Error("a token was derived without a key")
	}
}

func TestTokenSurvivesTheRoundTrip(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		token, err := NewToken()
		if err != nil {
			t.Fatal(err)
		}
		again, addr, err := ParseTokenAt(token.Reveal() + "@h:1")
		if err != nil || addr != "h:1" || again.Reveal() != token.Reveal() {
			t.Fatalf("ParseTokenAt = %v, %q, %v", again, addr, err)
		}
		if secret := string(token.secret.Reveal()); seen[secret] {
			t.Fatal("a secret was made twice")
		} else {
			seen[secret] = true
		}
	}
}

func FuzzParseTokenAt(f *testing.F) {
	f.Add(sampleToken + "@[::1]:7460")
	f.Add(sampleToken)
	f.Fuzz(func(t *testing.T, s string) {
		token, addr, err := ParseTokenAt(s)
		if err != nil {
			return
		}
		want := token.Reveal()
		if addr != "" {
			want += "@" + addr
		}
		if want != s {
			t.Fatalf("ParseTokenAt accepted what it would not write: %q", s)
		}
	})
}

// exchange is one answer of a node to a newcomer's question for the bundle.
type exchange struct {
	token Token
	s     Statement
	proof []byte
}

func newExchange(t testing.TB, b *Bundle) exchange {
	t.Helper()
	token, err := NewToken()
	if err != nil {
		t.Fatal(err)
	}
	nonce, err := NewNonce()
	if err != nil {
		t.Fatal(err)
	}
	data, err := b.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	s := Statement{Bundle: data, ClusterID: b.ClusterID, Incarnation: b.Incarnation, Nonce: nonce}
	proof, err := token.Record().Prove(s)
	if err != nil {
		t.Fatal(err)
	}
	return exchange{token, s, proof}
}

func TestBundleIsProvedByTheToken(t *testing.T) {
	w := newWorld(t)
	x := newExchange(t, w.bundle)
	got, err := x.token.OpenBundle(x.s, x.proof)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(w.bundle, got); d != "" {
		t.Error(d)
	}
}

func TestManInTheMiddleCannotReplaceTheBundle(t *testing.T) {
	x := newExchange(t, newWorld(t).bundle)
	mine := newExchange(t, newWorld(t).bundle) // the attacker's own cluster, same name
	nonce, err := NewNonce()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		bend func(*exchange)
	}{
		{"another bundle under the old proof", func(e *exchange) { e.s.Bundle = mine.s.Bundle }},
		{"another bundle proved by another token", func(e *exchange) {
			e.s.Bundle = mine.s.Bundle
			e.proof, _ = mine.token.Record().Prove(e.s)
		}},
		{"another bundle proved with the authenticator", func(e *exchange) {
			e.s.Bundle = mine.s.Bundle
			e.proof, _ = prove(e.token.Authenticator(), e.s)
		}},
		{"another bundle proved with an empty key", func(e *exchange) {
			e.s.Bundle = mine.s.Bundle
			e.proof, _ = prove(Secret{}, e.s)
		}},
		{"another cluster id", func(e *exchange) { e.s.ClusterID = "other" }},
		{"another incarnation number", func(e *exchange) { e.s.Incarnation.Number++ }},
		{"another incarnation id", func(e *exchange) { e.s.Incarnation.ID = "x" }},
		{"a replay to another nonce", func(e *exchange) { e.s.Nonce = nonce }},
		{"no proof", func(e *exchange) { e.proof = nil }},
		{"half a proof", func(e *exchange) { e.proof = e.proof[:16] }},
		{"a byte moved from the bundle to the cluster id", func(e *exchange) {
			e.s.ClusterID = string(e.s.Bundle[len(e.s.Bundle)-1:]) + e.s.ClusterID
			e.s.Bundle = e.s.Bundle[:len(e.s.Bundle)-1]
		}},
		{"no token", func(e *exchange) { e.token = Token{} }},
		{"a short nonce", func(e *exchange) { e.s.Nonce = e.s.Nonce[:8] }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := x
			tt.bend(&e)
			if b, err := e.token.OpenBundle(e.s, e.proof); err == nil {
				t.Fatalf("believed a bundle of %q", b.ClusterID)
			}
		})
	}
}

func TestOpenBundleComparesWhatWasAnnounced(t *testing.T) {
	// A node that proves one thing and sends another is broken, not believed.
	x := newExchange(t, newWorld(t).bundle)
	x.s.ClusterID = "other"
	proof, err := x.token.Record().Prove(x.s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.token.OpenBundle(x.s, proof); err == nil || !strings.Contains(err.Error(), `announced as cluster "other"`) {
		t.Fatalf("OpenBundle = %v", err)
	}
}

func TestStatementEncodingIsInjective(t *testing.T) {
	draw := func(t *rapid.T, name string) Statement {
		short := rapid.SliceOfN(rapid.SampledFrom([]byte("ab\x00\x01")), 0, 4)
		return Statement{
			Bundle:      short.Draw(t, name+"bundle"),
			ClusterID:   string(short.Draw(t, name+"cluster")),
			Incarnation: Incarnation{Number: rapid.Uint64Range(0, 2).Draw(t, name+"number"), ID: string(short.Draw(t, name+"id"))},
			Nonce:       short.Draw(t, name+"nonce"),
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := draw(t, "a "), draw(t, "b ")
		same := bytes.Equal(a.Bundle, b.Bundle) && a.ClusterID == b.ClusterID && a.Incarnation == b.Incarnation && bytes.Equal(a.Nonce, b.Nonce)
		if bytes.Equal(a.encode(), b.encode()) != same {
			t.Fatalf("%+v and %+v: same = %v, same bytes = %v", a, b, same, !same)
		}
	})
}
