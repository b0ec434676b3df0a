package client_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/client/clienttest"
)

// held lets nobody through until it is released, and counts who came.
type held struct {
	mu      sync.Mutex
	came    int
	changed chan struct{}
	release chan struct{}
}

func hold(n *clienttest.Node) *held {
	h := &held{changed: make(chan struct{}, 100), release: make(chan struct{})}
	n.Break(func(ctx context.Context, method string) (error, bool) {
		if method != agentplanev1.CommandService_SubmitBatch_FullMethodName {
			return nil, false
		}
		h.mu.Lock()
		h.came++
		h.mu.Unlock()
		h.changed <- struct{}{}
		select {
		case <-h.release:
			return nil, false
		case <-ctx.Done():
			return ctx.Err(), false
		}
	})
	return h
}

// await waits until n calls have come.
func (h *held) await(t *testing.T, n int) {
	t.Helper()
	for {
		h.mu.Lock()
		came := h.came
		h.mu.Unlock()
		if came >= n {
			return
		}
		select {
		case <-h.changed:
		case <-time.After(10 * time.Second):
			t.Fatalf("%d calls came, want %d", came, n)
		}
	}
}

// submissions submits n commands at once and answers what became of each, by id.
func submissions(t *testing.T, s *client.Submitter, cluster *clienttest.Cluster, n int) func() map[string]error {
	t.Helper()
	var mu sync.Mutex
	got := make(map[string]error)
	var all sync.WaitGroup
	for range n {
		id := uuid.Must(uuid.NewV7()).String()
		envelope := submission(t, cluster, id).GetEnvelope()
		all.Go(func() {
			a, err := s.Submit(t.Context(), envelope)
			if err == nil && (a.GetTargets() != 1 || a.GetSubmittedIndex() == 0) {
				err = fmt.Errorf("answer %v", a)
			}
			mu.Lock()
			defer mu.Unlock()
			got[id] = err
		})
	}
	return func() map[string]error {
		all.Wait()
		return got
	}
}

func TestSubmitterSharesCalls(t *testing.T) {
	cluster := clienttest.NewCluster(t, 1)
	cluster.State.AddAgent("web-1", "ONLINE", nil, clienttest.Behaviour{})
	s := client.NewSubmitter(newClient(t, quick(cluster.Options())))
	h := hold(cluster.Nodes[0])
	first := submissions(t, s, cluster, 1)
	h.await(t, 1)
	second := submissions(t, s, cluster, 1)
	h.await(t, 2) // two may be on their way; what comes now waits
	rest := submissions(t, s, cluster, 300)
	close(h.release)
	for _, results := range []func() map[string]error{first, second, rest} {
		for id, err := range results() {
			if err != nil {
				t.Errorf("submission %s: %v", id, err)
			}
		}
	}
	if n := len(cluster.State.Commands()); n != 302 {
		t.Errorf("%d commands stand, want 302", n)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	// How the 300 goroutines fall among the calls is the scheduler's; one each would
	// be 302.
	if h.came > 100 {
		t.Errorf("%d calls were made for 302 submissions", h.came)
	}
}

func TestSubmitterGivesEachItsOwnRefusal(t *testing.T) {
	cluster := clienttest.NewCluster(t, 1)
	cluster.State.AddAgent("web-1", "ONLINE", nil, clienttest.Behaviour{})
	s := client.NewSubmitter(newClient(t, quick(cluster.Options())))
	h := hold(cluster.Nodes[0])
	before := submissions(t, s, cluster, 1)
	h.await(t, 1)
	id := uuid.Must(uuid.NewV7()).String()
	good := submissions(t, s, cluster, 1)
	bad := make(chan error, 1)
	go func() {
		other := *cluster
		other.ID = "another"
		_, err := s.Submit(t.Context(), submission(t, &other, id).GetEnvelope())
		bad <- err
	}()
	close(h.release)
	e := asError(t, <-bad)
	if e.Code != codes.InvalidArgument || e.Reason != "bad_spec" || e.OutcomeUnknown {
		t.Errorf("the refusal is %+v", e)
	}
	for _, results := range []func() map[string]error{before, good} {
		for id, err := range results() {
			if err != nil {
				t.Errorf("submission %s shared the refusal of another one: %v", id, err)
			}
		}
	}
}

// The node does the work and breaks before it answers: the batch is sent again, and
// everything in it stands once.
func TestSubmitterSendsABrokenBatchAgain(t *testing.T) {
	cluster := clienttest.NewCluster(t, 2)
	cluster.State.AddAgent("web-1", "ONLINE", nil, clienttest.Behaviour{})
	s := client.NewSubmitter(newClient(t, quick(cluster.Options())))
	var once sync.Once
	cluster.Nodes[0].Break(func(_ context.Context, method string) (err error, after bool) {
		if method == agentplanev1.CommandService_SubmitBatch_FullMethodName {
			once.Do(func() { err, after = status.Error(codes.Unavailable, "gone"), true })
		}
		return err, after
	})
	for id, err := range submissions(t, s, cluster, 20)() {
		if err != nil {
			t.Errorf("submission %s: %v", id, err)
		}
	}
	if n := len(cluster.State.Commands()); n != 20 {
		t.Errorf("%d commands stand, want 20", n)
	}
}

func TestSubmitterThatIsNotWaitedFor(t *testing.T) {
	cluster := clienttest.NewCluster(t, 1)
	cluster.State.AddAgent("web-1", "ONLINE", nil, clienttest.Behaviour{})
	c := newClient(t, quick(cluster.Options()))
	s := client.NewSubmitter(c)
	h := hold(cluster.Nodes[0])
	leave := func() (*client.Error, bool) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		envelope := submission(t, cluster, uuid.Must(uuid.NewV7()).String()).GetEnvelope()
		h.mu.Lock()
		on := h.came
		h.mu.Unlock()
		go func() {
			_, err := s.Submit(ctx, envelope)
			ended <- err
		}()
		sent := on < 2
		if sent {
			h.await(t, on+1)
		}
		cancel()
		return asError(t, <-ended), sent
	}
	for range 4 {
		e, sent := leave()
		if e.OutcomeUnknown != sent || !errors.Is(e, context.Canceled) {
			t.Errorf("sent: %v, and the error is %+v", sent, e)
		}
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := s.Submit(ended, nil); asError(t, err).OutcomeUnknown || asError(t, err).Code != codes.Canceled {
		t.Errorf("with a context that has ended: %+v", asError(t, err))
	}
	late, end := context.WithTimeout(t.Context(), 0)
	defer end()
	if _, err := s.Submit(late, nil); asError(t, err).OutcomeUnknown || asError(t, err).Code != codes.DeadlineExceeded {
		t.Errorf("after its deadline: %+v", asError(t, err))
	}
	// Who still waits when the client is closed is told so, and nothing is left.
	waits := submissions(t, s, cluster, 3)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	for id, err := range waits() {
		if err == nil || errors.Is(err, context.Canceled) {
			t.Errorf("submission %s on a closed client: %v", id, err)
		}
	}
	if _, err := s.Submit(t.Context(), nil); asError(t, err).OutcomeUnknown {
		t.Errorf("on a closed client: %v", err)
	}
}
