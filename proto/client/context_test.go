package client_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/client/clienttest"
	"github.com/agentplane/agentplane/proto/identity"
)

func TestContextSurvivesTheFile(t *testing.T) {
	cluster := clienttest.NewCluster(t, 2)
	file := client.OpenContexts(filepath.Join(t.TempDir(), "deep", "er", "agentctl.yaml"))
	if _, err := file.Load(""); !errors.Is(err, client.ErrNoContext) {
		t.Fatalf("Load without a file = %v, want ErrNoContext", err)
	}
	want := cluster.Context("admin", time.Hour, time.Hour)
	if err := file.Store(want); err != nil {
		t.Fatal(err)
	}
	got, err := file.Load("")
	if err != nil {
		t.Fatal(err)
	}
	if got.Name != "default" {
		t.Errorf("Name = %q, want %q", got.Name, "default")
	}
	byKey := cmp.Comparer(func(a, b identity.Key) bool { return a.Public().Equal(b.Public()) })
	if diff := cmp.Diff(want, got, byKey, protocmp.Transform()); diff != "" {
		t.Errorf("context changed (-stored +loaded):\n%s", diff)
	}
	info, err := os.Stat(file.Path())
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode = %o, want 600", info.Mode().Perm())
	}
	if err := os.Chmod(file.Path(), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := file.Load(""); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("Load of a file that others read = %v, want what to type", err)
	}
}

func TestContextsAreNamed(t *testing.T) {
	one, two := clienttest.NewCluster(t, 1), clienttest.NewCluster(t, 1)
	file := client.OpenContexts(filepath.Join(t.TempDir(), "agentctl.yaml"))
	store := func(c *clienttest.Cluster, name string) {
		t.Helper()
		ctx := c.Context("admin", time.Hour, time.Hour)
		ctx.Name = name
		if err := file.Store(ctx); err != nil {
			t.Fatal(err)
		}
	}
	store(one, "")
	store(two, "")
	store(one, "")
	store(two, "second")
	names, err := file.Names()
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"default", "cluster-" + two.ID, "second"}; !slices.Equal(names, want) {
		t.Errorf("Names() = %v, want %v", names, want)
	}
	if c, err := file.Load(""); err != nil || c.Name != "second" {
		t.Errorf("current = %v, %v; want the last stored", c, err)
	}
	if _, err := file.Load("none"); !errors.Is(err, client.ErrNoContext) {
		t.Errorf("Load of an unknown name = %v, want ErrNoContext", err)
	}
}

func TestBundleReplacesAddressesAndKeepsTheWayIn(t *testing.T) {
	cluster := clienttest.NewCluster(t, 1)
	c := cluster.Context("admin", time.Hour, time.Hour)
	next := proto.CloneOf(c.Bundle)
	next.Nodes = append(next.Nodes, &agentplanev1.BundleNode{Id: "b", Address: "10.0.0.2:7460"})
	if c.Learn(next, "nat:1") {
		t.Error("a bundle of the same index was taken")
	}
	next.Index++
	if !c.Learn(next, "nat:1") {
		t.Fatal("a newer bundle was not taken")
	}
	if want := []string{cluster.Nodes[0].Address, "10.0.0.2:7460", "nat:1"}; !slices.Equal(c.Addresses, want) {
		t.Errorf("Addresses = %v, want %v", c.Addresses, want)
	}
	older := proto.CloneOf(next)
	older.Index += 10
	older.Incarnation.Id = []byte("another life with the same number")
	if c.Learn(older, "") {
		t.Error("a bundle of another life with the same number was taken")
	}
}

func TestConcurrentWritersLoseNothing(t *testing.T) {
	cluster := clienttest.NewCluster(t, 1)
	file := client.OpenContexts(filepath.Join(t.TempDir(), "agentctl.yaml"))
	base := cluster.Context("admin", time.Hour, time.Hour)
	var group sync.WaitGroup
	for i := range 16 {
		c := *base
		c.Name = fmt.Sprint("c", i)
		group.Go(func() {
			if err := file.Store(&c); err != nil {
				t.Error(err)
			}
			if err := file.Update(c.Name, func(c *client.Context) bool { c.Role = "viewer"; return true }); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	for i := range 16 {
		if c, err := file.Load(fmt.Sprint("c", i)); err != nil || c.Role != "viewer" {
			t.Errorf("context c%d = %v, %v", i, c, err)
		}
	}
}

func TestKeepAndRemoveLeaveTheCurrentContext(t *testing.T) {
	cluster := clienttest.NewCluster(t, 1)
	file := client.OpenContexts(filepath.Join(t.TempDir(), "agentctl.yaml"))
	if err := file.Remove("guest", cluster.ID); err != nil {
		t.Fatalf("Remove without a file = %v", err)
	}
	context := func(name string) *client.Context {
		c := cluster.Context("admin", time.Hour, time.Hour)
		c.Name = name
		return c
	}
	current := func() string {
		t.Helper()
		c, err := file.Load("")
		if errors.Is(err, client.ErrNoContext) {
			return ""
		}
		if err != nil {
			t.Fatal(err)
		}
		return c.Name
	}
	for _, step := range []struct {
		what string
		do   func() error
		want string
	}{
		{"the first one kept is current", func() error { return file.Keep(context("guest")) }, "guest"},
		{"one of another cluster is not removed", func() error { return file.Remove("guest", "another") }, "guest"},
		{"the current one removed leaves none", func() error { return file.Remove("guest", cluster.ID) }, ""},
		{"the first one stored is current", func() error { return file.Store(context("mine")) }, "mine"},
		{"one kept beside it is not", func() error { return file.Keep(context("guest")) }, "mine"},
		{"nor is its removal felt", func() error { return file.Remove("guest", cluster.ID) }, "mine"},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		if got := current(); got != step.want {
			t.Fatalf("%s: current context is %q, want %q", step.what, got, step.want)
		}
	}
	if _, err := file.Load("guest"); !errors.Is(err, client.ErrNoContext) {
		t.Errorf("Load of a removed context = %v, want ErrNoContext", err)
	}
}

func TestUnknownKeyInTheFileIsAnError(t *testing.T) {
	path := filepath.Join(t.TempDir(), "agentctl.yaml")
	for text, want := range map[string]string{
		"format: 1\ncontxts: []\n": "contxts",
		"format: 9\n":              "format 9",
		"current: x\n":             "format 0",
		"\n":                       "is empty",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := client.OpenContexts(path).Load(""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("file %q: %v, want an error about %q", text, err, want)
		}
	}
}
