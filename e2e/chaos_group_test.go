package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	"github.com/agentplane/agentplane/cmd/agentplane/lab"
)

// Where controllers of cgroup v1 are mounted.
const (
	quotaRoot    = "/sys/fs/cgroup/cpu"
	throttleRoot = "/sys/fs/cgroup/blkio"
)

func groupOwner() string {
	if owner := os.Getenv(insideVar); owner != "" {
		return owner
	}
	return strconv.Itoa(os.Getpid())
}

// removeGroups removes the cgroups that runs of this process made and did not remove.
func removeGroups() {
	for _, root := range []string{quotaRoot, throttleRoot} {
		left, err := filepath.Glob(filepath.Join(root, "agentplane-chaos-"+groupOwner()+"-*"))
		if err != nil {
			return
		}
		for _, dir := range left {
			_ = os.Remove(dir) // the kernel says no while a process is in it
		}
	}
}

// group is a cgroup of one process.
type group struct {
	root, dir string
	p         *lab.Process
}

// newGroup makes one below a controller, writes its settings, in order, and puts the
// process in.
func newGroup(root string, p *lab.Process, settings ...string) (*group, error) {
	g := &group{root: root, dir: filepath.Join(root, "agentplane-chaos-"+groupOwner()+"-"+p.Name), p: p}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		return nil, err
	}
	for _, s := range settings {
		file, value, _ := strings.Cut(s, "=")
		if err := os.WriteFile(filepath.Join(g.dir, file), []byte(value), 0); err != nil {
			return nil, errors.Join(err, os.Remove(g.dir))
		}
	}
	if err := g.move(g.dir); err != nil {
		return nil, errors.Join(err, os.Remove(g.dir))
	}
	return g, nil
}

func (g *group) move(to string) error {
	pid := g.p.PID()
	if pid == 0 {
		return nil // it has ended meanwhile
	}
	err := os.WriteFile(filepath.Join(to, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return err
}

// count is the sum of what the pattern finds in one of the group's files.
func (g *group) count(file string, what *regexp.Regexp) (int, error) {
	b, err := os.ReadFile(filepath.Join(g.dir, file))
	return sumOf(what, string(b)), err
}

func (g *group) close() error {
	return errors.Join(g.move(g.root), patiently(func() error { return os.Remove(g.dir) }))
}

var (
	heldBack     = regexp.MustCompile(`nr_throttled (\d+)`)
	writesServed = regexp.MustCompile(`Write (\d+)`)
)

// starve leaves a node some hundredths of a processor. Its effect is that the kernel
// counts periods in which the node was held back.
func starve(ctx context.Context, w *world) (*strike, error) {
	ps := leadingOrNot(ctx, w)
	if ps == nil {
		return nil, nil
	}
	const period = 100_000
	percent := 1 + w.rng.IntN(4) // an idle node needs a little more
	g, err := newGroup(quotaRoot, ps[0],
		fmt.Sprintf("cpu.cfs_period_us=%d", period), fmt.Sprintf("cpu.cfs_quota_us=%d", period*percent/100))
	if err != nil {
		return nil, err
	}
	return &strike{
		target: fmt.Sprintf("%s to %d %%", ps[0].Name, percent),
		seen: func() error {
			if n, err := g.count("cpu.stat", heldBack); err != nil || n < 10 {
				return errors.Join(fmt.Errorf("held back %d times", n), err)
			}
			return nil
		},
		mend: g.close,
	}, nil
}

// throttleDisk leaves the disk of a node some writes a second. Its effect is that the
// controller has let writes through, and that a thread of the node waits in the kernel
// whenever one looks, or that the node has ended.
func throttleDisk(ctx context.Context, w *world) (*strike, error) {
	ps := leadingOrNot(ctx, w)
	if ps == nil {
		return nil, nil
	}
	p, ended := ps[0], w.endedOf(ps[0])
	d := w.diskOf(p, "its disk was slow")
	var st syscall.Stat_t
	if err := syscall.Stat(d.at, &st); err != nil {
		return nil, err
	}
	writes := 1 + w.rng.IntN(10)
	// The device of the mount is the loop device: major 7.
	g, err := newGroup(throttleRoot, p, fmt.Sprintf("blkio.throttle.write_iops_device=%d:%d %d", st.Dev>>8&0xfff, st.Dev&0xff, writes))
	if err != nil {
		return nil, err
	}
	waited := 0
	return &strike{
		target: fmt.Sprintf("%s to %d writes a second", p.Name, writes),
		seen: func() error {
			if w.endedOf(p) > ended {
				return nil
			}
			served, err := g.count("blkio.throttle.io_serviced", writesServed)
			if err != nil {
				return err
			}
			if !waits(p) {
				waited = 0
			} else {
				waited++
			}
			if served == 0 || waited < 10 {
				return fmt.Errorf("%d writes were let through, and a thread of %s waited %d times in a row", served, p.Name, waited)
			}
			return nil
		},
		mend: g.close,
	}, nil
}

// waits says whether a thread of the process waits in the kernel and cannot be interrupted.
func waits(p *lab.Process) bool {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.PID()))
	if err != nil {
		return false
	}
	for _, thread := range threads {
		b, err := os.ReadFile(thread)
		if err == nil && strings.Contains(string(b), ") D ") {
			return true
		}
	}
	return false
}
