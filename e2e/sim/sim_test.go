package sim

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/agentplane/agentplane/e2e/record"
)

func TestMain(m *testing.M) {
	debug.SetGCPercent(400) // a sixth of the time for a few hundred MB
	goleak.VerifyTestMain(m)
}

// shrinkFor bounds in real time how long the faults of a red life are shrunk.
const shrinkFor = time.Minute

// hangs is how long in real time no life takes.
const hangs = 5 * time.Minute

// TestLives runs lives of whole clusters: see the package comment. AGENTPLANE_SIM_LIVES
// says how many, AGENTPLANE_SIM_SEED with which seed to begin, AGENTPLANE_SIM_LOG=info
// prints what nodes and agents log; a failure names its seed, and the faults without
// which it does not fail (AGENTPLANE_SIM_SHRINK=0 spares looking for those), by numbers that
// AGENTPLANE_SIM_FAULTS takes: one life with them alone is no proof and is not recorded.
func TestLives(t *testing.T) {
	lives, first := envNumber(t, "AGENTPLANE_SIM_LIVES", defaultLives), envNumber(t, "AGENTPLANE_SIM_SEED", 1)
	if testing.Short() {
		lives = min(lives, 3)
	}
	choice := os.Getenv("AGENTPLANE_SIM_FAULTS")
	if choice != "" && lives != 1 {
		t.Fatalf("AGENTPLANE_SIM_FAULTS chooses of the faults of one seed, and %d lives are asked for: say AGENTPLANE_SIM_LIVES=1, or make sim N=1", lives)
	}
	var all tally
	began := time.Now()
	t.Run("seeds", func(t *testing.T) {
		for seed := first; seed < first+lives; seed++ {
			t.Run(fmt.Sprint(seed), func(t *testing.T) {
				t.Parallel()
				if failFast() && all.failed() { // a parallel test has begun before it runs
					t.Skip("SKIPPED: another life is red, and -failfast was asked for")
				}
				chosen, err := Choose(seed, choice)
				if err != nil {
					t.Fatal(err)
				}
				out := live(t, seed, chosen)
				all.add(out)
				if len(out.Red) > 0 {
					explain(t, out)
				}
			})
		}
	})
	t.Logf("%d lives in %v: %s", all.good+all.void+all.red, time.Since(began).Round(time.Second), &all)
	if choice != "" {
		return
	}
	if all.good == 0 || all.void > all.good/2+1 {
		t.Errorf("%d lives are void and %d good: nothing is proved", all.void, all.good)
	}
	if err := record.Append(all.line(first, time.Since(began))); err != nil {
		t.Error(err)
	}
}

func failFast() bool {
	f := flag.Lookup("test.failfast")
	return f != nil && f.Value.String() == "true"
}

// live lives one life in a bubble of its own.
func live(t *testing.T, seed uint64, chosen []int) (out *Outcome) {
	t.Helper()
	dir, bubble := home(t), ""
	defer func() {
		if p := recover(); p != nil { // "blocked goroutines remain", for one
			if out == nil {
				panic(p)
			}
			out.Red = append(out.Red, fmt.Sprintf("I14: %v\n%s", p, leftovers(bubble)))
		}
	}()
	// A goroutine that waits for a mutex keeps the bubble's clock from moving, if whoever
	// holds it waits for time.
	hung := time.AfterFunc(hangs, func() {
		debug.SetTraceback("all")
		panic(fmt.Sprintf("seed %d hangs: see who waits for a mutex", seed))
	})
	defer hung.Stop()
	synctest.Test(t, func(*testing.T) {
		bubble = bubbleOf(string(debug.Stack()))
		out = Live(seed, dir, chosen)
	})
	return out
}

// bubbleOf is the number of the bubble that the head of a goroutine's stack names.
func bubbleOf(stack string) string {
	head, _, _ := strings.Cut(stack, "\n")
	_, rest, _ := strings.Cut(head, "synctest bubble ")
	number, _, _ := strings.Cut(rest, "]")
	return number
}

