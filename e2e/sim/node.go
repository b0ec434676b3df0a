package sim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/agentplane/agentplane/configs"
	"github.com/agentplane/agentplane/controlplane"
	"github.com/agentplane/agentplane/controlplane/consensus/consensustest"
	"github.com/agentplane/agentplane/fsm"
	"github.com/agentplane/agentplane/gossip"
	"github.com/agentplane/agentplane/gossip/gossiptest"
)

// node is one node of the control plane, over all its lives.
type node struct {
	w    *World
	name string
	ip   string
	wallClock
	// slowWrites is how many writes took slowWrite or longer.
	slowWrites atomic.Uint64

	// What follows is guarded by World.mu.
	id    string
	dir   string
	disk  *consensustest.MemDisk
	life  *nodeLife // nil while dead
	lives int
	// starts is how many of the lives were on this disk, at least as many as the disk says.
	starts uint64
	// kept is what of the files of output is durable once the life has opened them.
	kept storedOutput
	// leaving says that its removal was asked for, joining that it has begun anew with an
	// empty disk and is not known to be a voter yet.
	leaving, joining bool
	// older says that it is of the build before this one.
	older bool
	// behind says that its disk was put back to an earlier time, refused that it was told so.
	behind, refused bool
}

// nodeLife is one process of a node.
type nodeLife struct {
	node    *controlplane.Node
	place   *Place
	gossip  atomic.Pointer[gossiptest.Transport]
	machine *fsm.Machine
	began   time.Time
	stop    context.CancelFunc
	dead    atomic.Bool
	writes  atomic.Uint64 // of entries, that have begun
}

// death is how a life ends.
type death int

const (
	byItself death = iota // some of its goroutines go on for a moment
	byKill                // at a moment in which none runs
	byPower               // likewise, and what is not fsynced is gone
)

func (n *node) address() string { return n.ip + ":7460" }
func (n *node) gossips() string { return gossipsAt(n.ip) }

func gossipsAt(ip string) string { return ip + ":7461" }

// start begins a life on what the last one left.
func (n *node) start() error {
	w := n.w
	w.mu.Lock()
	if n.life != nil || w.closed {
		w.mu.Unlock()
		return nil
	}
	n.lives++
	n.starts++
	life, dir, disk := &nodeLife{place: w.net.Attach(n.ip), machine: fsm.New(fsm.Options{}), began: time.Now()}, n.dir, n.disk
	n.life = life
	upgraded, anew := n.upgradedLocked()
	if anew {
		w.accepted["upgrades"]++
	}
	w.mu.Unlock()
	stores := disk.Disk()
	stores.Log, stores.Snapshots = written{stores.Log, w.book, n, life}, counted{stores.Snapshots, w, life}
	config, err := configs.Load(configs.Sources{Program: configs.ProgramNode, Flags: w.nodeFlags(n, dir)})
	if err != nil {
		panic(err) // only what it was given can be wrong
	}
	life.node, err = controlplane.Open(controlplane.Options{
		Config: config.Node(), Version: "sim", Logger: w.logger(n.name),
		Fatal: func(err error) { n.fatal(life, err) },
		Surroundings: controlplane.Surroundings{
			Listen: life.place.Listen, Dial: life.place.Dial, Socket: newDeaf(),
			Gossip: func(string) gossip.Transport {
				t := w.gossip.NewTransport(n.gossips())
				life.gossip.Store(t)
				return t
			},
			Disk: stores, Profile: w.timers(n), Machine: life.machine,
			FreeBytes:    func() (uint64, error) { return 1 << 40, nil },
			WallClock:    func() time.Time { n.matters(); return n.now() },
			FeatureLevel: func() uint32 { return levelOf(upgraded) },
		},
	})
	if err != nil {
		life.place.Detach()
		w.mu.Lock()
		n.life = nil
		refused := n.refused && errors.Is(err, controlplane.ErrPutBack)
		w.mu.Unlock()
		if refused {
			return nil // it is for good
		}
		return fmt.Errorf("start %s: %w", n.name, err)
	}
	ctx, stop := context.WithCancel(context.Background())
	life.stop = stop
	w.lives.Go(func() { n.run(ctx, life) })
	w.lives.Go(func() { w.watch(ctx, n, life) })
	w.mu.Lock()
	n.id = life.node.ID()
	w.mu.Unlock()
	w.trace.Note(n.name, "starts")
	return nil
}

// run is a life from its start to its last goroutine, which after a kill is a while
// later: it then stops in order, cut off from everything.
func (n *node) run(ctx context.Context, life *nodeLife) {
	err := life.node.Run(ctx)
	if !life.dead.Load() {
		if !n.mayEnd(err) {
			n.w.fault("%s has ended by itself: %v", n.name, err)
		}
		n.end(life, byItself)
	}
	if err := life.node.Close(); err != nil {
		n.w.trace.Note(n.name, "close: %v", err)
	}
}

// mayEnd says whether a node may end by itself with the error.
func (n *node) mayEnd(err error) bool {
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	return n.refusesOlderLocked(err) || n.leaving && errors.Is(err, controlplane.ErrRemoved)
}

// fatal is what the process would have died of.
func (n *node) fatal(life *nodeLife, err error) {
	if life.dead.Load() {
		return
	}
	n.w.trace.Note(n.name, "gives up: %v", err)
	n.w.gaveUp(n, err)
	n.w.lives.Go(func() { n.end(life, byItself) })
}

// kill ends a node as SIGKILL does, or as a loss of power. It answers whether it ran.
func (n *node) kill(power bool) bool {
	n.w.quiesce() // the files and the log are of one moment
	n.w.mu.Lock()
	life := n.life
	n.w.mu.Unlock()
	how := byKill
	if power {
		how = byPower
	}
	return life != nil && n.end(life, how)
}

// end ends a life, if it is the one that goes on.
func (n *node) end(life *nodeLife, how death) bool {
	w := n.w
	w.mu.Lock()
	if n.life != life || life.dead.Swap(true) {
		w.mu.Unlock()
		return false
	}
	n.life = nil
	life.place.Detach() // what it has said before is on its disk
	if t := life.gossip.Load(); t != nil {
		_ = t.Shutdown()
	}
	old := n.disk
	n.disk = old.Image(how == byPower)
	from := n.dir
	n.dir = filepath.Join(w.dir, fmt.Sprintf("%s.%d", n.name, n.lives))
	if err := copyDir(from, n.dir); err != nil {
		w.redLocked("copy the files of %s: %v", n.name, err)
	}
	if err := n.kept.end(n.dir, how); err != nil {
		w.redLocked("cut the power of %s: %v", n.name, err)
	}
	w.mu.Unlock()
	old.Unhang()
	life.stop()
	return true
}

// copyDir copies the small files of a data directory.
func copyDir(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		at, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(filepath.Join(to, at), 0o700)
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a process that gives up tidies, while others see it dead already
		}
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, at), b, 0o600)
	})
}
