package agenttest

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/identity"
)

// Cluster is a cluster of nodes that share one state.
type Cluster struct {
	ID    string
	Nodes []*Node

	t     testing.TB
	token identity.Token

	mu          sync.Mutex                // guards what follows
	tokens      map[string]identity.Token // by id
	changed     chan struct{}
	bundle      *agentplanev1.Bundle
	agents      map[string]*member
	claims      map[string]*claim // by invocation id
	life        time.Duration     // of certificates
	age         time.Duration     // that a fresh certificate has already
	refuse      func(*agentplanev1.Hello) *agentplanev1.Refused
	leaderless  bool
	unconfirmed bool
	frozen      bool // nobody is answered
	blobs       map[string]string
	fetching    func(*agentplanev1.FetchBlobRequest, <-chan struct{}) error
	fetched     int
}

// member is an enrolled agent.
type member struct {
	id, name string
	key      identity.PublicKey
	old      []identity.PublicKey // taken away by Readmit
	labels   []*agentplanev1.Label
	facts    []*agentplanev1.Label
	hash     []byte
	epoch    uint64
	hellos   []*agentplanev1.Hello
	goodbye  *agentplanev1.Goodbye
	beats    int
	renewals int
	session  *session // the one that has said Ready
}

// claim is one attempt that an agent may start.
type claim struct {
	agentID  string
	deliver  *agentplanev1.Deliver
	reports  []*agentplanev1.Report
	final    *agentplanev1.Report
	confirms int
	canceled bool
}

// NewCluster starts n nodes; they end with the test.
func NewCluster(t testing.TB, n int) *Cluster {
	t.Helper()
	token, err := identity.NewToken()
	if err != nil {
		t.Fatal(err)
	}
	c := &Cluster{
		ID: uuid.Must(uuid.NewV7()).String(), t: t, token: token, changed: make(chan struct{}),
		tokens: map[string]identity.Token{token.ID(): token}, agents: map[string]*member{}, claims: map[string]*claim{}, life: 24 * time.Hour,
		blobs: map[string]string{},
	}
	incarnation := uuid.New()
	c.bundle = &agentplanev1.Bundle{ClusterId: c.ID, Incarnation: &agentplanev1.Incarnation{Number: 1, Id: incarnation[:]}, Index: 1}
	for i := range n {
		c.Nodes = append(c.Nodes, newNode(t, c, fmt.Sprintf("node-%c", 'a'+i)))
	}
	for _, n := range c.Nodes {
		n.trust()
		n.serve()
	}
	t.Cleanup(func() {
		for _, n := range c.Nodes {
			n.Kill()
		}
	})
	return c
}

// Token returns a join token for any number of agents.
func (c *Cluster) Token() string { return c.token.Reveal() }

// NewToken returns another join token for any number of agents.
func (c *Cluster) NewToken() string {
	c.t.Helper()
	token, err := identity.NewToken()
	if err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tokens[token.ID()] = token
	return token.Reveal()
}

// Readmit takes the agent's key away, as after a clone; its session ends.
func (c *Cluster) Readmit(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.agents[id]
	m.old, m.key = append(m.old, m.key), nil
	c.endLocked(m)
}

// Remove forgets the agent; its session ends.
func (c *Cluster) Remove(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endLocked(c.agents[id])
	delete(c.agents, id)
}

func (c *Cluster) endLocked(m *member) {
	if m.session != nil {
		close(m.session.end)
		m.session = nil
	}
	c.changedLocked()
}

// Key returns the registered key of the agent.
func (c *Cluster) Key(id string) identity.PublicKey {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m := c.agents[id]; m != nil {
		return m.key
	}
	return nil
}

// Addresses returns where the nodes listen.
func (c *Cluster) Addresses() []string {
	var all []string
	for _, n := range c.Nodes {
		all = append(all, n.Address)
	}
	return all
}

