package fsm

import (
	"testing"

	"pgregory.net/rapid"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// tokenTwin is a slow, obvious model of one token: who used it is a list.
type tokenTwin struct {
	max     int
	ends    int64
	revoked bool
	uses    []string // key and identity
}

// TestTokensMatchTheirTwin follows in a model what uses, revokes and purges tokens: who
// was let in must have been allowed to, and what is remembered is the same.
func TestTokensMatchTheirTwin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := newGen(t)
		tokens, floor := make(map[string]*tokenTwin), ""
		for k := range g.m.View().Tokens() { // what newGen made
			w := &tokenTwin{max: int(k.GetMaxUses()), ends: k.GetExpiresAt()}
			for u := range g.m.View().TokenUses(k.GetId()) {
				w.uses = append(w.uses, string(u.GetPublicKey())+u.GetIdentity())
			}
			tokens[k.GetId()] = w
		}
		for range historyEntries {
			e := g.entry(1)
			for n := 0; n < 6 && len(e.GetMutations()) == 1 && e.GetLeaderEpoch() != 0; n++ { // tokens more often than work
				e.Mutations[0] = g.registryMutation()
				if n%2 == 1 {
					e.Mutations[0] = g.agentMutation()
				}
				if !usesTokens(e.GetMutations()[0]) {
					continue
				}
				break
			}
			outcomes := g.apply(e)
			if len(outcomes) != 1 || outcomes[0].GetCode() != raftlogv1.Code_CODE_OK {
				continue
			}
			now, again := g.m.Now(), outcomes[0].GetRepeated()
			use := func(id string, key []byte, identity string) {
				if again || id == "" {
					return
				}
				k, user := tokens[id], string(key)+identity
				if k == nil || k.revoked || now >= k.ends || len(k.uses) >= k.max {
					t.Fatalf("entry %d (%v): let in by token %+v", g.index, e, k)
				}
				for _, u := range k.uses {
					if u == user {
						t.Fatalf("entry %d (%v): let in twice by token %+v", g.index, e, k)
					}
				}
				k.uses = append(k.uses, user)
			}
			switch m := e.GetMutations()[0].GetKind().(type) {
			case *raftlogv1.Mutation_CreateToken:
				if id := m.CreateToken.GetToken().GetId(); !again {
					if id < floor {
						t.Fatalf("entry %d: token %s came back after tokens up to %s were purged", g.index, id, floor)
					}
					tokens[id] = &tokenTwin{max: int(m.CreateToken.GetToken().GetMaxUses()), ends: now + m.CreateToken.GetTtl()}
				}
			case *raftlogv1.Mutation_RevokeToken:
				tokens[m.RevokeToken.GetId()].revoked = true
			case *raftlogv1.Mutation_PurgeTokens:
				for _, id := range m.PurgeTokens.GetTokenIds() {
					if k := tokens[id]; k != nil && (k.revoked || now >= k.ends || len(k.uses) == k.max) && id < commandFloor(now) {
						delete(tokens, id)
						floor = max(floor, id[:13])
					}
				}
			case *raftlogv1.Mutation_EnrollAgent:
				use(m.EnrollAgent.GetTokenId(), m.EnrollAgent.GetPublicKey(), m.EnrollAgent.GetAgentId())
			case *raftlogv1.Mutation_EnrollOperator:
				use(m.EnrollOperator.GetTokenId(), m.EnrollOperator.GetPublicKey(), m.EnrollOperator.GetName())
			case *raftlogv1.Mutation_RegisterNode:
				use(m.RegisterNode.GetTokenId(), m.RegisterNode.GetNode().GetPublicKey(), m.RegisterNode.GetNode().GetId())
			}
			compareTokens(t, tokens, g.m.View())
		}
	})
}

func usesTokens(m *raftlogv1.Mutation) bool {
	return m.GetCreateToken() != nil || m.GetRevokeToken() != nil || m.GetPurgeTokens() != nil ||
		m.GetEnrollAgent() != nil || m.GetEnrollOperator() != nil || m.GetRegisterNode() != nil
}

func compareTokens(t *rapid.T, tokens map[string]*tokenTwin, v *View) {
	if v.TokenCount() != len(tokens) {
		t.Fatalf("there are %d tokens, in the model %d", v.TokenCount(), len(tokens))
	}
	for id, k := range tokens {
		n := 0
		for u := range v.TokenUses(id) {
			if n >= len(k.uses) || k.uses[n] != string(u.GetPublicKey())+u.GetIdentity() {
				t.Fatalf("token %s: use %d is by %q, the model has %q", id, n+1, u.GetIdentity(), k.uses)
			}
			n++
		}
		if row, _ := v.Token(id); n != len(k.uses) || int(row.GetUsed()) != n || (row.GetRevokedAt() != 0) != k.revoked {
			t.Fatalf("token %s has %d uses (%v), the model %+v", id, n, row, k)
		}
	}
}
