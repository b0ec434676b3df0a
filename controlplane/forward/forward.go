package forward

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/agentplane/agentplane/controlplane/consensus"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

var (
	// ErrNoLeader says that nothing happened because no leader was found in time.
	ErrNoLeader = errors.New("the cluster has no leader")
	// ErrUnknown says that it is not known whether the write took effect.
	ErrUnknown = consensus.ErrUnknown
)

// Local is this node's consensus.
type Local interface {
	Propose(ctx context.Context, mutations ...*raftlogv1.Mutation) ([]*raftlogv1.Outcome, error)
	ReadIndex(ctx context.Context) (uint64, error)
	Leader() (consensus.ServerID, consensus.ServerAddress, bool)
	InOffice() (consensus.Office, bool)
	LeaderChanges() (<-chan struct{}, func())
}

// Remote is the connections to peers.
type Remote interface {
	Propose(ctx context.Context, nodeID string, mutations []*raftlogv1.Mutation) ([]*raftlogv1.Outcome, error)
	ReadIndex(ctx context.Context, nodeID string) (uint64, error)
}

// Options configures a Forwarder.
type Options struct {
	NodeID string
	Local  Local
	Remote Remote
	// Hold is how long a call waits while there is no leader; 0 means 7 s.
	Hold time.Duration
	// LeaderSeen is when this node last heard of a leader; zero is not since it started. A
	// call that comes later than that waits for less. Nil: nobody knows, and all wait for Hold.
	LeaderSeen func() time.Time
	// Retry is the pause between tries; 0 means 20 ms.
	Retry time.Duration
}

// Forwarder reaches the leader, wherever it is.
type Forwarder struct {
	o     Options
	reads reads
}

// New returns a Forwarder.
func New(o Options) *Forwarder {
	if o.Hold == 0 {
		o.Hold = 7 * time.Second
	}
	if o.Retry == 0 {
		o.Retry = 20 * time.Millisecond
	}
	return &Forwarder{o: o}
}

// verdict says what one try at the leader has come to.
type verdict int

const (
	done    verdict = iota // the answer stands, be it an error
	nothing                // it did nothing: try again
	unknown                // it may have done something: repeating is safe, forgetting is not
)

// Propose proposes mutations of this node and answers one outcome for each. The
// error is ErrNoLeader or another when nothing happened, and ErrUnknown when that is
// not known. It tries again until the caller's deadline, or Hold when there is none.
func (f *Forwarder) Propose(ctx context.Context, mutations ...*raftlogv1.Mutation) ([]*raftlogv1.Outcome, error) {
	var outcomes []*raftlogv1.Outcome
	err := f.try(ctx, func(ctx context.Context, leader string) (v verdict, err error) {
		if leader == f.o.NodeID {
			outcomes, err = f.o.Local.Propose(ctx, mutations...)
			v = judgeLocal(err)
		} else {
			outcomes, err = f.o.Remote.Propose(ctx, leader, mutations)
			v = judgeRemote(err)
		}
		if err == nil && notApplied(outcomes) {
			return nothing, errDeposed
		}
		return v, err
	})
	return outcomes, err
}

var errDeposed = errors.New("the leader was deposed before the entry was applied")

func notApplied(outcomes []*raftlogv1.Outcome) bool {
	for _, o := range outcomes { // of one entry: all or none
		if o.GetCode() == raftlogv1.Code_CODE_NOT_APPLIED {
			return true
		}
	}
	return false
}

// Read answers an index that holds every write acknowledged before the call began.
// Reads of a follower share what they ask the leader, as the leader's share its rounds.
func (f *Forwarder) Read(ctx context.Context) (uint64, error) {
	var index uint64
	err := f.try(ctx, func(ctx context.Context, leader string) (verdict, error) {
		var err error
		if leader == f.o.NodeID {
			index, err = f.o.Local.ReadIndex(ctx)
		} else {
			index, err = f.reads.at(f, leader).Read(ctx)
		}
		if err != nil {
			return nothing, err // a read does nothing ever
		}
		return done, nil
	})
	return index, err
}

// Call runs a whole call where the leader is: local when that is this node, remote
// otherwise. Both answer gRPC errors with details.
func (f *Forwarder) Call(ctx context.Context, local func(context.Context) error, remote func(ctx context.Context, leader string) error) error {
	return f.try(ctx, func(ctx context.Context, leader string) (verdict, error) {
		var err error
		if leader == f.o.NodeID {
			err = local(ctx)
		} else {
			err = remote(ctx, leader)
		}
		return judgeRemote(err), err
	})
}

