package forward

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// slow is a leader that takes a second for each read round and answers how many
// writes were acknowledged when it was asked.
type slow struct {
	*way
	acknowledged         atomic.Uint64
	asked, running, most atomic.Int64
	hang                 string // this one never answers
}

func (s *slow) ReadIndex(ctx context.Context, id string) (uint64, error) {
	s.asked.Add(1)
	s.most.Store(max(s.most.Load(), s.running.Add(1)))
	defer s.running.Add(-1)
	index := s.acknowledged.Load()
	if id == s.hang {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	select {
	case <-time.After(time.Second):
		return index, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (s *slow) Propose(ctx context.Context, id string, ms []*raftlogv1.Mutation) ([]*raftlogv1.Outcome, error) {
	return remote{s.way}.Propose(ctx, id, ms)
}

// changing tells everybody once that another node leads.
type changing struct {
	*way
	mu   sync.Mutex
	told []chan struct{}
}

func (c *changing) LeaderChanges() (<-chan struct{}, func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := make(chan struct{}, 1)
	c.told = append(c.told, ch)
	return ch, func() {}
}

func (c *changing) tell() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, ch := range c.told {
		ch <- struct{}{}
	}
}

func TestReadsOfAFollowerShareTheirQuestions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slow{way: &way{leader: led("b")}}
		f := New(Options{NodeID: "me", Local: s.way, Remote: s})
		var reads sync.WaitGroup
		for i := range 300 {
			time.Sleep(10 * time.Millisecond)
			before := s.acknowledged.Add(1)
			reads.Go(func() {
				if index, err := f.Read(context.Background()); err != nil || index < before {
					t.Errorf("read %d = %d, %v, although %d writes were acknowledged before it", i, index, err, before)
				}
			})
		}
		reads.Wait()
		if s.asked.Load() > 10 || s.most.Load() != 2 {
			t.Errorf("300 reads within 3s asked a leader that takes 1s %d times, %d at once; want at most 10 and 2", s.asked.Load(), s.most.Load())
		}
	})
}

// A leader that answers nothing does not hold up the reads at the next one, and is
// not asked any longer than somebody waits.
func TestReadsLeaveALeaderThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var leader atomic.Pointer[string]
		old, next := "b", "c"
		leader.Store(&old)
		s := &slow{way: &way{leader: func(int) string { return *leader.Load() }}, hang: "b"}
		local := &changing{way: s.way}
		f := New(Options{NodeID: "me", Local: local, Remote: s})
		start := time.Now()
		var reads sync.WaitGroup
		for range 5 {
			reads.Go(func() {
				if _, err := f.Read(context.Background()); err != nil {
					t.Errorf("Read = %v", err)
				}
			})
		}
		time.Sleep(3 * time.Second)
		leader.Store(&next)
		local.tell()
		reads.Wait()
		synctest.Wait()
		if took := time.Since(start); took >= 6*time.Second || s.running.Load() != 0 {
			t.Errorf("reads took %v past a change of leaders after 3s, %d questions are still on their way", took, s.running.Load())
		}
	})
}

// A caller that gives up does not take the others' round with it.
func TestAReaderThatLeavesHarmsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slow{way: &way{leader: led("b")}}
		f := New(Options{NodeID: "me", Local: s.way, Remote: s})
		var reads sync.WaitGroup
		for range 6 {
			reads.Go(func() { // two of them wait for the leader, the others for those
				if _, err := f.Read(context.Background()); err != nil {
					t.Errorf("Read = %v", err)
				}
			})
			reads.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
				defer cancel()
				if _, err := f.Read(ctx); err == nil {
					t.Error("a read was answered after its deadline")
				}
			})
		}
		reads.Wait()
	})
}
