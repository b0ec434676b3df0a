package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/agentplane/agentplane/cmd/agentplane/lab"
)

// fleet is a cluster of three nodes with agents, whose programs bear witness.
type fleet struct {
	*lab.Lab
	nodes     []*lab.Node
	agents    []*lab.Agent
	addresses []string // of the nodes
	witnesses string   // a directory
	self      string   // the program that agents run
	ghost     string   // an agent that is gone for good, and is not missed; may be empty
	goodbyes  bool     // agents are stopped as planned, which they tell the cluster
	sick      sick     // agents that may be DOWN
}

// everyone is the selector of all agents that are there.
func (f *fleet) everyone() string {
	if f.ghost == "" {
		return "all"
	}
	return fmt.Sprintf("name != %q", f.ghost)
}

// seldom is how often what is for one agent may be for all of them: the more there are the less
// often, so that a machine has to start as many programs as with fifty.
func (f *fleet) seldom(rng *rand.Rand) bool { return rng.IntN(max(1, len(f.agents)/50)) == 0 }

// newFleet returns when all nodes vote and all agents, named a1, a2 and so on, are
// online.
func newFleet(t *testing.T, agents int, nodeArgs, agentArgs []string) *fleet {
	t.Helper()
	return newFleetIn(t, newLab(t), agents, nodeArgs, agentArgs)
}

