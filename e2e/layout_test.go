package e2e

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

// rootHolds are the names that the design lets stand in the project's root, beside
// hidden ones. A folder's name ends in a slash.
var rootHolds = []string{
	"cmd/", "configs/", "proto/", "fsm/", "gossip/", "controlplane/", "agent/", "e2e/",
	"go.mod", "go.sum", "README.md", "Makefile", "LICENSE", "CHANGELOG.md",
}

// leftovers are what Go's tools leave where they are run; git ignores them.
var leftovers = []string{"*.test", "*.prof", "cover.out", "coverage.out"}

// meaningless are folder names that say nothing of what is inside, so that anything
// ends up there.
var meaningless = []string{"util", "utils", "common", "helper", "helpers", "misc"}

// checkRoot returns a sentence for every name in the root that the design does not
// list, and for every meaningless folder name below it.
func checkRoot(project fs.FS) ([]string, error) {
	var broken []string
	err := fs.WalkDir(project, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == "." {
			return err
		}
		name := d.Name()
		if hidden := strings.HasPrefix(name, "."); hidden || name == "testdata" {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if d.IsDir() && slices.Contains(meaningless, name) {
			broken = append(broken, fmt.Sprintf("%s: a folder is named for what it holds", p))
		}
		if path.Dir(p) != "." {
			return nil
		}
		if d.IsDir() {
			name += "/"
		}
		left := slices.ContainsFunc(leftovers, func(pattern string) bool {
			matched, err := path.Match(pattern, name)
			return err == nil && matched
		})
		if !left && !slices.Contains(rootHolds, name) {
			broken = append(broken, fmt.Sprintf("%s: not in the root of the project; the design lists what may be", name))
		}
		return nil
	})
	return broken, err
}

// checkComment judges the package comment of the package name, made of files.
// Packages of nothing but generated code carry their words in the .proto files.
func checkComment(name string, files []*ast.File) string {
	var comments []string
	generated := 0
	for _, file := range files {
		if ast.IsGenerated(file) {
			generated++
		}
		if file.Doc != nil {
			comments = append(comments, file.Doc.Text())
		}
	}
	switch {
	case len(files) == generated:
		return ""
	case len(comments) == 0:
		return "no package comment: say what the package promises"
	case name == "main":
		return ""
	}
	for _, comment := range comments {
		if !strings.HasPrefix(comment, "Package "+name+" ") {
			return fmt.Sprintf("the package comment begins %q, want \"Package %s ...\"", firstWords(comment), name)
		}
	}
	return ""
}

func firstWords(comment string) string {
	words := strings.Fields(comment)
	return strings.Join(words[:min(3, len(words))], " ")
}

// checkMachine judges what the import graph cannot show of the package fsm: one
// file names raft, and nothing starts a goroutine.
func checkMachine(files map[string]*ast.File) []string {
	var broken, raft []string
	for _, name := range slices.Sorted(maps.Keys(files)) {
		for _, imp := range files[name].Imports {
			imported, err := strconv.Unquote(imp.Path.Value)
			if err == nil && underAny(imported, rafts) {
				raft = append(raft, name)
			}
		}
		ast.Inspect(files[name], func(n ast.Node) bool {
			if _, starts := n.(*ast.GoStmt); starts {
				broken = append(broken, fmt.Sprintf("%s: starts a goroutine; the machine is driven by who applies", name))
			}
			return true
		})
	}
	if len(raft) != 1 {
		broken = append(broken, fmt.Sprintf("files of fsm that import raft: %q, want exactly one", raft))
	}
	return broken
}

// parseFiles reads files of dir with their comments.
func parseFiles(t *testing.T, dir string, names []string) map[string]*ast.File {
	t.Helper()
	files := make(map[string]*ast.File, len(names))
	for _, name := range names {
		file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, name), nil, parser.ParseComments)
		if err != nil {
			t.Fatalf("parse %s: %v", name, err)
		}
		files[name] = file
	}
	return files
}

// source parses one sample.
func source(t *testing.T, text string) *ast.File {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "sample.go", text, parser.ParseComments)
	if err != nil {
		t.Fatalf("parse sample: %v", err)
	}
	return file
}

