package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// The metadata that calls carry, all in decimal.
const (
	AppliedIndexKey = "agentplane-applied-index" // trailer of every answer
	MinIndexKey     = "agentplane-min-index"     // of a request
	// LeaderAgeKey is in the trailer of every answer of a node that has heard of a
	// leader since it started: how many milliseconds ago. The node's own state may be
	// that much older than the cluster's.
	LeaderAgeKey = "agentplane-leader-age-ms"
)

// maxBackoff bounds the pause between two rounds over all addresses.
const maxBackoff = 2 * time.Second

// Invoke makes a unary call on the first node that answers, as the package says.
// Every error is an *Error.
func (c *Client) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	used := c.fresh.count.Load()
	err := c.invoke(ctx, method, args, reply, opts...)
	if err == nil || c.opts.OnExpired == nil || AsError(err).Reason != reasonExpired || !c.fresh.refresh(ctx, used, c.opts.OnExpired) {
		return err
	}
	return c.invoke(ctx, method, args, reply, opts...)
}

func (c *Client) invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	ctx, cancel := context.WithTimeout(ctx, c.opts.CallTimeout)
	defer cancel()
	var (
		start   = time.Now()
		write   = !isRead(method)
		fails   = failures{read: !write}
		reached bool
	)
	for round := 0; ; round++ {
		hopeless, leaderless, said := true, true, false
		for _, address := range c.route() {
			e := c.try(ctx, address, round, write, method, args, reply, opts)
			if e == nil {
				c.prefer(address)
				c.learn(reply)
				return nil
			}
			if ctx.Err() != nil && !e.answered {
				// The caller's end, not this node, broke the try: what other
				// nodes said before tells more.
				fails.unknown = fails.unknown || e.OutcomeUnknown
				if fails.newest == nil {
					fails.add(e)
				}
				return fails.final(ctx.Err(), time.Since(start))
			}
			fails.add(e)
			hopeless = hopeless && e.hopeless
			said = said || e.saysNoLeader()
			leaderless = leaderless && (e.saysNoLeader() || !e.answered && !e.OutcomeUnknown && !errors.Is(e.cause, errReadTry))
			reached = reached || e.answered || e.OutcomeUnknown || errors.Is(e.cause, errReadTry)
			if !e.again || errors.Is(e.cause, errClosed) {
				return fails.final(nil, 0)
			}
			c.leave(address, e)
		}
		if said && leaderless && !fails.unknown && time.Since(start) > c.opts.Leaderless {
			return fails.final(nil, 0) // whoever could know of a leader was asked
		}
		if hopeless || !reached && time.Since(start) > c.opts.Unreachable {
			return fails.final(nil, 0)
		}
		if !pause(ctx, max(jitter(round), fails.newest.RetryAfter)) {
			return fails.final(ctx.Err(), time.Since(start))
		}
	}
}

// try makes the call once, on one node. nil is success.
func (c *Client) try(ctx context.Context, address string, round int, write bool, method string, args, reply any, opts []grpc.CallOption) *Error {
	cn, err := c.connect(ctx, address, grown(c.opts.ConnectTimeout, round))
	if err != nil {
		return connectError(err, address)
	}
	defer cn.release()
	// The interrupted read is told from the caller's deadline by its cause.
	tryCtx := ctx
	if !write {
		var cancel context.CancelFunc
		tryCtx, cancel = context.WithTimeoutCause(ctx, c.opts.ReadTry<<min(2*round, 2), errReadTry)
		defer cancel()
	}
	var note delivery
	var trailer metadata.MD
	out := context.WithValue(c.outgoing(tryCtx, args), deliveryKey{}, &note)
	err = cn.cc.Invoke(out, method, args, reply, append(slices.Clip(opts), grpc.Trailer(&trailer))...)
	c.noteTrailer(trailer)
	if err == nil {
		return nil
	}
	e := tryError(err, address, write, note.sent.Load())
	c.noteIndex(e.appliedIndex)
	c.blame(ctx, tryCtx, cn, e)
	return e
}

