package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// LocalSocket is the name of the node's own socket in its data directory.
const LocalSocket = "admin.sock"

// maxSocketPath is the longest path that a Unix socket address holds.
const maxSocketPath = 107

// Local is the node on this machine, reached over its own socket. Its errors are as grpc
// has them; AsError reads them.
type Local struct{ cc *grpc.ClientConn }

// OpenLocal reaches the node that runs on the data directory; the caller closes it.
func OpenLocal(ctx context.Context, dataDir string) (*Local, error) {
	cc, err := DialLocal(ctx, dataDir)
	if err != nil {
		return nil, err
	}
	return &Local{cc}, nil
}

// Close ends the connection.
func (l *Local) Close() error { return l.cc.Close() }

// LocalStatus returns what the node says of itself, also without a cluster.
func (l *Local) LocalStatus(ctx context.Context) (*agentplanev1.LocalStatusResponse, error) {
	return agentplanev1.NewLocalServiceClient(l.cc).LocalStatus(ctx, &agentplanev1.LocalStatusRequest{})
}

// MakeAdmin is MakeAdmin over the socket.
func (l *Local) MakeAdmin(ctx context.Context, clusterID, name string) (*Admin, error) {
	return MakeAdmin(ctx, agentplanev1.NewLocalServiceClient(l.cc), clusterID, name)
}

// Join makes the node a member of a cluster, and calls each with every step. A nil error
// says that the node ended the stream; the step with Done is the last one of a join that
// is through.
func (l *Local) Join(ctx context.Context, req *agentplanev1.JoinRequest, each func(*agentplanev1.JoinResponse)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // frees the stream
	stream, err := agentplanev1.NewLocalServiceClient(l.cc).Join(ctx, req)
	if err != nil {
		return err
	}
	for {
		r, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		each(r)
	}
}

// Status returns how the cluster is as the node knows it. age is how long ago the node
// had heard of a leader, as LeaderAge.
func (l *Local) Status(ctx context.Context, opts ...ReadOption) (r *agentplanev1.StatusResponse, age time.Duration, known bool, err error) {
	var trailer metadata.MD
	r, err = agentplanev1.NewClusterServiceClient(l.cc).Status(ctx, &agentplanev1.StatusRequest{Stale: readOf(opts).stale}, grpc.Trailer(&trailer))
	age, known = LeaderAgeOf(trailer)
	return r, age, known, err
}

// DialLocal connects to the socket of the node that runs on the data directory.
// The node knows the caller by the socket's peer user; there is no TLS, and no
// keepalive: the kernel says when the other side is gone. The caller closes the
// connection.
func DialLocal(ctx context.Context, dataDir string) (*grpc.ClientConn, error) {
	c, err := dialSocket(ctx, dataDir)
	if err != nil {
		return nil, fmt.Errorf("reach the node of %q: %w", dataDir, err)
	}
	cc, err := over(c, "local", insecure.NewCredentials())
	if err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("reach the node of %q: %w", dataDir, err)
	}
	return cc, nil
}

// dialSocket goes through the opened directory where the path is too long for a
// socket address.
func dialSocket(ctx context.Context, dataDir string) (net.Conn, error) {
	path := filepath.Join(dataDir, LocalSocket)
	if len(path) > maxSocketPath {
		dir, err := os.Open(dataDir)
		if err != nil {
			return nil, err
		}
		defer dir.Close()
		path = filepath.Join("/proc/self/fd", strconv.Itoa(int(dir.Fd())), LocalSocket)
	}
	return (&net.Dialer{}).DialContext(ctx, "unix", path)
}
