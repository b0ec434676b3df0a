package agenttest

import (
	"bytes"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

type sessions struct {
	agentplanev1.UnimplementedAgentServiceServer
	node *Node
}

// session is one stream of one agent.
type session struct {
	node   *Node
	member *member
	epoch  uint64
	queue  chan *agentplanev1.SessionResponse
	end    chan struct{} // closed by the cluster
}

func (s *session) send(m *agentplanev1.SessionResponse) {
	select {
	case s.queue <- m:
	default:
		s.node.cluster.t.Error("the queue of a session is full")
	}
}

func (s *session) delivery(d *agentplanev1.Deliver) *agentplanev1.SessionResponse {
	d = proto.CloneOf(d)
	d.SessionEpoch = s.epoch
	return &agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_Deliver{Deliver: d}}
}

func (s *session) cancel(invocation string) *agentplanev1.SessionResponse {
	return &agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_Cancel{Cancel: &agentplanev1.CancelAttempt{
		InvocationId: invocation, Attempt: 1, SessionEpoch: s.epoch,
	}}}
}

func (s *session) keep(invocation, by string) *agentplanev1.SessionResponse {
	return &agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_Keep{Keep: &agentplanev1.KeepAttempt{
		InvocationId: invocation, Attempt: 1, SessionEpoch: s.epoch, By: by,
	}}}
}

// Session serves one agent until its stream ends.
func (h sessions) Session(stream grpc.BidiStreamingServer[agentplanev1.SessionRequest, agentplanev1.SessionResponse]) error {
	c := h.node.cluster
	who, err := h.node.caller(stream.Context())
	if err != nil || who.Anonymous() || who.RenewOnly() {
		return refusal(codes.Unauthenticated, "renew", "the certificate is good for Renew only")
	}
	c.mu.Lock()
	m := c.agents[who.ID.Name]
	registered := m != nil && m.key.Equal(who.Key)
	c.mu.Unlock()
	if !registered {
		return refusal(codes.PermissionDenied, "not_registered", "this key is not registered")
	}
	s, err := h.open(stream, m)
	if s == nil {
		return err
	}
	stop := make(chan struct{})
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for {
			select {
			case out := <-s.queue:
				if stream.Send(out) != nil {
					return
				}
			case <-stop:
				return
			case <-stream.Context().Done():
				return
			}
		}
	}()
	defer func() {
		close(stop)
		<-sent
		c.mu.Lock()
		if m.session == s {
			m.session = nil
		}
		c.changedLocked()
		c.mu.Unlock()
	}()
	over := make(chan struct{})
	go func() {
		defer close(over)
		for {
			in, err := stream.Recv() // ends with the handler
			if err != nil || s.take(in) {
				return
			}
		}
	}()
	select {
	case <-over:
		return nil
	case <-s.end:
		return refusal(codes.PermissionDenied, "not_registered", "this key is not registered any more")
	}
}