// newFleetIn is newFleet in a lab that is there.
func newFleetIn(t *testing.T, l *lab.Lab, agents int, nodeArgs, agentArgs []string) *fleet {
	t.Helper()
	f := &fleet{Lab: l}
	f.witnesses = filepath.Join(f.Dir, "witnesses")
	if err := os.Mkdir(f.witnesses, 0o700); err != nil {
		t.Fatal(err)
	}
	var err error
	if f.self, err = os.Executable(); err != nil {
		t.Fatal(err)
	}
	if f.nodes, err = f.Cluster(within(t, time.Minute), three, nodeArgs...); err != nil {
		t.Fatal(err)
	}
	voters(t, f.Lab, len(three))
	for _, n := range f.nodes {
		address, err := n.Address(within(t, 10*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		f.addresses = append(f.addresses, address)
	}
	if agents == 0 {
		return f
	}
	token, err := f.Token(within(t, 20*time.Second), "agent", "--uses", fmt.Sprint(agents))
	if err != nil {
		t.Fatal(err)
	}
	for i := range agents {
		a := f.Lab.Agent(fmt.Sprintf("a%d", i+1), strings.Join(f.addresses, ","), token, agentArgs...)
		if err := a.Start(); err != nil {
			t.Fatal(err)
		}
		f.agents = append(f.agents, a)
	}
	for _, a := range f.agents {
		f.awaitHealth(t, a.Name, "ONLINE")
	}
	return f
}

// argv is the call of the program.
func (f *fleet) argv(args ...string) []string {
	return append([]string{f.self, programArg, f.witnesses}, args...)
}

// agentView is an agent as agentctl shows it.
type agentView struct{ ID, Name, Health, Node string }

func (f *fleet) agentView(ctx context.Context, name string) (agentView, error) {
	var a agentView
	err := f.json(ctx, &a, "agents", "get", name, "-o", "json", "--request-timeout", "3s")
	return a, err
}

// awaitHealth waits until the agent has this health.
func (f *fleet) awaitHealth(t *testing.T, name, want string) {
	t.Helper()
	await(t, 30*time.Second, fmt.Sprintf("agent %s is %s", name, want), func() error {
		a, err := f.agentView(t.Context(), name)
		if err != nil {
			return err
		}
		if a.Health != want {
			return fmt.Errorf("it is %s", a.Health)
		}
		return nil
	})
}

// json runs agentctl and decodes what it prints.
func (f *fleet) json(ctx context.Context, into any, args ...string) error {
	o := f.Ctl(ctx, args...)
	if o.Err() != nil {
		return o.Err()
	}
	if err := json.Unmarshal([]byte(o.Stdout), into); err != nil {
		return fmt.Errorf("decode what agentctl %s printed: %w: %s", strings.Join(args, " "), err, o.Stdout)
	}
	return nil
}

// commandView is a command as agentctl shows it.
type commandView struct {
	ID, State   string
	Counts      map[string]int
	Invocations []invocationView
}

type invocationView struct {
	ID, AgentName, State, Reason, Output string
	Attempt, Signal                      int
	ExitCode                             *int
	Late                                 bool
	StartedAt                            *time.Time
	Stdout                               *struct {
		Head, Tail string
		TotalBytes int
	}
}

func (i invocationView) String() string {
	return fmt.Sprintf("%s on %s is %s (reason %q, output %q)", i.ID, i.AgentName, i.State, i.Reason, i.Output)
}

func newID(t *testing.T) string {
	t.Helper()
	id, err := uuid.NewV7()
	if err != nil {
		t.Fatal(err)
	}
	return id.String()
}

// run runs a program on one agent with an id of its own and follows it to its end.
func (f *fleet) run(t *testing.T, agent string, flags, argv []string) (string, lab.Output) {
	t.Helper()
	id := newID(t)
	args := append([]string{"run", "--id", id, "--on", fmt.Sprintf("name == %q", agent)}, flags...)
	if len(argv) > 0 {
		args = append(append(args, "--"), argv...)
	}
	return id, f.Ctl(within(t, time.Minute), args...)
}

// detach is run that returns when the command is acknowledged.
func (f *fleet) detach(t *testing.T, agent string, flags, argv []string) string {
	t.Helper()
	id, o := f.run(t, agent, append([]string{"--detach"}, flags...), argv)
	if o.Err() != nil {
		t.Fatal(o.Err())
	}
	return id
}

// one is the only invocation of a command.
func (f *fleet) one(ctx context.Context, id string) (invocationView, error) {
	var c commandView
	if err := f.json(ctx, &c, "commands", "get", id, "-o", "json"); err != nil {
		return invocationView{}, err
	}
	if len(c.Invocations) != 1 {
		return invocationView{}, fmt.Errorf("command %s has %d invocations, want one", id, len(c.Invocations))
	}
	return c.Invocations[0], nil
}

// awaitState waits until the only invocation of a command is in the state.
func (f *fleet) awaitState(t *testing.T, id, want string) invocationView {
	t.Helper()
	var i invocationView
	await(t, 30*time.Second, fmt.Sprintf("command %s is %s", id, want), func() (err error) {
		if i, err = f.one(t.Context(), id); err == nil && i.State != want {
			err = errors.New(i.String())
		}
		return err
	})
	return i
}

// starts says how often the program of an invocation was started, over all of its
// attempts.
func (f *fleet) starts(t *testing.T, invocation string) int {
	t.Helper()
	all, err := readWitnesses(f.witnesses)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for s, times := range all {
		if s.invocation == invocation {
			n += times
		}
	}
	return n
}

// awaitStart waits until the program of the command's only invocation has borne
// witness.
func (f *fleet) awaitStart(t *testing.T, id string) invocationView {
	t.Helper()
	var i invocationView
	await(t, 20*time.Second, fmt.Sprintf("the program of command %s starts", id), func() (err error) {
		if i, err = f.one(t.Context(), id); err != nil {
			return err
		}
		if f.starts(t, i.ID) == 0 {
			return errors.New(i.String())
		}
		return nil
	})
	return i
}

// expect fails the test unless the command's only invocation is in the state and was
// started so often.
func (f *fleet) expect(t *testing.T, id, state string, starts int) invocationView {
	t.Helper()
	i := f.awaitState(t, id, state)
	if n := f.starts(t, i.ID); n != starts {
		t.Errorf("%v: started %d times, want %d", i, n, starts)
	}
	return i
}