// leftovers are the stacks of the goroutines in a bubble.
func leftovers(bubble string) string {
	stacks := make([]byte, 64<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	var left []string
	for _, one := range strings.Split(string(stacks), "\n\n") {
		if bubbleOf(one) == bubble {
			left = append(left, one)
		}
	}
	return strings.Join(left[:min(len(left), 10)], "\n\n")
}

// explain shows a red life and the fewest faults that make it red.
func explain(t *testing.T, out *Outcome) {
	t.Helper()
	began, least := time.Now(), out
	patience := shrinkFor
	if os.Getenv("AGENTPLANE_SIM_SHRINK") == "0" {
		patience = 0
	}
	Shrink(out.Chosen, func(chosen []int) bool {
		again := live(t, out.Seed, chosen)
		if len(again.Red) > 0 {
			least = again
		}
		return len(again.Red) > 0
	}, func() bool { return time.Since(began) >= patience })
	t.Errorf("seed %d is red:\n%s\nwith these of its %d faults it still is:\n%s\nas follows:\n%s\nand its trace is\n%s\nrun again with make sim SEED=%d N=1 FAULTS=%s, or with all faults without FAULTS",
		out.Seed, strings.Join(out.Red, "\n"), len(out.Chosen), shown(least.Faults, least.Chosen), strings.Join(least.Red, "\n"), least.Trace, out.Seed, Choice(least.Chosen))
}

// tally sums lives up.
type tally struct {
	mu                    sync.Mutex // guards all
	good, void, red       int
	faults                int
	writes, reads, starts int
	shown                 int // by watches
	virtual, healed       time.Duration
	slowest               time.Duration // to heal
	effects, ends         map[string]int
	kinds                 map[string]int // likewise, but only of lives that are not void
}

// failed says whether a life was red.
func (a *tally) failed() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.red > 0
}

func (a *tally) add(o *Outcome) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case len(o.Red) > 0:
		a.red++
	case o.Void != "":
		a.void++
	default:
		a.good++
	}
	if a.effects == nil {
		a.effects, a.ends, a.kinds = make(map[string]int), make(map[string]int), make(map[string]int)
	}
	for k, n := range o.Effects {
		a.effects[k] += n
		a.faults += n
		if len(o.Red) > 0 || o.Void == "" {
			a.kinds[k] += n
		}
	}
	for k, n := range o.Ends {
		a.ends[k] += n
	}
	a.writes, a.reads, a.starts, a.shown = a.writes+o.Writes, a.reads+o.Reads, a.starts+o.Starts, a.shown+o.Shown
	a.virtual, a.healed, a.slowest = a.virtual+o.Virtual, a.healed+o.Healed, max(a.slowest, o.Healed)
}

// line is what the record keeps.
func (a *tally) line(first uint64, took time.Duration) record.Line {
	l := record.Line{Means: "lives", What: "-", Seed: first, Runs: a.good + a.void + a.red, Good: a.good, Void: a.void, Failed: a.red, Took: took}
	for _, n := range []struct {
		name  string
		count int
	}{{"faults", a.faults}, {"writes", a.writes}, {"reads", a.reads}, {"shown", a.shown}, {"starts", a.starts}} {
		l.Notes = append(l.Notes, fmt.Sprintf("%s=%.1f", n.name, float64(n.count)/float64(max(l.Runs, 1))))
	}
	var kinds []string
	for _, k := range slices.Sorted(maps.Keys(a.kinds)) {
		kinds = append(kinds, fmt.Sprintf("%s:%d", strings.ReplaceAll(k, " ", "-"), a.kinds[k]))
	}
	if len(kinds) > 0 {
		l.Notes = append(l.Notes, "kinds="+strings.Join(kinds, ","))
	}
	return l
}

func (a *tally) String() string {
	n := max(a.good+a.void+a.red, 1)
	return fmt.Sprintf("%d good, %d void, %d red; in the mean %d faults that took effect, %d acknowledged writes, %d reads, %d messages of watches, %d starts, "+
		"%v of virtual time, live again after %v (at most %v)\nfaults: %s\nends: %s%s",
		a.good, a.void, a.red, a.faults/n, a.writes/n, a.reads/n, a.shown/n, a.starts/n,
		(a.virtual / time.Duration(n)).Round(time.Second), (a.healed / time.Duration(n)).Round(100*time.Millisecond), a.slowest.Round(100*time.Millisecond),
		counts(a.effects), counts(a.ends), stepMeans(a.ends))
}

func counts(m map[string]int) string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		all = append(all, fmt.Sprintf("%s %d", k, m[k]))
	}
	return strings.Join(all, ", ")
}

// home is a directory in memory where there is one: the small files are real, and
// nothing is learned from waiting for a disk.
func home(t *testing.T) string {
	t.Helper()
	base := ""
	if s, err := os.Stat("/dev/shm"); err == nil && s.IsDir() {
		base = "/dev/shm"
	}
	dir, err := os.MkdirTemp(base, "agentplane-sim-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func envNumber(t *testing.T, name string, def uint64) uint64 {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return def
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}
