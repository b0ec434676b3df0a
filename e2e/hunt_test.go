package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/agentplane/agentplane/e2e/record"
)

const (
	// huntLives is within how many lives each mutant must be red.
	huntLives = 500
	// A mutant is tried from huntTries seeds on, the first of which is huntSeed unless the
	// environment says another one.
	huntTries, huntSeed, huntStep = 3, 50_000, 10_000
)

// The packages whose TestLives hunts mutants.
const (
	clusterLives   = "e2e/sim"
	consensusLives = "controlplane/consensus"
)

// hunted are the mutants that lives have to show, and whose lives: those of consensus where
// the table of mutants has a row of them, else those of whole clusters. What the table takes out
// together in these is taken out together here, too, and by itself only where it has a row of that.
func hunted(files map[string]string) map[string]string {
	all := make(map[string]string, len(files))
	for name := range files {
		all[name] = clusterLives
	}
	for _, c := range catches {
		if c.test == "TestLives" && c.with != "" {
			delete(all, c.mutant)
			delete(all, c.with)
		}
	}
	for _, c := range catches {
		if c.test == "TestLives" && (all[c.name()] == "" || c.pkg == consensusLives) {
			all[c.name()] = c.pkg
		}
	}
	return all
}

// TestHunt lives with each mutant until a life is red. It takes most of an hour, so that
// `make hunt` alone asks for it.
func TestHunt(t *testing.T) {
	const asked = "AGENTPLANE_HUNT"
	if os.Getenv(asked) == "" {
		t.Skipf("SKIPPED: %s is not set, as make hunt does: lives with each mutant take long", asked)
	}
	first := uint64(huntSeed)
	if s := os.Getenv("AGENTPLANE_SIM_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("AGENTPLANE_SIM_SEED: %v", err)
		}
		first = n
	}
	programs := make(map[string]string)
	for n, pkg := range []string{clusterLives, consensusLives} {
		programs[pkg] = filepath.Join(t.TempDir(), fmt.Sprintf("lives-%d.test", n))
		cmd := exec.CommandContext(t.Context(), "go", "test", "-c", "-tags", mutantsTag, "-o", programs[pkg], "./"+pkg)
		cmd.Dir = ".."
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build the lives of %s: %v\n%s", pkg, err, out)
		}
	}
	all := hunted(mutantFiles(t))
	for _, name := range slices.Sorted(maps.Keys(all)) {
		t.Run(name, func(t *testing.T) {
			for try := range uint64(huntTries) {
				hunt(t, name, all[name], programs[all[name]], first+try*huntStep)
			}
		})
	}
}

// hunt lives from a seed on until a life is red.
func hunt(t *testing.T, mutant, pkg, program string, seed uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "-test.run", "^TestLives$", "-test.v", "-test.failfast", "-test.timeout", "20m")
	cmd.Dir = filepath.Join("..", filepath.FromSlash(pkg))
	cmd.Env = append(environWithout("AGENTPLANE_"), "TMPDIR="+t.TempDir(), "MUTANT="+mutant, "AGENTPLANE_SIM_SHRINK=0",
		fmt.Sprint("AGENTPLANE_SIM_LIVES=", huntLives), fmt.Sprint("AGENTPLANE_SIM_SEED=", seed))
	began := time.Now()
	out, err := cmd.CombinedOutput()
	lived, red, complaint := huntOf(string(out))
	line := record.Line{Means: "mutant", What: mutant, Seed: seed, Runs: lived, Good: lived, Took: time.Since(began), Notes: []string{"lives=" + pkg}}
	switch {
	case ctx.Err() != nil || strings.Contains(string(out), "\npanic: "):
		t.Fatalf("the lives did not end as they should: %v\n%s", errors.Join(err, ctx.Err()), out)
	case !red:
		t.Errorf("no life of %d from seed %d on is red, the lives have no teeth: %v", lived, seed, err)
	default:
		line.Runs, line.Failed = lived+1, 1
		t.Logf("from seed %d on after %d lives (%s): %s", seed, line.Runs, pkg, complaint)
	}
	if err := record.Append(line); err != nil {
		t.Error(err)
	}
}

// goodLife is the line of a life that was not red, and redLife of one that was.
var (
	goodLife = regexp.MustCompile(`^--- PASS: TestLives/seed(s/|=)\d+ `)
	redLife  = regexp.MustCompile(`^--- FAIL: TestLives/seed(s/|=)\d+ `)
)

// said is a line of a test, or of a judge beside it.
var said = regexp.MustCompile(`^\w+\.go:\d+: `)

// huntOf reads what TestLives prints with -failfast: how many lives were good, whether one was
// red, and what was said of that one.
func huntOf(out string) (lived int, red bool, complaint string) {
	explained := false
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		switch {
		case goodLife.MatchString(line):
			lived++
		case redLife.MatchString(line):
			red = true
		case strings.HasSuffix(line, "is red:"):
			explained = true
		case (explained || said.MatchString(line) && !strings.Contains(line, "SKIPPED")) && complaint == "":
			complaint = line[:min(len(line), 200)]
		}
	}
	return lived, red, complaint
}

func TestHuntReadsWhatLivesPrint(t *testing.T) {
	for name, c := range map[string]struct {
		out       string
		lived     int
		red       bool
		complaint string
	}{
		"of clusters": {"    sim_test.go:64: seed 7 is red:\n        I2: twice\n--- FAIL: TestLives (6s)\n    --- FAIL: TestLives/seeds (0s)\n" +
			"        --- PASS: TestLives/seeds/8 (1s)\n        --- FAIL: TestLives/seeds/7 (1s)\n        --- SKIP: TestLives/seeds/9 (0s)\n", 1, true, "I2: twice"},
		"of consensus": {"    judge.go:52: two nodes\n--- FAIL: TestLives (1s)\n    --- PASS: TestLives/seed=4 (0s)\n    --- FAIL: TestLives/seed=5 (0s)\n", 1, true, "judge.go:52: two nodes"},
		"of good lives that fail in the end": {
			"    sim_test.go:70: 2 lives are void\n--- FAIL: TestLives (1s)\n    --- PASS: TestLives/seed=4 (0s)\n    --- PASS: TestLives/seed=5 (0s)\n",
			2, false, "sim_test.go:70: 2 lives are void",
		},
	} {
		if lived, red, complaint := huntOf(c.out); lived != c.lived || red != c.red || complaint != c.complaint {
			t.Errorf("%s: %d lives, red %v, %q; want %d, %v, %q", name, lived, red, complaint, c.lived, c.red, c.complaint)
		}
	}
}
