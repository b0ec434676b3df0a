package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/agentplane/agentplane/cmd/agentplane/lab"
)

// TestBadDayInput shows the programs what people mistype.
func TestBadDayInput(t *testing.T) {
	l := newLab(t)
	_, address := one(t, l)
	token := mustToken(t, l, "agent")
	if err := l.Agent("web-1", address, token).Start(); err != nil {
		t.Fatal(err)
	}
	await(t, 10*time.Second, "the agent is there", func() error { return l.Ctl(t.Context(), "agents", "get", "web-1").Err() })

	run := func(args ...string) []string {
		return append(append([]string{"run"}, args...), "--", "true")
	}
	for _, c := range []struct {
		badDay
		args []string
	}{
		{badDay{"unknown noun", 2, []string{`agentctl has no "agnets"`, `did you mean "agents"?`}, "agentctl --help"}, []string{"agnets"}},
		{badDay{"unknown verb", 2, []string{`agentctl agents has no "lst"`, `did you mean "list"?`}, "agentctl agents --help"}, []string{"agents", "lst"}},
		{badDay{"unknown flag", 2, []string{"agentctl agents list has no flag --frob"}, "agentctl agents list --help"}, []string{"agents", "list", "--frob"}},
		{badDay{"unknown output", 2, []string{`--output "xml" is none of table`}, "--help"}, []string{"agents", "list", "-o", "xml"}},
		{badDay{"no duration", 2, []string{`"soon" is not a duration`, "--request-timeout"}, "--help"}, []string{"agents", "list", "--request-timeout", "soon"}},
		{badDay{"unknown kind", 2, []string{`--kind "frog" is none of node, agent, operator`}, "tokens create --help"}, []string{"tokens", "create", "--kind", "frog"}},
		{badDay{"unknown name in a selector", 2, []string{"column 1", `unknown name "heath"`, `did you mean "health"?`}, "an example: --on"}, run("--on", `heath == "ONLINE"`)},
		{badDay{"unfinished selector", 2, []string{`--on "name =="`, "column 8"}, "an example: --on"}, run("--on", "name ==")},
		{badDay{"nobody is meant", 2, []string{"--on SELECTOR"}, "agentctl run --help"}, run()},
		{badDay{"no program", 2, []string{"no program is given"}, "agentctl run --on all -- uptime"}, []string{"run", "--on", "all"}},
		{badDay{"both ends", 2, []string{"--ttl and --queue are both given"}, "agentctl run --help"}, run("--on", "all", "--ttl", "1m", "--queue", "1m")},
		{badDay{"nobody matched", 3, []string{`label.rol == "web"`, "none of the 1 agents"}, "agentctl agents list"}, run("--on", `label.rol == "web"`)},
		{badDay{"unknown agent", 3, []string{`no agent "web-2"`}, "agentctl agents list"}, []string{"agents", "get", "web-2"}},
		{badDay{"unknown command", 3, []string{"no command \"01900000-0000-7000-8000-000000000000\""}, "agentctl commands list"}, []string{"commands", "get", "01900000-0000-7000-8000-000000000000"}},
		{badDay{"unknown node", 3, []string{`no node "n9"`}, "agentctl cluster members"}, []string{"cluster", "remove", "n9"}},
	} {
		t.Run(c.name, func(t *testing.T) { c.judge(t, l.Ctl(within(t, 15*time.Second), c.args...)) })
	}
	o := l.Ctl(within(t, 10*time.Second), "commands", "list", "-o", "json")
	if o.Code != 0 || o.Stdout != "[]\n" {
		t.Errorf("something was submitted: %+v", o)
	}
}

