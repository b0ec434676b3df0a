package fsm

import (
	"bytes"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// Roles that an operator may have, weakest first.
const (
	RoleViewer   = "viewer"
	RoleRunner   = "runner" // runs templates, and nothing else
	RoleOperator = "operator"
	RoleAdmin    = "admin"
)

func validRole(role string) bool {
	return role == RoleViewer || role == RoleRunner || role == RoleOperator || role == RoleAdmin
}

// enrollOperator registers an operator's key. A name belongs to one key for as
// long as it is not revoked, and a key to one name for ever: the key is the
// identity.
func (tx *tx) enrollOperator(m *raftlogv1.EnrollOperator) *raftlogv1.Outcome {
	name, role := m.GetName(), m.GetRole()
	if t, found := tx.tokens.get(m.GetTokenId()); !found && m.GetTokenId() != "" {
		if have, found := tx.operators.get(name); !found || !bytes.Equal(have.GetPublicKey(), m.GetPublicKey()) || have.GetRevokedAt() != 0 {
			_, refusal := tx.goodToken(m.GetTokenId(), raftlogv1.TokenKind_TOKEN_KIND_OPERATOR, m.GetPublicKey(), name, m.GetFrom())
			return refusal
		}
		role = RoleViewer // what stands is answered below; the role is not given
	} else if found {
		role = t.GetRole()
		if fixed := t.GetOperatorName(); fixed != "" && name != "" && name != fixed {
			return refuse(raftlogv1.Code_CODE_REFUSED, "token_name", "token %q is for operator %q, not for %q", t.GetId(), fixed, name)
		} else if fixed != "" {
			name = fixed
		}
	}
	switch {
	case name == "" || len(m.GetPublicKey()) == 0:
		return refuse(raftlogv1.Code_CODE_INVALID, "no_operator", "an operator needs a name and a key")
	case !validRole(role):
		return refuse(raftlogv1.Code_CODE_INVALID, "role", "role %q is none of viewer, runner, operator, admin", role)
	}
	have, found := tx.operators.get(name)
	if found && bytes.Equal(have.GetPublicKey(), m.GetPublicKey()) {
		if have.GetRevokedAt() != 0 {
			return refuse(raftlogv1.Code_CODE_REFUSED, "operator_revoked", "operator %q was revoked at %s with this key: make a new key", name, stamp(have.GetRevokedAt()))
		}
		return stands(have.GetEnrolledIndex())
	}
	if found && have.GetRevokedAt() == 0 {
		// A worthless token is the better answer: another name would not help.
		if _, refusal := tx.goodToken(m.GetTokenId(), raftlogv1.TokenKind_TOKEN_KIND_OPERATOR, m.GetPublicKey(), name, m.GetFrom()); refusal != nil && m.GetTokenId() != "" {
			return refusal
		}
		return refuse(raftlogv1.Code_CODE_CONFLICT, "name_taken", "operator %q exists with another key: choose another name, or revoke that one first", name)
	}
	for other := range tx.operators.by(operatorsByKey, sized(m.GetPublicKey())) {
		return refuse(raftlogv1.Code_CODE_CONFLICT, "key_taken", "this key belongs or belonged to operator %q: make a new key", other.GetName())
	}
	if m.GetTokenId() != "" {
		if _, refusal := tx.useToken(m.GetTokenId(), raftlogv1.TokenKind_TOKEN_KIND_OPERATOR, m.GetPublicKey(), name, m.GetFrom()); refusal != nil {
			return refusal
		}
	}
	put(tx, TableOperators, tx.operators, &raftlogv1.Operator{
		Name: name, PublicKey: m.GetPublicKey(), Role: role, TokenId: m.GetTokenId(),
		EnrolledAt: tx.now(), EnrolledIndex: tx.index,
	})
	return granted(tx.index)
}

// revokeOperator ends an operator's rights. The last admin stays: without one
// nobody could make another from afar.
func (tx *tx) revokeOperator(m *raftlogv1.RevokeOperator) *raftlogv1.Outcome {
	have, found := tx.operators.get(m.GetName())
	switch {
	case !found:
		return refuse(raftlogv1.Code_CODE_NOT_FOUND, "no_operator", "there is no operator %q", m.GetName())
	case have.GetRevokedAt() != 0:
		return stands(0)
	}
	if have.GetRole() == RoleAdmin {
		others := false
		for o := range tx.operators.all() {
			others = others || (o.GetName() != have.GetName() && o.GetRole() == RoleAdmin && o.GetRevokedAt() == 0)
		}
		if !others {
			return refuse(raftlogv1.Code_CODE_REFUSED, "last_admin", "operator %q is the last admin: make another first", have.GetName())
		}
	}
	row := clone(have)
	row.RevokedAt = tx.now()
	put(tx, TableOperators, tx.operators, row)
	return ok()
}
