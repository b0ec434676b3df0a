package dispatch

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// handshake leads from Challenge to Welcome. Afterwards this node's state holds the
// session under s.epoch.
func (s *session) handshake(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.d.o.HandshakeTimeout)
	defer cancel()
	defer context.AfterFunc(s.d.leaving, cancel)() //nolint:contextcheck // the dispatcher's life ends it too
	v := s.d.o.Machine.View()
	cluster := v.Cluster()
	if cluster.GetClusterId() == "" {
		return &refusal{reason: "not_ready", detail: "this node belongs to no cluster yet", retry: time.Second}
	}
	// Before the Challenge: an agent takes that as "this node has a leader", and leaves
	// the node where it is for it.
	if err := s.d.open(); err != nil {
		return err
	}
	row, _ := v.Session(s.agentID)
	shown := row.GetEpoch()
	s.tell(&agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_Challenge{Challenge: &agentplanev1.Challenge{
		SessionEpoch: shown, ClusterId: cluster.GetClusterId(), Incarnation: incarnation(cluster),
	}}})
	for n := range maxHellos {
		hello, err := s.awaitHello(ctx)
		if err != nil {
			return err
		}
		if hello.GetSeenEpoch() != shown {
			return &endError{code: codes.InvalidArgument, reason: "hello", text: fmt.Sprintf("Hello repeats epoch %d, the node showed %d", hello.GetSeenEpoch(), shown)}
		}
		if n == 0 {
			err = s.admit(ctx, hello)
		} else {
			err = s.check(hello)
		}
		if err != nil {
			return err
		}
		epoch, again, err := s.open(ctx, hello, shown)
		if err != nil {
			return err
		}
		if again == nil {
			return s.welcome(hello, epoch)
		}
		s.d.count.superseded.Add(1)
		shown = again.epoch
		s.tell(again.message(s.d.clock.now()))
	}
	return &refusal{reason: "rate", detail: fmt.Sprintf("the session was superseded %d times while it was opened", maxHellos), retry: 5 * time.Second}
}

func incarnation(c *raftlogv1.Cluster) *agentplanev1.Incarnation {
	return &agentplanev1.Incarnation{Number: c.GetIncarnation().GetNumber(), Id: c.GetIncarnation().GetId()}
}

func (s *session) awaitHello(ctx context.Context) (*agentplanev1.Hello, error) {
	select {
	case m := <-s.in:
		if h := m.GetHello(); h != nil {
			return h, nil
		}
		return nil, &endError{code: codes.InvalidArgument, reason: "unexpected", text: "the first message must be Hello"}
	case err := <-s.broken:
		return nil, err
	case <-ctx.Done():
		return nil, &endError{code: codes.DeadlineExceeded, reason: "no_hello", text: "Hello did not come in time"}
	}
}

// check looks at what a Hello says by itself.
func (s *session) check(h *agentplanev1.Hello) error {
	c := s.d.o.Machine.View().Cluster()
	bad := func(text string) error {
		return &endError{code: codes.InvalidArgument, reason: "hello", text: text}
	}
	switch {
	case h.GetClusterId() != c.GetClusterId():
		return &refusal{reason: "wrong_cluster", detail: fmt.Sprintf("this node belongs to cluster %q", c.GetClusterId())}
	case h.GetIncarnation() > c.GetIncarnation().GetNumber():
		return &refusal{reason: "old_incarnation", detail: fmt.Sprintf("this node is of incarnation %d, the agent has seen %d", c.GetIncarnation().GetNumber(), h.GetIncarnation())}
	case h.GetAgentId() != s.agentID:
		return &endError{code: codes.PermissionDenied, reason: "other_agent", text: fmt.Sprintf("the connection is of agent %q", s.agentID)}
	case len(h.GetStreamId()) == 0 || len(h.GetStreamId()) > maxIDBytes:
		return bad("the stream id must have 1 to 128 bytes")
	case len(h.GetStartId()) == 0 || len(h.GetStartId()) > maxIDBytes:
		return bad("the start id must have 1 to 128 bytes")
	case len(h.GetJournal().GetId()) == 0 || len(h.GetJournal().GetId()) > maxIDBytes:
		return bad("the journal id must have 1 to 128 bytes")
	}
	return nil
}

