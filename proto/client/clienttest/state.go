package clienttest

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/identity"
)

// Behaviour is what becomes of an invocation on an agent. The zero value
// succeeds at once and prints nothing.
type Behaviour struct {
	State          agentplanev1.AttemptState
	ExitCode       int32
	Reason         string
	Stdout, Stderr string
	// TotalBytes of stdout, where more was written than is shown.
	TotalBytes uint64
	// Step is the number of the step that ends so, where the command has steps; the last
	// one when 0.
	Step int
	// After is when it ends; below zero it runs until it is canceled.
	After time.Duration
}

// State is what all nodes of a Cluster share.
type State struct {
	mu         sync.Mutex // guards everything below
	changed    chan struct{}
	index      uint64
	bundle     *agentplanev1.Bundle
	members    []*agentplanev1.Member
	agents     []*agentplanev1.Agent
	behave     map[string]Behaviour // by agent id
	commands   []*command
	locks      []*agentplanev1.Lock
	tokens     []*token
	schedules  []*agentplanev1.Schedule
	operators  []*agentplanev1.Operator
	keys       map[string]identity.PublicKey // of operators
	ring       []*agentplanev1.GossipKey     // the one in use first
	templates  map[string][]*agentplanev1.Template
	blobs      map[string][]byte
	problems   []*agentplanev1.Problem
	leaderless bool // as far as Status says
	drifted    map[string]bool
}

type command struct {
	command     *agentplanev1.Command
	invocations []*agentplanev1.Invocation
	transitions map[string][]*agentplanev1.Transition // by invocation id
	envelope    []byte
	spec        *agentplanev1.CommandSpec
}

type token struct {
	token  *agentplanev1.Token
	record identity.TokenRecord
	users  []identity.PublicKey
}

func newState(c *Cluster) *State {
	id := make([]byte, 16)
	_, _ = rand.Read(id)
	return &State{
		changed: make(chan struct{}),
		index:   1,
		bundle: &agentplanev1.Bundle{
			ClusterId:   c.ID,
			Incarnation: &agentplanev1.Incarnation{Number: 1, Id: id},
			Index:       1,
		},
		behave: map[string]Behaviour{}, templates: map[string][]*agentplanev1.Template{},
		blobs: map[string][]byte{}, drifted: map[string]bool{},
		keys: map[string]identity.PublicKey{},
		ring: []*agentplanev1.GossipKey{{Id: "0123456789abcdef", State: agentplanev1.GossipKeyState_GOSSIP_KEY_STATE_IN_USE}},
	}
}

// changedLocked moves the index and wakes all watchers.
func (s *State) changedLocked() {
	s.index++
	close(s.changed)
	s.changed = make(chan struct{})
}

// Index returns the applied index.
func (s *State) Index() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.index
}

// Bundle returns a copy of the trust bundle.
func (s *State) Bundle() *agentplanev1.Bundle {
	s.mu.Lock()
	defer s.mu.Unlock()
	return clone(s.bundle)
}

func (s *State) addNode(n *Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changedLocked()
	s.bundle = clone(s.bundle)
	s.bundle.Index = s.index
	s.bundle.Nodes = append(s.bundle.Nodes, &agentplanev1.BundleNode{
		Id: n.ID, Name: n.Name, Address: n.Address, PublicKey: n.key.Public(), CaCertificate: n.ca.cert.Raw,
	})
	s.members = append(s.members, &agentplanev1.Member{
		Id: n.ID, Name: n.Name, Address: n.Address, Leader: len(s.members) == 0, Voter: true,
		State: "alive", Version: "test", FeatureLevel: 1, StartCounter: 1,
	})
}

func (s *State) register(operator, role string, key identity.PublicKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.registerLocked(operator, role, key)
}

func (s *State) registerLocked(operator, role string, key identity.PublicKey) {
	s.changedLocked()
	s.keys[operator] = key
	s.operators = slices.DeleteFunc(s.operators, func(o *agentplanev1.Operator) bool { return o.Name == operator })
	s.operators = append(s.operators, &agentplanev1.Operator{
		Name: operator, Role: role, EnrolledAt: time.Now().UnixNano(), Fingerprint: key.Fingerprint(),
	})
}

// AddAgent registers an agent, whose id is "id-" and the name.
func (s *State) AddAgent(name, health string, labels map[string]string, b Behaviour) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changedLocked()
	id := "id-" + name
	s.agents = append(s.agents, &agentplanev1.Agent{
		Id: id, Name: name, Health: health, Labels: labels, Facts: map[string]string{"os": "linux"},
		Node: "id-node-a", SessionEpoch: s.index << 8, Version: "test",
		Since: time.Now().UnixNano(), EnrolledAt: time.Now().UnixNano(), LabelsVersion: 1,
	})
	s.behave[id] = b
}

// SetLeaderless makes the cluster's status be answered to those only who ask for what
// one node knows.
func (s *State) SetLeaderless() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaderless = true
}

