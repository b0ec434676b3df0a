package client

import (
	"context"
	"crypto/tls"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// conn is one connection to one node, from its dial to its end. It is never
// dialled again.
type conn struct {
	address string
	ready   chan struct{} // closed by run once cc or err stands
	cc      *grpc.ClientConn
	wire    *wire
	err     error

	wake chan struct{} // tells run that a first call came; holds one
	done chan struct{} // closed by end, ends run

	mu      sync.Mutex // guards what follows; nothing is called under it
	calls   int
	since   time.Time // when calls last rose from zero
	retired bool      // ends when the last call has
	ended   bool
	cause   error // why it was condemned
}

func newConn(address string) *conn {
	return &conn{
		address: address,
		ready:   make(chan struct{}),
		wake:    make(chan struct{}, 1),
		done:    make(chan struct{}),
	}
}

// run dials within the timeout and then watches until the connection ends.
func (c *conn) run(ctx context.Context, connect Dial, cfg *tls.Config, connectTimeout, probeAfter, probeTimeout time.Duration) {
	dialCtx, cancel := context.WithTimeout(ctx, connectTimeout)
	c.cc, c.wire, c.err = dial(dialCtx, connect, c.address, cfg)
	cancel()
	close(c.ready)
	if c.err != nil {
		return
	}
	// The wire first: grpc's Close would wait for a frozen node to take a
	// GOAWAY.
	defer func() {
		_ = c.wire.Close()
		_ = c.cc.Close()
	}()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.done:
			return
		case <-c.wake:
		}
		if !c.attend(ctx, probeAfter, probeTimeout) {
			return
		}
	}
}

// attend watches while calls are in flight, and reports whether the connection
// may go on.
func (c *conn) attend(ctx context.Context, probeAfter, probeTimeout time.Duration) bool {
	for {
		quietSince, busy := c.quiet()
		if !busy {
			return true
		}
		wait := time.NewTimer(time.Until(quietSince.Add(probeAfter)))
		select {
		case <-ctx.Done():
			wait.Stop()
			return false
		case <-c.done:
			wait.Stop()
			return false
		case <-wait.C:
		}
		again, busy := c.quiet()
		if !busy || again.After(quietSince) {
			continue
		}
		if c.probe(ctx, probeTimeout) {
			continue
		}
		if ctx.Err() == nil {
			c.condemn(errFrozen)
		}
		return false
	}
}

// quiet returns since when a call waits without a byte from the node.
func (c *conn) quiet() (since time.Time, busy bool) {
	heard := c.wire.lastHeard()
	c.mu.Lock()
	defer c.mu.Unlock()
	if heard.Before(c.since) {
		heard = c.since
	}
	return heard, c.calls > 0
}

// probe reports whether the node gives any sign of life. What it answers does
// not matter: a refusal is an answer.
func (c *conn) probe(ctx context.Context, timeout time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	before := time.Now()
	const info = agentplanev1.ClusterService_Info_FullMethodName
	_ = c.cc.Invoke(ctx, info, &agentplanev1.InfoRequest{Stale: true}, &agentplanev1.InfoResponse{})
	return c.wire.lastHeard().After(before)
}

// acquire counts a call in, unless the connection takes no more.
func (c *conn) acquire() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.retired || c.ended {
		return false
	}
	c.calls++
	if c.calls == 1 {
		c.since = time.Now()
		select {
		case c.wake <- struct{}{}:
		default: // told already
		}
	}
	return true
}

// release counts a call out.
func (c *conn) release() {
	c.mu.Lock()
	c.calls--
	c.endLocked(c.retired && c.calls == 0)
	c.mu.Unlock()
}

// retire lets the calls in flight finish and takes no other.
func (c *conn) retire() {
	c.mu.Lock()
	c.retired = true
	c.endLocked(c.calls == 0)
	c.mu.Unlock()
}

// condemn breaks the connection and everything on it.
func (c *conn) condemn(cause error) {
	c.mu.Lock()
	if c.cause == nil {
		c.cause = cause
	}
	c.endLocked(true)
	c.mu.Unlock()
}

func (c *conn) endLocked(now bool) {
	if now && !c.ended {
		c.ended = true
		close(c.done)
	}
}

// condemned returns why the connection was broken by us, if it was.
func (c *conn) condemned() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause
}

// usable reports whether a new call may go here: it is being dialled, or stands.
func (c *conn) usable() bool {
	select {
	case <-c.ready:
	default:
		return true
	}
	if c.err != nil {
		return false
	}
	c.mu.Lock()
	closed := c.retired || c.ended
	c.mu.Unlock()
	return !closed && c.cc.GetState() == connectivity.Ready
}