// admit decides whether the agent may open a session here at all.
func (s *session) admit(ctx context.Context, h *agentplanev1.Hello) error {
	if err := s.check(h); err != nil {
		return err
	}
	if err := s.d.open(); err != nil {
		return err
	}
	r := s.d.admit.Reserve()
	if wait := r.Delay(); wait > 0 {
		r.Cancel()
		return &refusal{reason: "rate", detail: fmt.Sprintf("this node takes %d sessions a second", s.d.o.SessionsPerSecond), retry: max(wait, time.Second)}
	}
	if s.known(s.d.o.Machine.View()) {
		return nil
	}
	// This node may lag: only what holds now is a reason to send an agent away.
	if err := s.d.o.CatchUp(ctx); err != nil {
		return &refusal{reason: "not_ready", detail: "this node does not know the agent's key and cannot catch up: " + clip(err.Error(), 200), retry: time.Second}
	}
	if !s.known(s.d.o.Machine.View()) {
		return &refusal{reason: "removed", detail: fmt.Sprintf("agent %q is not enrolled with this key: enrol it again with a token", s.agentID)}
	}
	return nil
}

func (s *session) known(v *fsm.View) bool {
	a, found := v.Agent(s.agentID)
	return found && bytes.Equal(a.GetPublicKey(), s.key)
}

// open proposes the session until the outcome is known, and waits until this node's
// own state has it. again, when not nil, is what the agent is told before it says
// Hello once more.
func (s *session) open(ctx context.Context, h *agentplanev1.Hello, shown uint64) (epoch uint64, again *refusal, err error) {
	if err := s.d.register(s, h.GetStreamId()); err != nil {
		return 0, nil, err
	}
	m := s.openMutation(h, shown)
	for try := 0; ; try++ {
		o, err := s.d.control.do(ctx, m)
		if err == nil {
			return s.conclude(ctx, o)
		}
		s.d.o.Logger.Debug("opening a session has no outcome yet", "agent_id", s.agentID, "try", try, "err", err)
		t := time.NewTimer(backoff(try))
		select {
		case <-t.C:
		case err := <-s.broken:
			t.Stop()
			return 0, nil, err
		case <-ctx.Done():
			t.Stop()
			return 0, nil, &refusal{reason: "not_ready", detail: "the cluster did not answer in time: " + clip(err.Error(), 200), retry: time.Second}
		}
	}
}

func (s *session) openMutation(h *agentplanev1.Hello, shown uint64) *raftlogv1.Mutation {
	s.slots = min(h.GetSlots(), maxSlots)
	m := &raftlogv1.OpenSession{
		AgentId: s.agentID, NodeId: s.d.o.NodeID, NodeStartCounter: s.d.o.StartCounter, SeenEpoch: shown,
		StreamId: h.GetStreamId(), StartId: h.GetStartId(), BootId: text(h.GetBootId(), maxIDBytes),
		Journal:       &raftlogv1.Journal{Id: h.GetJournal().GetId(), Floor: h.GetJournal().GetFloor(), Seq: h.GetJournal().GetSeq()},
		PreviousEpoch: h.GetPreviousEpoch(), Slots: s.slots,
	}
	for _, r := range h.GetOpen()[:min(len(h.GetOpen()), maxOpenReports)] {
		if len(r.GetInvocationId()) <= maxIDBytes {
			m.OpenAttempts = append(m.OpenAttempts, &raftlogv1.AttemptKey{InvocationId: text(r.GetInvocationId(), maxIDBytes), Attempt: r.GetAttempt()})
		}
	}
	return &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_OpenSession{OpenSession: m}}
}

