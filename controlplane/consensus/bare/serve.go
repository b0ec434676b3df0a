package bare

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/agentplane/agentplane/controlplane/consensus"
)

// Addresses are the ports that a process has bound.
type Addresses struct{ Raft, RPC string }

// Order is what a process is told.
type Order struct {
	Self   int
	Raft   []string // of all processes
	Secret Secret
}

// Serve is one process. It writes its Addresses to out, reads its Order from in, and
// serves until ctx or in ends.
func Serve(ctx context.Context, dir string, in io.Reader, out io.Writer, log hclog.Logger) error {
	var listeners [2]net.Listener
	for i := range listeners {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return fmt.Errorf("bare: %w", err)
		}
		defer l.Close()
		listeners[i] = l
	}
	if err := json.NewEncoder(out).Encode(Addresses{Raft: listeners[0].Addr().String(), RPC: listeners[1].Addr().String()}); err != nil {
		return fmt.Errorf("bare: say the addresses: %w", err)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	orders := make(chan Order, 1)
	go func() {
		defer stop()
		var o Order
		if json.NewDecoder(in).Decode(&o) == nil {
			orders <- o
			_, _ = io.Copy(io.Discard, in)
		}
	}()
	select {
	case o := <-orders:
		return serve(ctx, dir, o, listeners[0], listeners[1], log)
	case <-ctx.Done():
		return nil
	}
}

func serve(ctx context.Context, dir string, o Order, raftListener, rpcListener net.Listener, log hclog.Logger) (err error) {
	config, err := o.Secret.config()
	if err != nil {
		return err
	}
	disk, err := consensus.OpenDisk(filepath.Join(dir, "raft"), "wal", 2, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, disk.Close()) }()
	cache, err := raft.NewLogCache(512, disk.Log)
	if err != nil {
		return fmt.Errorf("bare: %w", err)
	}
	transport := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: &stream{Listener: raftListener, config: config}, MaxPool: 3, Timeout: 10 * time.Second, Logger: log,
	})
	defer func() { err = errors.Join(err, transport.Close()) }()
	m := &machine{}
	node, err := raft.NewRaft(raftConfig(id(o.Self), log), m, cache, disk.Stable, disk.Snapshots, transport)
	if err != nil {
		return fmt.Errorf("bare: start raft: %w", err)
	}
	defer func() { err = errors.Join(err, node.Shutdown().Error()) }()
	var members raft.Configuration
	for i, address := range o.Raft {
		members.Servers = append(members.Servers, raft.Server{ID: id(i), Address: raft.ServerAddress(address)})
	}
	if err := node.BootstrapCluster(members).Error(); err != nil {
		return fmt.Errorf("bare: bootstrap: %w", err)
	}
	b := newBatcher(node)
	g := grpc.NewServer(grpc.Creds(credentials.NewTLS(config)))
	g.RegisterService(&serviceDesc, &service{raft: node, batcher: b, machine: m})
	var working sync.WaitGroup
	for range inFlight {
		working.Go(func() { b.work(ctx) })
	}
	served := make(chan error, 1)
	go func() { served <- g.Serve(rpcListener) }()
	select {
	case <-ctx.Done():
		g.Stop()
		err = <-served
	case err = <-served:
	}
	if err != nil {
		err = fmt.Errorf("bare: serve: %w", err)
	}
	// Raft last: it never answers what sits in its queue to the state when it shuts
	// down, and a leader that has lost the others answers within its lease.
	working.Wait()
	b.drain()
	return err
}

func id(i int) raft.ServerID { return raft.ServerID(fmt.Sprintf("bare-%d", i+1)) }

// raftConfig is that of a node with the profile lan.
func raftConfig(id raft.ServerID, log hclog.Logger) *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = id
	c.HeartbeatTimeout, c.ElectionTimeout = consensus.LAN.Heartbeat, consensus.LAN.Election
	c.LeaderLeaseTimeout, c.CommitTimeout = consensus.LAN.Lease, consensus.LAN.Commit
	c.MaxAppendEntries = 512
	c.SnapshotInterval, c.SnapshotThreshold, c.TrailingLogs = 10*time.Second, 8192, 10240
	c.NoLegacyTelemetry = true
	c.Logger = log
	return c
}
