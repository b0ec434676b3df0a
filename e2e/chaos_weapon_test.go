package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/agentplane/agentplane/cmd/agentplane/lab"
)

// reach is what a fault leaves running.
type reach int

const (
	some reach = iota // it strikes some processes or links
	all               // it ends every node
)

// weapon is a kind of fault.
type weapon struct {
	name  string
	needs []string
	reach reach
	disk  bool // it works on disks of nodes
	// begin strikes, and answers nil when there is nothing to strike now.
	begin func(context.Context, *world) (*strike, error)
}

// goesWith says whether both can be done at once. Two faults of one kind say no more
// than one; what ends every node cannot be done twice, and takes away the process or the
// mount that a fault of a disk works on. The program whose clock can be moved is one, and
// has no older version. The directory of a node is on one disk, in user space or in the kernel.
func (w *weapon) goesWith(o *weapon) bool {
	if w.disk && o.disk && (w.onFuse() && slices.Contains(o.needs, needDisk) || o.onFuse() && slices.Contains(w.needs, needDisk)) {
		return false
	}
	if w.name == upgrade && slices.Contains(o.needs, needClock) || o.name == upgrade && slices.Contains(w.needs, needClock) {
		return false
	}
	return w != o && !(w.reach == all && (o.reach == all || o.disk)) && !(o.reach == all && w.disk)
}

// onFuse says whether its targets have to be on the file system whose faults can be switched.
func (w *weapon) onFuse() bool { return slices.Contains(w.needs, needFuse) }

// missing says which of its means this machine lacks, and why.
func (w *weapon) missing(means map[string]string) string {
	for _, need := range w.needs {
		if why := means[need]; why != "" {
			return need + ": " + why
		}
	}
	return ""
}

// strike is one fault that was begun.
type strike struct {
	target string
	seen   func() error // nil when its effect was seen
	mend   func() error
}

const clockJump = "clock-jump"

// arsenal is all of them.
var arsenal = []*weapon{
	{name: "kill-leader", begin: killing(leading)},
	{name: "kill-follower", begin: killing(following)},
	{name: "kill-agents", begin: killAgents},
	{name: "kill-hosts", begin: killHosts},
	{name: "kill-all", begin: killing(everyNode), reach: all},
	{name: "stop-leader", begin: stopping(leading)},
	{name: "stop-follower", begin: stopping(following)},
	{name: "stop-agents", begin: stopping(someAgents)},
	{name: "cut-leader", needs: []string{needFilter}, begin: cutNode(leading, bothWays)},
	{name: "cut-follower", needs: []string{needFilter}, begin: cutNode(following, bothWays)},
	{name: "deaf-node", needs: []string{needFilter}, begin: cutNode(anyNode, inwards)},
	{name: "mute-node", needs: []string{needFilter}, begin: cutNode(anyNode, outwards)},
	{name: "cut-link", needs: []string{needFilter}, begin: cutLink},
	{name: "cut-agents", needs: []string{needFilter}, begin: cutAgents(bothWays)},
	{name: "deaf-agents", needs: []string{needFilter}, begin: cutAgents(inwards)},
	{name: "mute-agents", needs: []string{needFilter}, begin: cutAgents(outwards)},
	{name: "loss", needs: []string{needFilter}, begin: lossy},
	{name: "slow-link", needs: []string{needShaper}, begin: slowLink},
	{name: "delay", needs: []string{needProxy}, begin: delayed},
	{name: "stall", needs: []string{needProxy}, begin: stalled},
	{name: "disk-full", needs: []string{needDisk}, disk: true, begin: fillDisk},
	{name: "disk-hang", needs: []string{needDisk, needFreezer}, disk: true, begin: freezeDisk},
	{name: "disk-eio", needs: []string{needTracer}, disk: true, begin: inject("fsync,fdatasync", "error=EIO", "(INJECTED)")},
	{name: "disk-enospc", needs: []string{needTracer}, disk: true, begin: inject("pwrite64", "error=ENOSPC", "(INJECTED)")},
	{name: "disk-slow", needs: []string{needTracer}, disk: true, begin: slowDisk},
	{name: "disk-throttle", needs: []string{needDisk, needThrottle}, disk: true, begin: throttleDisk},
	{name: "power-cut", needs: []string{needDisk}, disk: true, begin: powerCut(anyNode)},
	{name: "disk-read", needs: []string{needFuse}, disk: true, begin: failReads},
	{name: "disk-torn", needs: []string{needFuse}, disk: true, begin: failDisk(faultTorn, 0, 1, 1, 2)},
	{name: "disk-dead", needs: []string{needFuse}, disk: true, begin: failDisk(faultHeld)},
	{name: "agents-disk-full", needs: []string{needFuse}, begin: failDisks(faultFull)},
	{name: "agents-disk-eio", needs: []string{needFuse}, begin: failDisks(faultWrite, faultTorn, faultSync)},
	{name: "agents-disk-read", needs: []string{needFuse}, begin: failReadsOfAgents},
	{name: "agents-disk-dead", needs: []string{needFuse}, begin: failDisks(faultHeld)},
	{name: "power-copy", needs: []string{needDisk}, disk: true, begin: powerCopy},
	{name: "power-cut-all", needs: []string{needDisk}, disk: true, reach: all, begin: powerCut(everyNode)},
	{name: clockJump, needs: []string{needClock}, begin: jumpClocks(leading)},
	{name: "clock-jump-follower", needs: []string{needClock}, begin: jumpClocks(following)},
	{name: "clock-jump-agents", needs: []string{needClock}, begin: jumpClocks(someAgents)},
	{name: "starve", needs: []string{needQuota}, begin: starve},
	{name: upgrade, needs: []string{needOld}, begin: upgradeSome},
}

