package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/agentplane/agentplane/cmd/agentplane/lab"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

// Kinds of faults.
const (
	killLeader  = "kill the leader"
	killNode    = "kill a node"
	killAgent   = "kill an agent"
	killAll     = "kill all nodes"
	pauseLeader = "pause the leader"
)

var kinds = []string{killLeader, killNode, killAgent, killAll, pauseLeader}

// breaker does faults, one after the other, and mends what it broke.
type breaker struct {
	f      *fleet
	rng    *rand.Rand
	client *client.Client

	faults   []fault
	deaths   []agentDeath
	fell     map[string]time.Time // when nodes were last killed, by name
	midRun   int                  // agents killed while a program ran
	orphans  int                  // supervisors killed with their agent
	oddities []string

	streams, kept int // of agents on other nodes than the one that was killed
}

// schedule mixes the kinds.
func schedule(rng *rand.Rand, counts map[string]int) []string {
	var all []string
	for _, kind := range kinds {
		for range counts[kind] {
			all = append(all, kind)
		}
	}
	rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

func (b *breaker) between(least, most time.Duration) time.Duration {
	return least + time.Duration(b.rng.Int64N(int64(most-least)))
}

// lasts lets a fault last for so long, or until the test ends.
func (b *breaker) lasts(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
	}
}

// leader is the node that leads now.
func (b *breaker) leader(ctx context.Context) (*lab.Node, error) {
	r, err := agentplanev1.NewClusterServiceClient(b.client).ListMembers(ctx, &agentplanev1.ListMembersRequest{})
	if err != nil {
		return nil, err
	}
	for _, m := range r.Members {
		for _, n := range b.f.nodes {
			if m.Leader && m.Name == n.Name {
				return n, nil
			}
		}
	}
	return nil, errors.New("no member leads")
}

// strike does one fault and mends it.
func (b *breaker) strike(t *testing.T, kind string) {
	t.Helper()
	switch kind {
	case killAgent:
		b.strikeAgent(t)
		return
	case killAll:
		b.note(kind, b.kill(b.f.nodes...))
		b.restart(t, b.f.nodes...)
		return
	case killNode:
		n := b.f.nodes[b.rng.IntN(len(b.f.nodes))]
		others := b.streamsBeside(t, n)
		b.note(kind, b.kill(n))
		b.lasts(t, b.between(200*time.Millisecond, 2*time.Second))
		b.restart(t, n)
		b.areKept(t, n, others)
		return
	}
	leader, err := b.leader(within(t, 20*time.Second))
	if err != nil {
		t.Fatalf("%s: %v", kind, err)
	}
	if kind == killLeader {
		others := b.streamsBeside(t, leader)
		b.note(kind, b.kill(leader))
		b.lasts(t, b.between(500*time.Millisecond, 2500*time.Millisecond))
		b.restart(t, leader)
		b.areKept(t, leader, others)
		return
	}
	b.note(kind, leader.Signal(syscall.SIGSTOP))
	b.lasts(t, b.between(100*time.Millisecond, 3*time.Second))
	if !leader.Signal(syscall.SIGCONT) {
		b.oddity("%s ended while it was stopped", leader.Name)
	}
}

// sessions answers all agents, by id.
func (b *breaker) sessions(t *testing.T) map[string]*agentplanev1.Agent {
	t.Helper()
	all := make(map[string]*agentplanev1.Agent)
	await(t, 20*time.Second, "agents are listed", func() error {
		r, err := agentplanev1.NewFleetServiceClient(b.client).ListAgents(t.Context(), &agentplanev1.ListAgentsRequest{})
		if err != nil {
			return err
		}
		for _, a := range r.Agents {
			all[a.Id] = a
		}
		return nil
	})
	return all
}

// restless is how long after an agent was killed its stream is not expected to stay.
const restless = 10 * time.Second

// streamsBeside are the sessions that the death of the node must not touch: those on
// other nodes, of agents that nobody has killed lately. One that was opened before its node was
// killed itself is over, though nobody may have said so yet.
func (b *breaker) streamsBeside(t *testing.T, n *lab.Node) map[string]uint64 {
	t.Helper()
	names, err := nodeNames(within(t, 20*time.Second), b.client)
	if err != nil {
		t.Fatal(err)
	}
	calm := make(map[string]uint64)
	if len(b.f.agents) == 0 {
		return calm
	}
	await(t, time.Minute, "all agents are online before "+n.Name+" is killed", func() error { return b.online(t.Context()) })
	for agent, a := range b.sessions(t) {
		lately := slices.ContainsFunc(b.deaths, func(d agentDeath) bool { return d.agent == a.Name && time.Since(d.at) < restless })
		if name := names[a.Node]; name != n.Name && !lately && time.Unix(0, a.Since).After(b.fell[name]) {
			calm[agent] = a.SessionEpoch
		}
	}
	return calm
}

