package controlplane

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/agentplane/agentplane/configs"
	"github.com/agentplane/agentplane/controlplane/authz"
	"github.com/agentplane/agentplane/controlplane/datadir"
	"github.com/agentplane/agentplane/controlplane/peer"
	"github.com/agentplane/agentplane/controlplane/pki"
	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/identity"
)

// Files in the data directory, beside those of package datadir.
const (
	bootFile = "boot.state"
	pkiDir   = "pki"
	raftDir  = "raft"
	nodeKey  = "node.key"
	// foundingFile holds the id of the cluster that this node founds.
	foundingFile = "founding"
)

// Options says how a node runs.
type Options struct {
	Config  configs.Node
	Version string
	Logger  hclog.Logger
	// Fatal ends the process: the node cannot go on and must not act any more. It
	// may be called by any goroutine.
	Fatal func(error)
	// Surroundings replaces what lies outside the process, in simulations.
	Surroundings Surroundings
}

// Node is one node of the control plane, from its data directory up.
type Node struct {
	o         Options
	dir       *datadir.Dir
	port      *peer.Port
	socket    net.Listener
	name      string
	advertise string

	joined chan struct{} // closed when boot.state is there
	member atomic.Pointer[member]
	opened chan struct{} // closed when member is set

	setup sync.Mutex // held by Init and Join, one at a time
}

// Open takes the data directory and binds port and socket. The caller runs the node
// and closes it.
func Open(o Options) (_ *Node, err error) {
	dir, err := datadir.Open(o.Config.DataDir)
	if err != nil {
		return nil, err
	}
	n := &Node{o: o, dir: dir, joined: make(chan struct{}), opened: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.release(n.dir.Discard))
		}
	}()
	host, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("ask for the host name: %w: give one with --name", err)
	}
	n.name = cmp.Or(o.Config.Name, host)
	if err := identity.ValidateName(n.name); err != nil {
		return nil, fmt.Errorf("name %q: %w: give another with --name", n.name, err)
	}
	switch _, err := os.Stat(dir.Path(bootFile)); {
	case err == nil:
		close(n.joined)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("look for %s: %w", dir.Path(bootFile), err)
	}
	if n.port, err = n.listen(); err != nil {
		return nil, err
	}
	if n.advertise, err = n.advertised(); err != nil {
		return nil, err
	}
	if o.Surroundings.Gossip == nil {
		if err := probeGossip(o.Config.Gossip.Listen); err != nil {
			return nil, err
		}
	}
	if n.socket, err = o.Surroundings.socket(dir); err != nil {
		return nil, err
	}
	return n, n.writeAddresses("", "")
}

// listen binds the port. A node that may take any port tries the one that it is
// known under first, so that peers find it again.
func (n *Node) listen() (*peer.Port, error) {
	listen := n.o.Config.Listen
	logger := n.o.Logger.Named("port")
	if host, port, err := net.SplitHostPort(listen); err == nil && port == "0" {
		if boot, err := pki.LoadBootState(n.dir.Path(bootFile)); err == nil {
			if me, ok := boot.Bundle.Node(n.dir.NodeID()); ok && len(me.Addresses) > 0 {
				if _, known, err := net.SplitHostPort(me.Addresses[0]); err == nil {
					if p, err := peer.Listen(n.o.Surroundings.Listen, net.JoinHostPort(host, known), logger); err == nil {
						return p, nil
					}
				}
			}
		}
	}
	return peer.Listen(n.o.Surroundings.Listen, listen, logger)
}

func (n *Node) writeAddresses(gossip, gossipAdvertise string) error {
	return n.dir.WriteAddresses(datadir.Addresses{
		Listen: n.port.Addr().String(), Advertise: n.advertise, GossipListen: gossip, GossipAdvertise: gossipAdvertise,
	})
}

// ID is the node's random id.
func (n *Node) ID() string { return n.dir.NodeID() }

