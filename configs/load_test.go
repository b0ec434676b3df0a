package configs

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

// writeFile writes text to a file that only the test may read.
func writeFile(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLayersWinInTheirOrder(t *testing.T) {
	path := writeFile(t, `
# comment
name: from-file
listen: "127.0.0.1:1000"
gossip:
  listen: 127.0.0.1:2000
raft:
  profile: wan
`)
	fs := pflag.NewFlagSet("run", pflag.ContinueOnError)
	flags := BindFlags(fs, ProgramNode)
	if err := fs.Parse([]string{"--listen=:1", "--listen", ":3000"}); err != nil {
		t.Fatal(err)
	}
	c, err := Load(Sources{
		Program: ProgramNode, File: path, Flags: flags,
		Environ: []string{"PATH=/bin", "AGENTPLANE_CONFIG_LISTEN=:9", "AGENTPLANE_CONFIG_GOSSIP_LISTEN=:9", "AGENTPLANE_CONFIG_SLOTS=9", "AGENTPLANE_COMMAND_ID=x"},
	})
	if err != nil {
		t.Fatal(err)
	}
	n := c.Node()
	if n.Listen != ":3000" || n.Gossip.Listen != ":9" || n.Name != "from-file" || n.Raft.Profile != "wan" || n.Raft.LogStore != "wal" {
		t.Errorf("values are %+v", n)
	}
	got := map[string][]string{}
	for _, s := range c.Explain() {
		if s.Origin.Layer == LayerDefault {
			continue
		}
		line := []string{s.Value, s.Origin.String()}
		for _, h := range s.Hides {
			line = append(line, h.String())
		}
		got[s.Option.Key] = line
	}
	want := map[string][]string{
		"listen":        {":3000", "flag --listen", "environment AGENTPLANE_CONFIG_LISTEN", path + ":4"},
		"gossip.listen": {":9", "environment AGENTPLANE_CONFIG_GOSSIP_LISTEN", path + ":6"},
		"name":          {"from-file", path + ":3"},
		"raft.profile":  {"wan", path + ":8"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Explain (-want +got):\n%s", diff)
	}
	if len(c.Explain()) != len(Options(ProgramNode)) {
		t.Errorf("Explain has %d settings, want %d", len(c.Explain()), len(Options(ProgramNode)))
	}
}

func TestListsAndMapsFromEveryLayer(t *testing.T) {
	path := writeFile(t, "servers: [a:7460, b:1]\nlabels:\n  env: prod\n  rack: 7\ntoken: apt1.x.y\n")
	c, err := Load(Sources{Program: ProgramAgent, File: path})
	if err != nil {
		t.Fatal(err)
	}
	a := c.Agent()
	if diff := cmp.Diff([]string{"a:7460", "b:1"}, a.Servers); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]string{"env": "prod", "rack": "7"}, a.Labels); diff != "" {
		t.Error(diff)
	}
	a.Labels["env"], a.Servers[0] = "changed", "changed"
	if again := c.Agent(); again.Labels["env"] != "prod" || again.Servers[0] != "a:7460" {
		t.Error("a caller changed the configuration through a map or a list")
	}
	for _, s := range c.Explain() {
		if strings.Contains(s.Value, "apt1") {
			t.Errorf("Explain shows the secret: %+v", s)
		}
		if s.Option.Key == "token" && s.Value != "(set)" {
			t.Errorf("Explain shows a token that is set as %q", s.Value)
		}
	}

	fs := pflag.NewFlagSet("run", pflag.ContinueOnError)
	flags := BindFlags(fs, ProgramAgent)
	if err := fs.Parse([]string{"--label", "env=prod", "--label=tier=a=b,x=", "--servers", "a:1, b:1", "--servers", "c:1"}); err != nil {
		t.Fatal(err)
	}
	c, err = Load(Sources{Program: ProgramAgent, Flags: flags, Environ: []string{"AGENTPLANE_CONFIG_LABELS=gone=1"}})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"env": "prod", "tier": "a=b", "x": ""}, c.Agent().Labels); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"a:1", "b:1", "c:1"}, c.Agent().Servers); diff != "" {
		t.Error(diff)
	}
}