// SetProblems makes the cluster's status report problems.
func (s *State) SetProblems(p ...*agentplanev1.Problem) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.problems = p
}

// Commands returns the ids of the commands, oldest first.
func (s *State) Commands() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []string
	for _, c := range s.commands {
		ids = append(ids, c.command.Id)
	}
	return ids
}

// Spec returns the spec of a command as it was submitted.
func (s *State) Spec(id string) *agentplanev1.CommandSpec {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.commands {
		if c.command.Id == id {
			_, spec, err := decodeSpec(c.envelope)
			if err != nil {
				return nil
			}
			return spec
		}
	}
	return nil
}

func (s *State) agentLocked(name string) *agentplanev1.Agent {
	for _, a := range s.agents {
		if a.Id == name || a.Name == name {
			return a
		}
	}
	return nil
}

func (s *State) commandLocked(id string) *command {
	for _, c := range s.commands {
		if c.command.Id == id {
			return c
		}
	}
	return nil
}

// view returns the command as it is asked for.
func (c *command) view(invocations, output bool) *agentplanev1.Command {
	v := clone(c.command)
	if invocations {
		v.Invocations = c.views(output)
	}
	return v
}

func (c *command) views(output bool) []*agentplanev1.Invocation {
	var all []*agentplanev1.Invocation
	for _, i := range c.invocations {
		v := clone(i)
		if !output {
			v.Stdout, v.Stderr = nil, nil
		}
		all = append(all, v)
	}
	return all
}

// moveLocked gives an invocation its next state.
func (s *State) moveLocked(c *command, i *agentplanev1.Invocation, state agentplanev1.AttemptState, reason string) {
	s.changedLocked()
	now := time.Now().UnixNano()
	i.State, i.Reason = state, reason
	if state == agentplanev1.AttemptState_ATTEMPT_STATE_CLAIMED {
		i.Fence = 1<<52 | s.index<<8
	}
	if state == agentplanev1.AttemptState_ATTEMPT_STATE_RUNNING {
		i.StartedAt = now
	}
	if final(state) {
		i.EndedAt = now
	}
	c.transitions[i.Id] = append(c.transitions[i.Id], &agentplanev1.Transition{
		State: state, Index: s.index, At: now, Attempt: i.Attempt, Fence: i.Fence, NodeId: i.NodeId, Reason: reason, What: what(state),
	})
	c.countLocked(now)
}

func (c *command) countLocked(now int64) {
	counts := map[string]uint32{}
	done := true
	for _, i := range c.invocations {
		counts[shortState(i.State)]++
		done = done && final(i.State)
	}
	c.command.Counts = counts
	if done {
		c.command.State = agentplanev1.CommandState_COMMAND_STATE_DONE
		c.command.FinishedAt = now
	}
}

// what a step of a proof is called.
func what(s agentplanev1.AttemptState) string {
	word, begun := map[agentplanev1.AttemptState]string{
		agentplanev1.AttemptState_ATTEMPT_STATE_PENDING: "submitted", agentplanev1.AttemptState_ATTEMPT_STATE_RELEASED: "released",
		agentplanev1.AttemptState_ATTEMPT_STATE_CLAIMED: "claimed", agentplanev1.AttemptState_ATTEMPT_STATE_RUNNING: "started",
	}[s]
	if !begun {
		return "result"
	}
	return word
}

func final(s agentplanev1.AttemptState) bool {
	return s >= agentplanev1.AttemptState_ATTEMPT_STATE_LOST
}

func shortState(s agentplanev1.AttemptState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "ATTEMPT_STATE_"))
}

// endLocked gives an invocation the end that its agent has for it.
func (s *State) endLocked(c *command, i *agentplanev1.Invocation, b Behaviour) {
	if final(i.State) {
		return
	}
	if s.armedLocked(c, i, b) {
		return
	}
	i.ExitCode = b.ExitCode
	i.Stdout = &agentplanev1.Output{Head: []byte(b.Stdout), TotalBytes: max(b.TotalBytes, uint64(len(b.Stdout)))}
	i.Stderr = &agentplanev1.Output{Head: []byte(b.Stderr), TotalBytes: uint64(len(b.Stderr))}
	state := b.State
	if state == agentplanev1.AttemptState_ATTEMPT_STATE_UNSPECIFIED {
		state = agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED
	}
	for n, step := range c.spec.GetSteps() {
		r := &agentplanev1.StepResult{Number: uint32(n + 1), Name: step.Name, State: agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED, Reason: "exit"}
		i.Steps = append(i.Steps, r)
		if n+1 == cmp.Or(b.Step, len(c.spec.Steps)) {
			r.State, r.ExitCode, r.Reason = state, b.ExitCode, b.Reason
			break
		}
	}
	s.moveLocked(c, i, state, b.Reason)
}

func invocationID(command string, n int) string { return fmt.Sprintf("%s-%d", command, n) }

// Drift has the node hold another state than the others.
func (s *State) Drift(nodeID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drifted[nodeID] = true
}
