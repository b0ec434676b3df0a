package collect

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"time"

	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// Options configure a Collector.
type Options struct {
	// Interval says how often facts are collected again; asked anew each time.
	Interval func() time.Duration
	// Own are facts that the caller knows, like the version of the agent. They win.
	Own map[string]string
	// Read collects the host's facts; nil is Host.
	Read func(context.Context) map[string]string
}

// Collector holds the latest facts. Facts may be called at any time; Collect and Run by one
// caller at a time.
type Collector struct {
	o Options

	mu      sync.Mutex // guards what follows
	facts   []*agentplanev1.Label
	hash    []byte
	changed chan struct{}          // closed when facts are replaced
	pending chan map[string]string // the collection under way; holds one
}

// New makes a Collector without facts.
func New(o Options) *Collector {
	if o.Read == nil {
		o.Read = Host
	}
	return &Collector{o: o, changed: make(chan struct{})}
}

// Run collects now and then until ctx ends, and returns nil.
func (c *Collector) Run(ctx context.Context) error {
	for {
		t := time.NewTimer(max(c.o.Interval(), time.Second))
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
			c.Collect(ctx)
		}
	}
}

// patience is how long a collection is waited for.
const patience = 5 * time.Second

// read gives the host's facts, or nil when they do not come: a dead disk can hang it for
// ever. Then no other one is begun before it has ended.
func (c *Collector) read(ctx context.Context) map[string]string {
	c.mu.Lock()
	pending := c.pending
	if pending == nil {
		pending = make(chan map[string]string, 1)
		c.pending = pending
		go func() { pending <- c.o.Read(ctx) }()
	}
	c.mu.Unlock()
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case raw := <-pending:
		c.mu.Lock()
		c.pending = nil
		c.mu.Unlock()
		return raw
	case <-t.C:
	case <-ctx.Done():
	}
	return nil
}

// Collect collects once, and reports whether anything has changed.
func (c *Collector) Collect(ctx context.Context) bool {
	raw := c.read(ctx)
	if raw == nil {
		return false
	}
	for name, value := range c.o.Own {
		raw[name] = value
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, f := range c.facts {
		if f.GetName() == bootTime {
			raw[bootTime] = steady(f.GetValue(), raw[bootTime])
		}
	}
	facts := bound(raw)
	hash := digest(facts)
	if string(hash) == string(c.hash) {
		return false
	}
	c.facts, c.hash = facts, hash
	close(c.changed)
	c.changed = make(chan struct{})
	return true
}

// Facts gives the latest facts, their hash, and a channel that is closed when there are
// others. The caller must not write to them.
func (c *Collector) Facts() (facts []*agentplanev1.Label, hash []byte, changed <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.facts, c.hash, c.changed
}

// digest tells lists of facts apart; lengths keep names and values from running together.
func digest(facts []*agentplanev1.Label) []byte {
	var b []byte
	for _, f := range facts {
		for _, s := range []string{f.GetName(), f.GetValue()} {
			b = binary.AppendUvarint(b, uint64(len(s)))
			b = append(b, s...)
		}
	}
	h := sha256.Sum256(b)
	return h[:]
}
