package depot

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/blob"
)

// large is more than a message and less than the bound.
var large = strings.Repeat("a large content\n", 60_000)

func TestAnUploadIsOnEnoughDisksAndInTheState(t *testing.T) {
	w := newWorld(t)
	for node, content := range map[string]string{"a": large, "b": "small", "c": ""} {
		r := w.bring(node, content)
		have := w.have(r)
		if len(have) != 2 || !slices.Contains(have, node) || !slices.Equal(w.row(r).GetNodeIds(), have) {
			t.Errorf("%s lies on %v, the state says %v; want two, one of them %s", r, have, w.row(r).GetNodeIds(), node)
		}
		for _, other := range []string{"a", "b", "c"} {
			answer, err := w.upload(other, r, content)
			if err != nil || !answer.GetRepeated() {
				t.Errorf("again through %s: %v %v, want that it stands", other, answer, err)
			}
		}
		missing, err := w.nodes["c"].FindBlobs(t.Context(), &agentplanev1.FindBlobsRequest{Blobs: []*agentplanev1.Blob{r.Proto(), refOfText(t, "other").Proto()}})
		if err != nil || len(missing.GetMissing()) != 1 || missing.GetMissing()[0].GetSha256() == r.Sum {
			t.Errorf("missing are %v (%v), want the other one", missing, err)
		}
	}
}

func TestAMinorityIsNoHindrance(t *testing.T) {
	w := newWorld(t)
	w.nodes["b"].stop()
	r := w.bring("a", "with two of three")
	if have := w.have(r); !slices.Equal(have, []string{"a", "c"}) {
		t.Errorf("it lies on %v", have)
	}
	w.nodes["c"].stop()
	r = refOfText(t, "with one of three")
	_, err := w.upload("a", r, "with one of three")
	if reasonOf(err) != "not_copied" || status.Code(err) != codes.Unavailable || w.row(r) != nil {
		t.Errorf("with one of three: %v; row %v", err, w.row(r))
	}
	w.nodes["b"].start()
	if _, err := w.upload("a", r, "with one of three"); err != nil || w.row(r) == nil {
		t.Errorf("again, when a second one is back: %v", err)
	}
}

// What was not recorded is not acknowledged, and the next node takes it anew.
func TestAnUploadThatIsNotRecordedIsNotAcknowledged(t *testing.T) {
	w := newWorld(t)
	w.mu.Lock()
	w.stuck = true
	w.mu.Unlock()
	r := refOfText(t, "nobody leads")
	if _, err := w.upload("a", r, "nobody leads"); reasonOf(err) != "not_recorded" {
		t.Errorf("%v", err)
	}
	w.nodes["a"].stop()
	w.mu.Lock()
	w.stuck = false
	w.mu.Unlock()
	if _, err := w.upload("b", r, "nobody leads"); err != nil || !slices.Equal(w.row(r).GetNodeIds(), []string{"b", "c"}) {
		t.Errorf("through another node: %v; row %v", err, w.row(r))
	}
}

func TestAnotherContentIsRefused(t *testing.T) {
	w := newWorld(t)
	r := refOfText(t, "meant")
	for content, reason := range map[string]string{"moant": "blob_mismatch", "mean": "blob_mismatch", "meant!": "blob_mismatch", large: "blob_mismatch"} {
		if _, err := w.upload("a", r, content); reasonOf(err) != reason {
			t.Errorf("%.10q: %v, want %s", content, err, reason)
		}
	}
	for _, bad := range []blob.Ref{{Sum: "../x"}, {Sum: r.Sum, Size: blob.MaxBytes + 1}, {}} {
		if _, err := w.upload("a", bad, "x"); reasonOf(err) != "bad_blob" {
			t.Errorf("%v: %v", bad, err)
		}
	}
	if have := w.have(r); len(have) > 0 || w.row(r) != nil {
		t.Errorf("it lies on %v, row %v", have, w.row(r))
	}
}

