package output

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// run keeps the agent's stream to the node of its session until the program is done with.
func (p *program) run(t testing.TB) (stop func()) {
	return background(t, func(ctx context.Context) error {
		for ctx.Err() == nil {
			s, _ := p.w.machine.View().Session(theAgent)
			_ = p.send(ctx, s.GetNodeId(), s.GetEpoch())
			if _, done := p.state(); done != "" {
				return nil
			}
			pause(ctx, 20*time.Millisecond)
		}
		return nil
	})
}

// What one node has on its disk is not acknowledged; what two of three have is.
func TestOutputIsAcknowledgedByAMajority(t *testing.T) {
	w := newWorld(t, StoreOptions{})
	k := w.claim()
	p := w.program(k)
	w.nodes["b"].stop()
	w.nodes["c"].stop()
	p.run(t)
	text := strings.Repeat("a line of output\n", 2000)
	p.print(0, text)
	w.until("node a has it", func() bool {
		h, _, err := w.nodes["a"].store.Held(t.Context(), k)
		must(t, err)
		return h.Ends[0] == uint64(len(text))
	})
	looks := w.nodes["a"].looks.Load()
	w.until("node a has looked for others in vain", func() bool {
		if acked, _ := p.state(); acked != (Ends{}) {
			t.Fatalf("%v was acknowledged while one node of three had it", acked)
		}
		return w.nodes["a"].looks.Load() >= looks+2
	})
	w.nodes["c"].start(StoreOptions{})
	w.until("it is acknowledged", func() bool { acked, _ := p.state(); return acked[0] == uint64(len(text)) })
	h, _, err := w.nodes["c"].store.Held(t.Context(), k)
	must(t, err)
	if h.Ends[0] != uint64(len(text)) {
		t.Errorf("node c has %v", h.Ends)
	}
}

func TestOutputIsRecordedWhenItHasEnded(t *testing.T) {
	w := newWorld(t, StoreOptions{})
	k := w.claim()
	p := w.program(k)
	p.run(t)
	for n := range 1000 {
		p.print(n%2, fmt.Sprintf("line %d of many\n", n))
	}
	p.exit()
	w.until("it is done", func() bool { _, done := p.state(); return done != "" })
	if _, done := p.state(); done != DoneKept {
		t.Fatalf("done is %q", done)
	}
	r := recorded(w.row(k), 1)
	for i, s := range []*raftlogv1.StreamRecord{r.GetStdout(), r.GetStderr()} {
		sum := sha256.Sum256([]byte(p.text(i)))
		if s.GetBytes() != uint64(len(p.text(i))) || s.GetMissing() != 0 || !slices.Equal(s.GetSha256(), sum[:]) {
			t.Errorf("recorded is %v", s)
		}
	}
	if len(r.GetNodeIds()) < 2 || !slices.Contains(r.GetNodeIds(), "a") {
		t.Errorf("recorded are the nodes %q", r.GetNodeIds())
	}
	w.succeed(k, p.text(0), p.text(1))
	for _, id := range []string{"a", "b", "c"} { // one of which keeps nothing
		var f watcher
		must(t, f.follow(t.Context(), t, w, id, k))
		got, end := f.state()
		if got.text != [2]string{p.text(0), p.text(1)} || end.GetTotals().GetStdout().GetBytes() != uint64(len(p.text(0))) || end.GetIncomplete() != "" {
			t.Errorf("node %s shows %d and %d bytes and the end %v", id, len(got.text[0]), len(got.text[1]), end)
		}
	}
	// Either keeper may be gone.
	w.nodes["a"].stop()
	for _, id := range []string{"b", "c"} {
		var f watcher
		must(t, f.follow(t.Context(), t, w, id, k))
		if got, end := f.state(); got.text[0] != p.text(0) || end.GetIncomplete() != "" {
			t.Errorf("without node a node %s shows %d bytes, %v", id, len(got.text[0]), end)
		}
	}
	// When the command is purged its output goes.
	w.now += int64(time.Hour)
	w.apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_PurgeCommands{PurgeCommands: &raftlogv1.PurgeCommands{CommandIds: []string{k.Invocation[:36]}}}})
	for _, id := range []string{"b", "c"} {
		w.until("output is purged from "+id, func() bool { return len(w.nodes[id].store.Keys()) == 0 })
	}
	w.nodes["a"].start(StoreOptions{})
	w.nodes["a"].store.age(2 * settledFor)
	w.nodes["a"].sweepAll(t.Context())
	if n := len(w.nodes["a"].store.Keys()); n != 0 {
		t.Errorf("node a, which was away then, still has output of %d attempts", n)
	}
}

