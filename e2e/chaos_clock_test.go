package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/agentplane/agentplane/cmd/agentplane/lab"
)

// jumpClocks moves the wall clocks of processes by minutes up to an hour, forward or back. Its
// effect is that they have the new one; and of a leader, that it notices and does not want to
// lead.
func jumpClocks(who chooser) func(context.Context, *world) (*strike, error) {
	return func(ctx context.Context, w *world) (*strike, error) {
		ps := slices.DeleteFunc(who(ctx, w), func(p *lab.Process) bool { return w.clocks[p.Name] == "" })
		if len(ps) == 0 {
			return nil, nil
		}
		lead := len(ps) == 1 && w.leads(ctx, ps[0])
		minutes := 1 + w.rng.IntN(60)
		if w.rng.IntN(2) == 0 {
			minutes = -minutes
		}
		said := countInLog(ps[0].Log, wallClockNoticed)
		if err := w.setClocks(ps, minutes); err != nil {
			return nil, err
		}
		return &strike{
			target: fmt.Sprintf("%s by %d minutes", namesOf(ps), minutes),
			seen: func() error {
				if lead {
					if countInLog(ps[0].Log, wallClockNoticed) == said {
						return fmt.Errorf("%s has not noticed", ps[0].Name)
					}
					return nil
				}
				return w.haveClocks(ps)
			},
			mend: func() error { return w.setClocks(ps, 0) },
		}, nil
	}
}

// leads says whether the process is the node that leads now.
func (w *world) leads(ctx context.Context, p *lab.Process) bool {
	leader, err := w.b.leader(ctx)
	return err == nil && &leader.Process == p
}

// setClocks moves the clocks of processes by so many minutes from what they are when nothing is
// wrong with them.
func (w *world) setClocks(ps []*lab.Process, minutes int) (err error) {
	for _, p := range ps {
		f, oerr := os.OpenFile(w.clocks[p.Name], os.O_WRONLY, 0)
		if oerr != nil {
			return errors.Join(err, oerr)
		}
		_, werr := f.WriteAt([]byte{byte(int8(minutes))}, 0)
		err = errors.Join(err, werr, f.Close())
	}
	return err
}

// haveClocks wants that one of the processes at least reads a clock that can be moved.
func (w *world) haveClocks(ps []*lab.Process) error {
	why := errors.New("nobody to read a clock")
	for _, p := range ps {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", p.PID()))
		if err == nil && strings.Contains(string(b), w.clocks[p.Name]) {
			return nil
		}
		why = errors.Join(fmt.Errorf("%s has not mapped %s", p.Name, w.clocks[p.Name]), err)
	}
	return why
}

var wallClockNoticed = regexp.MustCompile(`the wall clock is \S+ from the voters' median`)

func countInLog(log string, what *regexp.Regexp) int {
	b, err := os.ReadFile(log)
	if err != nil {
		return 0
	}
	return len(what.FindAllIndex(b, -1))
}
