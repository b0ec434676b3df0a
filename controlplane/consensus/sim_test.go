package consensus_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"

	"github.com/agentplane/agentplane/controlplane/consensus"
	"github.com/agentplane/agentplane/controlplane/consensus/consensustest"
	"github.com/agentplane/agentplane/e2e/record"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// TestLives runs many short lives of a cluster in which clients write and read while
// nodes are killed, lose power, are paused, cut off and refused. AGENTPLANE_SIM_LIVES says how
// many, AGENTPLANE_SIM_SEED with which seed to begin, AGENTPLANE_SIM_LOG=1 prints what
// the nodes log; a failure names its seed.
func TestLives(t *testing.T) {
	lives, first := envNumber(t, "AGENTPLANE_SIM_LIVES", defaultLives), envNumber(t, "AGENTPLANE_SIM_SEED", 1)
	if testing.Short() {
		lives = min(lives, 5)
	}
	var all tally
	line := record.Line{Means: "consensus", What: "-", Seed: first}
	began := time.Now()
	for seed := first; seed < first+lives; seed++ {
		var one tally
		ok := t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { live(t, seed, &one) })
		})
		line.Runs++
		switch {
		case !ok:
			line.Failed++
			t.Logf("run again with AGENTPLANE_SIM_SEED=%d AGENTPLANE_SIM_LIVES=1", seed)
		case one.Faults < minFaults || one.Acked < minWrites:
			line.Void++
		default:
			line.Good++
		}
		all.add(one)
	}
	t.Logf("%d lives, %d good, %d void, %d red: %+v", lives, line.Good, line.Void, line.Failed, all)
	if all.Acked == 0 || all.Reads == 0 || all.Kills == 0 || all.Backlogs == 0 && lives >= 4 || line.Void > line.Good {
		t.Errorf("the lives tested nothing: %d good, %d void, %+v", line.Good, line.Void, all)
	}
	line.Took = time.Since(began)
	for _, n := range []struct {
		name  string
		count int
	}{{"faults", all.Faults}, {"kills", all.Kills}, {"writes", all.Acked}, {"reads", all.Reads}, {"unknown", all.Unknown}} {
		line.Notes = append(line.Notes, fmt.Sprintf("%s=%.1f", n.name, float64(n.count)/float64(max(line.Runs, 1))))
	}
	if err := record.Append(line); err != nil {
		t.Error(err)
	}
}

// A life with fewer faults, or fewer acknowledged writes, is void.
const minFaults, minWrites = 3, 50

