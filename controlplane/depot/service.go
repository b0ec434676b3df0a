package depot

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"
	"google.golang.org/grpc/codes"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/blob"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

const (
	// uploadsAtOnce and fetchesAtOnce bound what one node takes and sends at once.
	uploadsAtOnce = 8
	fetchesAtOnce = 64
	// uploadFor bounds an upload from its first message to its answer, queueFor the wait for
	// its turn and copyFor the copies among that; fetchFor what is asked of other nodes for an
	// agent, and sendFor how long an agent may take to receive.
	uploadFor = 2 * time.Minute
	queueFor  = 20 * time.Second
	copyFor   = 30 * time.Second
	fetchFor  = 30 * time.Second
	sendFor   = 5 * time.Minute
	// maxFound bounds what one call asks about.
	maxFound = 256
)

// Proposer puts mutations into the log through whoever leads, and answers one outcome for
// each.
type Proposer interface {
	Propose(ctx context.Context, mutations ...*raftlogv1.Mutation) ([]*raftlogv1.Outcome, error)
}

// Peers are the connections to other nodes.
type Peers interface {
	Client(nodeID string) (agentplanev1.PeerServiceClient, error)
	// Linked answers to which nodes a connection is open.
	Linked() map[string]time.Time
}

// Options configure a Service. All fields but the last ones are required.
type Options struct {
	NodeID   string
	Store    *Store
	Machine  *fsm.Machine
	Proposer Proposer
	Peers    Peers
	// Voters are the ids of the cluster's voters.
	Voters func() []string
	// Read answers a state that holds everything acknowledged before the call. Its error is
	// a refusal.
	Read func(ctx context.Context, stale bool) (*fsm.View, error)
	// Agent is who calls [Service.FetchBlob].
	Agent func(ctx context.Context) string

	// MaxBytes and MaxBlobs bound what all rows name; 1 GiB and 4096.
	MaxBytes int64
	MaxBlobs int
	// Now is the cluster's time as this node knows it, also when no entry has moved it for
	// long; the state's own when nil.
	Now func() time.Time
	// Keep is how long a blob stays that no command names any more; 24 h.
	Keep time.Duration
	// SweepEvery is how often all files are looked at, and SettledFor how long one is left
	// alone after it has come; a minute and ten.
	SweepEvery, SettledFor time.Duration
	Logger                 hclog.Logger
}

// Service takes uploads, copies them, and gives them to agents. Its methods may be called
// at once.
type Service struct {
	agentplanev1.UnimplementedBlobServiceServer
	o       Options
	log     hclog.Logger
	uploads *semaphore.Weighted
	fetches *semaphore.Weighted
	flight  singleflight.Group // of what is gotten from other nodes
}

// New returns a Service. It touches nothing outside.
func New(o Options) (*Service, error) {
	switch {
	case o.NodeID == "":
		return nil, errors.New("depot: the node id is missing")
	case o.Store == nil || o.Machine == nil || o.Proposer == nil || o.Peers == nil || o.Voters == nil || o.Read == nil || o.Agent == nil:
		return nil, errors.New("depot: store, machine, proposer, peers, voters, read and agent are needed")
	}
	for _, d := range []struct {
		v *time.Duration
		n time.Duration
	}{{&o.Keep, 24 * time.Hour}, {&o.SweepEvery, time.Minute}, {&o.SettledFor, 10 * time.Minute}} {
		if *d.v == 0 {
			*d.v = d.n
		}
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = 1 << 30
	}
	if o.MaxBlobs == 0 {
		o.MaxBlobs = 4096
	}
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	return &Service{o: o, log: o.Logger, uploads: semaphore.NewWeighted(uploadsAtOnce), fetches: semaphore.NewWeighted(fetchesAtOnce)}, nil
}

// FindBlobs answers which of the blobs have no row.
func (s *Service) FindBlobs(ctx context.Context, req *agentplanev1.FindBlobsRequest) (*agentplanev1.FindBlobsResponse, error) {
	if n := len(req.GetBlobs()); n > maxFound {
		return nil, refusal(codes.InvalidArgument, "too_many", "%d blobs in one call, at most %d are allowed", n, maxFound)
	}
	v, err := s.o.Read(ctx, false)
	if err != nil {
		return nil, err
	}
	answer := &agentplanev1.FindBlobsResponse{}
	for _, b := range req.GetBlobs() {
		r, err := refOf(b)
		if err != nil {
			return nil, err
		}
		if !kept(v, r) {
			answer.Missing = append(answer.Missing, b)
		}
	}
	return answer, nil
}

// kept says whether the state has a row of the blob, with a node that is still there.
func kept(v *fsm.View, r blob.Ref) bool { return v.BlobKept(r.Sum, uint64(r.Size)) }

func refOf(b *agentplanev1.Blob) (blob.Ref, error) {
	r, err := blob.FromProto(b)
	if err != nil {
		return blob.Ref{}, refusal(codes.InvalidArgument, "bad_blob", "%v", err)
	}
	return r, nil
}

// refusals of what comes, by what the store says.
func putRefusal(err error) error {
	switch {
	case agentplanev1.DetailOf(err) != nil:
		return err
	case errors.Is(err, blob.ErrMismatch):
		return refusalHint(codes.InvalidArgument, "blob_mismatch", "it was changed while it was sent: run the command again", "%v", err)
	case errors.Is(err, ErrFull):
		return refusal(codes.Unavailable, "store_full", "%v", err) // another node may have room
	default:
		return refusal(codes.Unavailable, "store", "the blob was not kept: %v", err)
	}
}

func refusal(code codes.Code, reason, format string, args ...any) error {
	return refusalHint(code, reason, "", format, args...)
}

func refusalHint(code codes.Code, reason, hint, format string, args ...any) error {
	return agentplanev1.Refusal(code, &agentplanev1.ErrorDetail{Reason: reason, Hint: hint}, format, args...)
}