func TestFloorsRootHoldsOnlyTheDesign(t *testing.T) {
	broken, err := checkRoot(os.DirFS(".."))
	if err != nil {
		t.Fatalf("walk the project: %v", err)
	}
	for _, sentence := range broken {
		t.Error(sentence)
	}
}

func TestFloorsRootCatches(t *testing.T) {
	sample := fstest.MapFS{
		"go.mod":                {},
		"cover.out":             {},
		".ci/run":               {},
		"fsm/testdata/util/a":   {},
		"agent/session/doc.go":  {},
		"tools/main.go":         {},
		"notes.md":              {},
		"agent/helpers/file.go": {},
	}
	broken, err := checkRoot(sample)
	if err != nil {
		t.Fatalf("walk the sample: %v", err)
	}
	for _, want := range []string{"agent/helpers:", "notes.md:", "tools/:"} {
		if !slices.ContainsFunc(broken, func(s string) bool { return strings.HasPrefix(s, want) }) {
			t.Errorf("checkRoot = %q, want a sentence about %s", broken, want)
		}
	}
	if len(broken) != 3 {
		t.Errorf("checkRoot = %q, want three sentences", broken)
	}
}

func TestFloorsEachPackageHasAComment(t *testing.T) {
	for _, p := range listPackages(t) {
		if len(p.GoFiles) == 0 {
			continue // tests only
		}
		var files []*ast.File
		for _, file := range parseFiles(t, p.Dir, p.GoFiles) {
			files = append(files, file)
		}
		if sentence := checkComment(p.Name, files); sentence != "" {
			t.Errorf("%s: %s", p.ImportPath, sentence)
		}
	}
}

func TestFloorsCommentCatches(t *testing.T) {
	for _, test := range []struct {
		name, pkg, text, want string
	}{
		{"a comment", "frame", "// Package frame is a codec.\npackage frame\n", ""},
		{"a command says what it is", "main", "// Agentd runs on every host.\npackage main\n", ""},
		{"generated code is told of in its .proto", "v1", "// Code generated by protoc-gen-go. DO NOT EDIT.\n\npackage v1\n", ""},
		{"none", "frame", "package frame\n", "no package comment"},
		{"a detached comment is none", "frame", "// Package frame is a codec.\n\npackage frame\n", "no package comment"},
		{"a command too", "main", "package main\n", "no package comment"},
		{"another name", "frame", "// Package codec is a codec.\npackage frame\n", "Package codec is"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := checkComment(test.pkg, []*ast.File{source(t, test.text)})
			if (test.want == "") != (got == "") || !strings.Contains(got, test.want) {
				t.Errorf("checkComment = %q, want %q in it", got, test.want)
			}
		})
	}
}

func TestFloorsMachineNamesRaftOnce(t *testing.T) {
	for _, p := range listPackages(t) {
		if at, _ := rel(p.ImportPath); at == "fsm" {
			for _, sentence := range checkMachine(parseFiles(t, p.Dir, p.GoFiles)) {
				t.Error(sentence)
			}
		}
	}
}

func TestFloorsMachineCatches(t *testing.T) {
	pure := source(t, "package fsm\n")
	raft := source(t, "package fsm\n\nimport \"github.com/hashicorp/raft\"\n")
	store := source(t, "package fsm\n\nimport boltdb \"github.com/hashicorp/raft-boltdb/v2\"\n")
	spawns := source(t, "package fsm\n\nfunc f() { func() { go f() }() }\n")
	for _, test := range []struct {
		name  string
		files map[string]*ast.File
		want  int // sentences
	}{
		{"raft in one file", map[string]*ast.File{"raft.go": raft, "machine.go": pure}, 0},
		{"raft in two files", map[string]*ast.File{"raft.go": raft, "machine.go": store}, 1},
		{"raft nowhere", map[string]*ast.File{"machine.go": pure}, 1},
		{"a goroutine", map[string]*ast.File{"raft.go": raft, "machine.go": spawns}, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			if broken := checkMachine(test.files); len(broken) != test.want {
				t.Errorf("checkMachine = %q, want %d sentences", broken, test.want)
			}
		})
	}
}
