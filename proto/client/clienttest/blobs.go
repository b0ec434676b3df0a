package clienttest

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/blob"
)

type blobService struct {
	agentplanev1.UnimplementedBlobServiceServer
	service
}

// Blob returns what was uploaded under the SHA-256.
func (s *State) Blob(sha256 string) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, found := s.blobs[sha256]
	return b, found
}

// DropBlobs forgets all that was uploaded.
func (s *State) DropBlobs() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.blobs)
}

// broughtLocked refuses a command that names what was not uploaded.
func (s *State) broughtLocked(spec *agentplanev1.CommandSpec) error {
	refs, err := blob.CheckBrought(spec)
	if err != nil {
		return Refusal(codes.InvalidArgument, "files", err.Error(), "")
	}
	for _, r := range refs {
		if _, found := s.blobs[r.Sum]; !found {
			return Refusal(codes.FailedPrecondition, "no_blob", "the command names blob "+r.String()+", which the cluster does not keep", "")
		}
	}
	return nil
}

// missingLocked lists what a command names and was not uploaded.
func (s *State) missingLocked(spec *agentplanev1.CommandSpec) (missing []*agentplanev1.Blob) {
	refs, _ := blob.CheckBrought(spec)
	for _, r := range refs {
		if _, found := s.blobs[r.Sum]; !found {
			missing = append(missing, r.Proto())
		}
	}
	return missing
}

func (b blobService) FindBlobs(_ context.Context, req *agentplanev1.FindBlobsRequest) (*agentplanev1.FindBlobsResponse, error) {
	answer := &agentplanev1.FindBlobsResponse{}
	for _, x := range req.Blobs {
		if _, found := b.state.Blob(x.Sha256); !found {
			answer.Missing = append(answer.Missing, x)
		}
	}
	return answer, nil
}

func (b blobService) UploadBlob(stream grpc.ClientStreamingServer[agentplanev1.UploadBlobRequest, agentplanev1.UploadBlobResponse]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	ref, err := blob.FromProto(first.Blob)
	if err != nil {
		return Refusal(codes.InvalidArgument, "bad_blob", err.Error(), "")
	}
	check, content := blob.NewCheck(ref), []byte{}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		content = append(content, m.Data...)
		if err := check.Add(m.Data); err != nil {
			return Refusal(codes.InvalidArgument, "blob_mismatch", err.Error(), "")
		}
	}
	if err := check.Done(); err != nil {
		return Refusal(codes.InvalidArgument, "blob_mismatch", err.Error(), "")
	}
	b.state.mu.Lock()
	defer b.state.mu.Unlock()
	b.state.blobs[ref.Sum] = content
	return stream.SendAndClose(&agentplanev1.UploadBlobResponse{})
}
