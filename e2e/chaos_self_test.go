package e2e

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/agentplane/agentplane/cmd/agentplane/lab"
	"github.com/agentplane/agentplane/e2e/record"
	agentplanev1 "github.com/agentplane/agentplane/proto/agentplane/v1"
)

func TestArsenalNamesEachFaultOnce(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	for _, w := range arsenal {
		if names[w.name] || strings.ContainsAny(w.name, "+,/ ") {
			t.Errorf("fault %q is named twice, or by more than one word", w.name)
		}
		names[w.name] = true
		if !strings.Contains(string(readme), "`"+w.name+"`") {
			t.Errorf("README.md does not tell of the fault %s", w.name)
		}
	}
}

func TestProgramsThatWereNotBuiltLeaveFaultsOut(t *testing.T) {
	whole := programs{old: lab.Binaries{Agentplane: "old"}, clock: "clock"}
	for _, w := range arsenal {
		if why := w.missing(whole.missing()); why != "" {
			t.Errorf("%s is left out with all programs there: %s", w.name, why)
		}
		none := w.missing(programs{}.missing())
		if needs := w.name == upgrade || slices.Contains(w.needs, needClock); needs != (none != "") {
			t.Errorf("%s without a further program is left out for %q, want that: %v", w.name, none, needs)
		}
	}
}

func TestDroppedPacketsAreSummed(t *testing.T) {
	const listed = `table ip chaos1 {
	chain input { type filter hook input priority filter; policy accept;
		ip saddr { 10.99.0.12, 10.99.0.13 } counter packets 17 bytes 1020 drop
	}
	chain output { type filter hook output priority filter; policy accept;
		ip daddr { 10.99.0.12, 10.99.0.13 } counter packets 4 bytes 240 drop
	}
}`
	if n := sumOf(packetsCounted, listed); n != 21 {
		t.Errorf("%d packets, want 21", n)
	}
}

func TestStrikesTogetherAreSeenOnlyWhenEachIs(t *testing.T) {
	mended := 0
	strikeThat := func(seen error) *strike {
		return &strike{seen: func() error { return seen }, mend: func() error { mended++; return nil }}
	}
	both := together("two", []*strike{strikeThat(nil), strikeThat(errors.New("not yet"))})
	if both.seen() == nil {
		t.Error("seen although one was not")
	}
	if err := both.mend(); err != nil || mended != 2 {
		t.Errorf("%d were mended (%v), want both", mended, err)
	}
}

func TestWatchesAreJudgedByTheirOrder(t *testing.T) {
	message := func(index uint64, epochs ...uint64) *agentplanev1.WatchAgentsResponse {
		r := &agentplanev1.WatchAgentsResponse{Index: index}
		for i, epoch := range epochs {
			r.Agents = append(r.Agents, &agentplanev1.Agent{Id: fmt.Sprint(i), Name: fmt.Sprintf("a%d", i), SessionEpoch: epoch})
		}
		return r
	}
	for name, c := range map[string]struct {
		messages []*agentplanev1.WatchAgentsResponse
		odd      int
	}{
		"all grows, or stays":             {[]*agentplanev1.WatchAgentsResponse{message(5, 0, 3), message(5, 4, 3), message(9, 4, 8)}, 0},
		"an index goes back":              {[]*agentplanev1.WatchAgentsResponse{message(5), message(9), message(8), message(9)}, 1},
		"an epoch falls":                  {[]*agentplanev1.WatchAgentsResponse{message(5, 4, 7), message(6, 5, 6), message(7, 5, 7)}, 1},
		"an epoch falls to none, for two": {[]*agentplanev1.WatchAgentsResponse{message(5, 4, 7), message(6, 0, 0)}, 2},
	} {
		var o watchOrder
		var odd []string
		for _, m := range c.messages {
			odd = append(odd, o.judge(m)...)
		}
		if len(odd) != c.odd {
			t.Errorf("%s: %q, want %d sentences", name, odd, c.odd)
		}
	}
}

// TestKeeperTellsWhatEndsByItself has a process end that nothing was done to, one whose
// disk failed, and one that a fault keeps down.
func TestKeeperTellsWhatEndsByItself(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, []byte("#!/bin/sh\nexit \"${CODE:-3}\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := lab.New(dir, lab.Binaries{Agentplane: program, Agentd: program, Agentctl: program})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for name, c := range map[string]struct {
		excused, held bool
		agent         bool
		code          string
		odd, ended    int
	}{
		"nothing was done to it":                         {code: "3", odd: 1, ended: 1},
		"its disk failed, and it says so":                {code: "3", excused: true, ended: 1},
		"its disk failed, and it ends as by a panic":     {code: "2", excused: true, odd: 1, ended: 1},
		"the disk of an agent failed, and it says so":    {code: "1", excused: true, agent: true, ended: 1},
		"an agent ends as a node does":                   {code: "3", excused: true, agent: true, odd: 1, ended: 1},
		"a fault keeps it down, and nobody may start it": {code: "3", held: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := &world{keeper: &keeper{held: map[string]bool{}, excused: map[string]string{}, ended: map[string]int{}}}
			n := l.Node(strings.ReplaceAll(name, " ", "-"))
			n.Under = []string{"env", "CODE=" + c.code}
			if err := n.Start(); err != nil {
				t.Fatal(err)
			}
			if _, err := n.Await(t.Context()); err != nil {
				t.Fatal(err)
			}
			if c.excused {
				w.keeper.excuse(n.Name, "its disk failed")
			}
			if c.held {
				w.keeper.hold(n.Name)
			}
			w.restart(&n.Process, !c.agent)
			if odd := w.oddities(); len(odd) != c.odd || w.exits() != c.ended {
				t.Errorf("%d ended, of them odd %v; want %d and %d", w.exits(), odd, c.ended, c.odd)
			}
		})
	}
}

