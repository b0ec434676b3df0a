package consensus

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"
)

func TestMedianIsTheMiddle(t *testing.T) {
	const hour = time.Hour
	for name, c := range map[string]struct {
		in       []time.Duration
		reckoned time.Duration
		known    bool
		want     time.Duration
	}{
		"of one":            {[]time.Duration{5}, 0, false, 5},
		"of two the lower":  {[]time.Duration{9, 1}, 0, false, 1},
		"of three":          {[]time.Duration{9, 1, 5}, 0, false, 5},
		"of four the lower": {[]time.Duration{4, 3, 2, 1}, 0, false, 2},
		"own clock was set back and is the lower":      {[]time.Duration{0, hour}, hour, true, hour},
		"the other's was set back":                     {[]time.Duration{0, -hour}, 0, true, 0},
		"the other's is ahead":                         {[]time.Duration{0, hour}, 0, true, 0},
		"of four the nearer one in the middle":         {[]time.Duration{-hour, 0, hour, 9 * hour}, hour, true, hour},
		"of three what the cluster thought is nothing": {[]time.Duration{0, 1, hour}, hour, true, 1},
		"the cluster slept: both are as far ahead":     {[]time.Duration{0, hour}, -99 * hour, true, 0},
		"as near to both, the lower":                   {[]time.Duration{0, hour}, hour / 2, true, 0},
	} {
		if got := median(c.in, c.reckoned, c.known); got != c.want {
			t.Errorf("%s: median(%v, %v, %v) = %d, want %d", name, c.in, c.reckoned, c.known, got, c.want)
		}
	}
}

func TestSlewNeverExceedsATenth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		elapsed := time.Duration(rapid.Int64Range(0, int64(24*time.Hour)).Draw(t, "elapsed"))
		behind := time.Duration(rapid.Int64Range(-int64(1000*time.Hour), int64(1000*time.Hour)).Draw(t, "behind"))
		step, rest := slew(elapsed, behind)
		if step < elapsed-elapsed/10 || step > elapsed+elapsed/10 {
			t.Fatalf("slew(%s, %s) steps %s", elapsed, behind, step)
		}
		if step-elapsed+rest != behind {
			t.Fatalf("slew(%s, %s) = %s, %s: it loses time", elapsed, behind, step, rest)
		}
		if rest.Abs() > behind.Abs() || rest != 0 && (rest < 0) != (behind < 0) {
			t.Fatalf("slew(%s, %s) leaves %s: it goes past the median", elapsed, behind, rest)
		}
	})
}

func TestClockReachesTheMedianAndNeverGoesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now().UnixNano()
		c := newClock(start+int64(10*time.Second), start) // 10 s ahead
		last := c.Now()
		for range 200 {
			time.Sleep(time.Second)
			now := c.Now()
			if now <= last {
				t.Fatalf("the clock went from %d to %d", last, now)
			}
			last = now
		}
		if d := time.Duration(c.Now() - time.Now().UnixNano()); d != 0 {
			t.Errorf("after 200 s the clock is %s off", d)
		}
		c.aim(time.Now().Add(time.Second).UnixNano())
		time.Sleep(time.Minute)
		if d := time.Duration(c.Now() - time.Now().UnixNano()); d != time.Second {
			t.Errorf("the clock is %s ahead of the old median, want 1s", d)
		}
	})
}

func TestRaftsAnswersAreClassified(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, trans := raft.NewInmemTransport("a")
		store := raft.NewInmemStore()
		h := &Host{opts: Options{NodeID: "a"}}
		cfg := raft.DefaultConfig()
		cfg.LocalID, cfg.LogLevel = "a", "off"
		r, err := raft.NewRaft(cfg, nil, store, store, raft.NewInmemSnapshotStore(), trans)
		if err != nil {
			t.Fatal(err)
		}
		h.raft = r
		for err, want := range map[error]error{
			raft.ErrNotLeader:                    ErrNotLeader,
			raft.ErrLeadershipTransferInProgress: ErrNotLeader,
			raft.ErrEnqueueTimeout:               ErrBacklog,
			raft.ErrLeadershipLost:               ErrUnknown,
			raft.ErrRaftShutdown:                 ErrUnknown,
			raft.ErrAbortedByRestore:             ErrUnknown,
			errors.New("disk full"):              ErrUnknown,
		} {
			got := h.classify(err)
			if !errors.Is(got, want) {
				t.Errorf("classify(%q) = %q, want %q", err, got, want)
			}
			if want != ErrUnknown && errors.Is(got, ErrUnknown) {
				t.Errorf("classify(%q) is unknown too", err)
			}
		}
		if err := r.Shutdown().Error(); err != nil {
			t.Error(err)
		}
	})
}

