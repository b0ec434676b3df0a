package controlplane

import (
	"context"
	"fmt"
	"os"

	"google.golang.org/grpc"

	"github.com/agentplane/agentplane/controlplane/authz"
	"github.com/agentplane/agentplane/controlplane/depot"
	"github.com/agentplane/agentplane/controlplane/dispatch"
	"github.com/agentplane/agentplane/controlplane/operator"
	"github.com/agentplane/agentplane/controlplane/output"
	"github.com/agentplane/agentplane/controlplane/peer"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

const (
	outputDir = "output"
	// asideDir is where a store of output goes that cannot be opened, to be looked at.
	asideDir = "output-aside"
)

// openOutput opens what keeps output. A damaged store costs output, and not the node: it
// is put aside, and the copies are elsewhere.
func (m *member) openOutput() error {
	c := m.n.o.Config.Output
	log := m.logger.Named("output")
	o := output.StoreOptions{
		Dir: m.n.dir.Path(outputDir), MaxBytes: c.StoreBytes, MaxAttemptBytes: c.AttemptBytes, ReserveBytes: c.ReserveBytes, Logger: log,
	}
	if o.ReserveBytes == 0 {
		o.ReserveBytes = -1 // none, and not the default
	}
	var err error
	if m.outputs, err = output.OpenStore(o); err != nil {
		log.Error("the output on this node cannot be read and is put aside", "aside", m.n.dir.Path(asideDir), "err", err)
		if err := os.RemoveAll(m.n.dir.Path(asideDir)); err != nil {
			return err
		}
		if err := os.Rename(o.Dir, m.n.dir.Path(asideDir)); err != nil {
			return fmt.Errorf("put output aside: %w", err)
		}
		if m.outputs, err = output.OpenStore(o); err != nil {
			return err
		}
	}
	m.output, err = output.New(output.Options{
		NodeID: m.n.ID(), Store: m.outputs, Machine: m.state, Proposer: m.forwarder, Peers: m.pool, Voters: m.voters, Read: m.read,
		LeaderSeen: m.leaderSeen,
		Agent:      func(ctx context.Context) string { return authz.From(ctx).Name }, Logger: log,
	})
	return err
}

// agentAPI is the AgentService: sessions, output, and what commands bring along.
type agentAPI struct {
	*dispatch.Dispatcher
	output *output.Service
	depot  *depot.Service
}

func (a agentAPI) FetchBlob(req *agentplanev1.FetchBlobRequest, s grpc.ServerStreamingServer[agentplanev1.FetchBlobResponse]) error {
	return a.depot.FetchBlob(req, s)
}

func (a agentAPI) Output(s grpc.BidiStreamingServer[agentplanev1.OutputRequest, agentplanev1.OutputResponse]) error {
	return a.output.Output(s)
}

// commandAPI is the CommandService: commands and what their programs print.
type commandAPI struct {
	*operator.Commands
	output *output.Service
}

func (a commandAPI) Follow(req *agentplanev1.FollowRequest, s grpc.ServerStreamingServer[agentplanev1.FollowResponse]) error {
	return a.output.Follow(req, s)
}

// peerAPI is the PeerService.
type peerAPI struct {
	*peer.Service
	output *output.Service
	depot  *depot.Service
}

func (a peerAPI) Output(s grpc.BidiStreamingServer[agentplanev1.PeerServiceOutputRequest, agentplanev1.PeerServiceOutputResponse]) error {
	return a.output.PeerOutput(s)
}

func (a peerAPI) StoreOutput(s grpc.BidiStreamingServer[agentplanev1.StoreOutputRequest, agentplanev1.StoreOutputResponse]) error {
	return a.output.StoreOutput(s)
}

func (a peerAPI) StoreBlob(s grpc.ClientStreamingServer[agentplanev1.StoreBlobRequest, agentplanev1.StoreBlobResponse]) error {
	return a.depot.StoreBlob(s)
}

func (a peerAPI) ReadBlob(req *agentplanev1.ReadBlobRequest, s grpc.ServerStreamingServer[agentplanev1.ReadBlobResponse]) error {
	return a.depot.ReadBlob(req, s)
}