func TestTallyCountsRuns(t *testing.T) {
	y := &tally{}
	for _, l := range []record.Line{{Good: 1}, {Void: 1}, {Failed: 1}, {Good: 1}} {
		y.add(l)
	}
	if *y != (tally{good: 2, void: 1, failed: 1}) {
		t.Errorf("%+v, want 2 good, 1 void, 1 failed", *y)
	}
}

func TestDeckDealsNoneThatDoesNotGoWithTheFirst(t *testing.T) {
	killAll, powerAll, full := cardNamed(t, "kill-all"), cardNamed(t, "power-cut-all"), cardNamed(t, "disk-full")
	d := &deck{rng: rand.New(rand.NewPCG(1, 1)), cards: []*weapon{killAll, powerAll, full}, left: []*weapon{killAll, powerAll, full}}
	if w := d.take(killAll); w != nil {
		t.Errorf("%s was dealt with kill-all, with which none of them goes", w.name)
	}
	if w := d.take(nil); w == nil {
		t.Error("nothing is left")
	}
}

func TestANodeIsOnOneDisk(t *testing.T) {
	for _, c := range []struct {
		a, b string
		goes bool
	}{
		{"disk-read", "disk-full", false}, // an ext4 of its own
		{"disk-read", "power-copy", false},
		{"disk-torn", "disk-dead", true}, // on two nodes
		{"disk-torn", "disk-eio", true},  // the tracer takes any
		{"disk-torn", "kill-all", false},
		{"agents-disk-full", "disk-full", true},
		{"agents-disk-full", "disk-read", true},
		{"agents-disk-full", "kill-all", true},
	} {
		a, b := cardNamed(t, c.a), cardNamed(t, c.b)
		if a.goesWith(b) != c.goes || b.goesWith(a) != c.goes {
			t.Errorf("%s with %s: %v and %v, want %v", c.a, c.b, a.goesWith(b), b.goesWith(a), c.goes)
		}
	}
}

func cardNamed(t *testing.T, name string) *weapon {
	t.Helper()
	for _, w := range arsenal {
		if w.name == name {
			return w
		}
	}
	t.Fatalf("there is no fault %s", name)
	return nil
}

// TestProxyKeepsWhatGoesThrough talks through a proxy to a target that answers each byte.
func TestProxyKeepsWhatGoesThrough(t *testing.T) {
	target, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "addresses.json"), fmt.Appendf(nil, `{"listen": %q}`, target.Addr()), 0o600); err != nil {
		t.Fatal(err)
	}
	x, err := newProxy(nil, "127.0.0.1:0", dir)
	if err != nil {
		t.Fatal(err)
	}
	defer x.close()
	c, err := net.Dial("tcp", x.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	far, err := target.Accept()
	if err != nil {
		t.Fatal(err)
	}
	echoed := make(chan error, 1)
	go func() {
		_, err := io.Copy(far, far)
		echoed <- err
	}()
	ask := func(patience time.Duration) (time.Duration, error) {
		began := time.Now()
		if err := c.SetDeadline(began.Add(patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte{1}); err != nil {
			return 0, err
		}
		_, err := io.ReadFull(c, make([]byte, 1))
		return time.Since(began), err
	}
	if _, err := ask(10 * time.Second); err != nil || x.kept.Load() != 0 {
		t.Errorf("%v, %d pieces were kept, want none", err, x.kept.Load())
	}
	x.delay.Store(int64(50 * time.Millisecond))
	if took, err := ask(10 * time.Second); err != nil || took < 100*time.Millisecond || x.kept.Load() != 2 {
		t.Errorf("answered after %v (%v), %d pieces were kept; want 100ms for both ways", took, err, x.kept.Load())
	}
	x.delay.Store(0)
	x.held.Store(true)
	if _, err := ask(200 * time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) || x.kept.Load() != 3 {
		t.Errorf("%v, %d pieces were kept, want no answer while nothing goes through", err, x.kept.Load())
	}
	x.held.Store(false)
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Errorf("what was kept did not come: %v", err)
	}
	// A target that dies is noticed.
	far.Close()
	target.Close()
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the end of the target is not seen: %v", err)
	}
	if err := <-echoed; err == nil {
		t.Error("the target ended in order, and was meant to be cut off")
	}
}