// A chooser chooses processes that no other fault of the round has for target.
type chooser func(context.Context, *world) []*lab.Process

func leading(ctx context.Context, w *world) []*lab.Process {
	var leader *lab.Node
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := lab.Await(ctx, func() (err error) {
		if leader, err = w.b.leader(ctx); err == nil && w.meant[leader.Name] {
			err = fmt.Errorf("%s is a target already", leader.Name)
		}
		return err
	}); err != nil {
		return nil
	}
	w.meant[leader.Name] = true
	return []*lab.Process{&leader.Process}
}

func following(ctx context.Context, w *world) []*lab.Process {
	ask, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	leader, err := w.b.leader(ask)
	return w.choose(func(n *lab.Node) bool { return err != nil || n != leader })
}

func anyNode(_ context.Context, w *world) []*lab.Process {
	return w.choose(func(*lab.Node) bool { return true })
}

// leadingOrNot is the leader half of the time, and any node else.
func leadingOrNot(ctx context.Context, w *world) []*lab.Process {
	if w.rng.IntN(2) == 0 {
		if ps := leading(ctx, w); ps != nil {
			return ps
		}
	}
	return anyNode(ctx, w)
}

func everyNode(_ context.Context, w *world) []*lab.Process {
	var nodes []*lab.Process
	for _, n := range w.nodes {
		nodes = append(nodes, &n.Process)
	}
	return nodes
}

func (w *world) choose(from func(*lab.Node) bool) []*lab.Process {
	var left []*lab.Process
	for _, n := range w.nodes {
		if !w.meant[n.Name] && n.Running() && from(n) {
			left = append(left, &n.Process)
		}
	}
	if len(left) == 0 {
		return nil
	}
	p := left[w.rng.IntN(len(left))]
	w.meant[p.Name] = true
	return []*lab.Process{p}
}

// someAgents are up to half of them.
func someAgents(_ context.Context, w *world) []*lab.Process {
	var left []*lab.Process
	for _, a := range w.agents {
		if !w.meant[a.Name] {
			left = append(left, &a.Process)
		}
	}
	w.rng.Shuffle(len(left), func(i, j int) { left[i], left[j] = left[j], left[i] })
	left = left[:min(1+w.rng.IntN(len(w.agents)/2), len(left))]
	for _, p := range left {
		w.meant[p.Name] = true
	}
	return left
}

func namesOf(ps []*lab.Process) string {
	if len(ps) > 5 {
		return fmt.Sprintf("%d processes like %s", len(ps), ps[0].Name)
	}
	var names []string
	for _, p := range ps {
		names = append(names, p.Name)
	}
	return strings.Join(names, ", ")
}

