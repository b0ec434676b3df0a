package client

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// Follow gives handle what the programs of a command print, in the order in which each
// printed it, and the end of each attempt, until all have ended, handle returns an error,
// or ctx ends. When the node goes away it goes on with another one where it was: no byte
// comes twice, and none is left out but as a gap. It looks for such a node for
// WatchPatience. The request's cursors say where to begin; the request is not changed.
func (c *Client) Follow(ctx context.Context, req *agentplanev1.FollowRequest, handle func(*agentplanev1.FollowItem) error) error {
	f := newFollowing(req)
	return watch(ctx, c, watching[agentplanev1.FollowResponse]{
		open: func(ctx context.Context) (grpc.ServerStreamingClient[agentplanev1.FollowResponse], error) {
			return agentplanev1.NewCommandServiceClient(c).Follow(ctx, f.request())
		},
		snapshot: func(*agentplanev1.FollowResponse) {},
		index:    (*agentplanev1.FollowResponse).GetIndex,
		handle: func(r *agentplanev1.FollowResponse) error {
			for _, i := range r.GetItems() {
				fresh, err := f.take(i)
				if err == nil && fresh {
					err = handle(i)
				}
				if err != nil {
					return err
				}
			}
			f.over = f.over || r.GetDone()
			return nil
		},
		done: func() bool { return f.over },
	})
}

// following is how far a follow has come.
type following struct {
	req     *agentplanev1.FollowRequest
	cursors map[followKey]*agentplanev1.FollowCursor
	order   []followKey
	over    bool
}

type followKey struct {
	invocation string
	attempt    uint32
}

func newFollowing(req *agentplanev1.FollowRequest) *following {
	f := &following{req: req, cursors: make(map[followKey]*agentplanev1.FollowCursor)}
	for _, c := range req.GetCursors() {
		at := f.cursor(c.GetInvocationId(), c.GetAttempt())
		at.Have.Stdout, at.Have.Stderr, at.Ended = c.GetHave().GetStdout(), c.GetHave().GetStderr(), c.GetEnded()
	}
	return f
}

func (f *following) cursor(invocation string, attempt uint32) *agentplanev1.FollowCursor {
	k := followKey{invocation, attempt}
	if f.cursors[k] == nil {
		f.cursors[k] = &agentplanev1.FollowCursor{InvocationId: invocation, Attempt: attempt, Have: &agentplanev1.OutputEnds{}}
		f.order = append(f.order, k)
	}
	return f.cursors[k]
}

// request goes on where the follow is.
func (f *following) request() *agentplanev1.FollowRequest {
	r := &agentplanev1.FollowRequest{CommandId: f.req.GetCommandId(), Agent: f.req.GetAgent(), Attempt: f.req.GetAttempt(), NoWait: f.req.GetNoWait()}
	for _, k := range f.order {
		r.Cursors = append(r.Cursors, f.cursors[k])
	}
	return r
}

// take moves the cursor over an item, and cuts from it what was there before. It says
// whether anything is left.
func (f *following) take(i *agentplanev1.FollowItem) (fresh bool, err error) {
	at := f.cursor(i.GetInvocationId(), i.GetAttempt())
	chunks := i.GetChunks()
	i.Chunks = nil
	for _, c := range chunks {
		have := &at.Have.Stdout
		if c.GetStream() == agentplanev1.OutputStream_OUTPUT_STREAM_STDERR {
			have = &at.Have.Stderr
		}
		end := c.GetOffset() + c.GetGapBytes() + uint64(len(c.GetData()))
		switch {
		case end <= *have:
			continue
		case c.GetOffset() > *have:
			return false, &Error{Code: codes.Internal, Message: fmt.Sprintf(
				"the node left out the bytes from %d to %d of invocation %q", *have, c.GetOffset(), i.GetInvocationId())}
		}
		if known := *have - c.GetOffset(); known > 0 {
			c.Offset = *have
			if c.GetGapBytes() > 0 {
				c.GapBytes -= known
			} else {
				c.Data = c.GetData()[known:]
			}
		}
		*have = end
		i.Chunks = append(i.Chunks, c)
	}
	if at.Ended {
		i.End = nil
	}
	at.Ended = at.Ended || i.GetEnd() != nil
	return len(i.Chunks) > 0 || i.End != nil, nil
}
