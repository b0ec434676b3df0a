package consensus_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/agentplane/agentplane/controlplane/consensus"
	"github.com/agentplane/agentplane/controlplane/consensus/consensustest"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

func entry(t *testing.T, index, term uint64) *raft.Log {
	t.Helper()
	data, err := raftlogv1.Seal(&raftlogv1.Entry{Format: 1, Mutations: []*raftlogv1.Mutation{consensustest.Put(fmt.Sprint("key-", index), strings.Repeat("x", 100))}})
	if err != nil {
		t.Fatal(err)
	}
	return &raft.Log{Index: index, Term: term, Type: raft.LogCommand, Data: data}
}

func openGuarded(t *testing.T, dir, kind string) (*consensus.Disk, error) {
	t.Helper()
	d, err := consensus.OpenDisk(dir, kind, 2, nil)
	if err != nil {
		t.Fatal(err)
	}
	g, err := consensus.Guard(d, func(err error) { t.Errorf("fatal: %v", err) })
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return g, nil
}

func fill(t *testing.T, dir, kind string, n uint64) {
	t.Helper()
	d, err := openGuarded(t, dir, kind)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Stable.SetUint64([]byte("CurrentTerm"), 1+n/100); err != nil {
		t.Fatal(err)
	}
	for i := uint64(1); i <= n; i++ {
		if err := d.Log.StoreLog(entry(t, i, 1+i/100)); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

// flip changes one byte of the WAL's segment at the first place after nth occurrence
// of what, counted from its begin.
func flip(t *testing.T, dir, what string, back int) {
	t.Helper()
	segments, err := filepath.Glob(filepath.Join(dir, "wal", "*.wal"))
	if err != nil || len(segments) == 0 {
		t.Fatalf("no segment in %q: %v", dir, err)
	}
	for _, path := range segments {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		i := strings.Index(string(b), what)
		if i < 0 {
			continue
		}
		b[i-back] ^= 0xff
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("%q is in no segment", what)
}

func TestWALWithAFlippedByteRefusesToStart(t *testing.T) {
	// Back from the key: 3 bytes is in the entry, and far enough is the frame's header.
	for name, back := range map[string]int{"in the entry": -1, "before the entry": 30, "in the frame header": 60} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			fill(t, dir, "wal", 2000)
			if d, err := openGuarded(t, dir, "wal"); err != nil {
				t.Fatalf("whole log: %v", err)
			} else if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			flip(t, dir, "key-100", back)
			d, err := openGuarded(t, dir, "wal")
			if err == nil {
				last, _ := d.Log.LastIndex()
				_ = d.Close()
				t.Fatalf("a damaged log was accepted; it ends at %d of 2000", last)
			}
			t.Log(err)
		})
	}
}

