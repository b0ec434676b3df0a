package gossiptest

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/memberlist"
)

// Transport is one host's place on a Network. It implements
// memberlist.NodeAwareTransport.
type Transport struct {
	network *Network
	addr    netip.AddrPort
	packets chan *memberlist.Packet // the network sends, and drops when it is full; never closed
	streams chan net.Conn           // likewise
	down    chan struct{}           // closed by Shutdown
	once    sync.Once
}

var _ memberlist.NodeAwareTransport = (*Transport)(nil)

// FinalAdvertiseAddr returns the address of this transport, whatever is asked.
func (t *Transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return t.addr.Addr().AsSlice(), int(t.addr.Port()), nil
}

// WriteTo sends a packet; it never blocks, and no error says that it arrives.
func (t *Transport) WriteTo(b []byte, addr string) (time.Time, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return time.Time{}, err
	}
	select {
	case <-t.down:
		return time.Time{}, net.ErrClosed
	default:
	}
	t.network.send(link{t.addr, to}, bytes.Clone(b))
	return time.Now(), nil
}

// WriteToAddress sends a packet to a.
func (t *Transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return t.WriteTo(b, a.Addr)
}

// PacketCh is where packets arrive.
func (t *Transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// DialTimeout opens a stream. It is refused at once where nobody listens, and
// waits for the timeout where the link is cut.
func (t *Transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	fail := func(err error) error {
		return &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(to), Err: err}
	}
	select {
	case <-t.down:
		return nil, fail(net.ErrClosed)
	default:
	}
	c, refused := t.network.connect(link{t.addr, to})
	if c != nil {
		return c, nil
	}
	if refused {
		return nil, fail(syscall.ECONNREFUSED)
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil, fail(os.ErrDeadlineExceeded)
	case <-t.down:
		return nil, fail(net.ErrClosed)
	}
}

// DialAddressTimeout opens a stream to a.
func (t *Transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return t.DialTimeout(a.Addr, timeout)
}

// StreamCh is where streams arrive.
func (t *Transport) StreamCh() <-chan net.Conn { return t.streams }

// Shutdown takes the host off the network and resets its streams.
func (t *Transport) Shutdown() error {
	t.once.Do(func() {
		close(t.down)
		for _, s := range t.network.remove(t) {
			s.reset()
		}
	})
	return nil
}

// stream is one end of a pipe that knows where it runs.
type stream struct {
	net.Conn
	network       *Network
	local, remote netip.AddrPort
	peer          *stream
}

func newStream(n *Network, l link) (near, far *stream) {
	a, b := net.Pipe()
	near = &stream{Conn: a, network: n, local: l.from, remote: l.to}
	far = &stream{Conn: b, network: n, local: l.to, remote: l.from, peer: near}
	near.peer = far
	return near, far
}

func (s *stream) crosses(l link) bool {
	return s.local == l.from && s.remote == l.to || s.local == l.to && s.remote == l.from
}

func (s *stream) Close() error {
	s.network.forget(s)
	return s.Conn.Close()
}

// reset closes both ends.
func (s *stream) reset() { _ = errors.Join(s.Close(), s.peer.Close()) }

func (s *stream) LocalAddr() net.Addr  { return net.TCPAddrFromAddrPort(s.local) }
func (s *stream) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(s.remote) }