func TestQuotaIsSaidBeforeAnythingIsSent(t *testing.T) {
	w := newWorld(t, func(w *world) { w.options = func(o *Options) { o.MaxBytes, o.MaxBlobs = 1000, 3 } })
	first := w.bring("a", strings.Repeat("1", 600))
	r := refOfText(t, strings.Repeat("2", 600))
	_, err := w.upload("b", r, strings.Repeat("2", 600))
	if reasonOf(err) != "blob_quota" || status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "600 bytes") || !strings.Contains(err.Error(), "1000 bytes") {
		t.Errorf("one that has just come is in the way: %v", err)
	}
	if have := w.have(r); len(have) > 0 {
		t.Errorf("it was taken by %v", have)
	}
	w.advance(2 * time.Minute)
	w.bring("b", strings.Repeat("2", 600)) // the idle one makes room
	if w.row(first) != nil || w.row(r) == nil {
		t.Error("the idle one is still there")
	}
	w.submit(r)
	w.advance(time.Hour)
	if _, err := w.upload("c", first, strings.Repeat("1", 600)); reasonOf(err) != "blob_quota" {
		t.Errorf("one that a command needs is in the way: %v", err)
	}
	w.bring("c", "x")
	w.bring("c", "y")
	if _, err := w.upload("c", refOfText(t, "z"), "z"); reasonOf(err) != "blob_quota" {
		t.Errorf("a fourth of three: %v", err)
	}
}

func TestAFullDiskSendsTheClientElsewhere(t *testing.T) {
	w := newWorld(t)
	w.nodes["a"].store.o.MaxBytes = 10
	r := refOfText(t, large)
	if _, err := w.upload("a", r, large); reasonOf(err) != "store_full" || status.Code(err) != codes.Unavailable {
		t.Errorf("a full store: %v", err)
	}
	w.nodes["a"].store.o.MaxBytes, w.nodes["a"].store.o.ReserveBytes = 1<<30, 1<<62
	if _, err := w.upload("a", r, large); reasonOf(err) != "store_full" {
		t.Errorf("a full disk: %v", err)
	}
	// The others do without it.
	if _, err := w.upload("b", r, large); err != nil || !slices.Equal(w.have(r), []string{"b", "c"}) {
		t.Errorf("through another node: %v, on %v", err, w.have(r))
	}
}

func TestAgentsGetWhatTheyHaveClaimedAndNothingElse(t *testing.T) {
	w := newWorld(t)
	r, other := w.bring("a", large), w.bring("a", "other")
	command := w.submit(r)
	invocation := command + ".1"
	if _, err := w.fetch("a", invocation, r); reasonOf(err) != "not_claimed" {
		t.Errorf("before the claim: %v", err)
	}
	w.claim(command)
	for _, node := range []string{"a", "b", "c"} { // one of them lacks it
		if got, err := w.fetch(node, invocation, r); err != nil || got != large {
			t.Errorf("through %s: %d bytes, %v", node, len(got), err)
		}
	}
	if have := w.have(r); len(have) != 3 {
		t.Errorf("it lies on %v: who was asked keeps a copy", have)
	}
	if _, err := w.fetch("a", invocation, other); reasonOf(err) != "not_named" {
		t.Errorf("what the command does not name: %v", err)
	}
	if _, err := w.fetch("a", command+".2", r); reasonOf(err) != "not_claimed" {
		t.Errorf("another's invocation: %v", err)
	}
	w.nodes["a"].o.Agent = func(context.Context) string { return "somebody" }
	if _, err := w.fetch("a", invocation, r); reasonOf(err) != "not_claimed" {
		t.Errorf("another agent: %v", err)
	}
}

func TestAKeeperMayDie(t *testing.T) {
	w := newWorld(t)
	r := w.bring("b", large)
	invocation := w.claim(w.submit(r))
	keepers := w.row(r).GetNodeIds()
	w.nodes[keepers[0]].stop()
	for id := range w.nodes {
		if id == keepers[0] {
			continue
		}
		if got, err := w.fetch(id, invocation, r); err != nil || got != large {
			t.Errorf("through %s: %d bytes, %v", id, len(got), err)
		}
	}
}

func TestWhatNobodyHasIsSaidSo(t *testing.T) {
	w := newWorld(t)
	r := w.bring("a", "soon gone")
	invocation := w.claim(w.submit(r))
	for _, n := range w.nodes { // as after a restore
		must(t, n.store.Remove(r))
	}
	if _, err := w.fetch("a", invocation, r); reasonOf(err) != "no_blob" || status.Code(err) != codes.NotFound {
		t.Errorf("all are asked: %v", err)
	}
	w.nodes["b"].stop()
	if _, err := w.fetch("a", invocation, r); status.Code(err) != codes.Unavailable {
		t.Errorf("one that may have it is not reached: %v", err)
	}
}

