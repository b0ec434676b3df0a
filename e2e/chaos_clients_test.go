package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/cmd/agentplane/lab"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

// stream is a stream of submissions by several clients through all nodes. Each
// client is a goroutine with its own generator of random numbers; all of them end
// with finish.
type stream struct {
	f    *fleet
	info *agentplanev1.InfoResponse
	ctx  *client.Context

	stop    chan struct{} // closed by finish
	working sync.WaitGroup
	acks    atomic.Int64
	watched atomic.Int64 // messages about the health of agents

	mu          sync.Mutex // guards what follows
	submissions []submission
	oddities    []string
}

// newStream reads who the lab's operator is.
func newStream(t *testing.T, f *fleet) *stream {
	t.Helper()
	s := &stream{f: f, stop: make(chan struct{})}
	var err error
	if s.ctx, err = client.OpenContexts(filepath.Join(f.User, "agentctl.yaml")).Load(""); err != nil {
		t.Fatal(err)
	}
	c, err := s.client(0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if s.info, err = agentplanev1.NewClusterServiceClient(c).Info(within(t, 20*time.Second), &agentplanev1.InfoRequest{}); err != nil {
		t.Fatal(err)
	}
	return s
}

// client makes a client that begins with one of the nodes.
func (s *stream) client(first int) (*client.Client, error) {
	first %= len(s.f.addresses)
	return s.clientOf(slices.Concat(s.f.addresses[first:], s.f.addresses[:first])...)
}

// clientOf makes a client of these nodes alone.
func (s *stream) clientOf(addresses ...string) (*client.Client, error) {
	cert, err := s.ctx.TLSCertificate()
	if err != nil {
		return nil, err
	}
	return client.New(client.Options{Addresses: addresses, Bundle: s.ctx.Bundle, Certificate: client.Static(cert)})
}

// onlyOf is a client of that node and of no other, whatever it learns of them.
func (s *stream) onlyOf(address string) (*client.Client, error) {
	cert, err := s.ctx.TLSCertificate()
	if err != nil {
		return nil, err
	}
	dial := func(ctx context.Context, network, at string) (net.Conn, error) {
		if at != address {
			return nil, fmt.Errorf("%s is another node than %s", at, address)
		}
		return (&net.Dialer{}).DialContext(ctx, network, at)
	}
	return client.New(client.Options{Addresses: []string{address}, Bundle: s.ctx.Bundle, Certificate: client.Static(cert), Dial: dial})
}

// begin starts the clients: some in this process, one that is agentctl, and one
// that watches the agents.
func (s *stream) begin(seed uint64, clients int) {
	for n := range clients {
		rng := rand.New(rand.NewPCG(seed, uint64(n)+1))
		s.working.Go(func() { s.submitting(rng) })
	}
	s.working.Go(func() { s.agentctl(rand.New(rand.NewPCG(seed, 1000))) })
	s.working.Go(s.watchHealth)
}

// finish lets every call in flight come to its outcome.
func (s *stream) finish() {
	close(s.stop)
	s.working.Wait()
}

// pause sleeps, and says false when the clients are to end.
func (s *stream) pause(d time.Duration) bool {
	select {
	case <-s.stop:
		return false
	case <-time.After(d):
		return true
	}
}

func (s *stream) note(sub submission) {
	if sub.outcome == acknowledged {
		s.acks.Add(1)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.submissions = append(s.submissions, sub)
}

func (s *stream) oddity(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.oddities = append(s.oddities, fmt.Sprintf(format, args...))
}

// perClient is how many commands one connection is used for, before a new one begins
// with another node.
const perClient = 15

// through gives do a client of one node after the other, perClient times each and with a pause
// of at least that and some more before each time, until the stream ends.
func (s *stream) through(rng *rand.Rand, least, more time.Duration, do func(*client.Client)) {
	for {
		c, err := s.client(rng.IntN(len(s.f.addresses)))
		if err != nil {
			s.oddity("make a client: %v", err)
			return
		}
		for range perClient {
			if !s.pause(least + time.Duration(rng.Int64N(int64(more)))) {
				_ = c.Close()
				return
			}
			do(c)
		}
		_ = c.Close()
	}
}

func (s *stream) submitting(rng *rand.Rand) {
	s.through(rng, 50*time.Millisecond, 250*time.Millisecond, func(c *client.Client) {
		s.submit(agentplanev1.NewCommandServiceClient(c), rng)
	})
}

// submit submits one command of a kind that chance chooses.
func (s *stream) submit(c agentplanev1.CommandServiceClient, rng *rand.Rand) {
	id, err := uuid.NewV7()
	if err != nil {
		s.oddity("make an id: %v", err)
		return
	}
	sub := submission{id: id.String(), plain: true, began: time.Now()}
	spec := &agentplanev1.CommandSpec{
		ClusterId: s.info.ClusterId, Incarnation: s.info.Incarnation, CommandId: sub.id,
		Agents:     []string{s.f.agents[rng.IntN(len(s.f.agents))].Name},
		Argv:       s.f.argv(),
		RunTimeout: int64(time.Minute), KillGrace: int64(time.Second),
		NotAfter: sub.began.Add(5 * time.Minute).UnixNano(), Delivery: agentplanev1.Delivery_DELIVERY_AT_MOST_ONCE,
		QueueOffline: rng.IntN(2) == 0,
	}
	cancel := false
	switch kind := rng.IntN(40); {
	case kind < 10: // long enough to be met by the death of its agent
		spec.Argv = s.f.argv("--sleep", fmt.Sprint(time.Duration(rng.IntN(2000))*time.Millisecond))
	case kind < 12:
		spec.Argv, cancel, sub.plain = s.f.argv("--sleep", "1s"), true, false
	case kind < 13:
		spec.NotAfter, sub.plain = sub.began.Add(time.Duration(rng.IntN(200))*time.Millisecond).UnixNano(), false
	case kind < 14 && s.f.seldom(rng):
		spec.Agents, spec.Selector = nil, s.f.everyone()
	}
	envelope, err := envelopeOf(spec)
	if err != nil {
		s.oddity("marshal a command: %v", err)
		return
	}
	patience := time.Minute // more than the client itself has
	if rng.IntN(10) == 0 {
		patience = time.Duration(5+rng.IntN(200)) * time.Millisecond
	}
	r, err := s.try(c, envelope, patience, &sub)
	if sub.outcome == unknown && rng.IntN(2) == 0 {
		// Whoever does not know may repeat the same content, and learns what became of it.
		sub.outcome = acknowledged
		_, err = s.try(c, envelope, time.Minute, &sub)
		if sub.outcome == refused {
			sub.outcome = unknown // this try did nothing; the first may have
		}
	} else if err == nil && r.Command.GetId() != sub.id { // repeated it may be: the client tries again by itself
		s.oddity("command %s was submitted and answered as %v", sub.id, r)
	}
	s.note(sub)
	switch {
	case err != nil:
	case cancel:
		s.pause(time.Duration(rng.IntN(300)) * time.Millisecond) // what the cancel meets is the test's input
		// Whether it is canceled shows in the end; a lost answer has no meaning here.
		_, _ = c.CancelCommand(context.Background(), &agentplanev1.CancelCommandRequest{Id: sub.id})
	case rng.IntN(20) == 0:
		again := sub
		if r, err := s.try(c, envelope, time.Minute, &again); err == nil && !r.Repeated {
			s.oddity("command %s was submitted twice and accepted as new both times: %v", sub.id, r)
		}
	}
}

// try submits once and notes the outcome.
func (s *stream) try(c agentplanev1.CommandServiceClient, envelope []byte, patience time.Duration, sub *submission) (*agentplanev1.SubmitResponse, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := c.Submit(ctx, &agentplanev1.SubmitRequest{Envelope: envelope})
	sub.ended = time.Now()
	if err != nil {
		sub.problem = err.Error()
		if sub.outcome = refused; client.AsError(err).OutcomeUnknown {
			sub.outcome = unknown
		}
	}
	return r, err
}

func envelopeOf(spec *agentplanev1.CommandSpec) ([]byte, error) {
	exact := proto.MarshalOptions{Deterministic: true}
	data, err := exact.Marshal(spec)
	if err != nil {
		return nil, err
	}
	return exact.Marshal(&agentplanev1.Envelope{Spec: data})
}

// agentctl submits as people do, and judges by the exit code.
func (s *stream) agentctl(rng *rand.Rand) {
	for s.pause(time.Duration(500+rng.IntN(1000)) * time.Millisecond) {
		id, err := uuid.NewV7()
		if err != nil {
			s.oddity("make an id: %v", err)
			return
		}
		sub := submission{id: id.String(), plain: true, began: time.Now()}
		args := []string{
			"run", "--detach", "--id", sub.id, "--addr", s.f.addresses[rng.IntN(len(s.f.addresses))],
			"--on", fmt.Sprintf("name == %q", s.f.agents[rng.IntN(len(s.f.agents))].Name), "--",
		}
		s.noteCtl(sub, s.f.Ctl(context.Background(), append(args, s.f.argv()...)...))
	}
}

// noteCtl notes what agentctl said of a submission.
func (s *stream) noteCtl(sub submission, o lab.Output) {
	sub.ended, sub.problem = time.Now(), o.Stderr
	switch o.Code {
	case 0:
		sub.outcome = acknowledged
	case 5:
		sub.outcome = refused
	case 6:
		sub.outcome = unknown
	default:
		s.oddity("agentctl run exits with %d: %s", o.Code, o.Stderr)
		return
	}
	s.note(sub)
}

// watchHealth looks, through each node, for agents that are called DOWN: all are away for
// moments only, far less than their grace. It watches, because one that is DOWN for an
// instant is not met by asking now and then.
func (s *stream) watchHealth() {
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	for _, address := range s.f.addresses {
		c, err := s.clientOf(address)
		if err != nil {
			s.oddity("make a client: %v", err)
			continue
		}
		watching.Go(func() {
			defer c.Close()
			said := map[string]bool{}
			for s.pause(200 * time.Millisecond) {
				// The end of a watch has no meaning here: nodes die, that is what the test does.
				_ = s.watchAgents(ctx, c, address, func(a *agentplanev1.Agent) {
					if (a.Health == "DOWN" || a.Health == "LEFT" && !s.f.goodbyes) && a.Name != s.f.ghost && !said[a.Name] && !s.f.sick.is(a.Name) {
						said[a.Name] = true
						s.oddity("agent %s was called %s (%s), seen at %s at %s", a.Name, a.Health, a.HealthReason, address, time.Now().Format(time.StampMilli))
					}
				})
			}
		})
	}
	<-s.stop
	cancel()
	watching.Wait()
}

// watchAgents hands over each agent as it stands and as it changes, until the watch ends,
// and notes what stands out of order in it.
func (s *stream) watchAgents(ctx context.Context, c *client.Client, address string, each func(*agentplanev1.Agent)) error {
	watch, err := agentplanev1.NewFleetServiceClient(c).WatchAgents(ctx, &agentplanev1.WatchAgentsRequest{})
	if err != nil {
		return err
	}
	var order watchOrder
	for {
		r, err := watch.Recv()
		if err != nil {
			return err
		}
		s.watched.Add(1)
		for _, what := range order.judge(r) {
			s.oddity("a watch at %s: %s", address, what)
		}
		for _, a := range r.Agents {
			each(a)
		}
	}
}

// watchOrder is what one watch has told so far.
type watchOrder struct {
	index  uint64
	epochs map[string]uint64 // of sessions, by agent id; ids are never used again
}

// judge says what goes back in a message: the index of the state, or the epoch of an agent's
// session.
func (o *watchOrder) judge(r *agentplanev1.WatchAgentsResponse) (odd []string) {
	if o.epochs == nil {
		o.epochs = make(map[string]uint64)
	}
	if r.Index < o.index {
		odd = append(odd, fmt.Sprintf("index %d comes after %d", r.Index, o.index))
	}
	o.index = max(o.index, r.Index)
	for _, a := range r.Agents {
		if was := o.epochs[a.Id]; a.SessionEpoch < was {
			odd = append(odd, fmt.Sprintf("agent %s has session epoch %d after %d", a.Name, a.SessionEpoch, was))
		}
		o.epochs[a.Id] = max(o.epochs[a.Id], a.SessionEpoch)
	}
	return odd
}