// TestBadDayStart shows nodes and agents places where they must not start.
func TestBadDayStart(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	node, address := one(t, l)
	a := l.Agent("web-1", address, mustToken(t, l, "agent"))
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, 10*time.Second, "the agent is there", func() error { return l.Ctl(t.Context(), "agents", "get", "web-1").Err() })
	open := filepath.Join(l.Dir, "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o755); err != nil {
		t.Fatal(err)
	}
	fresh := func() string { return filepath.Join(l.Dir, "fresh-"+newID(t)) }
	config := func(text string) string { return writeFile(t, filepath.Join(l.Dir, "configs", newID(t)+".yaml"), text) }
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	runNode := func(dir string, args ...string) func(*testing.T) lab.Output {
		return func(t *testing.T) lab.Output { return tryNode(t, l, dir, args...) }
	}
	runAgent := func(dir string, args ...string) func(*testing.T) lab.Output {
		return func(t *testing.T) lab.Output {
			return tryAgent(t, l, dir, address, "apt1.none", args...)
		}
	}
	for _, c := range []struct {
		badDay
		start func(*testing.T) lab.Output
	}{
		{badDay{"node: directory of a running node", 1, []string{"in use by process " + fmt.Sprint(node.PID()), node.DataDir}, "--data-dir"}, runNode(node.DataDir)},
		{badDay{"node: directory of a running agent", 1, []string{a.DataDir, "in use by process " + fmt.Sprint(a.PID())}, "--data-dir"}, runNode(a.DataDir)},
		{badDay{"agent: directory of a running agent", 1, []string{a.DataDir, "in use by process " + fmt.Sprint(a.PID())}, "--data-dir"}, runAgent(a.DataDir)},
		{badDay{"node: world-readable directory", 1, []string{open, "mode 0755"}, "chmod 700 " + open}, runNode(open)},
		{badDay{"agent: world-readable directory", 1, []string{open, "mode 0755"}, "chmod 700 " + open}, runAgent(open)},
		{badDay{"node: port taken", 1, []string{`listen on "127.0.0.1:` + port, "address already in use"}, "--listen"}, runNode(fresh(), "--listen", address)},
		{badDay{"node: gossip port taken", 1, []string{`listen for gossip on "127.0.0.1:` + port, "address already in use"}, "--gossip-listen"}, runNode(fresh(), "--gossip-listen", address)},
		{badDay{"node: unknown flag", 2, []string{"--lisen"}, "agentplane run --help"}, runNode(fresh(), "--lisen", "x")},
		{badDay{"agent: unknown flag", 2, []string{"--sloots"}, "agentd run --help"}, runAgent(fresh(), "--sloots", "x")},
		{badDay{"agent: value out of bounds", 2, []string{"--slots", "0 is below the minimum 1"}, "agentd run --help"}, runAgent(fresh(), "--slots", "0")},
		{badDay{"node: unknown key", 2, []string{"line 2: raft.profil", `did you mean "raft.profile"?`, ".yaml"}, "--help"}, runNode(fresh(), "--config", config("raft:\n  profil: wan\n"))},
		{badDay{"node: bad value", 2, []string{"line 3: raft.profile", `"wann" is none of lan, lan-fast, wan`, ".yaml"}, "--help"}, runNode(fresh(), "--config", config("# mine\nraft:\n  profile: wann\n"))},
		{badDay{"agent: bad value", 2, []string{"line 1: slots: 5000 is above the maximum 1024", ".yaml"}, "--help"}, runAgent(fresh(), "--config", config("slots: 5000\n"))},
		{badDay{"agent: no YAML", 2, []string{"line 1", ".yaml"}, "--help"}, runAgent(fresh(), "--config", config("a: [\n"))},
		{badDay{"agent: no such file", 2, []string{"no such file", "nothing.yaml"}, "--help"}, runAgent(fresh(), "--config", filepath.Join(l.Dir, "nothing.yaml"))},
		{badDay{"agent: bad environment", 2, []string{"AGENTPLANE_CONFIG_SLOTS", `"many" is not a whole number`}, "--help"}, func(t *testing.T) lab.Output {
			return call(t, 10*time.Second, []string{"AGENTPLANE_CONFIG_SLOTS=many"}, l.Bin.Agentd, "run", "--data-dir", fresh())
		}},
		{badDay{"agent: never enrolled, no token", 1, []string{"not enrolled"}, "agentctl tokens create --kind agent"}, func(t *testing.T) lab.Output {
			return call(t, 10*time.Second, nil, l.Bin.Agentd, "run", "--data-dir", fresh(), "--servers", address)
		}},
	} {
		t.Run(c.name, func(t *testing.T) { c.judge(t, c.start(t)) })
	}

	// The two take a directory of the other kind for their own once nobody runs there.
	if err := a.Stop(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	badDay{code: 1, says: []string{a.DataDir, "data directory of an agent"}, hint: "directory of its own"}.judge(t, tryNode(t, l, a.DataDir))
	if err := node.Stop(20 * time.Second); err != nil {
		t.Fatal(err)
	}
	badDay{code: 1, says: []string{node.DataDir, "data directory of a node"}, hint: "--data-dir"}.judge(t, tryAgent(t, l, node.DataDir, address, "apt1.none"))
	// And whoever was there comes back unharmed.
	if err := node.Start(); err != nil {
		t.Fatal(err)
	}
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, 20*time.Second, "both are back", func() error {
		o := l.Ctl(t.Context(), "run", "--on", "all", "--request-timeout", "3s", "--", "true")
		return o.Err()
	})
}
