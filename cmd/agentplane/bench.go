package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/agentplane/agentplane/cmd/agentplane/lab"
)

// benchOptions are the flags of bench.
type benchOptions struct {
	clients  []int
	duration time.Duration
	warmUp   time.Duration
	rounds   int
	agents   int
	through  string
	steps    []string
	json     bool
}

// Which nodes are given submissions.
const (
	throughAll    = "all"
	throughLeader = "leader"
)

const (
	benchMaxClients = 16384
	benchMaxAgents  = 100000
	benchMaxRounds  = 1000
	// benchSetUpTimeout bounds the way to a cluster with all its agents.
	benchSetUpTimeout = 5 * time.Minute
)

func benchCommand() *cobra.Command {
	o := benchOptions{}
	clients, steps := "", ""
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure submissions and reads of a cluster on this machine, beside a bare raft program",
		Long: `Starts three nodes as real processes on loopback in a temporary directory, enrols
agents that never connect, and measures in a closed loop: each client sends its next
call when the last one was answered. Ctrl-C ends it and leaves nothing behind.

  submit  a command of 256 bytes for one agent, in turn, queued for a minute, through
          every node in turn (--through leader: the leader only); it is answered when
          it is committed and applied
  batch   the same, but clients that share a connection share calls: what is submitted
          while two calls are on their way goes with the next one
  read    a linearizable read of the command that this client submitted last, through
          every node in turn
  bare    the yardstick: gRPC, the same kind of batcher, raft, and nothing else. Three
          more processes with the same stores (raft-wal, boltdb), raft's settings,
          message size, and mutual TLS 1.3. Its clients go to its leader: it forwards
          nothing, authorizes nobody, and its state counts bytes

Every round does, for each number of clients, these steps one after the other, so that
what else the machine does meets all of them. Connections are shared by up to 64
clients. Every step warms up first. A latency is that of a call begun after the
warm-up; throughput counts successes that ended within the duration.

The table has medians over the rounds, with the least and the most of the throughput;
the ratio is the median of those of the rounds. All programs share this machine, so
figures compare with each other and not with those of another one.`,
		Example: `  agentplane bench --clients 64,256 --duration 5s --rounds 3
  agentplane bench --through leader --json > figures.json
  agentplane bench --steps batch --clients 256 --duration 300s --rounds 1`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if o.clients, err = parseNumbers("--clients", clients, benchMaxClients); err != nil {
				return usageError{err}
			}
			if o.steps, err = parseSteps(steps); err != nil {
				return usageError{err}
			}
			if err := o.check(); err != nil {
				return usageError{err}
			}
			return bench(cmd.Context(), o, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVar(&clients, "clients", "1,64,256,1024", "numbers of clients, one step for each")
	f.StringVar(&steps, "steps", strings.Join(benchSteps, ","), "which steps a round has")
	f.DurationVar(&o.duration, "duration", 20*time.Second, "how long each measurement takes")
	f.DurationVar(&o.warmUp, "warm-up", 2*time.Second, "how long the clients work before each measurement")
	f.IntVar(&o.rounds, "rounds", 5, "how often everything is measured")
	f.IntVar(&o.agents, "agents", 1000, "how many offline agents are registered")
	f.StringVar(&o.through, "through", throughAll, "where submissions go: all nodes in turn, or the leader")
	f.BoolVar(&o.json, "json", false, "print every measurement and the medians as JSON")
	cmd.AddCommand(benchFleetCommand())
	return cmd
}

// parseSteps answers the steps in the order in which a round does them.
func parseSteps(list string) ([]string, error) {
	given := strings.Split(strings.ReplaceAll(list, " ", ""), ",")
	for _, s := range given {
		if !slices.Contains(benchSteps, s) {
			return nil, fmt.Errorf("--steps %q: %q is none of %s", list, s, strings.Join(benchSteps, ", "))
		}
	}
	steps := slices.DeleteFunc(slices.Clone(benchSteps), func(s string) bool { return !slices.Contains(given, s) })
	if slices.Contains(steps, benchRead) && !slices.Contains(steps, benchSubmit) && !slices.Contains(steps, benchBatch) {
		return nil, fmt.Errorf("--steps %q: what %s reads is what %s or %s has submitted: add one of them", list, benchRead, benchSubmit, benchBatch)
	}
	return steps, nil
}

func (o benchOptions) check() error {
	for _, n := range []struct {
		flag           string
		value, maximum int
	}{{"--rounds", o.rounds, benchMaxRounds}, {"--agents", o.agents, benchMaxAgents}} {
		if n.value < 1 || n.value > n.maximum {
			return fmt.Errorf("%s %d is not from 1 to %d", n.flag, n.value, n.maximum)
		}
	}
	switch {
	case o.duration < 100*time.Millisecond || o.duration > time.Hour:
		return fmt.Errorf("--duration %v is not from 100ms to 1h", o.duration)
	case o.warmUp < 0 || o.warmUp > time.Hour:
		return fmt.Errorf("--warm-up %v is not from 0s to 1h", o.warmUp)
	case o.through != throughAll && o.through != throughLeader:
		return fmt.Errorf("--through %q is neither %q nor %q", o.through, throughAll, throughLeader)
	}
	return nil
}

// bench is one run: set up, measure, report, and leave nothing behind.
func bench(ctx context.Context, o benchOptions, stdout, stderr io.Writer) error {
	return inBenchLab(ctx, stderr, func(dir string, bin lab.Binaries, say func(string, ...any)) error {
		return o.run(ctx, dir, bin, stdout, say)
	})
}

// inBenchLab runs a bench in a directory of its own, which is kept when it fails.
func inBenchLab(ctx context.Context, stderr io.Writer, do func(dir string, bin lab.Binaries, say func(string, ...any)) error) (err error) {
	// What loads the programs must cost little itself: its heap is small, so that
	// collecting it is most of what it allocates for.
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	begin := time.Now()
	say := func(format string, args ...any) {
		fmt.Fprintf(stderr, "%6.1fs  %s\n", time.Since(begin).Seconds(), fmt.Sprintf(format, args...))
	}
	dir, err := os.MkdirTemp("", "agentplane-bench-")
	if err != nil {
		return hinted{fmt.Errorf("make a directory for the bench: %w", err), "set TMPDIR to a directory that you may write to"}
	}
	defer func() {
		switch {
		case ctx.Err() != nil:
			err = hinted{errInterrupted, "a shorter run: agentplane bench --duration 2s --rounds 1"}
		case err != nil:
			// The logs say why.
			err = hinted{err, "the directory " + dir + " is kept, with every log in it"}
			return
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	bin, err := demoBinaries(ctx, dir, say)
	if err != nil {
		return err
	}
	return do(dir, bin, say)
}

func (o benchOptions) run(ctx context.Context, dir string, bin lab.Binaries, stdout io.Writer, say func(string, ...any)) error {
	c, err := openBenchCluster(ctx, o, dir, bin, say)
	if err != nil {
		return err
	}
	defer c.Close() //nolint:contextcheck // nothing is left behind, whatever has ended
	if err := c.fill(ctx, say); err != nil {
		return err
	}
	var bare *bareCluster
	if slices.Contains(o.steps, benchBare) {
		if bare, err = openBareCluster(ctx, dir, bin, len(c.all), c.envelopeBytes); err != nil {
			return err
		}
		defer bare.Close()
		say("three processes of the bare program run beside them")
	}
	r := &benchReport{
		Nodes: benchNodes, Agents: o.agents, CommandBytes: c.envelopeBytes, Through: o.through,
		Seconds: o.duration.Seconds(), WarmUpSeconds: o.warmUp.Seconds(), Rounds: o.rounds,
	}
	if err := r.measure(ctx, o, c, bare, say); err != nil {
		return err
	}
	if o.json {
		return r.printJSON(stdout)
	}
	return r.print(stdout)
}

func (o benchOptions) maxClients() int {
	most := 0
	for _, n := range o.clients {
		most = max(most, n)
	}
	return most
}

// measure does all rounds.
func (r *benchReport) measure(ctx context.Context, o benchOptions, c *benchCluster, bare *bareCluster, say func(string, ...any)) error {
	for round := range o.rounds {
		for _, clients := range o.clients {
			for _, step := range o.steps {
				t := map[string]benchTarget{benchSubmit: benchSubmitter{c}, benchBatch: benchBatcher{c}, benchRead: benchReader{c}, benchBare: bare}[step]
				m, err := measureStep(ctx, t, clients, o.warmUp, o.duration)
				if err != nil {
					return err
				}
				m.Round = round + 1
				r.Measurements = append(r.Measurements, m)
				say("round %d/%d  %s", m.Round, o.rounds, m)
			}
		}
	}
	r.summarize()
	return nil
}