// areKept looks whether they are the same sessions still.
func (b *breaker) areKept(t *testing.T, n *lab.Node, before map[string]uint64) {
	t.Helper()
	now := b.sessions(t)
	for agent, epoch := range before {
		b.streams++
		a := now[agent]
		if a.GetSessionEpoch() != epoch {
			b.oddity("agent %s lost its session %d on another node when %s was killed (noticed at %s): it is %s %s with session %d",
				agent, epoch, n.Name, time.Now().Format(time.StampMilli), a.GetHealth(), a.GetHealthReason(), a.GetSessionEpoch())
			continue
		}
		b.kept++
	}
}

// nodeNames are the names of the members, by id.
func nodeNames(ctx context.Context, c *client.Client) (map[string]string, error) {
	r, err := agentplanev1.NewClusterServiceClient(c).ListMembers(ctx, &agentplanev1.ListMembersRequest{})
	names := make(map[string]string)
	for _, m := range r.GetMembers() {
		names[m.Id] = m.Name
	}
	return names, err
}

func (b *breaker) note(kind string, live bool) {
	b.faults = append(b.faults, fault{kind: kind, live: live, at: time.Now()})
}

func (b *breaker) oddity(format string, args ...any) {
	b.oddities = append(b.oddities, fmt.Sprintf(format, args...))
}

// kill kills the nodes at once, and says whether all were alive.
func (b *breaker) kill(nodes ...*lab.Node) bool {
	live := true
	for _, n := range nodes {
		live = n.Signal(syscall.SIGKILL) && live
	}
	for _, n := range nodes {
		n.Kill() // waits for its end
	}
	if b.fell == nil {
		b.fell = make(map[string]time.Time)
	}
	for _, n := range nodes {
		b.fell[n.Name] = time.Now()
	}
	return live
}

func (b *breaker) restart(t *testing.T, nodes ...*lab.Node) {
	t.Helper()
	for _, n := range nodes {
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
	}
}

// strikeAgent kills an agent, most often while it runs programs, and now and then the
// supervisors with it.
func (b *breaker) strikeAgent(t *testing.T) {
	t.Helper()
	a := b.f.agents[b.rng.IntN(len(b.f.agents))]
	if b.rng.IntN(4) > 0 {
		// When none comes in time the agent is killed as it is.
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		_ = lab.Await(ctx, func() error {
			if len(a.Supervisors()) == 0 {
				return errors.New("it runs nothing")
			}
			return nil
		})
		cancel()
	}
	live := a.Kill()
	b.note(killAgent, live)
	b.deaths = append(b.deaths, agentDeath{agent: a.Name, at: time.Now()})
	left := a.Supervisors()
	if len(left) > 0 {
		b.midRun++
	}
	if b.rng.IntN(4) == 0 {
		for _, pid := range left {
			if syscall.Kill(pid, syscall.SIGKILL) == nil {
				b.orphans++
			}
		}
	}
	b.lasts(t, b.between(0, 1500*time.Millisecond))
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
}

// whole says what the cluster still lacks: all processes, one leader that answers, and
// all nodes in gossip and as voters.
func (b *breaker) whole(ctx context.Context) error {
	for _, n := range b.f.nodes {
		if !n.Running() {
			code, err := n.Await(ctx)
			b.oddity("node %s ended by itself at %s: exit code %d (%v)", n.Name, time.Now().Format(time.StampMilli), code, err)
			if err := n.Start(); err != nil {
				return err
			}
		}
	}
	for _, a := range b.f.agents {
		if !a.Running() {
			code, err := a.Await(ctx)
			b.oddity("agent %s ended by itself at %s: exit code %d (%v)", a.Name, time.Now().Format(time.StampMilli), code, err)
			if err := a.Start(); err != nil {
				return err
			}
		}
	}
	return b.voting(ctx)
}

// voting says whether one node leads and all are voters and alive to the others.
func (b *breaker) voting(ctx context.Context) error {
	r, err := agentplanev1.NewClusterServiceClient(b.client).ListMembers(ctx, &agentplanev1.ListMembersRequest{})
	if err != nil {
		return err
	}
	leaders, well := 0, 0
	for _, m := range r.Members {
		if m.Leader {
			leaders++
		}
		if m.Voter && m.State == "alive" {
			well++
		}
	}
	if leaders != 1 || well != len(b.f.nodes) {
		return fmt.Errorf("%d leaders, %d voters alive: %v", leaders, well, r.Members)
	}
	return nil
}

// online says which agents are not. One that had several sessions in a row is called
// FLAPPING for a while, which is true, and is online.
func (b *breaker) online(ctx context.Context) error {
	r, err := agentplanev1.NewFleetServiceClient(b.client).ListAgents(ctx, &agentplanev1.ListAgentsRequest{})
	if err != nil {
		return err
	}
	online := 0
	for _, a := range r.Agents {
		if a.Name == b.f.ghost {
			continue
		}
		if a.Health != "ONLINE" && a.Health != "FLAPPING" {
			return fmt.Errorf("agent %s is %s (%s)", a.Name, a.Health, a.HealthReason)
		}
		online++
	}
	if online != len(b.f.agents) {
		return fmt.Errorf("%d agents, want %d", online, len(b.f.agents))
	}
	return nil
}
