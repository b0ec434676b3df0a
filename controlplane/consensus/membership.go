package consensus

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/raft"
)

// Bootstrap makes this node the only voter of a new cluster. It answers ErrHasState
// where a log, a term or a snapshot is, also one of an earlier Bootstrap.
func (h *Host) Bootstrap() error {
	err := h.raft.BootstrapCluster(raft.Configuration{Servers: []raft.Server{{
		Suffrage: raft.Voter,
		ID:       h.opts.NodeID,
		Address:  h.opts.Transport.LocalAddr(),
	}}}).Error()
	if errors.Is(err, raft.ErrCantBootstrap) {
		return ErrHasState
	}
	if err != nil {
		return fmt.Errorf("bootstrap: %w", err)
	}
	return nil
}

// Configuration answers raft's latest configuration and its index. It may not be
// committed yet.
func (h *Host) Configuration() (raft.Configuration, uint64) {
	f := h.raft.GetConfiguration() // a copy that is always at hand
	return f.Configuration(), f.Index()
}

// AddNonvoter adds a node that gets the log and does not vote. previous is the index
// of the configuration that the decision was taken on (0: any); when it has moved
// the answer is ErrConfigurationChanged.
func (h *Host) AddNonvoter(ctx context.Context, id raft.ServerID, addr raft.ServerAddress, previous uint64) error {
	return h.change(ctx, "add non-voter", func() raft.IndexFuture {
		return h.raft.AddNonvoter(id, addr, previous, enqueueTimeout)
	})
}

// Promote makes a non-voter a voter. The caller has seen that it is caught up: a
// blank voter of a small cluster takes the quorum away until it has the log.
func (h *Host) Promote(ctx context.Context, id raft.ServerID, previous uint64) error {
	cfg, _ := h.Configuration()
	for _, s := range cfg.Servers {
		if s.ID == id {
			return h.change(ctx, "promote", func() raft.IndexFuture {
				return h.raft.AddVoter(id, s.Address, previous, enqueueTimeout)
			})
		}
	}
	return fmt.Errorf("promote %q: it is not in the configuration: add it as a non-voter first", id)
}

// Remove takes another node out of the configuration. A leader that leaves transfers
// first, and the new leader removes it.
func (h *Host) Remove(ctx context.Context, id raft.ServerID, previous uint64) error {
	if id == h.opts.NodeID {
		return fmt.Errorf("remove %q: a leader cannot remove itself: transfer leadership first", id)
	}
	return h.change(ctx, "remove", func() raft.IndexFuture {
		return h.raft.RemoveServer(id, previous, enqueueTimeout)
	})
}

// change runs one change of configuration. When ctx ends first the outcome is
// unknown.
func (h *Host) change(ctx context.Context, what string, f func() raft.IndexFuture) error {
	if h.office.Load() == nil {
		return fmt.Errorf("%s: %w", what, h.notLeader())
	}
	done := make(chan error, 1)
	if !h.tasks.Go(func() { done <- f().Error() }) {
		return ErrShutdown
	}
	select {
	case err := <-done:
		switch {
		case err == nil:
			return nil
		case strings.HasPrefix(err.Error(), "configuration changed since"):
			return fmt.Errorf("%s: %w: %w", what, ErrConfigurationChanged, err)
		default:
			return fmt.Errorf("%s: %w", what, h.classify(err))
		}
	case <-ctx.Done():
		return fmt.Errorf("%s: %w: %w", what, ErrUnknown, ctx.Err())
	}
}

// Snapshot takes a snapshot of this node's state now. There being nothing new is no
// error.
func (h *Host) Snapshot(ctx context.Context) error {
	done := make(chan error, 1)
	if !h.tasks.Go(func() { done <- h.raft.Snapshot().Error() }) {
		return ErrShutdown
	}
	select {
	case err := <-done:
		if err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
			return fmt.Errorf("snapshot: %w", err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("snapshot: %w", ctx.Err())
	}
}
