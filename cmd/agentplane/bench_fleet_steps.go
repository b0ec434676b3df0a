package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/cmd/agentplane/fleet"
	"github.com/agentplane/agentplane/cmd/agentplane/lab"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/identity"
)

const (
	// fleetProgram is what simulated agents are told to run, and the real one runs.
	fleetProgram = "/bin/true"
	// realAgent is the name of the agent that is no simulation.
	realAgent = "real"
	// mutePatience is how long after the longest program what never answers is canceled.
	mutePatience = 5 * time.Second
	// cancelPrograms run for so long at most in the step that cancels them.
	cancelPrograms = 2 * time.Second
)

// fleetBench is what a run of bench fleet has at hand.
type fleetBench struct {
	o     fleetOptions
	c     *benchCluster
	fleet *fleet.Fleet
	say   func(string, ...any)
}

// enrol makes the agents.
func (b *fleetBench) enrol(ctx context.Context) error {
	b.say("three voters; enrolling %s, each with a key of its own", number(b.o.agents, "simulated agent"))
	f, err := fleet.Enrol(ctx, fleet.Options{
		Addresses: b.c.all[0].Addresses(), Bundle: b.c.info.GetBundle(), Agents: b.o.agents, Prefix: "sim", Version: version,
		Program: b.o.program, Seed: b.o.seed,
		Token: func(ctx context.Context, uses int) (identity.Token, error) {
			return token(ctx, b.c.all[0].Client, agentplanev1.TokenKind_TOKEN_KIND_AGENT, uses)
		},
	})
	if err != nil {
		return fmt.Errorf("enrol agents: %w", err)
	}
	b.fleet = f
	if b.o.alone == 0 {
		return nil
	}
	t, err := b.c.l.Token(ctx, "agent")
	if err != nil {
		return err
	}
	return b.c.l.Agent(realAgent, strings.Join(b.c.all[0].Addresses(), ","), t).Start()
}

// connect returns when all agents are online, and answers how much memory of this process
// each of them has taken since it had so much.
func (b *fleetBench) connect(ctx context.Context, before int) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, benchSetUpTimeout)
	defer cancel()
	all := b.o.agents
	if b.o.alone > 0 {
		all++
	}
	begin := time.Now()
	err := lab.Await(ctx, func() error {
		s, err := agentplanev1.NewClusterServiceClient(b.c.all[0]).Status(ctx, &agentplanev1.StatusRequest{})
		if err != nil {
			return err
		}
		online := 0
		for health, n := range s.GetAgents() {
			if strings.EqualFold(health, "online") {
				online += int(n)
			}
		}
		if online < all {
			return fmt.Errorf("%d of %d agents are online: %v", online, all, s.GetAgents())
		}
		return nil
	})
	each := max(0, memory()-before) / b.o.agents
	b.say("all online after %v; an agent takes %d KB of this process", time.Since(begin).Round(time.Millisecond), each>>10)
	return each, err
}

// memory is what the heap and the stacks of this process hold, without garbage.
func memory() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc + m.StackInuse)
}

// round does every step once.
func (b *fleetBench) round(ctx context.Context, r *fleetReport, number int) error {
	for _, size := range b.o.sizes {
		m, err := b.fanOut(ctx, size)
		if err != nil {
			return fmt.Errorf("a command for %d agents: %w", size, err)
		}
		m.Round = number
		r.FanOuts = append(r.FanOuts, m)
		b.say("round %d/%d  %s", number, b.o.rounds, m)
	}
	c, err := b.cancel(ctx, number)
	if err != nil {
		return fmt.Errorf("cancel in mid fan-out: %w", err)
	}
	c.Round = number
	r.Cancels = append(r.Cancels, c)
	b.say("round %d/%d  %s", number, b.o.rounds, c)
	if b.o.alone > 0 {
		if err := b.alone(ctx, r); err != nil {
			return fmt.Errorf("the real agent: %w", err)
		}
		b.say("round %d/%d  %s", number, b.o.rounds, r.aloneLine())
	}
	return nil
}

