package session

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

const (
	// maxHellos bounds how often one stream is tried: a node that supersedes for ever is
	// no use.
	maxHellos = 8
	// maxOpenBytes bounds the records in Hello, well below the message limit of 1 MiB.
	maxOpenBytes = 512 << 10
	// maxOpen bounds their number: nodes take no more from one Hello.
	maxOpen = 1000
)

var errHellos = errors.New("the node asks for one hello after another")

// handshake gets a Welcome, makes its epoch durable and says Ready.
func (s *session) handshake(ctx context.Context) (*agentplanev1.Welcome, error) {
	streamID := make([]byte, 16)
	_, _ = rand.Read(streamID) // never fails
	seen := s.link.challenge.GetSessionEpoch()
	for range maxHellos {
		if err := s.hello(seen, streamID); err != nil {
			return nil, err
		}
		m, err := s.answer(ctx)
		if err != nil {
			return nil, err
		}
		if w := m.GetWelcome(); w != nil {
			return w, s.enter(w)
		}
		r := m.GetRefused()
		if r.GetReason() == "new_journal" {
			s.log.Warn("the cluster asks for a new journal", "detail", r.GetDetail())
			if err := s.k.o.Work.Rotate(r.GetNow()); err != nil {
				return nil, fmt.Errorf("begin a new journal: %w", err)
			}
		}
		if !r.GetAgain() {
			return nil, refused(r)
		}
		if e := r.GetSessionEpoch(); e != 0 {
			seen = e
		}
		if !sleep(ctx, jittered(time.Duration(r.GetRetryAfterMs())*time.Millisecond)) {
			return nil, context.Cause(ctx)
		}
	}
	return nil, errHellos
}

func (s *session) hello(seen uint64, streamID []byte) error {
	o := &s.k.o
	st, err := o.Work.Standing()
	if err != nil {
		return fmt.Errorf("say hello: %w", err)
	}
	_, hash, _ := o.Facts.Facts()
	h := &agentplanev1.Hello{
		ClusterId: o.ClusterID, Incarnation: s.k.seen().GetNumber(), SeenEpoch: seen, StreamId: streamID,
		AgentId: o.AgentID, BootId: o.BootID, StartId: o.StartID, Journal: st.Journal, PreviousEpoch: st.Previous,
		Slots: uint32(o.Slots), FactsHash: hash, Version: o.Version,
	}
	h.Open, s.rest = fit(st.Open, maxOpenBytes)
	s.hash = hash
	return s.send(&agentplanev1.SessionRequest{Message: &agentplanev1.SessionRequest_Hello{Hello: h}})
}

// answer is the next Welcome or Refused.
func (s *session) answer(ctx context.Context) (*agentplanev1.SessionResponse, error) {
	for {
		m, err := s.link.receive(ctx, s.k.o.AnswerTimeout)
		if err != nil {
			return nil, fmt.Errorf("wait for welcome: %w", err)
		}
		switch m := m.GetMessage().(type) {
		case *agentplanev1.SessionResponse_Welcome, *agentplanev1.SessionResponse_Refused:
		case *agentplanev1.SessionResponse_Trust:
			s.learn(m.Trust.GetBundle())
			continue
		case *agentplanev1.SessionResponse_MoveAway:
			return nil, fmt.Errorf("wait for welcome: the node sends its agents away: %.64s", m.MoveAway.GetReason())
		default:
			return nil, fmt.Errorf("wait for welcome: the node sent %T", m)
		}
		return m, nil
	}
}

// enter checks the Welcome and says Ready once the epoch is durable.
func (s *session) enter(w *agentplanev1.Welcome) error {
	o := &s.k.o
	if err := s.k.acceptable(w.GetClusterId(), w.GetIncarnation()); err != nil {
		return fmt.Errorf("welcome: %w", err)
	}
	s.nodeID, s.epoch, s.incarnation = w.GetNodeId(), w.GetSessionEpoch(), w.GetIncarnation().GetNumber()
	o.Clock.Set(w.GetNow())
	if w.GetBundle() != nil {
		s.learn(w.GetBundle())
	}
	if hint := w.GetBackoffCapMs(); hint > 0 {
		s.k.backoff.cap = max(time.Duration(hint)*time.Millisecond, backoffBase)
	}
	if err := o.Work.Begin(Grant{Incarnation: w.GetIncarnation(), Epoch: w.GetSessionEpoch(), Now: w.GetNow()}); err != nil {
		return fmt.Errorf("journal session epoch %d: %w", w.GetSessionEpoch(), err)
	}
	return s.send(&agentplanev1.SessionRequest{Message: &agentplanev1.SessionRequest_Ready{Ready: &agentplanev1.Ready{SessionEpoch: s.epoch}}})
}

// fit gives what goes into Hello and what has to follow it. When not everything fits,
// reports with output are announced as RUNNING, which is true of the attempt as far as
// the cluster has heard, and follow whole.
func fit(all []*agentplanev1.Report, limit int) (open, rest []*agentplanev1.Report) {
	size := 0
	for _, r := range all {
		size += proto.Size(r) + 8
	}
	if size <= limit && len(all) <= maxOpen {
		return all, nil
	}
	size = 0
	for _, r := range all {
		short := r
		if r.GetStdout() != nil || r.GetStderr() != nil {
			short = &agentplanev1.Report{
				InvocationId: r.GetInvocationId(), Attempt: r.GetAttempt(), Fence: r.GetFence(),
				State: agentplanev1.AttemptState_ATTEMPT_STATE_RUNNING, StartedAt: r.GetStartedAt(), JournalSeq: r.GetJournalSeq(),
			}
			rest = append(rest, r)
		}
		if size += proto.Size(short) + 8; size <= limit && len(open) < maxOpen {
			open = append(open, short)
		} else if short == r {
			rest = append(rest, r)
		}
	}
	return open, rest
}
