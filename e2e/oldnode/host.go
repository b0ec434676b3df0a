package oldnode

import (
	"errors"
	"net"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/identity"
)

// Host answers agents at a node's address, with the node's key, as it would in an earlier life
// of the cluster: it welcomes whoever says hello, or says what its caller makes it.
type Host struct {
	agentplanev1.UnimplementedAgentServiceServer
	caller *Caller
	server *grpc.Server
	ended  chan error

	mu     sync.Mutex // guards what follows
	came   int
	hellos []string // agents that took it for a node of theirs
}

// Serve begins to answer on the listener.
func (c *Caller) Serve(l net.Listener) (*Host, error) {
	leaf, err := c.leaf()
	if err != nil {
		return nil, err
	}
	verifier, err := identity.NewVerifier(c.Boot.Bundle, nil)
	if err != nil {
		return nil, err
	}
	h := &Host{caller: c, ended: make(chan error, 1), server: grpc.NewServer(
		grpc.Creds(credentials.NewTLS(verifier.ServerConfig(leaf.GetCertificate))),
		grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error {
			return status.Error(codes.Unavailable, "this node has no leader") // as one has that is alone
		}),
	)}
	agentplanev1.RegisterAgentServiceServer(h.server, h)
	go func() { h.ended <- h.server.Serve(l) }()
	return h, nil
}

// Close ends it. It answers how many sessions agents began to open, and which agents went on
// with one.
func (h *Host) Close() (came int, hellos []string, err error) {
	h.server.Stop()
	if err = <-h.ended; errors.Is(err, grpc.ErrServerStopped) {
		err = nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.came, h.hellos, err
}

// Session shows the agent in which incarnation it lives, and welcomes it all the same.
func (h *Host) Session(s grpc.BidiStreamingServer[agentplanev1.SessionRequest, agentplanev1.SessionResponse]) error {
	h.mu.Lock()
	h.came++
	h.mu.Unlock()
	cluster, incarnation := h.caller.Boot.Bundle.ClusterID, &agentplanev1.Incarnation{Number: h.caller.Number, Id: h.caller.ID}
	err := s.Send(&agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_Challenge{Challenge: &agentplanev1.Challenge{
		SessionEpoch: farEpoch, ClusterId: cluster, Incarnation: incarnation,
	}}})
	for err == nil {
		var in *agentplanev1.SessionRequest
		if in, err = s.Recv(); in.GetHello() == nil {
			continue
		}
		h.mu.Lock()
		h.hellos = append(h.hellos, in.GetHello().GetAgentId())
		h.mu.Unlock()
		if h.caller.Answer == nil {
			err = s.Send(h.caller.Welcome(farEpoch+1, 0))
			continue
		}
		for _, out := range h.caller.Answer(in.GetHello()) {
			err = errors.Join(err, s.Send(out))
		}
	}
	return err
}

// Welcome grants a session, at a time of the cluster.
func (c *Caller) Welcome(epoch uint64, now int64) *agentplanev1.SessionResponse {
	return &agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_Welcome{Welcome: &agentplanev1.Welcome{
		ClusterId: c.Boot.Bundle.ClusterID, Incarnation: &agentplanev1.Incarnation{Number: c.Number, Id: c.ID}, NodeId: c.From,
		SessionEpoch: epoch, Now: now, HeartbeatIntervalMs: 500, HeartbeatMisses: 3,
	}}}
}