// kill kills them at once, and has nobody start them again before the mending does. Its
// effect is that they met the signal and ended.
func (w *world) kill(ps []*lab.Process) *strike {
	met := 0
	for _, p := range ps {
		w.keeper.hold(p.Name)
	}
	for _, p := range ps {
		if p.Signal(syscall.SIGKILL) {
			met++
		}
	}
	return &strike{
		target: namesOf(ps),
		seen: func() error {
			for _, p := range ps {
				if p.Running() {
					return fmt.Errorf("%s still runs", p.Name)
				}
			}
			if met == 0 {
				return errors.New("none of them ran")
			}
			return nil
		},
		mend: func() (err error) {
			for _, p := range ps {
				p.Kill() // waits for its end
				err = errors.Join(err, p.Start())
				w.keeper.release(p.Name)
			}
			return err
		},
	}
}

func killing(who chooser) func(context.Context, *world) (*strike, error) {
	return func(ctx context.Context, w *world) (*strike, error) {
		ps := who(ctx, w)
		if ps == nil {
			return nil, nil
		}
		return w.kill(ps), nil
	}
}

// killAgents kills some agents, and leaves the programs alone that they run.
func killAgents(ctx context.Context, w *world) (*strike, error) {
	ps := someAgents(ctx, w)
	if len(ps) == 0 {
		return nil, nil
	}
	for _, p := range ps {
		w.deaths = append(w.deaths, agentDeath{agent: p.Name, at: time.Now()})
	}
	return w.kill(ps), nil
}

// killHosts kills agents that run something, up to half of all, together with the supervisors of
// it. Programs go on, and nobody knows any more how they end. Its effect is that of killing, of
// a supervisor at least.
func killHosts(ctx context.Context, w *world) (*strike, error) {
	supervisors := make(map[*lab.Process][]int)
	busy, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := lab.Await(busy, func() error {
		for _, a := range w.agents {
			if pids := a.Supervisors(); len(pids) > 0 && !w.meant[a.Name] && len(supervisors) < len(w.agents)/2 {
				supervisors[&a.Process] = pids
			}
		}
		if len(supervisors) == 0 {
			return errors.New("no agent runs a program")
		}
		return nil
	}); err != nil {
		return nil, nil
	}
	var ps []*lab.Process
	for p := range supervisors {
		w.meant[p.Name] = true
		w.deaths = append(w.deaths, agentDeath{agent: p.Name, at: time.Now()})
		ps = append(ps, p)
	}
	st := w.kill(ps)
	met := 0
	for _, pids := range supervisors {
		for _, pid := range pids {
			if syscall.Kill(pid, syscall.SIGKILL) == nil { // it may have ended meanwhile
				met++
			}
		}
	}
	st.target = fmt.Sprintf("%s and %d supervisors", st.target, met)
	gone := st.seen
	st.seen = func() error {
		if met == 0 {
			return errors.New("no supervisor was met")
		}
		return gone()
	}
	return st, nil
}

// stopping stops processes with SIGSTOP. Its effect is that the kernel calls them stopped.
func stopping(who chooser) func(context.Context, *world) (*strike, error) {
	return func(ctx context.Context, w *world) (*strike, error) {
		ps := who(ctx, w)
		if len(ps) == 0 {
			return nil, nil
		}
		for _, p := range ps {
			p.Signal(syscall.SIGSTOP)
		}
		return &strike{
			target: namesOf(ps),
			seen: func() error {
				for _, p := range ps {
					if state, err := processState(p.PID()); err != nil || state != "T" {
						return errors.Join(fmt.Errorf("%s is %q, not stopped", p.Name, state), err)
					}
				}
				return nil
			},
			mend: func() error {
				for _, p := range ps {
					p.Signal(syscall.SIGCONT) // it may have been killed meanwhile
				}
				return nil
			},
		}, nil
	}
}

// processState is the letter in /proc/PID/stat.
func processState(pid int) (string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	return fields[0], nil
}

// patiently tries for as long as the kernel may need to let go of something.
func patiently(condition func() error) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return lab.Await(ctx, condition)
}