// blame corrects an error that came from this side of the wire.
func (c *Client) blame(ctx, tryCtx context.Context, cn *conn, e *Error) {
	if e.answered && e.Code == codes.DeadlineExceeded && tryCtx != ctx && ctx.Err() == nil {
		// The node was quicker to see the end of a read's one try.
		e.again = true
	}
	if e.answered {
		return
	}
	if ctx.Err() != nil {
		e.Message = "it did not answer in time"
		return
	}
	if cause := cn.condemned(); cause != nil {
		e.Code, e.Message, e.cause, e.again = codes.Unavailable, cause.Error(), cause, true
		return
	}
	if errors.Is(context.Cause(tryCtx), errReadTry) {
		e.Code, e.Message, e.cause, e.again = codes.Unavailable, "it holds the read", errReadTry, true
		return
	}
	if e.Code == codes.Canceled || e.Code == codes.DeadlineExceeded {
		// The node was quicker to see the end of the time that it was given, and
		// broke the stream.
		e.Code, e.Message, e.again = codes.Unavailable, "it did not answer in time", true
		if tryCtx != ctx {
			e.cause = errReadTry
		}
		return
	}
	if why := cn.wire.why(); why != nil && e.Code == codes.Unavailable {
		e.Message = "the connection broke: " + why.Error()
	}
}

// outgoing adds the index that the answer must not be older than.
func (c *Client) outgoing(ctx context.Context, args any) context.Context {
	index := c.index.Load()
	if s, ok := args.(interface{ GetStale() bool }); index == 0 || ok && s.GetStale() {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, MinIndexKey, strconv.FormatUint(index, 10))
}

func (c *Client) noteTrailer(md metadata.MD) {
	for _, v := range md.Get(AppliedIndexKey) {
		if index, err := strconv.ParseUint(v, 10, 64); err == nil {
			c.noteIndex(index)
		}
	}
	ms := int64(-1)
	if age, known := LeaderAgeOf(md); known {
		ms = age.Milliseconds()
	}
	c.leaderAge.Store(ms)
}

// LeaderAgeOf reads out of a trailer how long before its answer the node had heard of a
// leader; false when it has not heard of one since it started.
func LeaderAgeOf(trailer metadata.MD) (time.Duration, bool) {
	age, known := time.Duration(0), false
	for _, v := range trailer.Get(LeaderAgeKey) {
		if ms, err := strconv.ParseInt(v, 10, 64); err == nil && ms >= 0 {
			age, known = time.Duration(ms)*time.Millisecond, true
		}
	}
	return age, known
}

func (c *Client) noteIndex(index uint64) {
	for {
		old := c.index.Load()
		if index <= old || c.index.CompareAndSwap(old, index) {
			return
		}
	}
}

// isRead reports whether a method changes nothing: its permission says so.
// Whatever is not known counts as a write.
func isRead(method string) bool { return reads()[method] }

// reads are the methods that change nothing, by their full name.
var reads = sync.OnceValue(func() map[string]bool {
	all := make(map[string]bool)
	protoregistry.GlobalFiles.RangeFilesByPackage(agentplanev1.File_agentplane_v1_common_proto.Package(), func(file protoreflect.FileDescriptor) bool {
		for i := range file.Services().Len() {
			service := file.Services().Get(i)
			for k := range service.Methods().Len() {
				method := service.Methods().Get(k)
				full := "/" + string(service.FullName()) + "/" + string(method.Name())
				permission, _ := proto.GetExtension(method.Options(), agentplanev1.E_Permission).(string)
				if strings.HasSuffix(permission, ".read") || full == agentplanev1.EnrollService_ProveBundle_FullMethodName {
					all[full] = true
				}
			}
		}
		return true
	})
	return all
})

// grown doubles d with each round, at most eight times over.
func grown(d time.Duration, round int) time.Duration { return d << min(round, 3) }

// jitter returns a random pause before the round after this one, so that many
// callers that lost the same node do not come back together.
func jitter(round int) time.Duration {
	bound := min(100*time.Millisecond<<min(round, 10), maxBackoff)
	return bound/4 + rand.N(bound*3/4)
}

// pause waits and reports whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
