package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

// chaosForm is how long and how hard a run is.
type chaosForm struct {
	counts map[string]int
	least  int           // acknowledged commands
	bound  time.Duration // of all faults together
}

var (
	shortForm = chaosForm{
		counts: map[string]int{killLeader: 3, killNode: 2, killAgent: 3, killAll: 1, pauseLeader: 2},
		least:  100, bound: 3 * time.Minute,
	}
	fullForm = chaosForm{
		counts: map[string]int{killLeader: 20, killNode: 10, killAgent: 20, killAll: 2, pauseLeader: 10},
		least:  500, bound: 15 * time.Minute,
	}
)

const (
	chaosAgents  = 5
	chaosClients = 4
	// betweenFaults is how many commands are acknowledged after each fault, at least.
	betweenFaults = 5
)

// chaosSeed is AGENTPLANE_E2E_SEED, or a new one. It chooses faults, targets and
// commands; the kernel chooses the rest.
func chaosSeed(t *testing.T) uint64 {
	seed := rand.Uint64()
	if s := os.Getenv("AGENTPLANE_E2E_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("AGENTPLANE_E2E_SEED: %v", err)
		}
	}
	t.Logf("AGENTPLANE_E2E_SEED=%d", seed)
	return seed
}

// TestAnyNodeAnyDeath kills and pauses nodes and agents under a stream of
// submissions, and judges what clients, cluster and programs say when it is over.
func TestAnyNodeAnyDeath(t *testing.T) {
	form := shortForm
	if full() {
		form = fullForm
	}
	seed := chaosSeed(t)
	f := newFleet(t, chaosAgents, nil, nil)
	s := newStream(t, f)
	c, err := s.client(1)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b := &breaker{f: f, client: c, rng: rand.New(rand.NewPCG(seed, 0))}
	s.begin(seed, chaosClients)
	stop := sync.OnceFunc(s.finish)
	defer stop()

	began := time.Now()
	faults := schedule(b.rng, form.counts)
	for n := 0; n < len(faults); n++ {
		kind := faults[n]
		b.strike(t, kind)
		t.Logf("%6.1fs fault %d: %s", time.Since(began).Seconds(), n+1, kind)
		await(t, time.Minute, "the cluster is whole after: "+kind, func() error { return b.whole(t.Context()) })
		enough := s.acks.Load() + betweenFaults
		await(t, 30*time.Second, "commands are acknowledged after: "+kind, func() error {
			if have := s.acks.Load(); have < enough {
				return fmt.Errorf("%d commands are acknowledged, want %d", have, enough)
			}
			return nil
		})
		if time.Since(began) > form.bound {
			t.Fatalf("%d faults took longer than %v", n+1, form.bound)
		}
		if n+1 == len(faults) && b.midRun == 0 { // no program was met yet
			faults = append(faults, killAgent)
		}
	}
	await(t, time.Minute, "all agents are online", func() error { return b.online(t.Context()) })
	stop()

	h := history{
		submissions: s.submissions, faults: b.faults, deaths: b.deaths, least: form.least,
		oddities: slices.Concat(s.oddities, b.oddities),
	}
	readHistory(t, s, &h)
	t.Logf("what happened in %v:\n%s", time.Since(began).Round(time.Second), summary(h, b))
	for n, w := range judge(h) {
		if n == 50 {
			t.Error("and more")
			break
		}
		t.Error(w)
	}
}

// readHistory waits until no command is open, then reads everything.
func readHistory(t *testing.T, s *stream, h *history) {
	t.Helper()
	c, err := s.client(2)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	commands := agentplanev1.NewCommandServiceClient(c)
	await(t, 2*time.Minute, "every command is over", func() error {
		for _, state := range []agentplanev1.CommandState{
			agentplanev1.CommandState_COMMAND_STATE_ACTIVE, agentplanev1.CommandState_COMMAND_STATE_CANCELING,
		} {
			r, err := commands.ListCommands(t.Context(), &agentplanev1.ListCommandsRequest{State: state})
			if err != nil {
				return err
			}
			if len(r.Commands) > 0 {
				return fmt.Errorf("%d commands are not over, like %v", len(r.Commands), r.Commands[0])
			}
		}
		return nil
	})
	h.listed = make(map[string]int)
	for before := ""; ; {
		r, err := commands.ListCommands(t.Context(), &agentplanev1.ListCommandsRequest{Limit: 1000, Before: before})
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range r.Commands {
			h.listed[row.Id]++
			before = row.Id
		}
		if !r.More {
			break
		}
	}
	rows := make([]*finalCommand, len(h.submissions))
	var readers errgroup.Group
	readers.SetLimit(8)
	for n, sub := range h.submissions {
		readers.Go(func() (err error) {
			rows[n], err = readCommand(t.Context(), commands, sub.id)
			return err
		})
	}
	if err := readers.Wait(); err != nil {
		t.Fatal(err)
	}
	h.commands = make(map[string]finalCommand)
	for n, row := range rows {
		if row != nil {
			h.commands[h.submissions[n].id] = *row
		}
	}
	if h.starts, err = readWitnesses(s.f.witnesses); err != nil {
		t.Fatal(err)
	}
	if h.deeds, err = readDeeds(s.f.witnesses); err != nil {
		t.Fatal(err)
	}
}

// readCommand reads one command; nil when there is none.
func readCommand(ctx context.Context, commands agentplanev1.CommandServiceClient, id string) (*finalCommand, error) {
	r, err := commands.GetCommand(ctx, &agentplanev1.GetCommandRequest{Id: id, WithInvocations: true})
	if err != nil {
		if client.AsError(err).Code == codes.NotFound {
			return nil, nil
		}
		return nil, fmt.Errorf("read command %s: %w", id, err)
	}
	row := &finalCommand{done: r.Command.State == agentplanev1.CommandState_COMMAND_STATE_DONE}
	for _, i := range r.Command.Invocations {
		end := finalInvocation{
			id: i.Id, agent: i.AgentName, state: i.State.ShortName(), reason: i.Reason, attempt: int(i.Attempt), started: i.StartedAt != 0, row: i,
		}
		if i.State == agentplanev1.AttemptState_ATTEMPT_STATE_LOST {
			why, err := commands.Why(ctx, &agentplanev1.WhyRequest{CommandId: id, Agent: i.AgentId})
			if err != nil {
				return nil, fmt.Errorf("why %s: %w", id, err)
			}
			for _, step := range why.Transitions {
				switch { // what operators asked stands between, in the state of the time
				case step.What == "claimed":
					end.claimedAt = time.Unix(0, step.At)
				case step.State == agentplanev1.AttemptState_ATTEMPT_STATE_LOST:
					end.endedAt = time.Unix(0, step.At)
				}
			}
		}
		row.invocations = append(row.invocations, end)
	}
	return row, nil
}