func TestBoolFlagNeedsNoValue(t *testing.T) {
	fs := pflag.NewFlagSet("ctl", pflag.ContinueOnError)
	flags := BindFlags(fs, ProgramCtl)
	if err := fs.Parse([]string{"--stale", "-o", "json", "rest"}); err != nil {
		t.Fatal(err)
	}
	c, err := Load(Sources{Program: ProgramCtl, Flags: flags})
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Ctl(); !got.Stale || got.Output != "json" || got.RequestTimeout != 30*time.Second || fs.NArg() != 1 {
		t.Errorf("values are %+v with arguments %q", got, fs.Args())
	}
}

func TestProblemsNameFileLineKeyValueAndBound(t *testing.T) {
	for _, tc := range []struct {
		name    string
		program Program
		yaml    string
		want    string // after `load config "PATH": `
	}{
		{"below the minimum", ProgramNode, "agent:\n  heartbeat_interval: 50ms", "line 2: agent.heartbeat_interval: 50ms is below the minimum 100ms"},
		{"above the maximum", ProgramNode, "batch: {max_mutations: 257}", "line 1: batch.max_mutations: 257 is above the maximum 256"},
		{"even", ProgramNode, "voters: 4", "line 1: voters: 4 is not odd"},
		{"no unit", ProgramNode, "commands:\n  retain: 30", `line 2: commands.retain: "30" is not a duration such as 500ms, 10s, 1h30m or 30d`},
		{"unit of a thousand", ProgramAgent, "output:\n  max_bytes: 10MB", `line 2: output.max_bytes: "10MB" is not a size such as 512, 64KiB, 10MiB or 1GiB`},
		{"word of an enum", ProgramNode, "raft:\n  profile: lan-fats", `line 2: raft.profile: "lan-fats" is none of lan, lan-fast, wan; did you mean "lan-fast"?`},
		{"unknown key", ProgramNode, "voterz: 3", `line 1: voterz: is not an option of agentplane; did you mean "voters"?`},
		{"unknown key in a section", ProgramNode, "agent:\n  heartbeat_intervall: 3s", `line 2: agent.heartbeat_intervall: is not an option of agentplane; did you mean "agent.heartbeat_interval"?`},
		{"outside its section", ProgramNode, "heartbeat_interval: 3s", `line 1: heartbeat_interval: is not an option of agentplane; did you mean "agent.heartbeat_interval"?`},
		{"far from everything", ProgramNode, "banana: 3s", `line 1: banana: is not an option of agentplane`},
		{"of the other program", ProgramNode, "slots: 4", `line 1: slots: is an option of agentd, not of agentplane: remove it here`},
		{"dotted", ProgramNode, "raft.profile: lan", "line 1: raft.profile: is written nested in YAML: each part on its own line"},
		{"twice", ProgramNode, "voters: 3\nname: x\nvoters: 5", "line 3: voters: is set twice, first on line 1"},
		{"section twice", ProgramNode, "raft: {profile: lan}\nraft: {log_store: wal}", "line 2: raft: is set twice, first on line 1"},
		{"without a value", ProgramNode, "name:", `line 1: name: has no value: remove the line, or write ""`},
		{"section with a value", ProgramNode, "raft: lan", `line 1: raft: wants a mapping of options, not "lan"`},
		{"list for a text", ProgramNode, "name: [a]", "line 1: name: wants a string, not a list"},
		{"mapping for a list", ProgramAgent, "servers: {a: b}", "line 1: servers: wants a list, not a mapping"},
		{"nested list", ProgramAgent, "servers: [[a]]", "line 1: servers: has a list in its list, where a text is expected"},
		{"nested mapping", ProgramAgent, "labels: {a: {b: c}}", "line 1: labels: has a mapping on line 1, where NAME: VALUE is expected"},
		{"label twice", ProgramAgent, "labels:\n  a: 1\n  a: 2", `line 2: labels: has "a" twice, again on line 3`},
		{"label with a comma", ProgramAgent, "labels: {a: 'b,c'}", `line 1: labels: has the pair "a": "b,c": a name is not empty, and neither has a comma, nor a name a "="`},
		{"too many items", ProgramAgent, "servers: [" + strings.Repeat("'a:1',", 65) + "]", "line 1: servers: a count of 65 is above the maximum 64"},
		{"alias", ProgramNode, "name: &x a\nadvertise: *x", "line 2: advertise: is an alias (*x), which is not taken here"},
		{"merge key", ProgramNode, "raft: &x {profile: lan}\n<<: *x", "line 2: a merge key (<<) stands where the name of an option is expected"},
		{"second document", ProgramNode, "name: a\n---\nname: b", "line 2: has a second document behind ---: only one is read"},
		{"list at the top", ProgramNode, "- name", "line 1: wants a mapping of options, not a list"},
		{"bad YAML", ProgramNode, "name: a\n\tb: c", "line 2: found a tab character that violates indentation"},
		{"listen without a port", ProgramNode, "listen: 10.0.0.1", `line 1: listen: "10.0.0.1" is not an address to listen on: write HOST:PORT or :PORT`},
		{"port out of range", ProgramNode, "listen: :70000", `line 1: listen: ":70000" has no port between 0 and 65535`},
		{"advertise without a host", ProgramNode, "advertise: :7460", `line 1: advertise: ":7460" has no host that others could reach: write HOST or HOST:PORT`},
		{"advertise port 0", ProgramNode, "advertise: a:0", `line 1: advertise: "a:0" has no port between 1 and 65535`},
		{"URL as server", ProgramAgent, "servers: ['https://a']", `line 1: servers: "https://a" is not the address of a node: write HOST:PORT`},
		{"label with a blank", ProgramAgent, "labels: {'a b': c}", `line 1: labels: "a b" is no name of a label: it has letters, digits, _, -, . and / only, and ends with a letter, a digit or _`},
		{"server without a port", ProgramAgent, "servers: [foo]", `line 1: servers: "foo" is not the address of a node: write HOST:PORT`},
		{"secret twice", ProgramAgent, "token: x\ntoken_file: y", "line 1: token: and token_file are both set: keep one"},
		{"retry without token", ProgramNode, "retry_join: {addresses: ['a:7460']}", "line 1: retry_join.addresses: needs retry_join.token_file, with which to join"},
		{"retry without port", ProgramNode, "retry_join: {addresses: [a], token_file: t}", `line 1: retry_join.addresses: "a" is not the address of a node: write HOST:PORT`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := writeFile(t, tc.yaml)
			c, err := Load(Sources{Program: tc.program, File: path})
			want := `load config "` + path + `": ` + tc.want
			if err == nil || err.Error() != want || c != nil {
				t.Errorf("Load:\n got %v\nwant %s", err, want)
			}
		})
	}
}

