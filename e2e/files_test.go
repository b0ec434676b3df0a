package e2e

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// bytesFile makes a file of random bytes.
func bytesFile(t *testing.T, path string, n int, seed uint64) []byte {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	if err := os.WriteFile(path, b, 0o640); err != nil {
		t.Fatal(err)
	}
	return b
}

// What a command brings along reaches its program byte for byte, also when one node of three
// is dead, whichever one, and through nodes that did not take the upload.
func TestCommandsBringFilesAndInput(t *testing.T) {
	t.Parallel()
	const seed = 1
	t.Logf("seed %d", seed)
	f := newFleet(t, 2, nil, nil)
	local, input, remote := filepath.Join(f.Dir, "local.bin"), filepath.Join(f.Dir, "input.bin"), filepath.Join(f.Dir, "remote")
	if err := os.Mkdir(remote, 0o700); err != nil {
		t.Fatal(err)
	}
	fileBytes, inputBytes := bytesFile(t, local, 3<<20+17, seed), bytesFile(t, input, 1<<20+1, seed+1)
	want := fmt.Sprintf("%x  -\n", sha256.Sum256(append(append([]byte{}, inputBytes...), fileBytes...)))
	// Agents share this machine, so each has a place of its own.
	run := func(agent string) (string, string, error) {
		place := filepath.Join(remote, agent)
		id, o := f.run(t, agent, []string{"--file", local + ":" + place + ":0600", "--stdin=" + input, "-o", "json"},
			[]string{"sh", "-c", "cat - " + place + " | sha256sum"})
		if o.Err() != nil {
			return id, o.Stderr, o.Err()
		}
		var c commandView
		if err := json.Unmarshal([]byte(o.Stdout), &c); err != nil {
			return id, o.Stderr, err
		}
		i := c.Invocations[0]
		if i.State != "SUCCEEDED" || i.Output != want {
			return id, o.Stderr, fmt.Errorf("%v, want the output %q", i, want)
		}
		st, err := os.Stat(place)
		if err == nil && st.Mode().Perm() != 0o600 {
			err = fmt.Errorf("mode %v", st.Mode())
		}
		return id, o.Stderr, err
	}
	id, said, err := run("a1")
	if err != nil || !strings.Contains(said, "uploading "+local) {
		t.Fatalf("%v: %s", err, said)
	}
	// Whichever node dies, a1 has it in its cache, and a2 gets it from who is left.
	for n, node := range f.nodes {
		if !node.Kill() {
			t.Fatal("the node was not alive")
		}
		f.awaitHealth(t, "a2", "ONLINE")
		if err := os.RemoveAll(filepath.Join(f.agents[1].DataDir, "blobs")); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(f.agents[1].DataDir, "blobs"), 0o700); err != nil {
			t.Fatal(err)
		}
		for _, agent := range []string{"a1", "a2"} {
			await(t, time.Minute, fmt.Sprintf("without node %s %s has what the command brings", node.Name, agent), func() error {
				_, said, err := run(agent)
				if err == nil && strings.Contains(said, "uploading") {
					t.Errorf("it was uploaded again: %s", said)
				}
				return err
			})
		}
		// With two of three another one is taken, too.
		other := filepath.Join(f.Dir, fmt.Sprintf("other-%d", n))
		bytesFile(t, other, 100_000, seed+2+uint64(n))
		_, o := f.run(t, "a1", []string{"--file", other + ":" + filepath.Join(remote, "other")}, []string{"cmp", other, filepath.Join(remote, "other")})
		if o.Err() != nil || !strings.Contains(o.Stderr, "uploading") {
			t.Errorf("without node %s: %v: %s", node.Name, o.Err(), o.Stderr)
		}
		if err := node.Start(); err != nil {
			t.Fatal(err)
		}
		voters(t, f.Lab, len(three))
	}
	o := f.Ctl(within(t, 20*time.Second), "commands", "get", id)
	if o.Err() != nil || !strings.Contains(o.Stdout, filepath.Join(remote, "a1")+", mode 0600, 3.0 MiB, sha256 ") || !strings.Contains(o.Stdout, "stdin:") {
		t.Errorf("commands get says %s%s", o.Stdout, o.Stderr)
	}

	// What cannot be put in place keeps the program from starting, and says so.
	id, _ = f.run(t, "a1", []string{"--file", local + ":" + filepath.Join(remote, "none", "x")}, f.argv())
	i := f.expect(t, id, "FAILED", 0)
	if i.Reason != "not_placed" {
		t.Errorf("%v, want the reason not_placed", i)
	}
	if _, err := os.Stat(filepath.Join(remote, "none")); !os.IsNotExist(err) {
		t.Errorf("a directory was made: %v", err)
	}
}