// Address is the advertised address.
func (n *Node) Address() string { return n.advertise }

// Joined says whether the node belongs to a cluster, if only as one that is about to
// be added.
func (n *Node) Joined() bool { return n.hasJoined() }

// SocketPath is where others on this machine reach the local socket.
func (n *Node) SocketPath() string { return n.dir.Path(socketName) }

// Close releases what Open took. Run has returned.
func (n *Node) Close() error { return n.release(n.dir.Close) }

// release closes socket, port, and last the directory.
func (n *Node) release(dir func() error) error {
	var errs []error
	if n.socket != nil {
		errs = append(errs, closed(n.socket.Close()))
	}
	if n.port != nil {
		errs = append(errs, closed(n.port.Close()))
	}
	return errors.Join(append(errs, dir())...)
}

func closed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Run runs the node until ctx ends and it has stopped in order, or until it cannot
// go on.
func (n *Node) Run(ctx context.Context) error {
	n.o.Logger.Info("node starts", "node_id", n.ID(), "name", n.name, "start", n.dir.Starts(), "version", n.o.Version,
		"listen", n.port.Addr().String(), "advertise", n.advertise)
	if err := n.lookUp(ctx); err != nil {
		return err
	}
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	g, life := errgroup.WithContext(life)
	g.Go(func() error { return ended(life, n.port.Run(life)) })
	g.Go(func() error { return serveWeb(life, n.port.Listener(identity.ProtocolHTTP), webHandler(n.ready)) })
	g.Go(func() error { return n.serveSocket(life) })
	g.Go(func() error {
		err := n.live(ctx, life)
		end() // with the member ends everything
		return err
	})
	err := g.Wait()
	if err != nil {
		n.o.Logger.Info("node stopped", "err", err)
	} else {
		n.o.Logger.Info("node stopped")
	}
	return err
}

// live waits for a cluster, then is a member of it until stop ends.
func (n *Node) live(stop, life context.Context) error {
	select {
	case <-n.joined:
	default:
		n.o.Logger.Info("this node belongs to no cluster yet: run \"agentctl cluster init\" or \"agentctl cluster join\" here", "data_dir", n.o.Config.DataDir)
		retry, cancel := context.WithCancel(life)
		var retrying sync.WaitGroup
		if len(n.o.Config.RetryJoin.Addresses) > 0 {
			retrying.Go(func() { n.retryJoin(retry) })
		}
		select {
		case <-n.joined:
		case <-stop.Done():
		case <-life.Done():
		}
		cancel()
		retrying.Wait()
		if !n.hasJoined() {
			return nil
		}
	}
	m, err := openMember(n) //nolint:contextcheck // it binds and reads files; nothing in it waits for others
	if err != nil {
		return err
	}
	n.member.Store(m)
	close(n.opened)
	return m.run(stop, life)
}

func (n *Node) serveSocket(ctx context.Context) error {
	gate := authz.New(authz.Options{
		Identify: socketCaller,
		View:     fsm.New(fsm.Options{}).View,
		CatchUp:  func(context.Context) error { return errors.New("the local socket serves this node only") },
	})
	s := grpc.NewServer(grpc.Creds(socketCredentials{}), grpc.ChainUnaryInterceptor(gate.Unary), grpc.ChainStreamInterceptor(gate.Stream),
		grpc.MaxRecvMsgSize(1<<20), grpc.MaxConcurrentStreams(16), grpc.WaitForHandlers(true)) // they write to the data directory
	agentplanev1.RegisterLocalServiceServer(s, &local{n: n})
	agentplanev1.RegisterClusterServiceServer(s, &socketCluster{n: n})
	return serveGRPC(ctx, s, n.socket)
}

// ready is what /readyz says.
func (n *Node) ready() (string, bool) {
	if m := n.member.Load(); m != nil {
		return m.ready()
	}
	return "no cluster", false
}

// ended turns the end of a life that was asked to end into no error.
func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}
