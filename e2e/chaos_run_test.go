package e2e

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/agentplane/agentplane/e2e/record"
)

// The environment of TestChaos, which make chaos sets. Runs or hours ask for it, the
// rest narrows it: faults by name with commas between, or a pair as A+B.
const (
	chaosRunsVar   = "AGENTPLANE_CHAOS_RUNS"
	chaosHoursVar  = "AGENTPLANE_CHAOS_HOURS"
	chaosSeedVar   = "AGENTPLANE_CHAOS_SEED"
	chaosFaultVar  = "AGENTPLANE_CHAOS_FAULT"
	chaosNodesVar  = "AGENTPLANE_CHAOS_NODES"
	chaosAgentsVar = "AGENTPLANE_CHAOS_AGENTS"
	chaosOldVar    = "AGENTPLANE_CHAOS_OLD" // 0 or 1: whether versions are mixed
)

const (
	// runLoad is how long a run is under load, at least.
	runLoad = time.Minute
	// runLeast is how many commands it acknowledges, at least.
	runLeast = 100
)

// shape is what one run is made of. It follows from the seed.
type shape struct {
	seed   uint64
	faults []*weapon
	nodes  int
	agents int
	old    bool // some nodes and agents are of an older version
}

func (s shape) String() string {
	text := fmt.Sprintf("%s/%dn/%da", strings.Join(weaponNames(s.faults), "+"), s.nodes, s.agents)
	if s.old {
		text += "/mixed"
	}
	return text
}

// again is what to type to have the run once more.
func (s shape) again() string {
	old := 0
	if s.old {
		old = 1
	}
	return fmt.Sprintf("make chaos RUNS=1 SEED=%d FAULT=%s NODES=%d AGENTS=%d OLD=%d",
		s.seed, strings.Join(weaponNames(s.faults), "+"), s.nodes, s.agents, old)
}

// needs says whether one of its faults needs the means.
func (s shape) needs(m string) bool {
	return slices.ContainsFunc(s.faults, func(w *weapon) bool { return slices.Contains(w.needs, m) })
}

// shapeOf draws everything but the faults.
func shapeOf(t *testing.T, seed uint64, faults []*weapon) shape {
	rng := rand.New(rand.NewPCG(seed, 1))
	return shape{
		seed: seed, faults: faults,
		nodes:  numberOr(t, chaosNodesVar, []int{3, 3, 5}[rng.IntN(3)]),
		agents: numberOr(t, chaosAgentsVar, []int{50, 50, 50, 50, 50, 100, 100, 200}[rng.IntN(8)]),
		old:    numberOr(t, chaosOldVar, rng.IntN(2)) > 0,
	}
}

// perHost is how many agents share a host of the network, and are cut off with each other: the
// kernel's table of neighbours, which all namespaces share, has room for few hundred hosts.
func (s shape) perHost() int { return 1 + 4*(s.agents/300) }

// gateBound is within what the cluster must be whole again when nothing is broken: the
// command for all starts a program for each agent. Agents whose disks have failed open their journals late, and
// then begin at once what has waited for them.
func (s shape) gateBound() time.Duration {
	bound := time.Minute
	if s.onFuse(false) {
		bound *= 2
	}
	return bound + time.Duration(max(s.agents-50, 0))*300*time.Millisecond
}

func numberOr(t *testing.T, variable string, otherwise int) int {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n
}

// deck deals faults so that each comes about as often as any other: it is shuffled anew
// whenever it has been dealt.
type deck struct {
	rng   *rand.Rand
	cards []*weapon
	left  []*weapon
}

// deal answers one fault, or two times out of three two that can be done together.
func (d *deck) deal() []*weapon {
	if d.rng.IntN(3) == 0 || len(d.cards) == 1 {
		return []*weapon{d.take(nil)}
	}
	first := d.take(nil)
	second := d.take(first)
	if second == nil {
		return []*weapon{first}
	}
	return []*weapon{first, second}
}

// take takes the next one that goes with the other, and leaves the rest in order.
func (d *deck) take(other *weapon) *weapon {
	fresh := slices.Clone(d.cards)
	d.rng.Shuffle(len(fresh), func(i, j int) { fresh[i], fresh[j] = fresh[j], fresh[i] })
	left := append(slices.Clone(d.left), fresh...)
	i := slices.IndexFunc(left, func(w *weapon) bool { return other == nil || other.goesWith(w) })
	if i < 0 {
		return nil
	}
	taken := left[i]
	if i < len(d.left) {
		left = left[:len(d.left)]
	}
	d.left = slices.Delete(left, i, i+1)
	return taken
}