func TestLogThatLostItsEndRefusesToStart(t *testing.T) {
	disk := consensustest.NewMemDisk(1)
	g, err := consensus.Guard(disk.Disk(), func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Stable.SetUint64([]byte("CurrentTerm"), 3); err != nil {
		t.Fatal(err)
	}
	for i := uint64(1); i <= 20; i++ {
		if err := g.Log.StoreLog(entry(t, i, 1)); err != nil {
			t.Fatal(err)
		}
	}
	check := func(want string, d *consensustest.MemDisk) {
		t.Helper()
		_, err := consensus.Guard(d.Disk(), func(error) {})
		switch {
		case want == "" && err != nil:
			t.Errorf("Guard = %v, want a start", err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("Guard = %v, want %q", err, want)
		}
	}
	check("", disk.Image(false))
	check("", disk.Image(true))
	short := disk.Image(false)
	short.Truncate(19)
	check("reached 20", short)
	damaged := disk.Image(false)
	damaged.Damage(7)
	check("entry 7 is damaged", damaged)

	// A conflicting end is deleted and written anew: the mark follows.
	if err := g.Log.DeleteRange(15, 20); err != nil {
		t.Fatal(err)
	}
	check("", disk.Image(false))
	for range 10 {
		check("", disk.Image(true))
	}
	if err := g.Log.StoreLogs([]*raft.Log{entry(t, 15, 2), entry(t, 16, 2)}); err != nil {
		t.Fatal(err)
	}
	check("", disk.Image(true))
	short = disk.Image(false)
	short.Truncate(15)
	check("reached 16", short)
	// All is deleted, as after the install of a snapshot.
	if err := g.Log.DeleteRange(1, 16); err != nil {
		t.Fatal(err)
	}
	check("", disk.Image(false))
	if err := g.Log.StoreLog(entry(t, 100, 3)); err != nil {
		t.Fatal(err)
	}
	check("begins at 100", disk.Image(false)) // and no snapshot that reaches 99
}

// TestPowerCutDuringTheDeletionOfTheEnd cuts at every write of it.
func TestPowerCutDuringTheDeletionOfTheEnd(t *testing.T) {
	disk := consensustest.NewMemDisk(2)
	g, err := consensus.Guard(disk.Disk(), func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Stable.SetUint64([]byte("CurrentTerm"), 5); err != nil {
		t.Fatal(err)
	}
	cuts := 0
	disk.OnWrite(func(n int, what string) {
		for range 4 {
			cuts++
			if _, err := consensus.Guard(disk.Image(true).Disk(), func(error) {}); err != nil {
				t.Errorf("power cut after write %d (%s): %v", n, what, err)
			}
		}
	})
	for round := uint64(0); round < 5; round++ {
		for i := 5*round + 1; i <= 5*round+10; i++ {
			if err := g.Log.StoreLog(entry(t, i, 1+round)); err != nil {
				t.Fatal(err)
			}
		}
		if err := g.Log.DeleteRange(5*round+6, 5*round+10); err != nil {
			t.Fatal(err)
		}
	}
	if cuts == 0 {
		t.Error("no power was cut")
	}
}

func TestHostKeepsItsStateInFiles(t *testing.T) {
	for _, kind := range []string{"wal", "bolt"} {
		t.Run(kind, func(t *testing.T) {
			dir := t.TempDir()
			net := consensustest.NewNetwork(1, nil)
			for life := range 3 {
				ledger := consensustest.NewLedger()
				h, err := consensus.Open(consensus.Options{
					NodeID: "a", Dir: dir, Log: kind, Transport: net.Join("a"), Machine: ledger, Peers: noPeers{},
					Profile: consensus.LANFast, SnapshotInterval: 20 * time.Millisecond, SnapshotThreshold: 20, TrailingLogs: 5,
					FreeFloorBytes: 1,
					Fatal:          func(err error) { t.Errorf("fatal: %v", err) },
				})
				if err != nil {
					t.Fatal(err)
				}
				if life == 0 {
					if err := h.Bootstrap(); err != nil {
						t.Fatal(err)
					}
				}
				ctx, cancel := context.WithCancel(t.Context())
				ran := make(chan error, 1)
				go func() { ran <- h.Run(ctx) }()
				changes, end := h.LeaderChanges()
				for _, ok := h.InOffice(); !ok; _, ok = h.InOffice() {
					<-changes
				}
				end()
				for i := range 50 {
					if _, err := h.Propose(ctx, consensustest.Put(fmt.Sprint(life, i), "")); err != nil {
						t.Fatal(err)
					}
				}
				if got := len(ledger.Records()); got != 50*(life+1) {
					t.Errorf("life %d: %d records, want %d", life, got, 50*(life+1))
				}
				time.Sleep(50 * time.Millisecond) // for a snapshot, which the next life then starts from
				cancel()
				if err := errors.Join(<-ran, h.Close()); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestOnlyHolderOfCommittedEntriesLeadsThoughUnwilling leaves a node short of space as
// the only survivor with the newest entries.
func TestOnlyHolderOfCommittedEntriesLeadsThoughUnwilling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var free [3]atomic.Uint64
		for i := range free {
			free[i].Store(1 << 40)
		}
		c := consensustest.New(t, consensustest.Options{Nodes: 3, Seed: 2, Host: func(i int, o *consensus.Options) {
			o.FreeBytes = func() (uint64, error) { return free[i].Load(), nil }
		}})
		l := c.WaitLeader()
		short, behind := (l+1)%3, (l+2)%3
		free[short].Store(1 << 20)
		time.Sleep(6 * time.Second)
		c.Partition([]int{l, short}, []int{behind})
		put(t, c, "committed")
		c.Kill(l)
		c.Heal()
		put(t, c, "after") // who of the two leads at that moment does not matter
		time.Sleep(12 * time.Second)
		if got := c.WaitLeader(); got != behind {
			t.Errorf("node %d leads, want %d, which has space and has caught up", got, behind)
		}
		c.WaitAgree()
		if got := records(c, behind); len(got) != 2 {
			t.Errorf("%d records, want both", len(got))
		}
	})
}

// TestClusterOnFiles has a follower that gets a snapshot over a real WAL.
func TestClusterOnFiles(t *testing.T) {
	for _, kind := range []string{"wal", "bolt"} {
		t.Run(kind, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				c := consensustest.New(t, consensustest.Options{Nodes: 3, Seed: 1, Host: func(i int, o *consensus.Options) {
					o.Disk, o.Dir, o.Log = nil, filepath.Join(dir, fmt.Sprint(i)), kind
					o.SnapshotInterval, o.SnapshotThreshold, o.TrailingLogs = 100*time.Millisecond, 20, 5
				}})
				put(t, c, "first")
				c.WaitAgree()
				away := (c.WaitLeader() + 1) % 3
				for round := range 3 {
					c.Stop(away)
					for i := range 60 {
						put(t, c, fmt.Sprint(round, "/", i))
					}
					time.Sleep(time.Second) // for a snapshot that goes further than the log
					c.Restart(away)
					put(t, c, fmt.Sprint("back ", round))
					c.WaitAgree()
				}
				for i := range 3 {
					c.Stop(i)
				}
				for i := range 3 {
					c.Restart(i)
				}
				put(t, c, "last")
				c.WaitAgree()
				for i := range 3 {
					if got := len(records(c, i)); got != 1+3*61+1 {
						t.Errorf("node %d has %d records, want %d", i, got, 1+3*61+1)
					}
				}
			})
		})
	}
}

// BenchmarkPropose writes through one node's real files.
func BenchmarkPropose(b *testing.B) {
	for _, kind := range []string{"wal", "bolt"} {
		b.Run(kind, func(b *testing.B) {
			h, err := consensus.Open(consensus.Options{
				NodeID: "a", Dir: b.TempDir(), Log: kind, Transport: consensustest.NewNetwork(1, nil).Join("a"),
				Machine: consensustest.NewLedger(), Peers: noPeers{}, FreeFloorBytes: 1,
				Fatal: func(err error) { b.Errorf("fatal: %v", err) },
			})
			if err != nil {
				b.Fatal(err)
			}
			if err := h.Bootstrap(); err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(b.Context())
			ran := make(chan error, 1)
			go func() { ran <- h.Run(ctx) }()
			for _, ok := h.InOffice(); !ok; _, ok = h.InOffice() {
				time.Sleep(time.Millisecond)
			}
			m := consensustest.Put("key", strings.Repeat("x", 200))
			done := make(chan error, 256)
			for b.Loop() { // 256 callers at once
				for range cap(done) {
					go func() {
						_, err := h.Propose(ctx, m)
						done <- err
					}()
				}
				for range cap(done) {
					if err := <-done; err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(b.N*cap(done))/b.Elapsed().Seconds(), "mutations/s")
			cancel()
			if err := errors.Join(<-ran, h.Close()); err != nil {
				b.Fatal(err)
			}
		})
	}
}

type noPeers struct{}

func (noPeers) ReadTerm(context.Context, raft.ServerID, raft.ServerAddress) (consensus.TermReply, error) {
	return consensus.TermReply{}, errors.New("no peers")
}

func (noPeers) LostLeader(context.Context, raft.ServerID, raft.ServerAddress, consensus.LostQuery) (consensus.LostReply, error) {
	return consensus.LostReply{}, errors.New("no peers")
}

func TestNodeWithAFailingDiskGivesItselfUp(t *testing.T) {
	for name, strike := range map[string]func(*consensustest.MemDisk){
		"failing": func(d *consensustest.MemDisk) { d.Fail(errors.New("input/output error")) },
		"hanging": (*consensustest.MemDisk).Hang,
	} {
		for _, whose := range []string{"leader", "follower"} {
			t.Run(name+" "+whose, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var victim atomic.Int64
					gaveUp := make(chan error, 1)
					c := consensustest.New(t, consensustest.Options{Nodes: 3, Seed: 1, OnFatal: func(i int, err error) {
						if int64(i) != victim.Load() {
							t.Errorf("node %d gave up: %v", i, err)
						}
						gaveUp <- err
					}})
					l := c.WaitLeader()
					v := l
					if whose == "follower" {
						v = (l + 1) % 3
					}
					victim.Store(int64(v))
					put(t, c, "before")
					strike(c.Disk(v))
					start := time.Now()
					go func() { _, _ = c.Propose(t.Context(), consensustest.Put("during", "")) }()
					err := <-gaveUp
					t.Logf("after %s: %v", time.Since(start), err)
					if time.Since(start) > 15*time.Second {
						t.Errorf("it took %s until the node gave itself up", time.Since(start))
					}
					put(t, c, "after")
					c.Disk(v).Fail(nil)
					c.Restart(v)
					c.WaitAgree()
				})
			})
		}
	}
}

