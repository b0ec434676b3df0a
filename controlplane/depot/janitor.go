package depot

import (
	"context"
	"slices"
	"time"

	"github.com/agentplane/agentplane/fsm"
	"github.com/agentplane/agentplane/proto/blob"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

const (
	// copiesAtOnce bounds how much is copied again after one look, expiredAtOnce the rows
	// that one mutation forgets.
	copiesAtOnce  = 16
	expiredAtOnce = 256
)

// Run removes files that no row names, and copies again what too few nodes keep, until ctx
// ends.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(s.o.SweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			s.sweep(ctx)
		}
	}
}

// sweep looks at everything. A node whose state lags knows nothing of new blobs: that a row
// is not there counts only after the state has caught up.
func (s *Service) sweep(ctx context.Context) {
	settled := s.o.Store.settled(s.o.SettledFor)
	if n, _ := s.o.Store.Stats(); n == 0 && !names(s.o.Machine.View(), s.o.NodeID) {
		return
	}
	within, cancel := context.WithTimeout(ctx, max(s.o.SweepEvery/2, time.Second))
	v, err := s.o.Read(within, false)
	cancel()
	if err != nil {
		return
	}
	for _, r := range settled {
		if _, found := v.Blob(r.Sum); found {
			continue
		}
		if err := s.o.Store.Remove(r); err != nil {
			s.log.Warn("blob not removed", "sha256", r.Sum, "err", err)
		}
	}
	copies := 0
	for row := range v.Blobs() {
		r := blob.Ref{Sum: row.GetSha256(), Size: int64(row.GetSize())}
		left := s.left(v, row)
		switch {
		case ctx.Err() != nil || copies == copiesAtOnce:
			return
		case slices.Contains(left, s.o.NodeID) && !s.o.Store.Has(r): // its disk is another one
			if err := s.get(ctx, r); err != nil {
				s.log.Warn("this node is said to keep a blob, has lost it, and finds no other that has it", "sha256", r.Sum, "err", err)
			}
			copies++
		case len(left) == 0 && s.o.Store.Has(r): // a copy made for an agent
			s.copyAgain(ctx, r, []string{s.o.NodeID})
			copies++
		case len(left) > 0 && left[0] == s.o.NodeID && len(left) < neededOf(len(s.o.Voters())):
			s.copyAgain(ctx, r, left)
			copies++
		}
	}
}

// names says whether a row says that the node keeps something.
func names(v *fsm.View, nodeID string) bool {
	for row := range v.Blobs() {
		if slices.Contains(row.GetNodeIds(), nodeID) {
			return true
		}
	}
	return false
}

// left lists the nodes that keep a blob and are still in the cluster, by id.
func (s *Service) left(v *fsm.View, row *raftlogv1.Blob) (left []string) {
	for n := range v.RegisteredNodes() { // by id
		if slices.Contains(row.GetNodeIds(), n.GetId()) {
			left = append(left, n.GetId())
		}
	}
	return left
}

func (s *Service) copyAgain(ctx context.Context, r blob.Ref, have []string) {
	s.log.Info("a blob is copied again: nodes that kept it have left, or there are more", "sha256", r.Sum, "bytes", r.Size)
	nodes, err := s.copy(ctx, r, have)
	if err == nil {
		_, err = s.record(ctx, r, nodes)
	}
	if err != nil && ctx.Err() == nil {
		s.log.Warn("the blob was not copied again yet", "sha256", r.Sum, "err", err)
	}
}

// RunOffice is what the leader does: it proposes to forget what no command has named for
// long, until ctx ends.
func (s *Service) RunOffice(ctx context.Context, leader Proposer) error {
	tick := time.NewTicker(s.o.SweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		v := s.o.Machine.View()
		for row := range v.IdleBlobs() {
			if s.now(v)-row.GetIdleSince() < int64(s.o.Keep) {
				break
			}
			_, err := leader.Propose(ctx, &raftlogv1.Mutation{Kind: &raftlogv1.Mutation_ExpireBlobs{ExpireBlobs: &raftlogv1.ExpireBlobs{
				Keep: int64(s.o.Keep), Max: expiredAtOnce,
			}}})
			if err != nil && ctx.Err() == nil {
				s.log.Warn("blobs that no command needs were not forgotten yet", "err", err)
			}
			break
		}
	}
}

func (s *Service) now(v *fsm.View) int64 {
	if s.o.Now == nil {
		return v.Now()
	}
	return max(v.Now(), s.o.Now().UnixNano())
}
