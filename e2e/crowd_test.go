package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	simulated "github.com/agentplane/agentplane/cmd/agentplane/fleet"
	"github.com/agentplane/agentplane/cmd/agentplane/lab"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	"github.com/agentplane/agentplane/proto/identity"
)

// crowd is a cluster of three nodes with many simulated agents, whose own witness says
// what has started.
type crowd struct {
	*simulated.Fleet
	f      *fleet3
	api    *client.Client
	info   *agentplanev1.InfoResponse
	agents int
}

// fleet3 is the nodes below a crowd.
type fleet3 struct {
	*lab.Lab
	nodes []*lab.Node
}

// newCrowd returns when all agents are online.
func newCrowd(t *testing.T, agents int, program simulated.Program) *crowd {
	t.Helper()
	base := newFleet(t, 0, nil, nil)
	s := newStream(t, base)
	api, err := s.client(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = api.Close() })
	c := &crowd{f: &fleet3{base.Lab, base.nodes}, api: api, info: s.info, agents: agents}
	c.Fleet, err = simulated.Enrol(within(t, 2*time.Minute), simulated.Options{
		Addresses: base.addresses, Bundle: s.info.GetBundle(), Agents: agents, Prefix: "sim", Program: program, Seed: 1,
		Token: func(ctx context.Context, uses int) (identity.Token, error) {
			text, err := base.Token(ctx, "agent", "--uses", fmt.Sprint(uses))
			if err != nil {
				return identity.Token{}, err
			}
			return identity.ParseToken(text)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	lived := make(chan error, 1)
	go func() { lived <- c.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-lived; err != nil {
			t.Error(err)
		}
	})
	await(t, 2*time.Minute, "all agents are online", c.online)
	return c
}

func (c *crowd) online() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	s, err := agentplanev1.NewClusterServiceClient(c.api).Status(ctx, &agentplanev1.StatusRequest{})
	if err != nil {
		return err
	}
	if n := s.GetAgents()["ONLINE"]; int(n) != c.agents {
		return fmt.Errorf("of %d agents are %v", c.agents, s.GetAgents())
	}
	return nil
}

// submit submits a command for all agents.
func (c *crowd) submit(t *testing.T) string {
	t.Helper()
	return c.submitInWaves(t, nil)
}

func (c *crowd) submitInWaves(t *testing.T, r *agentplanev1.RolloutSpec) string {
	t.Helper()
	id, err := uuid.NewV7()
	if err != nil {
		t.Fatal(err)
	}
	envelope, err := envelopeOf(&agentplanev1.CommandSpec{
		ClusterId: c.info.GetClusterId(), Incarnation: c.info.GetIncarnation(), CommandId: id.String(), Selector: "all",
		Argv: []string{"/bin/true"}, RunTimeout: int64(time.Minute), KillGrace: int64(time.Second),
		NotAfter: time.Now().Add(5 * time.Minute).UnixNano(), Delivery: agentplanev1.Delivery_DELIVERY_AT_MOST_ONCE, Rollout: r,
	})
	if err != nil {
		t.Fatal(err)
	}
	await(t, time.Minute, "the submission is acknowledged", func() error {
		_, err := agentplanev1.NewCommandServiceClient(c.api).Submit(t.Context(), &agentplanev1.SubmitRequest{Envelope: envelope})
		return err
	})
	return id.String()
}

// started waits until so many of the command's attempts have started.
func (c *crowd) started(t *testing.T, id string, n int) {
	t.Helper()
	await(t, time.Minute, fmt.Sprintf("%d attempts of command %s start", n, id), func() error {
		if have := len(c.Witness.Starts(id)); have < n {
			return fmt.Errorf("%d have", have)
		}
		return nil
	})
}

// end waits for the command's end and counts the ends of its invocations. What the cluster
// says of each must go with what the witness says.
func (c *crowd) end(t *testing.T, id string) map[agentplanev1.AttemptState]int {
	t.Helper()
	var all []*agentplanev1.Invocation
	await(t, 3*time.Minute, "command "+id+" ends", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		a, err := agentplanev1.NewCommandServiceClient(c.api).GetCommand(ctx, &agentplanev1.GetCommandRequest{Id: id, WithInvocations: true})
		if err != nil {
			return err
		}
		if all = a.GetCommand().GetInvocations(); a.GetCommand().GetState() != agentplanev1.CommandState_COMMAND_STATE_DONE {
			return fmt.Errorf("its invocations are %v", a.GetCommand().GetCounts())
		}
		return nil
	})
	starts := c.Witness.Starts(id)
	ends := map[agentplanev1.AttemptState]int{}
	for _, i := range all {
		ends[i.GetState()]++
		n := starts[simulated.Attempt{Command: id, Invocation: i.GetId(), Number: i.GetAttempt()}]
		ran := i.GetState() == agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED || i.GetState() == agentplanev1.AttemptState_ATTEMPT_STATE_FAILED
		if n > 1 || ran && n != 1 || i.GetFence() == 0 && n != 0 {
			t.Errorf("%s on %s is %s with fence %d and was started %d times", i.GetId(), i.GetAgentName(), i.GetState(), i.GetFence(), n)
		}
	}
	if len(all) != c.agents {
		t.Errorf("command %s has %d invocations, want %d", id, len(all), c.agents)
	}
	return ends
}

