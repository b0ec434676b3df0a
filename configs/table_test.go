package configs

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var programs = []Program{ProgramNode, ProgramAgent, ProgramCtl}

func TestTableIsSound(t *testing.T) {
	for _, p := range programs {
		names := map[string]string{}
		once := func(name, key string) {
			if other, twice := names[name]; twice {
				t.Errorf("%s: %q names both %s and %s", p, name, other, key)
			}
			names[name] = key
		}
		for _, o := range Options(p) {
			once("key "+o.Key, o.Key)
			once("flag "+o.Flag(), o.Key)
			once("env "+o.Env(), o.Key)
			if o.short != "" {
				once("short "+o.short, o.Key)
			}
			if strings.Count(o.Key, ".") > 1 || strings.ToLower(o.Key) != o.Key || strings.ContainsAny(o.Key, "- ") {
				t.Errorf("%s: key %q is not snake_case with one dot at most", p, o.Key)
			}
			if isSection(p, o.Key) {
				t.Errorf("%s: %q is an option and a section", p, o.Key)
			}
			if !strings.HasSuffix(o.Doc, ".") || len(o.Doc) < 20 {
				t.Errorf("%s: %s has the doc %q", p, o.Key, o.Doc)
			}
			if slices.Contains([]string{"config", "help", "h"}, o.Flag()) {
				t.Errorf("%s: flag --%s is taken", p, o.Flag())
			}
			if _, err := o.parse(raw{text: o.Default}); err != nil {
				t.Errorf("%s: default of %s: %v", p, o.Key, err)
			}
			for _, bound := range []string{o.Min, o.Max} {
				if bound == "" {
					continue
				}
				counted := o
				if o.Kind == KindList || o.Kind == KindMap {
					counted.Kind = KindInt
				}
				if o.Kind == KindString || o.Kind == KindBool {
					t.Errorf("%s: %s has bounds, but no number", p, o.Key)
				} else if _, err := counted.parse(raw{text: bound}); err != nil {
					t.Errorf("%s: bound of %s: %v", p, o.Key, err)
				}
			}
			switch o.Kind {
			case KindInt, KindDuration, KindBytes, KindList, KindMap:
				if o.Max == "" {
					t.Errorf("%s: %s has no maximum", p, o.Key)
				}
			}
			if value, _ := o.parse(raw{text: o.Default}); o.format(value) != o.Default {
				t.Errorf("%s: default of %s is written %q, want %q", p, o.Key, o.Default, o.format(value))
			}
		}
	}
}

// Structs and table name the same options, with types that fit.
func TestTypedStructsFollowTheTable(t *testing.T) {
	types := map[Kind]reflect.Type{
		KindString:   reflect.TypeFor[string](),
		KindDuration: reflect.TypeFor[time.Duration](),
		KindInt:      reflect.TypeFor[int](),
		KindBytes:    reflect.TypeFor[int64](),
		KindBool:     reflect.TypeFor[bool](),
		KindList:     reflect.TypeFor[[]string](),
		KindMap:      reflect.TypeFor[map[string]string](),
	}
	for p, of := range map[Program]any{ProgramNode: &Node{}, ProgramAgent: &Agent{}, ProgramCtl: &Ctl{}} {
		want, got := map[string]string{}, map[string]string{}
		for _, o := range Options(p) {
			want[o.Key] = types[o.Kind].String()
		}
		eachField(reflect.ValueOf(of).Elem(), "", func(key string, field reflect.Value) {
			got[key] = field.Type().String()
		})
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: the struct differs from the table (-table +struct):\n%s", p, diff)
		}
	}
}

