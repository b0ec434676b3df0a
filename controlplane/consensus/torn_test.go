package consensus_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/agentplane/agentplane/controlplane/consensus/consensustest"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// sectorBytes is what a disk writes whole or not at all.
const sectorBytes = 512

// image is what lies in the files of a directory.
type image map[string]content

// content is a file: its first bytes, behind which there are only zeros up to its size.
type content struct {
	bytes []byte
	size  int64
}

func takeImage(t *testing.T, dir string) image {
	t.Helper()
	all := make(image)
	err := fs.WalkDir(os.DirFS(dir), ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(filepath.Join(dir, path))
		all[path] = content{withoutZeros(b), int64(len(b))}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// withoutZeros is a copy of b without the sectors of zeros at its end: the files of raft-wal have
// all their length from the begin on.
func withoutZeros(b []byte) []byte {
	zeros := make([]byte, sectorBytes)
	n := len(b)
	for n >= sectorBytes && bytes.Equal(b[n-sectorBytes:n], zeros) {
		n -= sectorBytes
	}
	return bytes.Clone(b[:n])
}

func (m image) write(t *testing.T, dir string) {
	t.Helper()
	for path, c := range m {
		to := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, c.bytes, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(to, c.size); err != nil {
			t.Fatal(err)
		}
	}
}

// sector is one of a file, by its number.
type sector struct {
	path string
	n    int64
}

func (c content) sector(n int64) []byte {
	b := make([]byte, sectorBytes)
	if at := n * sectorBytes; at < int64(len(c.bytes)) {
		copy(b, c.bytes[at:])
	}
	return b
}

// changed are the sectors in which b differs from a, in the order in which they lie.
func changed(a, b image) (all []sector) {
	for _, path := range slices.Sorted(maps.Keys(b)) {
		for n := int64(0); n*sectorBytes < max(int64(len(a[path].bytes)), int64(len(b[path].bytes))); n++ {
			if !bytes.Equal(a[path].sector(n), b[path].sector(n)) {
				all = append(all, sector{path, n})
			}
		}
	}
	return all
}

// torn is m when only these sectors of later have reached the disk.
func (m image) torn(later image, reached []sector) image {
	out := maps.Clone(m)
	for _, s := range reached {
		c := out[s.path]
		b := bytes.Clone(c.bytes)
		if end := (s.n + 1) * sectorBytes; int64(len(b)) < end {
			b = append(b, make([]byte, end-int64(len(b)))...)
		}
		copy(b[s.n*sectorBytes:], later[s.path].sector(s.n))
		out[s.path] = content{b, max(c.size, later[s.path].size, int64(len(b)))}
	}
	return out
}

// barriers groups what an append writes by the fsyncs between: bbolt writes its pages, fsyncs,
// and then one of its two meta pages; raft-wal writes all at once.
func barriers(kind string, all []sector) [][]sector {
	if kind == "wal" {
		return [][]sector{all}
	}
	meta := func(s sector) bool { return s.n*sectorBytes < 2*int64(os.Getpagesize()) }
	pages := slices.DeleteFunc(slices.Clone(all), meta)
	return [][]sector{pages, slices.DeleteFunc(slices.Clone(all), func(s sector) bool { return !meta(s) })}
}

// reach draws which sectors have reached the disk when the power is cut: all that were written
// before some fsync, and any of what came behind it.
func reach(rng *rand.Rand, groups [][]sector) (reached []sector) {
	last := rng.IntN(len(groups))
	for _, g := range groups[:last] {
		reached = append(reached, g...)
	}
	under := slices.Clone(groups[last])
	switch rng.IntN(4) {
	case 0: // in their order
		under = under[:rng.IntN(len(under)+1)]
	case 1: // the last ones first
		under = under[rng.IntN(len(under)+1):]
	case 2: // all but one
		if len(under) > 0 {
			i := rng.IntN(len(under))
			under = slices.Delete(under, i, i+1)
		}
	default:
		under = slices.DeleteFunc(under, func(sector) bool { return rng.IntN(2) == 0 })
	}
	return append(reached, under...)
}

// someEntries draws entries of one append, some of many sectors and some of a few bytes.
func someEntries(t *testing.T, rng *rand.Rand, first uint64) []*raft.Log {
	t.Helper()
	all := make([]*raft.Log, 1+rng.IntN(6))
	for i := range all {
		text := strings.Repeat(string(rune('a'+rng.IntN(26))), []int{1, 100, 3000}[rng.IntN(3)]+rng.IntN(600))
		data, err := raftlogv1.Seal(&raftlogv1.Entry{Format: 1, Mutations: []*raftlogv1.Mutation{consensustest.Put(fmt.Sprint("key-", first), text)}})
		if err != nil {
			t.Fatal(err)
		}
		all[i] = &raft.Log{Index: first + uint64(i), Term: 1, Type: raft.LogCommand, Data: data}
	}
	return all
}

// TestPowerCutsTearTheLastAppend cuts the power while an append is written to the real stores:
// of its sectors any may have reached the disk. The node starts again with all that was
// acknowledged and no damaged entry, and goes on: what it then appends, the same entries in
// other appends as a leader would send them, is there after the next start.
func TestPowerCutsTearTheLastAppend(t *testing.T) {
	seed := envNumber(t, "AGENTPLANE_SIM_SEED", uint64(time.Now().UnixNano()))
	t.Logf("AGENTPLANE_SIM_SEED=%d", seed)
	const cuts = 8
	for _, kind := range []string{"wal", "bolt"} {
		t.Run(kind, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 0x746f726e))
			dir, scratch := t.TempDir(), t.TempDir()
			fill(t, dir, kind, 20)
			d, err := openGuarded(t, dir, kind)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			var stored []*raft.Log
			for i := uint64(1); i <= 20; i++ {
				stored = append(stored, entry(t, i, 1))
			}
			last, lost, part, whole := uint64(20), 0, 0, 0
			for round := range tornRounds {
				before := takeImage(t, dir)
				batch := someEntries(t, rng, last+1)
				if err := d.Log.StoreLogs(batch); err != nil {
					t.Fatal(err)
				}
				after := takeImage(t, dir)
				after["log.mark"] = before["log.mark"] // it is written when the log is on disk
				groups := barriers(kind, changed(before, after))
				for cut := range cuts {
					reached := reach(rng, groups)
					at := filepath.Join(scratch, fmt.Sprint(round, "-", cut))
					before.torn(after, reached).write(t, at)
					has := startsAfterTheCut(t, at, kind, stored, batch)
					if t.Failed() {
						t.Fatalf("round %d, cut %d: of %v reached the disk: %v", round, cut, groups, reached)
					}
					switch has {
					case last:
						lost++
					case last + uint64(len(batch)):
						whole++
					default:
						part++
					}
					if err := os.RemoveAll(at); err != nil {
						t.Fatal(err)
					}
				}
				last += uint64(len(batch))
				stored = append(stored, batch...)
			}
			t.Logf("%d appends were lost, %d in part, %d were whole", lost, part, whole)
			if lost == 0 {
				t.Error("no append was lost")
			}
		})
	}
}

