package sim

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/agentplane/agentplane/controlplane/consensus/consensustest"
	"github.com/agentplane/agentplane/controlplane/pki"
	"github.com/agentplane/agentplane/e2e/oldnode"
	"github.com/agentplane/agentplane/fsm"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

const (
	oldLeader = "leader of another incarnation"
	stolenCA  = "leader with a stolen authority"
	ofAnother = "leader with a certificate of another cluster"
	oldNode   = "node of another incarnation for agents"
	lyingNode = "node that delivers for another session"
	// anotherLife is the id of that incarnation; its number is that of the cluster, as of one
	// that was recovered twice.
	anotherLife = "another life"
	// anotherCluster is what certificates of another cluster name.
	anotherCluster = "another-cluster"
)

// double has the keys of a node and what it held on its disk. It asks nodes for their votes in a
// far term, and sends them an entry in the place of one that has most likely committed.
type double struct {
	w      *World
	place  *Place
	caller *oldnode.Caller
	prev   *raft.Log // what is before that place
}

// double makes one of what the node has now, with addresses of its own.
func (n *node) double() (*double, error) {
	w := n.w
	w.mu.Lock()
	id, dir, disk := n.id, n.dir, n.disk.Image(false)
	w.doubles++
	nth := w.doubles
	w.mu.Unlock()
	boot, err := pki.LoadBootState(filepath.Join(dir, "boot.state"))
	if err != nil {
		return nil, err // it begins anew just now
	}
	home := filepath.Join(w.dir, fmt.Sprintf("double.%d", nth))
	if err := copyDir(filepath.Join(dir, "pki"), filepath.Join(home, "pki")); err != nil {
		return nil, err
	}
	prev, err := thirdLast(disk)
	if err != nil {
		return nil, err
	}
	incarnation, err := hex.DecodeString(boot.Bundle.Incarnation.ID)
	if err != nil {
		return nil, err
	}
	place := w.net.Attach(fmt.Sprintf("10.0.8.%d", nth))
	return &double{w: w, place: place, prev: prev, caller: &oldnode.Caller{
		Dir: home, Boot: boot, From: id, Dial: place.Dial, Number: uint32(boot.Bundle.Incarnation.Number), ID: incarnation,
	}}, nil
}

// thirdLast is an entry of the log behind which there are two more.
func thirdLast(disk *consensustest.MemDisk) (*raft.Log, error) {
	log, entry := disk.Disk().Log, new(raft.Log)
	last, err := log.LastIndex()
	if err != nil || last < 3 {
		return nil, errors.Join(err, errors.New("the log is too short"))
	}
	return entry, log.GetLog(last-2, entry)
}

// calls has the double call the node until ctx ends. Nobody may answer it. calls
// answers how often it was told those words.
func (d *double) calls(ctx context.Context, target *node, who, words string) (told int) {
	d.w.mu.Lock()
	d.caller.To = target.id
	d.w.mu.Unlock()
	address := raft.ServerAddress(target.address())
	for ctx.Err() == nil {
		const patience = time.Second
		d.caller.Told = ""
		_, err := d.caller.AsksForVote(address, patience)
		if err != nil {
			_, err = d.caller.Overwrites(address, d.prev, patience)
		}
		if err == nil {
			d.w.fault("%s was answered by %s", who, target.name)
			return told
		}
		if strings.Contains(d.caller.Told+err.Error(), words) {
			told++
		}
		time.Sleep(100 * time.Millisecond)
	}
	return told
}

// doubleComes has the double of a node come: bend makes it what it must not be, which breaks the
// promise when somebody answers it, and words are of how it is refused.
func doubleComes(bend func(*double) error, promise, words string) func(*World, Fault) ending {
	return func(w *World, f Fault) ending {
		target, of := w.nodeOf(f.Who), w.nodeOf(max(f.Who, 0)+1+f.To%2)
		if target == of {
			return nil
		}
		d, err := of.double()
		if err == nil {
			err = bend(d)
		}
		if err != nil {
			w.trace.Note(of.name, "has no double: %v", err)
			return nil
		}
		ctx, stop := context.WithCancel(w.ctx)
		told := make(chan int)
		w.lives.Go(func() { told <- d.calls(ctx, target, promise+": "+f.Kind, words) })
		return func() bool {
			stop()
			refused := <-told
			d.place.Detach()
			return refused > 0
		}
	}
}

// livesOtherwise has it come from another incarnation.
func livesOtherwise(d *double) error {
	d.caller.ID = []byte(anotherLife)
	return nil
}