func envNumber(t *testing.T, name string, def uint64) uint64 {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return def
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// tally says that something was tested.
type tally struct {
	Acked, NotApplied, Nothing, Unknown, UnknownKept int
	Reads, FailedReads                               int
	Faults, Kills, Fatals                            int
	Refused, Torn                                    int
	Backlogs                                         int // proposals refused as too many waited
}

func (a *tally) add(b tally) {
	a.Acked, a.NotApplied, a.Nothing = a.Acked+b.Acked, a.NotApplied+b.NotApplied, a.Nothing+b.Nothing
	a.Unknown, a.UnknownKept = a.Unknown+b.Unknown, a.UnknownKept+b.UnknownKept
	a.Reads, a.FailedReads = a.Reads+b.Reads, a.FailedReads+b.FailedReads
	a.Faults, a.Kills, a.Fatals = a.Faults+b.Faults, a.Kills+b.Kills, a.Fatals+b.Fatals
	a.Refused, a.Torn, a.Backlogs = a.Refused+b.Refused, a.Torn+b.Torn, a.Backlogs+b.Backlogs
}

// fate is what a client was told of a proposal.
type fate int

const (
	nothing fate = iota
	acked
	notApplied
	unknown
)

// history is what clients know. Each proposal has a key of its own.
type history struct {
	mu    sync.Mutex
	fates map[string]fate
	acked []consensustest.Record // in the order of their acknowledgement
}

func live(t *testing.T, seed uint64, all *tally) {
	rng := rand.New(rand.NewPCG(seed, 0x6c697665))
	var fatals int
	var fatalMu sync.Mutex
	skews := make([]time.Duration, 8)
	for i := range skews {
		skews[i] = time.Duration(rng.IntN(10_000)-5_000) * time.Millisecond
	}
	compact := rng.IntN(2) == 0
	slow := rng.IntN(6) // a node with this number has slow timers: paused, it stays leader
	inFlight := 1 + rng.IntN(8)
	c := consensustest.New(t, consensustest.Options{
		Nodes: 3 + 2*(rng.IntN(4)/3),
		Seed:  seed,
		Host: func(i int, o *consensus.Options) {
			o.WallClock = func() time.Time { return time.Now().Add(skews[i]) }
			o.MaxInFlight = inFlight
			if os.Getenv("AGENTPLANE_SIM_LOG") != "" {
				o.Logger = hclog.New(&hclog.LoggerOptions{Name: string(o.NodeID), Level: hclog.Info, Output: os.Stderr, TimeFormat: "05.000"})
			}
			if i == slow {
				o.Profile = consensus.Profile{Heartbeat: 2 * time.Second, Election: 2 * time.Second, Lease: 2 * time.Second, Commit: 5 * time.Millisecond}
			}
			if floods(seed) {
				o.MaxQueueMutations = mayWait
			}
			if compact {
				o.SnapshotInterval, o.SnapshotThreshold, o.TrailingLogs = 200*time.Millisecond, 40, 20
			}
		},
		OnFatal: func(i int, err error) {
			fatalMu.Lock()
			defer fatalMu.Unlock()
			fatals++
			if !strings.Contains(err.Error(), "raft#") { // what raft cannot mend itself
				t.Errorf("seed %d: node %d gave up: %v", seed, i, err)
			}
		},
	})
	for i := range c.Size() {
		c.Disk(i).SetDelay(time.Duration(rng.IntN(3)) * time.Millisecond)
	}
	h := &history{fates: make(map[string]fate)}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for client := range 4 {
		r := rand.New(rand.NewPCG(seed, uint64(client)+100))
		wg.Go(func() { h.client(ctx, t, c, client, r, all) })
	}
	if floods(seed) {
		r := rand.New(rand.NewPCG(seed, 0x666c6f6f64))
		wg.Go(func() { all.Backlogs = h.flood(ctx, t, c, r) })
	}
	wg.Go(func() {
		chaos(c, rng, slow, 6*time.Second, all)
		stop()
	})
	wg.Wait()

	c.Heal()
	c.Net.SetDelay(50*time.Microsecond, 500*time.Microsecond)
	for i := range c.Size() {
		if c.Host(i) == nil {
			c.Restart(i)
		}
	}
	last, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := c.Propose(last, consensustest.Put("last", "")); err != nil && !errors.Is(err, consensus.ErrUnknown) {
		t.Fatalf("seed %d: the healed cluster makes no progress: %v", seed, err)
	}
	time.Sleep(2 * time.Second) // a watchdog of the last transfer may still kill
	for i := range c.Size() {
		if c.Host(i) == nil {
			c.Restart(i)
		}
	}
	c.WaitAgree()
	fatalMu.Lock()
	all.Fatals += fatals
	fatalMu.Unlock()
	h.judge(t, c, all)
}

// chaos breaks things for d and counts how often it did. Half of the lives have the faults of
// faults_test.go among the others.
func chaos(c *consensustest.Cluster, rng *rand.Rand, slow int, d time.Duration, all *tally) {
	end := time.Now().Add(d)
	kinds := 11 + 2*rng.IntN(2)
	for time.Now().Before(end) {
		time.Sleep(time.Duration(20+rng.IntN(700)) * time.Millisecond)
		i := rng.IntN(c.Size())
		if l := c.Leader(); l >= 0 && rng.IntN(2) == 0 {
			i = l
		}
		what := rng.IntN(kinds)
		if alive := c.Host(i) != nil; what == 6 || what == 8 || alive && what != 5 && what != 10 && what != 12 {
			all.Faults++
		}
		switch what {
		case 0, 1:
			c.Kill(i)
			all.Kills++
		case 2:
			c.PowerCut(i)
			all.Kills++
		case 3, 4:
			c.Pause(i)
		case 5:
			c.Resume(i)
		case 6:
			var left, right []int
			for n := range c.Size() {
				if rng.IntN(2) == 0 {
					left = append(left, n)
				} else {
					right = append(right, n)
				}
			}
			c.Partition(left, right)
		case 7:
			c.Net.Cut(c.Addr(i), c.Addr(rng.IntN(c.Size())), true)
		case 8:
			c.Net.SetLoss(0.02)
			c.Net.SetDelay(0, time.Duration(1+rng.IntN(20))*time.Millisecond) // without any, time stands still while nodes ask each other again and again
		case 9:
			if h := c.Host(i); h != nil {
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				_ = h.Transfer(ctx, "")
				cancel()
			}
		case 10:
			c.Heal()
		case 11:
			refuse(c, rng, i, slow)
			all.Refused++
		case 12:
			if tearVote(c, rng) {
				all.Faults++
				all.Torn++
			}
		}
		for n := range c.Size() {
			if c.Host(n) == nil && rng.IntN(2) == 0 {
				c.Restart(n)
			}
		}
	}
}

func (h *history) client(ctx context.Context, t *testing.T, c *consensustest.Cluster, client int, rng *rand.Rand, all *tally) {
	for n := 0; ctx.Err() == nil; n++ {
		time.Sleep(time.Duration(rng.IntN(12_000)) * time.Microsecond)
		opCtx, cancel := context.WithTimeout(ctx, time.Duration(100+rng.IntN(2_000))*time.Millisecond)
		if rng.IntN(3) == 0 {
			h.read(opCtx, t, c, rng, all)
		} else {
			h.write(opCtx, t, c, fmt.Sprintf("%d/%d", client, n), rng)
		}
		cancel()
	}
}

func (h *history) write(ctx context.Context, t *testing.T, c *consensustest.Cluster, key string, rng *rand.Rand) {
	muts := []*raftlogv1.Mutation{consensustest.Put(key, "0")}
	for i := range rng.IntN(3) {
		muts = append(muts, consensustest.Put(fmt.Sprint(key, "+", i), "more"))
	}
	var out []*raftlogv1.Outcome
	var err error
	if rng.IntN(4) == 0 { // whoever it is: most are refused
		out, err = c.ProposeOn(ctx, rng.IntN(c.Size()), muts...)
	} else {
		out, err = c.Propose(ctx, muts...)
	}
	h.told(t, muts, out, err)
}

// told notes what a client was told of its mutations.
func (h *history) told(t *testing.T, muts []*raftlogv1.Mutation, out []*raftlogv1.Outcome, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, m := range muts {
		key := m.GetPutSetting().GetKey()
		switch {
		case errors.Is(err, consensus.ErrUnknown):
			h.fates[key] = unknown
		case err != nil:
			h.fates[key] = nothing
		case len(out) != len(muts):
			t.Errorf("%d outcomes for %d mutations", len(out), len(muts))
		case out[i].GetCode() == raftlogv1.Code_CODE_NOT_APPLIED:
			h.fates[key] = notApplied
		default:
			h.fates[key] = acked
			h.acked = append(h.acked, consensustest.Record{Index: out[i].GetIndex(), Key: key})
		}
	}
}

// read asks any node and compares with what was acknowledged before it asked.
func (h *history) read(ctx context.Context, t *testing.T, c *consensustest.Cluster, rng *rand.Rand, all *tally) {
	h.mu.Lock()
	before := h.acked[:len(h.acked):len(h.acked)]
	h.mu.Unlock()
	node := rng.IntN(c.Size())
	m, err := c.Read(ctx, node)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		all.FailedReads++
		return
	}
	all.Reads++
	held := m.(*consensustest.Ledger).Records()
	for _, a := range before {
		at, _ := slices.BinarySearchFunc(held, a.Index, func(r consensustest.Record, index uint64) int { return cmp.Compare(r.Index, index) })
		for at < len(held) && held[at].Index == a.Index && held[at].Key != a.Key {
			at++
		}
		if at == len(held) || held[at].Index != a.Index {
			t.Errorf("stale read on node %d: %q, acknowledged at index %d before the read began, is missing", node, a.Key, a.Index)
			return
		}
	}
}

