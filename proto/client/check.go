package client

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// stateTry is how long one node is given to read its state and answer.
const stateTry = 10 * time.Second

// NodeState is what one node holds, or why that is not known.
type NodeState struct {
	Member *agentplanev1.Member
	State  *agentplanev1.CheckStateResponse // nil when Err is not
	Err    error
}

// CheckStates asks every node for the hash of its state until all answer for the same index,
// or ctx ends: then it returns what each said last. It returns early when two differ, and when
// a node refuses for good. Each round costs each node the reading of its whole state.
func (c *Client) CheckStates(ctx context.Context) ([]NodeState, error) {
	members, err := c.Members(ctx)
	if err != nil {
		return nil, err
	}
	states := make([]NodeState, len(members))
	var ahead aim
	for round := 0; ; round++ {
		index := ahead.next(states, time.Now())
		fresh := make([]NodeState, len(members))
		var asked sync.WaitGroup
		for i, m := range members {
			asked.Go(func() { fresh[i] = c.checkState(ctx, m, index) })
		}
		asked.Wait()
		for i := range fresh {
			// What ended with the time of the caller tells less than what was said before.
			if fresh[i].Err == nil || ctx.Err() == nil || states[i].Member == nil {
				states[i] = fresh[i]
			}
		}
		if SameIndex(states) || !SameState(states) || refused(states) || ctx.Err() != nil {
			return states, nil
		}
		// The others sum their states in vain while one does not answer: ever more rarely. When
		// all answer the next index is aimed at from this round, which must not be long ago.
		silent := slices.ContainsFunc(fresh, func(s NodeState) bool { return s.Err != nil })
		if !silent {
			round = 0
		}
		if !pause(ctx, jitter(round)) {
			return states, nil
		}
	}
}

// SameIndex says that all nodes have answered for one index.
func SameIndex(states []NodeState) bool {
	return !slices.ContainsFunc(states, func(s NodeState) bool {
		return s.Err != nil || s.State.GetAppliedIndex() != states[0].State.GetAppliedIndex()
	})
}

// SameState says that no two nodes that have answered for the same index hold different
// states.
func SameState(states []NodeState) bool {
	hashes := make(map[uint64][]byte)
	for _, s := range states {
		if s.Err != nil {
			continue
		}
		if have, ok := hashes[s.State.GetAppliedIndex()]; ok && !bytes.Equal(have, s.State.GetHash()) {
			return false
		}
		hashes[s.State.GetAppliedIndex()] = s.State.GetHash()
	}
	return true
}

// refused says that a node will not answer however often it is asked.
func refused(states []NodeState) bool {
	return slices.ContainsFunc(states, func(s NodeState) bool {
		if s.Err == nil {
			return false
		}
		switch AsError(s.Err).Code {
		case codes.PermissionDenied, codes.Unauthenticated, codes.Unimplemented:
			return true
		}
		return false
	})
}

func (c *Client) checkState(ctx context.Context, m *agentplanev1.Member, index uint64) NodeState {
	ctx, cancel := context.WithTimeout(ctx, stateTry)
	defer cancel()
	reply := new(agentplanev1.CheckStateResponse)
	req := &agentplanev1.CheckStateRequest{Index: index}
	if e := c.try(ctx, m.GetAddress(), 0, true, agentplanev1.ClusterService_CheckState_FullMethodName, req, reply, nil); e != nil {
		return NodeState{Member: m, Err: e}
	}
	if reply.GetNodeId() != m.GetId() {
		return NodeState{Member: m, Err: &Error{
			Code: codes.Unavailable, Address: m.GetAddress(), Message: fmt.Sprintf("node %s answers there", reply.GetNodeId()),
		}}
	}
	return NodeState{Member: m, State: reply}
}

// aim chooses the index that all nodes are asked for: none at first, for a cluster that rests
// has one; then one that none has yet, by how fast the highest one grew.
type aim struct {
	index uint64
	at    time.Time
}

// aheadFor is how far ahead, in time, an index is that no node should have when it is asked.
const aheadFor = 300 * time.Millisecond

func (a *aim) next(states []NodeState, now time.Time) uint64 {
	highest := uint64(0)
	for _, s := range states {
		highest = max(highest, s.State.GetAppliedIndex())
	}
	if highest == 0 {
		return 0
	}
	rate := 0.0
	if a.index > 0 && highest > a.index && now.After(a.at) {
		rate = float64(highest-a.index) / now.Sub(a.at).Seconds()
	}
	a.index, a.at = highest, now
	return highest + 1 + uint64(rate*aheadFor.Seconds())
}
