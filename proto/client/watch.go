package client

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// WatchCommand gives handle the command, then every change, until the command is
// done, handle returns an error, or ctx ends. When the node goes away it goes on
// with another one; the first response from there is a snapshot, which replaces
// what came before. It looks for such a node for WatchPatience.
func (c *Client) WatchCommand(ctx context.Context, req *agentplanev1.WatchCommandRequest, handle func(*agentplanev1.WatchCommandResponse) error) error {
	state := agentplanev1.CommandState_COMMAND_STATE_UNSPECIFIED
	return watch(ctx, c, watching[agentplanev1.WatchCommandResponse]{
		open: func(ctx context.Context) (grpc.ServerStreamingClient[agentplanev1.WatchCommandResponse], error) {
			return agentplanev1.NewCommandServiceClient(c).WatchCommand(ctx, req)
		},
		snapshot: func(r *agentplanev1.WatchCommandResponse) { r.Snapshot = true },
		index:    (*agentplanev1.WatchCommandResponse).GetIndex,
		handle: func(r *agentplanev1.WatchCommandResponse) error {
			if r.Command != nil {
				state = r.Command.State
			}
			return handle(r)
		},
		done: func() bool { return state == agentplanev1.CommandState_COMMAND_STATE_DONE },
	})
}

// WatchAgents gives handle all agents that match, then every change, until handle
// returns an error or ctx ends; otherwise as WatchCommand.
func (c *Client) WatchAgents(ctx context.Context, req *agentplanev1.WatchAgentsRequest, handle func(*agentplanev1.WatchAgentsResponse) error) error {
	return watch(ctx, c, watching[agentplanev1.WatchAgentsResponse]{
		open: func(ctx context.Context) (grpc.ServerStreamingClient[agentplanev1.WatchAgentsResponse], error) {
			return agentplanev1.NewFleetServiceClient(c).WatchAgents(ctx, req)
		},
		snapshot: func(r *agentplanev1.WatchAgentsResponse) { r.Snapshot = true },
		index:    (*agentplanev1.WatchAgentsResponse).GetIndex,
		handle:   handle,
		done:     func() bool { return false },
	})
}

// watching is what one kind of watch differs in from the others.
type watching[R any] struct {
	open     func(context.Context) (grpc.ServerStreamingClient[R], error)
	snapshot func(*R) // marks the first response of a stream
	index    func(*R) uint64
	handle   func(*R) error
	done     func() bool // nothing more will come
}

// handlerError marks what the caller's handler returned.
type handlerError struct{ error }

func watch[R any](ctx context.Context, c *Client, w watching[R]) error {
	var lost time.Time // when the last stream was lost; zero while one gives answers
	for round := 0; ; round++ {
		heard, err := w.follow(ctx, c)
		if own, ok := errors.AsType[handlerError](err); ok {
			return own.error
		}
		if err == nil || w.done() {
			return nil
		}
		e := AsError(err)
		if ctx.Err() != nil {
			return &Error{Code: codes.Canceled, Message: "interrupted", cause: context.Cause(ctx)}
		}
		if !e.again || errors.Is(e.cause, errClosed) {
			return e
		}
		if heard {
			lost, round = time.Time{}, 0
		}
		if lost.IsZero() {
			lost = time.Now()
		}
		if e.hopeless || time.Since(lost) > c.opts.WatchPatience {
			return e
		}
		if e.Address != "" {
			c.leave(e.Address, e)
		}
		if !pause(ctx, max(jitter(round), e.RetryAfter)) {
			return &Error{Code: codes.Canceled, Message: "interrupted", cause: context.Cause(ctx)}
		}
	}
}

// follow reads one stream to its end and reports whether anything came. nil says
// that the watch is done.
func (w watching[R]) follow(ctx context.Context, c *Client) (heard bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // frees the stream when the handler ends the watch
	s, err := w.open(ctx)
	if err != nil {
		return false, err
	}
	for first := true; ; first = false {
		r, err := s.Recv()
		switch {
		case errors.Is(err, io.EOF) && w.done():
			return heard, nil
		case errors.Is(err, io.EOF):
			// The node ended it (it drains): another one goes on.
			return heard, &Error{Code: codes.Unavailable, Message: "the node ended the watch", Address: c.Address(), again: true}
		case err != nil:
			return heard, err
		}
		heard = true
		c.noteIndex(w.index(r))
		if first {
			w.snapshot(r)
		}
		if err := w.handle(r); err != nil {
			return heard, handlerError{err}
		}
		if w.done() {
			return heard, nil
		}
	}
}
