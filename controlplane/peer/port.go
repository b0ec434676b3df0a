package peer

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/agentplane/agentplane/proto/identity"
)

const (
	// handshakeTimeout bounds one TLS handshake.
	handshakeTimeout = 3 * time.Second
	// prefaceTimeout bounds the exchange of prefaces on a raft connection.
	prefaceTimeout = 10 * time.Second
	// maxHandshakes bounds those under way, and maxHandshakesFrom those from one
	// host: who connects and says nothing keeps out nobody but itself.
	maxHandshakes     = 1024
	maxHandshakesFrom = 256
	// maxAnonymous bounds the connections without a certificate, which may only
	// enrol, and anonymousTimeout how long each lasts.
	maxAnonymous     = 256
	anonymousTimeout = time.Minute
	// acceptQueue is how many finished connections may wait for each protocol.
	acceptQueue = 64
)

// Identity is what the port shows, and how it judges who comes.
type Identity struct {
	Verifier *identity.Verifier
	// Certificate is asked at each handshake.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
}

// Port is the node's one TLS port. Methods may be called at once.
type Port struct {
	ln       net.Listener
	logger   hclog.Logger
	stranger *tls.Config // before the node has an identity
	identity atomic.Pointer[Identity]
	// introduced proves the node's key before there is an identity; may hold nil.
	introduced atomic.Pointer[tls.Config]
	queues     map[string]*queue

	mu         sync.Mutex // guards what follows
	conns      map[*Conn]struct{}
	anonymous  int            // of conns
	handshakes int            // under way
	from       map[string]int // handshakes under way, by host
	dropped    uint64         // connections that a bound refused
}

// Conn is a connection whose handshake is done.
type Conn struct {
	*tls.Conn
	port  *Port
	state tls.ConnectionState
	// Peer is who came, as the handshake proved it.
	Peer identity.Peer
}

// Close closes the connection and forgets it.
func (c *Conn) Close() error {
	c.port.mu.Lock()
	if _, open := c.port.conns[c]; open && c.Peer.Anonymous() {
		c.port.anonymous--
	}
	delete(c.port.conns, c)
	c.port.mu.Unlock()
	return c.Conn.Close()
}

// Listen binds the port with listen, which nil makes net.Listen. Nothing is accepted
// before Run.
func Listen(listen func(network, address string) (net.Listener, error), addr string, logger hclog.Logger) (*Port, error) {
	stranger, err := strangerConfig()
	if err != nil {
		return nil, err
	}
	if listen == nil {
		listen = net.Listen
	}
	ln, err := listen("tcp", addr)
	if err != nil {
		return nil, ListenError("listen", addr, "--listen", err)
	}
	p := &Port{
		ln: ln, logger: logger, stranger: stranger,
		conns: make(map[*Conn]struct{}), from: make(map[string]int), queues: make(map[string]*queue),
	}
	stranger.GetConfigForClient = p.introduction
	for _, protocol := range []string{identity.ProtocolGRPC, identity.ProtocolRaft, identity.ProtocolHTTP} {
		p.queues[protocol] = &queue{addr: ln.Addr(), conns: make(chan net.Conn, acceptQueue), closed: make(chan struct{})}
	}
	return p, nil
}

// ListenError says why an address cannot be listened on, and by which flag another one
// is given.
func ListenError(what, address, flag string, err error) error {
	why := ""
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		why = ": is another process using the port?"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		why = ": no interface of this host has the address:"
	}
	return fmt.Errorf("%s on %q: %w%s choose one with %s", what, address, err, cmp.Or(why, ":"), flag)
}

// Addr is the bound address.
func (p *Port) Addr() net.Addr { return p.ln.Addr() }

// Listener returns the listener of one protocol of package identity.
func (p *Port) Listener(protocol string) net.Listener { return p.queues[protocol] }

// Use gives the port its identity: from here on all protocols are served.
func (p *Port) Use(id Identity) { p.identity.Store(&id) }

// Run accepts until ctx ends, then closes the port and every connection of it.
func (p *Port) Run(ctx context.Context) error {
	var handshakes sync.WaitGroup
	stop := context.AfterFunc(ctx, p.close)
	defer func() {
		stop()
		p.close()
		handshakes.Wait()
		p.cut(func(*Conn) error { return net.ErrClosed })
	}()
	for {
		raw, err := p.ln.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return context.Cause(ctx)
			}
			p.logger.Warn("accept failed", "err", err)
			select { // out of file descriptors, most likely: let some end
			case <-time.After(100 * time.Millisecond):
				continue
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		host := hostOf(raw)
		if !p.mayBegin(host) {
			_ = raw.Close()
			continue
		}
		handshakes.Go(func() {
			defer p.ended(host)
			p.handshake(ctx, raw)
		})
	}
}