// dealer is what deals the faults of a series of runs, from those that are asked for
// and can be done here. It names those that cannot, and why.
func dealer(t *testing.T, seed uint64, missing map[string]string) func() []*weapon {
	t.Helper()
	asked := os.Getenv(chaosFaultVar)
	if asked == "" {
		asked = strings.Join(weaponNames(arsenal), ",")
	}
	d := &deck{rng: rand.New(rand.NewPCG(seed, 2))}
	var lacks []string
	for name := range strings.SplitSeq(asked, ",") {
		var set []*weapon
		for part := range strings.SplitSeq(name, "+") {
			i := slices.IndexFunc(arsenal, func(w *weapon) bool { return w.name == part })
			if i < 0 {
				t.Fatalf("there is no fault %q; there are %s", part, strings.Join(weaponNames(arsenal), ", "))
			}
			set = append(set, arsenal[i])
		}
		for _, w := range slices.Clone(set) {
			if why := w.missing(missing); why != "" {
				t.Logf("SKIPPED: fault %s: %s", w.name, why)
				lacks = append(lacks, w.name+": "+why)
				set = nil
			}
		}
		if len(set) > 1 { // this pair, and no other
			return func() []*weapon { return set }
		}
		d.cards = append(d.cards, set...)
	}
	if len(d.cards) == 0 {
		t.Skipf("SKIPPED: none of the faults that are asked for can be done on this machine: %s", strings.Join(lacks, "; "))
	}
	return d.deal
}

// TestChaos breaks clusters of processes under load, each run with one or two faults
// again and again for a minute or more, and judges what clients, cluster and programs
// say when it is over, as TestAnyNodeAnyDeath does. A run is void when too little was
// acknowledged, or when one of its faults was never seen to have an effect.
func TestChaos(t *testing.T) {
	runs, hours := os.Getenv(chaosRunsVar), os.Getenv(chaosHoursVar)
	if runs == "" && hours == "" {
		t.Skipf("SKIPPED: neither %s nor %s is set, as make chaos does: a run takes a minute and more", chaosRunsVar, chaosHoursVar)
	}
	seed := rand.Uint64N(1 << 32)
	if text := os.Getenv(chaosSeedVar); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("%s: %v", chaosSeedVar, err)
		}
	}
	most, until := numberOr(t, chaosRunsVar, 1<<30), time.Now().Add(1e6*time.Hour)
	if hours != "" {
		h, err := strconv.ParseFloat(hours, 64)
		if err != nil {
			t.Fatalf("%s: %v", chaosHoursVar, err)
		}
		until = time.Now().Add(time.Duration(h * float64(time.Hour)))
	}
	missing := missingMeans()
	b := chaosPrograms(t)
	maps.Copy(missing, b.missing())
	deal := dealer(t, seed, missing)
	t.Logf("%s=%d", chaosSeedVar, seed)
	if missing[needNamespaces] == "" && !insideNamespaces() {
		enterNamespaces(t, "^TestChaos$", fmt.Sprintf("%s=%d", chaosSeedVar, seed))
		return
	}
	total := make(map[string]*tally)
	for n := 0; n < most && time.Now().Before(until); n++ {
		s := shapeOf(t, seed+uint64(n), deal())
		if s.old && b.old.Agentplane == "" {
			s.old = false
		}
		line := record.Line{Means: "chaos", What: s.String(), Seed: s.seed, Runs: 1}
		t.Run(fmt.Sprintf("%d/%s", s.seed, strings.ReplaceAll(s.String(), "/", "_")), func(t *testing.T) {
			began := time.Now()
			defer func() {
				line.Took = time.Since(began)
				if t.Failed() {
					line.Failed = 1
				} else if line.Void == 0 {
					line.Good = 1
				}
				if err := record.Append(line); err != nil {
					t.Error(err)
				}
			}()
			void, notes := chaosRun(t, s, b, missing)
			line.Notes = notes
			if len(void) > 0 && !t.Failed() {
				line.Void = 1
				t.Skipf("VOID: %s", strings.Join(void, "; "))
			}
		})
		for _, w := range s.faults {
			sum := total[w.name]
			if sum == nil {
				sum = &tally{}
				total[w.name] = sum
			}
			sum.add(line)
		}
	}
	t.Logf("runs of each fault, alone or in a pair:\n%s", tallies(total))
	for _, w := range arsenal {
		if why := w.missing(missing); why != "" {
			t.Logf("SKIPPED: fault %s cannot be done here: %s", w.name, why)
		}
	}
}

// tally counts runs.
type tally struct{ good, void, failed int }

func (y *tally) add(l record.Line) {
	y.good, y.void, y.failed = y.good+l.Good, y.void+l.Void, y.failed+l.Failed
}

func tallies(of map[string]*tally) string {
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(of)) {
		fmt.Fprintf(&text, "  %-16s %d good, %d void, %d failed\n", name, of[name].good, of[name].void, of[name].failed)
	}
	return text.String()
}

