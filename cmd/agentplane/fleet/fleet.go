package fleet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"github.com/agentplane/agentplane/agent/session"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/identity"
)

const (
	// tokenUses keeps a token small: the state keeps every use with its key, and writes
	// the token anew with each.
	tokenUses = 50
	enrolling = 16 // at once
	// slots of each agent, as agentd has by default.
	slots = 4
)

// Options say whom a fleet belongs to.
type Options struct {
	// Addresses of nodes, and the bundle to trust them by.
	Addresses []string
	Bundle    *agentplanev1.Bundle
	// Token makes a token for so many agents.
	Token func(ctx context.Context, uses int) (identity.Token, error)
	// Agents is how many there are; they are named Prefix-1 and so on.
	Agents int
	Prefix string
	// Version is said in Hello.
	Version string
	Program Program
	// Seed decides what each program does.
	Seed uint64
	// Logger may be nil.
	Logger hclog.Logger
}

// Fleet is many agents in one process.
type Fleet struct {
	// Witness counts what was started.
	Witness Witness

	o      Options
	trust  *trust
	agents []*agent
}

type agent struct {
	id, name string
	host     *host
	cert     *tls.Certificate
}

// Enrol makes a fleet and enrols each of its agents with a key of its own.
func Enrol(ctx context.Context, o Options) (*Fleet, error) {
	if err := o.Program.Validate(); err != nil {
		return nil, err
	}
	if o.Agents < 1 {
		return nil, fmt.Errorf("a fleet of %d agents has none", o.Agents)
	}
	if o.Logger == nil {
		o.Logger = hclog.NewNullLogger()
	}
	f := &Fleet{o: o, agents: make([]*agent, o.Agents)}
	var err error
	if f.trust, err = newTrust(o.Bundle); err != nil {
		return nil, err
	}
	newcomer, err := client.New(client.Options{Addresses: o.Addresses, Bundle: o.Bundle})
	if err != nil {
		return nil, err
	}
	defer newcomer.Close()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(enrolling)
	for first := 0; first < o.Agents; first += tokenUses {
		uses := min(tokenUses, o.Agents-first)
		t, err := o.Token(ctx, uses)
		if err != nil {
			return nil, errors.Join(err, g.Wait())
		}
		for n := first; n < first+uses; n++ {
			g.Go(func() (err error) {
				f.agents[n], err = f.enrol(ctx, newcomer, t, n)
				return err
			})
		}
	}
	return f, g.Wait()
}

func (f *Fleet) enrol(ctx context.Context, newcomer *client.Client, t identity.Token, n int) (*agent, error) {
	a := &agent{id: uuid.NewString(), name: fmt.Sprintf("%s-%d", f.o.Prefix, n+1)}
	key, err := identity.GenerateKey()
	if err != nil {
		return nil, err
	}
	csr, err := identity.CreateRequest(key, identity.ID{Cluster: f.o.Bundle.GetClusterId(), Kind: identity.KindAgent, Name: a.id})
	if err != nil {
		return nil, err
	}
	answer, err := agentplanev1.NewEnrollServiceClient(newcomer).Enroll(ctx, &agentplanev1.EnrollRequest{
		TokenId: t.ID(), Authenticator: t.Authenticator().Reveal(), Csr: csr,
		As: &agentplanev1.EnrollRequest_Agent{Agent: &agentplanev1.EnrollAgent{AgentId: a.id, Name: a.name, Version: f.o.Version}},
	})
	if err != nil {
		return nil, fmt.Errorf("enrol %s: %w", a.name, err)
	}
	if a.cert, err = identity.NewCertificate(key, answer.GetCertificate()); err != nil {
		return nil, err
	}
	a.host = newHost(&f.Witness, f.o.Seed+uint64(n), f.o.Program, answer.GetNow())
	return a, nil
}

// Run keeps the sessions of all agents until ctx ends; then they say goodbye. It may be
// called once.
func (f *Fleet) Run(ctx context.Context) error {
	var lives sync.WaitGroup
	for _, a := range f.agents {
		k, err := session.New(session.Options{
			AgentID: a.id, ClusterID: f.o.Bundle.GetClusterId(), Version: f.o.Version, BootID: "simulated",
			StartID: newJournalID(), Slots: slots,
			Opener: opener{f.trust, a.cert}, Trust: f.trust, Work: a.host, Facts: facts{}, Clock: &a.host.clock,
			Logger: f.o.Logger.Named(a.name), BackoffCap: 2 * time.Second,
		})
		if err != nil {
			return err
		}
		lives.Go(func() {
			defer a.host.close()
			_ = k.Run(ctx) // nil, when ctx has ended
		})
	}
	lives.Wait()
	return nil
}

// IDs are those of the agents.
func (f *Fleet) IDs() []string {
	ids := make([]string, 0, len(f.agents))
	for _, a := range f.agents {
		ids = append(ids, a.id)
	}
	return ids
}

// Change makes what starts from now on another program.
func (f *Fleet) Change(p Program) error {
	if err := p.Validate(); err != nil {
		return err
	}
	for _, a := range f.agents {
		a.host.change(p)
	}
	return nil
}

// facts of a simulated host never change.
type facts struct{}

// Facts answers that the host is simulated, so that nobody takes it for another.
func (facts) Facts() ([]*agentplanev1.Label, []byte, <-chan struct{}) {
	return []*agentplanev1.Label{{Name: "simulated", Value: "true"}}, []byte("simulated"), nil
}
