package gossip

import (
	"context"
	"fmt"
	"net"
	"sync"
)

// guardedConn is a stream that the guard can cut and that may be read for a
// bounded number of bytes. One goroutine reads it, as memberlist does.
type guardedConn struct {
	net.Conn
	guard   *guard
	inbound bool
	left    int // bytes that may still be read

	once    sync.Once
	mu      sync.Mutex  // guards release, which endWith sets after others know the conn
	release func() bool // detaches from a join's context; may be nil
}

func (c *guardedConn) Read(b []byte) (int, error) {
	if c.left == 0 {
		return 0, fmt.Errorf("gossip stream is longer than %d bytes", maxStreamBytes)
	}
	n, err := c.Conn.Read(b[:min(len(b), c.left)])
	c.left -= n
	return n, err
}

// Write closes the stream when it fails: memberlist forgets to when it cannot
// write the label.
func (c *guardedConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if err != nil {
		_ = c.Close()
	}
	return n, err
}

func (c *guardedConn) Close() error {
	var err error
	c.once.Do(func() {
		err = c.Conn.Close()
		c.guard.release(c)
		c.mu.Lock()
		release := c.release
		c.mu.Unlock()
		if release != nil {
			release()
		}
	})
	return err
}

// endWith closes the stream when ctx ends.
func (c *guardedConn) endWith(ctx context.Context) {
	release := context.AfterFunc(ctx, func() { _ = c.Close() })
	c.mu.Lock()
	defer c.mu.Unlock()
	c.release = release
}

// pipeConn is one end of the observer's stream. Its address marks the lines
// that memberlist logs about it, which the log bridge leaves out.
type pipeConn struct {
	net.Conn
	once   sync.Once
	closed chan struct{} // closed by Close
}

// newPipe returns both ends of the observer's stream.
func newPipe() (near, far *pipeConn) {
	a, b := net.Pipe()
	return &pipeConn{Conn: a, closed: make(chan struct{})}, &pipeConn{Conn: b, closed: make(chan struct{})}
}

func (c *pipeConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { close(c.closed) })
	return err
}

func (c *pipeConn) RemoteAddr() net.Addr { return observerAddr{} }
func (c *pipeConn) LocalAddr() net.Addr  { return observerAddr{} }

type observerAddr struct{}

func (observerAddr) Network() string { return "pipe" }
func (observerAddr) String() string  { return observerFrom }

const observerFrom = "own-observer"
