package sim

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/agentplane/agentplane/controlplane/consensus/consensustest"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// removeNode removes a node from the cluster; in the end a new one joins on its host,
// with its name and address and an empty disk. An operator does not go on to another node
// before agents have met the new one: an agent that knows none of the nodes that there are
// has to enrol again.
func (w *World) removeNode(f Fault) ending {
	n, met := w.nodeOf(f.Who), w.allMet()
	w.mu.Lock()
	busy := n.leaving || n.joining || w.imaged != nil || !met
	n.leaving = n.leaving || !busy
	w.mu.Unlock()
	if busy {
		return nil
	}
	ctx, cancel := context.WithTimeout(w.ctx, 5*time.Second)
	defer cancel()
	w.remove(ctx, n)
	return func() bool { w.joinAgain(n, 10*time.Second); return false } // counted when it has gone
}

func (w *World) remove(ctx context.Context, n *node) {
	w.mu.Lock()
	id := n.id
	w.mu.Unlock()
	_, err := agentplanev1.NewClusterServiceClient(w.operators.clients[0]).RemoveMember(ctx, &agentplanev1.RemoveMemberRequest{Member: id})
	w.trace.Note(n.name, "is removed: %v", err)
}

// metWithin is how long after a node has joined agents in a session have heard of it.
const metWithin = 2 * time.Second

// allMet says that no node was replaced yet, or that all agents are in a session, in which they
// hear of nodes.
func (w *World) allMet() bool {
	w.mu.Lock()
	at := w.replacedAt
	w.mu.Unlock()
	v, met := w.newest(), 0
	for a := range v.Agents() {
		if s, ok := v.Session(a.GetId()); ok && s.GetState() == ready {
			met++
		}
	}
	return at.IsZero() || time.Since(at) > metWithin && met >= len(w.agents)
}

// joinAgain has a node whose removal was asked for begin anew, if the cluster does not
// have it any more, and goes on with a join that has begun.
func (w *World) joinAgain(n *node, within time.Duration) {
	ctx, cancel := context.WithTimeout(w.ctx, within)
	defer cancel()
	w.mu.Lock()
	leaving, joining, behind, id := n.leaving, n.joining, n.behind, n.id
	w.mu.Unlock()
	if leaving && behind {
		w.remove(ctx, n)
	}
	cluster := agentplanev1.NewClusterServiceClient(w.operators.clients[0])
	if leaving {
		all, err := cluster.ListMembers(ctx, &agentplanev1.ListMembersRequest{})
		if err != nil || slices.ContainsFunc(all.GetMembers(), func(m *agentplanev1.Member) bool { return m.GetId() == id }) {
			return
		}
		if !behind {
			w.note("replacement of node")
		}
		n.kill(false)
		w.mu.Lock()
		n.leaving, n.joining, joining = false, true, true
		n.older, n.behind, n.starts = false, false, 0
		n.dir = filepath.Join(w.dir, fmt.Sprintf("%s.%d.empty", n.name, n.lives))
		n.disk = consensustest.NewMemDisk(w.seed<<8 | 1<<7 | uint64(n.lives))
		n.kept = storedOutput{known: true}
		w.mu.Unlock()
		w.must(n.start())
	}
	if !joining {
		return
	}
	w.mu.Lock()
	life := n.life
	w.mu.Unlock()
	token, err := w.operators.token(ctx, agentplanev1.TokenKind_TOKEN_KIND_NODE, 1)
	if err != nil || life == nil {
		w.trace.Note(n.name, "does not join yet: %v", err)
		return
	}
	req := &agentplanev1.JoinRequest{Addresses: slices.DeleteFunc(w.addresses(), func(a string) bool { return a == n.address() }), Token: token}
	err = life.node.Local().Join(req, &joinStream{ctx: ctx, say: func(r *agentplanev1.JoinResponse) { w.trace.Note(n.name, "join: %s", r.GetText()) }})
	if err != nil {
		w.trace.Note(n.name, "has not joined yet: %v", err)
		return
	}
	w.mu.Lock()
	n.joining, w.replacedAt = false, time.Now()
	if w.imaged == n {
		w.imaged = nil
	}
	w.mu.Unlock()
	w.trace.Note(n.name, "has joined")
	_, _ = cluster.Info(ctx, &agentplanev1.InfoRequest{}) // operators learn of it
}

// unsettled are the nodes that are leaving or joining.
func (w *World) unsettled() (all []*node) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.nodes {
		if n.leaving || n.joining {
			all = append(all, n)
		}
	}
	return all
}
