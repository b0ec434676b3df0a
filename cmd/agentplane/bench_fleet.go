package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/agentplane/agentplane/cmd/agentplane/fleet"
	"github.com/agentplane/agentplane/cmd/agentplane/lab"
)

// fleetOptions are the flags of bench fleet.
type fleetOptions struct {
	agents  int
	sizes   []int
	rounds  int
	alone   int
	program fleet.Program
	timeout time.Duration
	seed    uint64
	json    bool
}

func benchFleetCommand() *cobra.Command {
	o := fleetOptions{}
	sizes := ""
	cmd := &cobra.Command{
		Use:   "fleet",
		Short: "Measure commands on many simulated agents, and one real agent beside os/exec",
		Long: `Starts three nodes as real processes on loopback and, in this process, simulated
agents: each has a key, is enrolled, and keeps a session over a connection of its own
with mutual TLS 1.3. Their programs are simulated too: like /bin/true, or as --fail,
--slow and --mute say. Ctrl-C ends it and leaves nothing behind.

  fan-out  a command for each size of --sizes, from its submission to the moment when the
           operator's watch shows its last result. Entries are those of the replicated
           log between both, whatever they are of.
  cancel   a command for all agents, canceled as soon as the first claim is seen, in later
           rounds a quarter, half or three quarters of them. The agents' own witness is
           compared with what the cluster says: what was canceled before its claim must not
           have started.
  alone    one real agentd that runs /bin/true: from the submission to its result, in turn
           with os/exec of the same program in this process.

Every round does these one after the other; the table has medians over the rounds.
Any deviation (an attempt started twice, a result that is not what the agent reported, a
cancel that was overtaken) ends it with exit code 1. A command of which some attempts never
answer (--mute) is canceled five seconds after the longest program.`,
		Example: `  agentplane bench fleet
  agentplane bench fleet --agents 1000 --sizes 1000 --rounds 3 --slow 2s --fail 0.1 --json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return usageError{err}
			}
			if sizes == "" {
				sizes = fmt.Sprintf("%d,%d", max(1, o.agents/10), o.agents)
			}
			var err error
			if o.sizes, err = parseNumbers("--sizes", sizes, o.agents); err != nil {
				return usageError{err}
			}
			return inBenchLab(cmd.Context(), cmd.ErrOrStderr(), func(dir string, bin lab.Binaries, say func(string, ...any)) error {
				return o.run(cmd.Context(), dir, bin, cmd.OutOrStdout(), say)
			})
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.agents, "agents", 1000, "how many agents are simulated")
	f.StringVar(&sizes, "sizes", "", "how many of them a command is for, one step for each; a tenth and all when nothing is said")
	f.IntVar(&o.rounds, "rounds", 5, "how often everything is measured")
	f.IntVar(&o.alone, "alone", 100, "how many commands a round gives to the real agent; 0 = none")
	f.Float64Var(&o.program.Fail, "fail", 0, "the share of programs that fail, from 0 to 1")
	f.Float64Var(&o.program.Mute, "mute", 0, "the share of programs that never answer, from 0 to 1; such commands are canceled in the end")
	f.DurationVar(&o.program.Slow, "slow", 0, "how long a program runs at most; each runs a random part of it")
	f.DurationVar(&o.timeout, "timeout", time.Minute, "how long a step may take")
	f.Uint64Var(&o.seed, "seed", 1, "decides what each program does")
	f.BoolVar(&o.json, "json", false, "print every measurement and the medians as JSON")
	return cmd
}

func (o fleetOptions) check() error {
	for _, n := range []struct {
		flag                    string
		value, minimum, maximum int
	}{
		{"--agents", o.agents, 1, benchMaxAgents},
		{"--rounds", o.rounds, 1, benchMaxRounds},
		{"--alone", o.alone, 0, 1 << 20},
	} {
		if n.value < n.minimum || n.value > n.maximum {
			return fmt.Errorf("%s %d is not from %d to %d", n.flag, n.value, n.minimum, n.maximum)
		}
	}
	if o.timeout < time.Second || o.timeout > time.Hour {
		return fmt.Errorf("--timeout %v is not from 1s to 1h", o.timeout)
	}
	return o.program.Validate()
}

// parseNumbers reads a list of numbers from 1 to most.
func parseNumbers(flag, list string, most int) ([]int, error) {
	var all []int
	for text := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil || n < 1 || n > most {
			return nil, fmt.Errorf("%s %q: %q is not a number from 1 to %d", flag, list, text, most)
		}
		all = append(all, n)
	}
	return all, nil
}

// run is one run of bench fleet.
func (o fleetOptions) run(ctx context.Context, dir string, bin lab.Binaries, stdout io.Writer, say func(string, ...any)) (err error) {
	c, err := openBenchCluster(ctx, benchOptions{clients: []int{1}, through: throughAll}, dir, bin, say)
	if err != nil {
		return err
	}
	defer c.Close() //nolint:contextcheck // nothing is left behind, whatever has ended
	b := &fleetBench{o: o, c: c, say: say}
	r := &fleetReport{Nodes: benchNodes, Agents: o.agents, Fail: o.program.Fail, Mute: o.program.Mute, Slow: o.program.Slow.Seconds(), Rounds: o.rounds}
	life, stop := context.WithCancel(ctx)
	lived := make(chan error, 1)
	defer func() {
		stop()
		if b.fleet != nil {
			err = errors.Join(err, <-lived)
		}
	}()
	if err := b.enrol(ctx); err != nil {
		return err
	}
	before := memory()
	go func() { lived <- b.fleet.Run(life) }()
	if r.AgentBytes, err = b.connect(ctx, before); err != nil {
		return err
	}
	for round := range o.rounds {
		if err := b.round(ctx, r, round+1); err != nil {
			return err
		}
	}
	r.summarize()
	if o.json {
		return r.printJSON(stdout)
	}
	return r.print(stdout)
}