// spec is a command for agents, or when there are none named for all that are simulated.
func (b *fleetBench) spec(agents []string) (id string, envelope []byte, err error) {
	u, err := uuid.NewV7()
	if err != nil {
		return "", nil, err
	}
	s := &agentplanev1.CommandSpec{
		ClusterId: b.c.info.GetClusterId(), Incarnation: b.c.info.GetIncarnation(), CommandId: u.String(),
		Agents: agents, Argv: []string{fleetProgram}, RunTimeout: int64(b.o.timeout), KillGrace: int64(time.Second),
		NotAfter: time.Now().Add(b.o.timeout).UnixNano(), Delivery: agentplanev1.Delivery_DELIVERY_AT_MOST_ONCE,
	}
	if agents == nil {
		s.Selector = fmt.Sprintf("name != %q", realAgent)
	}
	exact := proto.MarshalOptions{Deterministic: true}
	spec, err := exact.Marshal(s)
	if err != nil {
		return "", nil, err
	}
	envelope, err = exact.Marshal(&agentplanev1.Envelope{Spec: spec})
	return u.String(), envelope, err
}

func (b *fleetBench) submit(ctx context.Context, agents []string) (*agentplanev1.Command, error) {
	_, envelope, err := b.spec(agents)
	if err != nil {
		return nil, err
	}
	a, err := agentplanev1.NewCommandServiceClient(b.c.all[0]).Submit(ctx, &agentplanev1.SubmitRequest{Envelope: envelope})
	return a.GetCommand(), err
}

// fanOut measures one command for so many agents.
func (b *fleetBench) fanOut(ctx context.Context, size int) (fanOut, error) {
	m := fanOut{Agents: size}
	ctx, cancel := context.WithTimeout(ctx, b.o.timeout)
	defer cancel()
	var agents []string
	if size < b.o.agents {
		agents = b.fleet.IDs()[:size]
	}
	nodes, own, err := b.cpu()
	if err != nil {
		return m, err
	}
	begin := time.Now()
	command, err := b.submit(ctx, agents)
	if err != nil {
		return m, err
	}
	m.Submit = milliseconds(time.Since(begin))
	if b.o.program.Mute > 0 {
		defer time.AfterFunc(b.o.program.Slow+mutePatience, func() {
			// One that fails is seen as the timeout of the step.
			_, _ = agentplanev1.NewCommandServiceClient(b.c.all[0]).CancelCommand(ctx, &agentplanev1.CancelCommandRequest{Id: command.GetId()})
		}).Stop()
	}
	var last *agentplanev1.WatchCommandResponse
	err = b.c.all[0].WatchCommand(ctx, &agentplanev1.WatchCommandRequest{Id: command.GetId()}, func(r *agentplanev1.WatchCommandResponse) error {
		last = r
		return nil
	})
	if err != nil {
		return m, fmt.Errorf("%w (%v)", err, last.GetCommand().GetCounts())
	}
	m.Total = milliseconds(time.Since(begin))
	nodesAfter, ownAfter, err := b.cpu()
	if err != nil {
		return m, err
	}
	m.NodesCPU = float64((nodesAfter - nodes).Microseconds()) / float64(size)
	m.FleetCPU = float64((ownAfter - own).Microseconds()) / float64(size)
	m.Entries = int(last.GetIndex() - command.GetSubmittedIndex() + 1)
	return m, b.judge(ctx, command.GetId(), size)
}

// cpu is what the nodes and this process have used.
func (b *fleetBench) cpu() (nodes, own time.Duration, err error) {
	if own, err = processorTime(nil); err != nil {
		return 0, 0, err
	}
	all, err := processorTime(b.c.Processes())
	return all - own, own, err
}

// judge compares what the cluster says of a command with what its agents have seen.
func (b *fleetBench) judge(ctx context.Context, id string, size int) error {
	defer b.fleet.Witness.Forget(id)
	a, err := agentplanev1.NewCommandServiceClient(b.c.all[0]).GetCommand(ctx, &agentplanev1.GetCommandRequest{Id: id, WithInvocations: true})
	if err != nil {
		return err
	}
	starts := b.fleet.Witness.Starts(id)
	if got := len(a.GetCommand().GetInvocations()); got != size {
		return fmt.Errorf("the command has %d invocations, want %d", got, size)
	}
	var wrong []error
	for _, i := range a.GetCommand().GetInvocations() {
		n := starts[fleet.Attempt{Command: id, Invocation: i.GetId(), Number: i.GetAttempt()}]
		if err := judgeInvocation(i, n); err != nil {
			wrong = append(wrong, err)
		}
	}
	return errors.Join(append(wrong[:min(len(wrong), 10)], b.fleet.Witness.Twice())...)
}

