package operator

import (
	"hash/maphash"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
	"github.com/agentplane/agentplane/proto/selector"
)

// agentWatch follows the agents that a selector means, for one stream. Of what was
// sent it keeps a hash for each agent, so that ten thousand agents cost little.
type agentWatch struct {
	follower
	sel      *selector.Selector
	stream   grpc.ServerStreamingServer[agentplanev1.WatchAgentsResponse]
	seed     maphash.Seed
	sent     map[string]uint64
	restless map[string]struct{} // whose health moves by time alone
}

// WatchAgents sends all agents that the selector means, then every change: agents
// that came or changed, and the ids of those that left or are no longer meant. What
// does not fit into one message comes in several.
func (f *Fleet) WatchAgents(req *agentplanev1.WatchAgentsRequest, stream grpc.ServerStreamingServer[agentplanev1.WatchAgentsResponse]) error {
	sel, err := f.parseSelector(req.GetSelector(), true)
	if err != nil {
		return err
	}
	w := &agentWatch{follower: follower{s: f.service}, sel: sel, stream: stream, seed: maphash.MakeSeed()}
	if err := w.copy(); err != nil {
		return err
	}
	for {
		changes, again, err := w.next(stream.Context(), watchWake)
		if err != nil {
			return err
		}
		if again {
			err = w.copy()
		} else {
			err = w.send(changes)
		}
		if err != nil {
			return err
		}
	}
}

// copy sends everybody and begins to follow behind it.
func (w *agentWatch) copy() error {
	v, cursor := w.s.o.Machine.ViewAndWatch()
	w.cursor = cursor
	w.sent, w.restless = make(map[string]uint64), make(map[string]struct{})
	var ids []string
	for a := range v.Agents() {
		ids = append(ids, a.GetId())
	}
	return w.messages(v, ids, true)
}

// send looks again at everybody whom the changes touch.
func (w *agentWatch) send(changes []fsm.Change) error {
	dirty := make(map[string]struct{})
	for _, c := range changes {
		switch c.Table {
		case fsm.TableAgents, fsm.TableFacts, fsm.TableSessions:
			dirty[c.Key] = struct{}{} // their key is the agent's id
		case fsm.TableInvocations:
			if i, ok := c.Row.(*raftlogv1.Invocation); ok && i != nil {
				dirty[i.GetAgentId()] = struct{}{} // what it runs and has queued
			}
		}
	}
	for id := range w.restless {
		dirty[id] = struct{}{}
	}
	if len(dirty) == 0 {
		return nil
	}
	ids := make([]string, 0, len(dirty))
	for id := range dirty {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return w.messages(w.s.o.Machine.View(), ids, false)
}

// messages sends those of the agents whose row differs from what was sent. The view
// may be ahead of the cursor: then the changes between are found to be sent already.
func (w *agentWatch) messages(v *fsm.View, ids []string, snapshot bool) error {
	m := &agentplanev1.WatchAgentsResponse{Index: v.Index(), Snapshot: snapshot}
	now, size := w.s.now(v), 0
	for _, id := range ids {
		r := w.row(v, id, now)
		switch {
		case r != nil:
			n := proto.Size(r)
			if size += n; size > chunkBytes && len(m.Agents) > 0 {
				if err := w.stream.Send(m); err != nil {
					return err
				}
				m, size = &agentplanev1.WatchAgentsResponse{Index: v.Index()}, n
			}
			m.Agents = append(m.Agents, r)
		case w.forget(v, id, now):
			m.RemovedIds = append(m.RemovedIds, id)
		}
	}
	if !snapshot && len(m.Agents) == 0 && len(m.RemovedIds) == 0 {
		return nil
	}
	return w.stream.Send(m)
}

// row answers the agent when it is meant and differs from what was sent.
func (w *agentWatch) row(v *fsm.View, id string, now int64) *agentplanev1.Agent {
	a, found := v.Agent(id)
	if !found {
		delete(w.restless, id)
		return nil
	}
	s, _ := v.Session(id)
	health, _, _ := Health(a, s, now)
	if movesAlone(health, s) {
		w.restless[id] = struct{}{}
	} else {
		delete(w.restless, id)
	}
	if !w.sel.Match(target{view: v, agent: a, now: now}) {
		return nil
	}
	r := agentRow(v, a, now, true)
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
	if err != nil {
		return r // cannot be: rows are valid UTF-8
	}
	hash := maphash.Bytes(w.seed, b)
	if have, sent := w.sent[id]; sent && have == hash {
		return nil
	}
	w.sent[id] = hash
	return r
}

// forget reports whether the agent was sent and is not meant any more.
func (w *agentWatch) forget(v *fsm.View, id string, now int64) bool {
	if _, sent := w.sent[id]; !sent {
		return false
	}
	if a, found := v.Agent(id); found && w.sel.Match(target{view: v, agent: a, now: now}) {
		return false // unchanged
	}
	delete(w.sent, id)
	return true
}
