package sim

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/e2e/linear"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
	"github.com/agentplane/agentplane/proto/client"
	raftlogv1 "github.com/agentplane/agentplane/proto/raftlog/v1"
)

const ready = raftlogv1.SessionState_SESSION_STATE_READY

// fate is what operators were told of a write, over all its tries.
type fate struct {
	acked, unknown, refused int
	index                   uint64 // of the acknowledgement
}

// command is one that operators have submitted.
type command struct {
	id       string
	content  string // what the history calls it
	envelope []byte
	agents   []string // at most, when it is for all: some may be removed
	all      bool
	takes    time.Duration
	timeout  time.Duration
	code     int
	waves    bool // it goes in waves, or stops at failures
	prints   bool
	made     bool // of a template
	confirms bool // what waits of it is to be confirmed
	contents []*client.Content
	// rival is another content that was submitted under the same id at the same time,
	// if one was; only its envelope and submit are used.
	rival *command

	// What follows is guarded by operators.mu.
	submit    fate
	cancel    fate
	confirmed fate
	waited    []string // invocations that were seen to wait before a confirmation was acknowledged
	canceled  bool     // a cancel was acknowledged, and before the command had ended
}

// operators are the people: clients of package client, each beginning with another
// node, and what they were told.
type operators struct {
	w       *World
	place   *Place
	context *client.Context // its certificate is guarded by mu
	clients []*client.Client
	expired atomic.Bool // a node wants another certificate

	trespassers trespassers // set before anybody works

	mu        sync.Mutex // guards what follows; never held while waiting
	bundle    *agentplanev1.Bundle
	open      map[*client.Client]bool
	commands  []*command
	schedules []*scheduled
	contents  []*client.Content // that commands bring along; set before anybody works
	last      *command          // that was acknowledged
	serial    uint32
	ops       []linear.CommandOp
	writes    int // acknowledged
	reads     int
	failed    int
}

const clients = 3

func newOperators(w *World, context *client.Context) (*operators, error) {
	o := &operators{w: w, place: w.net.Attach(operatorsIP), context: context, bundle: context.Bundle, open: make(map[*client.Client]bool)}
	for i := range clients {
		c, err := o.connect(i)
		if err != nil {
			return nil, err
		}
		o.clients = append(o.clients, c)
	}
	return o, nil
}

// connect makes a client that begins with one of the nodes.
func (o *operators) connect(first int) (*client.Client, error) {
	all := o.w.addresses()
	first %= len(all)
	return o.clientOf(slices.Concat(all[first:], all[:first]))
}

// clientOf makes a client of these nodes alone.
func (o *operators) clientOf(addresses []string) (*client.Client, error) {
	return o.clientWith(addresses, func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		o.mu.Lock()
		defer o.mu.Unlock()
		return o.context.TLSCertificate()
	})
}

// always is a certificate that stays.
func always(c *tls.Certificate) client.Certificate {
	return func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c, nil }
}

// clientWith makes a client of these nodes that proves itself so; nil proves nothing.
func (o *operators) clientWith(addresses []string, certificate client.Certificate) (*client.Client, error) {
	c, err := client.New(client.Options{
		Addresses: addresses, Bundle: o.trusted(), Dial: o.place.Dial,
		Certificate: certificate,
		// That of init knows one node only.
		OnBundle: o.learn,
	})
	if err == nil {
		o.mu.Lock()
		o.open[c] = true
		o.mu.Unlock()
	}
	return c, err
}

func (o *operators) disconnect(c *client.Client) {
	o.mu.Lock()
	delete(o.open, c)
	o.mu.Unlock()
	_ = c.Close()
}

// keep does until ctx ends what agentctl does beside what it is asked for: it learns of
// new nodes, and has the certificate renewed when its issuer has left.
func (o *operators) keep(ctx context.Context) {
	for ctx.Err() == nil {
		time.Sleep(time.Second)
		one, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, err := agentplanev1.NewClusterServiceClient(o.clients[0]).Info(one, &agentplanev1.InfoRequest{})
		o.heed(err)
		if o.expired.Load() {
			o.renew(one)
		}
		cancel()
	}
}

// heed notes that a node wants another certificate. Connections that stand go on with the
// old one, so that each client has to look for itself.
func (o *operators) heed(err error) {
	if err != nil && strings.Contains(err.Error(), hush) {
		o.w.fault("a secret stands in an error: %v", err)
	}
	if err != nil && client.AsError(err).Reason == "certificate_expired" {
		o.expired.Store(true)
	}
}