func TestDamagedEntryIsNotReplicated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := consensustest.New(t, consensustest.Options{Nodes: 1, Seed: 1})
		var index uint64
		for range 10 {
			index = put(t, c, "x").GetIndex()
		}
		c.Kill(0)
		c.Disk(0).Damage(index - 3)
		if err := c.TryStart(0); err == nil || !strings.Contains(err.Error(), "is damaged") {
			t.Errorf("start with a damaged entry = %v, want a refusal", err)
		}
	})
}

func TestNodeShortOfSpaceHandsOverAndElectionsStillWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var free [3]atomic.Uint64
		for i := range free {
			free[i].Store(1 << 40)
		}
		c := consensustest.New(t, consensustest.Options{Nodes: 3, Seed: 1, Host: func(i int, o *consensus.Options) {
			o.FreeBytes = func() (uint64, error) { return free[i].Load(), nil }
		}})
		l := c.WaitLeader()
		put(t, c, "a")
		free[l].Store(1 << 20)
		time.Sleep(11 * time.Second)
		second := c.WaitLeader()
		if second == l {
			t.Fatal("the node short of space still leads")
		}
		// The leader falls silent. Of the two survivors one does not campaign, and
		// must not keep the other from winning.
		third := 3 - l - second
		c.Partition([]int{l, third}, []int{second})
		start := time.Now()
		for c.Leader() != third {
			time.Sleep(time.Millisecond)
			if time.Since(start) > 10*time.Second {
				t.Fatal("the survivor with space was not elected")
			}
		}
		put(t, c, "b")
		c.Heal()
		time.Sleep(5 * time.Second) // calls into the partition take their timeout
		// Neither does it disturb when it comes back from a partition.
		term := c.Host(c.WaitLeader()).Stats().Term
		c.Partition([]int{second, third}, []int{l})
		time.Sleep(5 * time.Second)
		c.Heal()
		time.Sleep(5 * time.Second)
		if got := c.Host(c.WaitLeader()).Stats().Term; got != term {
			t.Errorf("the node short of space moved the term from %d to %d", term, got)
		}
		// With space it may lead again.
		free[l].Store(1 << 40)
		time.Sleep(6 * time.Second)
		if err := c.Host(c.WaitLeader()).Transfer(t.Context(), c.ID(l)); err != nil {
			t.Fatal(err)
		}
		if got := c.WaitLeader(); got != l {
			t.Errorf("node %d leads, want %d", got, l)
		}
	})
}
