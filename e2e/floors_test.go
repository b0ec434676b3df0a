package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

// module is the path that every import inside the project begins with.
const module = "github.com/agentplane/agentplane"

// goPackage is what go list tells of one package. Import paths inside the module
// are kept whole; rel shortens them.
type goPackage struct {
	ImportPath   string
	Name         string
	Dir          string
	GoFiles      []string
	Imports      []string
	Deps         []string // direct and indirect, without those of tests
	TestImports  []string
	XTestImports []string
}

// listPackages asks the go command for every package of the module, so that build
// constraints and nested modules are seen as the compiler sees them.
func listPackages(t *testing.T) []goPackage {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", "list", "-json="+
		"ImportPath,Name,Dir,GoFiles,Imports,Deps,TestImports,XTestImports", "./...")
	list.Dir = ".."
	out, err := list.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list ./...: %v\n%s", err, exit.Stderr)
		}
		t.Fatalf("go list ./...: %v", err)
	}
	var packages []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("read the answer of go list: %v", err)
		}
		packages = append(packages, p)
	}
	if len(packages) == 0 {
		t.Fatal("go list ./... names no package")
	}
	return packages
}

// rel returns the path below the module's root, and whether it is inside.
func rel(importPath string) (string, bool) {
	if importPath == module {
		return ".", true
	}
	return strings.CutPrefix(importPath, module+"/")
}

// under says whether p is dir or lies below it.
func under(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, dir+"/")
}

// underAny says whether p is one of dirs or lies below one.
func underAny(p string, dirs []string) bool {
	return slices.ContainsFunc(dirs, func(dir string) bool { return under(p, dir) })
}

// place is where a package stands: its floor, and the unit whose packages may
// import each other (a duty with the packages below it).
type place struct {
	floor int
	unit  string
}

// placeOf returns the place of the package at p below the root, and false when the
// design knows no such folder.
func placeOf(p string) (place, bool) {
	first, rest, _ := strings.Cut(p, "/")
	second, _, _ := strings.Cut(rest, "/")
	switch first {
	case "proto":
		return place{0, "proto"}, true // the compiler refuses cycles among them
	case "fsm", "gossip", "configs":
		return place{1, first}, true
	case "controlplane", "agent":
		switch {
		case second == "":
			return place{3, first}, true
		case p == "controlplane/consensus" || strings.HasPrefix(p, "controlplane/consensus/"):
			return place{1, "controlplane/consensus"}, true
		case p == "controlplane/forward" || strings.HasPrefix(p, "controlplane/forward/"):
			return place{1, "controlplane/forward"}, true
		}
		return place{2, first + "/" + second}, true
	case "cmd":
		return place{4, "cmd/" + second}, second != ""
	case "e2e":
		return place{5, "e2e"}, true
	}
	return place{}, false
}

// stairs are the imports inside floor 1 that the design allows: consensus runs the
// machine, forward runs consensus.
var stairs = map[string][]string{
	"controlplane/consensus": {"fsm"},
	"controlplane/forward":   {"controlplane/consensus", "fsm"},
}

// floorRule limits what the packages of some folders import beyond the order of the
// floors.
type floorRule struct {
	name   string
	reason string
	// from are the folders that the rule is about; empty means all of the module.
	from []string
	// except are folders below from that the rule leaves out.
	except []string
	// only, when set, are the folders of the module that may be imported.
	only []string
	// never are import paths (also outside the module) that may not be imported,
	// nor may anything below them.
	never []string
	// indirect extends the rule to what the imported packages import.
	indirect bool
}