// A node that keeps output leaves for good: another one gets a copy, and is recorded.
func TestOutputOfANodeThatLeftIsCopiedAgain(t *testing.T) {
	w := newWorld(t, StoreOptions{})
	k := w.claim()
	p := w.program(k)
	p.run(t)
	p.print(0, strings.Repeat("a line\n", 3000))
	p.exit()
	w.until("it is done", func() bool { _, done := p.state(); return done == DoneKept })
	w.succeed(k, p.text(0), "")
	keepers := recorded(w.row(k), 1).GetNodeIds()
	if len(keepers) != 2 || keepers[0] != "a" {
		t.Fatalf("it is kept by %q", keepers)
	}
	gone, next := keepers[1], "b"
	if gone == "b" {
		next = "c"
	}
	w.nodes["a"].store.age(2 * settledFor)
	w.nodes["a"].sweepAll(t.Context())
	if w.nodes["a"].copies.has(k) {
		t.Fatal("it is copied again although nobody has left")
	}
	w.nodes[gone].stop()
	w.apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RemoveNode{RemoveNode: &raftlogv1.RemoveNode{NodeId: gone}}})
	w.nodes["a"].sweepAll(t.Context())
	w.until("the third node is recorded", func() bool { return slices.Contains(recorded(w.row(k), 1).GetNodeIds(), next) })
	w.until("the copy is done with", func() bool { return !w.nodes["a"].copies.has(k) })
	w.until("nothing is copied to the node that left", func() bool {
		a := w.nodes["a"].copies
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.pushers[gone] == nil && a.pushers[next] != nil
	})
	w.nodes["a"].stop()
	var f watcher
	must(t, f.follow(t.Context(), t, w, next, k))
	if got, end := f.state(); got.text[0] != p.text(0) || end.GetIncomplete() != "" {
		t.Errorf("the third node shows %d bytes, %v", len(got.text[0]), end)
	}
}

// age makes everything look older.
func (s *Store) age(by time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.entries {
		e.touched = e.touched.Add(-by)
	}
}

// Output that the result holds needs no disk.
func TestSmallOutputIsShownFromTheResult(t *testing.T) {
	w := newWorld(t, StoreOptions{})
	k := w.claim()
	p := w.program(k)
	p.run(t)
	p.print(0, "hello\n")
	var live, late watcher
	stop := background(t, func(ctx context.Context) error { return live.follow(ctx, t, w, "c", k) })
	defer stop()
	w.until("it is shown live", func() bool { got, _ := live.state(); return got.text[0] == "hello\n" })
	p.print(1, "warning\n")
	p.exit()
	w.until("it is done", func() bool { _, done := p.state(); return done == DoneWhole })
	w.succeed(k, "hello\n", "warning\n")
	w.until("the follow ends", func() bool { _, end := live.state(); return end != nil })
	must(t, late.follow(t.Context(), t, w, "b", k))
	for _, f := range []*watcher{&live, &late} {
		got, end := f.state()
		if got.text != [2]string{"hello\n", "warning\n"} || end.GetTotals().GetStderr().GetBytes() != 8 || end.GetState() != agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED {
			t.Errorf("shown is %q, %v", got.text, end)
		}
	}
	if r := recorded(w.row(k), 1); r != nil {
		t.Errorf("it was recorded: %v", r)
	}
	w.nodes["a"].store.age(2 * settledFor)
	w.nodes["a"].sweepAll(t.Context())
	for id, n := range w.nodes {
		if len(n.store.Keys()) != 0 {
			t.Errorf("node %s still keeps it", id)
		}
	}
}