// mayBegin says whether one more handshake with the host is within bounds, and
// counts it.
func (p *Port) mayBegin(host string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.handshakes >= maxHandshakes || p.from[host] >= maxHandshakesFrom {
		p.dropped++
		return false
	}
	p.handshakes++
	p.from[host]++
	return true
}

func (p *Port) ended(host string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.handshakes--
	if p.from[host]--; p.from[host] == 0 {
		delete(p.from, host)
	}
}

// Dropped is how many connections were refused because too many others were being
// made, or had no certificate.
func (p *Port) Dropped() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dropped
}

func hostOf(c net.Conn) string {
	host, _, err := net.SplitHostPort(c.RemoteAddr().String())
	if err != nil {
		return c.RemoteAddr().String()
	}
	return host
}

func (p *Port) close() {
	_ = p.ln.Close()
	for _, q := range p.queues {
		_ = q.Close()
	}
}

func (p *Port) handshake(ctx context.Context, raw net.Conn) {
	id, config := p.identity.Load(), p.stranger
	if id != nil {
		config = id.Verifier.ServerConfig(id.Certificate)
	}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	conn := tls.Server(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		p.logger.Debug("handshake refused", "from", raw.RemoteAddr(), "err", err)
		_ = raw.Close()
		return
	}
	c := &Conn{Conn: conn, port: p, state: conn.ConnectionState()}
	if id == nil && c.state.NegotiatedProtocol == identity.ProtocolRaft {
		_ = conn.Close() // the introduction is all that was wanted
		return
	}
	if id != nil {
		var err error
		if c.Peer, err = id.Verifier.Peer(c.state); err != nil {
			p.logger.Debug("connection refused", "from", raw.RemoteAddr(), "err", err)
			_ = raw.Close()
			return
		}
	}
	q := p.queues[c.state.NegotiatedProtocol]
	if q == nil { // a client without ALPN speaks HTTP/1.1
		q = p.queues[identity.ProtocolHTTP]
	}
	if !p.take(c) {
		_ = raw.Close()
		return
	}
	if !q.offer(ctx, c) {
		_ = c.Close()
	}
}

// take counts an open connection, unless there are too many that showed no
// certificate.
func (p *Port) take(c *Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.Peer.Anonymous() {
		if p.anonymous >= maxAnonymous {
			p.dropped++
			return false
		}
		p.anonymous++
		time.AfterFunc(anonymousTimeout, func() { _ = c.Close() })
	}
	p.conns[c] = struct{}{}
	return true
}

// Judge judges every open connection again, after the bundle has changed, and cuts
// those that no longer pass.
func (p *Port) Judge() {
	id := p.identity.Load()
	if id == nil {
		return
	}
	p.cut(func(c *Conn) error {
		_, err := id.Verifier.Peer(c.state)
		return err
	})
}

func (p *Port) cut(judge func(*Conn) error) {
	p.mu.Lock()
	conns := make([]*Conn, 0, len(p.conns))
	for c := range p.conns {
		conns = append(conns, c)
	}
	p.mu.Unlock()
	for _, c := range conns {
		if err := judge(c); err != nil {
			p.logger.Debug("connection cut", "from", c.RemoteAddr(), "peer", c.Peer.ID, "err", err)
			_ = c.Close()
		}
	}
}

// queue is the listener of one protocol.
type queue struct {
	addr   net.Addr
	conns  chan net.Conn // sent by handshakes, received by Accept
	once   sync.Once
	closed chan struct{}
}

func (q *queue) offer(ctx context.Context, c net.Conn) bool {
	select {
	case <-q.closed:
		return false
	default:
	}
	select {
	case q.conns <- c:
		q.closeRest() // in case it was closed meanwhile
		return true
	case <-q.closed:
	case <-ctx.Done():
	}
	return false
}

// closeRest closes what nobody will accept any more, once the queue is closed.
func (q *queue) closeRest() {
	for {
		select {
		case <-q.closed:
		default:
			return
		}
		select {
		case c := <-q.conns:
			_ = c.Close()
		default:
			return
		}
	}
}

// Accept is net.Listener's.
func (q *queue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.closed:
		return nil, net.ErrClosed
	}
}

// Close ends Accept. The port itself stays open.
func (q *queue) Close() error {
	q.once.Do(func() { close(q.closed) })
	q.closeRest()
	return nil
}

// Addr is the port's.
func (q *queue) Addr() net.Addr { return q.addr }

// strangerConfig is what a node shows that belongs to no cluster: a certificate
// that says nothing and lasts as long as the process.
func strangerConfig() (*tls.Config, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "agentplane node without a cluster"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(10, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		return nil, fmt.Errorf("make certificate: %w", err)
	}
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{identity.ProtocolHTTP},
		Certificates:           []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: private}},
		SessionTicketsDisabled: true,
	}, nil
}

// Close unbinds the port. Run does so too, when it ends.
func (p *Port) Close() error { return p.ln.Close() }