func (o *operators) renew(ctx context.Context) {
	fresh, err := o.clients[0].Renew(ctx, o.context.Key, o.context.ID())
	o.w.trace.Note("operator", "certificate renewed: %v", err)
	if err != nil {
		return
	}
	o.expired.Store(false)
	o.learn(fresh.Bundle)
	o.mu.Lock()
	o.context.Certificate = fresh.Certificate
	open := slices.Collect(maps.Keys(o.open))
	o.mu.Unlock()
	for _, c := range open {
		c.Reconnect()
	}
}

func (o *operators) trusted() *agentplanev1.Bundle {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.bundle
}

// learn keeps the newest bundle for the next client.
func (o *operators) learn(b *agentplanev1.Bundle) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if b.GetIndex() > o.bundle.GetIndex() {
		o.bundle = b
	}
}

// perTurn is how many things one client does before another one takes over, which
// begins with another node: clients stay where they are served, and after a few faults
// all of them would be at one node.
const perTurn = 16

// desk is one operator with a client for each node. It is used by one goroutine.
type desk struct {
	o       *operators
	rng     *rand.Rand
	clients map[int]*client.Client // by the node with which they begin
}

func (o *operators) desk(salt uint64) *desk {
	return &desk{o: o, rng: rand.New(rand.NewPCG(o.w.seed, salt)), clients: make(map[int]*client.Client)}
}

// turn has the client of some node do some things. One that another node serves by
// then is not used again: handshakes are what a simulated client costs most.
func (d *desk) turn(ctx context.Context, times int, do func(*client.Client)) {
	first := d.rng.IntN(len(d.o.w.nodes))
	c := d.client(first)
	for i := 0; i < times && ctx.Err() == nil; i++ {
		do(c)
	}
	if c.Address() != d.o.w.nodes[first].address() {
		d.o.disconnect(c)
		delete(d.clients, first)
	}
}

// client is that which begins with the node.
func (d *desk) client(first int) *client.Client {
	c := d.clients[first]
	if c == nil {
		var err error
		if c, err = d.o.connect(first); err != nil {
			panic(err) // only what it was given can be wrong
		}
		d.clients[first] = c
	}
	return c
}

func (d *desk) any() *client.Client { return d.client(d.rng.IntN(len(d.o.w.nodes))) }

func (d *desk) close() {
	for _, c := range d.clients {
		d.o.disconnect(c)
	}
}

func (o *operators) close() {
	for _, c := range append(o.clients, o.trespassers.viewer, o.trespassers.nobody, o.trespassers.stranger) {
		if c != nil {
			_ = c.Close()
		}
	}
	o.place.Detach()
}

// work has every operator do one thing after the other until ctx ends.
func (o *operators) work(ctx context.Context) {
	var wg sync.WaitGroup
	for i := range o.clients {
		d := o.desk(0x6f70 + uint64(i))
		wg.Go(func() {
			defer d.close()
			for ctx.Err() == nil {
				d.turn(ctx, perTurn, func(c *client.Client) {
					time.Sleep(time.Duration(d.rng.IntN(500)) * time.Millisecond)
					one, cancel := context.WithTimeout(ctx, time.Duration(500+d.rng.IntN(6000))*time.Millisecond)
					defer cancel()
					o.act(one, c, d.any(), d.rng)
				})
			}
		})
	}
	wg.Go(func() { o.follow(ctx) })
	wg.Go(func() { o.relabel(ctx) })
	if o.w.rotates() {
		wg.Go(func() { o.rotate(ctx) })
	}
	if o.w.trespassed() {
		wg.Go(func() { o.trespass(ctx) })
	}
	o.ply(ctx, &wg)
	wg.Wait()
}

// follow reads what was acknowledged last, again and again, each time through another
// node: a read that is stale is so for moments only, and through one node.
func (o *operators) follow(ctx context.Context) {
	d := o.desk(0x666f6c)
	defer d.close()
	for ctx.Err() == nil {
		time.Sleep(time.Duration(d.rng.IntN(240)) * time.Millisecond)
		o.mu.Lock()
		last := o.last
		o.mu.Unlock()
		if last != nil {
			d.turn(ctx, 1, func(c *client.Client) {
				one, cancel := context.WithTimeout(ctx, time.Second)
				defer cancel()
				o.read(one, c, last)
			})
		}
	}
}