// The node of the agent dies in the middle, then the node that is followed: whoever
// follows gets every byte once.
func TestFollowThroughTheDeathOfEitherNode(t *testing.T) {
	w := newWorld(t, StoreOptions{})
	k := w.claim()
	p := w.program(k)
	p.run(t)
	lines := 0
	speak := func(n int) {
		for range n {
			lines++
			p.print(lines%2, fmt.Sprintf("this is line %d of what it prints\n", lines))
		}
	}
	// One follows on c to the end, the other goes from one node to the next as they die.
	var steady, moving watcher
	group := sync.WaitGroup{}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	group.Go(func() {
		if err := steady.follow(ctx, t, w, "c", k); err != nil {
			t.Error(err)
		}
	})
	group.Go(func() {
		for _, node := range []string{"b", "a", "c", "c"} {
			if err := moving.follow(ctx, t, w, node, k); err == nil {
				return
			}
		}
		t.Error("the follow ended nowhere")
	})
	followed := func() { // what comes next is in the middle for those who follow
		shown, _ := steady.state()
		begun := len(shown.text[0])
		speak(300)
		w.until("it is followed", func() bool { got, _ := steady.state(); return len(got.text[0]) > begun })
	}
	followed()
	w.nodes["a"].stop() // the agent's
	speak(100)
	w.session("b")
	followed()
	w.nodes["a"].start(StoreOptions{})
	w.nodes["b"].stop() // the agent's, and one that is followed
	speak(100)
	w.session("c")
	speak(200)
	p.exit()
	w.until("it is done", func() bool { _, done := p.state(); return done == DoneKept })
	w.succeed(k, p.text(0), p.text(1))
	group.Wait()
	for name, f := range map[string]*watcher{"steady": &steady, "moving": &moving} {
		got, end := f.state()
		if got.text != [2]string{p.text(0), p.text(1)} {
			t.Errorf("%s: %d and %d bytes were shown of %d and %d", name, len(got.text[0]), len(got.text[1]), len(p.text(0)), len(p.text(1)))
		}
		if end.GetTotals() == nil || end.GetIncomplete() != "" {
			t.Errorf("%s: the end is %v", name, end)
		}
	}
}

// The agent's next node has nothing, and the agent no longer has what was acknowledged:
// other nodes do.
func TestTheNextNodeAsksTheOthersFirst(t *testing.T) {
	w := newWorld(t, StoreOptions{})
	k := w.claim()
	p := w.program(k)
	stop := p.run(t)
	p.print(0, strings.Repeat("x", 50_000))
	w.until("it is acknowledged", func() bool { acked, _ := p.state(); return acked[0] == 50_000 })
	stop()
	next := "b"
	if h, found, _ := w.nodes["b"].store.Held(t.Context(), k); found && h.Ends[0] > 0 {
		next = "c"
	}
	p.mu.Lock()
	p.chunks = nil // rotated away
	p.mu.Unlock()
	w.nodes["a"].stop()
	w.session(next)
	p.run(t)
	p.print(0, "the end")
	p.exit()
	w.until("it is done", func() bool { _, done := p.state(); return done == DoneKept })
	if r := recorded(w.row(k), 1); r.GetStdout().GetBytes() != 50_007 || r.GetStdout().GetMissing() != 0 {
		t.Errorf("recorded is %v", r)
	}
}

// What is above the quota is not kept, which is said to everybody.
func TestFloodIsBoundedAndSaid(t *testing.T) {
	w := newWorld(t, StoreOptions{MaxAttemptBytes: 100_000, WalBytes: 50_000})
	k := w.claim()
	p := w.program(k)
	p.run(t)
	for range 100 {
		p.print(0, strings.Repeat("x", 10_000))
	}
	p.print(0, "the end")
	// The program may be over before the node has said that it is too much.
	w.until("the agent knows that node a keeps no more", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.told
	})
	p.exit()
	w.until("it is done", func() bool { _, done := p.state(); return done == DoneKept })
	w.succeed(k, p.text(0), "")
	r := recorded(w.row(k), 1)
	const tail = 100_000 / 4 / 2
	if r.GetStdout().GetBytes() != 1_000_007 || r.GetStdout().GetMissing() != 1_000_007-70_000-tail {
		t.Errorf("recorded is %v", r)
	}
	var f watcher
	must(t, f.follow(t.Context(), t, w, "c", k))
	want := strings.Repeat("x", 70_000) + fmt.Sprintf("(%d quota)", 1_000_007-70_000-tail) + strings.Repeat("x", tail-7) + "the end"
	if got, end := f.state(); got.text[0] != want || end.GetTotals().GetStdout().GetMissing() != 1_000_007-70_000-tail {
		t.Errorf("shown are %d bytes, the end is %v", len(got.text[0]), end)
	}
	for id, n := range w.nodes {
		if st := n.store.Stats(); st.Bytes > 120_000 {
			t.Errorf("node %s keeps %d bytes", id, st.Bytes)
		}
	}
}