// conclude turns the outcome of OpenSession into what follows.
func (s *session) conclude(ctx context.Context, o *raftlogv1.Outcome) (epoch uint64, again *refusal, err error) {
	retry := time.Duration(o.GetRetryAfterMs()) * time.Millisecond
	switch o.GetCode() {
	case raftlogv1.Code_CODE_OK:
	case raftlogv1.Code_CODE_STALE:
		if o.GetReason() != "superseded" {
			return 0, nil, &refusal{reason: "not_ready", detail: o.GetDetail(), retry: time.Second}
		}
	case raftlogv1.Code_CODE_EXHAUSTED:
		return 0, nil, &refusal{reason: "rate", detail: o.GetDetail(), retry: max(retry, time.Millisecond)}
	case raftlogv1.Code_CODE_INVALID:
		return 0, nil, &endError{code: codes.InvalidArgument, reason: "hello", text: o.GetDetail()}
	default:
		reason := o.GetReason()
		switch reason {
		case "removed", "clone", "journal_behind", "new_journal", "blocked":
		default: // about this node, not about the agent
			reason, retry = "not_ready", time.Second
		}
		// The agent's next floor is the time of this refusal: wait for it.
		_ = s.d.o.Machine.WaitPublished(ctx, o.GetIndex())
		s.d.clock.observe(s.d.o.Machine.Now())
		return 0, nil, &refusal{reason: reason, detail: o.GetDetail(), retry: retry}
	}
	if err := s.d.o.Machine.WaitPublished(ctx, o.GetIndex()); err != nil {
		return 0, nil, &refusal{reason: "not_ready", detail: "this node lags behind the cluster", retry: time.Second}
	}
	v := s.d.o.Machine.View()
	s.d.clock.observe(v.Now())
	row, _ := v.Session(s.agentID)
	if o.GetCode() == raftlogv1.Code_CODE_OK && row.GetEpoch() == o.GetNumber() {
		return row.GetEpoch(), nil, nil
	}
	return 0, &refusal{reason: "superseded", detail: "another session was opened meanwhile", epoch: row.GetEpoch(), again: true}, nil
}

// welcome tells the agent its epoch and takes the reports that its Hello carried.
func (s *session) welcome(h *agentplanev1.Hello, epoch uint64) error {
	v := s.d.o.Machine.View()
	s.epoch = epoch
	if _, err := s.current(v); err != nil {
		return err
	}
	agent, _ := v.Agent(s.agentID)
	s.ordinal, s.version = agent.GetOrdinal(), text(h.GetVersion(), maxIDBytes)
	s.d.grant(s, epoch)
	facts, found := v.Facts(s.agentID)
	bundle := s.d.o.Bundle()
	s.trust = bundle.GetIndex()
	s.tell(&agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_Welcome{Welcome: &agentplanev1.Welcome{
		ClusterId: v.Cluster().GetClusterId(), Incarnation: incarnation(v.Cluster()), NodeId: s.d.o.NodeID, SessionEpoch: epoch,
		Now: s.d.clock.now(), Bundle: bundle,
		HeartbeatIntervalMs: uint32(s.d.o.HeartbeatInterval / time.Millisecond), HeartbeatMisses: uint32(s.d.o.HeartbeatMisses),
		WantFacts:    !found || !bytes.Equal(facts.GetHash(), h.GetFactsHash()) || (s.version != "" && s.version != agent.GetVersion()),
		BackoffCapMs: milliseconds(backoffCap(v.AgentCount(), s.d.o.SessionsPerSecond)),
	}}})
	for i, r := range h.GetOpen() {
		if i >= maxOpenReports {
			s.d.count.reportsDropped.Add(uint64(len(h.GetOpen()) - i))
			s.d.o.Logger.Warn("a Hello lists too many open reports: the rest is left to later sessions",
				"agent_id", s.agentID, "reports", len(h.GetOpen()), "max", maxOpenReports)
			break
		}
		if err := s.report(r); err != nil {
			return err
		}
	}
	return nil
}

// backoffCap is the longest back-off of an agent such that a whole fleet that lost its
// nodes comes back at half the rate at which one node admits.
func backoffCap(agents, perSecond int) time.Duration {
	return min(max(2*time.Duration(agents)*time.Second/time.Duration(perSecond), 8*time.Second), 5*time.Minute)
}