// Certificates says how long those issued from now on live, and how much of that is over
// already.
func (c *Cluster) Certificates(life, age time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.life, c.age = life, age
}

// Refuse lets the function say what each Hello is refused with; nil lets it in.
func (c *Cluster) Refuse(f func(*agentplanev1.Hello) *agentplanev1.Refused) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refuse = f
}

// Leaderless says whether the nodes have lost their leader: they refuse new sessions, and keep
// those that they have.
func (c *Cluster) Leaderless(yes bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leaderless = yes
}

// Confirming says whether reports are confirmed.
func (c *Cluster) Confirming(yes bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unconfirmed = !yes
}

// Until waits for the condition, which is asked after each change, and fails the test when
// it does not come true in time.
func (c *Cluster) Until(what string, condition func() bool) {
	c.t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		c.mu.Lock()
		changed := c.changed
		c.mu.Unlock()
		if condition() {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			c.t.Fatalf("timed out waiting until %s", what)
		}
	}
}

func (c *Cluster) changedLocked() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// Agents returns the ids of the enrolled agents, in order.
func (c *Cluster) Agents() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []string
	for id := range c.agents {
		all = append(all, id)
	}
	slices.Sort(all)
	return all
}

// Agent is what the cluster knows of an agent.
type Agent struct {
	Name     string
	Labels   map[string]string
	Facts    map[string]string
	Epoch    uint64
	Ready    bool
	Node     string
	Hellos   []*agentplanev1.Hello
	Goodbye  *agentplanev1.Goodbye
	Beats    int
	Renewals int
}

// Agent returns what is known of the agent; the zero value when it is not enrolled.
func (c *Cluster) Agent(id string) Agent {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.agents[id]
	if m == nil {
		return Agent{}
	}
	a := Agent{
		Name: m.name, Labels: map[string]string{}, Facts: map[string]string{}, Epoch: m.epoch, Hellos: slices.Clone(m.hellos),
		Goodbye: m.goodbye, Beats: m.beats, Renewals: m.renewals,
	}
	for _, l := range m.labels {
		a.Labels[l.GetName()] = l.GetValue()
	}
	for _, l := range m.facts {
		a.Facts[l.GetName()] = l.GetValue()
	}
	if m.session != nil {
		a.Ready, a.Node = true, m.session.node.ID
	}
	return a
}

// WaitReady waits for the first agent's session, or the next one above the epoch, and
// returns the agent's id.
func (c *Cluster) WaitReady(above uint64) string {
	c.t.Helper()
	id := ""
	c.Until("an agent is ready", func() bool {
		for _, a := range c.Agents() {
			if state := c.Agent(a); state.Ready && state.Epoch > above {
				id = a
				return true
			}
		}
		return false
	})
	return id
}

// Spec returns a command for this cluster that may start within the next minute.
func (c *Cluster) Spec(argv ...string) *agentplanev1.CommandSpec {
	return &agentplanev1.CommandSpec{
		ClusterId: c.ID, Incarnation: c.bundle.GetIncarnation(), CommandId: uuid.Must(uuid.NewV7()).String(), Argv: argv,
		RunTimeout: int64(time.Minute), KillGrace: int64(time.Second), NotAfter: time.Now().Add(time.Minute).UnixNano(),
		Delivery: agentplanev1.Delivery_DELIVERY_AT_MOST_ONCE,
	}
}

// Submit claims the command for the agent, delivers it, and returns its invocation id.
func (c *Cluster) Submit(agentID string, spec *agentplanev1.CommandSpec, change ...func(*agentplanev1.Deliver)) string {
	c.t.Helper()
	bytes, err := proto.Marshal(spec)
	if err != nil {
		c.t.Fatal(err)
	}
	envelope, err := proto.Marshal(&agentplanev1.Envelope{Spec: bytes})
	if err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	d := &agentplanev1.Deliver{
		InvocationId: spec.GetCommandId() + ".1", Attempt: 1, CommandId: spec.GetCommandId(), Fence: uint64(len(c.claims) + 1000),
		Incarnation: 1, Envelope: envelope, SubmittedAt: time.Now().UnixNano(),
	}
	for _, f := range change {
		f(d)
	}
	c.claims[d.GetInvocationId()] = &claim{agentID: agentID, deliver: d}
	c.sendLocked(agentID, func(s *session) *agentplanev1.SessionResponse { return s.delivery(d) })
	return d.GetInvocationId()
}

