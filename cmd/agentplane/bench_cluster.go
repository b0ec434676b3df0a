package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/cmd/agentplane/lab"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/identity"
)

const (
	benchNodes = 3
	// benchSharing is how many clients share one connection.
	benchSharing = 64
	// benchCommandBytes is the size of a submission's envelope.
	benchCommandBytes = 256
	// benchQueue is how long a command waits for its agent, which never comes.
	benchQueue = time.Minute
	// benchTokenUses keeps a token small: the state keeps every use with its key and
	// writes the token anew with each.
	benchTokenUses = 50
	benchEnrolling = 16 // at once
)

// benchCluster is the product under load: three processes, its agents, and the
// operator's connections. Close ends all of it.
type benchCluster struct {
	o        benchOptions
	l        *lab.Lab
	operator *client.Context
	info     *agentplanev1.InfoResponse
	agents   []string // their ids

	all    []*benchConn // one for up to benchSharing clients, over the nodes in turn
	leader []*benchConn // the same number, to the leader at leaderAt

	leaderAt string

	padding       string
	envelopeBytes int
	turn          atomic.Uint64 // of agents
	newest        []string      // command of each client, which alone uses its place
}

// benchConn is a connection that clients share.
type benchConn struct {
	*client.Client
	submitter *client.Submitter
}

func openBenchCluster(ctx context.Context, o benchOptions, dir string, bin lab.Binaries, say func(string, ...any)) (_ *benchCluster, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, benchSetUpTimeout, fmt.Errorf("the cluster was not set up within %v", benchSetUpTimeout))
	defer cancel()
	l, err := lab.New(dir, bin)
	if err != nil {
		return nil, err
	}
	l.NodeEnv = shareOfMemory(benchNodes)
	c := &benchCluster{o: o, l: l, newest: make([]string, o.maxClients())}
	defer func() { //nolint:contextcheck // nothing is left behind, whatever has ended
		if err != nil {
			c.Close()
		}
	}()
	say("starting %d nodes: init, join, join", benchNodes)
	var names []string
	for i := range benchNodes {
		names = append(names, fmt.Sprintf("node-%d", i+1))
	}
	if _, err := l.Cluster(ctx, names, "--agent-queue-max", "10000000"); err != nil {
		return nil, err
	}
	if err := (&tour{l: l}).awaitVoters(ctx); err != nil {
		return nil, err
	}
	if err := c.connect(ctx); err != nil {
		return nil, fmt.Errorf("connect to the cluster: %w", err)
	}
	if _, err := c.Term(ctx); err != nil {
		return nil, fmt.Errorf("ask who leads: %w", err)
	}
	if c.leaderAt == "" {
		return nil, errors.New("no member leads")
	}
	return c, nil
}

// fill enrols the agents for which commands wait.
func (c *benchCluster) fill(ctx context.Context, say func(string, ...any)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, benchSetUpTimeout, fmt.Errorf("the agents were not enrolled within %v", benchSetUpTimeout))
	defer cancel()
	say("three voters; enrolling %s that will never connect", number(c.o.agents, "agent"))
	if err := c.enrol(ctx); err != nil {
		return fmt.Errorf("enrol agents: %w", err)
	}
	return c.pad()
}

// Close ends the connections and the processes.
func (c *benchCluster) Close() {
	for _, cl := range append(c.all, c.leader...) {
		_ = cl.Close()
	}
	c.l.Close()
}

func (c *benchCluster) client(address string) (*benchConn, error) {
	cert, err := c.operator.TLSCertificate()
	if err != nil {
		return nil, err
	}
	cl, err := client.New(client.Options{Addresses: []string{address}, Bundle: c.operator.Bundle, Certificate: client.Static(cert)})
	if err != nil {
		return nil, err
	}
	return &benchConn{cl, client.NewSubmitter(cl)}, nil
}

