package fleet

import (
	"context"
	"crypto/tls"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/agentplane/agentplane/agent/session"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/identity"
)

// opener opens sessions as one agent, each over a connection of its own. agentd uses
// proto/client, which adds a watch over each connection; the watchdog of the session is
// enough here, and buffers are small since there are a thousand of them.
type opener struct {
	trust *trust
	cert  *tls.Certificate
}

const bufferBytes = 4 << 10

// Open opens a stream to the very node.
func (o opener) Open(ctx context.Context, n session.Node) (session.Stream, func(), error) {
	cc, err := grpc.NewClient("passthrough:///"+n.Address,
		grpc.WithTransportCredentials(credentials.NewTLS(o.trust.judge.ClientConfig(identity.ProtocolGRPC, n.ID, client.Static(o.cert)))),
		grpc.WithReadBufferSize(bufferBytes), grpc.WithWriteBufferSize(bufferBytes),
		grpc.WithDisableServiceConfig(), grpc.WithIdleTimeout(0),
	)
	if err != nil {
		return nil, nil, err
	}
	s, err := agentplanev1.NewAgentServiceClient(cc).Session(ctx)
	if err != nil {
		_ = cc.Close()
		return nil, nil, err
	}
	return s, func() { _ = cc.Close() }, nil
}
