package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/agentplane/agentplane/cmd/agentplane/lab"
)

// upgrade names the fault of runs in which every process begins as the older version.
const upgrade = "upgrade"

// stopPatience is longer than all steps of a planned stop may take.
const stopPatience = 30 * time.Second

// upgrades says that the run replaces versions.
func (s shape) upgrades() bool {
	return len(s.faults) > 0 && strings.Contains("+"+strings.Join(weaponNames(s.faults), "+")+"+", "+"+upgrade+"+")
}

// upgradeSome does what a rolling upgrade does: it stops a node as planned and starts it as
// the other version, and so it does with some agents. The nodes have their turn one after
// the other; when all are new they are taken back, as an operator would whom the new
// version does not please. Its effect is that the kernel runs the other program.
func upgradeSome(ctx context.Context, w *world) (*strike, error) {
	n := w.nodes[w.upgraded%len(w.nodes)]
	if w.meant[n.Name] {
		return nil, nil
	}
	w.meant[n.Name] = true
	w.upgraded++
	programs := make(map[*lab.Process]string)
	turn := func(p *lab.Process, old, now string) {
		programs[p] = now
		if w.programs[p] == now {
			programs[p] = old
		}
	}
	turn(&n.Process, w.bins.old.Agentplane, w.bins.now.Agentplane)
	ps := []*lab.Process{&n.Process}
	for _, p := range someAgents(ctx, w) {
		turn(p, w.bins.old.Agentd, w.bins.now.Agentd)
		ps = append(ps, p)
		w.deaths = append(w.deaths, agentDeath{agent: p.Name, at: time.Now()})
	}
	errs := make(chan error)
	for _, p := range ps {
		go func() { errs <- w.replace(p, programs[p]) }()
	}
	var err error
	for range ps {
		err = errors.Join(err, <-errs)
	}
	for p, program := range programs {
		w.programs[p] = program
	}
	return &strike{
		target: namesOf(ps),
		seen: func() error {
			for p, program := range programs {
				if runs, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", p.PID())); err != nil || runs != program {
					return errors.Join(fmt.Errorf("%s runs %q, not %s", p.Name, runs, program), err)
				}
			}
			return nil
		},
		mend: func() error { return nil },
	}, err
}

// replace stops a process as planned and starts it as another program.
func (w *world) replace(p *lab.Process, program string) error {
	w.keeper.hold(p.Name)
	defer w.keeper.release(p.Name)
	if err := p.Stop(stopPatience); err != nil {
		return err
	}
	if err := p.Use(program); err != nil {
		return err
	}
	return p.Start()
}
