package fsm

import (
	"bytes"
	"crypto/sha256"
	"math"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

const (
	// MaxTokenUses bounds the uses of one token: each is remembered with its key.
	MaxTokenUses = 1000
	// MaxTokens bounds the tokens that there are, those included that are over and not
	// yet purged.
	MaxTokens = 100_000
	// MaxKeyBytes bounds a public key.
	MaxKeyBytes = 2048
)

// deterministic gives the same bytes for the same message: rows hold no maps.
var deterministic = proto.MarshalOptions{Deterministic: true}

func digest(m proto.Message) []byte {
	b, err := deterministic.Marshal(m)
	if err != nil {
		panic("fsm: marshal for a digest: " + err.Error()) // only invalid UTF-8, which decoding refuses
	}
	sum := sha256.Sum256(b)
	return sum[:]
}

func (tx *tx) createToken(m *raftlogv1.CreateToken) *raftlogv1.Outcome {
	t := m.GetToken()
	d := digest(m)
	if have, found := tx.tokens.get(t.GetId()); found {
		if bytes.Equal(have.GetDigest(), d) {
			return stands(have.GetCreatedIndex())
		}
		return refuse(raftlogv1.Code_CODE_CONFLICT, "token_exists", "token %q exists with other content", t.GetId())
	}
	id, err := uuid.Parse(t.GetId())
	if err != nil || id.Version() != 7 || id.String() != t.GetId() {
		return refuse(raftlogv1.Code_CODE_INVALID, "id", "the token's id is not a UUIDv7 in lower case") // it is not quoted: people paste whole tokens
	}
	switch made := madeAt(id); {
	case made > tx.now()/int64(time.Millisecond)+idAhead.Milliseconds():
		return refuse(raftlogv1.Code_CODE_INVALID, "id_ahead", "token id %q was made more than %v ahead of the cluster's time %s: set the clock of the machine that made it", t.GetId(), idAhead, stamp(tx.now()))
	case made < tx.cluster.GetTokensFloor():
		return refuse(raftlogv1.Code_CODE_REFUSED, "id_old", "token id %q is older than the tokens that were purged", t.GetId())
	case tx.tokens.len() >= MaxTokens:
		return refuse(raftlogv1.Code_CODE_EXHAUSTED, "too_many", "there are %d tokens: revoke some that nobody needs", MaxTokens)
	}
	switch {
	case len(t.GetProofKey()) == 0 || len(t.GetAuthenticatorHash()) != sha256.Size:
		return refuse(raftlogv1.Code_CODE_INVALID, "no_token", "a token needs a proof key and the hash of an authenticator")
	case t.GetKind() < raftlogv1.TokenKind_TOKEN_KIND_NODE || t.GetKind() > raftlogv1.TokenKind_TOKEN_KIND_OPERATOR:
		return refuse(raftlogv1.Code_CODE_INVALID, "kind", "token kind %d is not node, agent or operator", t.GetKind())
	case t.GetMaxUses() == 0 || t.GetMaxUses() > MaxTokenUses:
		return refuse(raftlogv1.Code_CODE_INVALID, "uses", "uses is %d; it must be 1 to %d", t.GetMaxUses(), MaxTokenUses)
	case t.GetKind() != raftlogv1.TokenKind_TOKEN_KIND_AGENT && t.GetMaxUses() != 1:
		return refuse(raftlogv1.Code_CODE_INVALID, "uses", "uses is %d; only a token for agents may have more than one", t.GetMaxUses())
	case m.GetTtl() <= 0:
		return refuse(raftlogv1.Code_CODE_INVALID, "ttl", "ttl is %v; it must be above zero", time.Duration(m.GetTtl()))
	case t.GetKind() == raftlogv1.TokenKind_TOKEN_KIND_OPERATOR && !validRole(t.GetRole()):
		return refuse(raftlogv1.Code_CODE_INVALID, "role", "role %q is none of viewer, runner, operator, admin", t.GetRole())
	}
	if refusal := badLabelName(t.GetLabels()); refusal != nil {
		return refusal
	}
	labels, refusal := sortedLabels("labels", t.GetLabels(), MaxLabels)
	if refusal != nil {
		return refusal
	}
	row := clone(t)
	row.Labels = labels
	row.CreatedAt, row.ExpiresAt, row.RevokedAt = tx.now(), later(tx.now(), m.GetTtl()), 0
	row.Digest, row.CreatedIndex = d, tx.index
	row.Uses, row.Used, row.UsedUpAt = nil, 0, 0
	put(tx, TableTokens, tx.tokens, row)
	return granted(tx.index)
}

func (tx *tx) revokeToken(m *raftlogv1.RevokeToken) *raftlogv1.Outcome {
	have, found := tx.tokens.get(m.GetId())
	switch {
	case !found:
		return refuse(raftlogv1.Code_CODE_NOT_FOUND, "no_token", "there is no token %q", m.GetId())
	case have.GetRevokedAt() != 0:
		return stands(0)
	}
	row := clone(have)
	row.RevokedAt = tx.now()
	put(tx, TableTokens, tx.tokens, row)
	return ok()
}

// TokenEnd is when a token ends, or has ended: when nobody can use it any more.
func TokenEnd(t *raftlogv1.Token) int64 {
	end := t.GetExpiresAt()
	for _, earlier := range []int64{t.GetRevokedAt(), t.GetUsedUpAt()} {
		if earlier != 0 {
			end = min(end, earlier)
		}
	}
	return end
}

// purgeTokens removes tokens that are over. Ids as old as theirs are refused from here
// on, so that a late repetition cannot bring one back. As with commands, one whose id
// lies ahead of the cluster's time stays until then.
func (tx *tx) purgeTokens(m *raftlogv1.PurgeTokens) *raftlogv1.Outcome {
	o := ok()
	for _, id := range m.GetTokenIds() {
		t, found := tx.tokens.get(id)
		if !found || tx.now() < TokenEnd(t) {
			continue
		}
		made := int64(0)
		if u, err := uuid.Parse(id); err == nil { // tokens of before may have any id
			made = madeAt(u)
		}
		if made >= tx.now()/int64(time.Millisecond) {
			continue
		}
		for _, u := range collect(tx.tokenUses.withPrefix(sized(id))) {
			remove(tx, TableTokenUses, tx.tokenUses, tx.tokenUses.key(u))
		}
		remove(tx, TableTokens, tx.tokens, id)
		tx.cluster.TokensFloor = max(tx.cluster.GetTokensFloor(), made+1)
		tx.clusterChanged = true
		o.Count++
	}
	return o
}

// useToken binds a use of the token to the newcomer's key, or answers why not.
//
// A key that has used the token may ask again, also after the token expired or was
// used up: its first answer may have been lost. The caller has answered that when
// what the first use made still stands. When it comes here it does not: it was
// removed, revoked or given another key since, and an old token must not undo that.
func (tx *tx) useToken(id string, kind raftlogv1.TokenKind, publicKey []byte, identity, from string) (*raftlogv1.Token, *raftlogv1.Outcome) {
	t, refusal := tx.goodToken(id, kind, publicKey, identity, from)
	if refusal != nil {
		return nil, refusal
	}
	row := clone(t)
	row.Used++
	if row.GetUsed() == row.GetMaxUses() {
		row.UsedUpAt = tx.now()
	}
	put(tx, TableTokens, tx.tokens, row)
	put(tx, TableTokenUses, tx.tokenUses, &raftlogv1.TokenUse{
		TokenId: id, Number: row.GetUsed(), PublicKey: publicKey, Identity: identity, From: from, At: tx.now(),
	})
	return row, nil
}

// goodToken answers the token if a use of it may be bound to the key, or why not. It
// changes nothing.
func (tx *tx) goodToken(id string, kind raftlogv1.TokenKind, publicKey []byte, identity, from string) (*raftlogv1.Token, *raftlogv1.Outcome) {
	t, found := tx.tokens.get(id)
	switch {
	case !found:
		return nil, refuse(raftlogv1.Code_CODE_NOT_FOUND, "no_token", "there is no token %q: make one with \"agentctl tokens create\"", id)
	case t.GetKind() != kind:
		return nil, refuse(raftlogv1.Code_CODE_REFUSED, "token_kind", "token %q is for %s, not for %s", id, kindWord(t.GetKind()), kindWord(kind))
	}
	if tx.tokenUsedBy(id, publicKey, identity) {
		return nil, refuse(raftlogv1.Code_CODE_REFUSED, "token_used", "token %q was used with this key for %q, which was taken away since: it takes a new token", id, identity)
	}
	switch {
	case len(publicKey) > MaxKeyBytes || len(identity) > MaxValueBytes || len(from) > MaxValueBytes:
		return nil, refuse(raftlogv1.Code_CODE_INVALID, "too_long", "a key may have %d bytes, a name and an address %d", MaxKeyBytes, MaxValueBytes)
	case t.GetRevokedAt() != 0:
		return nil, refuse(raftlogv1.Code_CODE_REFUSED, "token_revoked", "token %q was revoked at %s", id, stamp(t.GetRevokedAt()))
	case tx.now() >= t.GetExpiresAt():
		return nil, refuse(raftlogv1.Code_CODE_REFUSED, "token_expired", "token %q expired at %s", id, stamp(t.GetExpiresAt()))
	case t.GetUsed() >= t.GetMaxUses():
		last, _ := tx.tokenUses.get(useKey(id, t.GetUsed()))
		return nil, refuse(raftlogv1.Code_CODE_REFUSED, "token_used", "token %q was used up (%d of %d), last by %q from %s at %s",
			id, t.GetUsed(), t.GetMaxUses(), last.GetIdentity(), last.GetFrom(), stamp(last.GetAt()))
	}
	return t, nil
}

// tokenUsedBy says that the identity has used the token with the key.
func (tx *tx) tokenUsedBy(id string, publicKey []byte, identity string) bool {
	_, found := tx.tokenUses.indexes[tokenUsesByKey].rows.Get(userKey(id, publicKey, identity))
	return found
}

// later is d after now, held at the end of time instead of beginning it anew.
func later(now, d int64) int64 {
	if sum := now + d; d < 0 || sum >= now {
		return sum
	}
	return math.MaxInt64
}

func kindWord(k raftlogv1.TokenKind) string {
	switch k {
	case raftlogv1.TokenKind_TOKEN_KIND_NODE:
		return "a node"
	case raftlogv1.TokenKind_TOKEN_KIND_AGENT:
		return "an agent"
	case raftlogv1.TokenKind_TOKEN_KIND_OPERATOR:
		return "an operator"
	default:
		return "nothing"
	}
}

// stamp prints a time of the cluster for people.
func stamp(nanos int64) string { return time.Unix(0, nanos).UTC().Format(time.RFC3339) }