func TestASpoiltBlobIsGottenAnew(t *testing.T) {
	w := newWorld(t)
	r := w.bring("a", large)
	invocation := w.claim(w.submit(r))
	must(t, os.WriteFile(w.nodes["a"].store.dir.Path(r), []byte(large[1:]+"!"), 0o600))
	if got, err := w.fetch("a", invocation, r); err == nil || got == large {
		t.Errorf("the spoilt one came as if it were whole: %d bytes", len(got))
	}
	if got, err := w.fetch("a", invocation, r); err != nil || got != large {
		t.Errorf("again: %d bytes, %v", len(got), err)
	}
}

// A node that is to keep a copy and has a spoilt one takes the good one.
func TestASpoiltCopyDoesNotCount(t *testing.T) {
	w := newWorld(t)
	r := refOfText(t, large)
	for _, n := range w.nodes {
		must(t, n.store.Put(t.Context(), r, whole(large)))
		must(t, os.WriteFile(n.store.dir.Path(r), []byte(large[1:]+"!"), 0o600))
	}
	if w.bring("a", large); len(w.have(r)) != 2 {
		t.Errorf("it lies on %v", w.have(r))
	}
}

// A client that sends nothing more holds nobody up for longer than its time.
func TestAStalledUploadEnds(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	block := make(chan struct{})
	defer close(block)
	next := incoming(ctx, func() ([]byte, error) {
		<-block
		return nil, os.ErrClosed
	})
	cancel(os.ErrDeadlineExceeded)
	if _, err := next(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

func TestManyAgentsShareOneCopy(t *testing.T) {
	w := newWorld(t)
	r := w.bring("a", large)
	invocation := w.claim(w.submit(r))
	keepers := w.row(r).GetNodeIds()
	var lacks string
	for id := range w.nodes {
		if !slices.Contains(keepers, id) {
			lacks = id
		}
	}
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			if got, err := w.fetch(lacks, invocation, r); err != nil || got != large {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	group.Wait()
}

func TestFilesGoWithTheirRows(t *testing.T) {
	w := newWorld(t, func(w *world) { w.options = func(o *Options) { o.SettledFor, o.Keep = time.Nanosecond, time.Hour } })
	r, idle := w.bring("a", "needed"), w.bring("a", "idle")
	command := w.submit(r)
	sweep := func() {
		for _, n := range w.nodes {
			n.sweep(t.Context())
		}
	}
	w.advance(2 * time.Hour)
	sweep()
	if len(w.have(r)) != 2 || len(w.have(idle)) != 2 {
		t.Fatalf("with rows: %v and %v", w.have(r), w.have(idle))
	}
	expire := func() {
		ctx, stop := context.WithCancel(t.Context())
		w.nodes["a"].o.SweepEvery = time.Millisecond
		done := make(chan error, 1)
		go func() { done <- w.nodes["a"].RunOffice(ctx, w) }()
		deadline := time.Now().Add(10 * time.Second)
		for w.due() && time.Now().Before(deadline) {
			time.Sleep(time.Millisecond)
		}
		stop()
		must(t, <-done)
	}
	expire()
	sweep()
	if w.row(idle) != nil || len(w.have(idle)) != 0 || len(w.have(r)) != 2 {
		t.Errorf("idle: %v on %v; needed on %v", w.row(idle), w.have(idle), w.have(r))
	}
	w.cancel(command)
	expire()
	if w.row(r) == nil {
		t.Error("it went with its command; a rerun needs it for a while")
	}
	w.advance(time.Hour)
	expire()
	sweep()
	if w.row(r) != nil || len(w.have(r)) != 0 {
		t.Errorf("an hour later: %v on %v", w.row(r), w.have(r))
	}
}

// due says that some blob is idle for longer than the hour of the test.
func (w *world) due() bool {
	v := w.machine.View()
	for row := range v.IdleBlobs() {
		return v.Now()-row.GetIdleSince() >= int64(time.Hour)
	}
	return false
}

// What came to nothing goes too, but not what may still be recorded.
func TestUploadsThatCameToNothingGo(t *testing.T) {
	w := newWorld(t)
	r := refOfText(t, "never recorded")
	w.mu.Lock()
	w.stuck = true
	w.mu.Unlock()
	_, err := w.upload("a", r, "never recorded")
	if err == nil {
		t.Fatal("it was acknowledged")
	}
	w.nodes["a"].sweep(t.Context())
	if have := w.have(r); len(have) != 2 {
		t.Fatalf("a moment later it lies on %v", have)
	}
	for _, n := range w.nodes {
		n.o.SettledFor = time.Nanosecond
		n.sweep(t.Context())
	}
	if have := w.have(r); len(have) != 0 {
		t.Errorf("it still lies on %v", have)
	}
}

func TestWhenAKeeperLeavesAnotherOneIsFound(t *testing.T) {
	w := newWorld(t)
	w.join("d")
	r := w.bring("a", large)
	keepers := w.row(r).GetNodeIds()
	gone := keepers[1]
	if gone == "a" {
		gone = keepers[0]
	}
	w.nodes[gone].stop()
	w.remove(gone)
	delete(w.nodes, gone)
	w.voters = slices.DeleteFunc(w.voters, func(id string) bool { return id == gone })
	w.voters = append(w.voters, "d")
	for _, n := range w.nodes {
		n.sweep(t.Context())
	}
	row := w.row(r)
	if have := w.have(r); len(have) != 2 || !slices.Equal(row.GetNodeIds(), have) {
		t.Errorf("it lies on %v, the state says %v", have, row.GetNodeIds())
	}
	// A keeper whose disk is another one gets it again.
	must(t, os.RemoveAll(w.nodes["a"].dir))
	w.nodes["a"].stop()
	must(t, os.MkdirAll(w.nodes["a"].dir, 0o700))
	w.nodes["a"].start()
	w.nodes["a"].sweep(t.Context())
	if have := w.have(r); !slices.Contains(have, "a") {
		t.Errorf("it lies on %v", have)
	}
}

// All that kept a blob have left; a node that got a copy for an agent keeps it from then on,
// and where there is none a client brings it anew.
func TestWhenAllKeepersLeave(t *testing.T) {
	w := newWorld(t)
	r, lost := w.bring("b", large), w.bring("b", "lost")
	invocation := w.claim(w.submit(r))
	leave := map[string]bool{}
	for _, row := range []blob.Ref{r, lost} {
		for _, id := range w.row(row).GetNodeIds() {
			leave[id] = true
		}
	}
	w.join("d")
	if _, err := w.fetch("d", invocation, r); err != nil {
		t.Fatal(err)
	}
	for id := range leave {
		w.nodes[id].stop()
		w.remove(id)
		delete(w.nodes, id)
	}
	w.voters = []string{"d"}
	if kept(w.machine.View(), lost) || kept(w.machine.View(), r) {
		t.Error("what nobody keeps is said to be kept")
	}
	w.nodes["d"].o.SettledFor = time.Nanosecond
	w.nodes["d"].sweep(t.Context())
	if have := w.have(r); !slices.Contains(have, "d") || !slices.Contains(w.row(r).GetNodeIds(), "d") || !kept(w.machine.View(), r) {
		t.Errorf("it lies on %v, the state says %v", have, w.row(r).GetNodeIds())
	}
	if answer, err := w.upload("d", lost, "lost"); err != nil || !kept(w.machine.View(), lost) {
		t.Errorf("it cannot be brought anew: %v %v", answer, err)
	}
}

func TestMoreVotersAreMoreCopies(t *testing.T) {
	w := newWorld(t, func(w *world) { w.voters = []string{"a"} })
	r := w.bring("a", "alone")
	if have := w.have(r); !slices.Equal(have, []string{"a"}) {
		t.Fatalf("with one voter it lies on %v", have)
	}
	w.voters = []string{"a", "b", "c"}
	w.nodes["a"].sweep(t.Context())
	if have := w.have(r); len(have) != 2 || !slices.Equal(w.row(r).GetNodeIds(), have) {
		t.Errorf("with three it lies on %v, the state says %v", have, w.row(r).GetNodeIds())
	}
}

func TestAStoreForgetsWhatAnUploadLeft(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, ".new-1"), []byte("half"), 0o600))
	s, err := OpenStore(StoreOptions{Dir: dir})
	must(t, err)
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("%v is left", left)
	}
	if n, bytes := s.Stats(); n != 0 || bytes != 0 {
		t.Errorf("%d blobs with %d bytes", n, bytes)
	}
}
