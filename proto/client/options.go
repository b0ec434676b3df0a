package client

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/identity"
)

// What stands in Options where nothing is said.
const (
	DefaultConnectTimeout = time.Second
	DefaultProbeAfter     = time.Second
	DefaultProbeTimeout   = time.Second
	DefaultReadTry        = 3 * time.Second
	DefaultCallTimeout    = 15 * time.Second
	DefaultUnreachable    = 5 * time.Second
	DefaultLeaderless     = 5 * time.Second
	DefaultWatchPatience  = 2 * time.Minute
)

// Keepalive of the client; servers must allow pings every 5 s.
const (
	KeepaliveTime    = 10 * time.Second
	KeepaliveTimeout = 5 * time.Second
)

// maxAnswerBytes bounds one answer. Requests are bounded by the node (1 MiB);
// answers come from a verified node, and a list of ten thousand agents is long.
const maxAnswerBytes = 64 << 20

// Certificate answers what the client proves itself with at each handshake.
type Certificate func(*tls.CertificateRequestInfo) (*tls.Certificate, error)

// Dial connects to an address of TCP.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// Options says where the cluster is, whom to trust, and who calls.
type Options struct {
	// Addresses are tried first, in this order; those of the bundle follow.
	Addresses []string
	// Bundle says whom to trust. It is required.
	Bundle *agentplanev1.Bundle
	// Certificate proves the caller; nil calls anonymously, which is enough to
	// enrol.
	Certificate Certificate
	// OnBundle is called with each newer bundle that an answer carried, after it
	// was taken into use, by the goroutine of that call.
	OnBundle func(*agentplanev1.Bundle)
	// OnFailover is called when a node is left for another one. Neither of the two may
	// close the client: the call that they run in may be one that Close waits for.
	OnFailover func(address string, err error)
	// OnExpired is called when a node refuses the certificate in use: its time is over,
	// or its issuer has left the cluster. After nil, which says that Certificate answers
	// a fresh one and Reconnect was called, the refused call, which has done nothing, is
	// made again. It runs once at a time, and may call Renew.
	OnExpired func(context.Context) error
	// Dial is how nodes are reached; nil is a net.Dialer. TLS is done above it.
	Dial Dial
	// Clock judges certificates; nil is the wall clock.
	Clock identity.Clock
	// Logger gets one debug line per failed try; nil discards.
	Logger *slog.Logger

	// ConnectTimeout bounds dial and handshake of one connection in the first
	// round over all addresses; each further round doubles it (at most 8 times).
	ConnectTimeout time.Duration
	// ProbeAfter is the silence after which a waiting connection is probed, and
	// ProbeTimeout how long the probe may stay unanswered.
	ProbeAfter, ProbeTimeout time.Duration
	// ReadTry bounds one try of a read in the first round. In later rounds it is
	// four times as long: more than a node holds a call, so that the node's own
	// words are heard.
	ReadTry time.Duration
	// CallTimeout bounds a unary call with all its tries; its context may bound it
	// more.
	CallTimeout time.Duration
	// Unreachable is how long a call goes on while no node was reached at all.
	Unreachable time.Duration
	// Leaderless is how long a call goes on at least while every node that answers
	// says that the cluster has no leader: longer than an election. Nodes themselves
	// hold a call for some seconds before they say so.
	Leaderless time.Duration
	// WatchPatience is how long a watch looks for a node to go on with.
	WatchPatience time.Duration
}

func (o *Options) fill() error {
	if o.Bundle == nil {
		return errors.New("no trust bundle")
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{}).DialContext
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	for _, d := range []struct {
		value *time.Duration
		unset time.Duration
	}{
		{&o.ConnectTimeout, DefaultConnectTimeout},
		{&o.ProbeAfter, DefaultProbeAfter},
		{&o.ProbeTimeout, DefaultProbeTimeout},
		{&o.ReadTry, DefaultReadTry},
		{&o.CallTimeout, DefaultCallTimeout},
		{&o.Unreachable, DefaultUnreachable},
		{&o.Leaderless, DefaultLeaderless},
		{&o.WatchPatience, DefaultWatchPatience},
	} {
		if *d.value <= 0 {
			*d.value = d.unset
		}
	}
	return nil
}

// Static answers the same certificate at each handshake.
func Static(c *tls.Certificate) Certificate {
	return func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c, nil }
}