// chaosRun is one run. It answers what makes it void, and figures worth keeping.
func chaosRun(t *testing.T, s shape, b programs, missing map[string]string) (void, notes []string) {
	t.Log(s.again())
	w := newWorld(t, s, b, missing)
	w.gate(t, "before the first fault")
	w.s.begin(s.seed, chaosRunClients)
	p := newParts(t, w.s, s.seed)
	p.begin(s.seed)
	r := w.record(t)
	stop := func() { w.s.finish() }
	defer func() { stop() }()
	began := time.Now()
	for round := 1; time.Since(began) < runLoad; round++ {
		w.round(t, round)
		w.gate(t, fmt.Sprintf("after round %d", round))
		w.keeper.forgive()
	}
	load := time.Since(began)
	w.s.finish()
	stop = func() {}
	p.vows(t, w.b.client, w.rng)

	h := history{submissions: w.s.submissions, deaths: w.deaths, ailments: w.ailing, least: runLeast}
	h.oddities = slices.Concat(w.s.oddities, w.oddities())
	seen := 0
	for _, f := range s.faults {
		h.faults = append(h.faults, fault{kind: f.name, live: w.seen[f.name] > 0})
		seen += w.seen[f.name]
	}
	if what := w.linear(t, r); what != "" {
		void = append(void, what)
	}
	readHistory(t, w.s, &h)
	w.agree(t)
	hashes := w.sameState(t)
	for _, what := range w.levels.judge(len(h.submissions)) {
		t.Error(what)
	}
	for id := range r.content {
		delete(h.listed, id) // they were judged by themselves
	}
	for _, what := range judge(h) {
		if strings.HasPrefix(what, "void: ") {
			void = append(void, strings.TrimPrefix(what, "void: "))
			continue
		}
		t.Error(what)
	}
	var counts partCounts
	for _, a := range accounts(h, p.asked) {
		for _, what := range a.judge() {
			t.Errorf("%s; its programs: %+v", what, a.deeds)
		}
		counts.add(a)
	}
	if what := counts.short(leastParts); what != "" {
		void = append(void, what)
	}
	if w.s.watched.Load() == 0 {
		void = append(void, "no watch told of the health of agents")
	}
	told := make(map[outcome]int)
	for _, sub := range h.submissions {
		if told[sub.outcome]++; sub.outcome != acknowledged && told[sub.outcome] <= 3 {
			t.Logf("%s, a submission for example: %s", []string{refused: "not done", unknown: "unknown"}[sub.outcome], strings.TrimSpace(sub.problem))
		}
	}
	notes = []string{
		fmt.Sprintf("load=%ds", int(load.Seconds())),
		fmt.Sprintf("faults=%d", w.struck), fmt.Sprintf("seen=%d", seen),
		fmt.Sprintf("acks=%d", told[acknowledged]), fmt.Sprintf("unknown=%d", told[unknown]), fmt.Sprintf("refused=%d", told[refused]),
		fmt.Sprintf("starts=%d", len(h.starts)), fmt.Sprintf("slowest=%.1fs", slowestAck(h).Seconds()),
		fmt.Sprintf("whole=%.1fs", w.slow.Seconds()), fmt.Sprintf("watched=%d", w.s.watched.Load()),
		fmt.Sprintf("linear=%d", len(r.ops)+len(w.locks.ops)), fmt.Sprintf("hashes=%d", hashes),
	}
	notes = append(notes, w.levels.notes()...)
	notes = append(notes, counts.notes()...)
	if w.exits() > 0 {
		notes = append(notes, fmt.Sprintf("exits=%d", w.exits()))
	}
	t.Logf("%s: %s", s, strings.Join(notes, " "))
	return void, notes
}

func slowestAck(h history) time.Duration {
	slowest := time.Duration(0)
	for _, s := range h.submissions {
		if s.outcome == acknowledged {
			slowest = max(slowest, s.ended.Sub(s.began))
		}
	}
	return slowest
}

func weaponNames(of []*weapon) []string {
	var names []string
	for _, w := range of {
		names = append(names, w.name)
	}
	return names
}

func TestDeckDealsEachFaultAsOften(t *testing.T) {
	d := &deck{rng: rand.New(rand.NewPCG(1, 2)), cards: arsenal}
	dealt := make(map[string]int)
	for range 50 * len(arsenal) {
		set := d.deal()
		if len(set) == 2 && (set[0] == set[1] || !set[0].goesWith(set[1])) {
			t.Fatalf("%v were dealt together", weaponNames(set))
		}
		for _, w := range set {
			dealt[w.name]++
		}
	}
	counts := slices.Collect(maps.Values(dealt))
	if len(counts) != len(arsenal) || slices.Max(counts)-slices.Min(counts) > 2 {
		t.Errorf("dealt %v, want each about as often", dealt)
	}
}

func TestShapeFollowsFromTheSeed(t *testing.T) {
	for seed := range uint64(50) {
		a, b := shapeOf(t, seed, arsenal[:2]), shapeOf(t, seed, arsenal[:2])
		if a.String() != b.String() {
			t.Errorf("seed %d is %v and %v", seed, a, b)
		}
		// What a run says to type is the same run.
		for word := range strings.FieldsSeq(a.again()) {
			name, value, _ := strings.Cut(word, "=")
			if name == "NODES" || name == "AGENTS" || name == "OLD" {
				t.Setenv("AGENTPLANE_CHAOS_"+name, value)
			}
		}
		if c := shapeOf(t, seed, arsenal[:2]); c.String() != a.String() {
			t.Errorf("seed %d is %v, and %v when it is typed again", seed, a, c)
		}
		for _, variable := range []string{chaosNodesVar, chaosAgentsVar, chaosOldVar} {
			t.Setenv(variable, "")
		}
	}
}
