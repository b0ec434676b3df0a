package client_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/client/clienttest"
)

// Whatever lies in the file of contexts is refused with words, or read.
func FuzzContexts(f *testing.F) {
	path := filepath.Join(f.TempDir(), "agentctl.yaml")
	whole := clienttest.NewCluster(f, 1).Context("ann", time.Hour, time.Hour)
	whole.Name = "one"
	if err := client.OpenContexts(path).Store(whole); err != nil {
		f.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte("current: x\ncontexts: [{name: x}]\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "agentctl.yaml")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := client.OpenContexts(path).Load("")
		if err == nil && (c.Name == "" || c.Bundle.GetClusterId() != c.ClusterID) {
			t.Fatalf("context %+v", c)
		}
	})
}
