package sim

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/agentplane/agentplane/agent"
	"github.com/agentplane/agentplane/agent/execute"
	"github.com/agentplane/agentplane/configs"
)

// agentHost is one agent, over all its lives, and the host on which it lives.
type agentHost struct {
	*Host
	w  *World
	ip string
	wallClock

	// What follows is guarded by World.mu.
	dir   string
	token string     // with which it enrols
	wiped time.Time  // when the disk was last made empty
	life  *agentLife // nil while dead
	lives int
	since time.Time // the start of the life
}

type agentLife struct {
	place  *Place
	stop   context.CancelFunc
	dead   atomic.Bool
	synced synced
}

// start begins a life of agentd.
func (a *agentHost) start() error {
	w := a.w
	w.mu.Lock()
	if a.life != nil || w.closed {
		w.mu.Unlock()
		return nil
	}
	a.lives++
	life, dir, token := &agentLife{place: w.net.Attach(a.ip)}, a.dir, a.token
	a.life, a.since = life, time.Now()
	w.mu.Unlock()
	config, err := configs.Load(configs.Sources{Program: configs.ProgramAgent, Flags: w.agentFlags(a, dir, token)})
	if err != nil {
		return err
	}
	settings := config.Agent()
	var bootID func() (string, error)
	if a.ground != nil {
		bootID = a.ground.bootID
	}
	one, err := agent.New(agent.Options{
		Settings: func() configs.Agent { return settings }, Version: "sim", Logger: w.logger(a.name), BootID: bootID,
		Runner: func(o execute.Options) (agent.Runner, error) {
			if a.ground != nil {
				return a.ground.open(o, life.dead.Load)
			}
			r := &runner{h: a.Host, journal: o.Journal, dead: life.dead.Load}
			if w.trade == tradeOutput {
				return keeper{r}, nil
			}
			return r, nil
		},
		WallClock: a.now, JournalSynced: life.synced.note,
		Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			a.matters() // certificates are judged by it
			return life.place.Dial(ctx, network, address)
		},
		Facts: func(context.Context) map[string]string { return map[string]string{"os": "sim"} },
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", a.name, err)
	}
	ctx, stop := context.WithCancel(context.Background())
	life.stop = stop
	w.lives.Go(func() {
		err := one.Run(ctx)
		if !life.dead.Load() {
			w.fault("%s has ended by itself: %v", a.name, err)
			a.end(life)
		}
	})
	w.trace.Note(a.name, "agentd starts")
	return nil
}

// kill ends agentd as SIGKILL does; its programs go on. It answers whether it ran.
func (a *agentHost) kill() bool {
	return a.killAnd(func(*agentLife, string) error { return nil })
}

// killAnd does something to the directory that agentd leaves, before anybody sees it. It runs
// under World.mu.
func (a *agentHost) killAnd(do func(life *agentLife, dir string) error) bool {
	a.w.quiesce()
	a.w.mu.Lock()
	life := a.life
	a.w.mu.Unlock()
	return life != nil && a.endAnd(life, do)
}

func (a *agentHost) end(life *agentLife) bool {
	return a.endAnd(life, func(*agentLife, string) error { return nil })
}

func (a *agentHost) endAnd(life *agentLife, do func(*agentLife, string) error) bool {
	w := a.w
	w.mu.Lock()
	if a.life != life || life.dead.Swap(true) {
		w.mu.Unlock()
		return false
	}
	a.life = nil
	life.place.Detach() // what it has said before is on its disk
	from := a.dir
	a.dir = filepath.Join(w.dir, fmt.Sprintf("%s.%d", a.name, a.lives))
	if err := copyDir(from, a.dir); err != nil {
		w.redLocked("copy the files of %s: %v", a.name, err)
	}
	if err := do(life, a.dir); err != nil {
		w.redLocked("end %s: %v", a.name, err)
	}
	w.mu.Unlock()
	life.stop()
	return true
}

// cutPower ends the host as a loss of power does: of the journal a part of what was not fsynced is
// left, and no program goes on. It answers whether anything ran.
func (a *agentHost) cutPower(rng *rand.Rand) bool {
	ran := a.killAnd(func(life *agentLife, dir string) error {
		lost, err := life.synced.cut(filepath.Join(dir, "journal"), rng)
		a.w.accepted["bytes of journals lost"] += lost
		return err
	})
	return a.Host.kill(1<<30, execute.ReasonReboot) > 0 || ran
}

// synced is how much of the files of a journal is durable. It is safe for concurrent use.
type synced struct {
	mu    sync.Mutex
	bytes map[string]int64
}

func (s *synced) note(name string, size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bytes == nil {
		s.bytes = make(map[string]int64)
	}
	s.bytes[name] = size
}

// cut takes from a copy of the journal a part of what was not fsynced, and answers how much.
func (s *synced) cut(dir string, rng *rand.Rand) (lost int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, durable := range s.bytes {
		path := filepath.Join(dir, name)
		st, serr := os.Stat(path)
		if errors.Is(serr, fs.ErrNotExist) { // it was written anew since
			continue
		}
		if serr != nil {
			return lost, serr
		}
		if left := st.Size() - durable; left > 0 {
			n := 1 + rng.Int64N(left)
			lost += int(n)
			err = errors.Join(err, os.Truncate(path, st.Size()-n))
		}
	}
	return lost, err
}

// wipe gives the host an empty disk: what agentd knew is gone, programs go on.
func (a *agentHost) wipe(token string) {
	a.kill()
	a.w.must(a.forget())
	a.w.mu.Lock()
	defer a.w.mu.Unlock()
	a.dir, a.token = filepath.Join(a.w.dir, fmt.Sprintf("%s.%d.wiped", a.name, a.lives)), token
	a.wiped = time.Now()
}

// tear takes a part of what agentd has written to its journal last.
func (a *agentHost) tear(part float64) {
	a.ground.mu.Lock()
	before := a.ground.before
	a.ground.mu.Unlock()
	a.w.mu.Lock()
	defer a.w.mu.Unlock()
	torn, err := tear(a.dir, before, part)
	if err != nil {
		a.w.redLocked("tear the journal of %s: %v", a.name, err)
	}
	if torn {
		a.w.accepted["records torn"]++
	}
}

// crashAtNextStart kills agentd when it starts its next program, or there brings one
// further, at the n-th of the points of package execute.
func (a *agentHost) crashAtNextStart(n int, then func(point string)) {
	left := n
	a.arm(func(point string) bool {
		a.Host.mu.Lock()
		left--
		now := left < 0
		if now {
			a.crash = nil
		}
		a.Host.mu.Unlock()
		if !now {
			return false
		}
		a.w.mu.Lock()
		life := a.life
		a.w.mu.Unlock()
		if life == nil || !a.end(life) {
			return false
		}
		if strings.HasPrefix(point, amid) {
			a.tear(rand.Float64())
		}
		then(point)
		return true
	})
}