// readersAt connects some clients to a node. ask has each read what was acknowledged last;
// wait waits for their answers.
func (o *operators) readersAt(node int) (ask func() (wait func())) {
	const readers = 4
	ctx, cancel := context.WithTimeout(o.w.ctx, 20*time.Second)
	var all []*client.Client
	each := func() *sync.WaitGroup {
		var wg sync.WaitGroup
		o.mu.Lock()
		last := o.last
		o.mu.Unlock()
		for _, c := range all {
			if last != nil {
				wg.Go(func() {
					one, cancel := context.WithTimeout(ctx, 3*time.Second)
					defer cancel()
					o.read(one, c, last)
				})
			}
		}
		return &wg
	}
	for range readers {
		c, err := o.connect(node)
		if err != nil {
			panic(err) // only what it was given can be wrong
		}
		all = append(all, c)
	}
	each().Wait()
	return func() func() {
		asked := each()
		return func() {
			asked.Wait()
			cancel()
			for _, c := range all {
				o.disconnect(c)
			}
		}
	}
}

func (o *operators) act(ctx context.Context, c, other *client.Client, rng *rand.Rand) {
	old := o.any(rng)
	switch n := rng.IntN(20); {
	case n < 10 || old == nil:
		o.submit(ctx, c, o.compose(rng))
	case n < 11:
		o.submitBatch(ctx, c, []*command{o.compose(rng), o.compose(rng), old})
	case n < 13:
		o.submit(ctx, c, old)
	case n < 16:
		o.cancelOne(ctx, c, old)
	case n < 17:
		o.forge(ctx, c, old)
	case n == 17 && rng.IntN(2) == 0:
		o.schedule(ctx, c, rng)
	case n < 18:
		o.rivals(ctx, c, other, o.compose(rng))
	case n < 19 && old.waves:
		o.brake(ctx, c, old, rng)
	case old.made && n == 19:
		o.readTemplated(ctx, c, old)
	default:
		o.read(ctx, c, old)
	}
}

func (o *operators) any(rng *rand.Rand) *command {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := len(o.commands)
	if n == 0 {
		return nil
	}
	return o.commands[max(0, n-1-rng.IntN(min(n, 12)))] // mostly young ones
}

