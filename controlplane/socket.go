package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"
	grpcpeer "google.golang.org/grpc/peer"

	"github.com/agentplane/agentplane/controlplane/authz"
	"github.com/agentplane/agentplane/controlplane/datadir"
)

// socketName is the local socket in the data directory.
const socketName = "admin.sock"

// listenSocket binds the local socket. An old one is of a dead process: the lock of
// the directory is ours.
func listenSocket(dir *datadir.Dir) (net.Listener, error) {
	path := dir.SocketPath(socketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove the old local socket: %w", err)
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on the local socket %q: %w", dir.Path(socketName), err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = ln.Close()
		return nil, fmt.Errorf("protect the local socket: %w", err)
	}
	return ln, nil
}

// socketInfo is what gRPC knows of a connection of the socket.
type socketInfo struct {
	credentials.CommonAuthInfo
	uid uint32
}

// AuthType is gRPC's.
func (socketInfo) AuthType() string { return "agentplane-local" }

// socketCredentials lets in the owner of the node's process, and root.
type socketCredentials struct{}

func (socketCredentials) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, ok := c.(syscall.Conn)
	if !ok {
		return nil, nil, fmt.Errorf("local socket: connection of type %T", c)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, nil, fmt.Errorf("local socket: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, nil, fmt.Errorf("local socket: %w", err)
	}
	if credErr != nil {
		return nil, nil, fmt.Errorf("local socket: ask who connects: %w", credErr)
	}
	if cred.Uid != 0 && cred.Uid != uint32(os.Geteuid()) {
		return nil, nil, fmt.Errorf("local socket: user %d is neither the owner nor root", cred.Uid)
	}
	return c, socketInfo{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, uid: cred.Uid}, nil
}

func (socketCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("local socket: these credentials are for servers")
}

func (socketCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "local"}
}

func (c socketCredentials) Clone() credentials.TransportCredentials { return c }

func (socketCredentials) OverrideServerName(string) error { return nil }

// socketCaller identifies whoever came over the socket.
func socketCaller(ctx context.Context) (authz.Caller, error) {
	p, ok := grpcpeer.FromContext(ctx)
	if !ok {
		return authz.Caller{}, errors.New("there is no connection")
	}
	info, ok := p.AuthInfo.(socketInfo)
	if !ok {
		return authz.Caller{}, errors.New("the call did not come over the local socket")
	}
	return authz.Caller{Kind: "local", Name: fmt.Sprintf("uid %d", info.uid), From: "local socket"}, nil
}
