package client

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// NewStream opens a stream on the first node that takes it. What breaks later is
// the caller's: see WatchCommand and WatchAgents for streams that go on
// elsewhere. The caller reads to the end or ends ctx.
func (c *Client) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	var fails failures
	start := time.Now()
	for round := 0; ; round++ {
		hopeless := true
		for _, address := range c.route() {
			s, e := c.open(ctx, address, round, desc, method, opts)
			if e == nil {
				c.prefer(address)
				return s, nil
			}
			if ctx.Err() != nil {
				if fails.newest == nil {
					fails.add(e)
				}
				return nil, fails.final(ctx.Err(), time.Since(start))
			}
			fails.add(e)
			hopeless = hopeless && e.hopeless
			if !e.again || errors.Is(e.cause, errClosed) {
				return nil, fails.final(nil, 0)
			}
			c.leave(address, e)
		}
		if hopeless || time.Since(start) > c.opts.Unreachable {
			return nil, fails.final(nil, 0)
		}
		if !pause(ctx, jitter(round)) {
			return nil, fails.final(ctx.Err(), time.Since(start))
		}
	}
}

func (c *Client) open(ctx context.Context, address string, round int, desc *grpc.StreamDesc, method string, opts []grpc.CallOption) (grpc.ClientStream, *Error) {
	cn, err := c.connect(ctx, address, grown(c.opts.ConnectTimeout, round))
	if err != nil {
		return nil, connectError(err, address)
	}
	inner, err := cn.cc.NewStream(c.outgoing(ctx, nil), desc, method, opts...)
	if err != nil {
		cn.release()
		return nil, tryError(err, address, false, false)
	}
	s := &stream{ClientStream: inner, client: c, conn: cn, ctx: ctx}
	// A stream whose reader is gone ends with its context.
	s.stop = context.AfterFunc(ctx, s.finish)
	return s, nil
}

// stream counts as a call of its connection until it has ended.
type stream struct {
	grpc.ClientStream
	client *Client
	conn   *conn
	ctx    context.Context
	stop   func() bool
	once   sync.Once
}

func (s *stream) finish() { s.once.Do(s.conn.release) }

// RecvMsg returns the next message, io.EOF at the stream's regular end, or an
// *Error.
func (s *stream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err == nil {
		return nil
	}
	s.stop()
	s.finish()
	s.client.noteTrailer(s.Trailer())
	if errors.Is(err, io.EOF) {
		return err
	}
	e := tryError(err, s.conn.address, false, true)
	s.client.noteIndex(e.appliedIndex)
	s.client.blame(s.ctx, s.ctx, s.conn, e)
	if s.ctx.Err() == nil && !e.answered && status.Code(err) == codes.Internal {
		// What grpc calls a transport that ended within a message.
		e.Code, e.again = codes.Unavailable, true
	}
	return e
}
