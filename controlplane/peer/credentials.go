package peer

import (
	"context"
	"errors"
	"net"

	"google.golang.org/grpc/credentials"
	grpcpeer "google.golang.org/grpc/peer"

	"github.com/agentplane/agentplane/proto/identity"
)

// AuthInfo is what gRPC knows of a connection of the port.
type AuthInfo struct {
	credentials.CommonAuthInfo
	Peer identity.Peer
	// From is the address of the other side.
	From string
}

// AuthType is gRPC's.
func (AuthInfo) AuthType() string { return "agentplane-tls" }

// Caller returns who made the call that ctx belongs to, as the handshake proved
// it; false when it did not come through the port.
func Caller(ctx context.Context) (identity.Peer, bool) {
	info, ok := connection(ctx)
	return info.Peer, ok
}

// From returns the address from which the call came; "" when it did not come through
// the port.
func From(ctx context.Context) string {
	info, _ := connection(ctx)
	return info.From
}

func connection(ctx context.Context) (AuthInfo, bool) {
	p, ok := grpcpeer.FromContext(ctx)
	if !ok {
		return AuthInfo{}, false
	}
	info, ok := p.AuthInfo.(AuthInfo)
	return info, ok
}

// ServerCredentials are for a gRPC server on the port: the handshake is done, and
// only its result is passed on.
func ServerCredentials() credentials.TransportCredentials { return finished{} }

type finished struct{}

func (finished) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, ok := c.(*Conn)
	if !ok {
		return nil, nil, errors.New("peer: the connection did not come through the port")
	}
	return conn, AuthInfo{
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
		Peer:           conn.Peer,
		From:           conn.RemoteAddr().String(), // once, and not for each call
	}, nil
}

func (finished) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("peer: these credentials are for servers")
}

func (finished) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

func (f finished) Clone() credentials.TransportCredentials { return f }

func (finished) OverrideServerName(string) error { return nil }
