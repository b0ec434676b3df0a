package e2e

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/agentplane/agentplane/cmd/agentplane/lab"
)

// TestBadDayTokens shows every kind of newcomer with every kind of worthless token.
// None is let in, and nothing of the secret is printed.
func TestBadDayTokens(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	_, address := one(t, l)
	stranger, err := lab.New(filepath.Join(l.Dir, "elsewhere"), l.Bin)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stranger.Close)
	_, elsewhere := one(t, stranger)
	newcomer := l.Node("newcomer")
	if err := newcomer.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := newcomer.Address(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}

	other := map[string]string{"node": "agent", "agent": "operator", "operator": "node"}
	create := func(kind string, l *lab.Lab, args ...string) string {
		if kind == "operator" {
			args = append(args, "--role", "viewer", "--name", "op-"+newID(t)[24:])
		}
		return mustToken(t, l, kind, args...)
	}
	use := func(kind, token string) lab.Output {
		switch kind {
		case "node":
			return l.Ctl(within(t, 15*time.Second), "cluster", "join", address, "--token", token, "--data-dir", newcomer.DataDir)
		case "agent":
			return tryAgent(t, l, filepath.Join(l.Dir, "agent-"+newID(t)), address, token)
		default:
			return l.CtlAs(within(t, 15*time.Second), "login-"+newID(t)+".yaml", "login", token+"@"+address)
		}
	}
	spend := func(kind, token string) {
		t.Helper()
		var o lab.Output
		switch kind {
		case "node":
			n := l.Node("n-" + newID(t))
			if err := n.Start(); err != nil {
				t.Fatal(err)
			}
			if _, err := n.Address(within(t, 10*time.Second)); err != nil {
				t.Fatal(err)
			}
			o = l.Ctl(within(t, 20*time.Second), "cluster", "join", address, "--no-wait", "--token", token, "--data-dir", n.DataDir)
		case "agent":
			name := "a-" + newID(t)
			a := l.Agent(name, address, token)
			if err := a.Start(); err != nil {
				t.Fatal(err)
			}
			await(t, 10*time.Second, "the agent is enrolled", func() error {
				return l.Ctl(t.Context(), "agents", "get", name).Err()
			})
		default:
			o = use(kind, token)
		}
		if o.Err() != nil {
			t.Fatal(o.Err())
		}
	}

	for _, kind := range []string{"agent", "operator", "node"} {
		again := `agentctl tokens create --kind ` + kind
		for _, c := range []struct {
			badDay
			token func() string
		}{
			{badDay{name: "expired", code: 4, says: []string{"expired at 20"}, hint: again}, func() string {
				token := create(kind, l, "--ttl", "1ms")
				time.Sleep(5 * time.Millisecond)
				return token
			}},
			{badDay{name: "used", code: 4, says: []string{"was used", "from 127.0.0.1:", " at 20"}, hint: again}, func() string {
				token := create(kind, l)
				spend(kind, token)
				return token
			}},
			{badDay{name: "revoked", code: 4, says: []string{"was revoked at 20"}, hint: again}, func() string {
				token := create(kind, l)
				if o := l.Ctl(within(t, 10*time.Second), "tokens", "revoke", tokenID(token)); o.Err() != nil {
					t.Fatal(o.Err())
				}
				return token
			}},
			{badDay{name: "of another cluster", code: 4, says: []string{"is none of this cluster", address}, hint: "agentctl tokens create"}, func() string { return create(kind, stranger) }},
			{badDay{name: "for another kind", code: 4, says: []string{"of kind " + other[kind] + ", not " + kind}, hint: again}, func() string { return create(other[kind], l) }},
			{badDay{name: "with another secret", code: 4, says: []string{"of another cluster, or somebody sits between"}, hint: "token"}, func() string {
				token := create(kind, l)
				return token[:len(token)-8] + "AAAAAAAA"
			}},
			{badDay{name: "not copied whole", code: 2, says: []string{"apt1.ID.SECRET"}, hint: ""}, func() string { return create(kind, l)[:20] }},
		} {
			t.Run(kind+" token "+c.name, func(t *testing.T) {
				token := c.token()
				if c.code == 4 {
					c.says = append(c.says, tokenID(token))
				}
				if kind == "agent" {
					c.code = 1 // agentd's only code for a refusal
				}
				o := use(kind, token)
				c.judge(t, o)
				if parts := strings.Split(token, "."); len(parts) == 3 && strings.Contains(o.Stderr, parts[2][:20]) {
					t.Errorf("the secret is printed: %s", o.Stderr)
				}
			})
		}
	}

	t.Run("a node of another cluster", func(t *testing.T) {
		badDay{code: 8, says: []string{"belongs to cluster", "and " + address + " is of cluster"}, hint: "an empty --data-dir"}.judge(t,
			l.Ctl(within(t, 15*time.Second), "cluster", "join", address, "--token", create("node", l), "--data-dir", stranger.Nodes()[0].DataDir))
	})
	t.Run("nobody at the address", func(t *testing.T) {
		badDay{code: 5, says: []string{"127.0.0.1:1", "connection refused"}, hint: "a node of the cluster must listen at the address"}.judge(t,
			l.CtlAs(within(t, 15*time.Second), "nobody.yaml", "login", create("operator", l)+"@127.0.0.1:1"))
	})
	t.Run("no context", func(t *testing.T) {
		badDay{code: 1, says: []string{"no context", "nothing.yaml"}, hint: "agentctl login TOKEN@ADDR"}.judge(t,
			l.CtlAs(within(t, 15*time.Second), "nothing.yaml", "--addr", elsewhere, "agents", "list"))
	})
	t.Run("a role that may not", func(t *testing.T) {
		token := create("operator", l)
		if o := l.CtlAs(within(t, 15*time.Second), "viewer.yaml", "login", token+"@"+address); o.Err() != nil {
			t.Fatal(o.Err())
		}
		badDay{code: 4, says: []string{"role viewer", "tokens.create"}, hint: "ask an admin"}.judge(t,
			l.CtlAs(within(t, 15*time.Second), "viewer.yaml", "tokens", "create", "--kind", "agent"))
	})
}
