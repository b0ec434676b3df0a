package consensus

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"time"

	"github.com/hashicorp/raft"
)

// Transfer hands leadership to the voter to, or, when to is empty, to the willing
// voter whose log is longest. It returns nil once this node no longer leads. While
// it runs, proposals answer ErrNotLeader.
func (h *Host) Transfer(ctx context.Context, to raft.ServerID) error {
	if h.raft.State() != raft.Leader {
		return fmt.Errorf("transfer: %w", h.notLeader())
	}
	target, err := h.successor(ctx, to)
	if err != nil {
		return fmt.Errorf("transfer: %w", err)
	}
	serial := h.transferring.Add(1)
	done := make(chan error, 1)
	if !h.tasks.Go(func() {
		f := h.raft.LeadershipTransferToServer(target.ID, target.Address)
		endsWith(f, h.closing)
		h.tasks.Go(func() { done <- f.Error() })
		h.guardTransfer(serial)
	}) {
		return fmt.Errorf("transfer: %w", ErrShutdown)
	}
	select {
	case err = <-done:
	case <-ctx.Done():
		err = ctx.Err()
	case <-h.closing:
		err = ErrShutdown
	}
	if err != nil {
		return fmt.Errorf("transfer to %q: %w", target.ID, err)
	}
	h.log.Info("handed over leadership", "to", string(target.ID), "term", h.raft.CurrentTerm())
	return nil
}

// endsWith has the future of a transfer answer when the channel is closed, and says
// whether it will. raft leaves unanswered what lies in its queue of transfers as it shuts
// down; of its futures that of a transfer alone has no ShutdownCh, which is there for
// this and cannot be named from outside.
func endsWith(f raft.Future, closed chan struct{}) bool {
	v := reflect.ValueOf(f)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		return false // it has its answer
	}
	field := v.Elem().FieldByName("ShutdownCh")
	if !field.IsValid() || !field.CanSet() || field.Type() != reflect.TypeFor[chan struct{}]() {
		return false
	}
	field.Set(reflect.ValueOf(closed))
	return true
}

// guardTransfer ends the process when raft still calls a transfer in progress twice
// the election timeout after it began: it would refuse every entry from then on.
func (h *Host) guardTransfer(serial uint64) {
	select {
	case <-time.After(2 * h.opts.Profile.Election):
	case <-h.closing:
		return
	}
	if h.transferring.Load() != serial {
		return // the later transfer has a watchdog of its own
	}
	if h.raft.State() == raft.Leader && h.transferStuck() {
		h.fatal(fmt.Errorf("leadership transfer is still in progress after %s (raft#696): this node would refuse every entry", 2*h.opts.Profile.Election))
	}
}

// transferStuck asks raft for a change of configuration that it must refuse, because
// the configuration at the highest of all indexes is not the present one. It says
// first whether a transfer is in progress.
func (h *Host) transferStuck() bool {
	err := h.raft.RemoveServer(h.opts.NodeID, math.MaxUint64, h.opts.Profile.Election).Error()
	return errors.Is(err, raft.ErrLeadershipTransferInProgress)
}

// successor picks who takes over. A willing voter with the longest log gets it at
// once; one that lags makes raft wait, which is where its transfers get stuck.
func (h *Host) successor(ctx context.Context, to raft.ServerID) (raft.Server, error) {
	cfg, _ := h.Configuration()
	if to == h.opts.NodeID {
		return raft.Server{}, fmt.Errorf("%q leads already", to)
	}
	ctx, cancel := context.WithTimeout(ctx, h.opts.Profile.Election)
	defer cancel()
	answers, asked := h.askVoters(ctx, cfg)
	term := h.raft.CurrentTerm()
	var best answer
	for range asked {
		select {
		case a := <-answers:
			switch {
			case a.err != nil, a.reply.Term != term, to != "" && a.server.ID != to:
			case to == "" && !a.reply.Willing:
			case best.server.ID == "" || a.reply.LastIndex > best.reply.LastIndex:
				best = a
			}
		case <-ctx.Done():
		}
		// Those who do not answer are not waited for when one is as good as me.
		if ctx.Err() != nil || best.reply.LastIndex >= h.raft.LastIndex() {
			break
		}
	}
	if best.server.ID == "" {
		return raft.Server{}, ErrNoSuccessor
	}
	return best.server, nil
}