// canceling answers an index at which the state shows that the command is canceled: the
// cancel's own, or one behind it when the watch was told of several changes at once.
func (c *crowd) canceling(t *testing.T, id string) <-chan uint64 {
	t.Helper()
	shown := make(chan uint64, 1)
	seen := errors.New("it is canceled")
	go func() {
		index := uint64(0)
		err := c.api.WatchCommand(t.Context(), &agentplanev1.WatchCommandRequest{Id: id}, func(r *agentplanev1.WatchCommandResponse) error {
			if s := r.GetCommand().GetState(); s != agentplanev1.CommandState_COMMAND_STATE_UNSPECIFIED && s != agentplanev1.CommandState_COMMAND_STATE_ACTIVE {
				index = r.GetIndex()
				return seen
			}
			return nil
		})
		if !errors.Is(err, seen) {
			t.Errorf("watch command %s: %v", id, err)
		}
		shown <- index
	}()
	return shown
}

// noClaimAfter wants that no claim of the command lies behind the index.
func (c *crowd) noClaimAfter(t *testing.T, id string, index uint64) {
	t.Helper()
	a, err := agentplanev1.NewCommandServiceClient(c.api).GetCommand(within(t, 30*time.Second), &agentplanev1.GetCommandRequest{Id: id, WithInvocations: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range a.GetCommand().GetInvocations() {
		if at := i.GetFence() >> 8 & (1<<44 - 1); at > index { // a fence is incarnation, index and ordinal
			t.Errorf("%s was claimed at index %d, the cancel shows at %d", i.GetId(), at, index)
		}
	}
}

func crowdSize() int {
	if full() {
		return 1000
	}
	return 100
}

// TestCrowdOutlivesNodes kills the leader and another node in the middle of a fan-out, each
// for as long as the command takes. Every invocation ends as its agent has told, and has
// started once.
func TestCrowdOutlivesNodes(t *testing.T) {
	c := newCrowd(t, crowdSize(), simulated.Program{Slow: time.Second, Fail: 0.2})
	for _, leader := range []bool{true, false} {
		await(t, 2*time.Minute, "all agents are online", c.online)
		victim, err := c.f.Leader(within(t, 30*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range c.f.nodes {
			if !leader && n.Name != victim.Name {
				victim = n
				break
			}
		}
		id := c.submit(t)
		c.started(t, id, c.agents/4)
		if !victim.Kill() {
			t.Fatalf("%s was dead", victim.Name)
		}
		ends := c.end(t, id)
		good, bad := ends[agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED], ends[agentplanev1.AttemptState_ATTEMPT_STATE_FAILED]
		if good+bad != c.agents || bad == 0 {
			t.Errorf("with %s dead they ended as %v", victim.Name, ends)
		}
		if err := victim.Start(); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Witness.Twice(); err != nil {
		t.Error(err)
	}
}

// TestCrowdKeepsACancel cancels commands at several moments of their fan-out, once with the
// leader killed as the cancel comes. What the cancel found unclaimed never starts, also
// later.
func TestCrowdKeepsACancel(t *testing.T) {
	c := newCrowd(t, crowdSize(), simulated.Program{Slow: time.Minute})
	var ids []string
	for n, first := range []int{0, 1, c.agents / 4, c.agents / 2} {
		id := c.submit(t)
		ids = append(ids, id)
		c.started(t, id, first)
		if n == 3 {
			leader, err := c.f.Leader(within(t, 30*time.Second))
			if err != nil {
				t.Fatal(err)
			}
			if !leader.Kill() {
				t.Fatal("the leader was dead")
			}
			defer func() {
				if err := leader.Start(); err != nil && !errors.Is(err, lab.ErrRunning) {
					t.Error(err)
				}
			}()
		}
		canceling := c.canceling(t, id)
		await(t, time.Minute, "the cancel is acknowledged", func() error {
			_, err := agentplanev1.NewCommandServiceClient(c.api).CancelCommand(t.Context(), &agentplanev1.CancelCommandRequest{Id: id})
			return err
		})
		ends := c.end(t, id)
		c.noClaimAfter(t, id, <-canceling)
		t.Logf("canceled when %d had started: %v, %d started in the end", first, ends, len(c.Witness.Starts(id)))
		if ends[agentplanev1.AttemptState_ATTEMPT_STATE_CANCELED] != c.agents {
			// A program may have ended before its cancel came.
			if ends[agentplanev1.AttemptState_ATTEMPT_STATE_CANCELED]+ends[agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED] != c.agents {
				t.Errorf("they ended as %v", ends)
			}
		}
	}
	before := 0
	for _, id := range ids {
		before += len(c.Witness.Starts(id))
	}
	if err := c.Change(simulated.Program{}); err != nil {
		t.Fatal(err)
	}
	c.end(t, c.submit(t)) // every agent has been given something since
	after := 0
	for _, id := range ids {
		after += len(c.Witness.Starts(id))
	}
	if after != before {
		t.Errorf("%d attempts of canceled commands started later", after-before)
	}
	if err := c.Witness.Twice(); err != nil {
		t.Error(err)
	}
}

// TestCrowdNeverOvershoots runs strict commands whose programs fail at random, one of them
// while the leader dies. By the witness of the agents no more than may fail have ever run or
// failed at once, so that nothing worse could have come; and it does not stop while there
// are failures left.
func TestCrowdNeverOvershoots(t *testing.T) {
	c := newCrowd(t, crowdSize(), simulated.Program{Slow: 100 * time.Millisecond, Fail: 0.2})
	most := c.agents / 25
	waves := []*agentplanev1.WaveSpec{{Count: 1}, {BasisPoints: 1000}, {BasisPoints: 10000}}
	for name, r := range map[string]*agentplanev1.RolloutSpec{
		"at once":         {},
		"in waves":        {Waves: waves, Order: "random"},
		"the leader dies": {Waves: waves},
	} {
		t.Run(name, func(t *testing.T) {
			await(t, 2*time.Minute, "all agents are online", c.online)
			r.MaxFailures, r.Strict = &agentplanev1.FailureLimit{Count: uint32(most)}, true
			r.OnBreach = agentplanev1.OnBreach_ON_BREACH_ABORT
			id := c.submitInWaves(t, r)
			if name == "the leader dies" {
				c.started(t, id, most)
				leader, err := c.f.Leader(within(t, 30*time.Second))
				if err != nil {
					t.Fatal(err)
				}
				if !leader.Kill() {
					t.Fatal("the leader was dead")
				}
				defer func() {
					if err := leader.Start(); err != nil {
						t.Error(err)
					}
				}()
			}
			ends := c.end(t, id)
			failed, never := ends[agentplanev1.AttemptState_ATTEMPT_STATE_FAILED], ends[agentplanev1.AttemptState_ATTEMPT_STATE_CANCELED]
			t.Logf("%d may fail: %v; %d at stake at most, %d started", most, ends, c.Witness.MostAtStake(id), len(c.Witness.Starts(id)))
			if at := c.Witness.MostAtStake(id); at > most || failed > most {
				t.Errorf("%d failed and %d were at stake at once, %d may fail", failed, at, most)
			}
			if never == 0 || failed < most {
				t.Errorf("it ended as %v, want that it goes on until %d have failed, and not to the end", ends, most)
			}
			if started := len(c.Witness.Starts(id)); started != c.agents-never {
				t.Errorf("%d were never started by the cluster's word, and %d of %d started", never, started, c.agents)
			}
		})
	}
	if err := c.Witness.Twice(); err != nil {
		t.Error(err)
	}
}

// entriesOfACrowd is how many entries a command for a thousand agents may cost whose
// programs end at once.
const entriesOfACrowd = 30

// TestCrowdSharesEntries counts the entries from a submission to the last result, whatever
// they are of. The median of five is judged: a sixth of a second in which the machine gives
// a node nothing splits batches.
func TestCrowdSharesEntries(t *testing.T) {
	c := newCrowd(t, crowdSize(), simulated.Program{})
	var entries []int
	for range 5 {
		id := c.submit(t)
		first, last := uint64(0), uint64(0)
		err := c.api.WatchCommand(within(t, 2*time.Minute), &agentplanev1.WatchCommandRequest{Id: id}, func(r *agentplanev1.WatchCommandResponse) error {
			first, last = max(first, r.GetCommand().GetSubmittedIndex()), r.GetIndex()
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if ends := c.end(t, id); ends[agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED] != c.agents {
			t.Fatalf("they ended as %v", ends)
		}
		entries = append(entries, int(last-first)+1)
	}
	slices.Sort(entries)
	t.Logf("entries of five commands for %d agents: %v", c.agents, entries)
	if entries[2] > entriesOfACrowd {
		t.Errorf("commands for %d agents cost %v entries, want %d at most", c.agents, entries, entriesOfACrowd)
	}
}