var floorRules = []floorRule{
	{
		name:     "agent is small",
		reason:   "the agent runs on every host: no raft, no gossip, nothing of the nodes; they meet on the wire",
		from:     []string{"agent", "cmd/agentd"},
		only:     []string{"agent", "cmd/agentd", "configs", "proto"},
		never:    []string{"github.com/hashicorp/raft", "github.com/hashicorp/memberlist"},
		indirect: true,
	},
	{
		name:     "agentctl knows a cluster by its API alone",
		reason:   "what agentctl can do, any client can do",
		from:     []string{"cmd/agentctl"},
		only:     []string{"cmd/agentctl", "configs", "proto"},
		never:    []string{"github.com/hashicorp/raft", "github.com/hashicorp/memberlist"},
		indirect: true,
	},
	{
		name:     "nodes do not contain agents",
		reason:   "a node and an agent meet on the wire, where versions can differ",
		from:     []string{"controlplane", "fsm", "gossip", "configs", "proto"},
		never:    []string{module + "/agent"},
		indirect: true,
	},
	{
		name:     "the machine is pure",
		reason:   "replicas agree only if nothing but the log reaches the state",
		from:     []string{"fsm"},
		only:     []string{"fsm", "proto/raftlog", "proto/selector", "proto/frame", "proto/wave"},
		never:    []string{"google.golang.org/grpc"},
		indirect: true,
	},
	{
		name:   "the machine has no dice, no network and no files",
		reason: "replicas agree only if nothing but the log reaches the state",
		from:   []string{"fsm"},
		never:  []string{"math/rand", "crypto/rand", "hash/maphash", "net", "os"},
	},
	{
		name:   "raft has one owner",
		reason: "another consensus library, or another version, must change one package (and fsm/raft.go)",
		except: []string{"fsm", "controlplane/consensus", "e2e"},
		never:  rafts,
	},
	{
		name:   "memberlist has one owner",
		reason: "gossip advises; what it says passes through one package",
		except: []string{"gossip", "e2e"},
		never:  []string{"github.com/hashicorp/memberlist"},
	},
	{
		name:   "gopsutil has one owner",
		reason: "it is frozen and costly here and there: replaceable in one place",
		except: []string{"agent/collect"},
		never:  []string{"github.com/shirou/gopsutil"},
	},
	{
		name:   "metrics go to one registry",
		reason: "past the compat package they go to a registry that nobody reads",
		never:  []string{"github.com/armon/go-metrics"},
	},
}

// rafts are the modules of hashicorp/raft and the stores below it.
var rafts = []string{
	"github.com/hashicorp/raft",
	"github.com/hashicorp/raft-boltdb",
	"github.com/hashicorp/raft-wal",
	"go.etcd.io/bbolt",
}

// checkFloors returns a sentence for every import that breaks a floor or a rule.
// Tests keep the floors too, save that they may import packages beside their own:
// a test may compose what the product composes one floor higher.
func checkFloors(packages []goPackage, rules []floorRule) []string {
	var broken []string
	for _, p := range packages {
		at, inside := rel(p.ImportPath)
		if !inside {
			continue
		}
		here, known := placeOf(at)
		if !known {
			broken = append(broken, fmt.Sprintf("%s: no folder of the design; see its section on layout", at))
			continue
		}
		for _, imp := range p.Imports {
			broken = append(broken, checkOrder(at, here, imp, false)...)
		}
		for _, imp := range slices.Concat(p.TestImports, p.XTestImports) {
			broken = append(broken, checkOrder(at, here, imp, true)...)
		}
		for _, r := range rules {
			broken = append(broken, r.check(at, p)...)
		}
	}
	return broken
}

// ledger is where tests of every floor write down what they tried. It imports nothing.
const ledger = "e2e/record"

// checkOrder judges one direct import by the order of the floors.
func checkOrder(at string, here place, imp string, test bool) []string {
	to, inside := rel(imp)
	if !inside {
		return nil
	}
	there, known := placeOf(to)
	switch {
	case !known:
		return nil // named once, where the package itself is judged
	case there.unit == here.unit, there.floor < here.floor, test && to == ledger:
		return nil
	case there.floor == here.floor && (test || slices.Contains(stairs[here.unit], there.unit)):
		return nil
	case there.floor == here.floor:
		return []string{fmt.Sprintf("%s (floor %d) imports %s beside it: declare a small interface where it is used", at, here.floor, to)}
	}
	return []string{fmt.Sprintf("%s (floor %d) imports %s (floor %d): only lower floors", at, here.floor, to, there.floor)}
}

// check judges one package by the rule.
func (r floorRule) check(at string, p goPackage) []string {
	if len(r.from) > 0 && !underAny(at, r.from) || underAny(at, r.except) {
		return nil
	}
	imports, how := p.Imports, "imports"
	if r.indirect {
		imports, how = p.Deps, "depends on"
	}
	var broken []string
	for _, imp := range imports {
		to, inside := rel(imp)
		if underAny(imp, r.never) || inside && len(r.only) > 0 && !underAny(to, r.only) {
			broken = append(broken, fmt.Sprintf("%s %s %s: %s: %s", at, how, imp, r.name, r.reason))
		}
	}
	return broken
}

// onePackageImports returns a sentence when more than one package imports what lies
// under dep.
func onePackageImports(packages []goPackage, dep string) []string {
	var users []string
	for _, p := range packages {
		if slices.ContainsFunc(p.Imports, func(imp string) bool { return under(imp, dep) }) {
			users = append(users, p.ImportPath)
		}
	}
	if len(users) > 1 {
		return []string{fmt.Sprintf("%s is imported by %s: one package imports it", dep, strings.Join(users, " and "))}
	}
	return nil
}

func TestFloorsHold(t *testing.T) {
	packages := listPackages(t)
	broken := checkFloors(packages, floorRules)
	broken = append(broken, onePackageImports(packages, "github.com/shirou/gopsutil")...)
	for _, sentence := range broken {
		t.Error(sentence)
	}
}