// connect makes the operator's clients.
func (c *benchCluster) connect(ctx context.Context) (err error) {
	if c.operator, err = client.OpenContexts(filepath.Join(c.l.User, "agentctl.yaml")).Load(""); err != nil {
		return err
	}
	members, err := c.l.Members(ctx)
	if err != nil {
		return err
	}
	for i := range benchConnections(c.o.maxClients(), benchNodes) {
		anywhere, err := c.client(members[i%len(members)].Address)
		if err != nil {
			return err
		}
		c.all = append(c.all, anywhere)
	}
	if c.info, err = agentplanev1.NewClusterServiceClient(c.all[0]).Info(ctx, &agentplanev1.InfoRequest{}); err != nil {
		return err
	}
	return nil
}

// enrol registers the agents over connections without a certificate, as newcomers
// have them.
func (c *benchCluster) enrol(ctx context.Context) error {
	newcomer, err := client.New(client.Options{Addresses: c.all[0].Addresses(), Bundle: c.info.GetBundle()})
	if err != nil {
		return err
	}
	defer newcomer.Close()
	var mu sync.Mutex // guards c.agents
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(benchEnrolling)
	for done := 0; done < c.o.agents; done += benchTokenUses {
		uses := min(benchTokenUses, c.o.agents-done)
		t, err := token(ctx, c.all[0].Client, agentplanev1.TokenKind_TOKEN_KIND_AGENT, uses)
		if err != nil {
			return errors.Join(err, g.Wait())
		}
		for range uses {
			g.Go(func() error {
				id, err := enrolOne(ctx, newcomer, t, c.operator.ClusterID)
				if err != nil {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				c.agents = append(c.agents, id)
				return nil
			})
		}
	}
	return g.Wait()
}

func enrolOne(ctx context.Context, newcomer *client.Client, t identity.Token, cluster string) (string, error) {
	key, err := identity.GenerateKey()
	if err != nil {
		return "", err
	}
	id := uuid.NewString()
	csr, err := identity.CreateRequest(key, identity.ID{Cluster: cluster, Kind: identity.KindAgent, Name: id})
	if err != nil {
		return "", err
	}
	_, err = agentplanev1.NewEnrollServiceClient(newcomer).Enroll(ctx, &agentplanev1.EnrollRequest{
		TokenId: t.ID(), Authenticator: t.Authenticator().Reveal(), Csr: csr,
		As: &agentplanev1.EnrollRequest_Agent{Agent: &agentplanev1.EnrollAgent{AgentId: id, Name: "bench-" + id[:13], Version: version}},
	})
	return id, err
}

// pad finds what brings a command to its size: all have ids and times of the same
// length.
func (c *benchCluster) pad() error {
	for n := benchCommandBytes; ; n-- {
		c.padding = strings.Repeat("0", n)
		_, envelope, err := c.command()
		if err != nil {
			return err
		}
		if c.envelopeBytes = len(envelope); c.envelopeBytes <= benchCommandBytes || n == 0 {
			return nil
		}
	}
}

// command makes the next command, for the agent whose turn it is.
func (c *benchCluster) command() (id string, envelope []byte, err error) {
	u, err := uuid.NewV7()
	if err != nil {
		return "", nil, err
	}
	agent := c.agents[(c.turn.Add(1)-1)%uint64(len(c.agents))]
	exact := proto.MarshalOptions{Deterministic: true}
	spec, err := exact.Marshal(&agentplanev1.CommandSpec{
		ClusterId: c.info.GetClusterId(), Incarnation: c.info.GetIncarnation(), CommandId: u.String(),
		Agents: []string{agent}, Argv: []string{"/bin/true", c.padding}, RunTimeout: int64(time.Minute),
		NotAfter: time.Now().Add(benchQueue).UnixNano(), QueueOffline: true,
		Delivery: agentplanev1.Delivery_DELIVERY_AT_MOST_ONCE,
	})
	if err != nil {
		return "", nil, err
	}
	envelope, err = exact.Marshal(&agentplanev1.Envelope{Spec: spec})
	return u.String(), envelope, err
}

// Term asks a node; a linearizable answer is that of the leader's term. Submissions
// through the leader go to the one that leads now.
func (c *benchCluster) Term(ctx context.Context) (uint64, error) {
	s, err := agentplanev1.NewClusterServiceClient(c.all[0]).Status(ctx, &agentplanev1.StatusRequest{})
	if err != nil {
		return 0, err
	}
	for _, m := range s.GetMembers() {
		if m.GetLeader() && m.GetAddress() != c.leaderAt {
			return s.GetTerm(), c.follow(m.GetAddress())
		}
	}
	return s.GetTerm(), nil
}

// Processes are the nodes.
func (c *benchCluster) Processes() (pids []int) {
	for _, n := range c.l.Nodes() {
		pids = append(pids, n.PID())
	}
	return pids
}

// follow connects to the leader. No call is on its way.
func (c *benchCluster) follow(address string) error {
	for _, cl := range c.leader {
		_ = cl.Close()
	}
	c.leader, c.leaderAt = nil, address
	for range c.all {
		cl, err := c.client(address)
		if err != nil {
			return err
		}
		c.leader = append(c.leader, cl)
	}
	return nil
}

type benchSubmitter struct{ *benchCluster }

// What names the step.
func (benchSubmitter) What() string { return benchSubmit }

// Call submits a command by a call of its own.
func (s benchSubmitter) Call(ctx context.Context, number, clients int) error {
	id, envelope, err := s.command()
	if err != nil {
		return err
	}
	c := s.over(number, clients)
	r, err := agentplanev1.NewCommandServiceClient(c.Client).Submit(ctx, &agentplanev1.SubmitRequest{Envelope: envelope})
	if err != nil {
		return err
	}
	return s.submitted(number, id, r.GetCommand().GetTargets())
}

// over is the connection of one of so many clients that submit.
func (c *benchCluster) over(number, clients int) *benchConn {
	if c.o.through == throughLeader {
		return c.leader[number%benchConnections(clients, 1)]
	}
	return c.anywhere(number, clients)
}

// anywhere is a client's connection to the node whose turn it is.
func (c *benchCluster) anywhere(number, clients int) *benchConn {
	return c.all[number%benchConnections(clients, benchNodes)]
}

// benchConnections is how many connections so many clients share, at least least.
func benchConnections(clients, least int) int {
	return max((clients+benchSharing-1)/benchSharing, least)
}

func (c *benchCluster) submitted(number int, id string, targets uint32) error {
	if targets != 1 {
		return fmt.Errorf("command %s has %d targets, want 1", id, targets)
	}
	c.newest[number] = id
	return nil
}

type benchBatcher struct{ *benchCluster }

// What names the step.
func (benchBatcher) What() string { return benchBatch }

// Call submits a command by a call that it may share with others of its connection.
func (s benchBatcher) Call(ctx context.Context, number, clients int) error {
	id, envelope, err := s.command()
	if err != nil {
		return err
	}
	r, err := s.over(number, clients).submitter.Submit(ctx, envelope)
	if err != nil {
		return err
	}
	return s.submitted(number, id, r.GetTargets())
}

type benchReader struct{ *benchCluster }

// What names the step.
func (benchReader) What() string { return benchRead }

// Call reads a command that the client has submitted, linearizably.
func (s benchReader) Call(ctx context.Context, number, clients int) error {
	id := s.newest[number]
	if id == "" {
		return errNothingSubmitted
	}
	r, err := agentplanev1.NewCommandServiceClient(s.anywhere(number, clients).Client).GetCommand(ctx, &agentplanev1.GetCommandRequest{Id: id})
	if err != nil {
		return err
	}
	if got := r.GetCommand().GetId(); got != id {
		return fmt.Errorf("asked for command %s, was given %q", id, got)
	}
	return nil
}

// errNothingSubmitted says that a client has no command of its own to read.
var errNothingSubmitted = errors.New("nothing was submitted by this client")
