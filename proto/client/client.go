package client

import (
	"context"
	"crypto/tls"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/identity"
)

// Client reaches a cluster through whichever of its nodes answers.
type Client struct {
	opts     Options
	verifier *identity.Verifier // nil for a newcomer that trusts nobody yet
	tls      *tls.Config
	ctx      context.Context // ends with Close
	cancel   context.CancelFunc
	group    sync.WaitGroup // the goroutines of the connections
	index    atomic.Uint64  // highest applied index seen
	// leaderAge is how many milliseconds ago the node that answered last had heard of
	// a leader; -1 when it never has.
	leaderAge atomic.Int64
	fresh     refresher

	mu        sync.Mutex // guards what follows; no call-back runs under it
	bundle    *agentplanev1.Bundle
	addresses []string
	preferred string // asked first
	conns     map[string]*conn
	known     whereabouts
	closed    bool
}

var _ grpc.ClientConnInterface = (*Client)(nil)

// New makes a Client; it touches no network before the first call.
func New(opts Options) (*Client, error) {
	if err := opts.fill(); err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	trusted, err := TrustBundle(opts.Bundle)
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	v, err := identity.NewVerifier(trusted, opts.Clock)
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	c := newClient(opts, v.ClientConfig(identity.ProtocolGRPC, "", opts.Certificate))
	c.verifier, c.bundle = v, opts.Bundle
	c.addresses = merge(opts.Addresses, opts.Bundle)
	if len(c.addresses) == 0 {
		c.cancel()
		return nil, fmt.Errorf("make client: no node address is known")
	}
	return c, nil
}

func newClient(opts Options, cfg *tls.Config) *Client {
	ctx, cancel := context.WithCancel(context.Background())
	c := &Client{opts: opts, tls: cfg, ctx: ctx, cancel: cancel, conns: map[string]*conn{}, fresh: newRefresher()}
	c.leaderAge.Store(-1)
	return c
}

// Close breaks every connection and returns when no goroutine is left.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	for _, cn := range c.conns {
		cn.condemn(errClosed)
	}
	c.mu.Unlock()
	c.cancel()
	c.group.Wait()
	return nil
}

// spawn runs f on a goroutine that Close waits for; false when the client is closed.
func (c *Client) spawn(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.group.Go(f)
	return true
}

// Bundle returns the trust bundle in use. The caller must not write to it.
func (c *Client) Bundle() *agentplanev1.Bundle {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bundle
}

// Address returns the node that answered last, or the first that will be asked.
func (c *Client) Address() string { return c.route()[0] }

// Addresses returns the nodes in the order in which they would be asked.
func (c *Client) Addresses() []string { return c.route() }

// AppliedIndex returns the highest index that an answer carried.
func (c *Client) AppliedIndex() uint64 { return c.index.Load() }

// LeaderAge returns how long before its answer the node that answered last had heard
// of a leader, which is how old a stale answer may be; false when it has not heard
// of one since it started.
func (c *Client) LeaderAge() (time.Duration, bool) {
	ms := c.leaderAge.Load()
	return time.Duration(ms) * time.Millisecond, ms >= 0
}

// Reconnect lets calls in flight finish and makes later ones use new
// connections, whose handshakes ask for the certificate again.
func (c *Client) Reconnect() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for address, cn := range c.conns {
		cn.retire()
		delete(c.conns, address)
	}
}

// route returns all addresses, the preferred one first, the others in the order
// of the list behind it.
func (c *Client) route() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return rotate(c.addresses, c.preferred)
}

func rotate(addresses []string, first string) []string {
	i := max(slices.Index(addresses, first), 0)
	return slices.Concat(addresses[i:], addresses[:i])
}

// prefer makes the address the first to be asked.
func (c *Client) prefer(address string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.preferred = address
}

// leave makes another address the first to be asked, if this one is.
func (c *Client) leave(address string, err error) {
	c.mu.Lock()
	order := rotate(c.addresses, c.preferred)
	moved := order[0] == address && len(order) > 1
	if moved {
		c.preferred = order[1]
	}
	c.mu.Unlock()
	c.opts.Logger.Debug("node left", "address", address, "err", err)
	if moved && c.opts.OnFailover != nil {
		c.opts.OnFailover(address, err)
	}
}

// connect returns an open connection to the address with one call counted in;
// the caller releases it.
func (c *Client) connect(ctx context.Context, address string, timeout time.Duration) (*conn, error) {
	for {
		cn, err := c.connTo(address, timeout)
		if err != nil {
			return nil, err
		}
		select {
		case <-cn.ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if cn.err != nil {
			return nil, cn.err
		}
		if cn.acquire() {
			return cn, nil
		}
		// It was retired between; the next one is new.
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

func (c *Client) connTo(address string, timeout time.Duration) (*conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errClosed
	}
	if cn := c.conns[address]; cn != nil {
		if cn.usable() {
			return cn, nil
		}
		cn.retire()
	}
	cn := newConn(address)
	c.conns[address] = cn
	c.group.Go(func() {
		cn.run(c.ctx, c.opts.Dial, c.tls, timeout, c.opts.ProbeAfter, c.opts.ProbeTimeout)
	})
	return cn, nil
}
