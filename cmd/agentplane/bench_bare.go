package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/spf13/cobra"

	"github.com/agentplane/agentplane/cmd/agentplane/lab"
	"github.com/agentplane/agentplane/controlplane/consensus/bare"
)

// benchBareCommand is one process of the bare program. bench starts it; it ends with
// its input.
func benchBareCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use: "bench-bare", Short: "One process of the bare program that bench compares with", Hidden: true, Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir == "" {
				return usageError{errors.New("--data-dir is empty; bench starts this by itself")}
			}
			debug.SetGCPercent(nodeGCPercent) // as a node has it
			log := hclog.New(&hclog.LoggerOptions{Name: "bare", Level: hclog.Info, Output: cmd.ErrOrStderr()})
			return bare.Serve(cmd.Context(), dir, cmd.InOrStdin(), cmd.OutOrStdout(), log)
		},
	}
	cmd.Flags().StringVar(&dir, "data-dir", "", "an empty directory")
	return cmd
}

// bareStartTimeout bounds the way to a leader of the bare program.
const bareStartTimeout = 30 * time.Second

// bareCluster is the bare program under load. Close ends its processes.
type bareCluster struct {
	processes []*bareProcess
	cluster   *bare.Cluster
	payload   []byte
}

// bareProcess is a child whose life hangs on its input.
type bareProcess struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out io.ReadCloser
	log *os.File
}

func openBareCluster(ctx context.Context, dir string, bin lab.Binaries, connections, payloadBytes int) (_ *bareCluster, err error) {
	c := &bareCluster{payload: make([]byte, payloadBytes)}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	var processes []bare.Process
	for i := range benchNodes {
		p, err := startBare(dir, fmt.Sprintf("bare-%d", i+1), bin)
		if err != nil {
			return nil, err
		}
		c.processes = append(c.processes, p)
		processes = append(processes, bare.Process{In: p.in, Out: p.out})
	}
	ctx, cancel := context.WithTimeoutCause(ctx, bareStartTimeout, fmt.Errorf("the bare program had no leader within %v", bareStartTimeout))
	defer cancel()
	// A child that says nothing is ended, which ends the reading.
	defer context.AfterFunc(ctx, c.kill)()
	if c.cluster, err = bare.Connect(ctx, processes, connections); err != nil {
		return nil, err
	}
	return c, nil
}

func startBare(dir, name string, bin lab.Binaries) (*bareProcess, error) {
	data := filepath.Join(dir, name)
	if err := os.Mkdir(data, 0o700); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	log, err := os.OpenFile(filepath.Join(dir, "logs", name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	cmd := exec.Command(bin.Agentplane, "bench-bare", "--data-dir", data)
	cmd.Stderr = log
	// A group of its own: Ctrl-C at the terminal is for whoever runs the bench.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p := &bareProcess{cmd: cmd, log: log}
	p.in, err = cmd.StdinPipe()
	if err == nil {
		p.out, err = cmd.StdoutPipe()
	}
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", name, err), log.Close())
	}
	return p, nil
}

func (c *bareCluster) kill() {
	for _, p := range c.processes {
		_ = p.cmd.Process.Kill()
	}
}

// Close kills the processes, whose data nobody wants, and waits for their end.
func (c *bareCluster) Close() {
	if c.cluster != nil {
		_ = c.cluster.Close()
	}
	c.kill()
	for _, p := range c.processes {
		_ = p.cmd.Wait()
		_ = p.log.Close()
	}
}

// What names the step.
func (c *bareCluster) What() string { return benchBare }

// Call has a payload applied.
func (c *bareCluster) Call(ctx context.Context, number, clients int) error {
	return c.cluster.Apply(ctx, number%benchConnections(clients, 1), c.payload)
}

// Term is that of the bare program's leader.
func (c *bareCluster) Term(ctx context.Context) (uint64, error) { return c.cluster.Term(ctx) }

// Processes are those of the bare program.
func (c *bareCluster) Processes() (pids []int) {
	for _, p := range c.processes {
		pids = append(pids, p.cmd.Process.Pid)
	}
	return pids
}
