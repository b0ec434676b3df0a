package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

var (
	errNoAnswer = errors.New("the node does not answer")
	errSilent   = errors.New("the node fell silent")
	// errOldIncarnation refuses a node: old cannot command new.
	errOldIncarnation = errors.New("the node lives in an older incarnation of the cluster")
	errWrongCluster   = errors.New("the node belongs to another cluster")
)

// link is an open stream on which the node has spoken first. It is not a session yet.
type link struct {
	node      Node
	stream    Stream
	challenge *agentplanev1.Challenge

	ctx    context.Context // the stream's
	cancel context.CancelCauseFunc
	free   func()
}

// close breaks the stream and frees its connection.
func (l *link) close() {
	l.cancel(context.Canceled)
	if l.free != nil {
		l.free()
	}
}

// receive waits for one message, at most for d and no longer than ctx.
func (l *link) receive(ctx context.Context, d time.Duration) (*agentplanev1.SessionResponse, error) {
	timer := time.AfterFunc(d, func() { l.cancel(errNoAnswer) })
	defer timer.Stop()
	stop := context.AfterFunc(ctx, func() { l.cancel(context.Cause(ctx)) })
	defer stop()
	m, err := l.stream.Recv()
	if err != nil {
		return nil, l.cause(err)
	}
	return m, nil
}

// cause prefers why the stream was broken from here to what grpc calls it.
func (l *link) cause(err error) error {
	if l.ctx.Err() != nil {
		return context.Cause(l.ctx)
	}
	return err
}

// connect opens a stream to the node and hears its Challenge. The stream is independent
// of ctx once connect has returned.
func (k *Keeper) connect(ctx context.Context, n Node) (_ *link, err error) {
	l := &link{node: n}
	l.ctx, l.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	timer := time.AfterFunc(k.o.AnswerTimeout, func() { l.cancel(errNoAnswer) })
	stop := context.AfterFunc(ctx, func() { l.cancel(context.Cause(ctx)) })
	l.stream, l.free, err = k.o.Opener.Open(l.ctx, n) //nolint:contextcheck // the stream outlives ctx, which ends it by the AfterFunc above
	timer.Stop()
	stop()
	if err != nil {
		return nil, fmt.Errorf("open session at %s: %w", n.Address, l.cause(err))
	}
	m, err := l.receive(ctx, k.o.AnswerTimeout)
	if err != nil {
		return nil, fmt.Errorf("open session at %s: %w", n.Address, err)
	}
	switch m := m.GetMessage().(type) {
	case *agentplanev1.SessionResponse_Challenge:
		l.challenge = m.Challenge
	case *agentplanev1.SessionResponse_Refused:
		return nil, fmt.Errorf("open session at %s: %w", n.Address, refused(m.Refused))
	default:
		return nil, fmt.Errorf("open session at %s: it begins with %T instead of a challenge", n.Address, m)
	}
	if err := k.acceptable(l.challenge.GetClusterId(), l.challenge.GetIncarnation()); err != nil {
		return nil, fmt.Errorf("open session at %s: %w", n.Address, err)
	}
	return l, nil
}

// acceptable refuses a node of another cluster or of an older life of this one.
func (k *Keeper) acceptable(clusterID string, inc *agentplanev1.Incarnation) error {
	if clusterID != k.o.ClusterID {
		return fmt.Errorf("%w: %.64q instead of %q", errWrongCluster, clusterID, k.o.ClusterID)
	}
	seen := k.seen()
	switch {
	case !comparesIncarnations:
	case inc.GetNumber() < seen.GetNumber():
		return fmt.Errorf("%w: %d, but %d has been seen", errOldIncarnation, inc.GetNumber(), seen.GetNumber())
	case inc.GetNumber() == seen.GetNumber() && len(seen.GetId()) > 0 && !bytes.Equal(inc.GetId(), seen.GetId()):
		return fmt.Errorf("%w: number %d has id %x here, but %x has been seen: the cluster was recovered twice", errOldIncarnation, inc.GetNumber(), inc.GetId(), seen.GetId())
	}
	return nil
}

// seen is the newest incarnation that the agent has journalled or trusted.
func (k *Keeper) seen() *agentplanev1.Incarnation {
	journalled, trusted := k.o.Work.Incarnation(), k.o.Trust.Incarnation()
	if journalled.GetNumber() > trusted.GetNumber() {
		return journalled
	}
	return trusted
}
