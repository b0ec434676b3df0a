package bare

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Process is one that runs Serve, as its parent sees it.
type Process struct {
	In  io.Writer
	Out io.Reader
}

// Cluster is the client of the processes. Apply may be called by many at once, but
// not beside Term or Close: its connections go to one leader until Term is asked.
type Cluster struct {
	rpc    []string
	dial   func(address string) (*grpc.ClientConn, error)
	ask    []*grpc.ClientConn // one for each process
	leader []*grpc.ClientConn // to the one that leads
	at     int                // which one that is
}

// Connect tells the processes of each other and returns when one of them leads. It
// opens so many connections to the leader. The caller closes the cluster.
func Connect(ctx context.Context, processes []Process, connections int) (_ *Cluster, err error) {
	secret, err := NewSecret()
	if err != nil {
		return nil, err
	}
	config, err := secret.config()
	if err != nil {
		return nil, err
	}
	order := Order{Secret: secret}
	c := &Cluster{dial: func(address string) (*grpc.ClientConn, error) {
		return grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	}}
	for i, p := range processes {
		var a Addresses
		if err := json.NewDecoder(p.Out).Decode(&a); err != nil {
			return nil, fmt.Errorf("bare: process %d has not said its addresses: %w", i+1, err)
		}
		order.Raft, c.rpc = append(order.Raft, a.Raft), append(c.rpc, a.RPC)
	}
	for i, p := range processes {
		order.Self = i
		if err := json.NewEncoder(p.In).Encode(order); err != nil {
			return nil, fmt.Errorf("bare: tell process %d of the others: %w", i+1, err)
		}
	}
	defer func() {
		if err != nil {
			_ = c.Close()
		}
	}()
	for _, address := range c.rpc {
		cc, err := c.dial(address)
		if err != nil {
			return nil, err
		}
		c.ask = append(c.ask, cc)
	}
	leader, _, err := c.awaitLeader(ctx)
	if err != nil {
		return nil, err
	}
	return c, c.connect(leader, connections)
}

// connect lets the clients go to another process.
func (c *Cluster) connect(leader, connections int) error {
	var errs []error
	for _, cc := range c.leader {
		errs = append(errs, cc.Close())
	}
	c.leader, c.at = nil, leader
	for range connections {
		cc, err := c.dial(c.rpc[leader])
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		c.leader = append(c.leader, cc)
	}
	return errors.Join(errs...)
}

// awaitLeader answers which process leads, and what it says.
func (c *Cluster) awaitLeader(ctx context.Context) (int, *structpb.Struct, error) {
	for {
		for i, cc := range c.ask {
			s := &structpb.Struct{}
			err := cc.Invoke(ctx, statusMethod, &emptypb.Empty{}, s)
			if err == nil && s.GetFields()["leader"].GetBoolValue() {
				return i, s, nil
			}
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return 0, nil, fmt.Errorf("bare: wait for a leader: %w", context.Cause(ctx))
		}
	}
}

// Close closes the connections.
func (c *Cluster) Close() error {
	var errs []error
	for _, cc := range append(c.ask, c.leader...) {
		errs = append(errs, cc.Close())
	}
	return errors.Join(errs...)
}

// Apply has the payload committed and applied; clients with the same number share a
// connection.
func (c *Cluster) Apply(ctx context.Context, number int, payload []byte) error {
	return c.leader[number%len(c.leader)].Invoke(ctx, applyMethod, wrapperspb.Bytes(payload), &emptypb.Empty{})
}

// Term is that of the leader. When another process leads than before, Apply goes to
// that one from now on.
func (c *Cluster) Term(ctx context.Context) (uint64, error) {
	leader, s, err := c.awaitLeader(ctx)
	if err == nil && leader != c.at {
		err = c.connect(leader, len(c.leader))
	}
	return uint64(s.GetFields()["term"].GetNumberValue()), err
}

// Applied is how many payloads the leader's state holds.
func (c *Cluster) Applied(ctx context.Context) (uint64, error) {
	_, s, err := c.awaitLeader(ctx)
	return uint64(s.GetFields()["payloads"].GetNumberValue()), err
}