// try calls once with the leader's id until the answer stands. Its error is a
// gRPC status of the leader, or one of this package's.
func (f *Forwarder) try(ctx context.Context, once func(ctx context.Context, leader string) (verdict, error)) error {
	if _, has := ctx.Deadline(); !has {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, f.o.Hold)
		defer cancel()
	}
	var lost, last error
	// Where the leader is this node, most calls end here, without watching who leads.
	_, here := f.o.Local.InOffice()
	if here {
		v, err := once(ctx, f.o.NodeID)
		switch v {
		case done:
			return err
		case unknown:
			lost = err
		}
		last = err
	}
	changes, end := f.o.Local.LeaderChanges()
	defer end()
	held := time.NewTimer(f.hold())
	defer held.Stop()
	for ; ; here = false {
		if leader, ok := f.leader(); ok && !here {
			v, err := f.at(ctx, leader, changes, once)
			switch {
			case v == done && (err == nil || lost == nil):
				return err
			case v == unknown:
				lost = err
			}
			last = err
		}
		pause := time.NewTimer(f.o.Retry)
		select {
		case <-changes:
		case <-pause.C:
		case <-held.C:
			pause.Stop()
			return f.giveUp(lost, last)
		case <-ctx.Done():
			pause.Stop()
			return f.giveUp(lost, errors.Join(last, ctx.Err()))
		}
		pause.Stop()
	}
}

// leastHold is the part of Hold for which a call is held however long nobody leads.
const leastHold = 7

// hold is how long a call is held: until Hold after a leader was last heard, when every
// election should be over, and a moment at least.
func (f *Forwarder) hold() time.Duration {
	if f.o.LeaderSeen == nil {
		return f.o.Hold
	}
	seen := f.o.LeaderSeen()
	if seen.IsZero() { // not since the start, which may be a moment ago
		return f.o.Hold
	}
	return max(f.o.Hold-time.Since(seen), f.o.Hold/leastHold)
}

// errReplaced says that another node leads now: what the old leader was asked is
// not waited for any more.
var errReplaced = errors.New("another node leads by now")

// at calls once. A call to another node is let go when that node stops being the
// leader: one that lost power answers nothing, and its connection breaks late.
func (f *Forwarder) at(ctx context.Context, leader string, changes <-chan struct{}, once func(ctx context.Context, leader string) (verdict, error)) (verdict, error) {
	if leader == f.o.NodeID {
		return once(ctx, leader)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for {
			select {
			case <-changes:
				if now, ok := f.leader(); ok && now != leader {
					cancel(errReplaced)
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	v, err := once(ctx, leader)
	cancel(nil)
	<-watched
	return v, err
}

func (f *Forwarder) giveUp(lost, last error) error {
	switch {
	case lost != nil && errors.Is(lost, ErrUnknown):
		return lost
	case lost != nil:
		return fmt.Errorf("%w: %w", ErrUnknown, lost)
	case last != nil:
		return fmt.Errorf("%w that answers: %w", ErrNoLeader, last)
	default:
		return ErrNoLeader
	}
}

// leader answers who leads: this node once it is in office, else whom raft names.
func (f *Forwarder) leader() (string, bool) {
	if _, ok := f.o.Local.InOffice(); ok {
		return f.o.NodeID, true
	}
	id, _, ok := f.o.Local.Leader()
	if !ok || string(id) == f.o.NodeID { // this one is taking office
		return "", false
	}
	return string(id), true
}

func judgeLocal(err error) verdict {
	switch {
	case err == nil:
		return done
	case errors.Is(err, consensus.ErrUnknown):
		return unknown
	case errors.Is(err, consensus.ErrNotLeader):
		return nothing
	default: // too large, a backlog, shutting down: nothing happened, and trying again at once is of no use
		return done
	}
}

// judgeRemote reads the status that another node answered. What carries a
// detail was said by the node on purpose; a broken connection carries none.
func judgeRemote(err error) verdict {
	if err == nil {
		return done
	}
	switch d := agentplanev1.DetailOf(err); {
	case d.GetOutcomeUnknown():
		return unknown
	case d.GetReason() == ReasonNotLeader:
		return nothing
	case d != nil:
		return done
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Unknown, codes.Internal:
		return unknown
	default:
		return done
	}
}

// ReasonNotLeader marks a status that says: nothing happened, ask the leader.
const ReasonNotLeader = "not_leader"