// A host that is gone for good takes what it has not sent with it: what is there is
// shown, and that it may not be all.
func TestFollowSaysWhenTheRestDoesNotCome(t *testing.T) {
	w := newWorld(t, StoreOptions{})
	k := w.claim()
	p := w.program(k)
	stop := p.run(t)
	p.print(0, "the first part\n")
	var f watcher
	stopFollow := background(t, func(ctx context.Context) error { return f.follow(ctx, t, w, "b", k) })
	defer stopFollow()
	w.until("it is shown", func() bool { got, _ := f.state(); return got.text[0] != "" })
	stop()
	w.succeed(k, strings.Repeat("x", 9_000), "") // the result came, the output did not
	w.until("the follow ends", func() bool { _, end := f.state(); return end != nil })
	if got, end := f.state(); end.GetIncomplete() != "not_received" || end.GetTotals() != nil || got.text[0] != "the first part\n" {
		t.Errorf("shown is %q, the end is %v", got.text[0], end)
	}
}

// What the cluster calls LOST has no result that holds its output, though its start was
// reported: what came is shown as not all, and the rest is taken when the agent comes back.
func TestOutputOfWhatIsLostIsNotCalledWhole(t *testing.T) {
	w := newWorld(t, StoreOptions{})
	k := w.claim()
	p := w.program(k)
	stop := p.run(t)
	p.print(0, "the first part\n")
	i := w.row(k)
	s, _ := w.machine.View().Session(theAgent)
	w.apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ReportAttempt{ReportAttempt: &raftlogv1.ReportAttempt{
		InvocationId: k.Invocation, Attempt: k.Attempt, Fence: i.GetFence(), AgentId: theAgent, SessionEpoch: s.GetEpoch(), NodeId: s.GetNodeId(),
		State:  raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING,
		Result: &raftlogv1.Result{StartedAt: 1, Stdout: &raftlogv1.Output{}, Stderr: &raftlogv1.Output{}},
	}}})
	var f watcher
	defer background(t, func(ctx context.Context) error { return f.follow(ctx, t, w, "b", k) })()
	w.until("it is shown", func() bool { got, _ := f.state(); return got.text[0] != "" })
	stop()
	w.apply(&raftlogv1.Mutation{Kind: &raftlogv1.Mutation_LoseAttempt{LoseAttempt: &raftlogv1.LoseAttempt{
		Key: &raftlogv1.AttemptKey{InvocationId: k.Invocation, Attempt: k.Attempt}, ExpectedState: raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING,
		ExpectedFence: i.GetFence(), ExpectedSessionEpoch: s.GetEpoch(), Reason: "no_contact",
	}}})
	w.until("the follow ends", func() bool { _, end := f.state(); return end != nil })
	if got, end := f.state(); end.GetIncomplete() != "not_received" || end.GetTotals() != nil || got.text[0] != "the first part\n" {
		t.Errorf("shown is %q, the end is %v", got.text[0], end)
	}
	w.session("b")
	p.run(t)
	p.print(0, strings.Repeat("x", 50_000))
	p.exit()
	w.until("it is done", func() bool { _, done := p.state(); return done != "" })
	if _, done := p.state(); done != DoneKept || recorded(w.row(k), 1).GetStdout().GetBytes() != 50_015 {
		t.Errorf("the agent was told %q, recorded is %v", done, recorded(w.row(k), 1))
	}
}

// Whoever sends output of what is not its own gets none of it kept.
func TestOutputOfOthersIsNotTaken(t *testing.T) {
	w := newWorld(t, StoreOptions{})
	k := w.claim()
	for name, other := range map[string]Key{
		"an invocation that is not": {"00000000-0000-7000-8000-000000000009.1", 1}, "a later attempt": {k.Invocation, 2}, "a path": {"../../x", 1},
	} {
		p := w.program(other)
		s, _ := w.machine.View().Session(theAgent)
		p.print(0, "x")
		if err := p.send(t.Context(), "a", s.GetEpoch()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, done := p.state(); done != DoneGone {
			t.Errorf("%s: done is %q", name, done)
		}
	}
	p := w.program(k)
	if err := p.send(t.Context(), "b", 1); err == nil {
		t.Error("a node without the agent's session took output")
	}
	if n := len(w.nodes["a"].store.Keys()); n != 0 {
		t.Errorf("output of %d attempts is kept", n)
	}
}