func TestDefaultsOfTheDesign(t *testing.T) {
	n, err := Load(Sources{Program: ProgramNode})
	if err != nil {
		t.Fatal(err)
	}
	var want Node
	want.DataDir, want.Listen, want.Gossip.Listen = "/var/lib/agentplane", ":7460", ":7461"
	want.Voters = 5
	want.Raft.Profile, want.Raft.LogStore = "lan", "wal"
	want.Raft.SnapshotInterval, want.Raft.SnapshotThreshold, want.Raft.TrailingLogs = 10*time.Second, 8192, 10240
	want.Batch.MaxMutations, want.Batch.MaxBytes, want.Batch.MaxInFlight = 256, 512<<10, 2
	want.HoldWithoutLeader = 7 * time.Second
	want.Feed.MaxChanges, want.Feed.MaxBytes = 64<<10, 64<<20
	want.Agent.HeartbeatInterval, want.Agent.HeartbeatMisses = 3*time.Second, 3
	want.Agent.NodeDeathGrace, want.Agent.RebootGrace, want.Agent.LeaderlessAfter = 30*time.Second, 5*time.Minute, 10*time.Second
	want.Agent.BrakeCount, want.Agent.BrakePercent, want.Agent.QueueMax = 10, 15, 4096
	want.Admission.SessionsPerSecond = 500
	want.Commands.LostAfter, want.Commands.Retain, want.Commands.RetainCount = 15*time.Minute, 720*time.Hour, 100_000
	want.Commands.RateBurst = 100
	want.Tokens.Retain, want.Tokens.RetainCount = 720*time.Hour, 10_000
	want.Output.StoreBytes, want.Output.AttemptBytes, want.Output.ReserveBytes = 10<<30, 64<<20, 1<<30
	want.Files.StoreBytes, want.Files.StoreCount, want.Files.Keep = 1<<30, 4096, 24*time.Hour
	want.Schedules.MissedAfter, want.Schedules.Retain, want.Schedules.RetainCount = time.Minute, 720*time.Hour, 500
	want.Clock.MaxDistanceLeading = 30 * time.Second
	want.Limits.MessageBytes = 1 << 20
	want.Log = Log{"info", "text"}
	if diff := cmp.Diff(want, n.Node()); diff != "" {
		t.Errorf("defaults of the node (-want +got):\n%s", diff)
	}

	a, err := Load(Sources{Program: ProgramAgent})
	if err != nil {
		t.Fatal(err)
	}
	wantAgent := Agent{DataDir: "/var/lib/agentd", Labels: map[string]string{}, Slots: 4, Log: Log{"info", "text"}}
	wantAgent.Run.TimeoutDefault, wantAgent.Run.KillGrace = 10*time.Minute, 10*time.Second
	wantAgent.Run.RebootWait = 10 * time.Minute
	wantAgent.Output.MaxBytes, wantAgent.Output.RaftBytes = 10<<20, 8<<10
	wantAgent.Files.CacheBytes = 512 << 20
	wantAgent.Journal.Retention, wantAgent.Facts.Interval = 720*time.Hour, 5*time.Minute
	if diff := cmp.Diff(wantAgent, a.Agent()); diff != "" {
		t.Errorf("defaults of the agent (-want +got):\n%s", diff)
	}
}

var exampleFiles = map[Program]string{
	ProgramNode:  "examples/agentplane.yaml",
	ProgramAgent: "examples/agentd.yaml",
}

// The example files say what the table says. Set UPDATE=1 to write them again.
func TestExampleFilesAreFresh(t *testing.T) {
	for p, path := range exampleFiles {
		if os.Getenv("UPDATE") != "" {
			if err := os.WriteFile(path, []byte(Example(p)), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		have, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(Example(p), string(have)); diff != "" {
			t.Errorf("%s is not fresh; run UPDATE=1 go test -run Example ./configs (-want +have):\n%s", path, diff)
		}
	}
}

func TestExampleFilesLoadAndDocumentEveryOption(t *testing.T) {
	for p, path := range exampleFiles {
		c, err := Load(Sources{Program: p, File: path})
		if err != nil {
			t.Errorf("as it stands: %v", err)
			continue
		}
		for _, s := range c.Explain() {
			if s.Origin.Layer != LayerDefault {
				t.Errorf("%s sets %s on line %d, but only defaults should stand there", path, s.Option.Key, s.Origin.Line)
			}
		}

		// With every # before an option taken away all options come from the file,
		// below their docs, and have the values of the defaults.
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(text), "\n")
		for i, line := range lines {
			bare := strings.TrimLeft(line, " ")
			if rest, commented := strings.CutPrefix(bare, "#"); commented && rest != "" && rest[0] != ' ' {
				lines[i] = line[:len(line)-len(bare)] + rest
			}
		}
		all := writeFile(t, strings.Join(lines, "\n"))
		whole, err := Load(Sources{Program: p, File: all})
		if err != nil {
			t.Errorf("%s without its #: %v", path, err)
			continue
		}
		for _, s := range whole.Explain() {
			switch {
			case s.Origin.Layer != LayerFile:
				t.Errorf("%s does not have %s", path, s.Option.Key)
			case s.Value != s.Option.Default:
				t.Errorf("%s gives %s the value %q, want the default %q", path, s.Option.Key, s.Value, s.Option.Default)
			case s.Origin.Line < 2 || !strings.HasPrefix(strings.TrimSpace(lines[s.Origin.Line-2]), "# ("):
				t.Errorf("%s has no doc above %s on line %d", path, s.Option.Key, s.Origin.Line)
			}
		}
	}
}