func TestProblemsOfEnvironmentAndFlags(t *testing.T) {
	for _, tc := range []struct {
		sources Sources
		want    string
	}{
		{
			Sources{Environ: []string{"AGENTPLANE_CONFIG_VOTERS=x"}},
			`load config: environment AGENTPLANE_CONFIG_VOTERS: voters: "x" is not a whole number`,
		},
		{
			Sources{Environ: []string{"AGENTPLANE_CONFIG_GOSIP_LISTEN=:1"}},
			`load config: environment AGENTPLANE_CONFIG_GOSIP_LISTEN: is not an option of agentplane; did you mean "AGENTPLANE_CONFIG_GOSSIP_LISTEN"?`,
		},
		{
			Sources{Environ: []string{"AGENTPLANE_CONFIG_VOTERS="}},
			`load config: environment AGENTPLANE_CONFIG_VOTERS: voters: "" is not a whole number`,
		},
		{
			Sources{Flags: map[string][]string{"voters": {"11"}}},
			`load config: flag --voters: voters: 11 is above the maximum 9`,
		},
		{
			Sources{Flags: map[string][]string{"data_dir": {""}}},
			`load config: flag --data-dir: data_dir: is empty: remove it to have the default "/var/lib/agentplane"`,
		},
		{
			Sources{Flags: map[string][]string{"slots": {"11"}}},
			`load config: flag --slots: slots: is an option of agentd, not of agentplane: remove it here`,
		},
		{
			Sources{Environ: []string{"AGENTPLANE_CONFIG_CLOCK_MAX_DISTANCE_LEADING=-5s"}},
			`load config: environment AGENTPLANE_CONFIG_CLOCK_MAX_DISTANCE_LEADING: clock.max_distance_leading: -5s is below the minimum 1s`,
		},
	} {
		tc.sources.Program = ProgramNode
		if _, err := Load(tc.sources); err == nil || err.Error() != tc.want {
			t.Errorf("Load:\n got %v\nwant %s", err, tc.want)
		}
	}
}

