package datadir

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/agentplane/agentplane/proto/frame"
)

const testCluster = "0199f3a2-7c1e-7b22-9d0a-5a3f6f1c2b3d"

func mustOpen(t *testing.T, path string) *Dir {
	t.Helper()
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func TestOpenKeepsTheNodeAndCountsStarts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "data")
	var id string
	var starts [][]byte // newest first
	for start := uint64(1); start <= maxStartIDs+3; start++ {
		d := mustOpen(t, path)
		if id == "" {
			id = d.NodeID()
			if _, err := uuid.Parse(id); err != nil {
				t.Fatalf("node id %q: %v", id, err)
			}
		}
		if d.NodeID() != id || d.Starts() != start || d.ClusterID() != "" {
			t.Fatalf("start %d: node %q, starts %d, cluster %q; want node %q", start, d.NodeID(), d.Starts(), d.ClusterID(), id)
		}
		if now := d.StartIDs(); len(now) != min(int(start), maxStartIDs) || len(now[0]) != startIDBytes || !slices.EqualFunc(now[1:], starts[:len(now)-1], bytes.Equal) {
			t.Fatalf("start %d: the ids of starts are %x behind %x", start, now, starts)
		}
		starts = slices.Clone(d.StartIDs())
		if err := errors.Join(d.Close(), d.Close()); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Fatalf("mode %v, %v; want 0700", info.Mode(), err)
	}
}

func TestTwoDirectoriesAreTwoNodes(t *testing.T) {
	if a, b := mustOpen(t, t.TempDir()+"/a"), mustOpen(t, t.TempDir()+"/b"); a.NodeID() == b.NodeID() {
		t.Fatal("two nodes have one id")
	}
}

func TestOpenRefusesADirectoryThatOthersMayAccess(t *testing.T) {
	for _, mode := range []os.FileMode{0o750, 0o701, 0o777, 0o720} {
		path := t.TempDir()
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		_, err := Open(path)
		if err == nil || !strings.Contains(err.Error(), "run: chmod 700 "+path) {
			t.Errorf("Open of mode %#o = %v", mode, err)
		}
		entries, err := os.ReadDir(path)
		if err != nil || len(entries) > 0 {
			t.Errorf("a refused directory was written to: %v, %v", entries, err)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file); err == nil {
		t.Error("Open of a file succeeded")
	}
}

func TestOneProcessPerDirectory(t *testing.T) {
	path := t.TempDir() + "/data"
	d := mustOpen(t, path)
	for range 2 {
		_, err := Open(path)
		want := fmt.Sprintf("in use by process %d", os.Getpid())
		if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), want) {
			t.Fatalf("second Open = %v, want %q", err, want)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if again := mustOpen(t, path); again.Starts() != 2 {
		t.Fatalf("a refused Open counted as a start: %d, want 2", again.Starts())
	}
}

// TestMain lets this binary hold a lock in another process.
func TestMain(m *testing.M) {
	if path := os.Getenv("DATADIR_TEST_HOLD"); path != "" {
		d, err := Open(path)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("held")
		_, _ = io.Copy(io.Discard, os.Stdin) // until killed
		_ = d.Close()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestLockDiesWithItsProcess(t *testing.T) {
	path := t.TempDir() + "/data"
	holder := exec.Command(os.Args[0])
	holder.Env = append(os.Environ(), "DATADIR_TEST_HOLD="+path)
	if _, err := holder.StdinPipe(); err != nil { // nobody writes: the holder waits
		t.Fatal(err)
	}
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = holder.Process.Kill(); _ = holder.Wait() }()
	line := make([]byte, 5)
	if n, err := out.Read(line); err != nil || string(line[:n]) != "held\n" {
		t.Fatalf("holder said %q, %v", line[:n], err)
	}
	want := fmt.Sprintf("in use by process %d", holder.Process.Pid)
	if _, err := Open(path); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), want) {
		t.Fatalf("Open = %v, want %q", err, want)
	}
	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = holder.Wait()
	if d := mustOpen(t, path); d.Starts() != 2 {
		t.Fatalf("starts = %d after a killed start, want 2", d.Starts())
	}
}

