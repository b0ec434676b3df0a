package sim

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// conn is one end of a connection. What it is sent waits in queue until it has
// travelled, and in buffer until it is read; neither is bounded, so that a write never
// waits: a goroutine that waits while it holds one of TLS's mutexes keeps the clock of
// a bubble from moving.
type conn struct {
	place         *Place
	peer          *conn
	local, remote netip.AddrPort
	read          deadline

	// All below is guarded by place.net.mu.
	queue   []segment
	buffer  bytes.Buffer
	fin     bool  // the peer has closed; after buffer comes EOF
	err     error // why nothing goes any more
	armed   bool  // a timer is about to deliver
	still   bool  // a cut or a pause holds the queue up
	changed chan struct{}
}

type segment struct {
	at         time.Time
	data       []byte
	fin, reset bool
}

func newConn(p *Place, local, remote netip.AddrPort) *conn {
	return &conn{place: p, local: local, remote: remote, read: newDeadline(), changed: make(chan struct{})}
}

// Read is net.Conn's.
func (c *conn) Read(b []byte) (int, error) {
	for {
		n, changed, err := c.take(b)
		if n > 0 || err != nil {
			return n, err
		}
		select {
		case <-changed:
		case <-c.read.wait():
			return 0, c.fail("read", os.ErrDeadlineExceeded)
		}
	}
}

func (c *conn) take(b []byte) (int, <-chan struct{}, error) {
	c.place.net.mu.Lock()
	defer c.place.net.mu.Unlock()
	switch {
	case c.err != nil:
		return 0, nil, c.fail("read", c.err)
	case c.buffer.Len() > 0:
		n, _ := c.buffer.Read(b)
		return n, nil, nil
	case c.fin:
		return 0, nil, io.EOF
	}
	return 0, c.changed, nil
}

// Write is net.Conn's. It never waits.
func (c *conn) Write(b []byte) (int, error) {
	c.place.net.mu.Lock()
	defer c.place.net.mu.Unlock()
	if c.err != nil {
		return 0, c.fail("write", c.err)
	}
	c.sendLocked(segment{data: bytes.Clone(b)})
	return len(b), nil
}

// Close is net.Conn's.
func (c *conn) Close() error {
	c.place.net.mu.Lock()
	defer c.place.net.mu.Unlock()
	if c.err == nil {
		c.sendLocked(segment{fin: true})
	}
	c.endLocked(net.ErrClosed)
	return nil
}

func (c *conn) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// endLocked takes the end off its host: nothing is read or written any more.
func (c *conn) endLocked(err error) {
	if c.err != nil {
		return
	}
	c.err = err
	delete(c.place.conns, c)
	c.tellLocked()
}

func (c *conn) tellLocked() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// sendLocked puts a segment on the way to the peer.
func (c *conn) sendLocked(s segment) {
	p := c.peer
	wait := c.place.net.delayLocked()
	s.at = time.Now().Add(wait)
	if n := len(p.queue); n > 0 && !s.at.After(p.queue[n-1].at) {
		s.at = p.queue[n-1].at
	}
	p.queue = append(p.queue, s)
	if p.still {
		c.place.net.openLocked(link{c.place.ip, p.place.ip}) // held up behind the others
		return
	}
	if !p.armed {
		p.armLocked(time.Until(p.queue[0].at))
	}
}

func (c *conn) armLocked(wait time.Duration) {
	c.armed = true
	time.AfterFunc(wait, c.arrive)
}

// arrive delivers what has travelled long enough, unless the link is cut meanwhile or
// one of the two processes stands still.
func (c *conn) arrive() {
	n := c.place.net
	n.mu.Lock()
	defer n.mu.Unlock()
	c.armed = false
	now := time.Now()
	for len(c.queue) > 0 {
		if !n.openLocked(link{c.peer.place.ip, c.place.ip}) {
			c.still = true
			return
		}
		s := c.queue[0]
		if wait := s.at.Sub(now); wait > 0 {
			c.armLocked(wait)
			return
		}
		c.queue = c.queue[1:]
		c.deliverLocked(s)
	}
}

func (c *conn) deliverLocked(s segment) {
	switch {
	case c.err != nil:
		if !s.reset && !s.fin && c.peer.err == nil { // there is nobody any more
			c.sendLocked(segment{reset: true})
		}
		return
	case s.reset:
		c.endLocked(syscall.ECONNRESET)
		return
	case s.fin:
		c.fin = true
	default:
		c.buffer.Write(s.data)
	}
	c.tellLocked()
}

// LocalAddr is net.Conn's.
func (c *conn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(c.local) }

// RemoteAddr is net.Conn's.
func (c *conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

// SetDeadline is net.Conn's; writes need none.
func (c *conn) SetDeadline(t time.Time) error { return c.SetReadDeadline(t) }

// SetReadDeadline is net.Conn's.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.read.set(t)
	return nil
}

// SetWriteDeadline is net.Conn's.
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

// deadline is as in net.Pipe.
type deadline struct {
	mu     *sync.Mutex // guards what follows
	timer  *time.Timer
	passed chan struct{}
}

func newDeadline() deadline { return deadline{mu: &sync.Mutex{}, passed: make(chan struct{})} }

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.passed // its function runs, or has run
	}
	d.timer = nil
	over := false
	select {
	case <-d.passed:
		over = true
	default:
	}
	if t.IsZero() {
		if over {
			d.passed = make(chan struct{})
		}
		return
	}
	if wait := time.Until(t); wait > 0 {
		if over {
			d.passed = make(chan struct{})
		}
		passed := d.passed
		d.timer = time.AfterFunc(wait, func() { close(passed) })
		return
	}
	if !over {
		close(d.passed)
	}
}

func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.passed
}
