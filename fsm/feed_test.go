package fsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// founded returns a machine with a cluster, at index 2.
func founded(t testing.TB, o Options) *Machine {
	m := New(o)
	m.Apply(1, 1, &raftlogv1.Entry{Format: 1, Now: storyBegin.UnixNano(), Mutations: []*raftlogv1.Mutation{
		{Kind: &raftlogv1.Mutation_TakeOffice{TakeOffice: &raftlogv1.TakeOffice{NodeId: "a", Term: 1}}},
	}})
	apply(t, m, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_InitCluster{InitCluster: &raftlogv1.InitCluster{
		ClusterId: "c", Incarnation: &raftlogv1.Incarnation{Number: 1, Id: make([]byte, 16)}, FeatureLevel: 1,
		Node: &raftlogv1.Node{Id: "a", Name: "a", Address: "a:1", PublicKey: keyOf("a"), CaCertificate: []byte("ca"), FeatureLevel: 1},
	}}})
	return m
}

// apply gives the machine the leader's next entry; every mutation must be granted.
func apply(t testing.TB, m *Machine, muts ...*raftlogv1.Mutation) {
	t.Helper()
	index, office := m.Published()
	for i, o := range m.Apply(index+1, 1, &raftlogv1.Entry{Format: 1, LeaderEpoch: office.GetEpoch(), Now: m.Now(), Mutations: muts}) {
		if o.GetCode() != raftlogv1.Code_CODE_OK {
			t.Fatalf("mutation %d: %v", i, o)
		}
	}
}

// setting writes the setting k, whatever its version.
func setting(m *Machine, value string) *raftlogv1.Mutation {
	s, _ := m.View().Setting("k")
	return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PutSetting{PutSetting: &raftlogv1.PutSetting{Key: "k", Value: value, ExpectedVersion: s.GetVersion()}}}
}

func TestFeedResumesFromEveryCursor(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := history(t).m
		all := drain(t, m, Cursor{})
		at := rapid.IntRange(0, len(all)).Draw(t, "cursor")
		after := Cursor{}
		if at > 0 {
			after = all[at-1].Cursor
		}
		if err := sameChanges(drain(t, m, after), all[at:]); err != nil {
			t.Fatalf("after %v: %v", after, err)
		}
		for i := 1; i < len(all); i++ {
			if !all[i-1].Cursor.Less(all[i].Cursor) {
				t.Fatalf("change %v is followed by %v", all[i-1].Cursor, all[i].Cursor)
			}
		}
	})
}

func TestFeedIsBoundedInChanges(t *testing.T) {
	m := founded(t, Options{FeedChanges: 10})
	_, begin := m.ViewAndWatch()
	for i := range 25 {
		apply(t, m, setting(m, fmt.Sprint(i)))
	}
	var compacted *CompactedError
	_, err := m.Changes(t.Context(), begin)
	if !errors.As(err, &compacted) || compacted.Cursor != begin || compacted.Floor.Index != 17 {
		t.Fatalf("Changes(%v) = %v, want compacted at index 17", begin, err)
	}
	if got := drain(t, m, compacted.Floor); len(got) != 10 || got[0].Cursor.Index != 18 {
		t.Fatalf("after the floor there are %d changes, from %v; want 10 from index 18", len(got), got[0].Cursor)
	}
	if want := "feed is compacted at 1/17/0, which is after cursor 1/2/4294967295: list again"; err.Error() != want {
		t.Errorf("error reads %q, want %q", err, want)
	}
}

func TestFeedIsBoundedInBytes(t *testing.T) {
	m := founded(t, Options{FeedBytes: 10_000})
	for i := range 20 {
		apply(t, m, setting(m, fmt.Sprintf("%01000d", i)))
	}
	m.feed.mu.Lock()
	bytes, changes := m.feed.bytes, m.feed.count
	sum := 0
	for _, r := range m.feed.ring {
		sum += r.bytes // 0 where none is
	}
	m.feed.mu.Unlock()
	if bytes > 10_000 || bytes != sum || changes < 8 || changes > 10 {
		t.Fatalf("feed holds %d changes of %d bytes, really %d; want at most 10 000 bytes", changes, bytes, sum)
	}
	// One change above the bound compacts itself; nobody waits for it for ever.
	_, before := m.ViewAndWatch()
	apply(t, m, setting(m, fmt.Sprintf("%020000d", 1)))
	var compacted *CompactedError
	if _, err := m.Changes(t.Context(), before); !errors.As(err, &compacted) {
		t.Fatalf("Changes after an entry above the bound = %v, want compacted", err)
	}
	if _, now := m.ViewAndWatch(); now.Less(compacted.Floor) {
		t.Fatalf("the view's own cursor %v lies before the floor %v", now, compacted.Floor)
	}
}

func TestChangesReadsInPortions(t *testing.T) {
	m := founded(t, Options{})
	for i := range maxRead + 5 {
		apply(t, m, setting(m, fmt.Sprint(i)))
	}
	_, begin := founded(t, Options{}).ViewAndWatch()
	first, err := m.Changes(t.Context(), begin)
	if err != nil || len(first) != maxRead {
		t.Fatalf("Changes gave %d changes, %v; want %d", len(first), err, maxRead)
	}
	rest, err := m.Changes(t.Context(), first[maxRead-1].Cursor)
	if err != nil || len(rest) != 5 {
		t.Fatalf("Changes gave %d more changes, %v; want 5", len(rest), err)
	}
}

func TestChangesWaitsUntilThereIsOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := founded(t, Options{})
		_, after := m.ViewAndWatch()
		got := make(chan []Change, 1)
		go func() {
			c, err := m.Changes(t.Context(), after)
			if err != nil {
				t.Error(err)
			}
			got <- c
		}()
		synctest.Wait()
		m.Advance(3) // an entry without a change wakes nobody for nothing
		synctest.Wait()
		if len(got) != 0 {
			t.Fatalf("Changes returned without a change: %v", <-got)
		}
		apply(t, m, setting(m, "1"))
		if c := <-got; len(c) != 1 || c[0].Cursor != (Cursor{Incarnation: 1, Index: 4}) {
			t.Fatalf("Changes = %v, want one at 1/4/0", c)
		}
		ctx, cancel := context.WithCancel(t.Context())
		failed := make(chan error, 1)
		go func() {
			_, after := m.ViewAndWatch()
			_, err := m.Changes(ctx, after)
			failed <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-failed; !errors.Is(err, context.Canceled) {
			t.Fatalf("Changes after the context's end = %v", err)
		}
	})
}

// A watcher that waits when a snapshot is restored has to list again: nobody knows
// what it missed.
func TestRestoreWakesWatchers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ahead := founded(t, Options{})
		for i := range 3 {
			apply(t, ahead, setting(ahead, fmt.Sprint(i)))
		}
		var snapshot bytes.Buffer
		if err := ahead.View().WriteSnapshot(&snapshot); err != nil {
			t.Fatal(err)
		}
		m := founded(t, Options{})
		_, after := m.ViewAndWatch()
		watch, published := make(chan error, 1), make(chan error, 1)
		go func() {
			_, err := m.Changes(t.Context(), after)
			watch <- err
		}()
		go func() { published <- m.WaitPublished(t.Context(), 5) }()
		synctest.Wait()
		if err := (Raft{m}).Restore(io.NopCloser(&snapshot)); err != nil {
			t.Fatal(err)
		}
		var compacted *CompactedError
		if err := <-watch; !errors.As(err, &compacted) || compacted.Floor != endOf(1, 5) {
			t.Errorf("the watcher got %v, want compacted at the end of index 5", err)
		}
		if err := <-published; err != nil {
			t.Errorf("WaitPublished: %v", err)
		}
		_, again := m.ViewAndWatch()
		apply(t, m, setting(m, "new"))
		if c, err := m.Changes(t.Context(), again); err != nil || len(c) != 1 || c[0].Cursor.Index != 6 {
			t.Errorf("after the restore the feed gives %v, %v; want one change at index 6", c, err)
		}
	})
}

func TestWaitPublishedEndsWithItsContext(t *testing.T) {
	m := founded(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.WaitPublished(ctx, 2); err != nil {
		t.Errorf("waiting for what is there: %v", err)
	}
	if err := m.WaitPublished(ctx, 3); !errors.Is(err, context.Canceled) || err.Error() != "wait for index 3, state is at 2: context canceled" {
		t.Errorf("waiting for what does not come: %v", err)
	}
}

// TestViewAndWatchHasNoGap lists and follows while entries are applied: the copy
// with all that followed is the state at the end, whenever the watch began; and
// nothing is seen before the view that holds it.
func TestViewAndWatchHasNoGap(t *testing.T) {
	m := founded(t, Options{FeedChanges: 100_000})
	const entries, watchers = 2000, 4
	var wg sync.WaitGroup
	for range watchers {
		wg.Go(func() {
			for {
				view, after := m.ViewAndWatch()
				value := ""
				if s, found := view.Setting("k"); found {
					value = s.GetValue()
				}
				last := view.Index()
				for round := 0; round < 50 && last < entries+2; round++ {
					changes, err := m.Changes(t.Context(), after)
					if err != nil {
						t.Error(err)
						return
					}
					for _, c := range changes {
						if c.Cursor.Index != last+1 {
							t.Errorf("change at %d followed %d", c.Cursor.Index, last)
							return
						}
						s := c.Row.(*raftlogv1.Setting)
						if want := fmt.Sprint(c.Cursor.Index - 3); s.GetValue() != want || (value != "" && fmt.Sprint(c.Cursor.Index-4) != value) {
							t.Errorf("change at %d says %q after %q, want %q", c.Cursor.Index, s.GetValue(), value, want)
							return
						}
						last, after, value = c.Cursor.Index, c.Cursor, s.GetValue()
					}
					if at, _ := m.Published(); at < last {
						t.Errorf("the feed showed index %d, the state is at %d", last, at)
						return
					}
				}
				if last == entries+2 {
					return
				}
			}
		})
	}
	for i := range entries {
		apply(t, m, setting(m, fmt.Sprint(i)))
	}
	wg.Wait()
}

// Views that are kept do not change while the machine goes on.
func TestViewsAreFrozen(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := newGen(t)
		type kept struct {
			v    *View
			hash [32]byte
		}
		var views []kept
		for range historyEntries {
			g.apply(g.entry(3))
			views = append(views, kept{g.m.View(), g.steps[len(g.steps)-1].hash})
		}
		for _, k := range views {
			if k.v.Hash() != k.hash {
				t.Fatalf("the view of index %d has changed", k.v.Index())
			}
		}
	})
}

// Rows are shared by views, feed and readers: nobody may write into what an entry
// brought.
func TestApplyKeepsItsOwnRows(t *testing.T) {
	m := founded(t, Options{})
	put := setting(m, "1")
	before := proto.CloneOf(put)
	apply(t, m, put)
	apply(t, m, setting(m, "2"))
	if !proto.Equal(put, before) {
		t.Fatalf("Apply wrote into the mutation: %v", put)
	}
}
