package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
)

// wire is the TCP connection below TLS. It knows when the node was last heard.
type wire struct {
	net.Conn
	heard atomic.Int64 // nanoseconds since epoch
	epoch time.Time
	mu    sync.Mutex
	end   error // guarded by mu: what ended the reading
}

func (w *wire) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	if n > 0 {
		w.heard.Store(int64(time.Since(w.epoch)))
	}
	return n, err
}

// ended keeps the first error of the TLS layer.
func (w *wire) ended(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.end == nil {
		w.end = err
	}
}

func (w *wire) why() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.end
}

func (w *wire) lastHeard() time.Time { return w.epoch.Add(time.Duration(w.heard.Load())) }

// secured is the finished TLS connection as grpc gets it. With TLS 1.3 a server
// refuses a client's certificate only after the client's handshake has ended;
// the refusal is the first thing read.
type secured struct {
	*tls.Conn
	wire *wire
}

func (s secured) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	if err != nil {
		s.wire.ended(err)
	}
	return n, err
}

// finished hands grpc a connection whose handshake is over.
type finished struct{ state tls.ConnectionState }

func (f finished) ClientHandshake(_ context.Context, _ string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c, credentials.TLSInfo{
		State:          f.state,
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
	}, nil
}

func (f finished) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these credentials are a client's")
}

func (f finished) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

func (f finished) Clone() credentials.TransportCredentials { return f }
func (f finished) OverrideServerName(string) error         { return nil }

// dial returns a connection that has exchanged HTTP/2 settings, or says what is
// wrong with the node at the address.
func dial(ctx context.Context, connect Dial, address string, cfg *tls.Config) (*grpc.ClientConn, *wire, error) {
	raw, err := connect(ctx, "tcp", address)
	if err != nil {
		return nil, nil, explain(ctx, err)
	}
	w := &wire{Conn: raw, epoch: time.Now()}
	sec := tls.Client(w, cfg)
	if err := sec.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, nil, explain(ctx, err)
	}
	cc, err := over(secured{sec, w}, address, finished{sec.ConnectionState()},
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: KeepaliveTime, Timeout: KeepaliveTimeout}))
	if err != nil {
		_ = raw.Close()
		return nil, nil, err
	}
	if err := settle(ctx, cc); err != nil {
		_ = raw.Close()
		_ = cc.Close()
		if cause := w.why(); cause != nil && ctx.Err() == nil {
			err = cause
		}
		return nil, nil, explain(ctx, err)
	}
	return cc, w, nil
}

// over makes a grpc connection that lives as long as c and is not dialled again.
func over(c net.Conn, address string, creds credentials.TransportCredentials, more ...grpc.DialOption) (*grpc.ClientConn, error) {
	var taken atomic.Bool
	return grpc.NewClient("passthrough:///"+address, append(more,
		grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			if taken.Swap(true) {
				return nil, errConnEnded
			}
			return c, nil
		}),
		grpc.WithStatsHandler(deliveries{}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswerBytes)),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
	)...)
}

func settle(ctx context.Context, cc *grpc.ClientConn) error {
	cc.Connect()
	for {
		switch state := cc.GetState(); state {
		case connectivity.Ready:
			return nil
		case connectivity.TransientFailure, connectivity.Shutdown:
			return errConnEnded
		default:
			if !cc.WaitForStateChange(ctx, state) {
				return ctx.Err()
			}
		}
	}
}

// explain turns the errors of the network that people meet most into words.
func explain(ctx context.Context, err error) error {
	var op *net.OpError
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		if deadline, ok := ctx.Deadline(); ok && time.Now().Before(deadline) {
			return err
		}
		return fmt.Errorf("it does not answer: %w", context.DeadlineExceeded)
	case errors.Is(err, io.EOF):
		return fmt.Errorf("it closed the connection at once: %w", err)
	case errors.As(err, &op) && op.Op == "dial":
		return op.Err // the address stands beside it already
	}
	return err
}