// mintsItself has it come with a key that nobody has registered, and a certificate that the
// authority of the node has made for it: who has stolen that can make more of them.
func mintsItself(d *double) error {
	return os.Remove(filepath.Join(d.caller.Dir, "pki", "node.key")) // another one is made in its place
}

// namesAnother has it come with a certificate over the node's own key that names another cluster,
// and that an authority of that one has made.
func namesAnother(d *double) error {
	d.caller.Cluster = anotherCluster
	return nil
}

// oldNodeAnswers has agents meet a node of another incarnation. No agent may go on with it (I13).
func (w *World) oldNodeAnswers(f Fault) ending {
	return w.doubleAnswers(f, func(d *double) { _ = livesOtherwise(d) }, func(came int, hellos []string) bool {
		if len(hellos) > 0 {
			w.fault("I13: agents %v went on with a node of another incarnation", hellos)
		}
		return came > 0
	})
}

// lyingNodeAnswers has agents meet a node that gives them the session which they had last, and
// delivers in the name of another one what nobody has submitted. No agent may start that (I5).
func (w *World) lyingNodeAnswers(f Fault) ending {
	var lied atomic.Int64
	return w.doubleAnswers(f, func(d *double) {
		d.caller.Answer = func(h *agentplanev1.Hello) []*agentplanev1.SessionResponse {
			lie := w.operators.lie(h, d.caller.Number)
			if lie == nil {
				return nil
			}
			lied.Add(1)
			return []*agentplanev1.SessionResponse{d.caller.Welcome(h.GetPreviousEpoch(), w.newest().Now()), lie}
		}
	}, func(int, []string) bool { return lied.Load() > 0 })
}

// lie is a delivery for an agent whose last session was another one; nil when it had none, or there
// is nothing to go by.
func (o *operators) lie(h *agentplanev1.Hello, incarnation uint32) *agentplanev1.SessionResponse {
	old := o.any(rand.New(rand.NewPCG(o.w.seed, h.GetPreviousEpoch())))
	if old == nil || h.GetPreviousEpoch() < 2 {
		return nil
	}
	now := o.w.newest().Now()
	spec, env := &agentplanev1.CommandSpec{}, &agentplanev1.Envelope{}
	_ = proto.Unmarshal(old.envelope, env)
	_ = proto.Unmarshal(env.GetSpec(), spec)
	plainly(spec)
	spec.CommandId, spec.NotAfter = o.madeID(), now+int64(time.Minute)
	env.Spec, _ = proto.Marshal(spec)
	envelope, _ := proto.Marshal(env)
	o.w.mu.Lock()
	o.w.lies[spec.CommandId] = true
	o.w.mu.Unlock()
	return &agentplanev1.SessionResponse{Message: &agentplanev1.SessionResponse_Deliver{Deliver: &agentplanev1.Deliver{
		InvocationId: fsm.InvocationID(spec.CommandId, 1), Attempt: 1, CommandId: spec.CommandId, Fence: h.GetPreviousEpoch(),
		Incarnation: incarnation, SessionEpoch: h.GetPreviousEpoch() - 1, Envelope: envelope, SubmittedAt: now,
	}}}
}

// doubleAnswers has agents meet the double of a node at its address, when that is dead; nobody else
// reaches it. judge is told how many sessions agents began to open, and who went on with one, and
// answers whether that was what it takes.
func (w *World) doubleAnswers(f Fault, bend func(*double), judge func(came int, hellos []string) bool) ending {
	n := w.nodeOf(f.Who)
	d, err := n.double()
	if err != nil {
		w.trace.Note(n.name, "has no double: %v", err)
		return nil
	}
	d.place.Detach()
	bend(d)
	killed := n.kill(false)
	alone := func(refuse bool) {
		w.net.Refuse(operatorsIP, n.ip, refuse)
		for _, other := range w.nodes {
			w.net.Refuse(other.ip, n.ip, refuse)
		}
	}
	alone(true)
	place := w.net.Attach(n.ip)
	end := func() {
		place.Detach()
		alone(false)
		w.must(n.start())
	}
	l, err := place.Listen("tcp", n.address())
	if err != nil {
		end()
		return nil
	}
	host, err := d.caller.Serve(l)
	if err != nil {
		w.trace.Note(n.name, "has no double: %v", err)
		end()
		return nil
	}
	return func() bool {
		came, hellos, err := host.Close()
		end()
		w.must(err)
		return judge(came, hellos) && killed
	}
}