// compose makes a command for one agent, for some or for all.
func (o *operators) compose(rng *rand.Rand) *command {
	v := o.w.newest()
	c := &command{content: usualContent, takes: time.Duration(rng.IntN(1500)) * time.Millisecond, timeout: time.Duration(1+rng.IntN(8)) * time.Second}
	switch rng.IntN(8) {
	case 0:
		c.takes = time.Duration(rng.IntN(12_000)) * time.Millisecond
	case 1:
		c.code = 1 + rng.IntN(3)
	}
	spec := &agentplanev1.CommandSpec{
		ClusterId: v.Cluster().GetClusterId(), Argv: []string{"work", c.takes.String(), fmt.Sprint(c.code)},
		Incarnation: &agentplanev1.Incarnation{Number: v.Cluster().GetIncarnation().GetNumber(), Id: v.Cluster().GetIncarnation().GetId()},
		RunTimeout:  int64(c.timeout), KillGrace: int64(killGrace), NotAfter: v.Now() + int64(2*time.Second) + rng.Int64N(int64(15*time.Second)),
		QueueOffline: rng.IntN(2) == 0, Delivery: agentplanev1.Delivery_DELIVERY_AT_MOST_ONCE,
	}
	wide := 1 // most are for one agent: what a life costs is mostly its invocations
	if rng.IntN(3) == 0 {
		wide += rng.IntN(len(o.w.agents))
	}
	for _, i := range rng.Perm(len(o.w.agents))[:wide] {
		c.agents = append(c.agents, o.w.agents[i].name)
	}
	if len(c.agents) == len(o.w.agents) {
		spec.Selector, c.all = "all", true
	} else {
		spec.Agents = c.agents
	}
	if c.waves = wide > 1 && rng.IntN(2) == 0; c.waves {
		rollOut(rng, spec)
	}
	o.lockUp(rng, spec)
	c.made = o.fill(rng, spec)
	o.enrich(rng, spec, c)
	c.prints = o.w.trade == tradeOutput && rng.IntN(3) == 0
	if c.prints {
		spec.Argv = append(spec.Argv, printsOf(rng)...)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.serial++
	c.id = madeID(v.Now(), o.serial)
	spec.CommandId = c.id
	b, _ := proto.Marshal(spec)
	c.envelope, _ = proto.Marshal(&agentplanev1.Envelope{Spec: b})
	o.commands = append(o.commands, c)
	return c
}

// madeID makes a UUIDv7 of a time. The one of package uuid never goes
// back, also when the next bubble begins in 2000 again.
func madeID(now int64, serial uint32) string {
	var id uuid.UUID
	binary.BigEndian.PutUint64(id[:8], uint64(now/int64(time.Millisecond))<<16)
	id[6], id[8] = 0x70, 0x80
	binary.BigEndian.PutUint32(id[12:], serial)
	return id.String()
}

func (o *operators) submit(ctx context.Context, c *client.Client, cmd *command) {
	op := o.asks(linear.Submit, cmd)
	row, err := o.submitOne(ctx, c, cmd)
	o.note(&cmd.submit, op, row.GetSubmittedIndex(), cmd, err)
	if n := int(row.GetTargets()); err == nil && (row.GetId() != cmd.id || n != len(cmd.agents) && (!cmd.all || n > len(cmd.agents))) {
		o.w.fault("submit %s for %d agents was answered by command %s for %d", cmd.id, len(cmd.agents), row.GetId(), n)
	}
}

func (o *operators) submitOne(ctx context.Context, c *client.Client, cmd *command) (*agentplanev1.Command, error) {
	if cmd.made {
		return o.submitTemplated(ctx, c, cmd.envelope)
	}
	r, err := agentplanev1.NewCommandServiceClient(c).Submit(ctx, &agentplanev1.SubmitRequest{Envelope: cmd.envelope})
	if err != nil && len(cmd.contents) > 0 && client.AsError(err).Reason == "no_blob" && o.upload(ctx, c, cmd) == nil {
		r, err = agentplanev1.NewCommandServiceClient(c).Submit(ctx, &agentplanev1.SubmitRequest{Envelope: cmd.envelope})
	}
	return r.GetCommand(), err
}

// forge submits another content under the id of a command that stands.
func (o *operators) forge(ctx context.Context, c *client.Client, cmd *command) {
	o.mu.Lock()
	acked := cmd.submit.acked > 0
	o.mu.Unlock()
	if !acked {
		return
	}
	if _, err := agentplanev1.NewCommandServiceClient(c).Submit(ctx, &agentplanev1.SubmitRequest{Envelope: cmd.forged()}); err == nil {
		o.w.fault("I8: %s was submitted with another content, and accepted", cmd.id)
	}
}

// rivals submits two contents under one id through two nodes at once, of which neither
// may know of the other: only the log tells which of them is the command.
func (o *operators) rivals(ctx context.Context, a, b *client.Client, cmd *command) {
	o.mu.Lock()
	cmd.rival = &command{id: cmd.id, content: rivalContent, envelope: cmd.forged(), agents: cmd.agents, all: cmd.all}
	o.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { o.submit(ctx, a, cmd) })
	wg.Go(func() { o.submit(ctx, b, cmd.rival) })
	wg.Wait()
}

// forged is another content for the same id.
func (c *command) forged() []byte {
	spec, env := &agentplanev1.CommandSpec{}, &agentplanev1.Envelope{}
	_ = proto.Unmarshal(c.envelope, env)
	_ = proto.Unmarshal(env.GetSpec(), spec)
	spec.Argv, spec.Steps = forgedArgv, nil
	env.Spec, _ = proto.Marshal(spec)
	forged, _ := proto.Marshal(env)
	return forged
}

func (o *operators) cancelOne(ctx context.Context, c *client.Client, cmd *command) {
	o.mu.Lock()
	acked := cmd.submit.acked > 0
	o.mu.Unlock()
	op := o.asks(linear.Cancel, cmd)
	r, err := agentplanev1.NewCommandServiceClient(c).CancelCommand(ctx, &agentplanev1.CancelCommandRequest{Id: cmd.id})
	op.Canceled, op.Ended = r.GetCommand().GetCanceledBy() != "", r.GetCommand().GetState() == agentplanev1.CommandState_COMMAND_STATE_DONE
	o.note(&cmd.cancel, op, 0, cmd, err)
	o.mu.Lock()
	cmd.canceled = cmd.canceled || r.GetCommand().GetCanceledBy() != ""
	o.mu.Unlock()
	if acked && client.AsError(err) != nil && client.AsError(err).Code == codes.NotFound {
		o.w.fault("cancel of %s, which was acknowledged: %v", cmd.id, err)
	}
}

// digestHolds says whether the state has the very bytes of the command.
func (c *command) digestHolds(envelope []byte) bool { return bytes.Equal(c.envelope, envelope) }
