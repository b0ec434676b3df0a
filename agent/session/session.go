package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

const (
	defaultInterval = 3 * time.Second
	defaultMisses   = 3
	minPatience     = 3 * time.Second
	// goodbyeWait is how long the node may take to end the stream after Goodbye.
	goodbyeWait = time.Second
	// restInterval paces the reports that did not fit into Hello: nodes end a session that
	// floods them.
	restInterval = 10 * time.Millisecond
)

// ErrBacklog ends a session whose deliveries come faster than they can be journalled.
var ErrBacklog = errors.New("the queue of the work is full")

var errMoved = errors.New("moved to another node")

// session is one life of the agent on one node. It is made new each time.
type session struct {
	k     *Keeper
	link  *link
	log   hclog.Logger
	began time.Time

	nodeID      string
	epoch       uint64
	incarnation uint32
	hash        []byte                 // of the facts that Hello named
	rest        []*agentplanev1.Report // what did not fit into Hello
	stood       bool                   // Ready was said

	patience time.Duration
	watchdog *time.Timer
	seeking  bool // the reader's: a seeker runs
	group    sync.WaitGroup
	found    chan *link // from the seeker; holds one
}

// run gives how the session ended, and the stream to go on with if it has moved. When it
// returns, the stream is closed and no goroutine of the session is left.
func (s *session) run(ctx context.Context) (*link, error) {
	defer s.link.close()
	w, err := s.handshake(ctx)
	if err != nil {
		return nil, err
	}
	s.stood = true
	s.log.Info("session open", "node_id", s.nodeID, "session_epoch", s.epoch, "incarnation", s.incarnation)
	return s.serve(ctx, w)
}

func (s *session) serve(ctx context.Context, w *agentplanev1.Welcome) (*link, error) {
	interval := time.Duration(w.GetHeartbeatIntervalMs()) * time.Millisecond
	if interval <= 0 {
		interval = defaultInterval
	}
	misses := int(w.GetHeartbeatMisses())
	if misses < 1 {
		misses = defaultMisses
	}
	s.patience = max(interval*time.Duration(misses), minPatience)
	s.watchdog = time.AfterFunc(s.patience, func() { s.link.cancel(errSilent) })
	defer s.watchdog.Stop()
	s.found = make(chan *link, 1)
	seek, stopSeeking := context.WithCancel(ctx)
	beside, stopBeside := context.WithCancel(ctx)
	defer stopBeside()
	if s.k.o.Beside != nil {
		s.group.Go(func() { s.k.o.Beside(beside, s.link.node, s.epoch) })
	}

	ended := make(chan error, 1) // from the reader
	s.group.Go(func() { ended <- s.read(seek) })
	err := s.write(ctx, interval, w.GetWantFacts(), ended)
	s.link.cancel(err)
	stopSeeking()
	stopBeside()
	s.group.Wait()
	select {
	case l := <-s.found:
		return l, errMoved
	default:
		return nil, err
	}
}

// write says what there is to say until the session ends, and returns why.
func (s *session) write(ctx context.Context, interval time.Duration, wantFacts bool, ended <-chan error) error {
	if wantFacts {
		s.hash = nil
	}
	changed, err := s.facts()
	if err != nil {
		return err
	}
	beat := time.NewTicker(interval)
	defer beat.Stop()
	next := time.NewTicker(restInterval)
	defer next.Stop()
	for seq := uint64(1); ; {
		select {
		case err := <-ended:
			return err
		case <-ctx.Done():
			return s.leave(ctx, ended)
		case l := <-s.found:
			s.found <- l // serve takes it
			return errMoved
		case <-beat.C:
			err = s.send(&agentplanev1.SessionRequest{Message: &agentplanev1.SessionRequest_Heartbeat{Heartbeat: &agentplanev1.Heartbeat{
				SessionEpoch: s.epoch, Seq: seq, Running: uint32(s.k.o.Work.Running()),
			}}})
			seq++
		case <-next.C:
			if len(s.rest) == 0 {
				next.Stop()
				continue
			}
			err = s.report(s.rest[0])
			s.rest = s.rest[1:]
		case r := <-s.k.o.Work.Reports():
			err = s.report(r)
		case <-changed:
			changed, err = s.facts()
		}
		if err != nil {
			return err
		}
	}
}

func (s *session) report(r *agentplanev1.Report) error {
	r.SessionEpoch = s.epoch
	return s.send(&agentplanev1.SessionRequest{Message: &agentplanev1.SessionRequest_Report{Report: r}})
}