// judgeInvocation says what is wrong with an invocation that was started so often.
func judgeInvocation(i *agentplanev1.Invocation, starts int) error {
	bad := func(why string) error {
		return fmt.Errorf("invocation %s on %s is %s(%s) and was started %d times: %s", i.GetId(), i.GetAgentName(), i.GetState(), i.GetReason(), starts, why)
	}
	switch s := i.GetState(); {
	case starts > 1:
		return bad("one attempt starts at most once")
	case s == agentplanev1.AttemptState_ATTEMPT_STATE_SUCCEEDED, s == agentplanev1.AttemptState_ATTEMPT_STATE_FAILED, s == agentplanev1.AttemptState_ATTEMPT_STATE_TIMED_OUT:
		if starts != 1 {
			return bad("what never started has no result")
		}
	case s == agentplanev1.AttemptState_ATTEMPT_STATE_CANCELED:
		if i.GetFence() == 0 && starts != 0 {
			return bad("what was canceled before its claim never starts")
		}
	default:
		return bad("nothing else was asked for")
	}
	return nil
}

// cancel cancels a command in the middle of its fan-out: when the first claim is seen, and
// in later rounds when a quarter, a half and three quarters are claimed.
func (b *fleetBench) cancel(ctx context.Context, round int) (canceled, error) {
	m := canceled{Agents: b.o.agents}
	if err := b.fleet.Change(fleet.Program{Slow: cancelPrograms}); err != nil {
		return m, err
	}
	defer func() { _ = b.fleet.Change(b.o.program) }() // it was good before
	ctx, stop := context.WithTimeout(ctx, b.o.timeout)
	defer stop()
	command, err := b.submit(ctx, nil)
	if err != nil {
		return m, err
	}
	api := agentplanev1.NewCommandServiceClient(b.c.all[0])
	wait := uint32(max(1, (round-1)%4*b.o.agents/4))
	first := errors.New("enough is claimed")
	err = b.c.all[0].WatchCommand(ctx, &agentplanev1.WatchCommandRequest{Id: command.GetId()}, func(r *agentplanev1.WatchCommandResponse) error {
		if n := r.GetCommand().GetCounts(); n["released"]+n["pending"]+wait <= uint32(b.o.agents) {
			return first
		}
		return nil
	})
	if !errors.Is(err, first) {
		return m, errors.Join(errors.New("the command ended before it was canceled"), err)
	}
	begin := time.Now()
	if _, err := api.CancelCommand(ctx, &agentplanev1.CancelCommandRequest{Id: command.GetId()}); err != nil {
		return m, err
	}
	m.Call = milliseconds(time.Since(begin))
	if err := b.c.all[0].WatchCommand(ctx, &agentplanev1.WatchCommandRequest{Id: command.GetId()}, func(*agentplanev1.WatchCommandResponse) error { return nil }); err != nil {
		return m, err
	}
	m.Total = milliseconds(time.Since(begin))
	m.Started = len(b.fleet.Witness.Starts(command.GetId()))
	return m, b.judge(ctx, command.GetId(), b.o.agents)
}

// alone measures round trips of one real agent, in turn with os/exec.
func (b *fleetBench) alone(ctx context.Context, r *fleetReport) error {
	for range b.o.alone {
		begin := time.Now()
		if err := exec.CommandContext(ctx, fleetProgram).Run(); err != nil {
			return err
		}
		r.exec = append(r.exec, time.Since(begin))
		begin = time.Now()
		command, err := b.submit(ctx, []string{realAgent})
		if err != nil {
			return err
		}
		var last *agentplanev1.Command
		err = b.c.all[0].WatchCommand(ctx, &agentplanev1.WatchCommandRequest{Id: command.GetId()}, func(r *agentplanev1.WatchCommandResponse) error {
			last = r.GetCommand()
			return nil
		})
		if err != nil {
			return err
		}
		r.trips = append(r.trips, time.Since(begin))
		if last.GetCounts()["succeeded"] != 1 {
			return fmt.Errorf("command %s came to %v, want one success", last.GetId(), last.GetCounts())
		}
	}
	slices.Sort(r.exec)
	slices.Sort(r.trips)
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
