package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/agentplane/agentplane/cmd/agentplane/lab"
)

const (
	demoNodes  = 3
	demoAgents = 5
	// demoBefore and demoAfter are how many commands are acknowledged before the
	// leader is killed, and after it.
	demoBefore = 60
	demoAfter  = 60
	// demoTimeout bounds the tour, the building of programs aside.
	demoTimeout = 60 * time.Second
)

func demoCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Show the product at work: a cluster, agents, and the death of the leader",
		Long: `Starts three nodes and five agents as real processes on this machine, without
root, on free ports of loopback, in a temporary directory; runs commands from two
clients; kills the leader with SIGKILL in the middle of it; and counts what became
of every command, by what the programs themselves wrote down.

The last line is

  demo: ok acknowledged=N started=M twice=0 missing=0 failover=T

and the exit code is 0. Any deviation exits with 1 and keeps the directory.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return demo(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
}

// errInterrupted ends a program that takes everything away before it ends.
var errInterrupted = errors.New("interrupted; nothing was left behind")

// tour is one run of the demo.
type tour struct {
	l       *lab.Lab
	say     func(format string, args ...any)
	witness string // a file for each agent, written by the programs
	servers string

	mu       sync.Mutex // guards what follows
	accepted []accepted
	unknown  []string
}

// accepted is a command that the cluster has acknowledged.
type accepted struct {
	id    string
	began time.Time
	took  time.Duration
	ended time.Time
}

func demo(ctx context.Context, stdout, stderr io.Writer) (err error) {
	begin := time.Now()
	say := func(format string, args ...any) {
		fmt.Fprintf(stderr, "%6.1fs  %s\n", time.Since(begin).Seconds(), fmt.Sprintf(format, args...))
	}
	dir, err := os.MkdirTemp("", "agentplane-demo-")
	if err != nil {
		return hinted{fmt.Errorf("make a directory for the demo: %w", err), "set TMPDIR to a directory that you may write to"}
	}
	defer func() {
		switch {
		case ctx.Err() != nil:
			err = hinted{errInterrupted, "it takes about half a minute: agentplane demo"}
		case err != nil:
			err = hinted{err, fmt.Sprintf("the directory %s is kept, with every log in %s", dir, filepath.Join(dir, "logs"))}
			return
		}
		err = errors.Join(err, os.RemoveAll(dir))
	}()
	bin, err := demoBinaries(ctx, dir, say)
	if err != nil {
		return err
	}
	l, err := lab.New(dir, bin)
	if err != nil {
		return err
	}
	defer l.Close() //nolint:contextcheck // nothing is left behind, whatever has ended
	t := &tour{l: l, say: say, witness: filepath.Join(dir, "witness")}
	if err := os.Mkdir(t.witness, 0o700); err != nil {
		return fmt.Errorf("make a directory for the witnesses: %w", err)
	}
	tourCtx, cancel := context.WithTimeoutCause(ctx, demoTimeout, fmt.Errorf("the tour took longer than %v", demoTimeout))
	defer cancel()
	return t.run(tourCtx, stdout)
}

// demoBinaries finds the programs beside this one, or builds them.
func demoBinaries(ctx context.Context, dir string, say func(string, ...any)) (lab.Binaries, error) {
	if self, err := os.Executable(); err == nil {
		if bin, ok := lab.Find(filepath.Dir(self)); ok {
			say("programs found beside this one in %s", filepath.Dir(self))
			return bin, nil
		}
	}
	say("building agentplane, agentd and agentctl (the first time takes a minute or two)")
	to := filepath.Join(dir, "bin")
	if err := os.Mkdir(to, 0o700); err != nil {
		return lab.Binaries{}, fmt.Errorf("make a directory for the programs: %w", err)
	}
	type result struct {
		bin lab.Binaries
		err error
	}
	done := make(chan result, 1)
	go func() {
		bin, err := lab.Build(ctx, ".", to)
		done <- result{bin, err}
	}()
	for {
		select {
		case r := <-done:
			return r.bin, r.err
		case <-time.After(10 * time.Second):
			say("still building")
		}
	}
}

func (t *tour) run(ctx context.Context, stdout io.Writer) error {
	if err := t.setUp(ctx); err != nil {
		return err
	}
	enough, stop := context.WithCancel(ctx)
	defer stop()
	var working sync.WaitGroup
	for client := range 2 {
		working.Go(func() { t.client(ctx, enough, client) })
	}
	defer working.Wait()
	defer stop()

	t.say("two clients submit commands")
	if err := t.awaitAccepted(ctx, demoBefore); err != nil {
		return err
	}
	leader, err := t.l.Leader(ctx)
	if err != nil {
		return err
	}
	pid := leader.PID()
	killed := time.Now()
	if !leader.Kill() { //nolint:contextcheck // a SIGKILL cannot be called off
		return fmt.Errorf("the leader %s was not alive when it was to be killed", leader.Name)
	}
	before := t.count()
	t.say("kill -9 %d: %s, the leader, is dead after %d acknowledged commands", pid, leader.Name, before)
	if err := t.awaitAccepted(ctx, before+demoAfter); err != nil {
		return err
	}
	stop()
	working.Wait()
	failover, after := t.failover(killed)
	next, err := t.l.Leader(ctx)
	if err != nil {
		return err
	}
	t.say("%s leads; %d more commands acknowledged, the first %v after the kill", next.Name, after, failover)
	if err := leader.Start(); err != nil {
		return err
	}
	if err := t.awaitVoters(ctx); err != nil {
		return err
	}
	t.say("%s was started again and is back", leader.Name)
	return t.judge(ctx, stdout, failover, after)
}

// setUp makes a cluster with agents.
func (t *tour) setUp(ctx context.Context) error {
	var names []string
	for i := range demoNodes {
		names = append(names, fmt.Sprintf("node-%d", i+1))
	}
	t.say("starting %d nodes: init, join, join", demoNodes)
	nodes, err := t.l.Cluster(ctx, names)
	if err != nil {
		return err
	}
	if err := t.awaitVoters(ctx); err != nil {
		return err
	}
	for i, n := range nodes {
		address, err := n.Address(ctx)
		if err != nil {
			return err
		}
		if i > 0 {
			t.servers += ","
		}
		t.servers += address
	}
	token, err := t.l.Token(ctx, "agent", "--uses", fmt.Sprint(demoAgents))
	if err != nil {
		return err
	}
	t.say("three voters; starting %d agents", demoAgents)
	for i := range demoAgents {
		if err := t.l.Agent(agentName(i), t.servers, token).Start(); err != nil {
			return err
		}
	}
	return lab.Await(ctx, func() error {
		var agents []struct{ Name, Health string }
		if err := t.json(ctx, &agents, "agents", "list", "-o", "json"); err != nil {
			return err
		}
		online := 0
		for _, a := range agents {
			if a.Health == "ONLINE" {
				online++
			}
		}
		if online < demoAgents {
			return fmt.Errorf("%d of %d agents are online", online, demoAgents)
		}
		return nil
	})
}

func agentName(i int) string { return fmt.Sprintf("agent-%d", i%demoAgents+1) }

func (t *tour) awaitVoters(ctx context.Context) error {
	return lab.Await(ctx, func() error {
		members, err := t.l.Members(ctx)
		if err != nil {
			return err
		}
		voters, alive := 0, 0
		for _, m := range members {
			if m.Voter {
				voters++
			}
			if m.State == "alive" {
				alive++
			}
		}
		if voters != demoNodes || alive != demoNodes {
			return fmt.Errorf("%d voters, %d alive", voters, alive)
		}
		return nil
	})
}