// judge compares what clients were told with what all nodes hold.
func (h *history) judge(t *testing.T, c *consensustest.Cluster, all *tally) {
	want := records(c, 0)
	for i := 1; i < c.Size(); i++ {
		if diff := gocmp.Diff(want, records(c, i)); diff != "" {
			t.Errorf("nodes 0 and %d differ: %s", i, diff)
		}
	}
	count := make(map[string]int)
	var now int64
	for _, r := range want {
		count[r.Key]++
		if r.Now < now {
			t.Errorf("time goes back at entry %d: %d after %d", r.Index, r.Now, now)
		}
		now = r.Now
	}
	for key, f := range h.fates {
		n := count[key]
		switch f {
		case acked:
			all.Acked++
			if n != 1 {
				t.Errorf("%q was acknowledged and is there %d times", key, n)
			}
		case unknown:
			all.Unknown++
			all.UnknownKept += n
			if n > 1 {
				t.Errorf("%q is there %d times", key, n)
			}
		case notApplied:
			all.NotApplied++
			if n != 0 {
				t.Errorf("%q was called not applied and is there %d times", key, n)
			}
		case nothing:
			all.Nothing++
			if n != 0 {
				t.Errorf("%q: the client was told that nothing happened, and it is there %d times", key, n)
			}
		}
	}
}
