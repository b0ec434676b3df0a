// Package oldnode plays a node of an earlier life of a cluster, which has a key and a
// certificate that today's nodes and agents know, and a boot.state that is no longer true. It
// speaks raft to nodes as such a node would ([Caller]), and answers agents ([Host]), and
// goes on whatever it is told; what must stop it is the connection preface of package peer,
// and what package session of the agent makes of a node's challenge (I13).
package oldnode

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/controlplane/pki"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/frame"
	"github.com/agentplane/agentplane/proto/identity"
)

// No cluster of a test comes to such a term or session epoch.
const (
	farTerm  = 1000
	farEpoch = 1<<53 - 2 // of the same incarnation
)

// Caller makes raft connections as a node of an earlier life. It is used by one goroutine.
type Caller struct {
	Dir      string         // the node's data directory, of which the keys are used
	Boot     *pki.BootState // what it believes
	From, To string         // ids of the node and of the one that is called
	Number   uint32         // of the incarnation that it tells
	ID       []byte         // likewise; empty is none
	// Dial connects to an address.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Cluster is what its certificate names, made by an authority of that cluster; "" is its own.
	Cluster string
	// Answer is what it says to an agent's Hello; nil welcomes the agent to a far session.
	Answer func(*agentplanev1.Hello) []*agentplanev1.SessionResponse
	// Credulous callers do not ask who answers.
	Credulous bool
	// Told is why the other side has refused it; "" when it did not say so.
	Told string
}

// AsksForVote asks the node at the address for its vote in a far term, and as if leadership
// were being handed over: raft grants that without asking whether it has a leader. An error
// is that it was not answered.
func (c *Caller) AsksForVote(address raft.ServerAddress, within time.Duration) (*raft.RequestVoteResponse, error) {
	reply := new(raft.RequestVoteResponse)
	return reply, c.speak(within, func(t *raft.NetworkTransport) error {
		return t.RequestVote(raft.ServerID(c.To), address, &raft.RequestVoteRequest{
			RPCHeader: c.header(), Term: farTerm, LastLogIndex: 1 << 40, LastLogTerm: farTerm - 1, LeadershipTransfer: true,
		}, reply)
	})
}

// Overwrites sends the node at the address, as the leader of a far term, an entry in the place of
// the one behind prev: raft throws away what is in that place and after it. An error is that
// it was not answered.
func (c *Caller) Overwrites(address raft.ServerAddress, prev *raft.Log, within time.Duration) (*raft.AppendEntriesResponse, error) {
	reply := new(raft.AppendEntriesResponse)
	return reply, c.speak(within, func(t *raft.NetworkTransport) error {
		return t.AppendEntries(raft.ServerID(c.To), address, &raft.AppendEntriesRequest{
			RPCHeader: c.header(), Term: farTerm, PrevLogEntry: prev.Index, PrevLogTerm: prev.Term,
			Entries: []*raft.Log{{Index: prev.Index + 1, Term: farTerm, Type: raft.LogNoop}},
		}, reply)
	})
}

func (c *Caller) header() raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(c.From), Addr: []byte(nowhere.String())}
}

func (c *Caller) speak(within time.Duration, say func(*raft.NetworkTransport) error) error {
	t := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{Stream: stream{c}, Timeout: within, Logger: hclog.NewNullLogger()})
	return errors.Join(say(t), t.Close())
}

// stream is what raft's transport dials with.
type stream struct{ *Caller }

// nowhere is where nobody can call it.
var nowhere = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}

func (stream) Accept() (net.Conn, error) { return nil, net.ErrClosed }
func (stream) Close() error              { return nil }
func (stream) Addr() net.Addr            { return nowhere }

func (s stream) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	config, err := s.config()
	if err != nil {
		return nil, err
	}
	bare, err := s.Caller.Dial(ctx, "tcp", string(address))
	if err != nil {
		return nil, err
	}
	if err := bare.SetDeadline(time.Now().Add(timeout)); err != nil {
		return nil, errors.Join(err, bare.Close())
	}
	conn := tls.Client(bare, config)
	if err := errors.Join(conn.HandshakeContext(ctx), s.greet(conn), bare.SetDeadline(time.Time{})); err != nil {
		return nil, errors.Join(err, bare.Close())
	}
	return conn, nil
}

// leaf is the node's certificate.
func (c *Caller) leaf() (*pki.Leaf, error) {
	id, home := identity.ID{Cluster: c.Boot.Bundle.ClusterID, Kind: identity.KindNode, Name: c.From}, filepath.Join(c.Dir, "pki")
	if c.Cluster != "" {
		id.Cluster, home = c.Cluster, filepath.Join(c.Dir, "pki."+c.Cluster)
		if err := os.MkdirAll(home, 0o700); err != nil {
			return nil, err
		}
	}
	ca, err := pki.OpenCA(home, id, nil)
	if err != nil {
		return nil, err
	}
	return pki.OpenLeaf(pki.LeafOptions{CA: ca, KeyPath: filepath.Join(c.Dir, "pki", "node.key")})
}

// config shows it.
func (c *Caller) config() (*tls.Config, error) {
	leaf, err := c.leaf()
	if err != nil {
		return nil, err
	}
	verifier, err := identity.NewVerifier(c.Boot.Bundle, nil)
	if err != nil {
		return nil, err
	}
	config := verifier.ClientConfig(identity.ProtocolRaft, c.To, func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return leaf.GetCertificate(nil)
	})
	if c.Credulous {
		config.VerifyConnection = nil
	}
	return config, nil
}

// greet exchanges prefaces.
func (c *Caller) greet(conn net.Conn) error {
	const preface = 'P'
	b, err := proto.Marshal(&agentplanev1.Preface{
		ClusterId: c.Boot.Bundle.ClusterID, Incarnation: &agentplanev1.Incarnation{Number: c.Number, Id: c.ID},
		From: c.From, To: c.To, FeatureLevel: c.Boot.FeatureLevel, StartCounter: farTerm, StartId: []byte("forged"), Term: farTerm - 1, LastIndex: 1 << 40,
	})
	if err != nil {
		return fmt.Errorf("marshal a preface: %w", err)
	}
	if _, err := conn.Write(frame.Append(nil, preface, b)); err != nil {
		return fmt.Errorf("send a preface: %w", err)
	}
	_, b, err = frame.NewReader(conn, 1<<12).Next()
	if err != nil {
		return fmt.Errorf("read a preface: %w", err)
	}
	theirs := new(agentplanev1.Preface)
	if err := proto.Unmarshal(b, theirs); err != nil {
		return fmt.Errorf("read a preface: %w", err)
	}
	c.Told = theirs.GetRefused()
	return nil
}
