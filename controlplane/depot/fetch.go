package depot

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/blob"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

func isEOF(err error) bool { return errors.Is(err, io.EOF) }

// FetchBlob sends an agent what a command names of which it has claimed the attempt.
func (s *Service) FetchBlob(req *agentplanev1.FetchBlobRequest, stream grpc.ServerStreamingServer[agentplanev1.FetchBlobResponse]) error {
	ctx := stream.Context()
	r, err := refOf(req.GetBlob())
	if err != nil {
		return err
	}
	if err := s.mayFetch(s.o.Agent(ctx), req, r); err != nil {
		return err
	}
	if err := s.fetches.Acquire(ctx, 1); err != nil {
		return err
	}
	defer s.fetches.Release(1)
	if err := s.obtain(ctx, r); err != nil {
		return err
	}
	// Sending waits for an agent that does not receive, and ends when the handler returns.
	sent, late := make(chan error, 1), time.NewTimer(sendFor)
	defer late.Stop()
	go func() {
		sent <- s.send(r, func(b []byte) error { return stream.Send(&agentplanev1.FetchBlobResponse{Data: b}) })
	}()
	select {
	case err := <-sent:
		return err
	case <-late.C:
		return refusal(codes.Unavailable, "slow", "blob %s was not received within %v", r, sendFor)
	}
}

// mayFetch refuses what the agent has not claimed. Its claim stands in the state of the node
// that sent it.
func (s *Service) mayFetch(agent string, req *agentplanev1.FetchBlobRequest, r blob.Ref) error {
	v := s.o.Machine.View()
	row, found := v.Invocation(req.GetInvocationId())
	state := row.GetState()
	command, _ := v.Command(row.GetCommandId())
	switch {
	case !found || row.GetAgentId() != agent || row.GetAttempt() != req.GetAttempt(),
		state != raftlogv1.AttemptState_ATTEMPT_STATE_CLAIMED && state != raftlogv1.AttemptState_ATTEMPT_STATE_RUNNING:
		return refusal(codes.PermissionDenied, "not_claimed", "invocation %.128q attempt %d is not one that agent %q has claimed and not ended", req.GetInvocationId(), req.GetAttempt(), agent)
	case !slices.Contains(command.GetBlobs(), r.Sum):
		return refusal(codes.PermissionDenied, "not_named", "command %q does not name blob %s", row.GetCommandId(), r)
	}
	return nil
}

// send gives what is on this node's disk.
func (s *Service) send(r blob.Ref, send func([]byte) error) error {
	err := s.o.Store.Send(r, send)
	if errors.Is(err, ErrAbsent) {
		s.log.Warn("a blob was spoilt on this node's disk, or is gone", "sha256", r.Sum, "err", err)
		return refusal(codes.Unavailable, "blob_absent", "%v", err) // the next try gets it elsewhere
	}
	return err
}

// obtain sees to it that the blob is on this node's disk. Those who ask at once share one
// answer.
func (s *Service) obtain(ctx context.Context, r blob.Ref) error {
	if s.o.Store.Has(r) {
		return nil
	}
	answer := s.flight.DoChan(r.Sum, func() (any, error) {
		// Whoever asked first may leave; the others want it all the same.
		within, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchFor)
		defer cancel()
		return nil, s.get(within, r)
	})
	select {
	case x := <-answer:
		return x.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// get asks the other nodes for a blob, those first that are said to keep it.
func (s *Service) get(ctx context.Context, r blob.Ref) error {
	v := s.o.Machine.View()
	row, _ := v.Blob(r.Sum)
	linked, ids := s.o.Peers.Linked(), s.left(v, row)
	for n := range v.RegisteredNodes() {
		if !slices.Contains(ids, n.GetId()) {
			ids = append(ids, n.GetId())
		}
	}
	ids = slices.DeleteFunc(ids, func(id string) bool { return id == s.o.NodeID })
	sure := true // everybody has said that he has none
	for _, id := range ids {
		if _, there := linked[id]; !there {
			sure = false
			continue
		}
		err := s.pull(ctx, id, r)
		if err == nil {
			return nil
		}
		s.log.Debug("blob not gotten", "peer", id, "sha256", r.Sum, "err", err)
		sure = sure && agentplanev1.DetailOf(err).GetReason() == "no_blob"
		if ctx.Err() != nil {
			break
		}
	}
	if sure {
		return refusal(codes.NotFound, "no_blob", "no node has blob %s", r)
	}
	return refusal(codes.Unavailable, "blob_absent", "no node that is reached now has blob %s", r)
}

// pull gets a blob from one node.
func (s *Service) pull(ctx context.Context, node string, r blob.Ref) error {
	peer, err := s.o.Peers.Client(node)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // frees the stream
	stream, err := peer.ReadBlob(ctx, &agentplanev1.ReadBlobRequest{Blob: r.Proto()})
	if err != nil {
		return err
	}
	return s.o.Store.Put(ctx, r, func() ([]byte, error) {
		m, err := stream.Recv()
		return m.GetData(), err
	})
}

// ReadBlob sends another node what is on this one's disk.
func (s *Service) ReadBlob(req *agentplanev1.ReadBlobRequest, stream grpc.ServerStreamingServer[agentplanev1.ReadBlobResponse]) error {
	r, err := refOf(req.GetBlob())
	if err != nil {
		return err
	}
	if !s.o.Store.Has(r) {
		return refusal(codes.NotFound, "no_blob", "node %s does not have blob %s", s.o.NodeID, r)
	}
	return s.send(r, func(b []byte) error { return stream.Send(&agentplanev1.ReadBlobResponse{Data: b}) })
}
