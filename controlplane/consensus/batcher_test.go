package consensus

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// fakeRaft answers entries after a delay, in their order, or as told.
type fakeRaft struct {
	mu      sync.Mutex
	entries []*raftlogv1.Entry
	inRaft  int
	most    int // in raft at once
	delay   time.Duration
	err     error
	answer  func(*raftlogv1.Entry) any
}

type fakeFuture struct {
	raft *fakeRaft
	done chan struct{}
	resp any
	err  error
}

func (f *fakeFuture) Error() error  { <-f.done; return f.err }
func (f *fakeFuture) Response() any { return f.resp }
func (f *fakeFuture) Index() uint64 { return 0 }

func (r *fakeRaft) apply(data []byte) raft.ApplyFuture {
	e, err := raftlogv1.Unseal(data)
	if err != nil {
		panic(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entries = append(r.entries, e)
	r.inRaft++
	r.most = max(r.most, r.inRaft)
	f := &fakeFuture{raft: r, done: make(chan struct{}), err: r.err}
	if r.answer != nil {
		f.resp = r.answer(e)
	} else {
		f.resp = outcomesFor(e, uint64(len(r.entries)))
	}
	time.AfterFunc(r.delay, func() {
		r.mu.Lock()
		r.inRaft--
		r.mu.Unlock()
		close(f.done)
	})
	return f
}

func outcomesFor(e *raftlogv1.Entry, index uint64) []*raftlogv1.Outcome {
	out := make([]*raftlogv1.Outcome, len(e.GetMutations()))
	for i := range out {
		out[i] = &raftlogv1.Outcome{Code: raftlogv1.Code_CODE_OK, Index: index, Number: uint64(i)}
	}
	return out
}

func setting(key string, size int) *raftlogv1.Mutation {
	return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PutSetting{PutSetting: &raftlogv1.PutSetting{Key: key, Value: strings.Repeat("x", size)}}}
}

func testBounds() bounds {
	return bounds{batchMutations: 256, batchBytes: 512 << 10, queueMutations: 1000, queueBytes: 4 << 20}
}

func runBatcher(t testing.TB, b *batcher, r *fakeRaft) (stop func()) {
	t.Helper()
	b.now = func() int64 { return 42 }
	b.apply = r.apply
	b.classify = func(err error) error { return fmt.Errorf("%w: %w", ErrUnknown, err) }
	if b.broken == nil {
		b.broken = func(err error) { t.Errorf("broken: %v", err) }
	}
	b.run(2, func(f func()) bool { go f(); return true })
	return func() {
		b.close(ErrShutdown)
		<-b.idle()
	}
}

func TestBatcherKeepsOrderAndBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &fakeRaft{delay: 5 * time.Millisecond}
		b := newBatcher(testBounds(), 7)
		defer runBatcher(t, b, r)()
		var wg sync.WaitGroup
		for i := range 300 { // one caller that does not wait: order is order of arrival
			p, err := b.enqueue([]*raftlogv1.Mutation{setting(fmt.Sprintf("%04d-a", i), 3000), setting(fmt.Sprintf("%04d-b", i), 3000)})
			if err != nil {
				t.Fatal(err)
			}
			wg.Go(func() { <-p.done })
		}
		wg.Wait()
		last, muts := "", 0
		for _, e := range r.entries {
			if e.GetLeaderEpoch() != 7 || e.GetNow() != 42 || e.GetFormat() != raftlogv1.EntryFormat {
				t.Errorf("entry is stamped %v", e)
			}
			bytes := 0
			for i, m := range e.GetMutations() {
				key := m.GetPutSetting().GetKey()
				if key <= last {
					t.Fatalf("%q follows %q", key, last)
				}
				last = key
				bytes += len(m.GetPutSetting().GetValue())
				muts++
				if i == 0 && strings.HasSuffix(key, "b") {
					t.Errorf("mutations of one call lie in two entries at %q", key)
				}
			}
			if len(e.GetMutations()) > 256 || bytes > 512<<10 {
				t.Errorf("entry has %d mutations and %d bytes", len(e.GetMutations()), bytes)
			}
		}
		if muts != 600 {
			t.Errorf("%d mutations arrived, want 600", muts)
		}
		if r.most != 2 {
			t.Errorf("%d entries were in flight at once, want 2", r.most)
		}
		// 600 mutations of 3 kB: 512 KiB hold 174 of them.
		if len(r.entries) > 8 {
			t.Errorf("%d entries for 300 calls that queued together, want few", len(r.entries))
		}
	})
}

