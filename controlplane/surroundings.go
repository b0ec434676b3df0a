package controlplane

import (
	"net"
	"time"

	"github.com/agentplane/agentplane/controlplane/consensus"
	"github.com/agentplane/agentplane/controlplane/datadir"
	"github.com/agentplane/agentplane/fsm"
	"github.com/agentplane/agentplane/gossip"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
)

// Surroundings is what a node meets outside its process, but for the small files of
// its data directory. Each field that is nil is the real thing.
type Surroundings struct {
	Listen func(network, address string) (net.Listener, error) // of the port
	Dial   client.Dial                                         // to other nodes
	// Socket is listened on instead of the local socket. Who connects there must be a
	// Unix socket's peer all the same: others in the process use Local.
	Socket net.Listener
	// Gossip is called when the member opens, with the address to advertise.
	Gossip func(advertise string) gossip.Transport
	// Disk holds the log, the votes and the snapshots.
	Disk *consensus.Disk
	// Profile are raft's timers; zero ones are those that the configuration names.
	Profile consensus.Profile
	// Machine is the state, still empty; whoever gives it may look at it.
	Machine   *fsm.Machine
	FreeBytes func() (uint64, error) // of the disk
	// FeatureLevel is one that the node stands for instead of its build's, not above that: it is
	// an older one then.
	FeatureLevel func() uint32
	WallClock    func() time.Time // by which the node stamps, when it leads, and judges certificates
}

func (s Surroundings) socket(dir *datadir.Dir) (net.Listener, error) {
	if s.Socket != nil {
		return s.Socket, nil
	}
	return listenSocket(dir)
}

// Local is what the local socket serves, for those in this process.
func (n *Node) Local() agentplanev1.LocalServiceServer { return &local{n: n} }
