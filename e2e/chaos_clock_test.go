package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/agentplane/agentplane/cmd/agentplane/lab"
)

// jumpClocks moves the wall clocks of processes by minutes up to an hour, forward or back. Its
// effect is that a leader notices and does not want to lead, that a follower tells the new time
// to whoever asks whether it lives, and that agents read a clock that can be moved.
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
			return nil, errors.Join(err, w.setClocks(ps, 0))
		}
		return &strike{
			target: fmt.Sprintf("%s by %d minutes", namesOf(ps), minutes),
			seen: func() error {
				switch {
				case lead && countInLog(ps[0].Log, wallClockNoticed) == said:
					return fmt.Errorf("%s has not noticed", ps[0].Name)
				case lead:
					return nil
				case w.isNode(ps[0]):
					return w.shows(ps[0], minutes)
				}
				return w.haveClocks(ps)
			},
			mend: func() error { return w.setClocks(ps, 0) },
		}, nil
	}
}

func (w *world) isNode(p *lab.Process) bool {
	return slices.ContainsFunc(w.nodes, func(n *lab.Node) bool { return &n.Process == p })
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

// shows wants that a node tells a wall clock that is moved by so many minutes.
func (w *world) shows(p *lab.Process, minutes int) error {
	i := slices.IndexFunc(w.nodes, func(n *lab.Node) bool { return &n.Process == p })
	c := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // whoever answers there is asked for the time alone
	}}
	r, err := c.Get("https://" + w.addresses[i] + "/livez")
	if err != nil {
		return err
	}
	defer r.Body.Close()
	at, err := http.ParseTime(r.Header.Get("Date"))
	if err != nil {
		return err
	}
	if off := time.Until(at) - time.Duration(minutes)*time.Minute; off.Abs() > 30*time.Second {
		return fmt.Errorf("%s tells %s, which is not %d minutes off", p.Name, at, minutes)
	}
	return nil
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
