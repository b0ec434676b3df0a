package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// proxy stands before the port of a node, which advertises the proxy's address: peers,
// agents and clients come through it, and what goes either way can be kept for a while.
// Gossip goes beside it. All of it lives in this process and ends with close.
type proxy struct {
	listener net.Listener
	dataDir  string // of the node, which says where it listens

	delay atomic.Int64 // of each piece, in nanoseconds
	held  atomic.Bool  // nothing goes through
	kept  atomic.Int64 // pieces that were kept

	working sync.WaitGroup
	mu      sync.Mutex // guards what follows
	closed  bool
	open    map[net.Conn]bool
}

// newProxy listens on an address, in the network namespace of a host unless that is nil.
func newProxy(h *netHost, address, dataDir string) (*proxy, error) {
	listener, err := listenOn(h, address)
	if err != nil {
		return nil, err
	}
	x := &proxy{listener: listener, dataDir: dataDir, open: make(map[net.Conn]bool)}
	x.working.Go(x.serve)
	return x, nil
}

// listenOn makes a listener in the host's namespace: a socket stays in the one in which
// its thread was when it was made.
func listenOn(h *netHost, address string) (net.Listener, error) {
	if h == nil {
		return net.Listen("tcp", address)
	}
	type made struct {
		listener net.Listener
		err      error
	}
	answer := make(chan made)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		there, err := os.Open("/run/netns/" + h.name)
		if err != nil {
			answer <- made{nil, err}
			return
		}
		defer there.Close()
		if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
			answer <- made{nil, fmt.Errorf("enter the network namespace %s: %w", h.name, err)}
			return
		}
		listener, err := net.Listen("tcp", address)
		answer <- made{listener, err}
	}()
	m := <-answer
	return m.listener, m.err
}

func (x *proxy) close() {
	x.mu.Lock()
	x.closed = true
	x.listener.Close()
	for c := range x.open {
		c.Close()
	}
	x.mu.Unlock()
	x.working.Wait()
}

// keep notes a connection that close must end; it says false when it is too late.
func (x *proxy) keep(c net.Conn) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		c.Close()
		return false
	}
	x.open[c] = true
	return true
}

func (x *proxy) drop(c net.Conn) {
	c.Close()
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.open, c)
}

func (x *proxy) serve() {
	for {
		c, err := x.listener.Accept()
		if err != nil {
			return // closed
		}
		if !x.keep(c) {
			return
		}
		x.working.Go(func() {
			defer x.drop(c)
			d, err := x.dial()
			if err != nil {
				return // the node does not run: what came is cut off
			}
			if !x.keep(d) {
				return
			}
			defer x.drop(d)
			// What one side ends ends the other, so that a node that dies is noticed at once.
			var both sync.WaitGroup
			both.Go(func() { x.pump(d, c) })
			both.Go(func() { x.pump(c, d) })
			both.Wait()
		})
	}
}

func (x *proxy) dial() (net.Conn, error) {
	b, err := os.ReadFile(filepath.Join(x.dataDir, "addresses.json"))
	if err != nil {
		return nil, err
	}
	var a struct{ Listen string }
	if err := json.Unmarshal(b, &a); err != nil {
		return nil, err
	}
	return net.DialTimeout("tcp", a.Listen, 5*time.Second)
}

type piece struct {
	data []byte
	due  time.Time
}

// pump carries what comes from one side to the other, in order, each piece after the delay
// that was set when it came. It ends both when one has ended.
func (x *proxy) pump(to, from net.Conn) {
	pieces := make(chan piece, 256) // closed by the reader
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(pieces)
		for {
			buffer := make([]byte, 16<<10)
			n, err := from.Read(buffer)
			if n > 0 {
				pieces <- piece{buffer[:n], time.Now().Add(time.Duration(x.delay.Load()))}
			}
			if err != nil {
				return
			}
		}
	})
	for p := range pieces {
		wait := time.Until(p.due)
		if x.held.Load() || wait > time.Millisecond {
			x.kept.Add(1)
		}
		time.Sleep(wait)
		for x.held.Load() && !x.isClosed() {
			time.Sleep(10 * time.Millisecond)
		}
		if _, err := to.Write(p.data); err != nil {
			break
		}
	}
	to.Close()
	from.Close()
	for range pieces { // the reader may wait for room
	}
	reading.Wait()
}

func (x *proxy) isClosed() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.closed
}

// delayed has everything that goes through a node's port, either way, come later. Its
// effect is that pieces were kept.
func delayed(ctx context.Context, w *world) (*strike, error) {
	delay := time.Duration(20+w.rng.IntN(400)) * time.Millisecond
	return w.atProxy(ctx, "by "+delay.String(), func(x *proxy) { x.delay.Store(int64(delay)) }, func(x *proxy) { x.delay.Store(0) })
}

// stalled has nothing go through a node's port, while connections stay open, and lets all
// of it through in the end. Its effect is that pieces were kept.
func stalled(ctx context.Context, w *world) (*strike, error) {
	return w.atProxy(ctx, "", func(x *proxy) { x.held.Store(true) }, func(x *proxy) { x.held.Store(false) })
}

func (w *world) atProxy(ctx context.Context, how string, set, unset func(*proxy)) (*strike, error) {
	ps := leadingOrNot(ctx, w)
	if ps == nil {
		return nil, nil
	}
	x := w.proxies[ps[0].Name]
	if x == nil {
		return nil, errors.New("there is no proxy before " + ps[0].Name)
	}
	before := x.kept.Load()
	set(x)
	return &strike{
		target: ps[0].Name + " " + how,
		seen: func() error {
			// Where nothing goes through each connection has one that waits.
			if n := x.kept.Load() - before; n < 3 {
				return fmt.Errorf("%d pieces were kept, want 3", n)
			}
			return nil
		},
		mend: func() error {
			unset(x)
			return nil
		},
	}, nil
}