func TestBatcherAnswersEachCallItsOwnOutcomes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &fakeRaft{delay: time.Millisecond, answer: func(e *raftlogv1.Entry) any {
			out := make([]*raftlogv1.Outcome, len(e.GetMutations()))
			for i, m := range e.GetMutations() {
				out[i] = &raftlogv1.Outcome{Detail: m.GetPutSetting().GetKey()}
			}
			return out
		}}
		b := newBatcher(testBounds(), 1)
		defer runBatcher(t, b, r)()
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				var muts []*raftlogv1.Mutation
				for k := range i%5 + 1 {
					muts = append(muts, setting(fmt.Sprint(i, "/", k), 1))
				}
				out, err := b.propose(t.Context(), muts)
				if err != nil || len(out) != len(muts) {
					t.Errorf("propose = %d outcomes, %v", len(out), err)
					return
				}
				for k := range muts {
					if want := muts[k].GetPutSetting().GetKey(); out[k].GetDetail() != want {
						t.Errorf("outcome of %q went to %q", out[k].GetDetail(), want)
					}
				}
			})
		}
		wg.Wait()
	})
}

func TestBatcherRefusesWhatDoesNotFit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &fakeRaft{delay: time.Hour}
		b := newBatcher(testBounds(), 1)
		stop := runBatcher(t, b, r)
		many := make([]*raftlogv1.Mutation, 257)
		for i := range many {
			many[i] = setting("k", 1)
		}
		for name, muts := range map[string][]*raftlogv1.Mutation{
			"no mutation":           nil,
			"257 mutations":         many,
			"one above 256 KiB":     {setting("k", 256<<10)},
			"three of 200 KiB":      {setting("a", 200<<10), setting("b", 200<<10), setting("c", 200<<10)},
			"small and one too big": {setting("a", 1), setting("k", 300<<10)},
		} {
			if _, err := b.propose(t.Context(), muts); !errors.Is(err, ErrTooLarge) {
				t.Errorf("%s: %v, want ErrTooLarge", name, err)
			}
		}
		// The queue is bounded: by mutations …
		var err error
		taken := 0
		for err == nil && taken < 1000 {
			if _, err = b.enqueue(many[:10]); err == nil {
				taken++
			}
			synctest.Wait()
		}
		if !errors.Is(err, ErrBacklog) || taken < 100 || taken > 152 {
			t.Errorf("after %d calls of 10: %v, want ErrBacklog when 1000 wait and at most 512 are in flight", taken, err)
		}
		b.close(ErrShutdown)
		time.Sleep(2 * time.Hour)
		stop()
	})
}

func TestBatcherQueueIsBoundedByBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &fakeRaft{delay: time.Hour}
		b := newBatcher(testBounds(), 1)
		stop := runBatcher(t, b, r)
		var err error
		taken := 0
		for err == nil && taken < 100 {
			if _, err = b.enqueue([]*raftlogv1.Mutation{setting("k", 250<<10)}); err == nil {
				taken++
			}
			synctest.Wait()
		}
		if !errors.Is(err, ErrBacklog) || taken < 16 || taken > 20 {
			t.Errorf("after %d calls of 250 KiB: %v, want ErrBacklog when 4 MiB wait", taken, err)
		}
		b.close(ErrShutdown)
		time.Sleep(2 * time.Hour)
		stop()
	})
}

func TestEndedContextIsUnknownOnlyOnceRaftHasTheEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &fakeRaft{delay: time.Minute}
		b := newBatcher(testBounds(), 1)
		defer runBatcher(t, b, r)()
		errs := make(chan error, 3)
		for i := range 3 { // two in flight, the third waits
			go func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				_, err := b.propose(ctx, []*raftlogv1.Mutation{setting(fmt.Sprint(i), 1)})
				errs <- err
			}()
			synctest.Wait()
		}
		unknown := 0
		for range 3 {
			err := <-errs
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("error %v, want one that says that the deadline has passed", err)
			}
			if errors.Is(err, ErrUnknown) {
				unknown++
			}
		}
		time.Sleep(3 * time.Minute)
		if unknown != 2 || len(r.entries) != 2 {
			t.Errorf("%d calls are unknown and %d entries went out, want 2 and 2: the withdrawn one must not be sent", unknown, len(r.entries))
		}
		if b.length() != 0 {
			t.Errorf("%d mutations are counted as waiting, want 0", b.length())
		}
	})
}

func TestClosedBatcherSaysThatNothingHappened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &fakeRaft{delay: time.Minute, err: raft.ErrLeadershipLost}
		b := newBatcher(testBounds(), 1)
		stop := runBatcher(t, b, r)
		errs := make(chan error, 3)
		for i := range 3 {
			go func() {
				_, err := b.propose(t.Context(), []*raftlogv1.Mutation{setting(fmt.Sprint(i), 1)})
				errs <- err
			}()
			synctest.Wait()
		}
		b.close(&NotLeaderError{LeaderID: "b"})
		if err := <-errs; !errors.Is(err, ErrNotLeader) || errors.Is(err, ErrUnknown) {
			t.Errorf("waiting call: %v, want ErrNotLeader", err)
		}
		for range 2 {
			if err := <-errs; !errors.Is(err, ErrUnknown) {
				t.Errorf("call in flight: %v, want ErrUnknown", err)
			}
		}
		if _, err := b.propose(t.Context(), []*raftlogv1.Mutation{setting("k", 1)}); !errors.Is(err, ErrNotLeader) {
			t.Errorf("later call: %v, want ErrNotLeader", err)
		}
		stop()
	})
}