func TestBindClusterIsForEver(t *testing.T) {
	path := t.TempDir() + "/data"
	d := mustOpen(t, path)
	if err := d.BindCluster("Not An Id"); err == nil {
		t.Error("bound to a bad id")
	}
	for range 2 {
		if err := d.BindCluster(testCluster); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.BindCluster("other"); !errors.Is(err, ErrOtherCluster) || !strings.Contains(err.Error(), testCluster) {
		t.Fatalf("BindCluster = %v", err)
	}
	_ = d.Close()
	if err := d.BindCluster(testCluster); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("BindCluster after Close = %v", err)
	}
	d = mustOpen(t, path)
	if d.ClusterID() != testCluster || d.Starts() != 2 {
		t.Fatalf("after a restart: cluster %q, starts %d", d.ClusterID(), d.Starts())
	}
	if err := d.BindCluster("other"); !errors.Is(err, ErrOtherCluster) {
		t.Fatalf("BindCluster = %v", err)
	}
}

func TestDamagedNodeFileIsNeverMadeAnew(t *testing.T) {
	path := t.TempDir() + "/data"
	d := mustOpen(t, path)
	if err := d.BindCluster(testCluster); err != nil {
		t.Fatal(err)
	}
	_ = d.Close()
	file := filepath.Join(path, nodeFile)
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range good {
		if _, err := parseRecord(good[:cut]); err == nil {
			t.Errorf("accepted when cut to %d bytes", cut)
		}
	}
	for bit := range len(good) * 8 {
		bad := append([]byte(nil), good...)
		bad[bit/8] ^= 1 << (bit % 8)
		if _, err := parseRecord(bad); err == nil {
			t.Errorf("accepted with bit %d flipped", bit)
		}
	}
	if _, err := parseRecord(append(append([]byte(nil), good...), good...)); err == nil {
		t.Error("accepted two frames")
	}

	if err := os.WriteFile(file, good[:20], 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the refusal changes nothing
		if _, err := Open(path); err == nil || !strings.Contains(err.Error(), file) || !strings.Contains(err.Error(), "join again") {
			t.Fatalf("Open = %v", err)
		}
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, bootFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "is missing although") {
		t.Fatalf("Open without the node file = %v", err)
	}
	if err := os.WriteFile(file, good, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "chmod 600 "+file) {
		t.Fatalf("Open with a readable node file = %v", err)
	}
}

