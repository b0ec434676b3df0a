package consensus

import (
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// The words of raft that a node's other packages need stand here, so that only this
// package (and one file of the state machine) depends on the library.
type (
	// ServerID is a node's id, as raft's configuration has it.
	ServerID = raft.ServerID
	// ServerAddress is where raft's configuration says that a node is.
	ServerAddress = raft.ServerAddress
	// AddressProvider knows better where a node is.
	AddressProvider = raft.ServerAddressProvider
	// StreamLayer carries raft's connections.
	StreamLayer = raft.StreamLayer
	// Transport carries raft's calls.
	Transport = raft.Transport
	// Log is one item of raft's log.
	Log = raft.Log
)

// Voter is the suffrage of a server that votes.
const Voter = raft.Voter

const (
	// transportConns is how many connections to one peer are kept for reuse.
	transportConns = 3
	// transportTimeout bounds one exchange; a snapshot's is scaled by its size.
	transportTimeout = 10 * time.Second
)

// Cutter is a stream whose connections can be cut all at once.
type Cutter interface {
	// Cut closes every connection and opens no further one. It may be called again.
	Cut()
}

// NewTransport returns raft's own transport over connections of the stream. Peers
// are found by the book, whatever address raft's configuration has for them. When
// the stream is a Cutter, so is the transport.
func NewTransport(stream StreamLayer, book AddressProvider, logger hclog.Logger) Transport {
	t := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: stream, ServerAddressProvider: book, MaxPool: transportConns, Timeout: transportTimeout,
		Logger: Quiet(logger), MsgpackUseNewTimeFormat: true,
	})
	if c, ok := stream.(Cutter); ok {
		return cuttable{t, c}
	}
	return t
}

type cuttable struct {
	*raft.NetworkTransport
	Cutter
}
