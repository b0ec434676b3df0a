package depot

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/blob"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

// UploadBlob takes a blob from a client; see the package comment.
func (s *Service) UploadBlob(stream grpc.ClientStreamingServer[agentplanev1.UploadBlobRequest, agentplanev1.UploadBlobResponse]) error {
	ctx, cancel := context.WithTimeout(stream.Context(), uploadFor)
	defer cancel()
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	r, err := refOf(first.GetBlob())
	if err != nil {
		return err
	}
	v, err := s.o.Read(ctx, false) // without a quorum nothing would come of it
	if err != nil {
		return err
	}
	if kept(v, r) {
		return stream.SendAndClose(&agentplanev1.UploadBlobResponse{Repeated: true})
	}
	if n, bytes, fits := v.RoomForBlob(uint64(r.Size), uint64(s.o.MaxBytes), uint32(s.o.MaxBlobs)); !fits {
		return s.noRoom(r, n, bytes)
	}
	waiting, stop := context.WithTimeout(ctx, queueFor)
	err = s.uploads.Acquire(waiting, 1)
	stop()
	if err != nil {
		return agentplanev1.Refusal(codes.Unavailable, &agentplanev1.ErrorDetail{Reason: "busy", RetryAfterMs: 500},
			"%d uploads have come in here for %v", uploadsAtOnce, queueFor)
	}
	defer s.uploads.Release(1)
	if err := s.o.Store.Put(ctx, r, incoming(ctx, func() ([]byte, error) {
		m, err := stream.Recv()
		return m.GetData(), err
	})); err != nil {
		return putRefusal(err)
	}
	nodes, err := s.copy(ctx, r, []string{s.o.NodeID})
	if err != nil {
		return err
	}
	o, err := s.record(ctx, r, nodes)
	if err != nil {
		return err
	}
	s.log.Info("blob kept", "sha256", r.Sum, "bytes", r.Size, "node_ids", nodes)
	return stream.SendAndClose(&agentplanev1.UploadBlobResponse{Repeated: o.GetRepeated()})
}

func (s *Service) noRoom(r blob.Ref, n int, bytes uint64) error {
	return refusalHint(codes.ResourceExhausted, fsm.BlobQuota,
		"wait until commands that need them have ended, or let an administrator raise files.store_bytes and files.store_count",
		"there is no room for %d bytes: the cluster keeps %d blobs with %d bytes for commands that are not done or have just come; at most %d with %d bytes are allowed",
		r.Size, n, bytes, s.o.MaxBlobs, s.o.MaxBytes)
}

// record has the state say who keeps the blob.
func (s *Service) record(ctx context.Context, r blob.Ref, nodes []string) (*raftlogv1.Outcome, error) {
	nodes = slices.Sorted(slices.Values(nodes))
	outcomes, err := s.o.Proposer.Propose(ctx, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_RecordBlob{RecordBlob: &raftlogv1.RecordBlob{
		NodeId: s.o.NodeID, Blob: &raftlogv1.BlobRef{Sha256: r.Sum, Size: uint64(r.Size)}, NodeIds: nodes,
		MaxBytes: uint64(s.o.MaxBytes), MaxBlobs: uint32(s.o.MaxBlobs),
	}}})
	if err != nil || len(outcomes) != 1 {
		// It may have been recorded all the same: that is what the next try finds then.
		return nil, refusalHint(codes.Unavailable, "not_recorded", `a majority of the voters must be up; see "agentctl cluster status --why"`,
			"the blob is on enough disks, but was not recorded: %v", err)
	}
	switch o := outcomes[0]; {
	case o.GetCode() == raftlogv1.Code_CODE_OK:
		return o, nil
	case o.GetReason() == fsm.BlobQuota:
		n, bytes, _ := s.o.Machine.View().RoomForBlob(uint64(r.Size), uint64(s.o.MaxBytes), uint32(s.o.MaxBlobs))
		return nil, s.noRoom(r, n, bytes)
	default: // a node that was just removed, or a leader that was deposed: once more
		return nil, refusal(codes.Unavailable, "not_recorded", "the blob was not recorded: %s", o.GetDetail())
	}
}

