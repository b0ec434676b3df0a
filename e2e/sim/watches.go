package sim

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

// watches are what operators came to know who watched, to be compared with what the log
// makes at the same index: whatever nodes coalesce, and to whichever node a watch went
// on, what it has come to at an index is the state at that index. They are safe for
// concurrent use.
type watches struct {
	mu       sync.Mutex              // guards what follows; never held while waiting
	pictures map[uint64][]picture    // by index
	agents   map[string]agentPicture // what the watch of agents has come to
	messages int
	wrong    []string // that shows without the log
}

// picture is what a watch had come to at an index.
type picture struct {
	command  string                    // whose attempts they are; empty is none
	attempts map[string]attemptPicture // all of the command, by invocation
	agents   map[string]agentPicture   // some, by id
}

// attemptPicture is what is compared of an invocation.
type attemptPicture struct {
	attempt uint32
	state   int32
	fence   uint64
}

// agentPicture is what is compared of an agent.
type agentPicture struct {
	epoch uint64
	node  string
}

func newWatches() *watches {
	return &watches{pictures: make(map[uint64][]picture), agents: make(map[string]agentPicture)}
}

// add notes what a watch has come to. before is the index of its last message.
func (w *watches) add(p picture, before, index uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.messages++
	if index < before {
		w.wrong = append(w.wrong, fmt.Sprintf("I7: a watch of %q went from index %d back to %d", p.command, before, index))
	}
	w.pictures[index] = append(w.pictures[index], p)
	for id, a := range p.agents {
		if old := w.agents[id]; a.epoch < old.epoch {
			w.wrong = append(w.wrong, fmt.Sprintf("I5: a watch showed agent %s with session %d and then with %d", id, old.epoch, a.epoch))
		}
		w.agents[id] = a
	}
}

// forget begins anew with a client that has seen nothing: the node that it asks may be
// behind what others have shown.
func (w *watches) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.agents)
}

// missing says what the watch of agents has not shown of the view.
func (w *watches) missing(v *fsm.View) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	for a := range v.Agents() {
		s, _ := v.Session(a.GetId())
		if is := (agentPicture{s.GetEpoch(), s.GetNodeId()}); is != w.agents[a.GetId()] {
			return fmt.Sprintf("I7: the watch of agents lacks %s with %v, it shows %v", a.GetName(), is, w.agents[a.GetId()])
		}
	}
	return ""
}

// judge compares what watches had come to at the view's index with the view.
func (w *watches) judge(v *fsm.View) (wrong []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.pictures[v.Index()] {
		if p.command != "" {
			is := make(map[string]attemptPicture)
			for i := range v.Invocations(p.command) {
				is[i.GetId()] = attemptPicture{i.GetAttempt(), int32(i.GetState()), i.GetFence()}
			}
			if !maps.Equal(is, p.attempts) {
				wrong = append(wrong, fmt.Sprintf("I7: a watch of command %s shows %v at index %d, where the log makes %v", p.command, p.attempts, v.Index(), is))
			}
		}
		for id, a := range p.agents {
			s, _ := v.Session(id)
			if is := (agentPicture{s.GetEpoch(), s.GetNodeId()}); is != a {
				wrong = append(wrong, fmt.Sprintf("I7: a watch shows agent %s with %v at index %d, where the log makes %v", id, a, v.Index(), is))
			}
		}
	}
	return wrong
}

// watchCommands watches what was submitted last until it has ended, again and again.
func (o *operators) watchCommands(ctx context.Context) {
	d := o.desk(0x7763)
	defer d.close()
	var done *command
	for ctx.Err() == nil {
		time.Sleep(time.Duration(d.rng.IntN(300)) * time.Millisecond)
		o.mu.Lock()
		last := o.last
		o.mu.Unlock()
		if last == nil || last == done {
			continue
		}
		done = last
		o.watchCommand(ctx, d.any(), last.id)
	}
}

func (o *operators) watchCommand(ctx context.Context, c *client.Client, id string) {
	ctx, cancel := context.WithTimeout(ctx, 8*time.Second)
	defer cancel()
	attempts, before := make(map[string]attemptPicture), uint64(0)
	_ = c.WatchCommand(ctx, &agentplanev1.WatchCommandRequest{Id: id}, func(r *agentplanev1.WatchCommandResponse) error {
		o.w.keepsSecret("a watch of a command", r)
		if r.GetSnapshot() {
			clear(attempts)
		}
		for _, i := range r.GetInvocations() {
			attempts[i.GetId()] = attemptPicture{i.GetAttempt(), int32(i.GetState()), i.GetFence()}
		}
		o.w.watches.add(picture{command: id, attempts: maps.Clone(attempts)}, before, r.GetIndex())
		before = r.GetIndex()
		return nil
	})
}

// watchAgents watches all agents until ctx ends.
func (o *operators) watchAgents(ctx context.Context) {
	rng := rand.New(rand.NewPCG(o.w.seed, 0x7761))
	for ctx.Err() == nil {
		c, err := o.connect(rng.IntN(len(o.w.nodes)))
		if err != nil {
			panic(err) // only what it was given can be wrong
		}
		before := uint64(0)
		o.w.watches.forget()
		err = c.WatchAgents(ctx, &agentplanev1.WatchAgentsRequest{}, func(r *agentplanev1.WatchAgentsResponse) error {
			p := picture{agents: make(map[string]agentPicture)}
			for _, a := range r.GetAgents() {
				p.agents[a.GetId()] = agentPicture{a.GetSessionEpoch(), a.GetNode()}
			}
			o.w.watches.add(p, before, r.GetIndex())
			before = r.GetIndex()
			return nil
		})
		o.heed(err)
		o.disconnect(c)
		time.Sleep(100 * time.Millisecond)
	}
}