// facts sends the facts unless the node has them, and gives the channel that tells of the
// next ones.
func (s *session) facts() (<-chan struct{}, error) {
	facts, hash, changed := s.k.o.Facts.Facts()
	if s.hash != nil && string(hash) == string(s.hash) {
		return changed, nil
	}
	s.hash = hash
	return changed, s.send(&agentplanev1.SessionRequest{Message: &agentplanev1.SessionRequest_Facts{Facts: &agentplanev1.FactsReport{
		SessionEpoch: s.epoch, Facts: facts, Hash: hash,
	}}})
}

// leave says goodbye and lets the node end the stream.
//
// After a goodbye the cluster calls the agent LEFT at once. One whose programs still run
// has not left: it is about to be started again (an upgrade), so that it goes without a
// word, which gives it the grace of a lost connection.
func (s *session) leave(ctx context.Context, ended <-chan error) error {
	reboot := s.k.o.Rebooting != nil && s.k.o.Rebooting()
	if reboot || s.k.o.Work.Running() == 0 {
		_ = s.send(&agentplanev1.SessionRequest{Message: &agentplanev1.SessionRequest_Goodbye{Goodbye: &agentplanev1.Goodbye{
			SessionEpoch: s.epoch, Reason: "stopping", Reboot: reboot,
		}}})
	}
	_ = s.link.stream.CloseSend()
	wait := time.NewTimer(goodbyeWait)
	defer wait.Stop()
	select {
	case err := <-ended:
		s.log.Debug("the node has ended the stream", "err", err)
	case <-wait.C:
	}
	return context.Cause(ctx)
}

// send passes over the end of the stream: whoever receives learns why it ended.
func (s *session) send(m *agentplanev1.SessionRequest) error {
	if err := s.link.stream.Send(m); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("send: %w", s.link.cause(err))
	}
	return nil
}

// read takes what the node says until the stream ends, and returns why it did.
func (s *session) read(seek context.Context) error {
	for {
		m, err := s.link.stream.Recv()
		if err != nil {
			return fmt.Errorf("receive: %w", s.link.cause(err))
		}
		s.watchdog.Reset(s.patience)
		if err := s.take(seek, m); err != nil {
			return err
		}
	}
}

func (s *session) take(seek context.Context, m *agentplanev1.SessionResponse) error {
	switch b := m.GetMessage().(type) {
	case *agentplanev1.SessionResponse_HeartbeatAck:
		s.k.o.Clock.Set(b.HeartbeatAck.GetNow())
	case *agentplanev1.SessionResponse_Trust:
		s.learn(b.Trust.GetBundle())
	case *agentplanev1.SessionResponse_Deliver:
		d := b.Deliver
		if comparesDeliveries && (d.GetIncarnation() != s.incarnation || d.GetSessionEpoch() != s.epoch) {
			s.log.Warn("delivery of another session dropped", "invocation_id", d.GetInvocationId(),
				"its_epoch", d.GetSessionEpoch(), "session_epoch", s.epoch, "its_incarnation", d.GetIncarnation(), "incarnation", s.incarnation)
			return nil
		}
		if !s.k.o.Work.Offer(m) {
			return ErrBacklog
		}
	case *agentplanev1.SessionResponse_Cancel:
		if b.Cancel.GetSessionEpoch() != s.epoch {
			s.log.Warn("cancel of another session dropped", "invocation_id", b.Cancel.GetInvocationId(),
				"its_epoch", b.Cancel.GetSessionEpoch(), "session_epoch", s.epoch)
			return nil
		}
		s.offer(m)
	case *agentplanev1.SessionResponse_Keep:
		if b.Keep.GetSessionEpoch() != s.epoch {
			s.log.Warn("confirmation of another session dropped", "invocation_id", b.Keep.GetInvocationId(),
				"its_epoch", b.Keep.GetSessionEpoch(), "session_epoch", s.epoch)
			return nil
		}
		s.offer(m)
	case *agentplanev1.SessionResponse_Confirm, *agentplanev1.SessionResponse_Ask:
		s.offer(m)
	case *agentplanev1.SessionResponse_MoveAway:
		s.move(seek, b.MoveAway)
	case *agentplanev1.SessionResponse_Refused:
		return refused(b.Refused)
	default:
		s.log.Debug("message passed over", "type", fmt.Sprintf("%T", b))
	}
	return nil
}

// offer hands over what nodes repeat until it is answered.
func (s *session) offer(m *agentplanev1.SessionResponse) {
	if !s.k.o.Work.Offer(m) {
		s.log.Warn("message dropped: the queue of the work is full", "type", fmt.Sprintf("%T", m.GetMessage()))
	}
}

func (s *session) learn(b *agentplanev1.Bundle) {
	if err := s.k.o.Trust.Learn(b); err != nil {
		s.log.Warn("trust bundle not taken", "index", b.GetIndex(), "err", err)
	}
}