func TestNodeFileOfTheFirstFormatStaysReadable(t *testing.T) {
	const id = "4f9c3c0e-58a1-4c29-9a64-2f0a2f3a9d11"
	text := `{"format":1,"node_id":"` + id + `","cluster_id":"c1","starts":41}`
	got, err := parseRecord(frame.Append(nil, 1, []byte(text)))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(nodeRecord{Format: 1, NodeID: id, ClusterID: "c1", Starts: 41}, got); d != "" {
		t.Error(d)
	}
	for name, text := range map[string]string{
		"another format":   `{"format":2,"node_id":"` + id + `","starts":41}`,
		"no id":            `{"format":1,"starts":41}`,
		"an id in braces":  `{"format":1,"node_id":"{` + id + `}","starts":41}`,
		"no starts":        `{"format":1,"node_id":"` + id + `"}`,
		"the last start":   `{"format":1,"node_id":"` + id + `","starts":18446744073709551615}`,
		"a bad cluster id": `{"format":1,"node_id":"` + id + `","cluster_id":"A","starts":41}`,
		"not JSON":         `x`,
	} {
		if _, err := parseRecord(frame.Append(nil, 1, []byte(text))); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := parseRecord(frame.Append(nil, 2, []byte(text))); err == nil {
		t.Error("another frame type: accepted")
	}
}

func TestAddressesAreThereOnlyWhileTheNodeRuns(t *testing.T) {
	path := t.TempDir() + "/data"
	d := mustOpen(t, path)
	file := filepath.Join(path, "addresses.json")
	want := Addresses{Listen: "127.0.0.1:4711", Advertise: "10.0.0.1:4711", GossipListen: "127.0.0.1:4712", GossipAdvertise: "10.0.0.1:4712"}
	if err := d.WriteAddresses(want); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	wantMap := map[string]any{
		"nodeId": d.NodeID(), "pid": float64(os.Getpid()), "listen": want.Listen, "advertise": want.Advertise,
		"gossipListen": want.GossipListen, "gossipAdvertise": want.GossipAdvertise,
	}
	if diff := cmp.Diff(wantMap, got); diff != "" {
		t.Error(diff)
	}
	_ = d.Close()
	if err := d.WriteAddresses(want); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("WriteAddresses after Close = %v", err)
	}
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Close: %v", err)
	}
	// As a killed process leaves it, with half a replacement.
	for _, name := range []string{"addresses.json", ".node.new-123"} {
		if err := os.WriteFile(filepath.Join(path, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	mustOpen(t, path)
	for _, name := range []string{"addresses.json", ".node.new-123"} {
		if _, err := os.Stat(filepath.Join(path, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s after Open: %v", name, err)
		}
	}
}

func TestDirectoriesOfOthersAreRefused(t *testing.T) {
	member := func(t *testing.T, path string) {
		t.Helper()
		d, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(d.BindCluster("c1"), d.Replace(bootFile, []byte("x")), os.Mkdir(d.Path(raftDir), 0o700), d.Close()); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		make func(t *testing.T, path string)
		want string // "" is a start
	}{
		"a member's": {member, ""},
		"a member's without boot.state": {func(t *testing.T, path string) {
			member(t, path)
			if err := os.Remove(filepath.Join(path, bootFile)); err != nil {
				t.Fatal(err)
			}
		}, "boot.state\" is missing beside the log of a cluster"},
		"one that died while it joined": {func(t *testing.T, path string) {
			d, err := Open(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(d.BindCluster("c1"), d.Close()); err != nil {
				t.Fatal(err)
			}
		}, ""},
		"an agent's": {func(t *testing.T, path string) {
			if err := errors.Join(os.Mkdir(path, 0o700), os.WriteFile(filepath.Join(path, "agent.key"), nil, 0o600)); err != nil {
				t.Fatal(err)
			}
		}, "data directory of an agent: agent.key lies in it; give this node a directory of its own"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "data")
			c.make(t, path)
			d, err := Open(path)
			if err == nil {
				defer d.Close()
			}
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("Open = %v, want %q", err, c.want)
			}
			if _, err := os.Stat(filepath.Join(path, nodeFile)); strings.Contains(name, "agent") && err == nil {
				t.Error("the node left its own file in the directory of an agent")
			}
		})
	}
}

// A start that comes to nothing leaves nothing that it has made, and everything else.
func TestDiscardRemovesWhatOpenMade(t *testing.T) {
	exists := func(path string) bool {
		_, err := os.Lstat(path)
		return err == nil
	}
	for name, c := range map[string]struct {
		before bool // the directory is there
		use    func(t *testing.T, d *Dir)
		left   bool
	}{
		"a new one":                {false, nil, false},
		"one that was there":       {true, nil, true},
		"one that has addresses":   {false, func(t *testing.T, d *Dir) { check(t, d.WriteAddresses(Addresses{Listen: "a:1"})) }, false},
		"one with something in it": {false, func(t *testing.T, d *Dir) { check(t, d.Replace("x", []byte("y"))) }, true},
		"one of a cluster":         {false, func(t *testing.T, d *Dir) { check(t, d.BindCluster("c1")) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			parent := t.TempDir()
			path := filepath.Join(parent, "new", "data")
			if c.before {
				check(t, os.MkdirAll(path, 0o700))
			}
			d, err := Open(path)
			check(t, err)
			if c.use != nil {
				c.use(t, d)
			}
			check(t, d.Discard())
			check(t, d.Close())
			if exists(path) != c.left || exists(filepath.Dir(path)) != c.left || !exists(parent) {
				t.Errorf("left is %v, of its parent %v; want %v", exists(path), exists(filepath.Dir(path)), c.left)
			}
			again, err := Open(path) // the lock is free
			check(t, err)
			check(t, again.Close())
		})
	}
}

// Who has opened the lock of a directory that is discarded meanwhile does not hold it.
func TestLockOfADiscardedDirectoryIsWorthNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data")
	d, err := Open(path)
	check(t, err)
	late, err := os.OpenFile(d.Path(lockFile), os.O_RDWR, 0o600)
	check(t, err)
	defer late.Close()
	check(t, d.Discard())
	check(t, flock(late))
	if sameFile(late, filepath.Join(path, lockFile)) {
		t.Error("the lock of a directory that is gone is held")
	}
	again, err := Open(path)
	check(t, err)
	defer again.Close()
	if sameFile(late, filepath.Join(path, lockFile)) {
		t.Error("two hold the lock")
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestSubdirAndReplace(t *testing.T) {
	d := mustOpen(t, t.TempDir()+"/data")
	for range 2 {
		path, err := d.Subdir("pki")
		if err != nil || path != d.Path("pki") {
			t.Fatalf("Subdir = %q, %v", path, err)
		}
	}
	if err := os.Chmod(d.Path("pki"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Subdir("pki"); err == nil || !strings.Contains(err.Error(), "chmod 700") {
		t.Errorf("Subdir of mode 0755 = %v", err)
	}
	if err := d.Replace("x", []byte("y")); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(d.Path("x")); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("replaced file: %v, %v", info, err)
	}
}

func TestSocketBindsUnderALongPath(t *testing.T) {
	d := mustOpen(t, filepath.Join(t.TempDir(), strings.Repeat("long", 40), "data"))
	l, err := net.Listen("unix", d.SocketPath("admin.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if info, err := os.Stat(d.Path("admin.sock")); err != nil || info.Mode().Type() != fs.ModeSocket {
		t.Fatalf("socket: %v, %v", info, err)
	}
	c, err := net.Dial("unix", d.SocketPath("admin.sock"))
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
}

func FuzzParseRecord(f *testing.F) {
	f.Add(frame.Append(nil, 1, []byte(`{"format":1,"node_id":"4f9c3c0e-58a1-4c29-9a64-2f0a2f3a9d11","cluster_id":"c1","starts":41}`)))
	f.Fuzz(func(t *testing.T, data []byte) {
		// The checksum would stop nearly every mutation: fuzz behind it too.
		for _, input := range [][]byte{data, frame.Append(nil, recordFrame, data)} {
			r, err := parseRecord(input)
			if err != nil {
				continue
			}
			if _, err := uuid.Parse(r.NodeID); err != nil || r.Starts == 0 || r.Format != recordFormat {
				t.Fatalf("accepted %+v", r)
			}
		}
	})
}

// A directory that was put back is refused from then on, and counts no further start.
func TestADirectoryThatWasPutBackStaysRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data")
	d := mustOpen(t, path)
	if err := d.PutBack(); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.PutBack(); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("PutBack of a closed directory = %v", err)
	}
	before, err := os.ReadFile(filepath.Join(path, nodeFile))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := Open(path); !errors.Is(err, ErrPutBack) {
			t.Errorf("Open = %v, want that the disk was put back", err)
		}
	}
	if after, err := os.ReadFile(filepath.Join(path, nodeFile)); err != nil || !bytes.Equal(after, before) {
		t.Errorf("a refused start was counted (%v)", err)
	}
}