// Redeliver sends the claim once more.
func (c *Cluster) Redeliver(invocation string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	cl := c.claims[invocation]
	c.sendLocked(cl.agentID, func(s *session) *agentplanev1.SessionResponse { return s.delivery(cl.deliver) })
}

// Cancel asks the agent to cancel; it is told again in later sessions.
func (c *Cluster) Cancel(agentID, invocation string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cl := c.claims[invocation]; cl != nil {
		cl.canceled = true
	}
	c.sendLocked(agentID, func(s *session) *agentplanev1.SessionResponse { return s.cancel(invocation) })
}

// Keep tells the agent, in this session alone, that an operator has confirmed an attempt.
func (c *Cluster) Keep(agentID, invocation, by string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sendLocked(agentID, func(s *session) *agentplanev1.SessionResponse { return s.keep(invocation, by) })
}

// Ask asks the agent about an attempt.
func (c *Cluster) Ask(agentID, invocation string, fence uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.claims[invocation] == nil {
		c.claims[invocation] = &claim{agentID: agentID}
	}
	c.sendLocked(agentID, func(*session) *agentplanev1.SessionResponse {
		return &agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_Ask{Ask: &agentplanev1.Ask{InvocationId: invocation, Attempt: 1, Fence: fence}}}
	})
}

// Send sends anything on the agent's session.
func (c *Cluster) Send(agentID string, m *agentplanev1.SessionResponse) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sendLocked(agentID, func(*session) *agentplanev1.SessionResponse { return m })
}

func (c *Cluster) sendLocked(agentID string, m func(*session) *agentplanev1.SessionResponse) {
	if a := c.agents[agentID]; a != nil && a.session != nil {
		a.session.send(m(a.session))
	}
}

// Reports returns what the agent has reported of an invocation so far.
func (c *Cluster) Reports(invocation string) []*agentplanev1.Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	cl := c.claims[invocation]
	if cl == nil {
		return nil
	}
	return slices.Clone(cl.reports)
}

// Wait waits for the end of an invocation.
func (c *Cluster) Wait(invocation string) *agentplanev1.Report {
	c.t.Helper()
	var final *agentplanev1.Report
	c.Until("invocation "+invocation+" ends", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		final = c.claims[invocation].final
		return final != nil
	})
	return final
}

// WaitState waits until the agent has reported the state.
func (c *Cluster) WaitState(invocation string, state agentplanev1.AttemptState) *agentplanev1.Report {
	c.t.Helper()
	var found *agentplanev1.Report
	c.Until(fmt.Sprintf("invocation %s is %s", invocation, state.ShortName()), func() bool {
		for _, r := range c.Reports(invocation) {
			if r.GetState() == state {
				found = r
				return true
			}
		}
		return false
	})
	return found
}

// Raise publishes a bundle with a higher index.
func (c *Cluster) Raise() *agentplanev1.Bundle {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bundle = proto.CloneOf(c.bundle)
	c.bundle.Index++
	return c.bundle
}

func (c *Cluster) trusted() (*identity.Bundle, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return client.TrustBundle(c.bundle)
}

// Silence says whether heartbeats stay unanswered.
func (c *Cluster) Silence(yes bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frozen = yes
}

// Forget makes the cluster believe that it has no result, so that it delivers again.
func (c *Cluster) Forget(invocation string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.claims[invocation].final = nil
}
