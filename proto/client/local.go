package client

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// LocalSocket is the name of the node's own socket in its data directory.
const LocalSocket = "admin.sock"

// maxSocketPath is the longest path that a Unix socket address holds.
const maxSocketPath = 107

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
