package bare

import (
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// stream is raft's connections over TLS. Raft's transport closes those that it has
// dialled but leaves those that it was dialled on waiting for the next request: Close
// ends them.
type stream struct {
	net.Listener
	config *tls.Config

	mu       sync.Mutex // guards what follows
	accepted []net.Conn
	closed   bool
}

// Accept is net.Listener's.
func (s *stream) Accept() (net.Conn, error) {
	conn, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errors.Join(net.ErrClosed, conn.Close())
	}
	s.accepted = append(s.accepted, conn)
	return tls.Server(conn, s.config), nil
}

// Close is net.Listener's. It may be called again.
func (s *stream) Close() error {
	err := s.Listener.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	for _, conn := range s.accepted {
		_ = conn.Close() // raft may have been quicker
	}
	return err
}

// Dial is raft.StreamLayer's.
func (s *stream) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return tls.DialWithDialer(&net.Dialer{Timeout: timeout}, "tcp", string(address), s.config)
}
