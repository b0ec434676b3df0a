package e2e

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/agentplane/agentplane/cmd/agentplane/lab"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

// reading is what a process takes of its machine while the cluster is whole.
type reading struct {
	rss        int // bytes
	fds        int
	goroutines int // of nodes only; 0 when it was not told
	sessions   int // of agents, on a node
}

// series are the readings of one life of a process: one that is started again begins anew.
type series struct {
	name     string
	node     bool
	pid      int
	readings []reading
}

const (
	// levelGates is how many gates of one life are compared on each side.
	levelGates = 2
	// What a process may take more at its last gates than at its first ones, while clients
	// come and go. What was measured stands in README.md.
	moreFiles      = 40
	moreGoroutines = 60
	// Sessions move to nodes that live: what each takes there, at most.
	filesPerSession      = 2
	goroutinesPerSession = 6
	// Memory is not level while commands are kept: what a submission with its output takes
	// on a node, and what an agent's runtime may keep from its collector.
	moreNodeMemory  = 96 << 20
	moreAgentMemory = 32 << 20
	perCommand      = 64 << 10
)

// levels are the series of all processes of a run.
type levels struct{ lives []*series }

// add adds a reading of a life.
func (l *levels) add(name string, node bool, pid int, r reading) {
	i := slices.IndexFunc(l.lives, func(s *series) bool { return s.name == name && s.pid == pid })
	if i < 0 {
		i = len(l.lives)
		l.lives = append(l.lives, &series{name: name, node: node, pid: pid})
	}
	l.lives[i].readings = append(l.lives[i].readings, r)
}

// judge says which lives are not level: they hold more at their last gates than at their
// first ones, by more than a margin. The best of the last gates counts against the worst of
// the first ones, so that what comes and goes is no leak; a life of fewer gates than that
// is not judged. Of a longer one the first gate is left out: it warms up.
func (l *levels) judge(commands int) (problems []string) {
	for _, s := range l.lives {
		all := s.readings
		if len(all) > 2*levelGates {
			all = all[1:]
		}
		if len(all) < 2*levelGates {
			continue
		}
		first, last := all[:levelGates], all[len(all)-levelGates:]
		moved := max(0, most(last, func(r reading) int { return r.sessions })-least(first, func(r reading) int { return r.sessions }))
		memory := moreAgentMemory
		if s.node {
			memory = moreNodeMemory + perCommand*commands
		}
		for _, kind := range []struct {
			name string
			of   func(reading) int
			more int
		}{
			{"open files", func(r reading) int { return r.fds }, moreFiles + filesPerSession*moved},
			{"goroutines", func(r reading) int { return r.goroutines }, moreGoroutines + goroutinesPerSession*moved},
			{"bytes of memory", func(r reading) int { return r.rss }, memory},
		} {
			if from, to := most(first, kind.of), least(last, kind.of); to > from+kind.more {
				problems = append(problems, fmt.Sprintf("the %s of %s grew from %d to %d, by more than %d", kind.name, s.name, from, to, kind.more))
			}
		}
	}
	return problems
}

func most(all []reading, of func(reading) int) int {
	return of(slices.MaxFunc(all, func(a, b reading) int { return of(a) - of(b) }))
}

func least(all []reading, of func(reading) int) int {
	return of(slices.MinFunc(all, func(a, b reading) int { return of(a) - of(b) }))
}

// notes are the maxima of nodes and agents, how many lives are judged, and by how much one of
// these has grown.
func (l *levels) notes() []string {
	var node, agent, grown reading
	judged := 0
	add := func(into *reading, r reading) {
		into.rss, into.fds, into.goroutines = max(into.rss, r.rss), max(into.fds, r.fds), max(into.goroutines, r.goroutines)
	}
	for _, s := range l.lives {
		for _, r := range s.readings {
			if s.node {
				add(&node, r)
			} else {
				add(&agent, r)
			}
		}
		if n := len(s.readings); n >= 2*levelGates {
			judged++
			from, to := s.readings[0], s.readings[n-1]
			add(&grown, reading{rss: to.rss - from.rss, fds: to.fds - from.fds, goroutines: to.goroutines - from.goroutines})
		}
	}
	return []string{
		fmt.Sprintf("rss=%dMiB", node.rss>>20), fmt.Sprintf("fds=%d", node.fds), fmt.Sprintf("goroutines=%d", node.goroutines),
		fmt.Sprintf("agentrss=%dMiB", agent.rss>>20), fmt.Sprintf("agentfds=%d", agent.fds),
		fmt.Sprintf("levels=%d", judged), fmt.Sprintf("grown=%dMiB/%d/%d", grown.rss>>20, grown.fds, grown.goroutines),
	}
}