// startsAfterTheCut opens the stores, judges them, stores the batch that was not acknowledged
// again, in two parts, and judges once more. It answers which entry was the last at first.
func startsAfterTheCut(t *testing.T, dir, kind string, stored, batch []*raft.Log) (has uint64) {
	t.Helper()
	acked, full := stored[len(stored)-1].Index, batch[len(batch)-1].Index
	judge := func(least uint64) (last uint64, ok bool) {
		d, err := openGuarded(t, dir, kind)
		if err != nil {
			t.Errorf("the node does not start: %v", err)
			return 0, false
		}
		defer func() {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		}()
		if last, err = d.Log.LastIndex(); err != nil || last < least || last > full {
			t.Errorf("the log ends at %d (%v), acknowledged is %d of %d", last, err, least, full)
			return 0, false
		}
		for _, want := range slices.Concat(stored, batch[:last-acked]) {
			var got raft.Log
			if err := d.Log.GetLog(want.Index, &got); err != nil || !bytes.Equal(got.Data, want.Data) || got.Term != want.Term {
				t.Errorf("entry %d is another one (%v)", want.Index, err)
			}
		}
		if rest := batch[last-acked:]; len(rest) > 0 && least == acked {
			for _, part := range [][]*raft.Log{rest[:1], rest[1:]} {
				if len(part) == 0 {
					continue
				}
				if err := d.Log.StoreLogs(part); err != nil {
					t.Errorf("append after the cut: %v", err)
				}
			}
		}
		return last, true
	}
	has, ok := judge(acked)
	if ok {
		judge(full)
	}
	return has
}