func TestStateThatAnswersNonsenseIsFatal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, answer := range []any{nil, errors.New("x"), []*raftlogv1.Outcome{}} {
			var broken error
			r := &fakeRaft{answer: func(*raftlogv1.Entry) any { return answer }}
			b := newBatcher(testBounds(), 1)
			b.broken = func(err error) { broken = err }
			stop := runBatcher(t, b, r)
			_, err := b.propose(t.Context(), []*raftlogv1.Mutation{setting("k", 1)})
			stop()
			if !errors.Is(err, ErrUnknown) || broken == nil {
				t.Errorf("answer %T: %v, fatal %v, want ErrUnknown and fatal", answer, err, broken)
			}
		}
	})
}

func TestOutcomesOfAStaleEpochAreOutcomes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &fakeRaft{answer: func(e *raftlogv1.Entry) any {
			out := outcomesFor(e, 1)
			for _, o := range out {
				o.Code = raftlogv1.Code_CODE_NOT_APPLIED
			}
			return out
		}}
		b := newBatcher(testBounds(), 1)
		defer runBatcher(t, b, r)()
		out, err := b.propose(t.Context(), []*raftlogv1.Mutation{setting("k", 1)})
		if err != nil || len(out) != 1 || out[0].GetCode() != raftlogv1.Code_CODE_NOT_APPLIED {
			t.Errorf("propose = %v, %v, want the outcome NOT_APPLIED", out, err)
		}
	})
}

func TestSteadyCallersDoNotStarveOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &fakeRaft{delay: 2 * time.Millisecond}
		b := newBatcher(testBounds(), 1)
		defer runBatcher(t, b, r)()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				for ctx.Err() == nil {
					_, _ = b.propose(ctx, []*raftlogv1.Mutation{setting("k", 1000)})
				}
			})
		}
		big := make([]*raftlogv1.Mutation, 256) // fits into no entry that others are in
		for i := range big {
			big[i] = setting("big", 1)
		}
		for range 20 {
			start := time.Now()
			if _, err := b.propose(ctx, big); err != nil {
				t.Fatal(err)
			}
			if d := time.Since(start); d > 10*time.Millisecond {
				t.Errorf("the large call waited %s, want at most a few entries of 2 ms", d)
			}
		}
		cancel()
		wg.Wait()
	})
}

func TestBatcherRunsOnTwoGoroutines(t *testing.T) {
	before := runtime.NumGoroutine()
	r := &fakeRaft{}
	b := newBatcher(testBounds(), 1)
	stop := runBatcher(t, b, r)
	for range 500 {
		if _, err := b.propose(t.Context(), []*raftlogv1.Mutation{setting("k", 1)}); err != nil {
			t.Fatal(err)
		}
	}
	if n := runtime.NumGoroutine() - before; n > 4 { // and the fake's timers
		t.Errorf("500 proposals left %d goroutines, want 2", n)
	}
	allocs := testing.AllocsPerRun(200, func() {
		p, err := b.enqueue([]*raftlogv1.Mutation{setting("k", 1)})
		if err != nil {
			t.Fatal(err)
		}
		<-p.done
	})
	if allocs > 45 { // most of them are the fake's, which decodes the entry
		t.Errorf("%v allocations for one proposal", allocs)
	}
	stop()
}

// instant is a raft that has applied at once.
type instant struct{ resp []*raftlogv1.Outcome }

func (instant) Error() error    { return nil }
func (i instant) Response() any { return i.resp }
func (instant) Index() uint64   { return 1 }

func BenchmarkBatcher(b *testing.B) {
	batch := newBatcher(bounds{256, 512 << 10, 1 << 20, 1 << 30}, 1)
	out := make([]*raftlogv1.Outcome, 256)
	batch.now = func() int64 { return 1 }
	var muts int
	var mu sync.Mutex
	batch.apply = func(data []byte) raft.ApplyFuture {
		e, err := raftlogv1.Unseal(data)
		if err != nil {
			panic(err)
		}
		mu.Lock()
		muts += len(e.GetMutations())
		mu.Unlock()
		return instant{out[:len(e.GetMutations())]}
	}
	batch.run(2, func(f func()) bool { go f(); return true })
	m := []*raftlogv1.Mutation{setting("key", 200)}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := batch.propose(context.Background(), m); err != nil {
			b.Fatal(err)
		}
	}
	batch.close(ErrShutdown)
	<-batch.idle()
	if muts == 0 {
		b.Fatal("nothing was sent")
	}
}