// readProcess reads what the kernel tells of a process.
func readProcess(pid int) (reading, error) {
	var r reading
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return r, err
	}
	r.fds = len(files)
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return r, err
	}
	for line := range bytes.Lines(b) {
		if rest, ok := strings.CutPrefix(string(line), "VmRSS:"); ok {
			var kib int
			if _, err := fmt.Sscan(rest, &kib); err != nil {
				return r, err
			}
			r.rss = kib << 10
			return r, nil
		}
	}
	return r, fmt.Errorf("the kernel tells no VmRSS of process %d", pid)
}

// measure takes the readings of one gate. A process that ends in between is read at the next.
func (w *world) measure(t *testing.T) {
	t.Helper()
	take := func(p *lab.Process, node bool, more reading) {
		pid := p.PID()
		if r, err := readProcess(pid); pid > 0 && err == nil {
			r.goroutines, r.sessions = more.goroutines, more.sessions
			w.levels.add(p.Name, node, pid, r)
		}
	}
	for i, n := range w.nodes {
		ctx := within(t, 20*time.Second)
		status, err := agentplanev1.NewClusterServiceClient(w.each[i]).Status(ctx, &agentplanev1.StatusRequest{Stale: true})
		if err != nil {
			t.Fatalf("ask node %s what it takes: %v", n.Name, err)
		}
		agents, err := agentplanev1.NewFleetServiceClient(w.each[i]).ListAgents(ctx, &agentplanev1.ListAgentsRequest{Stale: true})
		if err != nil {
			t.Fatalf("ask node %s for its sessions: %v", n.Name, err)
		}
		more := reading{goroutines: int(status.Process.GetGoroutines())} // an older version does not tell it
		for _, a := range agents.Agents {
			if a.Node == status.AnsweredBy && a.Health == "ONLINE" {
				more.sessions++
			}
		}
		take(&n.Process, true, more)
	}
	for _, a := range w.agents {
		take(&a.Process, false, reading{})
	}
}

func TestLevelsAreJudged(t *testing.T) {
	level := reading{rss: 80 << 20, fds: 60, goroutines: 200}
	grows := func(by reading) (all []reading) {
		for i := range 8 {
			all = append(all, reading{level.rss + by.rss*i, level.fds + by.fds*i, level.goroutines + by.goroutines*i, by.sessions * i})
		}
		return all
	}
	peak := grows(reading{})
	peak[7] = reading{rss: 800 << 20, fds: 600, goroutines: 2000}
	for name, c := range map[string]struct {
		lives [][]reading
		agent bool
		want  string // part of the one sentence
	}{
		"level":                                 {lives: [][]reading{grows(reading{})}},
		"a peak at one gate":                    {lives: [][]reading{peak}},
		"restarts, of which each begins higher": {lives: [][]reading{grows(reading{})[:2], peak[7:], grows(reading{})[:3]}},
		"files grow":                            {lives: [][]reading{grows(reading{fds: 15})}, want: "open files of x grew from 90 to 150"},
		"sessions come":                         {lives: [][]reading{grows(reading{fds: 15, goroutines: 60, sessions: 15})}},
		"sessions come, and goroutines with none": {lives: [][]reading{grows(reading{goroutines: 80, sessions: 5})}, want: "goroutines of x grew"},
		"goroutines grow":                         {lives: [][]reading{grows(reading{goroutines: 20})}, want: "goroutines of x grew"},
		"the memory of a node grows":              {lives: [][]reading{grows(reading{rss: 40 << 20})}, want: "bytes of memory of x grew"},
		"the memory of a node grows by commands":  {lives: [][]reading{grows(reading{rss: 15 << 20})}},
		"the memory of an agent grows":            {lives: [][]reading{grows(reading{rss: 15 << 20})}, agent: true, want: "bytes of memory of x grew"},
		"a second life grows":                     {lives: [][]reading{grows(reading{}), grows(reading{fds: 15})}, want: "open files of x grew"},
	} {
		t.Run(name, func(t *testing.T) {
			var l levels
			for pid, life := range c.lives {
				for _, r := range life {
					l.add("x", !c.agent, pid+1, r)
				}
			}
			problems := l.judge(100)
			if c.want == "" && len(problems) > 0 || c.want != "" && (len(problems) != 1 || !strings.Contains(problems[0], c.want)) {
				t.Errorf("judged %q, want %q", problems, c.want)
			}
		})
	}
}

func TestAProcessIsRead(t *testing.T) {
	if _, err := os.Stat("/proc/self"); err != nil {
		t.Skipf("SKIPPED: there is no /proc: %v", err)
	}
	before, err := readProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	after, err := readProcess(os.Getpid())
	if err != nil || after.fds <= 0 || before.rss < 1<<20 {
		t.Errorf("%+v, then %+v (%v)", before, after, err)
	}
}
