package sim

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
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
	row      commandPicture            // of the command
	attempts map[string]attemptPicture // all of the command, by invocation
	agents   map[string]agentPicture   // some, by id
}

// commandPicture is what is compared of a command.
type commandPicture struct {
	state                    int32
	canceledIndex            uint64
	finishedAt               int64
	ended, succeeded, queued uint32 // of its counts
}

// attemptPicture is what is compared of an invocation.
type attemptPicture struct {
	attempt uint32
	state   int32
	reason  string
	fence   uint64
}

// agentPicture is what is compared of an agent. Its health is not: it moves by time alone.
type agentPicture struct {
	epoch  uint64
	node   string
	labels string
}

func newWatches() *watches {
	return &watches{pictures: make(map[uint64][]picture), agents: make(map[string]agentPicture)}
}

// watched is what one watch, on whichever nodes, has shown at the index of its last message.
type watched struct {
	what  string
	index uint64
	rows  map[string]proto.Message // by id
}

// take judges a message by those before it: a watch begins with a copy, never goes back, and
// says nothing twice at one index, other than in another copy.
func (s *watched) take(index uint64, snapshot bool, rows map[string]proto.Message) (wrong []string) {
	switch {
	case s.rows == nil && !snapshot:
		wrong = append(wrong, fmt.Sprintf("I7: the watch of %s begins with a change, at index %d", s.what, index))
	case index < s.index:
		wrong = append(wrong, fmt.Sprintf("I7: the watch of %s went from index %d back to %d", s.what, s.index, index))
	}
	if s.rows == nil || snapshot || index != s.index {
		s.rows = make(map[string]proto.Message, len(rows))
	}
	s.index = index
	for id, row := range rows {
		if have := s.rows[id]; have != nil && proto.Equal(have, row) {
			wrong = append(wrong, fmt.Sprintf("I7: the watch of %s shows %s twice at index %d: %v", s.what, id, index, row))
		}
		s.rows[id] = row
	}
	return wrong
}

// add notes what a watch has come to with a message, and what is wrong with the message.
func (w *watches) add(p picture, index uint64, wrong []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.messages++
	w.wrong = append(w.wrong, wrong...)
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
		if is := agentAt(v, a.GetId()); is != w.agents[a.GetId()] {
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
			row, _ := v.Command(p.command)
			if is := commandAt(row); is != p.row {
				wrong = append(wrong, fmt.Sprintf("I7: a watch of command %s shows it as %v at index %d, where the log makes %v", p.command, p.row, v.Index(), is))
			}
			is := make(map[string]attemptPicture)
			for i := range v.Invocations(p.command) {
				is[i.GetId()] = attemptPicture{i.GetAttempt(), int32(i.GetState()), i.GetReason(), i.GetFence()}
			}
			if !maps.Equal(is, p.attempts) {
				wrong = append(wrong, fmt.Sprintf("I7: a watch of command %s shows %v at index %d, where the log makes %v", p.command, p.attempts, v.Index(), is))
			}
		}
		for id, a := range p.agents {
			if is := agentAt(v, id); is != a {
				wrong = append(wrong, fmt.Sprintf("I7: a watch shows agent %s with %v at index %d, where the log makes %v", id, a, v.Index(), is))
			}
		}
	}
	return wrong
}

func commandAt(c *raftlogv1.Command) commandPicture {
	p := commandPicture{state: int32(c.GetState()), canceledIndex: c.GetCancelIndex(), finishedAt: c.GetFinishedAt()}
	for _, n := range c.GetCounts() {
		p.count(agentplanev1.AttemptState(n.GetState()), n.GetCount())
	}
	return p
}

func (p *commandPicture) count(s agentplanev1.AttemptState, n uint32) {
	switch {
	case s == agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED:
		p.succeeded += n
	case s >= agentplanev1.AttemptState_ATTEMPT_STATE_LOST:
		p.ended += n
	default:
		p.queued += n
	}
}

func agentAt(v *fsm.View, id string) agentPicture {
	a, _ := v.Agent(id)
	s, _ := v.Session(id)
	labels := make(map[string]string)
	for _, l := range a.GetLabels() {
		labels[l.GetName()] = l.GetValue()
	}
	return agentPicture{s.GetEpoch(), s.GetNodeId(), fmt.Sprint(labels)}
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
	_, _ = o.showOf(ctx, c, id) // what it has shown is judged, and faults may end it
}