func TestLogMarkSurvivesATornWrite(t *testing.T) {
	f := &markBuffer{}
	m, err := openLogMark(f)
	if err != nil || !m.fresh {
		t.Fatalf("empty file: %+v, %v", m, err)
	}
	for i := uint64(1); i <= 9; i++ {
		if err := m.set(i, i/3); err != nil {
			t.Fatal(err)
		}
		got, err := openLogMark(f)
		if err != nil || got.index != i || got.term != i/3 {
			t.Fatalf("mark %d reads %+v, %v", i, got, err)
		}
	}
	torn := &markBuffer{b: append([]byte(nil), f.b...)}
	torn.b[int(m.seq%2)*markSlot+20] ^= 1
	if got, err := openLogMark(torn); err != nil || got.index != 8 {
		t.Errorf("with the newest slot torn the mark reads %+v, %v, want the one before", got, err)
	}
	torn.b[int((m.seq+1)%2)*markSlot+20] ^= 1
	if got, err := openLogMark(torn); err == nil {
		t.Errorf("with both slots damaged the mark reads %+v, want a refusal", got)
	}
}

// A mark that a power cut has left before the log would say that a log without entries has lost
// its end.
func TestLogMarkOfAnEmptiedLogIsNone(t *testing.T) {
	for name, c := range map[string]struct{ mark, min, max, want uint64 }{
		"before the log, which is emptied": {50, 100, 250, 0},
		"before the log, which is cut":     {50, 100, 200, 50},
		"in the log, which is emptied":     {180, 100, 250, 0},
		"in the part that is deleted":      {180, 150, 250, 149},
		"behind the part that is deleted":  {220, 100, 200, 220},
		"none":                             {0, 100, 250, 0},
	} {
		log := raft.NewInmemStore()
		for i := uint64(100); i <= 250; i++ {
			if err := log.StoreLog(&raft.Log{Index: i, Term: 1}); err != nil {
				t.Fatal(err)
			}
		}
		m, err := openLogMark(&markBuffer{})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(m.set(c.mark, 1), m.lower(log, c.min, c.max)); err != nil || m.index != c.want {
			t.Errorf("%s: the mark is at %d (%v), want %d", name, m.index, err, c.want)
		}
	}
}

// raft may fail to go on with a leader's snapshot that is on disk. Until it has, it compares what
// a request begins with.
func TestSnapshotThatRaftDoesNotGoOnWithTrimsNothing(t *testing.T) {
	s := newInstalls(&Disk{Snapshots: raft.NewInmemSnapshotStore()}, raft.NewInmemStore(), func(err error) { t.Error(err) }, &compaction{})
	req := &raft.AppendEntriesRequest{Term: 3, PrevLogEntry: 10, PrevLogTerm: 2, LeaderCommitIndex: 10}
	s.begin(10, 2)
	sink, err := s.Create(raft.SnapshotVersionMax, 10, 2, raft.Configuration{}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
	s.end()
	if got := s.trim(req); got != req {
		t.Errorf("the request is trimmed to %+v, and raft does not have the snapshot", got)
	}
	s.goesOnWith(10, 2)
	if got := s.trim(req); got.PrevLogEntry != 0 {
		t.Errorf("the request begins behind entry %d, want that raft compares nothing", got.PrevLogEntry)
	}
}

type markBuffer struct{ b []byte }

func (m *markBuffer) ReadAt(p []byte, off int64) (int, error) {
	return copy(p, m.b[min(int(off), len(m.b)):]), nil
}

func (m *markBuffer) WriteAt(p []byte, off int64) (int, error) {
	if grow := int(off) + len(p) - len(m.b); grow > 0 {
		m.b = append(m.b, make([]byte, grow)...)
	}
	return copy(m.b[off:], p), nil
}

func (m *markBuffer) Sync() error { return nil }

func TestOptionsAreChecked(t *testing.T) {
	if _, err := (Options{}).withDefaults(); err == nil {
		t.Error("options without a node id were accepted")
	}
	if _, err := ParseProfile("fast"); err == nil {
		t.Error("an unknown profile was accepted")
	}
	for _, name := range []string{"lan", "lan-fast", "wan"} {
		p, err := ParseProfile(name)
		if err != nil {
			t.Fatal(err)
		}
		c := Options{NodeID: "a", Profile: p, SnapshotInterval: time.Second}.raftConfigForTest()
		if err := raft.ValidateConfig(c); err != nil {
			t.Errorf("profile %s: %v", name, err)
		}
	}
}