// TestFloorsCatch shows that each floor and each rule can fail: every sample breaks
// exactly the one it names.
func TestFloorsCatch(t *testing.T) {
	in := func(p string) string { return path.Join(module, p) }
	direct := func(at string, imports ...string) goPackage {
		return goPackage{ImportPath: in(at), Imports: imports, Deps: imports}
	}
	for _, test := range []struct {
		name string
		pkg  goPackage
		want string // part of the one sentence; empty when the sample is clean
	}{
		{"a lower floor", direct("controlplane/dispatch", in("fsm"), in("controlplane/consensus"), in("proto/raftlog/v1")), ""},
		{"the package's own family", direct("controlplane/dispatch", in("controlplane/dispatch/queue")), ""},
		{"consensus runs the machine", direct("controlplane/consensus", in("fsm"), "github.com/hashicorp/raft"), ""},
		{"forward stands on consensus", direct("controlplane/forward", in("controlplane/consensus")), ""},
		{"dev holds nodes and agents", direct("cmd/agentplane", in("controlplane"), in("agent")), ""},
		{"a test beside its package", goPackage{ImportPath: in("controlplane/dispatch"), XTestImports: []string{in("controlplane/pki")}}, ""},

		{"a test that records", goPackage{ImportPath: in("controlplane/consensus"), XTestImports: []string{in("e2e/record")}}, ""},

		{"a product that records", direct("controlplane/consensus", in("e2e/record")), "only lower floors"},
		{"a higher floor", direct("gossip", in("controlplane/peer")), "only lower floors"},
		{"the composition from a part", direct("controlplane/peer", in("controlplane")), "only lower floors"},
		{"a test of a higher floor", goPackage{ImportPath: in("fsm"), TestImports: []string{in("controlplane/health")}}, "only lower floors"},
		{"a sibling", direct("controlplane/dispatch", in("controlplane/health")), "declare a small interface"},
		{"a sibling command", direct("cmd/agentplane", in("cmd/agentctl")), "declare a small interface"},
		{"consensus under forward", direct("controlplane/consensus", in("controlplane/forward")), "declare a small interface"},
		{"proto stands on nothing", direct("proto/client", in("configs")), "only lower floors"},
		{"a folder nobody knows", direct("internal/util"), "no folder of the design"},

		{"raft inside an agent, through another", goPackage{ImportPath: in("agent/session"), Deps: []string{"github.com/hashicorp/raft"}}, "agent is small"},
		{"the machine inside an agent, through another", goPackage{ImportPath: in("agent/session"), Deps: []string{in("fsm")}}, "agent is small"},
		{"the machine inside agentctl", direct("cmd/agentctl", in("fsm")), "by its API alone"},
		{"an agent inside a node, through another", goPackage{ImportPath: in("controlplane"), Deps: []string{in("agent/journal")}}, "do not contain agents"},
		{"the machine knows identities", direct("fsm", in("proto/identity")), "the machine is pure"},
		{"the machine knows the network, through another", goPackage{ImportPath: in("fsm"), Deps: []string{"google.golang.org/grpc/codes"}}, "the machine is pure"},
		{"the machine throws dice", direct("fsm", "math/rand/v2"), "no dice"},
		{"raft elsewhere", direct("controlplane/peer", "github.com/hashicorp/raft"), "raft has one owner"},
		{"a store elsewhere", direct("agent/journal", "go.etcd.io/bbolt"), "raft has one owner"},
		{"memberlist elsewhere", direct("controlplane/health", "github.com/hashicorp/memberlist"), "memberlist has one owner"},
		{"gopsutil elsewhere", direct("agent/probe", "github.com/shirou/gopsutil/v3/cpu"), "gopsutil has one owner"},
		{"a registry nobody reads", direct("controlplane/telemetry", "github.com/armon/go-metrics"), "one registry"},
	} {
		t.Run(test.name, func(t *testing.T) {
			broken := checkFloors([]goPackage{test.pkg}, floorRules)
			switch {
			case test.want == "" && len(broken) > 0:
				t.Errorf("checkFloors says %q of a clean sample", broken)
			case test.want != "" && (len(broken) != 1 || !strings.Contains(broken[0], test.want)):
				t.Errorf("checkFloors = %q, want one sentence with %q", broken, test.want)
			}
		})
	}

	twice := []goPackage{direct("agent/collect", "github.com/shirou/gopsutil/v3/cpu"), direct("agent/probe", "github.com/shirou/gopsutil/v3/mem")}
	if len(onePackageImports(twice, "github.com/shirou/gopsutil")) == 0 {
		t.Error("two packages that import gopsutil were not noticed")
	}
}
