package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// stubs are the names in package agentplanev1 with which the wire is spoken; messages and
// enums are not among them.
var stubs = regexp.MustCompile(`^New\w+Client$|\w+Service(Client|Server|_\w+)$|_(FullMethodName|ServiceDesc)$`)

// callsByItself returns where a file reaches the cluster past package client.
func callsByItself(file *ast.File) []string {
	var broken []string
	for _, i := range file.Imports {
		path, err := strconv.Unquote(i.Path.Value)
		if err == nil && strings.HasPrefix(path, "google.golang.org/grpc") && path != "google.golang.org/grpc/codes" {
			broken = append(broken, "imports "+path)
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if s, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := s.X.(*ast.Ident); ok && x.Name == "agentplanev1" && stubs.MatchString(s.Sel.Name) {
				broken = append(broken, "uses agentplanev1."+s.Sel.Name)
			}
		}
		return true
	})
	return broken
}

// What agentctl can do everybody can do with package client: it has no way of its own.
func TestTheClusterIsReachedThroughPackageClientAlone(t *testing.T) {
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	judged := 0
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), e.Name(), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		judged++
		for _, what := range callsByItself(file) {
			t.Errorf("%s %s: give proto/client a method for it", e.Name(), what)
		}
	}
	if judged == 0 {
		t.Fatal("there is no file")
	}
}

func TestAWayPastPackageClientIsSeen(t *testing.T) {
	for text, want := range map[string]int{
		`import "google.golang.org/grpc"`:                                             1,
		`import "google.golang.org/grpc/codes"`:                                       0,
		`var _ = agentplanev1.NewFleetServiceClient(nil)`:                             1,
		`var _ agentplanev1.FleetServiceClient`:                                       1,
		`var _ = agentplanev1.FleetService_ListAgents_FullMethodName`:                 1,
		`var _ = agentplanev1.Agent{}; var _ = agentplanev1.ListAgentsRequest{}`:      0,
		`var _ = agentplanev1.AttemptState_ATTEMPT_STATE_LOST; var _ = client.Client`: 0,
	} {
		file, err := parser.ParseFile(token.NewFileSet(), "x.go", "package x\n"+text, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		if got := callsByItself(file); len(got) != want {
			t.Errorf("%s: %v, want %d", text, got, want)
		}
	}
}
