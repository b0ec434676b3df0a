package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/identity"

	"github.com/agentplane/agentplane/controlplane/consensus"
)

// Book tells nodes and addresses apart. It follows the trust bundle.
type Book interface {
	// Address returns where the node is reached.
	Address(nodeID string) (string, bool)
	// NodeAt returns the node that is registered with the address.
	NodeAt(address string) (string, bool)
	// Nodes returns the ids of all nodes but this one.
	Nodes() []string
}

// Stream carries raft over the port: TLS, then a preface both ways, then raft.
type Stream struct {
	net.Listener // of identity.ProtocolRaft
	// Advertise is the address that raft tells others.
	Advertise string

	Identity Identity
	Prefaces Prefaces
	Book     Book
	// Gone is told of peers whose process is not there. It must not block.
	Gone func(nodeID string)
	// Connect is how nodes are reached; nil is a net.Dialer.
	Connect client.Dial
	// Stranger is told when a peer is refused for a key that is not in the bundle.
	// It must not block.
	Stranger func()
	Logger   hclog.Logger

	mu    sync.Mutex // guards what follows
	conns map[net.Conn]struct{}
	cut   bool
}

var (
	_ consensus.StreamLayer = (*Stream)(nil)
	_ consensus.Cutter      = (*Stream)(nil)
)

var errCut = errors.New("this node is closing")

// keep counts an open connection; it answers false when the stream has been cut.
func (s *Stream) keep(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cut {
		return false
	}
	if s.conns == nil {
		s.conns = make(map[net.Conn]struct{})
	}
	s.conns[c] = struct{}{}
	return true
}

func (s *Stream) forget(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
}

// Cut is consensus.Cutter's.
func (s *Stream) Cut() {
	s.mu.Lock()
	s.cut = true
	conns := slices.Collect(maps.Keys(s.conns))
	s.mu.Unlock()
	for _, c := range conns {
		_ = c.Close()
	}
}

// dialed is an outgoing connection that the stream knows of.
type dialed struct {
	net.Conn
	s *Stream
}

// Close closes the connection and forgets it.
func (d *dialed) Close() error {
	d.s.forget(d)
	return d.Conn.Close()
}

// Accept returns the next connection whose preface was accepted. Prefaces are
// exchanged by the goroutine that first reads, so that a silent peer holds up
// nobody else.
func (s *Stream) Accept() (net.Conn, error) {
	c, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	conn, ok := c.(*Conn)
	if !ok {
		_ = c.Close()
		return nil, errors.New("peer: a raft connection did not come through the port")
	}
	a := &accepted{Conn: conn, s: s}
	if !s.keep(a) {
		_ = conn.Close()
		return nil, errCut
	}
	return a, nil
}

// Addr is the advertised address: raft tells it to its peers.
func (s *Stream) Addr() net.Addr { return advertised(s.Advertise) }

type advertised string

func (advertised) Network() string  { return "tcp" }
func (a advertised) String() string { return string(a) }

// Dial connects to the node that is registered with the address.
func (s *Stream) Dial(address consensus.ServerAddress, timeout time.Duration) (net.Conn, error) {
	nodeID, ok := s.Book.NodeAt(string(address))
	if !ok {
		return nil, fmt.Errorf("dial %s: no node is registered with this address", address)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	conn, err := dial(ctx, s.Connect, string(address), s.Identity, identity.ProtocolRaft, nodeID)
	if err != nil {
		if gone(err) {
			s.Gone(nodeID)
		}
		s.suspect(err)
		return nil, fmt.Errorf("dial node %q at %s: %w", nodeID, address, err)
	}
	d := &dialed{conn, s}
	if !s.keep(d) {
		_ = conn.Close()
		return nil, fmt.Errorf("dial node %q at %s: %w", nodeID, address, errCut)
	}
	if err := s.greet(d, nodeID, timeout); err != nil {
		_ = d.Close()
		return nil, fmt.Errorf("dial node %q at %s: %w", nodeID, address, err)
	}
	return d, nil
}

func (s *Stream) greet(conn net.Conn, nodeID string, timeout time.Duration) error {
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	if err := writePreface(conn, s.Prefaces.to(nodeID)); err != nil {
		return err
	}
	theirs, err := readPreface(conn)
	if err == nil {
		err = s.Prefaces.Judge(nodeID, theirs)
	}
	if err != nil {
		return err
	}
	return conn.SetDeadline(time.Time{})
}

func (s *Stream) suspect(err error) {
	if errors.Is(err, identity.ErrKeyNotRegistered) || errors.Is(err, identity.ErrUnknownCA) {
		s.Stranger()
	}
}

// dial connects and finishes the handshake.
func dial(ctx context.Context, connect client.Dial, address string, id Identity, protocol, nodeID string) (net.Conn, error) {
	return secure(ctx, connect, address, id.Verifier.ClientConfig(protocol, nodeID, func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return id.Certificate(nil)
	}))
}

// secure connects and does TLS as a client.
func secure(ctx context.Context, connect client.Dial, address string, config *tls.Config) (net.Conn, error) {
	if connect == nil {
		connect = (&net.Dialer{KeepAlive: 15 * time.Second}).DialContext
	}
	raw, err := connect(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, err
	}
	return conn, nil
}

// gone says that an error means that no process listens or holds the connection.
func gone(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET)
}

// accepted exchanges prefaces before the first byte is read.
type accepted struct {
	*Conn
	s       *Stream
	greeted bool // only the reader reads it
	err     error
}

// Close closes the connection and forgets it.
func (a *accepted) Close() error {
	a.s.forget(a)
	return a.Conn.Close()
}

// Read is raft's: the first one exchanges prefaces.
func (a *accepted) Read(b []byte) (int, error) {
	if !a.greeted {
		a.greeted = true
		if a.err = a.greet(); a.err != nil {
			a.s.Logger.Warn("raft connection refused", "from", a.RemoteAddr(), "node_id", a.Peer.ID.Name, "err", a.err)
			_ = a.Close()
		}
	}
	if a.err != nil {
		return 0, a.err
	}
	return a.Conn.Read(b)
}

func (a *accepted) greet() error {
	if err := a.SetDeadline(time.Now().Add(prefaceTimeout)); err != nil {
		return err
	}
	theirs, err := readPreface(a.Conn)
	if err != nil {
		return err
	}
	nodeID := a.Peer.ID.Name
	refused := a.s.Prefaces.Judge(nodeID, theirs)
	mine := a.s.Prefaces.to(nodeID)
	if refused != nil {
		mine.Refused = refused.Error()
	}
	if err := errors.Join(refused, writePreface(a.Conn, mine)); err != nil {
		return err
	}
	return a.SetDeadline(time.Time{})
}