func (h sessions) open(stream grpc.BidiStreamingServer[agentplanev1.SessionRequest, agentplanev1.SessionResponse], m *member) (*session, error) {
	c := h.node.cluster
	c.mu.Lock()
	challenge := &agentplanev1.Challenge{SessionEpoch: m.epoch, ClusterId: c.ID, Incarnation: c.bundle.GetIncarnation()}
	leaderless := c.leaderless
	c.mu.Unlock()
	if leaderless {
		return nil, stream.Send(&agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_Refused{Refused: &agentplanev1.Refused{Reason: "not_ready", Detail: "this node has no contact with a leader"}}})
	}
	if err := stream.Send(&agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_Challenge{Challenge: challenge}}); err != nil {
		return nil, err
	}
	for {
		in, err := stream.Recv()
		if err != nil {
			return nil, err
		}
		hello := in.GetHello()
		if hello == nil {
			return nil, refusal(codes.InvalidArgument, "no_hello", "a session begins with hello")
		}
		c.mu.Lock()
		m.hellos = append(m.hellos, hello)
		refuse := c.refuse
		c.changedLocked()
		c.mu.Unlock()
		var refused *agentplanev1.Refused
		if refuse != nil {
			refused = refuse(hello)
		}
		c.mu.Lock()
		if refused == nil && hello.GetSeenEpoch() != m.epoch {
			refused = &agentplanev1.Refused{Reason: "superseded", SessionEpoch: m.epoch, Again: true}
		}
		if refused == nil {
			m.epoch++
			s := &session{node: h.node, member: m, epoch: m.epoch, queue: make(chan *agentplanev1.SessionResponse, 4096), end: make(chan struct{})}
			welcome := &agentplanev1.Welcome{
				ClusterId: c.ID, Incarnation: c.bundle.GetIncarnation(), NodeId: h.node.ID, SessionEpoch: m.epoch, Now: time.Now().UnixNano(),
				Bundle: c.bundle, HeartbeatIntervalMs: 200, HeartbeatMisses: 3, BackoffCapMs: 1000, WantFacts: !bytes.Equal(hello.GetFactsHash(), m.hash),
			}
			c.mu.Unlock()
			for _, r := range hello.GetOpen() {
				s.report(r)
			}
			return s, stream.Send(&agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_Welcome{Welcome: welcome}})
		}
		c.mu.Unlock()
		if err := stream.Send(&agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_Refused{Refused: refused}}); err != nil {
			return nil, err
		}
		if !refused.GetAgain() {
			return nil, nil
		}
	}
}

// take handles what the agent says, and reports whether that was goodbye.
func (s *session) take(in *agentplanev1.SessionRequest) bool {
	c := s.node.cluster
	switch m := in.GetMessage().(type) {
	case *agentplanev1.SessionRequest_Ready:
		c.mu.Lock()
		s.member.session = s
		for _, id := range sortedKeys(c.claims) {
			if cl := c.claims[id]; cl.agentID == s.member.id && cl.final == nil && cl.deliver != nil {
				s.send(s.delivery(cl.deliver))
				if cl.canceled {
					s.send(s.cancel(id))
				}
			}
		}
		c.changedLocked()
		c.mu.Unlock()
	case *agentplanev1.SessionRequest_Heartbeat:
		c.mu.Lock()
		s.member.beats++
		frozen := c.frozen
		c.changedLocked()
		c.mu.Unlock()
		if !frozen {
			s.send(&agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_HeartbeatAck{HeartbeatAck: &agentplanev1.HeartbeatAck{Seq: m.Heartbeat.GetSeq(), Now: time.Now().UnixNano()}}})
		}
	case *agentplanev1.SessionRequest_Report:
		s.report(m.Report)
	case *agentplanev1.SessionRequest_Facts:
		c.mu.Lock()
		s.member.facts, s.member.hash = m.Facts.GetFacts(), m.Facts.GetHash()
		c.changedLocked()
		c.mu.Unlock()
	case *agentplanev1.SessionRequest_Goodbye:
		c.mu.Lock()
		s.member.goodbye = m.Goodbye
		c.changedLocked()
		c.mu.Unlock()
		return true
	}
	return false
}

func (s *session) report(r *agentplanev1.Report) {
	c := s.node.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	cl := c.claims[r.GetInvocationId()]
	if cl == nil {
		cl = &claim{agentID: s.member.id}
		c.claims[r.GetInvocationId()] = cl
	}
	cl.reports = append(cl.reports, r)
	if cl.final == nil && r.GetState() >= agentplanev1.AttemptState_ATTEMPT_STATE_LOST {
		cl.final = r
	}
	if !c.unconfirmed {
		cl.confirms++
		s.send(&agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_Confirm{Confirm: &agentplanev1.Confirm{
			InvocationId: r.GetInvocationId(), Attempt: r.GetAttempt(), JournalSeq: r.GetJournalSeq(),
		}}})
	}
	c.changedLocked()
}

func sortedKeys(m map[string]*claim) []string {
	var all []string
	for k := range m {
		all = append(all, k)
	}
	slices.Sort(all)
	return all
}