func TestAllProblemsAreReportedAtOnce(t *testing.T) {
	path := writeFile(t, "voters: 4\nraft:\n  profile: x\nnope: 1\n")
	_, err := Load(Sources{Program: ProgramNode, File: path, Environ: []string{"AGENTPLANE_CONFIG_LISTEN=x"}})
	var got []string
	for _, p := range Problems(err) {
		got = append(got, p.Key)
	}
	if diff := cmp.Diff([]string{"voters", "raft.profile", "nope", "listen"}, got); diff != "" {
		t.Errorf("problems of %v (-want +got):\n%s", err, diff)
	}
}

func TestUntrustworthyFilesAreRefused(t *testing.T) {
	for _, tc := range []struct {
		name string
		mode os.FileMode
		yaml string
		want string
	}{
		{"everybody may write", 0o666, "slots: 4", "may be written by everybody (mode 0666): type chmod o-w "},
		{"a secret that others may read", 0o644, "token: apt1.a.b", "is a secret, but others may read or write the file (mode 0644): type chmod 600 "},
		{"a secret that the group may read", 0o640, "token: apt1.a.b", "is a secret"},
		{"a secret for its owner", 0o600, "token: apt1.a.b", ""},
		{"no secret", 0o664, "slots: 4", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			path := writeFile(t, tc.yaml)
			if err := os.Chmod(path, tc.mode); err != nil {
				t.Fatal(err)
			}
			_, err := Load(Sources{Program: ProgramAgent, File: path})
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("Load = %v, want %q", err, tc.want)
			}
			if err != nil && strings.Contains(err.Error(), "apt1") {
				t.Errorf("the error tells the secret: %v", err)
			}
		})
	}
	dir := t.TempDir()
	for path, want := range map[string]string{
		dir:                        "is not a regular file",
		filepath.Join(dir, "nope"): "no such file",
		writeFile(t, strings.Repeat("#\n", maxFileBytes)): "is larger than the maximum 1MiB",
	} {
		if _, err := Load(Sources{Program: ProgramNode, File: path}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Load = %v, want %q", err, want)
		}
	}
}

func TestEmptyFilesAreDefaults(t *testing.T) {
	want, err := Load(Sources{Program: ProgramNode})
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "# nothing\n", "---\n", "raft:\n", "{}", "\ufeff# bom\n"} {
		c, err := Load(Sources{Program: ProgramNode, File: writeFile(t, text)})
		if err != nil {
			t.Errorf("%q: %v", text, err)
		} else if c.Hash() != want.Hash() || len(Changes(c, want)) > 0 {
			t.Errorf("%q differs from the defaults in %q", text, Changes(c, want))
		}
	}
}

func TestTypedValuesOfAnotherProgramPanic(t *testing.T) {
	c, err := Load(Sources{Program: ProgramNode})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if recover() == nil {
			t.Error("Agent() of a node's configuration did not panic")
		}
	}()
	c.Agent()
}

// FuzzLoad: no file makes Load panic or answer an error that is not a list of
// problems, and what loads is a whole configuration within its bounds.
func FuzzLoad(f *testing.F) {
	f.Add(Example(ProgramNode), true)
	f.Add(strings.ReplaceAll(Example(ProgramAgent), "#", ""), false)
	f.Add("a: &a [*a]\n<<: *a\n? [x]\n: y\n", true)
	f.Add("labels: {a: b}\nservers: [a]\n--- \n", false)
	f.Fuzz(func(t *testing.T, text string, node bool) {
		p := ProgramAgent
		if node {
			p = ProgramNode
		}
		path := writeFile(t, text)
		c, err := Load(Sources{Program: p, File: path})
		if err != nil {
			if errors.Is(err, os.ErrNotExist) || len(Problems(err)) == 0 {
				t.Fatalf("error %v", err)
			}
			return
		}
		for _, s := range c.Explain() {
			if s.Option.Secret {
				continue
			}
			value, err := s.Option.parse(raw{text: s.Value})
			if err != nil || s.Option.format(value) != s.Value {
				t.Fatalf("%s = %q does not survive the round trip: %v", s.Option.Key, s.Value, err)
			}
		}
	})
}