// incoming gives what recv does, until ctx ends, as it does with the handler at the latest:
// recv itself ends only when the handler has returned, however slow the other side is.
func incoming(ctx context.Context, recv func() ([]byte, error)) func() ([]byte, error) {
	type part struct {
		data []byte
		err  error
	}
	parts := make(chan part) // from the receiver to whoever calls; never closed
	go func() {
		for {
			b, err := recv()
			select {
			case parts <- part{b, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return func() ([]byte, error) {
		select {
		case p := <-parts:
			return p.data, p.err
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// copy brings the blob to further nodes until enough have it, and answers which: have are
// those that do already.
func (s *Service) copy(ctx context.Context, r blob.Ref, have []string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, copyFor)
	defer cancel()
	voters := len(s.o.Voters())
	need := neededOf(voters) - len(have)
	if voters == 0 {
		return nil, refusal(codes.Unavailable, "no_voters", "this node does not know the voters yet")
	}
	type result struct {
		node string
		err  error
	}
	done := make(chan result)
	rest, running := s.candidates(r, have), 0
	defer func() {
		cancel()
		for ; running > 0; running-- {
			<-done
		}
	}()
	var last error
	for need > 0 {
		for running < need && len(rest) > 0 {
			node := rest[0]
			rest, running = rest[1:], running+1
			go func() { done <- result{node, s.push(ctx, node, r)} }()
		}
		if running == 0 {
			return nil, refusalHint(codes.Unavailable, "not_copied", `see "agentctl cluster status --why"`,
				"%d of %d voters must have the blob on their disks, %d have: %v", neededOf(voters), voters, len(have), last)
		}
		x := <-done
		running--
		if x.err != nil {
			s.log.Warn("a node takes no copy of a blob; another one is looked for", "peer", x.node, "sha256", r.Sum, "err", x.err)
			last = x.err
			continue
		}
		have = append(have, x.node)
		need--
	}
	return have, nil
}

// candidates lists the other nodes that are linked, voters before others, without those
// that have the blob.
func (s *Service) candidates(r blob.Ref, have []string) []string {
	voters, linked := s.o.Voters(), s.o.Peers.Linked()
	var first, rest []string
	for n := range s.o.Machine.View().RegisteredNodes() {
		id := n.GetId()
		if _, there := linked[id]; !there || id == s.o.NodeID || slices.Contains(have, id) {
			continue
		}
		if slices.Contains(voters, id) {
			first = append(first, id)
		} else {
			rest = append(rest, id)
		}
	}
	// Not always the same two of five.
	turn(first, r)
	turn(rest, r)
	return append(first, rest...)
}

// turn begins the list at a place that the blob chooses.
func turn(ids []string, r blob.Ref) {
	if n := len(ids); n > 0 {
		k := int(r.Sum[0]+r.Sum[1]) % n
		slices.Reverse(ids[:k])
		slices.Reverse(ids[k:])
		slices.Reverse(ids)
	}
}

// push copies the blob to one node.
func (s *Service) push(ctx context.Context, node string, r blob.Ref) error {
	peer, err := s.o.Peers.Client(node)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // frees the stream
	stream, err := peer.StoreBlob(ctx)
	if err != nil {
		return err
	}
	err = stream.Send(&agentplanev1.StoreBlobRequest{Blob: r.Proto()})
	if err == nil {
		err = s.o.Store.Send(r, func(b []byte) error { return stream.Send(&agentplanev1.StoreBlobRequest{Data: b}) })
	}
	if err != nil && !isEOF(err) { // an end of file says that the peer has answered already
		return err
	}
	_, err = stream.CloseAndRecv()
	return err
}

// StoreBlob takes a copy from another node.
func (s *Service) StoreBlob(stream grpc.ClientStreamingServer[agentplanev1.StoreBlobRequest, agentplanev1.StoreBlobResponse]) error {
	ctx, cancel := context.WithTimeout(stream.Context(), copyFor+5*time.Second)
	defer cancel()
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	r, err := refOf(first.GetBlob())
	if err != nil {
		return err
	}
	if err := s.o.Store.Put(ctx, r, incoming(ctx, func() ([]byte, error) {
		m, err := stream.Recv()
		return m.GetData(), err
	})); err != nil {
		return putRefusal(err)
	}
	return stream.SendAndClose(&agentplanev1.StoreBlobResponse{})
}
