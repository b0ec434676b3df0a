package consensus_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/agentplane/agentplane/controlplane/consensus"
)

// TestStableStoreThatForgotIsRefused damages what holds term and vote of a node with
// a log. A node that goes on could vote twice in one term.
func TestStableStoreThatForgotIsRefused(t *testing.T) {
	stable := func(dir string) string { return filepath.Join(dir, "stable.db") }
	rewrite := func(path string, f func([]byte) []byte) func(*testing.T, string) {
		return func(t *testing.T, dir string) {
			t.Helper()
			b, err := os.ReadFile(filepath.Join(dir, path))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, path), f(b), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	flipAt := func(i int) func([]byte) []byte {
		return func(b []byte) []byte { b[i] ^= 0x10; return b }
	}
	// Every version of the value that lies in the file, the current one among them.
	flipBehind := func(what string, n int) func([]byte) []byte {
		return func(b []byte) []byte {
			for i := 0; i+len(what)+n < len(b); i++ {
				if string(b[i:i+len(what)]) == what {
					b[i+len(what)+n] ^= 1
				}
			}
			return b
		}
	}
	for name, c := range map[string]struct {
		damage func(*testing.T, string)
		want   string
	}{
		"gone": {func(t *testing.T, dir string) {
			if err := os.Remove(stable(dir)); err != nil {
				t.Fatal(err)
			}
		}, "knows no term"},
		"empty":                     {rewrite("stable.db", func([]byte) []byte { return nil }), "knows no term"},
		"half a page":               {rewrite("stable.db", func(b []byte) []byte { return b[:2000] }), "ends inside meta page 1"},
		"first meta page":           {rewrite("stable.db", flipAt(60)), "meta page 0 has a wrong checksum"},
		"second meta page":          {rewrite("stable.db", flipAt(os.Getpagesize()+60)), "meta page 1 has a wrong checksum"},
		"the term":                  {rewrite("stable.db", flipBehind("agentplane.vote", 11)), "checksum of term and vote differs"},
		"the candidate":             {rewrite("stable.db", flipBehind("agentplane.vote", 20)), "checksum of term and vote differs"},
		"the key":                   {rewrite("stable.db", flipBehind("agentplane.vot", 0)), "knows no term"},
		"bookkeeping of the log":    {rewrite("wal/wal-meta.db", flipAt(60)), "meta page 0 has a wrong checksum"},
		"no bookkeeping of the log": {rewrite("wal/wal-meta.db", func([]byte) []byte { return nil }), "wal-meta.db\" is empty beside 1 segments"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			fill(t, dir, "wal", 250)
			d, err := openGuarded(t, dir, "wal")
			if err != nil {
				t.Fatalf("undamaged: %v", err)
			}
			err = errors.Join(d.Stable.SetUint64([]byte("LastVoteTerm"), 3), d.Stable.Set([]byte("LastVoteCand"), []byte("node-b")), d.Close())
			if err != nil {
				t.Fatal(err)
			}
			c.damage(t, dir)
			d, err = openDamaged(t, dir)
			if err == nil {
				_ = d.Close()
			}
			if !errors.Is(err, consensus.ErrDamaged) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "must rejoin empty") {
				t.Errorf("opened with %v, want ErrDamaged with %q and what to do", err, c.want)
			}
		})
	}
}

// openDamaged is openGuarded where the stores themselves may refuse, too.
func openDamaged(t *testing.T, dir string) (*consensus.Disk, error) {
	t.Helper()
	d, err := consensus.OpenDisk(dir, "wal", 2, nil)
	if err != nil {
		return nil, err
	}
	g, err := consensus.Guard(d, func(err error) { t.Errorf("fatal: %v", err) })
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return g, nil
}

func TestTermBehindTheLogIsRefused(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, "wal", 250)
	d, err := openGuarded(t, dir, "wal")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Stable.SetUint64([]byte("CurrentTerm"), 2), d.Close()); err != nil {
		t.Fatal(err)
	}
	if d, err = openDamaged(t, dir); err == nil {
		_ = d.Close()
	}
	if !errors.Is(err, consensus.ErrDamaged) || !strings.Contains(err.Error(), "it is in term 2, but the log beside it has reached term 3") {
		t.Errorf("opened with %v", err)
	}
}
