package agent

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/agentplane/agentplane/agent/cache"
	"github.com/agentplane/agentplane/configs"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/blob"
	"github.com/agentplane/agentplane/proto/client"
)

const (
	// fetchFor bounds how long it is tried to get what a command brings along. Between two
	// tries there are pauses that grow from fetchPause to maxFetchPause.
	fetchFor      = 5 * time.Minute
	fetchPause    = 200 * time.Millisecond
	maxFetchPause = 10 * time.Second
)

// hopeless are reasons of a node for which asking again is no use.
var hopeless = []string{"no_blob", "not_claimed", "not_named", "bad_blob"}

// openFetch reaches the node that holds the session.
type openFetch func(context.Context) (agentplanev1.AgentServiceClient, func(), error)

// contents are those of what commands bring along, on this host, and how the rest is gotten.
type contents struct {
	cache *cache.Cache
	log   hclog.Logger

	mu    sync.Mutex // guards what follows
	open  openFetch  // nil between sessions
	moved chan struct{}
}

func openContents(dir string, settings func() configs.Agent, log hclog.Logger) (*contents, error) {
	c, err := cache.Open(dir, func() int64 { return settings().Files.CacheBytes })
	if err != nil {
		return nil, err
	}
	return &contents{cache: c, log: log, moved: make(chan struct{})}, nil
}

// near says how the node of the session is reached; nil says that there is none.
func (c *contents) near(open openFetch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open = open
	close(c.moved)
	c.moved = make(chan struct{})
}

// node waits for a session, and gives how its node is reached.
func (c *contents) node(ctx context.Context) (openFetch, error) {
	for {
		c.mu.Lock()
		open, moved := c.open, c.moved
		c.mu.Unlock()
		if open != nil {
			return open, nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// has says whether all of it is here.
func (c *contents) has(refs []blob.Ref) bool {
	for _, r := range refs {
		if !c.cache.Has(r) {
			return false
		}
	}
	return true
}

// fetch gets what is not here of what an order brings, until ctx ends or a node says that it
// is no use.
func (c *contents) fetch(ctx context.Context, o *order) error {
	var last error
	for pause := fetchPause; ; pause = min(2*pause, maxFetchPause) {
		err := c.once(ctx, o)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil && last != nil:
			return last // and not that the time is over
		case ctx.Err() != nil || slices.Contains(hopeless, client.AsError(err).Reason):
			return err
		}
		last = err
		c.log.Warn("what a command brings along has not come yet", "invocation_id", o.intent.InvocationID, "attempt", o.intent.Attempt, "err", err)
		if !pauseFor(ctx, pause) {
			return last
		}
	}
}

func (c *contents) once(ctx context.Context, o *order) error {
	var node agentplanev1.AgentServiceClient
	for _, r := range o.brings() {
		if c.cache.Has(r) || c.cache.Verify(r) {
			continue
		}
		if node == nil {
			open, err := c.node(ctx)
			if err != nil {
				return fmt.Errorf("no node is reached: %w", err)
			}
			n, done, err := open(ctx)
			if err != nil {
				return err
			}
			defer done()
			node = n
		}
		if err := c.get(ctx, node, o.deliver, r); err != nil {
			return fmt.Errorf("%s: %w", o.nameOf(r), err)
		}
	}
	return nil
}

func (c *contents) get(ctx context.Context, node agentplanev1.AgentServiceClient, d *agentplanev1.Deliver, r blob.Ref) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // frees the stream
	stream, err := node.FetchBlob(ctx, &agentplanev1.FetchBlobRequest{InvocationId: d.GetInvocationId(), Attempt: d.GetAttempt(), Blob: r.Proto()})
	if err != nil {
		return err
	}
	return c.cache.Put(r, func() ([]byte, error) {
		m, err := stream.Recv()
		return m.GetData(), err
	})
}