// showOf watches a command until it has ended or ctx has, and answers what it came to.
func (o *operators) showOf(ctx context.Context, c *client.Client, id string) (picture, error) {
	now := picture{command: id, attempts: make(map[string]attemptPicture)}
	seen := watched{what: "command " + id}
	err := c.WatchCommand(ctx, &agentplanev1.WatchCommandRequest{Id: id}, func(r *agentplanev1.WatchCommandResponse) error {
		o.w.keepsSecret("a watch of a command", r)
		if r.GetSnapshot() {
			clear(now.attempts)
		}
		rows := make(map[string]proto.Message)
		for _, i := range r.GetInvocations() {
			now.attempts[i.GetId()] = attemptPicture{i.GetAttempt(), int32(i.GetState()), i.GetReason(), i.GetFence()}
			rows[i.GetId()] = i
		}
		if row := r.GetCommand(); row != nil {
			now.row = commandPicture{state: int32(row.GetState()), canceledIndex: row.GetCanceledIndex(), finishedAt: row.GetFinishedAt()}
			for name, n := range row.GetCounts() {
				now.row.count(agentplanev1.AttemptState(agentplanev1.AttemptState_value["ATTEMPT_STATE_"+strings.ToUpper(name)]), n)
			}
			rows[id] = row
		}
		p := now
		p.attempts = maps.Clone(now.attempts)
		o.w.watches.add(p, r.GetIndex(), seen.take(r.GetIndex(), r.GetSnapshot(), rows))
		return nil
	})
	return now, err
}

// watchPatience is how long a node of the healed world may take to show a command's end.
const watchPatience = time.Minute

// followThrough watches a command through each node alone until ctx ends or all have shown
// its end. What it returns waits for that, and answers which have not: in the healed world,
// when the command has ended, there must be none but those that have ended themselves.
func (o *operators) followThrough(ctx context.Context, id string) (silent func() []string) {
	var all sync.WaitGroup
	var mu sync.Mutex // guards wrong
	var wrong []string
	for _, n := range o.w.nodes {
		machine := n.machine() // of this life
		all.Go(func() {
			p, err := o.showThrough(ctx, n.address(), id)
			if err == nil && p.ended() || machine == nil || n.machine() != machine {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			wrong = append(wrong, fmt.Sprintf("I7: in the healed world the watch of command %s through %s alone has not shown its end: %v; it shows %v", id, n.name, err, p))
		})
	}
	return func() []string {
		all.Wait()
		return wrong
	}
}

// showThrough is showOf through one node, again until that does not fail: the operator's
// certificate may have to be renewed first.
func (o *operators) showThrough(ctx context.Context, address, id string) (picture, error) {
	c, err := o.clientOf([]string{address})
	if err != nil {
		panic(err) // only what it was given can be wrong
	}
	defer o.disconnect(c)
	for {
		p, err := o.showOf(ctx, c, id)
		o.heed(err)
		if err == nil || ctx.Err() != nil {
			return p, err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// ended says that the watch has shown the end of the command and of all its attempts.
func (p picture) ended() bool {
	for _, a := range p.attempts {
		if a.state < int32(agentplanev1.AttemptState_ATTEMPT_STATE_LOST) {
			return false
		}
	}
	return p.row.state == int32(agentplanev1.CommandState_COMMAND_STATE_DONE) && len(p.attempts) == int(p.row.succeeded+p.row.ended)
}

// watchAgents watches all agents until ctx ends.
func (o *operators) watchAgents(ctx context.Context) {
	rng := rand.New(rand.NewPCG(o.w.seed, 0x7761))
	for ctx.Err() == nil {
		c, err := o.connect(rng.IntN(len(o.w.nodes)))
		if err != nil {
			panic(err) // only what it was given can be wrong
		}
		o.w.watches.forget()
		seen := watched{what: "agents"}
		err = c.WatchAgents(ctx, &agentplanev1.WatchAgentsRequest{}, func(r *agentplanev1.WatchAgentsResponse) error {
			p, rows := picture{agents: make(map[string]agentPicture)}, make(map[string]proto.Message)
			for _, a := range r.GetAgents() {
				p.agents[a.GetId()] = agentPicture{a.GetSessionEpoch(), a.GetNode(), fmt.Sprint(a.GetLabels())}
				rows[a.GetId()] = a
			}
			o.w.watches.add(p, r.GetIndex(), seen.take(r.GetIndex(), r.GetSnapshot(), rows))
			return nil
		})
		o.heed(err)
		o.disconnect(c)
		time.Sleep(100 * time.Millisecond)
	}
}
