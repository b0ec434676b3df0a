package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestBadDayDamagedNode damages a copy of a node's directory in every place that
// matters, and starts it: it must refuse with words. Then the node itself is lost, and
// an empty one takes its place.
func TestBadDayDamagedNode(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1, []string{"--raft-snapshot-threshold", "16", "--raft-snapshot-interval", "100ms", "--raft-trailing-logs", "16"}, nil)
	var done []string
	for range 30 {
		id, o := f.run(t, "a1", nil, f.argv())
		if o.Code != 0 {
			t.Fatalf("%+v", o)
		}
		done = append(done, id)
	}
	victim := f.nodes[2]
	await(t, 20*time.Second, victim.Name+" has a snapshot", func() error {
		if got, err := filepath.Glob(filepath.Join(victim.DataDir, "raft", "snapshots", "*", "state.bin")); err != nil || len(got) == 0 {
			return fmt.Errorf("snapshots %v, %w", got, err)
		}
		return nil
	})
	if !victim.Kill() {
		t.Fatal("the victim was not alive")
	}

	// A copy, of which each case restores what it damaged.
	if err := os.Remove(filepath.Join(victim.DataDir, "admin.sock")); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(f.Dir, "copy")
	if err := os.CopyFS(dir, os.DirFS(victim.DataDir)); err != nil {
		t.Fatal(err)
	}
	private(t, dir)

	const again = "agentctl tokens create --kind node"
	for _, c := range []struct {
		file   string // a pattern; the last match is damaged
		damage func([]byte) []byte
		how    string
		says   []string
	}{
		{"boot.state", half, "truncated", []string{"boot.state", "torn"}},
		{"boot.state", bit(60), "flipped", []string{"boot.state", "checksum differs"}},
		{"boot.state", nil, "gone", []string{"boot.state", "missing"}},
		{"node", half, "truncated", []string{"/node", "torn"}},
		{"node", bit(60), "flipped", []string{"/node", "checksum differs"}},
		{"node", nil, "gone", []string{"/node", "missing"}},
		{"raft/log.mark", nil, "gone", []string{"log mark"}},
		{"raft/stable.db", nil, "gone", []string{"stable store", "for whom it voted"}},
		{"raft/stable.db", empty, "emptied", []string{"stable store", "for whom it voted"}},
		{"raft/stable.db", bit(60), "flipped", []string{"stable.db", "checksum"}},
		{"raft/wal/*.wal", empty, "emptied", []string{"log"}},
		{"raft/wal/wal-meta.db", empty, "emptied", []string{"wal-meta.db"}},
		{"raft/wal/wal-meta.db", nil, "gone", []string{"wal-meta.db"}},
		{"raft/snapshots/*/state.bin", half, "all truncated", []string{"snapshots is whole", "state.bin has"}},
		{"raft/snapshots/*/state.bin", bit(1000), "all flipped", []string{"snapshots is whole", "CRC mismatch"}},
		{"raft/snapshots/*/meta.json", half, "all truncated", []string{"snapshots is whole", "meta.json"}},
		{"raft/snapshots/*/meta.json", nil, "all gone", []string{"snapshots is whole", "meta.json"}},
		{"raft/snapshots/*/meta.json", behind(`"Configura`), "configuration flipped", []string{"snapshots is whole", "differs from what was sealed"}},
		{"raft/snapshots/*/meta.json", behind(`"Suffrage":`), "suffrage flipped", []string{"snapshots is whole", "differs from what was sealed"}},
		{"raft/snapshots/*/meta.json", behind(`"ID":"`), "id flipped", []string{"snapshots is whole", "differs from what was sealed"}},
		{"raft/snapshots/*/meta.json", behind(`"Suffrage":0,"ID":"`), "id of a voter flipped", []string{"snapshots is whole", "differs from what was sealed"}},
		{"raft/snapshots/*/meta.json", behind(`"Address":"`), "address flipped", []string{"snapshots is whole", "differs from what was sealed"}},
		{"raft/snapshots/*/meta.json", behind(`"ConfigurationI`), "index of the configuration flipped", []string{"snapshots is whole", "differs from what was sealed"}},
		{"raft/snapshots/*/meta.json", behind(`"Inde`), "index flipped", []string{"snapshots is whole", "differs from what was sealed"}},
		{"raft/snapshots/*/meta.json", behind(`"Ter`), "term flipped", []string{"snapshots is whole", "differs from what was sealed"}},
		{"raft/snapshots/*/meta.json", behind(`"Siz`), "size flipped", []string{"snapshots is whole", "state.bin has"}},
		{"raft/snapshots/*/meta.json", behind(`"Version":`), "version flipped", []string{"snapshots is whole", "differs from what was sealed"}},
		{"raft/snapshots/*/meta.json", otherDigit(`"CRC":"`), "checksum changed", []string{"snapshots is whole", "CRC mismatch"}},
	} {
		t.Run(c.file+" "+c.how, func(t *testing.T) {
			restore := damageFiles(t, filepath.Join(dir, c.file), c.damage)
			defer restore()
			o := tryNode(t, f.Lab, dir)
			badDay{code: 1, says: c.says, hint: ""}.judge(t, o)
			if !strings.Contains(o.Stderr, again) && !strings.Contains(o.Stderr, "join") {
				t.Errorf("nothing says how the node comes back: %s", o.Stderr)
			}
		})
	}

	// The node is lost. Its place is taken.
	if err := os.RemoveAll(victim.DataDir); err != nil {
		t.Fatal(err)
	}
	if o := f.Ctl(within(t, 20*time.Second), "cluster", "remove", victim.Name, "--yes"); o.Err() != nil {
		t.Fatal(o.Err())
	}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := victim.Address(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	token := mustToken(t, f.Lab, "node")
	if o := f.Ctl(within(t, 30*time.Second), "cluster", "join", f.addresses[0], "--token", token, "--data-dir", victim.DataDir); o.Err() != nil {
		t.Fatal(o.Err())
	}
	voters(t, f.Lab, 3)
	address, err := victim.Address(within(t, 10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range done {
		o := f.Ctl(within(t, 20*time.Second), "--addr", address, "commands", "get", id)
		if o.Code != 0 || !strings.Contains(strings.ToUpper(o.Stdout), "SUCCEEDED") {
			t.Fatalf("command %s is not on the new node as it was: %+v", id, o)
		}
	}
}

func half(b []byte) []byte { return b[:len(b)/2] }

func empty([]byte) []byte { return nil }

func bit(at int) func([]byte) []byte {
	return func(b []byte) []byte {
		b[min(at, len(b)-1)] ^= 0x10
		return b
	}
}

// behind flips a bit of the byte behind the first occurrence of what.
func behind(what string) func([]byte) []byte {
	return func(b []byte) []byte {
		if at := bytes.Index(b, []byte(what)); at >= 0 {
			b[at+len(what)] ^= 0x01
		}
		return b
	}
}

// otherDigit changes the digit in base64 behind the first occurrence of what.
func otherDigit(what string) func([]byte) []byte {
	return func(b []byte) []byte {
		if at := bytes.Index(b, []byte(what)); at >= 0 {
			d := &b[at+len(what)]
			if *d++; *d != 'B' {
				*d = 'A'
			}
		}
		return b
	}
}

// damageFiles changes every file of the pattern, or removes it. What it answers brings
// them back.
func damageFiles(t *testing.T, pattern string, damage func([]byte) []byte) (restore func()) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %v, %v", pattern, files, err)
	}
	whole := make(map[string][]byte)
	for _, path := range files {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		whole[path] = bytes.Clone(b)
		if damage == nil {
			err = os.Remove(path)
		} else {
			err = os.WriteFile(path, damage(b), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		for path, b := range whole {
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Error(err)
			}
		}
	}
}

// private gives a copied directory the modes that it had.
func private(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		mode := os.FileMode(0o600)
		if e.IsDir() {
			mode = 0o700
		}
		return os.Chmod(path, mode)
	})
	if err != nil {
		t.Fatal(err)
	}
}
